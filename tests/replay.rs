//! Other rules are put to what was decided and said before.

use std::process::Stdio;

use crate::common::spawned::{Spawned, aether, run};
use crate::common::*;

const BEFORE: &str = "aether.on.publish('room.*', function() return true end)";
/// Spends its time within what a hook may have.
const SLOW: &str = "aether.on.publish('room.*', function() for i = 1, 20000 do local t = { i } end return true end)";

async fn say(hub: &Spawned, channel: &str, payloads: impl Iterator<Item = Json>) {
    let messages: Vec<_> = payloads.map(|payload| json!({"channel": channel, "payload": payload})).collect();
    let mut http = Http::connect(hub.address, Some(&hub.admin_key)).await;
    http.post("/api/v1/publish/batch", json!({"messages": messages}).to_string()).await.ok();
}

#[tokio::test]
async fn messages_that_a_candidate_would_refuse_are_found_also_where_nobody_is() {
    let dir = TempDir::new();
    dir.write("scripts/rules.lua", BEFORE);
    let (candidate, _) = manual("### Trying rules beside those in charge");
    dir.write("next/rules.lua", &candidate);
    let settings = [("AETHER_PLUGINS_SCRIPTS", "scripts")];
    let hub = Spawned::start_with(dir.path(), "127.0.0.1:0", &settings);
    say(&hub, "room.1", [json!("a"), json!("a long one"), json!("another long one")].into_iter()).await;
    say(&hub, "room.2", [json!("a long one")].into_iter()).await;
    let address = hub.address.to_string();
    drop(hub);
    // Nothing is in memory of what is only in the store now.
    let hub = Spawned::start_with(dir.path(), &address, &settings);
    let url = format!("http://{}", hub.address);
    let replay = |channel: &str, more: &[&str]| {
        let all = [&["replay", "next", "--url", &url, "--key", &hub.admin_key, "--channels", channel], more].concat();
        let output = run(dir.path(), &all, &[]);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    let said = replay("room.1", &[]);
    assert!(
        said.contains("3 stored messages, as if from somebody unknown: 2 would be refused, 0 changed, 0 let in\n"),
        "{said}"
    );
    assert!(said.contains("  2 x allow -> deny denied (publish, on.publish room.*)"), "{said}");
    assert!(said.contains("next/rules.lua:1: too long)"), "{said}");
    let json: Json = serde_json::from_str(&replay("room.2", &["--json"])).unwrap();
    assert_eq!((&json["messages"]["replayed"], &json["messages"]["would_be_refused"]), (&json!(1), &json!(1)));
    assert_eq!(json["whole"], true);
}

#[tokio::test]
async fn an_interrupted_replay_ends_on_the_hub_and_tells_what_it_found() {
    let dir = TempDir::new();
    dir.write("scripts/rules.lua", BEFORE);
    dir.write("next/rules.lua", SLOW);
    let hub = Spawned::start_with(dir.path(), "127.0.0.1:0", &[("AETHER_PLUGINS_SCRIPTS", "scripts")]);
    for _ in 0..50 {
        say(&hub, "room.1", (0..100).map(Json::from)).await;
    }
    let url = format!("http://{}", hub.address);
    let mut command = aether(dir.path());
    command.args(["replay", "next", "--url", &url, "--key", &hub.admin_key, "--channels", "room.1", "--json"]);
    let child = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut http = Http::connect(hub.address, Some(&hub.admin_key)).await;
    until("it runs", async || {
        let answer = http.post("/api/v1/rules/replay", r#"{"limit":0,"since":"0s"}"#).await;
        answer.text().contains("a replay is running already")
    })
    .await;
    assert!(std::process::Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    let json: Json = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(json["whole"], false, "{json}");
    assert!(json["messages"]["replayed"].as_u64().unwrap() < 5000, "{json}");
    let stopped = http.post("/api/v1/rules/replay_stop", "{}").await;
    assert_eq!(stopped.error().0, 422, "none runs any more");
}
