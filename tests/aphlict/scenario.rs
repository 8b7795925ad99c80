//! Phorge's two sides, as 3.8 of what is known of them describes: its page in Node, its publisher in Python, with a node killed
//! between them.

use std::process::Command;

use super::*;
use crate::real_clients::{node, python};

const LAST: usize = 120;

#[tokio::test]
async fn phorges_page_and_back_end_do_not_notice_that_a_node_is_killed() {
    let (Some(node), Some(python)) = (node(), python()) else { return };
    let addresses: Vec<_> = (0..2).map(|_| (free_address(), free_address())).collect();
    let admins: Vec<_> = addresses.iter().map(|(_, admin)| *admin).collect();
    let mut hubs = Vec::new();
    for (client, admin) in &addresses {
        let dir = TempDir::new();
        dir.write("aether.toml", &settings(*client, *admin, &admins, ""));
        hubs.push((Spawned::start(dir.path()), dir));
    }
    let (client, last) = (addresses[0].0, LAST.to_string());
    let url = format!("ws://{client}/ws/~acme/");
    let script = node.join("aphlict_browser.mjs");
    let mut page = Program::start(Command::new("node").arg(script).args([url.as_str(), "PHID-USER-1", &last]));
    page.until_err("connected").await;
    // What was said before it listens is not for it: the first it is told must be the first there is.
    until("it listens", async || status(admins[0], "acme").await["clients.active"] == 1).await;
    let servers = admins.iter().map(SocketAddr::to_string).collect::<Vec<_>>().join(",");
    let script = python.join("aphlict_publisher.py");
    let arguments = [servers, client.to_string(), "acme".into(), "PHID-USER-1".into(), last];
    let mut publisher = Program::start(Command::new("python3").arg(script).args(arguments));
    page.until_lines(LAST / 4).await;
    // What was accepted and not yet delivered may go with the process, there as here: so nothing of that kind is under way.
    publisher.signal("STOP");
    let all = async || status(admins[0], "acme").await["messages.in"].as_u64() == Some(page.out().len() as u64);
    until("the page has been told all", all).await;
    let (hub, dir) = &mut hubs[0];
    hub.kill_9();
    publisher.signal("CONT");
    publisher.until_lines(publisher.out().len() + 20).await;
    *hub = Spawned::start(dir.path());
    assert_eq!(publisher.end().await, Some(0), "{}", publisher.err());
    let accepted = publisher.out();
    assert!(accepted.len() == LAST && !accepted.iter().any(|line| line.ends_with("None")), "{}", publisher.err());
    page.until_lines(LAST).await;
    assert_eq!(page.end().await, Some(0), "{}", page.err());
    let mut heard = page.out();
    heard.sort_by_key(|line| line.split(' ').next().and_then(|n| n.parse::<usize>().ok()));
    let wanted: Vec<_> = (1..=LAST).map(|n| format!("{n} お/知らせ")).collect();
    assert_eq!(heard, wanted);
    assert!(page.err().matches("connected").count() >= 2, "{}", page.err());
}
