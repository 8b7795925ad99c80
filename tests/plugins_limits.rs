//! The plugin `limits`: who is too fast hears how long to wait, and nobody else hears of it.

use crate::common::*;

const CONFIG: &str = r#"
[[plugin]]
use = "limits"
[[plugin.config.limits]]
on = "publish"
per = ["user"]
rate = 2
every = "1h"
[[plugin.config.limits]]
on = "subscribe"
per = ["user"]
rate = 2
every = "1h"
[[plugin.config.limits]]
on = "connect"
per = ["ip"]
rate = 6
every = "1h"
[[plugin]]
use = "jwt-auth"
[[plugin]]
use = "api-keys"
"#;

#[tokio::test]
async fn who_publishes_too_fast_gets_429_with_the_time_to_wait() {
    let hub = TestHub::plan().toml(CONFIG).start();
    let (ann, bob) = (hub.token_for("ann", &[], &["*"]), hub.token_for("bob", &[], &["*"]));
    let mut ann = hub.http_as(Some(&ann)).await;
    let message = json!({"channel": "a", "payload": 1});
    for _ in 0..2 {
        ann.post("/api/v1/publish", message.to_string()).await.ok();
    }
    let refused = ann.post("/api/v1/publish", message.to_string()).await;
    assert_eq!(refused.error(), (429, 42901));
    let error = &refused.json()["error"];
    assert_eq!((&error["reason"], error["decision"].is_string()), (&json!("rate"), true));
    let retry_ms = error["retry_ms"].as_u64().unwrap();
    assert!((1_700_000..=1_800_000).contains(&retry_ms), "{error}");
    assert_eq!(refused.header("retry-after").unwrap(), retry_ms.div_ceil(1000).to_string());

    // In a batch each message is counted, and refused on its own.
    let mut bob = hub.http_as(Some(&bob)).await;
    let batch = json!({"messages": [message, message, message]}).to_string();
    let results = bob.post("/api/v1/publish/batch", batch).await.ok()["results"].clone();
    assert_eq!((&results[1]["status"], &results[2]["error"]["code"]), (&json!("success"), &json!(42901)));
    assert!(results[2]["error"]["retry_ms"].is_u64(), "{results}");
    assert_eq!(hub.metric("aether_messages_published_total").await, 4.0);
}

#[tokio::test]
async fn on_a_websocket_the_error_frame_says_when_to_come_back() {
    let hub = TestHub::plan().toml(CONFIG).start();
    let ann = hub.token_for("ann", &["*"], &["*"]);
    let mut ws = hub.ws_as(Some(&ann)).await;
    ws.send(json!({"type": "subscribe", "channels": ["a", "b", "c"], "id": 1})).await;
    let error = ws.expect("error").await;
    assert_eq!((&error["code"], &error["channel"], &error["reason"]), (&json!(42901), &json!("c"), &json!("rate")));
    assert!(error["retry_ms"].as_u64().is_some_and(|ms| ms > 1_000_000), "{error}");
    assert_eq!(ws.expect("subscribed").await["channels"], json!(["a", "b"]));
    for seq in 1..=2 {
        ws.send(json!({"type": "publish", "channel": "a", "payload": seq})).await;
        assert_eq!(ws.expect("published").await["seq_id"], seq);
    }
    ws.send(json!({"type": "publish", "channel": "a", "payload": 3})).await;
    assert_eq!(ws.expect("error").await["code"], 42901);
}

#[tokio::test]
async fn an_address_that_connects_too_often_is_turned_away_at_the_door() {
    let hub = TestHub::plan().toml(CONFIG).start();
    let good = hub.token(&["*"]);
    let mut guessing = hub.http_as(Some("aek_guessed")).await;
    for _ in 0..5 {
        assert_eq!(guessing.get("/api/v1/history?channel=a").await.error(), (401, 40101));
    }
    let ws = WsClient::connect(hub.address, Some(&good)).await;
    assert_eq!(guessing.get("/api/v1/history?channel=a").await.error(), (429, 42901));
    let (status, body) = WsClient::refusal(hub.address, &format!("/ws?token={good}"), &[]).await;
    assert_eq!((status, &body["error"]["code"]), (429, &json!(42901)));
    assert!(body["error"]["retry_ms"].as_u64().is_some_and(|ms| ms > 100_000), "{body}");
    drop(ws);
}

#[tokio::test]
async fn whoever_listens_already_goes_on_when_the_rules_are_reloaded() {
    let hub = TestHub::plan().toml(CONFIG).start();
    let mut ws = hub.ws_as(Some(&hub.token_for("ann", &["*"], &["*"]))).await;
    ws.subscribe(&["a", "b"]).await;
    let mut http = hub.http().await;
    // Each asks about both channels again: far more than the limit lets a user subscribe to in an hour.
    for _ in 0..3 {
        http.post("/api/v1/rules/reload", "").await.ok();
    }
    ws.send(json!({"type": "subscribe", "channels": ["c"]})).await;
    assert_eq!(ws.expect("error").await["reason"], "rate");
    assert_eq!(ws.expect("subscribed").await["channels"], json!([]));
    hub.publish("b", json!(1)).await;
    ws.read_to("b", 1).await.assert_exactly(1, 1);
}
