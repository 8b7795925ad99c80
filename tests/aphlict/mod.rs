//! The protocol of Aphlict and gorge-notification, as their clients see it, without what was wrong with it.

mod faults;
mod golden;
mod mesh;
mod scenario;

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::atomic::{AtomicU16, Ordering};

use crate::common::*;

/// An address that nobody has. Below the ports that the system gives to outgoing connections, of which other tests make many.
pub fn free_address() -> SocketAddr {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    loop {
        let step = NEXT.fetch_add(1, Ordering::Relaxed).wrapping_add((std::process::id() % 10_000) as u16);
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 20_000 + step % 12_000));
        if TcpListener::bind(address).is_ok() {
            return address;
        }
    }
}

/// What stands in aether.toml for a node.
pub fn settings(client: SocketAddr, admin: SocketAddr, peers: &[SocketAddr], more: &str) -> String {
    let peers: Vec<String> = peers.iter().map(|peer| format!("http://{peer}")).collect();
    format!(
        "[[plugin]]\nuse = \"jwt-auth\"\n[[plugin]]\nuse = \"aphlict\"\n[plugin.config]\n\
         client = [\"{client}\"]\nadmin = [\"{admin}\"]\npeers = {peers:?}\n{more}"
    )
}

/// A hub in this process that speaks it.
pub struct Node {
    pub hub: TestHub,
    pub client: SocketAddr,
    pub admin: SocketAddr,
}

impl Node {
    pub fn start() -> Node {
        Node::with("")
    }

    /// `more`: settings of the plugin, then other sections.
    pub fn with(more: &str) -> Node {
        let (client, admin) = (free_address(), free_address());
        Node { hub: TestHub::plan().toml(&settings(client, admin, &[], more)).start(), client, admin }
    }

    pub async fn browser(&self, path: &str) -> WsClient {
        browser(self.client, path).await
    }

    pub async fn post(&self, path: &str, body: &str) -> Response {
        post(self.admin, path, body).await
    }

    pub async fn status(&self, instance: &str) -> Json {
        status(self.admin, instance).await
    }
}

/// As Phorge's page comes: from the same host, on another port.
pub async fn browser(client: SocketAddr, path: &str) -> WsClient {
    let headers = [("origin", "https://127.0.0.1"), ("cookie", "phsid=hunter2")];
    let opened = WsClient::open(client, path, &headers, None).await;
    opened.unwrap_or_else(|error| panic!("{path}: {error}"))
}

pub async fn post(admin: SocketAddr, path: &str, body: &str) -> Response {
    Http::connect(admin, None).await.post(path, body).await
}

pub async fn status(admin: SocketAddr, instance: &str) -> Json {
    Http::connect(admin, None).await.get(&format!("/status/?instance={instance}")).await.ok()
}

pub async fn say(client: &mut WsClient, command: &str, data: Json) {
    client.send(json!({"command": command, "data": data})).await;
}

/// Nothing is on its way: the answer to a ping is the next frame. Everything that was said before has been done.
pub async fn assert_silent(client: &mut WsClient) {
    say(client, "ping", Json::Null).await;
    assert_eq!(client.next_text().await, r#"{"type":"pong"}"#);
}

pub async fn subscribe(client: &mut WsClient, ids: &[&str]) {
    say(client, "subscribe", json!(ids)).await;
    assert_silent(client).await;
}

/// So many messages, and all that come with them: an answer to a ping may overtake what was published before it.
pub async fn heard(client: &mut WsClient, least: usize) -> Vec<Json> {
    let deadline = std::time::Instant::now() + DEADLINE;
    let mut all = until_pong(client).await;
    while all.len() < least {
        assert!(std::time::Instant::now() < deadline, "{least} messages: only {all:?}");
        all.extend(until_pong(client).await);
    }
    all
}

/// All that comes before the answer to a ping.
pub async fn until_pong(client: &mut WsClient) -> Vec<Json> {
    say(client, "ping", Json::Null).await;
    let mut all = Vec::new();
    loop {
        let frame: Json = serde_json::from_str(&client.next_text().await).unwrap();
        if frame["type"] == "pong" {
            return all;
        }
        all.push(frame);
    }
}
