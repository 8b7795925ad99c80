//! Rules hear who comes and goes, tell those who listen, and count.

use crate::common::*;

const RULES: &str = r#"
local seen = aether.metrics.counter("joined_total", { help = "Who came", labels = { "room" } })

aether.on.join("room.{room}", { debounce = "6s" }, function(ch, sessions)
	seen:inc(#sessions, { room = ch.room })
	aether.announce(ch.name, { joined = sessions })
end)
aether.on.leave("room.{room}", { debounce = "6s" }, function(ch, sessions)
	aether.announce(ch.name, { left = sessions })
end)
"#;

#[tokio::test]
async fn those_who_listen_are_told_who_comes_and_who_goes_and_not_who_reconnects() {
    let hub = TestHub::plan().rules(RULES).start();
    let mut stream = hub.sse("channel=room.1", None).await;
    let mut watcher = hub.ws_as(Some(&hub.token_for("watcher", &["room.*"], &[]))).await;
    watcher.subscribe(&["room.1"]).await;
    // The stream may come in the same breath.
    while !watcher.expect("join").await["users"].as_array().is_some_and(|users| users.contains(&json!("watcher"))) {}
    let token = hub.token_for("ann", &["room.*"], &[]);
    let mut ann = hub.ws_as(Some(&token)).await;
    ann.subscribe(&["room.1"]).await;
    let came = watcher.expect("join").await;
    assert_eq!((&came["channel"], &came["users"], &came["sessions"]), (&json!("room.1"), &json!(["ann"]), &json!(1)));
    assert!(came["seq_id"].is_u64() && came.get("payload").is_none(), "{came}");
    ann.close().await;
    // Back in time: neither frame; the next that arrives is of her going for good.
    let mut again = hub.ws_as(Some(&token)).await;
    again.subscribe(&["room.1"]).await;
    again.close().await;
    let gone = watcher.expect("leave").await;
    assert_eq!(gone["users"], json!(["ann"]));
    let mut events = Vec::new();
    while events.last().is_none_or(|(name, _)| name != "leave") {
        let event = stream.next().await.unwrap();
        events.push((event.name.clone(), event.json()["users"].clone()));
    }
    let of_ann: Vec<_> =
        events.iter().filter(|(_, users)| *users == json!(["ann"])).map(|(name, _)| name.as_str()).collect();
    assert_eq!(of_ann, ["join", "leave"]);
    let page = hub.metrics().await;
    assert_eq!(page.get("aether_plugin_rules_joined_total{room=\"1\"}"), Some(&3.0), "{page:?}");
}

#[tokio::test]
async fn nobody_else_says_that_somebody_came() {
    let hub = TestHub::plan().rules(RULES).start();
    let mut http = hub.http().await;
    let forged = json!({ "channel": "room.1", "payload": { "users": ["eve"], "sessions": 1 }, "event": "join" });
    let answer = http.post("/api/v1/publish", forged.to_string()).await;
    assert_eq!(answer.status, 400, "{}", answer.text());
}

/// What ordinary rules say about messages: nobody but users, only texts, and for guests only titles.
const STRICT: &str = r#"
aether.on.publish("room.*", function(s) if not s.user then return aether.deny("sign_in") end end)
aether.on.transform("room.*", function(ch, msg) return if msg:get("text") then msg else nil end)
aether.on.view("room.*", "picked", { pick = { "title" } })
aether.on.view("room.*", "scripted", function(ch, msg) return msg:with_json({ title = msg:get("title") }) end)
aether.on.subscribe("room.*", function(s) return aether.allow({ view = s.user }) end)
aether.on.join("room.*", function(ch, sessions) aether.announce(ch.name, { joined = sessions }) end)
"#;

#[tokio::test]
async fn rules_about_messages_neither_refuse_nor_change_what_is_announced() {
    let hub = TestHub::plan().rules(STRICT).start();
    let mut watchers = Vec::new();
    for view in ["picked", "scripted"] {
        let mut ws = hub.ws_as(Some(&hub.token_for(view, &[], &[]))).await;
        ws.subscribe(&["room.1"]).await;
        watchers.push(ws);
    }
    let mut last = hub.ws_as(Some(&hub.token_for("full", &[], &[]))).await;
    last.subscribe(&["room.1"]).await;
    for ws in &mut watchers {
        loop {
            let frame = ws.next().await.unwrap();
            assert_eq!(frame["type"], "join", "{frame}");
            if frame["users"].as_array().is_some_and(|users| users.contains(&json!("full"))) {
                break;
            }
        }
    }
}
