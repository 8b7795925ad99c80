//! Who reaches what: applications apart from each other, and their users apart from everybody else on this hub.

use super::*;

/// Two applications of which one's name begins with the other's, and a colon.
fn two_apps() -> TestHub {
    let text = settings("").replace("app_key = \"test\"", "app_key = \"a\"")
        + "[[plugin.config.applications]]\napp_key = \"a:b\"\napp_secret = \"test_secret\"\npeer = true\n";
    TestHub::plan().toml(&text).start()
}

#[tokio::test]
async fn the_account_c_of_a_b_is_not_the_account_b_c_of_a() {
    let hub = two_apps();
    let mut long = User::with(&hub, "a:b", &token_of("c"), None).await.unwrap();
    let mut short = User::with(&hub, "a", &token_of("b:c"), None).await.unwrap();
    let mut http = hub.http_as(None).await;
    for (app, to, n) in [("a:b", "c", "1"), ("a", "b:c", "2")] {
        let body = signed_form(app, SECRET, to, &format!("{{\"n\":{n}}}"), &format!("nonce{n}"));
        assert_eq!(post_form(&mut http, &body).await.ok()["error"], 0);
    }
    assert_eq!(
        (long.frame().await["data"]["n"].as_u64(), short.frame().await["data"]["n"].as_u64()),
        (Some(1), Some(2))
    );
    // Nor do peers reach beyond their application.
    long.send(r#"{"to":"b:c","event":1,"data":{}}"#).await;
    short.send(r#"{"to":"c","event":1,"data":{}}"#).await;
    long.assert_silent().await;
    short.assert_silent().await;
}

#[tokio::test]
async fn accounts_may_be_called_anything_but_nothing() {
    let hub = plan("").start();
    let mut http = hub.http_as(None).await;
    let long = "x".repeat(300);
    for (n, account) in
        ["*", "a.b", "你好", "constructor", "u%5F1", "x y&z=\"", "sha256", &long].into_iter().enumerate()
    {
        let mut user = User::connect(&hub, account).await;
        assert_eq!(push(&mut http, account, &format!("{{\"n\":{n}}}")).await, 0, "{account}");
        let frame = user.frame().await;
        assert_eq!((frame["to"].as_str(), frame["data"]["n"].as_u64()), (Some(account), Some(n as u64)));
        user.assert_silent().await;
    }
    let nobody = token(SECRET, &json!({"sub": "", "exp": now() + 60}));
    assert_eq!(
        User::refused(&hub, "test", &nobody).await,
        (200, json!({"code": 1000, "detail": "", "msg": "错误的Token"}))
    );
}

#[tokio::test]
async fn all_connections_of_an_account_hear_and_others_do_not() {
    let hub = plan("").start();
    let (mut phone, mut desk) = (User::connect(&hub, "u1").await, User::connect(&hub, "u1").await);
    let mut other = User::connect(&hub, "u2").await;
    assert_eq!(push(&mut hub.http_as(None).await, "u1", "{}").await, 0);
    assert_eq!(phone.frame().await["to"], "u1");
    assert_eq!(desk.frame().await["to"], "u1");
    other.send(r#"{"to":"u1","event":1,"data":{"x":1}}"#).await;
    assert_eq!(phone.frame().await["from"], "u2");
    assert_eq!(desk.frame().await["from"], "u2");
    // The sender hears no echo.
    other.assert_silent().await;
}

#[tokio::test]
async fn nobody_else_on_the_hub_reaches_these_channels_whatever_was_granted() {
    let hub = plan("").start();
    let mut user = User::connect(&hub, "u1").await;
    let mut native = hub.ws_as(Some(&hub.token_for("spy", &["*"], &["*"]))).await;
    native.send(json!({"type": "subscribe", "channels": ["xlvein.test.u1"]})).await;
    let refused = native.expect("error").await;
    assert_eq!((&refused["code"], &refused["reason"]), (&json!(40301), &json!("of_xlvein")));
    let mut admin = hub.http().await;
    let body = json!({"channel": "xlvein.test.u1", "payload": {"forged": true}}).to_string();
    assert_eq!(admin.post("/api/v1/publish", body).await.error(), (403, 40301));
    assert_eq!(admin.get("/api/v1/history?channel=xlvein.test.u1").await.error(), (403, 40301));
    user.assert_silent().await;
}

#[tokio::test]
async fn with_native_a_back_end_of_this_hub_publishes_to_users_and_listens_beside_them() {
    let hub = plan("native = true").start();
    let mut user = User::connect(&hub, "u1").await;
    let mut native = hub.ws().await;
    native.subscribe(&["xlvein.test.u1"]).await;
    hub.publish("xlvein.test.u1", json!({"text": "hi"})).await;
    let frame = user.frame().await;
    assert_eq!((&frame["to"], &frame["data"]), (&json!("u1"), &json!({"text": "hi"})));
    assert!(frame["send_at"].as_u64().unwrap() / 1000 >= now() - 60 && frame["msg_id"].is_string(), "{frame}");
    assert_eq!(native.expect("message").await["payload"], json!({"text": "hi"}));
    assert_eq!(push(&mut hub.http_as(None).await, "u1", r#"{"t":1}"#).await, 0);
    assert_eq!(native.expect("message").await["payload"], json!({"t": 1}));
    assert_eq!(user.frame().await["data"], json!({"t": 1}));
}

#[tokio::test]
async fn algorithms_the_end_of_a_token_and_the_events_of_peers_are_settings() {
    let more = "algorithms = [\"HS256\", \"HS512\"]\nrequire_exp = true";
    let text = settings(more) + "events = [1]\n";
    let hub = TestHub::plan().toml(&text).start();
    let claims = json!({"sub": "u1", "exp": now() + 60});
    let key = EncodingKey::from_secret(SECRET.as_bytes());
    let sha512 = jsonwebtoken::encode(&Header::new(Algorithm::HS512), &claims, &key).unwrap();
    let mut user = User::with(&hub, "test", &sha512, None).await.unwrap();
    let sha384 = jsonwebtoken::encode(&Header::new(Algorithm::HS384), &claims, &key).unwrap();
    assert_eq!(User::refused(&hub, "test", &sha384).await.1["code"], 1000);
    assert_eq!(User::refused(&hub, "test", &token(SECRET, &json!({"sub": "u1"}))).await.1["code"], 1000);
    // What looks like the system's word is not let through.
    user.send(r#"{"to":"u1","data":{"system":true}}"#).await;
    user.send(r#"{"to":"u1","event":1,"data":{}}"#).await;
    assert_eq!(user.frame().await["event"], 1);
    user.assert_silent().await;
}

#[tokio::test]
async fn a_connection_ends_with_its_token_unless_the_setting_says_otherwise() {
    let short = || token(SECRET, &json!({"sub": "u1", "exp": now() + 2}));
    let hub = plan("").start();
    let mut user = User::with(&hub, "test", &short(), None).await.unwrap();
    assert!(matches!(user.next().await, Err(End::Closed(4401, _))), "it ends with its token");
    let hub = plan("end_with_token = false").start();
    let mut user = User::with(&hub, "test", &short(), None).await.unwrap();
    let begun = now();
    until("the token is over", async || now() > begun + 3).await;
    user.assert_silent().await;
    assert_eq!(User::refused(&hub, "test", &token(SECRET, &json!({"sub": "u1", "exp": begun}))).await.1["code"], 1000);
}

#[tokio::test]
async fn pages_of_every_origin_may_connect_and_a_setting_narrows_that() {
    let path = format!("/ws/connect?app_id=test&token={TOKEN}");
    let elsewhere = [("origin", "https://shop.example")];
    let hub = plan("").start();
    assert!(WsClient::open(hub.address, &path, &elsewhere, None).await.is_ok());
    let hub = plan("origins = [\"https://app.example\"]").start();
    assert_eq!(WsClient::refusal(hub.address, &path, &elsewhere).await.0, 403);
    assert!(WsClient::open(hub.address, &path, &[("origin", "https://app.example")], None).await.is_ok());
}

#[tokio::test]
async fn whoever_tries_it_out_gets_an_address_that_connects() {
    let hub = plan("").start();
    let mut admin = hub.http().await;
    let answer = admin.get("/api/v1/im/url?app_id=test&account=user_7").await.ok();
    let url = answer["url"].as_str().unwrap();
    let begin = format!("ws://{}/ws/connect?app_id=test&token=", hub.address);
    let token = url.strip_prefix(&begin).unwrap_or_else(|| panic!("{url}"));
    let mut user = User::with(&hub, "test", token, None).await.unwrap();
    assert_eq!(push(&mut hub.http_as(None).await, "user_7", "{}").await, 0);
    assert_eq!(user.frame().await["to"], "user_7");
    assert_eq!(admin.get("/api/v1/im/url?app_id=nobody&account=user_7").await.status, 404);
    assert_eq!(admin.get("/api/v1/im/url?app_id=test").await.status, 400);
    assert_eq!(hub.http_as(None).await.get("/api/v1/im/url?app_id=test&account=user_7").await.status, 401);
    let hub = plan("public_url = \"https://push.example.com/\"").start();
    let answer = hub.http().await.get("/api/v1/im/url?app_id=test&account=u").await.ok();
    assert!(answer["url"].as_str().unwrap().starts_with("wss://push.example.com/ws/connect?"), "{answer}");
}

#[test]
fn settings_that_cannot_be_are_refused_with_a_sentence() {
    for (was, becomes, why) in [
        ("\"test_secret\"", "\"other_secret\"", "applications[1]: test: its app_secret is not set"),
        (SECRET, "short", "5 bytes are too few, it takes at least 16 (min_secret)"),
        ("app_key = \"test\"", "app_key = \"a&b\"", "has no & and no ="),
        ("app_key = \"test\"", &format!("app_key = \"{}\"", "x".repeat(80)), "too long to name channels by"),
        ("peer = true", "events = [2]", "nobody can be told who is in a chat room"),
    ] {
        let dir = TempDir::new();
        dir.write("aether.toml", &settings("").replace(was, becomes));
        let (plugins, scripts) = (repository().join("plugins"), repository().join("scripts"));
        let env =
            [("AETHER_PLUGINS_DIR", plugins.to_str().unwrap()), ("AETHER_PLUGINS_SCRIPTS", scripts.to_str().unwrap())];
        let output = crate::common::spawned::run(dir.path(), &["check"], &env);
        let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && said.contains(why), "{why}: {said}");
    }
    let dir = TempDir::new();
    dir.write("aether.toml", &settings(""));
    let (plugins, scripts) = (repository().join("plugins"), repository().join("scripts"));
    let env =
        [("AETHER_PLUGINS_DIR", plugins.to_str().unwrap()), ("AETHER_PLUGINS_SCRIPTS", scripts.to_str().unwrap())];
    let output = crate::common::spawned::run(dir.path(), &["check", "--strict"], &env);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}
