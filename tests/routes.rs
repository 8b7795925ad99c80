//! Requests that a rule answers, beside those that the hub answers itself.

use std::collections::BTreeSet;

use aether::edges::routes::OWN_PATHS;

use crate::common::*;

const RULES: &str = r#"
local members = aether.shared("members")

aether.http.route("PUT", "/rooms/{room}/members/{user}", function(req)
	members:set({ req.params.room, req.params.user }, req:json() or true)
	return { status = 201, json = { room = req.params.room } }
end)
aether.http.route("GET", "/whoami", { auth = "connect" }, function(req)
	return { json = { user = req.user, attrs = type(req.attrs), ip = req.ip } }
end)
aether.http.route("POST", "/echo/*", { auth = "none" }, function(req)
	return { headers = { ["content-type"] = req:header("content-type") or "text/plain" }, body = req:buffer() }
end)
aether.http.route("GET", "/broken", { auth = "none" }, function(req) return nil + 1 end)
aether.http.route("GET", "/denied", { auth = "none" }, function(req) return aether.deny("closed", "come tomorrow") end)
"#;

#[tokio::test]
async fn a_rule_answers_requests_as_it_says_who_may_make_them() {
    let hub = TestHub::plan().rules(RULES).start();
    let ann = hub.token_for("ann", &["room.*"], &[]);
    // A plugin's administration, in one option that need not even be written.
    let path = "/rooms/7/members/b%20b";
    let put = async |mut http: Http| http.send("PUT", path, &[], b"{}").await;
    let answer = put(hub.http().await).await;
    assert_eq!((answer.status, answer.json()), (201, json!({"room": "7"})));
    assert_eq!(answer.header("x-content-type-options"), Some("nosniff"));
    assert_eq!(put(hub.http_as(None).await).await.error().0, 401);
    assert_eq!(put(hub.http_as(Some(&ann)).await).await.error(), (403, 40302));

    let mut ann = hub.http_as(Some(&ann)).await;
    assert_eq!(ann.get("/whoami").await.ok(), json!({"user": "ann", "attrs": "table", "ip": "127.0.0.1"}));
    let mut nobody = hub.http_as(None).await;
    assert_eq!(nobody.get("/whoami").await.error().0, 401);

    let bytes: Vec<u8> = (0..=255).collect();
    let echo = nobody.send("POST", "/echo/a/b", &[("content-type", "image/png")], &bytes).await;
    assert_eq!((echo.status, echo.header("content-type"), &echo.body), (200, Some("image/png"), &bytes));
}

#[tokio::test]
async fn what_goes_wrong_is_answered_in_the_hubs_own_envelope() {
    let hub = TestHub::plan()
        .rules(RULES)
        .with(|config| config.server.max_payload_size = aether::config::Size::mib(1))
        .start();
    let mut http = hub.http_as(None).await;
    let broken = http.get("/broken").await;
    assert_eq!(broken.error(), (500, 50001));
    let error = &broken.json()["error"];
    assert_eq!((error["reason"].as_str(), error["decision"].as_str().map(str::len)), (Some("rule_error"), Some(8)));
    assert!(!broken.text().contains("arithmetic") && !broken.text().contains(".lua"), "{}", broken.text());

    let denied = http.get("/denied").await;
    assert_eq!(denied.error(), (403, 40301));
    assert_eq!(
        (&denied.json()["error"]["reason"], &denied.json()["error"]["message"]),
        (&json!("closed"), &json!("come tomorrow"))
    );

    let method = http.send("DELETE", "/echo/x", &[], b"").await;
    assert_eq!((method.error(), method.header("allow")), ((405, 40500), Some("POST")));
    assert_eq!(http.get("/echo").await.error(), (404, 40400));
    assert_eq!(http.send("DELETE", "/healthz", &[], b"").await.error(), (405, 40500));
    assert_eq!(http.send("POST", "/echo/x", &[], &vec![0; (1 << 20) + 1]).await.error(), (413, 41301));
}

#[tokio::test]
async fn a_head_request_gets_the_head_of_a_get_route() {
    let hub = TestHub::plan()
        .rules("aether.http.route('GET', '/x', {auth='none'}, function() return {body='12345'} end)")
        .start();
    let mut http = hub.http_as(None).await;
    let answer = http.raw(b"HEAD /x HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").await;
    // The length is announced and no byte of the body comes.
    assert!(answer.is_err_and(|error| error.kind() == std::io::ErrorKind::UnexpectedEof));
    assert_eq!(hub.http_as(None).await.get("/x").await.text(), "12345");
}

#[tokio::test]
async fn with_a_listener_for_the_operator_admin_routes_are_there_alone() {
    let hub = TestHub::plan()
        .toml("[server]\nadmin_addr = 0")
        .rules(
            "aether.http.route('GET', '/mine', function() return {} end)
             aether.http.route('GET', '/all', { auth = 'none' }, function() return {} end)",
        )
        .start();
    let mut public = hub.http().await;
    assert_eq!((public.get("/mine").await.status, public.get("/all").await.status), (404, 200));
    let mut own = Http::connect(hub.admin_address, Some(hub.keys.admin_key())).await;
    assert_eq!((own.get("/mine").await.status, own.get("/all").await.status), (200, 200));
}

#[test]
fn every_path_of_the_hub_is_kept_from_plugins() {
    let source = std::fs::read_to_string(repository().join("src/edges/http.rs")).unwrap();
    let paths = source.split("warp::path!(").skip(1).map(|rest| {
        let parts = rest.split(')').next().unwrap().split(" / ");
        parts.map(|part| format!("/{}", part.trim_matches('"'))).collect::<String>().replace("String", "{verb}")
    });
    let mut served: BTreeSet<String> = paths.collect();
    served.insert("/".into()); // the console's
    assert_eq!(served, OWN_PATHS.iter().map(|path| path.to_string()).collect());
}
