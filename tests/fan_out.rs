//! **Once encoded.** The tail's publications are encoded once per format, not per reader.

use crate::common::*;

const READERS: usize = 100;
const MESSAGES: u64 = 50;

#[tokio::test]
async fn a_publication_is_encoded_once_for_all_readers_of_a_format() {
    let hub = TestHub::start();
    let mut sockets = Vec::new();
    for _ in 0..READERS {
        let mut ws = hub.ws().await;
        ws.subscribe(&["fan.out"]).await;
        sockets.push(ws);
    }
    let mut streams = Vec::new();
    for _ in 0..10 {
        streams.push(hub.sse("channel=fan.out", None).await);
    }
    hub.publish_numbers("fan.out", 1, MESSAGES).await;
    for ws in &mut sockets {
        ws.read_to("fan.out", MESSAGES).await.assert_exactly(1, MESSAGES);
    }
    for sse in &mut streams {
        sse.read_to("fan.out", MESSAGES).await.assert_exactly(1, MESSAGES);
    }
    let pushed = (READERS as u64 + 10) * MESSAGES;
    until("every delivery is counted", async || hub.metric("aether_messages_pushed_total").await == pushed as f64)
        .await;
    assert_eq!(
        hub.metric("aether_messages_encoded_total").await,
        (2 * MESSAGES) as f64,
        "once for each of two formats"
    );
}

#[tokio::test]
async fn readers_that_resume_within_the_tail_share_its_bytes() {
    let hub = TestHub::start();
    let mut first = hub.ws().await;
    first.subscribe(&["fan.out"]).await;
    hub.publish_numbers("fan.out", 1, MESSAGES).await;
    first.read_to("fan.out", MESSAGES).await.assert_exactly(1, MESSAGES);
    for after in [0, 10, 20] {
        let mut ws = hub.ws().await;
        ws.resume("fan.out", after).await;
        ws.read_to("fan.out", MESSAGES).await.assert_exactly(after + 1, MESSAGES);
    }
    assert_eq!(hub.metric("aether_messages_encoded_total").await, MESSAGES as f64);
    assert_eq!(hub.metric("aether_store_reads_total").await, 0.0, "what is in the tail is not read from the store");
}
