//! What an operator sees of a running hub, and whom it sends away.

use crate::common::*;

#[tokio::test]
async fn an_operator_sees_channels_sessions_and_who_listens() {
    let hub = TestHub::start();
    hub.publish_numbers("room.1", 1, 3).await;
    let mut ann = hub.ws_as(Some(&hub.token_for("ann", &["room.*"], &[]))).await;
    ann.subscribe(&["room.1", "room.2"]).await;
    let mut bob = hub.ws_as(Some(&hub.token_for("bob", &["room.*"], &[]))).await;
    bob.subscribe(&["room.1"]).await;
    let mut http = hub.http().await;

    let channels = http.get("/api/v1/channels?match=room.*").await.ok();
    assert_eq!(channels["channels"][0]["channel"], "room.1");
    assert_eq!((&channels["channels"][0]["subscribers"], &channels["channels"][0]["seq_id"]), (&json!(2), &json!(3)));
    let first = http.get("/api/v1/channels?match=room.*&limit=1").await.ok();
    assert_eq!((first["channels"].as_array().unwrap().len(), &first["has_more"]), (1, &json!(true)));
    let second = http.get("/api/v1/channels?match=room.*&limit=1&after=room.1").await.ok();
    assert_eq!((&second["channels"][0]["channel"], &second["has_more"]), (&json!("room.2"), &json!(false)));

    let sessions = http.get("/api/v1/sessions?user=ann").await.ok();
    assert_eq!(sessions["sessions"].as_array().unwrap().len(), 1);
    assert_eq!(
        (&sessions["sessions"][0]["user"], &sessions["sessions"][0]["transport"]),
        (&json!("ann"), &json!("ws"))
    );
    let listening = http.get("/api/v1/presence?channel=room.1").await.ok();
    assert_eq!(listening["sessions"].as_array().unwrap().len(), 2);
    let nobody = http.get("/api/v1/presence?channel=room.9").await.ok();
    assert_eq!(nobody["sessions"], json!([]));

    let token = hub.token(&["*"]);
    let mut stranger = hub.http_as(Some(&token)).await;
    for path in ["/api/v1/channels", "/api/v1/sessions", "/api/v1/presence?channel=room.1"] {
        assert_eq!(stranger.get(path).await.error(), (403, 40302), "{path}");
    }
}

#[tokio::test]
async fn with_a_listener_apart_the_operator_is_answered_only_there_and_even_when_the_hub_is_full() {
    let hub = TestHub::plan().toml("[server]\nadmin_addr = 0\n[limits]\nconnections = 2").start();
    assert!(hub.admin_address.ip().is_loopback() && hub.admin_address != hub.address);
    let operators = ["/", "/metrics", "/metricsz", "/status", "/api/v1/channels", "/api/v1/sessions"];
    let mut outside = hub.http().await;
    for path in operators {
        assert_eq!(outside.get(path).await.error(), (404, 40400), "{path}");
    }
    assert_eq!(outside.post("/api/v1/disconnect", r#"{"user":"x"}"#).await.error(), (404, 40400));
    assert_eq!(outside.get("/readyz").await.status, 200);
    let mut ws = hub.ws().await;
    ws.subscribe(&["c"]).await;
    assert_eq!(hub.http().await.get("/healthz").await.error(), (503, 50303), "the hub is full");

    let mut inside = Http::connect(hub.admin_address, Some(hub.keys.admin_key())).await;
    for path in operators {
        assert_eq!(inside.get(path).await.status, 200, "{path}");
    }
    let metrics = Http::connect(hub.admin_address, None).await.get("/metrics").await;
    assert!(metrics.text().contains("\naether_connections_refused_total 1\n"), "{}", metrics.text());
    // The console speaks to where it comes from.
    inside.post("/api/v1/publish", r#"{"channel":"c","payload":1}"#).await.ok();
    ws.read_to("c", 1).await.assert_exactly(1, 1);
    let mut console = WsClient::connect(hub.admin_address, Some(&hub.token(&["c"]))).await;
    console.subscribe(&["c"]).await;
    assert_eq!(inside.post("/api/v1/disconnect", r#"{"user":"tester"}"#).await.ok()["sessions"], 2);
}

#[tokio::test]
async fn an_operator_ends_connections_and_subscriptions_and_no_others() {
    let hub = TestHub::start();
    let token = |user| hub.token_for(user, &["room.*"], &[]);
    let (mut ann, mut again) = (hub.ws_as(Some(&token("ann"))).await, hub.ws_as(Some(&token("ann"))).await);
    let mut bob = hub.ws_as(Some(&token("bob"))).await;
    for ws in [&mut ann, &mut again, &mut bob] {
        ws.subscribe(&["room.1", "room.2"]).await;
    }
    let mut http = hub.http().await;
    let body = json!({"user": "bob", "channel": "room.1"}).to_string();
    assert_eq!(http.post("/api/v1/unsubscribe", body).await.ok()["sessions"], 1);
    assert_eq!(bob.expect("unsubscribed").await["channels"], json!(["room.1"]));
    assert_eq!(http.post("/api/v1/disconnect", r#"{"user":"ann"}"#).await.ok()["sessions"], 2);
    for mut ws in [ann, again] {
        let bye = ws.expect("bye").await;
        assert_eq!(
            (&bye["code"], bye.get("retry_ms")),
            (&json!(4403), None),
            "who is sent away is not told to come back"
        );
        assert!(matches!(ws.end().await, End::Closed(4403, _)));
    }
    hub.publish("room.1", json!(1)).await;
    hub.publish("room.2", json!(2)).await;
    let message = bob.expect("message").await;
    assert_eq!(message["channel"], "room.2", "the other subscription goes on, the ended one does not");
    assert_eq!(http.post("/api/v1/disconnect", "{}").await.error(), (400, 40002), "never everybody by mistake");
    assert_eq!(http.post("/api/v1/disconnect", r#"{"user":"nobody"}"#).await.ok()["sessions"], 0);
}
