//! Rules that act on the hub: they publish, and send sessions away.

use crate::common::*;

const RULES: &str = r#"
aether.on.publish("room.{room}", function(s, ch, msg)
	aether.publish("audit." .. ch.room, { who = s.user or s.id, said = msg:json() }, { event = "said" })
	return nil
end)
aether.on.publish("echo.*", function(s, ch, msg)
	aether.publish(ch.name, "again")
	return nil
end)
aether.http.route("POST", "/kick/{user}", function(req)
	return { json = { kicked = aether.kick({ user = req.params.user, why = "no spam, please" }) } }
end)
aether.http.route("POST", "/leave/{user}", function(req)
	return { json = { left = aether.unsubscribe({ user = req.params.user, channel = "room.1" }) } }
end)
aether.http.route("GET", "/who", function(req)
	local users = {}
	for at, one in aether.presence("room.1") do users[at] = one.user end
	return { json = { listening = users, connected = #aether.sessions() } }
end)
"#;

#[tokio::test]
async fn what_a_rule_publishes_arrives_once_and_in_the_order_in_which_it_was_said() {
    let hub = TestHub::plan().rules(RULES).start();
    let mut ws = hub.ws().await;
    ws.subscribe(&["audit.1", "echo.1"]).await;
    hub.publish_numbers("room.1", 1, 300).await;
    for n in 1..=300 {
        let frame = ws.expect("message").await;
        assert_eq!(
            (&frame["channel"], &frame["seq_id"], &frame["event"]),
            (&json!("audit.1"), &json!(n), &json!("said"))
        );
        assert_eq!(frame["payload"]["said"], json!(n));
    }
    // A hook that publishes to its own channel is not asked about that.
    hub.publish("echo.1", json!("first")).await;
    assert_eq!(ws.expect("message").await["payload"], "first");
    assert_eq!(ws.expect("message").await["payload"], "again");
    hub.publish("audit.1", json!("last")).await;
    assert_eq!(ws.expect("message").await["payload"], "last");
    assert_eq!(hub.history("channel=echo.1").await["messages"].as_array().map(Vec::len), Some(2));
}

#[tokio::test]
async fn a_rule_sees_who_listens_and_sends_away_with_a_reason() {
    let hub = TestHub::plan().rules(RULES).start();
    let mut ann = hub.ws_as(Some(&hub.token_for("ann", &["room.*"], &[]))).await;
    let mut bob = hub.ws_as(Some(&hub.token_for("bob", &["room.*"], &[]))).await;
    ann.subscribe(&["room.1"]).await;
    bob.subscribe(&["room.1"]).await;
    let mut http = hub.http().await;
    let who = http.get("/who").await.ok();
    let mut listening: Vec<_> = who["listening"].as_array().unwrap().iter().filter_map(Json::as_str).collect();
    listening.sort();
    assert_eq!((listening, &who["connected"]), (vec!["ann", "bob"], &json!(2)));

    assert_eq!(http.post("/leave/ann", "").await.ok()["left"], 1);
    assert_eq!(ann.expect("unsubscribed").await["channels"], json!(["room.1"]));
    assert_eq!(http.post("/kick/bob", "").await.ok()["kicked"], 1);
    let bye = bob.expect("bye").await;
    assert_eq!((&bye["code"], &bye["reason"]), (&json!(4403), &json!("no spam, please")));
    until("only ann is there", async || hub.http().await.get("/who").await.ok()["connected"] == 1).await;
}
