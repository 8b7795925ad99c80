//! The plugin `webhooks`: what another service signs and sends reaches the subscribers, and only where it may.

use hmac::{Hmac, Mac};
use sha2::Sha256;

use crate::common::*;

const CONFIG: &str = "[[plugin]]\nuse = \"jwt-auth\"\n[[plugin]]\nuse = \"api-keys\"\n[[plugin]]\nuse = \"webhooks\"";

fn sign(secret: &str, body: &[u8]) -> String {
    let mut mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).unwrap();
    mac.update(body);
    mac.finalize().into_bytes().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A webhook as it was made: its id, where it receives, and its secret.
async fn make(hub: &TestHub, wanted: Json) -> (String, String, String) {
    let made = hub.http().await.post("/api/v2/webhooks", wanted.to_string()).await.ok();
    let text = |value: &Json| value.as_str().unwrap().to_owned();
    (text(&made["webhook"]["id"]), text(&made["webhook"]["url"]), text(&made["secret"]))
}

async fn send(hub: &TestHub, url: &str, secret: &str, body: &str) -> Response {
    let signature = format!("sha256={}", sign(secret, body.as_bytes()));
    hub.http_as(None).await.send("POST", url, &[("x-signature-256", &signature)], body.as_bytes()).await
}

#[test]
fn the_signature_is_the_one_of_the_first_aether() {
    let expected = "e04956ce2ebd93e548bdd087bb01d1783364d5ea9b1b954d31aa7204fc715b5a";
    assert_eq!(sign(&"0f".repeat(32), br#"{"repo":"core","n":1}"#), expected);
}

#[tokio::test]
async fn what_is_signed_and_sent_is_the_frame_that_subscribers_get() {
    let hub = TestHub::plan().toml(CONFIG).start();
    let (id, url, secret) = make(&hub, json!({"name": "git", "channel_template": "build.{repo}.{n}"})).await;
    let mut ws = hub.ws().await;
    ws.subscribe(&["build.core.1234567"]).await;
    // The order of keys, the spelling of numbers and a zero byte are the sender's.
    let body = r#"{ "repo":"core","n":1234567, "id":9007199254740993,"f":1.0,"z":"\u0000","a":null }"#;
    let answer = send(&hub, &url, &secret, body).await.ok();
    assert_eq!((&answer["seq_id"], &answer["channel"]), (&json!(1), &json!("build.core.1234567")));
    assert_eq!(answer["timestamp"].as_str().map(str::len), Some("2026-11-21T01:08:04Z".len()), "{answer}");
    let frame = ws.next_text().await;
    assert!(frame.contains(&format!("\"payload\":{body}")), "{frame}");
    let mut http = hub.http().await;
    let history = http.get("/api/v1/history?channel=build.core.1234567").await;
    assert!(history.text().contains(&format!("\"payload\":{body}")), "{}", history.text());

    let bare = [("x-signature-256", sign(&secret, body.as_bytes()))];
    let bare = [(bare[0].0, bare[0].1.as_str())];
    assert_eq!(hub.http_as(None).await.send("POST", &url, &bare, body.as_bytes()).await.ok()["seq_id"], 2);

    let deliveries = http.get(&format!("/api/v2/webhooks/{id}/deliveries")).await.ok()["deliveries"].clone();
    assert_eq!(deliveries.as_array().map(Vec::len), Some(2));
    let (status, seq) = (&deliveries[0]["status"], &deliveries[0]["seq_id"]);
    assert_eq!((status, seq, &deliveries[0]["webhook_id"]), (&json!("success"), &json!(2), &json!(id)));
    assert!(deliveries[0]["duration_ms"].is_u64(), "{deliveries}");
}

#[tokio::test]
async fn who_does_not_know_the_secret_publishes_nothing() {
    let hub = TestHub::plan().toml(CONFIG).start();
    let (id, url, secret) = make(&hub, json!({"name": "git", "channel_template": "git"})).await;
    let refused = send(&hub, &url, "another secret", "{}").await;
    assert_eq!(
        (refused.error(), refused.json()["error"]["message"].as_str()),
        ((401, 40103), Some("invalid signature"))
    );
    let mut anybody = hub.http_as(None).await;
    assert_eq!(anybody.post(&url, "{}").await.error(), (401, 40103));
    assert_eq!(anybody.post("/api/v2/webhooks/0000", "{}").await.error(), (404, 40402));
    assert_eq!(anybody.post(&format!("/api/v2/webhooks/{id}"), "{}").await.error(), (404, 40402), "the id is no token");
    // The old secret is dead with the answer that brings the new one.
    let path = format!("/api/v2/webhooks/{id}/rotate-secret");
    let fresh = hub.http().await.post(&path, "").await.ok()["secret"].as_str().unwrap().to_owned();
    assert_eq!(send(&hub, &url, &secret, "{}").await.error(), (401, 40103));
    assert_eq!(send(&hub, &url, &fresh, "{}").await.ok()["seq_id"], 1);
    hub.http().await.send("PATCH", &format!("/api/v2/webhooks/{id}"), &[], br#"{"active":false}"#).await.ok();
    assert_eq!(send(&hub, &url, &fresh, "{}").await.error(), (404, 40402));
    assert_eq!(hub.metric("aether_messages_published_total").await, 1.0);
}

#[tokio::test]
async fn a_webhook_reaches_no_further_than_its_key_and_ends_with_it() {
    let hub = TestHub::plan().toml(CONFIG).start();
    let made = hub.http().await.post("/api/v2/keys", r#"{"name":"ci","publish":["a.*"]}"#).await.ok();
    let key = made["meta"]["id"].as_str().unwrap().to_owned();
    let (_, url, secret) = make(&hub, json!({"name": "ci", "channel_template": "{to}", "key_id": key})).await;
    assert_eq!(send(&hub, &url, &secret, r#"{"to":"a.b.c"}"#).await.ok()["channel"], "a.b.c");
    for (body, expected) in [
        (r#"{"to":"b.x"}"#, (403, 40301)),
        (r#"{"to":"a"}"#, (403, 40301)),
        (r#"{"to":"$user.x"}"#, (403, 40301)),
        (r#"{"to":"a.*"}"#, (400, 40005)),
        (r#"{"to":"a.b c"}"#, (400, 40005)),
        (r#"{"to":["a.b"]}"#, (400, 40005)),
        (r#"{"from":"a.b"}"#, (400, 40005)),
        ("no json", (400, 40005)),
    ] {
        assert_eq!(send(&hub, &url, &secret, body).await.error(), expected, "{body}");
    }
    hub.http().await.send("DELETE", &format!("/api/v2/keys/{key}"), &[], b"").await.ok();
    assert_eq!(send(&hub, &url, &secret, r#"{"to":"a.b.c"}"#).await.error(), (403, 40301), "its key is revoked");
    assert_eq!(hub.metric("aether_messages_published_total").await, 1.0);
}

#[tokio::test]
async fn what_was_signed_for_a_moment_is_accepted_once_and_only_then() {
    let hub = TestHub::plan().toml(CONFIG).start();
    let (_, url, secret) = make(&hub, json!({"name": "git", "channel_template": "git", "timestamp_window": 60})).await;
    let now = std::time::UNIX_EPOCH.elapsed().unwrap().as_secs();
    let mut http = hub.http_as(None).await;
    for (sent, expected) in [(now, 200), (now, 401), (now - 120, 401), (now + 120, 401), (now - 5, 200)] {
        let signature = sign(&secret, format!("{sent}.{{}}").as_bytes());
        let sent = sent.to_string();
        let headers = [("x-signature-256", signature.as_str()), ("x-signature-timestamp", &sent)];
        assert_eq!(http.send("POST", &url, &headers, b"{}").await.status, expected, "{sent} at {now}");
    }
    // The signature of the body alone is that of a webhook without a window.
    assert_eq!(send(&hub, &url, &secret, "{}").await.error(), (401, 40103));
}

#[tokio::test]
async fn webhooks_outlive_a_restart() {
    let mut hub = TestHub::plan().toml(CONFIG).start();
    let (id, url, secret) = make(&hub, json!({"name": "git", "channel_template": "git"})).await;
    hub.restart();
    assert_eq!(send(&hub, &url, &secret, "{}").await.ok()["seq_id"], 1);
    let read = hub.http().await.get(&format!("/api/v2/webhooks/{id}")).await.ok();
    assert_eq!(read["webhook"]["url"], url);
    assert!(read.get("secret").is_none() && !read.to_string().contains(&secret));
}
