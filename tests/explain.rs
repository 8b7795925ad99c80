//! An operator is told why: of a decision that was made, and of one that would be.

use crate::common::spawned::{Spawned, run};
use crate::common::*;

fn out(output: &std::process::Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[tokio::test]
async fn the_example_of_the_manual_comes_out_as_it_says() {
    let (rules, text) = manual("## Why was this refused?");
    let dir = TempDir::new();
    dir.write("scripts/rules.lua", &rules);
    let hub = Spawned::start_with(dir.path(), "127.0.0.1:0", &[("AETHER_PLUGINS_SCRIPTS", "scripts")]);
    let url = format!("http://{}", hub.address);
    let none: [&str; 0] = [];
    let claims = aether::keys::Claims::new("bob", &none, &none, std::time::Duration::from_secs(3600));
    let mut ws = WsClient::connect(hub.address, Some(&claims.sign(&hub.signing_key).unwrap())).await;
    ws.send(json!({"type": "subscribe", "channels": ["room.1"]})).await;
    let refused = ws.expect("error").await;
    let id = refused["decision"].as_str().unwrap_or_else(|| panic!("{refused}")).to_owned();
    let explain = |arguments: &[&str]| {
        let all = [&["explain", "--url", &url, "--key", &hub.admin_key], arguments].concat();
        run(dir.path(), &all, &[])
    };
    let said = out(&explain(&[&id]));
    assert_eq!(said, text.replace("v3ayvee6", &id));
    let would = out(&explain(&["--user", "bob", "--subscribe", "room.1"]));
    assert!(would.starts_with("subscribe room.1 by bob: would be denied (not_member)\n"), "{would}");
    assert!(would.contains("    kv.get members [\"1\",\"bob\"] -> null\n"), "{would}");
    let json: Json = serde_json::from_slice(&explain(&["--json", &id]).stdout).unwrap();
    assert_eq!(json["decisions"][0]["hooks"][0]["at"], "scripts/rules.lua:5");
    let unknown = explain(&["nosuchid"]);
    assert!(
        unknown.status.code() == Some(1) && String::from_utf8_lossy(&unknown.stderr).contains("nosuchid is not kept")
    );
    assert_eq!(explain(&["--user", "bob"]).status.code(), Some(2), "it says not what for");
}

#[tokio::test]
async fn whoever_is_connected_and_whatever_was_refused_over_http_can_be_asked_about() {
    let hub = TestHub::plan()
        .rules("aether.on.publish('room.*', function(s, ch, msg) return msg.size < 9, 'too long' end)")
        .start();
    let token = hub.token_for("ann", &["room.*"], &[]);
    let mut ws = hub.ws_as(Some(&token)).await;
    ws.subscribe(&["room.1"]).await;
    let mut http = hub.http().await;
    let session = http.get("/api/v1/sessions?user=ann").await.ok()["sessions"][0]["id"].as_str().unwrap().to_owned();
    let question = json!({"session": session, "subscribe": "room.2"}).to_string();
    let answer = http.post("/api/v1/rules/explain", question).await.ok();
    assert_eq!((&answer["what_if"], &answer["decisions"][0]["grant"]), (&json!(true), &json!("room.*")));
    let body = json!({"channel": "room.1", "payload": "a long payload"}).to_string();
    let refused = hub.http_as(Some(&token)).await.post("/api/v1/publish", body).await.json();
    let id = refused["error"]["decision"].as_str().unwrap_or_else(|| panic!("{refused}")).to_owned();
    let answer = http.post("/api/v1/rules/explain", json!({"decision": id}).to_string()).await.ok();
    let it = &answer["decisions"][0];
    assert_eq!((&it["why"], &it["asked"]["message"]["payload"]), (&json!("too long"), &json!("<string of 14>")));
    let answer = http.post("/api/v1/rules/explain", json!({"decision": id, "full": true}).to_string()).await.ok();
    assert_eq!(answer["decisions"][0]["asked"]["message"]["payload"], "a long payload");
    let question = json!({"session": "nobody", "subscribe": "room.2"}).to_string();
    assert_eq!(http.post("/api/v1/rules/explain", question).await.error(), (422, 42201));
    assert_eq!(http.post("/api/v1/rules/explain", "{}").await.status, 400);
    let stranger = hub.http_as(Some(&token)).await.post("/api/v1/rules/explain", "{}").await;
    assert_eq!(stranger.error(), (403, 40302));
}
