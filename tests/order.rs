//! **Order.** A channel's offsets go 1, 2, 3 ..., each given once, and every reader sees them in that order.

use crate::common::*;

/// Publishes `count` messages one after the other and says which seq each got.
async fn write(hub: &TestHub, writer: u64, count: u64) -> Vec<(u64, String)> {
    let mut http = hub.http().await;
    let mut given = Vec::new();
    for n in 0..count {
        let payload = json!({"writer": writer, "n": n});
        let body = json!({"channel": "order.one", "payload": payload}).to_string();
        let answer = http.post("/api/v1/publish", body).await.ok();
        given.push((answer["seq_id"].as_u64().unwrap(), payload.to_string()));
    }
    given
}

#[tokio::test]
async fn under_32_writers_every_reader_sees_every_seq_once_and_in_the_same_order() {
    let hub = TestHub::start();
    let (mut ws, mut other) = (hub.ws().await, hub.ws().await);
    ws.subscribe(&["order.one"]).await;
    other.subscribe(&["order.one"]).await;
    let mut sse = hub.sse("channel=order.one", None).await;
    let writers = (0..32).map(|writer| write(&hub, writer, 40));
    let writing = futures_util::future::join_all(writers);
    let reading = async { tokio::join!(ws.read_to("order.one", 1280), other.read_to("order.one", 1280)) };
    let (given, (seen, same), events) = tokio::join!(writing, reading, sse.read_to("order.one", 1280));

    seen.assert_exactly(1, 1280);
    assert_eq!(seen.messages, same.messages, "two WebSockets");
    assert_eq!(seen.messages, events.messages, "a WebSocket and an event stream");
    for writer in &given {
        assert!(writer.is_sorted(), "a writer that waits for its answer is numbered in its own order");
    }
    let mut given: Vec<_> = given.into_iter().flatten().collect();
    given.sort();
    assert_eq!(given, seen.messages, "what publishers were told is what readers got");
}

#[tokio::test]
async fn a_batch_keeps_its_order_and_channels_count_apart() {
    let hub = TestHub::start();
    let mut ws = hub.ws().await;
    ws.subscribe(&["a", "b"]).await;
    let messages: Vec<_> =
        (0..100).map(|n| json!({"channel": if n % 2 == 0 { "a" } else { "b" }, "payload": n})).collect();
    let body = json!({"messages": messages}).to_string();
    let answer = hub.http().await.post("/api/v1/publish/batch", body).await.ok();
    for (n, result) in answer["results"].as_array().unwrap().iter().enumerate() {
        assert_eq!((result["index"].as_u64(), result["seq_id"].as_u64()), (Some(n as u64), Some(n as u64 / 2 + 1)));
    }
    let (mut a, mut b) = (0, 0);
    while a + b < 100 {
        let frame = ws.expect("message").await;
        let (count, odd) = if frame["channel"] == "a" { (&mut a, 0) } else { (&mut b, 1) };
        *count += 1;
        assert_eq!(frame["seq_id"], *count);
        assert_eq!(frame["payload"], (*count - 1) * 2 + odd);
    }
}

#[tokio::test]
async fn times_never_run_backwards_within_a_channel() {
    let hub = TestHub::start();
    hub.publish_numbers("t", 1, 300).await;
    let page = hub.history("channel=t&limit=1000").await;
    let times: Vec<_> = page["messages"].as_array().unwrap().iter().map(|m| m["timestamp"].as_str().unwrap()).collect();
    assert_eq!(times.len(), 300);
    assert!(times.is_sorted());
}
