//! Listeners that come all at once: each gets in and has what it missed, and who was there is served meanwhile.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use crate::common::*;

#[tokio::test]
async fn a_live_neighbour_of_a_storm_of_returns_stays_and_misses_nothing() {
    const CLIENTS: usize = 400;
    let hub = TestHub::plan().toml("[websocket]\nping_interval = \"500ms\"\npong_timeout = \"5s\"").start();
    hub.publish_numbers("missed", 1, 100).await;
    let mut neighbour = hub.ws().await;
    neighbour.subscribe(&["live"]).await;
    let ended = Arc::new(AtomicBool::new(false));
    let listening = tokio::spawn(async move {
        let mut last = 0;
        loop {
            let frame = neighbour.next().await.unwrap_or_else(|end| panic!("{end:?} after {last}"));
            assert_eq!((&frame["type"], &frame["seq_id"]), (&json!("message"), &json!(last + 1)), "{frame}");
            last += 1;
            if frame["payload"] == "the end" {
                return last;
            }
        }
    });
    let storm = {
        let (address, token, ended) = (hub.address, hub.token(&["*"]), ended.clone());
        let clients = (0..CLIENTS).map(move |_| {
            let token = token.clone();
            async move {
                let mut ws = WsClient::connect(address, Some(&token)).await;
                ws.resume("missed", 0).await;
                ws.read_to("missed", 100).await.assert_exactly(1, 100);
                ws
            }
        });
        tokio::spawn(async move {
            let clients = futures_util::future::join_all(clients).await;
            ended.store(true, Ordering::Relaxed);
            clients.len()
        })
    };
    let mut published = 0;
    while !ended.load(Ordering::Relaxed) && !storm.is_finished() {
        hub.publish("live", json!(published)).await;
        published += 1;
    }
    hub.publish("live", json!("the end")).await;
    assert_eq!(within(DEADLINE, "the storm", storm).await.unwrap(), CLIENTS);
    assert_eq!(within(DEADLINE, "the neighbour", listening).await.unwrap(), published + 1);
}

#[tokio::test]
async fn heads_that_never_come_hold_up_nobody_in_the_line() {
    let hub = TestHub::plan().toml("[server]\nheader_timeout = \"60s\"").start();
    let mut dawdlers = Vec::new();
    for number in 0..100 {
        let mut stream = TcpStream::connect(hub.address).await.unwrap();
        let path = ["/ws", "/sse?channel=c", "/poll?channel=c"][number % 3];
        stream.write_all(format!("GET {path} HTTP/1.1\r\nhost: x\r\n").as_bytes()).await.unwrap();
        dawdlers.push(stream);
    }
    let mut ws = hub.ws().await;
    ws.subscribe(&["c"]).await;
    hub.publish("c", json!(1)).await;
    assert_eq!(ws.expect("message").await["payload"], 1);
}
