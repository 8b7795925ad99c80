//! Nodes that tell each other, each a process: a message reaches every browser once, whatever ways there are.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};

use super::*;

const TEXT: &str = "お知らせ: 「日本語」🎌 \u{1F468}\u{200D}\u{1F469}";

struct Mesh {
    nodes: Vec<Member>,
}

struct Member {
    dir: TempDir,
    hub: Spawned,
    client: SocketAddr,
    admin: SocketAddr,
}

impl Mesh {
    /// Everybody has everybody as a peer, itself and `others` too.
    fn of(count: usize, others: &[SocketAddr], more: &str) -> Mesh {
        let addresses: Vec<_> = (0..count).map(|_| (free_address(), free_address())).collect();
        let peers: Vec<_> = addresses.iter().map(|(_, admin)| *admin).chain(others.iter().copied()).collect();
        let start = |(client, admin): &(SocketAddr, SocketAddr)| {
            let dir = TempDir::new();
            dir.write("aether.toml", &settings(*client, *admin, &peers, more));
            Member { hub: Spawned::start(dir.path()), dir, client: *client, admin: *admin }
        };
        Mesh { nodes: addresses.iter().map(start).collect() }
    }

    /// A browser at each node that listens to an id.
    async fn browsers(&self, id: &str) -> Vec<WsClient> {
        let mut browsers = Vec::new();
        for node in &self.nodes {
            let mut one = browser(node.client, "/ws/~acme/").await;
            subscribe(&mut one, &[id, "PHID-OTHER"]).await;
            browsers.push(one);
        }
        browsers
    }

    /// Posts number `n` at a node, as Phorge's client does.
    async fn post(&self, at: usize, n: usize) {
        let body = json!({
            "type": "notification", "key": TEXT, "n": n, "uniqueID": format!("{n:032}"),
            "subscribers": ["PHID-1", "PHID-OTHER"],
        });
        let answer = post(self.nodes[at].admin, "/?instance=acme", &body.to_string()).await;
        assert_eq!(answer.ok()["fingerprint"].as_str().map(str::len), Some(16));
    }
}

/// The numbers that come until all of `wanted` have, and for a while after; each with how often.
async fn hear(client: &mut WsClient, wanted: impl Iterator<Item = usize>) -> BTreeMap<usize, usize> {
    let wanted: Vec<usize> = wanted.collect();
    let (mut heard, deadline) = (BTreeMap::new(), Instant::now() + 2 * DEADLINE);
    let mut quiet = 0;
    // Several looks after the last, so that one too many would be seen.
    while quiet < 5 {
        let frames = until_pong(client).await;
        for frame in &frames {
            assert_eq!(frame["key"], TEXT);
            *heard.entry(frame["n"].as_u64().unwrap() as usize).or_insert(0) += 1;
        }
        let whole = wanted.iter().all(|n| heard.contains_key(n));
        quiet = if whole && frames.is_empty() { quiet + 1 } else { 0 };
        assert!(Instant::now() < deadline, "{} of {}: {heard:?}", heard.len(), wanted.len());
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    heard
}

fn once_each(numbers: impl Iterator<Item = usize>) -> BTreeMap<usize, usize> {
    numbers.map(|n| (n, 1)).collect()
}

async fn each_once(count: usize, more: &str) {
    let mesh = Mesh::of(count, &[], more);
    let mut browsers = mesh.browsers("PHID-1").await;
    let all = 5 * count;
    for n in 0..all {
        mesh.post(n % count, n).await;
    }
    for one in &mut browsers {
        assert_eq!(hear(one, 0..all).await, once_each(0..all));
        // What is kept has been kept once, at every node.
        say(one, "replay", json!({"age": 60_000})).await;
        assert_eq!(hear(one, 0..all).await, once_each(0..all));
    }
    for node in &mesh.nodes {
        let status = status(node.admin, "acme").await;
        let counts =
            ["messages.in", "messages.out", "history.size"].map(|name| status[name].as_u64().unwrap() as usize);
        assert_eq!(counts, [all, all, all], "copies of peers do not count");
    }
}

#[tokio::test]
async fn in_a_mesh_of_three_nodes_each_browser_hears_each_message_once() {
    each_once(3, "").await;
}

#[tokio::test]
async fn in_a_mesh_of_six_nodes_each_browser_hears_each_message_once() {
    each_once(6, "").await;
}

#[tokio::test]
async fn in_a_full_mesh_that_says_so_each_browser_hears_each_message_once() {
    each_once(3, "full_mesh = true").await;
}

#[tokio::test]
async fn a_node_that_goes_down_holds_up_nobody_and_hears_what_it_missed() {
    let mut mesh = Mesh::of(3, &[], "");
    let mut browsers = mesh.browsers("PHID-1").await;
    mesh.post(0, 0).await;
    for one in &mut browsers {
        assert_eq!(hear(one, 0..1).await, once_each(0..1));
    }
    mesh.nodes[2].hub.kill_9();
    browsers.pop();
    for n in 1..20 {
        let began = Instant::now();
        mesh.post(n % 2, n).await;
        // Phorge waits two seconds for an answer.
        assert!(began.elapsed() < std::time::Duration::from_secs(2), "{:?}", began.elapsed());
    }
    for one in &mut browsers {
        assert_eq!(hear(one, 1..20).await, once_each(1..20));
    }
    let lost = &mut mesh.nodes[2];
    lost.hub = Spawned::start(lost.dir.path());
    let mut back = browser(lost.client, "/ws/~acme/").await;
    // Its peers tell it at once what it missed.
    say(&mut back, "subscribe", json!(["PHID-1"])).await;
    until_pong(&mut back).await;
    mesh.post(2, 20).await;
    mesh.post(0, 21).await;
    // What came before it listened is replayed, what comes after is live; both at once may repeat one, which is why browsers compare.
    assert_eq!(hear(&mut browsers[0], 20..22).await, once_each(20..22));
    until("it has been told all", async || status(mesh.nodes[2].admin, "acme").await["messages.in"] == 21).await;
    until_pong(&mut back).await;
    say(&mut back, "replay", json!({"age": 60_000})).await;
    let heard = hear(&mut back, 1..22).await;
    assert!(heard.iter().all(|(_, times)| *times == 1) && heard.len() >= 21, "{heard:?}");
}

#[tokio::test]
async fn a_peer_that_takes_connections_and_says_nothing_holds_up_nobody() {
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mesh = Mesh::of(2, &[silent.local_addr().unwrap()], "");
    let mut browsers = mesh.browsers("PHID-1").await;
    for n in 0..10 {
        let began = Instant::now();
        mesh.post(0, n).await;
        assert!(began.elapsed() < std::time::Duration::from_secs(1), "{:?}", began.elapsed());
    }
    for one in &mut browsers {
        assert_eq!(hear(one, 0..10).await, once_each(0..10));
    }
}

/// An Aphlict of old: it sends on whatever it has not touched itself, to all who have not.
struct Old {
    fingerprint: String,
    peers: Vec<SocketAddr>,
    /// Their fingerprints, from their receipts.
    known: Mutex<BTreeMap<SocketAddr, String>>,
}

impl Old {
    async fn serve(self: Arc<Old>, listener: TcpListener) {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            tokio::spawn(self.clone().answer(stream));
        }
    }

    async fn answer(self: Arc<Old>, mut stream: TcpStream) {
        let mut rest = Vec::new();
        let end = loop {
            if let Some(at) = rest.windows(4).position(|four| four == b"\r\n\r\n") {
                break at + 4;
            }
            if http::fill(&mut stream, &mut rest).await.is_err() {
                return;
            }
        };
        let head = String::from_utf8_lossy(&rest[..end]).to_ascii_lowercase();
        let length = head.split("content-length: ").nth(1).and_then(|text| text.lines().next()?.parse().ok());
        let length: usize = length.expect("a length in bytes");
        while rest.len() < end + length {
            http::fill(&mut stream, &mut rest).await.unwrap();
        }
        let body = format!("{{\"fingerprint\":\"{}\"}}", self.fingerprint);
        let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}", body.len());
        let _ = stream.write_all(answer.as_bytes()).await;
        drop(stream);
        let mut said: Json = serde_json::from_slice(&rest[end..]).expect("the whole body, in UTF-8");
        let touched = said["touched"].as_array().into_iter().flatten().map(|one| one.as_str().unwrap().to_owned());
        let mut touched: Vec<String> = touched.collect();
        if touched.contains(&self.fingerprint) {
            return;
        }
        touched.push(self.fingerprint.clone());
        said["touched"] = json!(touched);
        for peer in &self.peers {
            let knows = self.known.lock().unwrap().get(peer).is_some_and(|known| touched.contains(known));
            if !knows {
                let receipt = post(*peer, "/?instance=acme", &said.to_string()).await.ok();
                let fingerprint = receipt["fingerprint"].as_str().unwrap().to_owned();
                self.known.lock().unwrap().insert(*peer, fingerprint);
            }
        }
    }
}

#[tokio::test]
async fn nodes_of_old_in_the_mesh_bring_no_copies_with_an_id_or_without() {
    let old = [TcpListener::bind("127.0.0.1:0").await.unwrap(), TcpListener::bind("127.0.0.1:0").await.unwrap()];
    let addresses: Vec<_> = old.iter().map(|old| old.local_addr().unwrap()).collect();
    let mesh = Mesh::of(2, &addresses, "");
    let mut all: Vec<_> = mesh.nodes.iter().map(|node| node.admin).chain(addresses.iter().copied()).collect();
    for (n, listener) in old.into_iter().enumerate() {
        let (fingerprint, peers) = (format!("22223333444455{n:02}"), all.clone());
        tokio::spawn(Arc::new(Old { fingerprint, peers, known: Mutex::default() }).serve(listener));
    }
    let mut browsers = mesh.browsers("PHID-1").await;
    all.rotate_left(1);
    for (n, at) in all.iter().chain(&all).enumerate() {
        let mut body = json!({"key": TEXT, "n": n, "subscribers": ["PHID-1"]});
        if n >= all.len() {
            body["uniqueID"] = json!(n.to_string());
        }
        post(*at, "/?instance=acme", &body.to_string()).await.ok();
    }
    for one in &mut browsers {
        assert_eq!(hear(one, 0..8).await, once_each(0..8));
    }
}
