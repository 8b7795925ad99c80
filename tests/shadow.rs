//! Other rules are tried beside those in charge, and put in charge when they hold.

use crate::common::spawned::{Spawned, run};
use crate::common::*;

const BEFORE: &str = "aether.on.publish('room.*', function() return true end)";

#[tokio::test]
async fn what_a_candidate_would_have_refused_is_shown_before_it_is_in_charge() {
    let dir = TempDir::new();
    dir.write("scripts/rules.lua", BEFORE);
    let (candidate, text) = manual("### Trying rules beside those in charge");
    dir.write("next/rules.lua", &candidate);
    let hub = Spawned::start_with(dir.path(), "127.0.0.1:0", &[("AETHER_PLUGINS_SCRIPTS", "scripts")]);
    let url = format!("http://{}", hub.address);
    let shadow = |arguments: &[&str]| {
        let (verb, rest) = arguments.split_first().unwrap();
        let all = [&["shadow", verb, "--url", &url, "--key", &hub.admin_key], rest].concat();
        let output = run(dir.path(), &all, &[]);
        let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        (output.status.code(), said)
    };
    let (code, said) = shadow(&["diff"]);
    assert!(code == Some(1) && said.contains("there is no shadow"), "{said}");
    let (code, said) = shadow(&["start", "next"]);
    assert!(code == Some(0) && said.contains("next runs beside the rules in charge"), "{said}");
    let none: [&str; 0] = [];
    let claims = aether::keys::Claims::new("bob", &none, &none, std::time::Duration::from_secs(3600));
    let token = claims.sign(&hub.signing_key).unwrap();
    let mut http = Http::connect(hub.address, Some(&token)).await;
    for payload in ["a", "a long one", "another long one"] {
        let body = json!({"channel": "room.1", "payload": payload}).to_string();
        http.post("/api/v1/publish", body).await.ok();
    }
    until("all are compared", async || shadow(&["diff"]).1.contains("2 differ (0 waiting")).await;
    let (_, said) = shadow(&["diff"]);
    // The operator's own requests are decisions too: how many there were depends on who asked how often.
    let differences = |said: &str| {
        said.replace(&format!("{}/", dir.path().display()), "").lines().skip(1).map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(differences(&said), differences(&text));
    let (code, said) = shadow(&["promote"]);
    assert!(code == Some(0) && said.contains("is in charge after"), "{said}");
    let body = json!({"channel": "room.1", "payload": "a long one"}).to_string();
    assert_eq!(http.post("/api/v1/publish", body).await.status, 403);
    assert_eq!(shadow(&["stop"]).0, Some(1), "it has ended");
}
