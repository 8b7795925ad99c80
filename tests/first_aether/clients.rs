//! Clients written as its documentation tells its users to: a token in the query, a number per channel, nothing of this hub's own.

use std::process::Command;

use crate::common::*;
use crate::real_clients::python;

const LAST: u64 = 400;

/// A hub that is killed under a publisher; the client comes back with the numbers it has, and has every message once.
#[tokio::test]
async fn a_program_with_websockets_for_python_needs_no_change_and_misses_nothing() {
    let Some(home) = python() else { return };
    let dir = TempDir::new();
    let mut hub = Spawned::start(dir.path());
    let mut command = Command::new("python3");
    command.env("PYTHONPATH", home).arg(home.join("first_aether_client.py"));
    command.args([&hub.address.to_string(), &hub.token(&["order.*"]), "order.1", &LAST.to_string()]);
    let mut client = Program::start(&mut command);
    client.until_err("subscribed").await;
    let publishing = Stubborn::start(hub.address, hub.admin_key.clone(), "order.1", LAST);
    client.until_lines(LAST as usize / 4).await;
    publishing.go_on().await;
    hub.kill_and_restart(dir.path());
    publishing.finish().await;
    assert_eq!(client.end().await, Some(0), "{}", client.err());
    let wanted: Vec<String> = (1..=LAST).map(|n| format!("{n} {n}")).collect();
    assert!(client.out() == wanted, "{:?}", client.out());
    assert!(client.err().matches("subscribed").count() >= 2, "{}", client.err());
}

/// A back end's program: it publishes, alone and in batches, reads back, makes a key, with nothing but the standard library.
#[tokio::test]
async fn a_back_end_in_python_needs_no_change() {
    let Some(home) = python() else { return };
    let hub = TestHub::plan().toml(super::webhooks::CONFIG).start();
    let mut ws = hub.ws().await;
    ws.subscribe(&["order.1"]).await;
    let mut command = Command::new("python3");
    command.arg(home.join("first_aether_back_end.py"));
    command.args([&format!("http://{}", hub.address), hub.keys.admin_key()]);
    let mut program = Program::start(&mut command);
    assert_eq!(program.end().await, Some(0), "{}", program.err());
    assert_eq!(
        program.out(),
        ["published 1", "again 1", "batch 2 1 40002", "history [1, 2] False", "key works", "webhook 3", "done"]
    );
    ws.read_to("order.1", 3).await.assert_exactly(1, 3);
}

/// A page: its own script, the token in the query, and a connection that is closed under it.
#[tokio::test]
async fn a_page_needs_no_change() {
    let Some(mut page) = Browser::open().await else { return };
    let dir = TempDir::new();
    let mut hub = Spawned::start(dir.path());
    page.visit(&format!("http://{}/healthz", hub.address)).await;
    page.until("document.body?.innerText ?? ''", |text| text.contains("ok")).await;
    let script = std::fs::read_to_string(repository().join("tests/clients/first_aether_page.js")).unwrap();
    page.eval(&format!("{script}\nfollow({:?}, \"order.1\")", hub.token(&["order.*"]))).await;
    page.until("subscribed", |count| count == "1").await;
    publish_stubbornly(hub.address, hub.admin_key.clone(), "order.1", 50).await;
    page.until("shown.length", |count| count == "50").await;
    hub.kill_and_restart(dir.path());
    publish_stubbornly(hub.address, hub.admin_key.clone(), "order.1", 100).await;
    page.until("shown.length", |count| count.parse::<u64>().is_ok_and(|count| count >= 100)).await;
    page.until("subscribed > 1", |more| more == "true").await;
    let shown: Vec<u64> = serde_json::from_value(page.eval("shown").await).unwrap();
    assert_eq!(shown, (1..=100).collect::<Vec<_>>());
    assert_eq!(page.eval("gaps").await, json!([]));
}
