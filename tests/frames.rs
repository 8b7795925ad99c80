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

#[tokio::test]
async fn a_conflated_channel_brings_only_the_newest_and_no_faster_than_asked() {
    let hub = TestHub::start();
    let mut ws = hub.ws_as(Some(&hub.token(&["price.*"]))).await;
    ws.send(json!({"type": "subscribe", "channels": ["price.x"], "pace": {"max_rate": 4, "conflate": true}})).await;
    ws.expect("subscribed").await;
    let began = std::time::Instant::now();
    hub.publish_numbers("price.x", 1, 200).await;
    let mut seqs = Vec::new();
    while seqs.last() != Some(&200) {
        seqs.push(ws.expect("message").await["seq_id"].as_u64().unwrap());
    }
    assert!(seqs.is_sorted() && seqs.len() < 200, "{seqs:?}");
    let allowed = 2.0 + began.elapsed().as_secs_f64() * 4.0;
    assert!(seqs.len() as f64 <= allowed, "{} in {:?}", seqs.len(), began.elapsed());
    ws.send(json!({"type": "subscribe", "channels": ["price.y"], "pace": {"max_rate": 0}})).await;
    assert_eq!(ws.expect("error").await["code"], 40003);
}

#[tokio::test]
async fn a_paced_channel_brings_everything_in_order() {
    let hub = TestHub::start();
    hub.publish_numbers("price.x", 1, 20).await;
    let mut sse = hub.sse("channel=price.x&after_seq=0&max_rate=200", None).await;
    sse.expect("subscribed").await;
    sse.read_to("price.x", 20).await.assert_exactly(1, 20);
}

#[tokio::test]
async fn a_refreshed_connection_has_the_rights_of_its_new_credential() {
    let hub = TestHub::start();
    let none: [&str; 0] = [];
    let short = aether::keys::Claims::new("ann", &["a", "b"], &none, std::time::Duration::from_secs(20));
    let mut ws = hub.ws_as(Some(&short.sign(hub.keys.signing_key()).unwrap())).await;
    ws.expect("expiring").await;
    ws.subscribe(&["a", "b"]).await;
    let token = hub.token_for("ann", &["a", "c"], &[]);
    ws.send(json!({"type": "refresh", "token": "x.y.z", "id": 1})).await;
    assert_eq!(ws.expect("error").await["code"], 40102, "a bad one changes nothing");
    ws.send(json!({"type": "refresh", "token": token, "id": 2})).await;
    assert_eq!(ws.expect("error").await["channel"], "b");
    assert_eq!(ws.expect("unsubscribed").await["channels"], json!(["b"]));
    let refreshed = ws.expect("refreshed").await;
    assert!(refreshed["id"] == 2 && refreshed["expires"].is_string(), "{refreshed}");
    ws.subscribe(&["c"]).await;
    hub.publish("b", json!(1)).await;
    hub.publish("a", json!(2)).await;
    assert_eq!(ws.expect("message").await["payload"], 2);
    let sessions = hub.http().await.get("/api/v1/sessions?user=ann").await.ok();
    assert_eq!(sessions["sessions"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn who_listens_may_ask_who_else_does() {
    let hub = TestHub::start();
    let mut ann = hub.ws_as(Some(&hub.token_for("ann", &["room.*"], &[]))).await;
    ann.subscribe(&["room.1"]).await;
    let token = hub.token_for("bob", &["room.*"], &[]);
    let (mut bob, mut again) = (hub.ws_as(Some(&token)).await, hub.ws_as(Some(&token)).await);
    bob.subscribe(&["room.1"]).await;
    again.subscribe(&["room.1"]).await;
    ann.send(json!({"type": "presence", "channel": "room.1", "id": 1})).await;
    let present = ann.expect("presence").await;
    assert_eq!(
        (&present["users"], &present["sessions"], &present["id"]),
        (&json!(["ann", "bob"]), &json!(3), &json!(1))
    );
    ann.send(json!({"type": "presence", "channel": "room.2"})).await;
    assert_eq!(ann.expect("error").await["code"], 40003);
}

#[tokio::test]
async fn a_dry_run_says_what_would_happen_and_does_nothing() {
    let hub = TestHub::start();
    let mut ws = hub.ws_as(Some(&hub.token(&["room.*"]))).await;
    ws.subscribe(&["room.1"]).await;
    let mut http = hub.http().await;
    let body = json!({"channel": "room.1", "payload": 1}).to_string();
    let would = http.post("/api/v1/publish?dry_run=1", &body).await.ok();
    assert_eq!((&would["dry_run"], &would["subscribers"], &would["ack"]), (&json!(true), &json!(1), &json!("synced")));
    assert_eq!(would["history"]["count"], 10_000);
    assert_eq!(http.post("/api/v1/publish", &body).await.ok()["seq_id"], 1, "nothing was published before");
    ws.expect("message").await;
    let mut stranger = hub.http_as(Some(&hub.token(&[]))).await;
    assert_eq!(stranger.post("/api/v1/publish?dry_run=1", &body).await.error(), (403, 40301));
    for almost in ["true", "yes", "2"] {
        let refused = http.post(&format!("/api/v1/publish?dry_run={almost}"), &body).await;
        assert_eq!(refused.error(), (400, 40003), "what was meant as a rehearsal is none");
    }

    ws.send(json!({"type": "subscribe", "channels": ["room.2", "other", "a b"], "dry_run": true, "id": 9})).await;
    let would = ws.expect("dry_run").await;
    assert_eq!((&would["channels"], &would["id"]), (&json!(["room.2"]), &json!(9)));
    assert_eq!((&would["refused"][0]["code"], &would["refused"][1]["code"]), (&json!(40301), &json!(40001)));
    hub.publish("room.2", json!(1)).await;
    ws.assert_silent().await;
}
