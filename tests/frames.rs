//! What a client may ask on its connection beside subscribing: publish, history, heartbeats.

use crate::common::*;

#[tokio::test]
async fn a_client_publishes_where_it_may_and_hears_where_its_message_stands() {
    let hub = TestHub::start();
    let token = hub.token_for("ann", &["room.*"], &["room.*"]);
    let mut ws = hub.ws_as(Some(&token)).await;
    ws.subscribe(&["room.1"]).await;
    let asked =
        json!({"type": "publish", "channel": "room.1", "payload": {"n": 1}, "idempotency_key": "k", "id": "p1"});
    ws.send(asked.clone()).await;
    let published = ws.expect("published").await;
    assert_eq!(
        (&published["id"], &published["seq_id"], &published["ack"]),
        (&json!("p1"), &json!(1), &json!("synced"))
    );
    assert_eq!(published["duplicate"], false);
    assert_eq!(ws.expect("message").await["payload"], json!({"n": 1}));
    ws.send(asked).await;
    assert_eq!(ws.expect("published").await["duplicate"], true);

    ws.send(json!({"type": "publish", "channel": "other", "payload": 1, "id": 2})).await;
    let refused = ws.expect("error").await;
    assert_eq!((&refused["code"], &refused["id"], &refused["channel"]), (&json!(40301), &json!(2), &json!("other")));
    ws.send(json!({"type": "publish", "channel": "room.1", "id": 3})).await;
    assert_eq!(ws.expect("error").await["code"], 40002);
    ws.send(json!({"type": "ping"})).await;
    ws.expect("pong").await;
}

#[tokio::test]
async fn a_client_reads_history_on_its_connection_as_over_http() {
    let hub = TestHub::start();
    hub.publish_numbers("room.1", 1, 5).await;
    let mut ws = hub.ws_as(Some(&hub.token(&["room.*"]))).await;
    ws.send(json!({"type": "history", "channel": "room.1", "before_seq": 5, "limit": 2, "id": 1})).await;
    let mut page = ws.expect("history").await;
    assert_eq!(page["id"], 1);
    let over_http = hub.history("channel=room.1&before_seq=5&limit=2").await;
    page.as_object_mut().unwrap().retain(|name, _| name != "type" && name != "id");
    page["ok"] = json!(true);
    assert_eq!(page, over_http);
    ws.send(json!({"type": "history", "channel": "other"})).await;
    assert_eq!(ws.expect("error").await["code"], 40301);
    ws.send(json!({"type": "history", "channel": "room.1", "after_seq": 1, "before_seq": 2})).await;
    assert_eq!(ws.expect("error").await["code"], 40003);
}

#[tokio::test]
async fn with_heartbeats_a_client_is_told_where_its_channels_stand() {
    let hub = TestHub::plan().toml("[websocket]\nping_interval = \"100ms\"\n[sse]\nheartbeat = \"100ms\"").start();
    hub.publish_numbers("room.1", 1, 3).await;
    let token = hub.token(&["room.*"]);
    let mut ws = WsClient::open(hub.address, &format!("/ws?heartbeat=1&token={token}"), &[], None).await.unwrap();
    ws.subscribe(&["room.1", "room.2"]).await;
    until("a beat says where both stand", async || {
        let beat = ws.expect("heartbeat").await;
        beat["positions"]["room.1"]["seq_id"] == 3 && beat["positions"]["room.2"]["seq_id"] == 0
    })
    .await;
    let mut sse = hub.sse("channel=room.1&heartbeat=1", None).await;
    sse.expect("subscribed").await;
    let beat = sse.expect("heartbeat").await.json();
    assert_eq!(beat["positions"]["room.1"]["seq_id"], 3);
}
