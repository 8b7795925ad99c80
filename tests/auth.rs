//! Who may do what: votes, grants and keys, enforced on every way in.

use std::time::Duration;

use aether::keys::{Claims, new_api_key};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sha2::{Digest, Sha256};

use crate::common::*;

/// A hub that knows some keys; `entries`: their rights as they stand in aether.toml.
fn hub_with_keys(entries: &[(&str, &str)]) -> TestHub {
    let entries: Vec<_> = entries
        .iter()
        .enumerate()
        .map(|(n, (key, rights))| {
            let digest: String = Sha256::digest(key).iter().map(|byte| format!("{byte:02x}")).collect();
            format!("{{ name = \"key{n}\", sha256 = \"{digest}\", {rights} }}")
        })
        .collect();
    let keys = entries.join(", ");
    let uses = "[[plugin]]\nuse = \"jwt-auth\"\n[[plugin]]\nuse = \"api-keys\"\n[plugin.config]\n";
    TestHub::plan().toml(&format!("{uses}keys = [{keys}]")).start()
}

fn message(channel: &str) -> Json {
    json!({"channel": channel, "payload": 1})
}

#[tokio::test]
async fn a_keys_patterns_hold_on_publish_in_batches_for_history_and_for_streams() {
    let (shop, reader, admin) = (new_api_key().unwrap(), new_api_key().unwrap(), new_api_key().unwrap());
    let hub = hub_with_keys(&[
        (&shop, "publish = [\"a.*\"]"),
        (&reader, "subscribe = [\"a.*\"], history = [\"a.b\"]"),
        (&admin, "admin = true"),
    ]);
    let mut http = hub.http_as(Some(&shop)).await;
    assert_eq!(http.post("/api/v1/publish", message("a.b").to_string()).await.ok()["seq_id"], 1);
    for channel in ["b.x", "a", "ab", "$a.b"] {
        let refused = http.post("/api/v1/publish", message(channel).to_string()).await;
        assert_eq!(refused.error(), (403, 40301), "{channel}");
        let refused = http.post(&format!("/api/v1/publish?channel={channel}"), "1").await;
        assert_eq!(refused.error(), (403, 40301), "{channel}");
    }
    let batch =
        json!({"messages": [message("a.b"), message("b.x"), {"channel": "a..b", "payload": 1}, message("a.c")]});
    let results = http.post("/api/v1/publish/batch", batch.to_string()).await.ok()["results"].clone();
    assert_eq!((&results[0]["seq_id"], &results[3]["seq_id"]), (&json!(2), &json!(1)));
    assert_eq!((&results[1]["error"]["code"], &results[2]["error"]["code"]), (&json!(40301), &json!(40001)));
    assert!(results[1]["error"]["decision"].is_string());
    assert_eq!(http.get("/api/v1/history?channel=a.b").await.error(), (403, 40301));
    assert_eq!(http.send("DELETE", "/api/v1/history?channel=a.b", &[], b"").await.error(), (403, 40302));
    let refused = SseClient::open(hub.address, &format!("/sse?channel=a.b&token={shop}"), None).await;
    assert_eq!(refused.err().unwrap().error(), (403, 40301));

    let mut http = hub.http_as(Some(&reader)).await;
    assert_eq!(http.post("/api/v1/publish", message("a.b").to_string()).await.error(), (403, 40301));
    assert_eq!(http.get("/api/v1/history?channel=a.b").await.ok()["last_seq"], 2);
    assert_eq!(http.get("/api/v1/history?channel=a.c").await.error(), (403, 40301));
    let bearer = format!("Bearer {reader}");
    let header = [("authorization", bearer.as_str())];
    SseClient::open_with(hub.address, "/sse?channel=a.c", &header, None).await.unwrap().expect("subscribed").await;

    let mut http = hub.http_as(Some(&admin)).await;
    assert_eq!(
        http.post("/api/v1/publish", message("a.b").to_string()).await.error(),
        (403, 40301),
        "admin is no pattern"
    );
    assert_eq!(http.send("DELETE", "/api/v1/history?channel=a.b", &[], b"").await.ok()["ok"], true);
    assert_eq!(hub.history("channel=a.b").await["messages"], json!([]));
    assert_eq!(hub.metric("aether_messages_published_total").await, 3.0, "what was refused was not taken in");
}

#[tokio::test]
async fn over_http_a_bad_key_is_401_whatever_it_asks_for() {
    let hub = TestHub::start();
    let almost = format!("{}x", hub.keys.admin_key());
    for bearer in [None, Some("aek_wrong"), Some(almost.as_str()), Some("a.b.c")] {
        let mut http = hub.http_as(bearer).await;
        for (method, path, body) in [
            ("POST", "/api/v1/publish", message("c").to_string()),
            ("POST", "/api/v1/publish/batch", json!({"messages": [message("c")]}).to_string()),
            ("GET", "/api/v1/history?channel=c", String::new()),
            ("DELETE", "/api/v1/history?channel=c", String::new()),
        ] {
            let answer = http.send(method, path, &[], body.as_bytes()).await;
            if bearer.is_none() && path.ends_with("batch") {
                // Anybody may connect; each message is refused on its own.
                assert_eq!(answer.ok()["results"][0]["error"]["code"], 40101);
            } else {
                assert_eq!(answer.error(), (401, 40101), "{method} {path} {bearer:?}");
                assert_eq!(answer.header("www-authenticate"), Some("Bearer"));
            }
        }
    }
    assert_eq!(hub.metric("aether_messages_published_total").await, 0.0);
}

#[tokio::test]
async fn who_shows_nothing_sees_what_is_public_and_no_more() {
    let hub = TestHub::start();
    hub.publish("public.news", json!(1)).await;
    hub.publish("private", json!(1)).await;
    let mut ws = hub.ws_as(None).await;
    ws.send(json!({"type": "subscribe", "channels": ["private", "public.news", "public", "$public.x"], "after_seq": {"public.news": 0, "private": 0}, "id": 5})).await;
    for channel in ["private", "public", "$public.x"] {
        let error = ws.expect("error").await;
        assert_eq!((&error["code"], &error["channel"], &error["id"]), (&json!(40301), &json!(channel), &json!(5)));
        assert_eq!(error["reason"], "not_allowed");
    }
    assert_eq!(ws.expect("subscribed").await["channels"], json!(["public.news"]));
    ws.read_to("public.news", 1).await.assert_exactly(1, 1);
    let mut http = hub.http_as(None).await;
    assert_eq!(http.get("/api/v1/history?channel=public.news").await.ok()["last_seq"], 1);
    assert_eq!(http.get("/api/v1/history?channel=private").await.error(), (401, 40101));
    assert_eq!(http.post("/api/v1/publish", message("public.news").to_string()).await.error(), (401, 40101));
    SseClient::open(hub.address, "/sse?channel=public.news", None).await.unwrap().expect("subscribed").await;
}

#[tokio::test]
async fn a_tokens_channels_are_what_it_may_read_and_its_publish_what_it_may_write() {
    let hub = TestHub::start();
    let token = hub.token_for("alice", &["order.*", "exact"], &["in.*"]);
    let mut ws = hub.ws_as(Some(&token)).await;
    ws.send(json!({"type": "subscribe", "channels": ["order.1", "order.1.x", "order", "orders.1", "exact", "exact.x", "in.1"]})).await;
    for channel in ["order", "orders.1", "exact.x", "in.1"] {
        assert_eq!(ws.expect("error").await["channel"], channel);
    }
    assert_eq!(ws.expect("subscribed").await["channels"], json!(["order.1", "order.1.x", "exact"]));
    let mut http = hub.http_as(Some(&token)).await;
    assert_eq!(http.post("/api/v1/publish", message("in.1").to_string()).await.ok()["seq_id"], 1);
    assert_eq!(http.post("/api/v1/publish", message("order.1").to_string()).await.error(), (403, 40301));
    assert_eq!(http.get("/api/v1/history?channel=order.1").await.status, 200);
    assert_eq!(http.get("/api/v1/history?channel=in.1").await.error(), (403, 40301));
    // The one that the first start makes.
    let mut demo = hub.ws_as(Some(hub.keys.demo_token())).await;
    demo.subscribe(&["demo.hello", "public.x"]).await;
    assert_eq!(
        hub.http_as(Some(hub.keys.demo_token()))
            .await
            .post("/api/v1/publish", message("demo.a").to_string())
            .await
            .status,
        200
    );
}

/// A token with claims of the test's own.
fn token(header: Json, claims: Json, key: &str) -> String {
    use hmac::{Hmac, Mac};
    let part = |json: Json| URL_SAFE_NO_PAD.encode(json.to_string());
    let signed = format!("{}.{}", part(header), part(claims));
    let mut mac = Hmac::<Sha256>::new_from_slice(key.as_bytes()).unwrap();
    mac.update(signed.as_bytes());
    format!("{signed}.{}", URL_SAFE_NO_PAD.encode(mac.finalize().into_bytes()))
}

#[tokio::test]
async fn a_token_that_is_not_ours_not_signed_not_current_or_not_well_formed_lets_nobody_in() {
    let hub = TestHub::start();
    let key = hub.keys.signing_key();
    let now = std::time::UNIX_EPOCH.elapsed().unwrap().as_secs();
    let claims = |exp: Json| json!({"sub": "u", "channels": ["*"], "exp": exp});
    let good = json!({"alg": "HS256", "typ": "JWT"});
    let valid = token(good.clone(), claims(json!(now + 60)), key);
    WsClient::connect(hub.address, Some(&valid)).await.subscribe(&["c"]).await;
    let mut unsigned = token(json!({"alg": "none"}), claims(json!(now + 60)), key);
    let whole = unsigned.clone();
    unsigned.truncate(unsigned.rfind('.').unwrap() + 1);
    let mut bent = valid.clone();
    let last = bent.pop().unwrap();
    bent.push(if last == 'A' { 'B' } else { 'A' });
    for (what, bad) in [
        ("none, unsigned", unsigned),
        ("none, signed", whole),
        ("another algorithm", token(json!({"alg": "HS512"}), claims(json!(now + 60)), key)),
        (
            "another key",
            token(good.clone(), claims(json!(now + 60)), "another key of at least 32 bytes, says RFC 7518"),
        ),
        ("expired beyond the leeway", token(good.clone(), claims(json!(now - 31)), key)),
        ("no exp", token(good.clone(), json!({"sub": "u", "channels": ["*"]}), key)),
        ("exp is no number", token(good.clone(), claims(json!("tomorrow")), key)),
        ("not yet", token(good.clone(), json!({"channels": ["*"], "exp": now + 600, "nbf": now + 300}), key)),
        ("channels is no list", token(good.clone(), json!({"channels": "*", "exp": now + 60}), key)),
        ("a bent signature", bent[..bent.len() - 2].to_owned()),
        ("no token", "a.b.c".to_owned()),
        ("no token and no key", "nonsense".to_owned()),
    ] {
        let (status, body) = WsClient::refusal(hub.address, &format!("/ws?token={bad}"), &[]).await;
        assert_eq!((status, &body["error"]["code"]), (401, &json!(40102)), "{what}");
        assert!(body["error"]["decision"].as_str().is_some_and(|id| !id.is_empty()), "{body}");
        assert!(!body.to_string().contains(&bad) && !body.to_string().contains(key));
    }
}

#[tokio::test]
async fn a_connection_ends_with_its_credential() {
    let config = "[[plugin]]\nuse = \"jwt-auth\"\n[plugin.config]\nleeway = \"0s\"";
    let hub = TestHub::plan().toml(config).start();
    let none: [&str; 0] = [];
    let short = Claims::new("u", &["*"], &none, Duration::from_secs(6)).sign(hub.keys.signing_key()).unwrap();
    let mut ws = hub.ws_as(Some(&short)).await;
    let soon = ws.expect("expiring").await;
    assert!(soon["in_ms"].as_u64().unwrap() <= 6000, "it is told before: {soon}");
    ws.subscribe(&["c"]).await;
    let bye = ws.expect("bye").await;
    assert_eq!(bye["code"], 4401);
    assert!(matches!(ws.end().await, End::Closed(4401, _)));
    let (status, _) = WsClient::refusal(hub.address, &format!("/ws?token={short}"), &[]).await;
    assert_eq!(status, 401, "who comes back with it does not get in for a moment");
}

const VOTES: &str = r#"
    aether.on.connect(function(req) if not req:bearer() then return aether.allow() end end)
    local function allow() return aether.allow() end
    local function deny() return aether.deny("closed", "closed for today") end
    local function none() return nil end
    for _, verb in { "subscribe", "publish", "history" } do
        aether.on[verb]("allowed.*", allow)
        aether.on[verb]("allowed.not", none)
        aether.on[verb]("both.*", allow)
        aether.on[verb]("both.*", deny)
        aether.on[verb]("none.*", none)
        aether.on[verb]("broken.*", function() local t = nil; return t.x end)
        aether.on[verb]("broken.*", allow)
        aether.on[verb]("endless.*", function() while true do end end)
        aether.on[verb]("odd.*", function() return 17 end)
    end
"#;

#[tokio::test]
async fn any_deny_wins_else_any_allow_else_it_is_a_no_and_a_broken_rule_denies() {
    let hub = TestHub::plan().rules(VOTES).start();
    let mut ws = hub.ws_as(None).await;
    let mut http = hub.http_as(None).await;
    for channel in ["allowed.x", "allowed.not"] {
        ws.subscribe(&[channel]).await;
        assert_eq!(http.post("/api/v1/publish", message(channel).to_string()).await.ok()["seq_id"], 1);
        assert_eq!(http.get(&format!("/api/v1/history?channel={channel}")).await.ok()["last_seq"], 1);
    }
    for (channel, reason) in [
        ("both.x", "closed"),
        ("none.x", "not_allowed"),
        ("nobody.asked", "not_allowed"),
        ("broken.x", "rule_error"),
        ("endless.x", "rule_error"),
        ("odd.x", "rule_error"),
    ] {
        ws.send(json!({"type": "subscribe", "channels": [channel]})).await;
        let error = ws.expect("error").await;
        assert_eq!((&error["code"], &error["reason"]), (&json!(40301), &json!(reason)), "{channel}");
        assert_eq!(ws.expect("subscribed").await["channels"], json!([]));
        for answer in [
            http.post("/api/v1/publish", message(channel).to_string()).await,
            http.get(&format!("/api/v1/history?channel={channel}")).await,
        ] {
            assert_eq!(
                (answer.error(), &answer.json()["error"]["reason"]),
                ((401, 40101), &json!(reason)),
                "{channel}"
            );
        }
    }
    // A rule that denies wins over a grant, and over the operator's own key.
    assert_eq!(hub.http().await.post("/api/v1/publish", message("both.x").to_string()).await.error(), (403, 40301));
    assert_eq!(hub.http().await.post("/api/v1/publish", message("none.x").to_string()).await.status, 200);
    assert!(hub.metric("aether_rules_killed_total").await >= 3.0);
}

#[tokio::test]
async fn a_rule_is_changed_by_a_file_and_a_restart() {
    let mut hub = TestHub::plan().rules(VOTES).start();
    assert_eq!(hub.http().await.post("/api/v1/publish", message("both.x").to_string()).await.status, 403);
    hub.dir().write("scripts/rules.lua", "aether.on.publish('other', function() return aether.deny('no') end)");
    hub.restart();
    assert_eq!(hub.http().await.post("/api/v1/publish", message("both.x").to_string()).await.status, 200);
    assert_eq!(hub.http().await.post("/api/v1/publish", message("other").to_string()).await.status, 403);
}

#[tokio::test]
async fn channels_without_hooks_never_enter_lua() {
    let hub = TestHub::start();
    let mut ws = hub.ws().await;
    let mut http = hub.http().await;
    let entries = async || hub.metric("aether_lua_entries_total").await;
    let before = entries().await;
    let names: Vec<_> = (0..90).map(|n| format!("free.{n}")).collect();
    let names: Vec<_> = names.iter().map(String::as_str).collect();
    ws.subscribe(&names).await;
    ws.resume("free.more", 0).await;
    assert_eq!(entries().await, before, "subscribing and resuming by grants alone");
    // Over HTTP the credential itself is looked at, once: it is remembered. The messages are not looked at.
    http.get("/api/v1/history?channel=free.1").await.ok();
    let a_request = entries().await - before;
    let messages: Vec<_> = (0..100).map(|n| message(&format!("free.{}", n % 90))).collect();
    http.post("/api/v1/publish/batch", json!({"messages": messages}).to_string()).await.ok();
    assert!(a_request > 0.0);
    assert_eq!(entries().await, before + a_request);
    // Where there is a hook, it is asked.
    ws.subscribe(&["public.x"]).await;
    assert_eq!(entries().await, before + a_request + 1.0);
}

#[tokio::test]
async fn a_decision_that_a_client_hears_of_is_found_in_the_log() {
    let dir = TempDir::new();
    let mut hub = Spawned::start(dir.path());
    let token = hub.token(&["mine.*"]);
    let mut ws = WsClient::connect(hub.address, Some(&token)).await;
    ws.send(json!({"type": "subscribe", "channels": ["other"]})).await;
    let of_ws = ws.expect("error").await["decision"].as_str().unwrap().to_owned();
    let refused =
        Http::connect(hub.address, Some(&token)).await.post("/api/v1/publish", message("c").to_string()).await;
    let of_http = refused.json()["error"]["decision"].as_str().unwrap().to_owned();
    assert_ne!(of_ws, of_http);
    drop(ws);
    hub.signal("TERM");
    assert!(hub.wait().await.success());
    let log = hub.stderr();
    for id in [of_ws, of_http] {
        assert_eq!(log.lines().filter(|line| line.contains(&id)).count(), 1, "{id} in {log}");
    }
    assert!(!log.contains(&token) && !log.contains(&hub.admin_key) && !log.contains(&hub.signing_key));
}
