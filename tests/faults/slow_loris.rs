//! Who sends a frame a byte at a time: he costs a buffer and not for long. The other ways of it are in tests/attacks.rs and
//! tests/tls.rs.

use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::common::*;

#[tokio::test]
async fn a_frame_that_comes_a_byte_at_a_time_is_no_sign_of_life() {
    let hub = TestHub::plan().toml("[websocket]\nping_interval = \"500ms\"\npong_timeout = \"2s\"").start();
    let token = hub.token(&["*"]);
    let mut stream = TcpStream::connect(hub.address).await.unwrap();
    let head = format!(
        "GET /ws?token={token} HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
         sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    within(DEADLINE, "the upgrade", stream.read(&mut [0; 64])).await.unwrap();
    let began = Instant::now();
    let (mut read, mut write) = stream.split();
    // 60,000 bytes of text are to follow, masked with zeros.
    write.write_all(&[0x81, 0xfe, 0xea, 0x60, 0, 0, 0, 0]).await.unwrap();
    let dribbling = async {
        while write.write_all(b" ").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let ended = async {
        let mut sink = [0; 1024];
        while read.read(&mut sink).await.is_ok_and(|count| count > 0) {}
    };
    within(DEADLINE, "its end", async {
        tokio::select! { () = ended => {}, () = dribbling => {} }
    })
    .await;
    assert!(began.elapsed() >= Duration::from_secs(1), "it had its time");
    let mut neighbour = hub.ws().await;
    neighbour.subscribe(&["well"]).await;
    hub.publish("well", json!(1)).await;
    assert_eq!(neighbour.expect("message").await["payload"], 1);
}
