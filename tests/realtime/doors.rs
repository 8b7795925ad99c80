//! Who is let in, and what those hear who are not.

use tokio::net::TcpListener;

use super::*;

#[tokio::test]
async fn a_page_of_another_origin_is_refused_with_403_and_hosts_are_listed_as_realtime_lists_them() {
    let hub = plan("origins = [\"*.example.com\", \"https://one.example\"]").start();
    for origin in ["https://evil.example", "https://example.com.evil", "http://one.example"] {
        assert_eq!(Client::refused(&hub, "/rt?as=a/b", &[("origin", origin)]).await.0, 403, "{origin}");
    }
    let own = format!("http://{}", hub.address);
    for origin in ["https://app.example.com", "http://app.example.com", "https://one.example", &own] {
        assert!(Client::try_open(&hub, "/rt?as=a/b", &[("origin", origin)], None).await.is_ok(), "{origin}");
    }
    let open = plan("insecure_origins = true").start();
    assert!(Client::try_open(&open, "/rt?as=a/b", &[("origin", "https://evil.example")], None).await.is_ok());
}

#[tokio::test]
async fn whoever_is_nobody_is_refused_with_401() {
    let hub = plan("").start();
    assert_eq!(Client::refused(&hub, "/rt", &[]).await.0, 401);
    assert_eq!(Client::refused(&hub, "/rt", &[("authorization", "Bearer a.b.c")]).await.0, 401);
    // The rules that ship let anybody in as nobody in particular: here that is not enough.
    let open = plan_with("", "aether.on.connect(function() return aether.allow() end)").start();
    assert_eq!(Client::refused(&open, "/rt", &[]).await, (401, "unauthorized\n".into()));
}

#[tokio::test]
async fn a_signed_token_is_an_identity() {
    let hub = plan("").start();
    let bearer = format!("Bearer {}", hub.token_for("alice", &[], &[]));
    let mut alice = Client::try_open(&hub, "/rt", &[("authorization", &bearer)], None).await.unwrap();
    alice.say(r#"{"route":"online","data":{"tenant":"","id":"alice"}}"#).await;
    alice.hears(r#"{"route":"online","data":true}"#).await;
}

#[tokio::test]
async fn the_built_in_authenticators_know_everybody_or_one_token() {
    let rules = "local rt = require('@realtime')\nrt.fallback(function(s) return s:send('you', s.identity) end)";
    let hub = plan_with("authenticator = \"anonymous\"", rules).start();
    let mut somebody = Client::at(&hub, "/rt").await;
    somebody.say("{}").await;
    somebody.hears(r#"{"route":"you","data":{"claims":{},"id":"anonymous","roles":[],"tenant_id":""}}"#).await;

    let settings =
        "authenticator = \"token\"\ntoken_identity = \"shop\"\ntoken_tenant = \"acme\"\ntoken_roles = [\"till\"]";
    let secret = format!("\n[secrets]\nrealtime_token = {:?}", "t".repeat(40));
    let hub = plan_with(&format!("{settings}{secret}"), rules).start();
    let shown = |token: &str| format!("Bearer {token}");
    let good = shown(&"t".repeat(40));
    let mut shop = Client::try_open(&hub, "/rt", &[("authorization", &good)], None).await.unwrap();
    shop.say("{}").await;
    shop.hears(
        r#"{"route":"you","data":{"claims":{"roles":["till"]},"id":"shop","roles":["till"],"tenant_id":"acme"}}"#,
    )
    .await;
    for bad in ["t".repeat(39), "t".repeat(41), "x".repeat(40), hub.token_for("shop", &[], &[])] {
        assert_eq!(Client::refused(&hub, "/rt", &[("authorization", &shown(&bad))]).await.0, 401);
    }
    assert_eq!(Client::refused(&hub, "/rt", &[]).await.0, 401);
}

#[tokio::test]
async fn beyond_its_connections_it_refuses_with_503_until_somebody_leaves() {
    let hub = plan("max_connections = 2").start();
    let first = Client::open(&hub, "a/1").await;
    let _second = Client::open(&hub, "a/2").await;
    let (status, why) = Client::refused(&hub, "/rt?as=a/3", &[]).await;
    assert_eq!((status, why.as_str()), (503, "too many connections: come back later\n"));
    // Others of the hub are not meant, and a refusal takes no place.
    hub.ws().await.close().await;
    first.close().await;
    until("there is room", async || Client::try_open(&hub, "/rt?as=a/3", &[], None).await.is_ok()).await;
}

#[tokio::test]
async fn rules_that_take_too_long_to_say_who_it_is_are_a_504() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let silent = format!("http://{}", listener.local_addr().unwrap());
    let rules = format!(
        "aether.on.connect(function(req)
            if not req.query.slow then return nil end
            aether.http.get('{silent}/', {{ timeout = '2s' }})
            return aether.allow({{ user = 'late' }})
        end)\n{RULES}"
    );
    let plan = plan_with("auth_timeout = \"200ms\"", &rules);
    let hub = plan.with(|config| config.plugins.private_http = vec![format!("{silent}/*")]).start();
    assert_eq!(Client::refused(&hub, "/rt?slow=1", &[]).await.0, 504);
    Client::open(&hub, "a/b").await.is_silent().await;
}

#[tokio::test]
async fn whom_a_connect_hook_refuses_hears_403_and_was_never_there() {
    let rules = format!("{RULES}\naether.on.join('realtime.*', function(ch) aether.publish('reports', ch.name) end)");
    let hub = plan_with("", &rules).start();
    let mut reports = hub.ws().await;
    reports.subscribe(&["reports"]).await;
    assert_eq!(Client::refused(&hub, "/rt?as=a/mallory", &[]).await, (403, "not you\n".into()));
    let mut alice = Client::open(&hub, "a/alice").await;
    alice.say(r#"{"route":"online","data":{"tenant":"a","id":"mallory"}}"#).await;
    alice.hears(r#"{"route":"online","data":false}"#).await;
    // The first who came, as far as anybody was told, is alice.
    let mut seen = Vec::new();
    while seen.len() < 3 {
        seen.push(reports.expect("message").await["payload"].as_str().unwrap().to_owned());
    }
    assert!(seen.contains(&"realtime.identity.a.alice".to_owned()) && !seen.join(" ").contains("mallory"), "{seen:?}");
}

#[tokio::test]
async fn a_client_that_does_not_answer_pings_is_let_go() {
    let hub = plan("heartbeat = \"200ms\"\npong_timeout = \"300ms\"").start();
    let _silent = Client::open(&hub, "a/silent").await;
    until("it is there", async || hub.metric("aether_connections_active").await == 1.0).await;
    until("it is gone", async || hub.metric("aether_connections_active").await == 0.0).await;
}

#[tokio::test]
async fn it_is_spoken_at_a_path_or_a_listener_of_its_own() {
    let hub = plan("path = \"/realtime/socket\"").start();
    Client::at(&hub, "/realtime/socket?as=a/b").await.is_silent().await;
    assert_eq!(Client::refused(&hub, "/rt?as=a/b", &[]).await.0, 404);
}
