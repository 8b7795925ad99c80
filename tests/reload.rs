//! Rules are replaced on the running hub: all of them or none, and nobody who listens or publishes notices.

use std::process::Output;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::common::spawned::{Spawned, run};
use crate::common::*;

const A: &str = "aether.on.publish('a.*', function() return true end)";
const B: &str = "aether.on.publish('b.*', function() return true end)";

const CHANNELS: [&str; 2] = ["pair.c", "own.c"];

async fn ask(hub: &TestHub, verb: &str) -> Response {
    hub.http().await.post(&format!("/api/v1/rules/{verb}"), "{}").await
}

/// The status of a publish by somebody who has no rights of its own.
async fn publish(hub: &TestHub, channel: &str) -> u16 {
    let token = hub.token_for("ann", &[], &[]);
    let body = json!({"channel": channel, "payload": 1}).to_string();
    hub.http_as(Some(&token)).await.post("/api/v1/publish", body).await.status
}

#[tokio::test]
async fn other_rules_are_in_charge_after_a_reload_and_the_old_ones_after_a_rollback() {
    let hub = TestHub::plan().rules(A).start();
    assert_eq!((publish(&hub, "a.1").await, publish(&hub, "b.1").await), (200, 403));
    hub.dir().write("scripts/rules.lua", B);
    assert_eq!((publish(&hub, "a.1").await, publish(&hub, "b.1").await), (200, 403), "nobody has asked for it yet");
    let change = ask(&hub, "reload").await.ok();
    assert_eq!(change["hooks_added"], json!(["rules: on.publish b.*"]));
    assert_eq!((publish(&hub, "a.1").await, publish(&hub, "b.1").await), (403, 200));
    ask(&hub, "rollback").await.ok();
    assert_eq!((publish(&hub, "a.1").await, publish(&hub, "b.1").await), (200, 403));
    let status = hub.http().await.get("/api/v1/rules").await.ok();
    assert_eq!((&status["reloads"], &status["generation"]), (&json!(2), &change["before"]));
    assert_eq!(hub.metric("aether_rules_reloads_total").await, 2.0);
}

#[tokio::test]
async fn a_reload_that_fails_changes_nothing_and_is_loud() {
    let hub = TestHub::plan().rules(A).start();
    hub.dir().write("scripts/rules.lua", "aether.on.publish('a.*', 7)\naether.on.publsh('b', print)");
    let refused = ask(&hub, "reload").await;
    assert_eq!(refused.error(), (422, 42201));
    let message = refused.json()["error"]["message"].as_str().unwrap().to_owned();
    assert!(message.contains("rules.lua:1: ") && message.contains("rules.lua:2: "), "{message}");
    assert_eq!((publish(&hub, "a.1").await, hub.metric("aether_rules_reload_failed").await), (200, 1.0));
    assert!(hub.http().await.get("/api/v1/rules").await.ok()["last_failure"]["errors"][0].is_string());
    hub.dir().write("scripts/rules.lua", A);
    ask(&hub, "reload").await.ok();
    assert_eq!(hub.metric("aether_rules_reload_failed").await, 0.0);
    assert_eq!(ask(&hub, "burn").await.status, 404);
    let stranger = hub.http_as(Some(&hub.token(&["a.*"]))).await.post("/api/v1/rules/reload", "{}").await;
    assert_eq!(stranger.error(), (403, 40302));
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

#[tokio::test]
async fn the_command_line_and_sighup_reload_too_and_a_failure_is_an_exit_code() {
    let dir = TempDir::new();
    dir.write("scripts/rules.lua", A);
    let scripts = dir.path().join("scripts").display().to_string();
    dir.write("aether.toml", &format!("[plugins]\nscripts = {scripts:?}"));
    let hub = Spawned::start_with(dir.path(), "127.0.0.1:0", &[("AETHER_PLUGINS_SCRIPTS", &scripts)]);
    let url = format!("http://{}", hub.address);
    let cli = |verb: &str| run(dir.path(), &[verb, "--url", &url, "--key", &hub.admin_key], &[]);
    dir.write("scripts/rules.lua", B);
    let done = cli("reload");
    assert!(done.status.success() && said(&done).contains("+ rules: on.publish b.*"), "{}", said(&done));
    assert!(!said(&done).contains("restart"), "{}", said(&done));
    dir.write("aether.toml", &format!("[plugins]\nscripts = {scripts:?}\n[limits]\nconnections = 7"));
    let done = cli("reload");
    let told = "  needs a restart: limits.connections = 7, until then it is 100000\n";
    assert!(done.status.success() && said(&done).ends_with(told), "{}", said(&done));
    dir.write("scripts/rules.lua", "local = 3");
    let failed = cli("reload");
    assert!(failed.status.code() == Some(1) && said(&failed).contains("rules.lua:1:"), "{}", said(&failed));
    assert!(cli("rollback").status.success());
    dir.write("scripts/rules.lua", "-- nothing");
    hub.signal("HUP");
    let mut http = Http::connect(hub.address, Some(&hub.admin_key)).await;
    until("SIGHUP is heard", async || http.get("/api/v1/rules").await.ok()["reloads"] == 4).await;
}

#[tokio::test]
async fn a_reload_whose_tests_fail_is_refused_if_they_are_to_be_played() {
    let hub = TestHub::plan().rules(A).with(|config| config.plugins.test_on_reload = true).start();
    let case = "local t = aether.test\nt.case('a is open', function()\n\tt.allowed(t.publish(nil, 'a.1', 1))\nend)";
    hub.dir().write("scripts/tests/rules.lua", case);
    hub.dir().write("scripts/rules.lua", B);
    let refused = ask(&hub, "reload").await;
    assert_eq!(refused.error(), (422, 42201));
    assert!(refused.text().contains("tests/rules.lua:3: the case \\\"a is open\\\" fails"), "{}", refused.text());
    assert_eq!((publish(&hub, "a.1").await, publish(&hub, "b.1").await), (200, 403));
    hub.dir().write("scripts/rules.lua", &format!("{A}\n{B}"));
    ask(&hub, "reload").await.ok();
    assert_eq!((publish(&hub, "a.1").await, publish(&hub, "b.1").await), (200, 200));
}

#[tokio::test]
async fn a_watching_hub_loads_what_changes() {
    let hub = TestHub::plan().rules(A).with(|config| config.plugins.watch = true).start();
    hub.dir().write("scripts/rules.lua", B);
    until("the change is loaded", async || publish(&hub, "b.1").await == 200).await;
}

/// Rule pairs that would disagree: what one generation says at connect, only its own publish hook accepts.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_reloads_under_load_lose_no_message_drop_no_connection_and_mix_no_generations() {
    let rules = |side: &str| {
        format!(
            "aether.on.connect(function(req)
                 if req:header('x-who') == 'pair' then return aether.allow({{user = '{side}'}}) end
             end)
             aether.on.publish('pair.*', function(s) return s.user == '{side}' end)"
        )
    };
    let hub = Arc::new(TestHub::plan().rules(&rules("left")).start());
    let mut listeners = [hub.ws().await, hub.ws().await];
    for (listener, channel) in listeners.iter_mut().zip(CHANNELS) {
        listener.resume(channel, 0).await;
    }
    let done = Arc::new(AtomicBool::new(false));
    let writers: Vec<_> = CHANNELS
        .into_iter()
        .map(|channel| {
            let (hub, done) = (hub.clone(), done.clone());
            tokio::spawn(async move {
                let key = (channel == "own.c").then(|| hub.keys.admin_key().to_owned());
                let mut http = Http::connect(hub.address, key.as_deref()).await;
                let mut count = 0;
                while !done.load(Ordering::Relaxed) {
                    count += 3;
                    let message = json!({"channel": channel, "payload": 1});
                    let batch = json!({"messages": [message, message, message]}).to_string();
                    let said = http.send("POST", "/api/v1/publish/batch", &[("x-who", "pair")], batch.as_bytes()).await;
                    for result in said.ok()["results"].as_array().unwrap() {
                        assert_eq!(result["status"], "success", "{channel}: {result}");
                    }
                }
                count
            })
        })
        .collect();
    for n in 0..100 {
        hub.dir().write("scripts/rules.lua", &rules(["right", "left"][n % 2]));
        ask(&hub, "reload").await.ok();
    }
    done.store(true, Ordering::Relaxed);
    for ((writer, mut listener), channel) in writers.into_iter().zip(listeners).zip(CHANNELS) {
        let count = writer.await.unwrap();
        listener.read_to(channel, count).await.assert_exactly(1, count);
    }
    assert_eq!(hub.metric("aether_rules_reloads_total").await, 100.0);
}
