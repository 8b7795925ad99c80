//! Frames that no client should send: the hub lives, others hear what they should, and the same socket still answers (X1, X9).

use crate::common::raw_ws::{BINARY, PING, PONG, TEXT, frame};

use super::*;

async fn raw(hub: &TestHub, account: &str) -> RawWs {
    RawWs::at(hub.address, &format!("/ws/connect?app_id=test&token={}", token_of(account))).await
}

async fn answers_ping(ws: &mut RawWs) {
    ws.send(PING, b"there?").await;
    loop {
        let next = ws.next().await;
        if next.opcode != PING {
            assert_eq!((next.opcode, &next.payload[..]), (PONG, &b"there?"[..]));
            return;
        }
    }
}

#[tokio::test]
async fn x1_no_frame_kills_the_hub_or_its_own_connection() {
    let hub = plan("").start();
    let mut eve = raw(&hub, "eve").await;
    let mut bob = User::connect(&hub, "bob").await;
    let deep = format!(r#"{{"to":"bob","event":1,"data":{}1{}}}"#, "[".repeat(30_000), "]".repeat(30_000));
    let frames: [&[u8]; 25] = [
        br#"{"to":"x","event":2,"data":{}}"#,
        br#"{"event":2,"data":{}}"#,
        br#"{"to":"bob","event":2,"conversation_id":"bob","data":{}}"#,
        br#"{"to":"bob","event":99999999999999999999,"data":{}}"#,
        br#"{"to":"bob","event":{},"data":{}}"#,
        b"SUB",
        b"SUB ",
        b"null",
        b"[]",
        b"{}",
        b"true",
        b"-0",
        b"\"",
        b"",
        b"{\"to\":\"bob\"",
        br#"{"command":"subscribe","data":null}"#,
        br#"{"command":"replay"}"#,
        br#"{"to":null,"data":{}}"#,
        br#"{"to":["bob"],"data":{}}"#,
        br#"{"to":"bob","data":"\ud800"}"#,
        br#"{"to":"bob","data":{"x":1e999}}}"#,
        b"\xef\xbb\xbf{}",
        b"\x00",
        br#"{"__proto__":{"to":"bob"},"data":{}}"#,
        deep.as_bytes(),
    ];
    for frame in frames {
        eve.send(TEXT, frame).await;
        eve.send(BINARY, frame).await;
        answers_ping(&mut eve).await;
    }
    eve.send(BINARY, b"\xff\xfe{}").await;
    answers_ping(&mut eve).await;
    bob.assert_silent().await;
    // And it is still heard.
    eve.send(BINARY, br#"{"to":"bob","event":1,"data":{"ok":true}}"#).await;
    assert_eq!(bob.frame().await["data"], json!({"ok": true}));
}

#[tokio::test]
async fn x1_what_is_no_text_or_too_large_ends_that_connection_alone() {
    let hub = plan("").start();
    let mut bob = User::connect(&hub, "bob").await;
    let mut eve = raw(&hub, "eve").await;
    eve.send(TEXT, b"\xff\xfe").await;
    assert_eq!(eve.close_code().await, 1007);
    let mut eve = raw(&hub, "eve").await;
    let huge = vec![b'x'; 16 << 20];
    // All of it: an end that read along would be closed by a reset, and the word lost.
    eve.write(&frame(0x80 | TEXT, &huge)).await;
    assert!(
        matches!(eve.try_next().await, Ok(frame) if frame.payload.starts_with(&1009_u16.to_be_bytes()))
            || eve.is_over().await
    );
    let mut eve = raw(&hub, "eve").await;
    let long = format!(r#"{{"to":"bob","event":1,"data":{{"x":"{}"}}}}"#, "x".repeat(65_536));
    eve.send(TEXT, long.as_bytes()).await;
    assert_eq!(eve.close_code().await, 1009);
    bob.assert_silent().await;
    assert_eq!(push(&mut hub.http_as(None).await, "bob", "{}").await, 0);
    assert_eq!(bob.frame().await["to"], "bob");
}

#[tokio::test]
async fn random_frames_and_pushes_change_nothing_for_others() {
    let hub = plan("").start();
    let mut bob = User::connect(&hub, "bob").await;
    let mut eve = raw(&hub, "eve").await;
    let mut http = hub.http_as(None).await;
    let mut dice = Dice::new(7);
    let words: [&[u8]; 14] = [
        b"{",
        b"}",
        b"\"to\":",
        b"\"bob\"",
        b"\"event\":",
        b"2",
        b"\"data\":",
        b"[",
        b"]",
        b",",
        b"null",
        b"\\u0000",
        b"\xc3",
        b"1e9",
    ];
    for _ in 0..300 {
        let bytes: Vec<u8> =
            (0..dice.below(12)).flat_map(|_| words[dice.below(words.len() as u64) as usize].to_vec()).collect();
        eve.send(BINARY, &bytes).await;
        let kind = ["application/json", "application/x-www-form-urlencoded", "x"][dice.below(3) as usize];
        let answer = http.send("POST", PUSH, &[("content-type", kind)], &bytes).await;
        assert!(matches!(answer.status, 200 | 400) && answer.json()["error"] == 400, "{}: {bytes:?}", answer.text());
    }
    answers_ping(&mut eve).await;
    bob.assert_silent().await;
}

#[tokio::test]
async fn who_speaks_nonsense_without_end_is_sent_away() {
    let hub = TestHub::plan()
        .toml(&(settings("") + "[limits]\nhandshakes_per_second = 0\nrefusals_per_minute = 20\n").replacen(
            "[limits]\nhandshakes_per_second = 0\n",
            "",
            1,
        ))
        .start();
    let mut eve = User::connect(&hub, "eve").await;
    for _ in 0..30 {
        let _ = tokio::time::timeout(DEADLINE, eve.socket.send(Message::text("nonsense"))).await;
    }
    assert!(matches!(eve.next().await, Err(End::Closed(4429, _))));
}

#[tokio::test]
async fn a_ping_comes_every_nine_seconds_and_who_never_answers_is_gone_soon() {
    let hub = plan("").start();
    let begun = std::time::Instant::now();
    let mut silent = raw(&hub, "silent").await;
    assert_eq!(silent.next().await.opcode, PING);
    let first = begun.elapsed().as_secs_f64();
    assert!((8.5..20.0).contains(&first), "the first ping came after {first} s");
    let gone = async { while silent.try_next().await.is_ok() {} };
    within(2 * DEADLINE, "the end", gone).await;
}
