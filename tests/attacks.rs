//! What strangers do to a hub on purpose: each costs the hub little and ends soon, and those beside notice nothing.

use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

use crate::common::*;

const HASTY: &str = "[server]\nheader_timeout = \"3s\"\nwrite_timeout = \"3s\"\nmax_payload_size = \"4KiB\"\n\
                     max_batch_size = \"16KiB\"\n[limits]\nhandshakes_per_second = 0\n";

/// The hub lives and serves.
async fn assert_well(hub: &TestHub) {
    let mut ws = hub.ws().await;
    ws.subscribe(&["well"]).await;
    let seq = hub.publish("well", json!(1)).await["seq_id"].as_u64().unwrap();
    assert_eq!(ws.expect("message").await["seq_id"], seq);
}

/// Sends a few bytes at a time until the hub hangs up or answers; how long that took, and what it said.
async fn dribble(hub: &TestHub, begin: &str, drop: &[u8]) -> (Duration, String) {
    let began = Instant::now();
    let mut stream = TcpStream::connect(hub.address).await.unwrap();
    stream.write_all(begin.as_bytes()).await.unwrap();
    let (mut read, mut write) = stream.split();
    let mut said = Vec::new();
    let dribbling = async {
        while write.write_all(drop).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        std::future::pending::<()>().await;
    };
    tokio::select! {
        _ = within(DEADLINE, "an end", read.read_to_end(&mut said)) => {}
        () = dribbling => {}
    }
    (began.elapsed(), String::from_utf8_lossy(&said).into_owned())
}

#[tokio::test]
async fn slow_loris_finds_no_prey() {
    let hub = TestHub::plan().toml(HASTY).start();
    let heads =
        ["", "GET /s", "GET /sse?channel=a HTTP/1.1\r\nhost: x\r\n", "POST /api/v1/publish HTTP/1.1\r\nhost: x\r\n"];
    let all = heads.map(|head| dribble(&hub, head, if head.is_empty() { b"G" } else { b"x-a: b\r\n" }));
    for (took, said) in futures_util::future::join_all(all).await {
        assert!(took < DEADLINE && !said.contains(" 200 "), "{took:?}: {said}");
    }
    // The second request of a connection has no more time than the first, and none may wait for ever to send one.
    let (took, said) = dribble(&hub, "GET /healthz HTTP/1.1\r\nhost: x\r\n\r\nGET /he", b"a").await;
    assert!(took < DEADLINE && said.matches(" 200 ").count() == 1, "{took:?}: {said}");
    let mut idle = hub.http_as(None).await;
    assert_eq!(idle.get("/healthz").await.status, 200);
    let began = Instant::now();
    assert!(idle.is_closed().await && began.elapsed() < DEADLINE, "{:?}", began.elapsed());

    let key = hub.keys.admin_key();
    let head = format!("POST /api/v1/publish HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {key}\r\n");
    for (length, drop) in [("content-length: 4000", &b" "[..]), ("transfer-encoding: chunked", b"1\r\n \r\n")] {
        let (took, said) = dribble(&hub, &format!("{head}{length}\r\n\r\n"), drop).await;
        assert!(took < DEADLINE && said.contains(" 408 "), "{length}: {took:?}: {said}");
    }
    assert_well(&hub).await;
}

#[tokio::test]
async fn a_head_has_an_end_in_bytes_and_in_lines() {
    let hub = TestHub::plan().toml(HASTY).start();
    let long = |bytes: usize| format!("x-long: {}\r\n", "x".repeat(bytes));
    let many = "x-many: 1\r\n".repeat(10_000);
    for path in ["/healthz", "/ws", "/sse?channel=a"] {
        for headers in [long(200_000), long(10_000_000), many.clone()] {
            let mut stream = TcpStream::connect(hub.address).await.unwrap();
            let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\n{headers}\r\n");
            let _ = tokio::time::timeout(DEADLINE, stream.write_all(request.as_bytes())).await;
            let mut said = Vec::new();
            let _ = within(DEADLINE, "an end", stream.read_to_end(&mut said)).await;
            let said = String::from_utf8_lossy(&said);
            assert!(said.is_empty() || said.contains(" 431 "), "{path}, {} bytes: {said}", headers.len());
        }
    }
    for (path, headers, fits) in [
        ("/healthz", "x-many: 1\r\n".repeat(99), true),
        ("/healthz", "x-many: 1\r\n".repeat(100), false),
        ("/healthz", long(60 * 1024), true),
        ("/healthz", long(140 * 1024), false),
        ("/sse?channel=a", long(6 * 1024), true),
        ("/sse?channel=a", long(20 * 1024), false),
    ] {
        let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\n{headers}\r\n");
        let answer = hub.http_as(None).await.raw(request.as_bytes()).await.unwrap();
        assert_eq!(answer.status != 431, fits, "{path}, {} bytes: {}", headers.len(), answer.status);
    }
    let mut http = hub.http_as(None).await;
    let target = format!("/healthz?{}", "x".repeat(100_000));
    assert!(http.try_send("GET", &target, &[], b"").await.map_or(true, |answer| answer.status >= 400));
    assert_well(&hub).await;
}

#[tokio::test]
async fn a_body_has_an_end_whatever_its_head_says() {
    let hub = TestHub::plan().toml(HASTY).start();
    let key = hub.keys.admin_key();
    for path in ["/api/v1/publish", "/api/v1/publish?channel=c", "/api/v1/publish/batch", "/api/v1/disconnect"] {
        let head =
            |rest: &str| format!("POST {path} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {key}\r\n{rest}\r\n\r\n");
        // Announced: refused before a byte of it has come.
        let refused = hub.http().await.raw(head("content-length: 99999999999").as_bytes()).await.unwrap();
        assert_eq!(refused.error(), (413, 41301), "{path}");
        // Not announced: refused when it is too long, and not read on.
        let mut bomb = hub.http().await;
        let chunk = format!("8000\r\n{}\r\n", "x".repeat(0x8000));
        let refused = bomb.raw(format!("{}{chunk}", head("transfer-encoding: chunked")).as_bytes()).await.unwrap();
        assert_eq!(refused.error(), (413, 41301), "{path}");
        assert!(bomb.is_closed().await);
    }
    // Less than was announced, and then nothing.
    let head = format!("POST /api/v1/publish HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {key}\r\n");
    let short = hub.http().await.raw(format!("{head}content-length: 4000\r\n\r\n{{}}").as_bytes()).await.unwrap();
    assert_eq!(short.error(), (408, 40801));
    // More than was announced is the next request, and two lengths or a length that is none are no request at all.
    let body = r#"{"channel":"c","payload":1}"#;
    let mut more = hub.http().await;
    let first = more.raw(format!("{head}content-length: {}\r\n\r\n{body}{body}\r\n\r\n", body.len()).as_bytes()).await;
    assert_eq!(first.unwrap().ok()["seq_id"], 1);
    assert!(more.response().await.map_or(true, |answer| answer.status == 400));
    for lengths in ["content-length: 5\r\ncontent-length: 6", "content-length: -1", "content-length: 1e3"] {
        let answer = hub.http().await.raw(format!("{head}{lengths}\r\n\r\n{body}").as_bytes()).await;
        assert!(answer.as_ref().map_or(true, |answer| answer.status == 400), "{lengths}: {answer:?}");
    }
    assert_eq!(hub.history("channel=c").await["last_seq"], 1);
    assert_well(&hub).await;
}

#[tokio::test]
async fn who_asks_ahead_and_never_reads_is_cut_off() {
    let hub = TestHub::plan().toml(&format!("{HASTY}[[retention.rules]]\npattern = \"m\"\nhistory = false")).start();
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    let mut stream = socket.connect(hub.address).await.unwrap();
    let body = r#"{"channel":"m","payload":1}"#;
    let key = hub.keys.admin_key();
    let one = format!(
        "POST /api/v1/publish HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {key}\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    let many = one.repeat(100);
    within(DEADLINE, "the end of it", async { while stream.write_all(many.as_bytes()).await.is_ok() {} }).await;
    assert_well(&hub).await;
}

#[tokio::test]
async fn a_peer_that_is_no_longer_there_is_noticed_though_its_connection_is_open() {
    let beats = "[websocket]\nping_interval = \"500ms\"\npong_timeout = \"5s\"";
    let hub = TestHub::plan().toml(beats).start();
    let token = hub.token(&["*"]);
    let mut gone = Vec::new();
    for _ in 0..20 {
        let mut stream = TcpStream::connect(hub.address).await.unwrap();
        let head = format!(
            "GET /ws?token={token} HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
             sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        within(DEADLINE, "the upgrade", stream.read(&mut [0; 64])).await.unwrap();
        gone.push(stream);
    }
    until("they are all let go", async || hub.metric("aether_connections_active").await == 0.0).await;
    assert_well(&hub).await;
}

#[tokio::test]
async fn five_hundred_at_once_twenty_times_leave_nothing_behind() {
    let _ = rlimit::increase_nofile_limit(8192);
    // Hardly more places than are needed at a time: one that is not given back would be missed.
    let hub = TestHub::plan().toml("[limits]\nconnections = 520\nhandshakes_per_second = 0").start();
    let mut watcher = hub.ws().await;
    watcher.subscribe(&["watched"]).await;
    let token = hub.token(&["*"]);
    for round in 1..=20u64 {
        let storm = (0..500).map(|n| {
            let token = token.as_str();
            let address = hub.address;
            async move {
                let mut http = Http::connect(address, Some(token)).await;
                match n % 4 {
                    0 => drop(http.get("/healthz").await),
                    1 => drop(http.try_send("GET", "/sse?channel=storm", &[], b"").await),
                    2 => drop(http.raw(b"\x16\x03\x01\0\0nonsense\r\n\r\n").await),
                    _ => {}
                }
            }
        });
        within(DEADLINE, "the storm", futures_util::future::join_all(storm)).await;
        until("there is room for all of them again", async || {
            let mut http = hub.http().await;
            let status = http.try_send("GET", "/status", &[], b"").await;
            status.is_ok_and(|status| status.status == 200 && status.json()["connections"] == 1)
        })
        .await;
        hub.publish("watched", json!(round)).await;
        assert_eq!(watcher.expect("message").await["payload"], round);
    }
    until("every place is free", async || {
        let together = (0..515).map(|_| async {
            let mut http = hub.http_as(None).await;
            let answer = http.try_send("GET", "/healthz", &[], b"").await;
            (answer.is_ok_and(|answer| answer.status == 200), http)
        });
        futures_util::future::join_all(together).await.iter().all(|(served, _)| *served)
    })
    .await;
}

#[tokio::test]
async fn a_target_without_a_path_is_answered_and_what_comes_behind_it_too() {
    let hub = TestHub::start();
    for target in ["evil:80", "x", "[::1]:80"] {
        let mut stream = TcpStream::connect(hub.address).await.unwrap();
        let asked = format!(
            "CONNECT {target} HTTP/1.1\r\nhost: x\r\n\r\nGET {target} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"
        );
        stream.write_all(asked.as_bytes()).await.unwrap();
        let mut said = String::new();
        within(DEADLINE, "an end", stream.read_to_string(&mut said)).await.unwrap();
        assert_eq!(said.matches("HTTP/1.1 40").count(), 2, "{target}: {said}");
    }
    assert_well(&hub).await;
}
