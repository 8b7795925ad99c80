//! Nonsense, a lot of it: the hub lives, and the same socket still answers PING. There, one frame of three letters ended the process.

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use tokio::runtime::Runtime;

use super::*;
use crate::common::raw_ws::{CLOSE, RawFrame};

fn hub() -> TestHub {
    TestHub::plan().toml(&format!("[limits]\nrefusals_per_minute = 0\n{OPEN}")).start()
}

fn frame() -> impl Strategy<Value = Vec<u8>> {
    let known: Vec<&[u8]> = vec![
        b"SUB",
        b"SUB ",
        b"SUB  a",
        b"SUB\n",
        b"UNSUB",
        b"UNSUB \xff\xfe",
        b"SUB \xff\xfe",
        b"PING",
        b"PING PING",
        b"\n",
        b"",
        b"\0",
        b"null",
        b"[]",
        b"{}",
        b"{",
        b"{\"action\":null}",
        b"{\"action\":\"subscribe\"}",
        b"{\"action\":\"subscribe\",\"topic\":null}",
        b"{\"action\":\"subscribe\",\"topic\":[]}",
        b"{\"action\":\"subscribe\",\"topic\":\"\\u0000\"}",
        b"{\"action\":{\"action\":\"subscribe\"},\"topic\":\"t\"}",
        b"{\"command\":\"subscribe\",\"data\":null}",
        b"{\"event\":2,\"data\":{}}",
        b"SUB $x",
        b"SUB %",
        b"SUB ..",
        b"SUB *",
    ];
    prop_oneof![
        prop::sample::select(known).prop_map(<[u8]>::to_vec),
        prop::collection::vec(any::<u8>(), 0..200),
        "(SUB|UNSUB|PING) ?.{0,150}".prop_map(String::into_bytes),
        "\\{\"action\":\"(un)?subscribe\",\"topic\":\".{0,40}\"".prop_map(String::into_bytes),
    ]
}

#[test]
fn whatever_is_said_the_same_socket_still_answers() {
    let (runtime, hub) = (Runtime::new().unwrap(), hub());
    let line = tokio::sync::Mutex::new(runtime.block_on(Line::open(&hub, "")));
    let cases = std::env::var("PROPTEST_CASES").ok().and_then(|text| text.parse().ok()).unwrap_or(200);
    let mut runner = TestRunner::new(Config { cases, failure_persistence: None, ..Config::default() });
    let outcome = runner.run(&prop::collection::vec((any::<bool>(), frame()), 1..10), |frames| {
        runtime.block_on(async {
            let mut line = line.lock().await;
            for (as_text, frame) in &frames {
                match std::str::from_utf8(frame) {
                    Ok(text) if *as_text => line.says_text(text).await,
                    _ => line.says(frame).await,
                }
            }
            // Nothing else is called so.
            line.says("UNSUB the-end-of-it").await;
            line.says_text(r#"{"action":"unsubscribe","topic":"the-end-of-it"}"#).await;
            while !line.hears().await.contains("\"event\":\"unsubscribed\",\"data\":\"the-end-of-it\"") {}
            line.is_silent().await;
        });
        Ok(())
    });
    outcome.unwrap();
}

#[tokio::test]
async fn each_frame_that_makes_no_sense_is_answered() {
    let hub = hub();
    let mut line = Line::open(&hub, "").await;
    for frame in ["SUB", "SUB ", "UNSUB", "", "null", "[]", "{", "{}", r#"{"action":"subscribe"}"#, "ping", "SUB\nx"] {
        line.says(frame).await;
        let no: Json = serde_json::from_str(&line.hears().await).unwrap();
        assert_eq!(no["event"], "error", "{frame:?}: {no}");
        line.is_silent().await;
    }
}

#[tokio::test]
async fn a_frame_of_16_mib_or_a_text_that_is_none_ends_its_own_connection_only() {
    let hub = hub();
    let mut other = Line::open(&hub, "?topic=a").await;
    for (opcode, payload, code) in [(BINARY, vec![b'x'; 16 << 20], 1009), (TEXT, b"\xff\xfe".to_vec(), 1007)] {
        let mut line = Line::open(&hub, "?topic=a").await;
        line.0.send(opcode, &payload).await;
        // What is left of the frame may reset the connection before its end is read.
        if let Ok(RawFrame { opcode, payload, .. }) = within(DEADLINE, "the end", line.0.try_next()).await {
            assert_eq!((opcode, u16::from_be_bytes([payload[0], payload[1]])), (CLOSE, code));
        }
    }
    send(&hub, "a", "message", "still here").await;
    assert_eq!(push(&other.hears().await).1["data"], "still here");
    other.is_silent().await;
}

#[tokio::test]
async fn topics_of_any_text_are_topics_of_their_own() {
    let hub = hub();
    let topics =
        ["a", "a.b", "a/b", "%", "%2F", "*", "$x", ".", "..", "é", "日本", "users/*", "global", "A", "-", "_", "\t"];
    let mut line = Line::open(&hub, "").await;
    for topic in topics {
        line.says(format!("SUB {topic}")).await;
        line.expects("OK").await;
    }
    for topic in topics {
        send(&hub, topic, "message", topic).await;
        let (prefix, json) = push(&line.hears().await);
        assert_eq!((&*prefix, &json["topic"], &json["data"]), (topic, &json!(topic), &json!(topic)));
    }
    line.is_silent().await;
}
