//! The plugin `presence`: who is in a channel, who comes and goes, and whether somebody is online.

use crate::common::*;

const CONFIG: &str = "[[plugin]]\nuse = \"presence\"\n[plugin.config]\nchannels = [\"room.*\"]\ndebounce = \"0s\"\n\
                      [[plugin]]\nuse = \"jwt-auth\"\n[[plugin]]\nuse = \"api-keys\"";

#[tokio::test]
async fn who_comes_and_goes_is_told_to_those_who_may_know_and_kept_nowhere() {
    let hub = TestHub::plan().toml(CONFIG).start();
    let mut watcher = hub.ws().await;
    watcher.subscribe(&["presence.room.7"]).await;
    let ann = hub.token_for("ann", &["room.*"], &[]);
    let mut ws = hub.ws_as(Some(&ann)).await;
    ws.subscribe(&["room.7", "room.8"]).await;
    let joined = watcher.expect("message").await;
    assert_eq!((&joined["channel"], &joined["event"]), (&json!("presence.room.7"), &json!("joined")));
    let expected = json!({"channel": "room.7", "users": [{"user": "ann", "sessions": 1}], "anonymous": 0, "sessions": 1, "now": 1});
    assert_eq!(joined["payload"], expected);
    drop(ws);
    let left = watcher.expect("message").await;
    assert_eq!((&left["event"], &left["payload"]["now"]), (&json!("left"), &json!(0)));
    assert_eq!(hub.history("channel=presence.room.7").await["messages"], json!([]));

    let mut ws = hub.ws_as(Some(&ann)).await;
    ws.send(json!({"type": "subscribe", "channels": ["presence.room.7"]})).await;
    assert_eq!(ws.expect("error").await["code"], 40301, "it is open to nobody by itself");
}

#[tokio::test]
async fn who_is_there_can_be_asked_over_http_and_by_other_rules() {
    let rules = r#"
        local presence = require("@presence")
        aether.on.publish("page.{user}", function(s, ch)
            if not presence.online(ch.user) then return aether.deny("away") end
            local there = presence.of("room.7")
            return aether.deny("there", `{#there.users} {there.sessions}`)
        end)
    "#;
    let hub = TestHub::plan().toml(CONFIG).rules(rules).start();
    let ann = hub.token_for("ann", &["room.*"], &[]);
    let (mut one, mut two) = (hub.ws_as(Some(&ann)).await, hub.ws_as(Some(&ann)).await);
    one.subscribe(&["room.7"]).await;
    two.subscribe(&["room.7", "room.8"]).await;
    let mut http = hub.http().await;
    let there = http.get("/presence/channels/room.7").await.ok();
    assert_eq!(there["users"], json!([{"user": "ann", "sessions": 2}]));
    let online = http.get("/presence/users/ann").await.ok();
    assert_eq!((&online["online"], online["sessions"].as_array().map(Vec::len)), (&json!(true), Some(2)));
    assert_eq!(online["sessions"][0]["transport"], "ws");
    assert_eq!(http.get("/presence/users/bob").await.ok()["online"], false);
    assert_eq!(hub.http_as(Some(&ann)).await.get("/presence/users/bob").await.error(), (403, 40302));

    let mut page = async |user: &str| {
        let refused =
            http.post("/api/v1/publish", json!({"channel": format!("page.{user}"), "payload": 1}).to_string()).await;
        let error = refused.json()["error"].clone();
        (error["reason"].as_str().unwrap().to_owned(), error["message"].as_str().unwrap().to_owned())
    };
    assert_eq!(page("bob").await.0, "away");
    let (reason, why) = page("ann").await;
    assert!(reason == "there" && why.ends_with("1 2"), "{why}");
    drop((one, two));
    until("ann is gone", async || page("ann").await.0 == "away").await;
}
