//! A credential in a cookie: it works wherever a browser sends it, and a page from elsewhere cannot borrow it.

use crate::common::*;

/// A session that is known beforehand, and what everybody may.
const RULES: &str = r#"
local known = { ["s3ss10n-of-ann"] = "ann" }

aether.on.connect(function(req)
	local user = known[req:cookie("sid") or ""]
	if not user then return nil end
	return aether.allow({ user = user, grants = {
		subscribe = { aether.pattern("user.{}.*", user) },
		publish = { aether.pattern("user.{}.*", user) },
		history = { aether.pattern("user.{}.*", user) },
	} })
end)

aether.on.connect(function(req)
	if not req:bearer() then return aether.allow() end
	return nil
end)

aether.on.publish("guestbook", function() return true end)
"#;

const ANN: (&str, &str) = ("cookie", "theme=dark; sid=s3ss10n-of-ann; x=1");
const MESSAGE: &[u8] = br#"{"channel":"user.ann.notes","payload":1}"#;

fn hub(more: &str) -> TestHub {
    TestHub::plan().toml(more).rules(RULES).start()
}

async fn publish(hub: &TestHub, headers: &[(&str, &str)], body: &[u8]) -> Response {
    hub.http_as(None).await.send("POST", "/api/v1/publish", headers, body).await
}

#[tokio::test]
async fn a_cookie_is_a_credential_on_every_transport() {
    let hub = hub("");
    let mut ws = WsClient::open(hub.address, "/ws", &[ANN], None).await.unwrap();
    ws.subscribe(&["user.ann.notes"]).await;
    let sse = SseClient::open_with(hub.address, "/sse?channel=user.ann.notes", &[ANN], None).await;
    let mut sse = sse.unwrap_or_else(|refused| panic!("{refused:?}"));
    sse.expect("subscribed").await;
    let mut http = hub.http_as(None).await;
    let place = http.send("GET", "/poll?channel=user.ann.notes", &[ANN], b"").await.ok();
    assert_eq!(publish(&hub, &[ANN], MESSAGE).await.ok()["seq_id"], 1);
    ws.read_to("user.ann.notes", 1).await.assert_exactly(1, 1);
    sse.read_to("user.ann.notes", 1).await.assert_exactly(1, 1);
    let next = format!("/poll?channel=user.ann.notes&cursor={}", place["cursor"].as_str().unwrap());
    let polled = http.send("GET", &next, &[ANN], b"").await.ok();
    assert_eq!(polled["messages"][0]["payload"], 1);
    let read = http.send("GET", "/api/v1/history?channel=user.ann.notes", &[ANN], b"").await.ok();
    assert_eq!(read["last_seq"], 1);

    // Who it is decides, as with any credential: known and not allowed is 403, not known is 401.
    let other = br#"{"channel":"user.bob.notes","payload":1}"#;
    assert_eq!(publish(&hub, &[ANN], other).await.error(), (403, 40301));
    for nobody in ["sid=guessed", "sidx=s3ss10n-of-ann", "theme=dark", "SID=s3ss10n-of-ann", ""] {
        assert_eq!(publish(&hub, &[("cookie", nobody)], MESSAGE).await.error(), (401, 40101), "{nobody}");
    }
}

#[tokio::test]
async fn a_page_from_elsewhere_cannot_act_in_the_name_of_who_looks_at_it() {
    let hub = hub("[websocket]\nallowed_origins = [\"https://app.example\"]");
    let own = format!("http://{}", hub.address);
    for (n, origin) in (1..).zip([own.as_str(), "https://app.example"]) {
        assert_eq!(publish(&hub, &[ANN, ("origin", origin)], MESSAGE).await.ok()["seq_id"], n, "{origin}");
    }
    for origin in ["https://evil.example", "null", "http://127.0.0.1:1", "https://app.example.evil.example"] {
        let from = ("origin", origin);
        // What a form or a `fetch` without preflight can send.
        let form = ("content-type", "text/plain");
        assert_eq!(publish(&hub, &[ANN, from, form], MESSAGE).await.error(), (403, 40303), "{origin}");
        for (method, path) in [
            ("POST", "/api/v1/publish/batch"),
            ("POST", "/api/v1/publish?channel=user.ann.notes"),
            ("GET", "/api/v1/history?channel=user.ann.notes"),
            ("DELETE", "/api/v1/history?channel=user.ann.notes"),
            ("POST", "/api/v1/disconnect"),
            ("GET", "/poll?channel=user.ann.notes"),
        ] {
            let answer = hub.http_as(None).await.send(method, path, &[ANN, from], MESSAGE).await;
            assert_eq!(answer.error(), (403, 40303), "{method} {path} from {origin}");
        }
        assert_eq!(WsClient::refusal(hub.address, "/ws", &[ANN, ("origin", origin)]).await.0, 403, "{origin}");
        // A key in the header is not sent by a browser on its own, and back ends may say what they like.
        let key = hub.keys.admin_key();
        let mut back_end = Http::connect(hub.address, Some(key)).await;
        back_end.send("POST", "/api/v1/publish", &[from], br#"{"channel":"a","payload":1}"#).await.ok();
    }
    assert_eq!(hub.history("channel=user.ann.notes").await["last_seq"], 2);
}

#[tokio::test]
async fn where_every_page_may_connect_it_does_so_without_the_cookies() {
    let hub = hub("[websocket]\nallowed_origins = [\"*\"]");
    let evil = ("origin", "https://evil.example");
    assert_eq!(publish(&hub, &[ANN, evil], MESSAGE).await.error(), (401, 40101));
    publish(&hub, &[ANN, evil], br#"{"channel":"guestbook","payload":1}"#).await.ok();
    let mut ws = WsClient::open(hub.address, "/ws", &[ANN, evil], None).await.unwrap();
    ws.send(json!({"type": "subscribe", "channels": ["user.ann.notes"]})).await;
    assert_eq!(ws.expect("error").await["code"], 40301);
    // The hub's own page still has them.
    let own = format!("http://{}", hub.address);
    publish(&hub, &[ANN, ("origin", &own)], MESSAGE).await.ok();
}

/// Says no to everybody and breaks on what it was shown, but for one cookie and one key.
const BREAKS: &str = r#"
aether.on.connect(function(req)
	if req:cookie("sid") == "sekret-good-cookie" then return aether.allow({ user = "ann", grants = { subscribe = { "c" } } }) end
	if req:bearer() == "sekret-good-key" then return aether.allow({ user = "shop", ttl = "1m", grants = { publish = { "c" } } }) end
	error(`cannot read {req:bearer()} {req:cookie("sid")} {req:header("authorization")} {req.query.token}`)
end)
aether.on.refresh(function(s, token) error("not " .. token) end)
"#;

/// Everything that can be shown, wherever it can stand.
async fn show_bad_credentials(hub: &Spawned) {
    let upgrade = [
        ("connection", "upgrade"),
        ("upgrade", "websocket"),
        ("sec-websocket-version", "13"),
        ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
    ];
    for path in ["/ws", "/sse", "/poll", "/api/v1/history", "/nowhere"] {
        for shown in [
            ("authorization", "Bearer sekret-header"),
            ("authorization", "Basic sekret-basic"),
            ("sec-websocket-protocol", "aether.v1, bearer.sekret-protocol"),
            ("cookie", "theme=dark; sid=sekret-cookie"),
            ("x-nothing", ""),
        ] {
            let headers = [&[shown][..], if path == "/ws" { &upgrade } else { &[] }].concat();
            for query in ["channel=c&token=sekret-query", "channel=c"] {
                let mut http = Http::connect(hub.address, None).await;
                let answer = http.send("GET", &format!("{path}?{query}"), &headers, b"").await;
                assert!(
                    answer.status >= 400 || !query.contains("token"),
                    "{path} {shown:?} {query}: {}",
                    answer.text()
                );
            }
        }
    }
}

#[tokio::test]
async fn no_credential_is_ever_logged_wherever_it_stood_and_whoever_broke_on_it() {
    // Once with the shipped plugins, once with rules that break on each of them.
    for plugins in ["", "plugin = []\n"] {
        let dir = TempDir::new();
        dir.write("aether.toml", &format!("{plugins}[log]\nlevel = \"trace\"\n"));
        if !plugins.is_empty() {
            dir.write("scripts/rules.lua", BREAKS);
        }
        let mut hub = Spawned::start(dir.path());
        let token = hub.token(&["*"]);
        let (mut ws, key) = if plugins.is_empty() {
            (WsClient::connect(hub.address, Some(&token)).await, hub.admin_key.clone())
        } else {
            let cookie = [("cookie", "sid=sekret-good-cookie")];
            (WsClient::open(hub.address, "/ws", &cookie, None).await.unwrap(), "sekret-good-key".to_owned())
        };
        ws.subscribe(&["c"]).await;
        ws.send(json!({"type": "refresh", "token": "sekret-refresh"})).await;
        ws.expect("error").await;
        let mut publisher = Http::connect(hub.address, Some(&key)).await;
        publisher.post("/api/v1/publish", r#"{"channel":"c","payload":1}"#).await.ok();
        ws.expect("message").await;
        // Last, because rules that break so often rest for a while.
        show_bad_credentials(&hub).await;
        hub.signal("TERM");
        hub.wait().await;
        let log = hub.stderr();
        for secret in ["sekret-", &token, &hub.admin_key, &hub.signing_key] {
            let told = log.lines().find(|line| line.contains(secret));
            assert_eq!(told, None, "{secret}");
        }
        if plugins.is_empty() {
            assert!(log.contains("bad_key"), "{log}");
        } else {
            assert!(log.contains("cannot read <secret>") && log.contains("not <secret>"), "{log}");
        }
    }
}
