//! What rules keep: there after a restart, and after `kill -9` as far as it was synced.

use crate::common::*;

const RULES: &str = r#"
local kept = aether.kv("kept")

aether.on.connect(function(req)
	if req.query.remember then
		kept:set({ "word", req.query.word }, req.query.remember)
		kept:incr("count")
		kept:sync()
		return aether.allow()
	end
	return nil
end)

-- Says what is kept, in a refusal that everybody can read.
aether.on.publish("ask.{word}", function(s, ch)
	return aether.deny("kept", `{kept:get("word", ch.word)} of {kept:get("count")}, {kept:get("loose")}`)
end)

aether.on.publish("loose", function(s, ch, msg)
	kept:set("loose", msg:json())
	return true
end)
"#;

async fn ask(hub: &Spawned, word: &str) -> String {
    let mut http = Http::connect(hub.address, Some(&hub.admin_key)).await;
    let refused =
        http.post("/api/v1/publish", json!({"channel": format!("ask.{word}"), "payload": 1}).to_string()).await;
    let said = refused.json()["error"]["message"].as_str().unwrap_or_default().to_owned();
    said.rsplit_once(": ").map_or(said.clone(), |(_, kept)| kept.to_owned())
}

async fn remember(hub: &Spawned, word: &str, value: &str) {
    let path = format!("/ws?word={word}&remember={value}");
    WsClient::open(hub.address, &path, &[], None).await.unwrap().close().await;
}

#[tokio::test]
async fn what_was_synced_survives_kill_9_and_everything_survives_a_restart() {
    let dir = TempDir::new();
    dir.write("scripts/rules.lua", RULES);
    // Nobody else flushes meanwhile: what survives does so because of `sync`.
    dir.write("aether.toml", "[store]\nflush_interval = \"1m\"\n");
    let mut hub = Spawned::start(dir.path());
    for n in 1..=20 {
        remember(&hub, &format!("w{n}"), &n.to_string()).await;
        if n % 5 == 0 {
            hub.kill_and_restart(dir.path());
            for before in 1..=n {
                assert_eq!(ask(&hub, &format!("w{before}")).await, format!("{before} of {n}, nil"));
            }
        }
    }
    let mut http = Http::connect(hub.address, Some(&hub.admin_key)).await;
    http.post("/api/v1/publish", r#"{"channel":"loose","payload":"not synced"}"#).await.ok();
    hub.signal("TERM");
    assert!(hub.wait().await.success());
    hub = Spawned::start(dir.path());
    assert_eq!(ask(&hub, "w20").await, "20 of 20, not synced");
}
