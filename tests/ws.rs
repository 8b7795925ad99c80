//! WebSocket connections: whatever a client sends, the hub lives, and so does the connection where the standard lets it.

use std::time::{Duration, Instant};

use crate::common::raw_ws::{BINARY, CLOSE, PING, PONG, TEXT, frame};
use crate::common::*;

async fn raw(hub: &TestHub) -> RawWs {
    RawWs::connect(hub.address, &hub.token(&["*"])).await
}

#[tokio::test]
async fn pings_are_answered_with_their_bytes_in_any_pieces_they_come() {
    let hub = TestHub::start();
    let mut ws = raw(&hub).await;
    for payload in [&b""[..], b"abc", &[7; 125]] {
        ws.send(PING, payload).await;
        let pong = ws.next().await;
        assert_eq!((pong.opcode, &pong.payload[..]), (PONG, payload));
    }
    for byte in frame(0x80 | PING, b"byte by byte") {
        ws.write(&[byte]).await;
        tokio::task::yield_now().await;
    }
    assert_eq!(ws.next().await.payload, b"byte by byte");
    let mut many = Vec::new();
    for n in 0..200u8 {
        many.extend(frame(0x80 | PING, &[n]));
    }
    ws.write(&many).await;
    for n in 0..200u8 {
        assert_eq!(ws.next().await.payload, [n]);
    }
    ws.send(PONG, b"nobody asked").await;
    ws.send(TEXT, br#"{"type":"ping","id":{"any":["json"]}}"#).await;
    assert_eq!(ws.next_json().await, json!({"type": "pong", "id": {"any": ["json"]}}));
}

#[tokio::test]
async fn a_message_in_fragments_is_one_message_and_control_frames_may_come_between() {
    let hub = TestHub::start();
    let mut ws = raw(&hub).await;
    let text = r#"{"type":"subscribe","channels":["é"],"id":"é"}"#.as_bytes();
    // Cut within a character, and with an empty fragment.
    let cut = text.iter().position(|byte| *byte == 0xc3).unwrap() + 1;
    ws.write(&frame(TEXT, &text[..cut])).await;
    ws.send(PING, b"between").await;
    assert_eq!(ws.next().await.payload, b"between");
    ws.write(&frame(0, b"")).await;
    ws.write(&frame(0x80, &text[cut..])).await;
    let error = ws.next_json().await;
    assert_eq!((&error["code"], &error["id"]), (&json!(40001), &json!("é")), "é is no channel, and was understood");
    ws.next_json().await;
}

#[tokio::test]
async fn what_breaks_the_protocol_is_closed_with_the_code_that_the_standard_names() {
    let hub = TestHub::plan().toml("[websocket]\nmax_message_size = \"1KiB\"").start();
    let unmasked = [0x81, 2, b'{', b'}'];
    let half_of_two = [frame(TEXT, &[b' '; 600]), frame(0x80, &[b' '; 600])].concat();
    let mut endless = vec![0x81, 0xff];
    endless.extend_from_slice(&(u64::MAX >> 1).to_be_bytes());
    endless.extend_from_slice(&[0; 4]);
    let mut sixteen_mib = vec![0x82, 0xff];
    sixteen_mib.extend_from_slice(&(16u64 << 20).to_be_bytes());
    sixteen_mib.extend_from_slice(&[0; 4]);
    let close = |payload: &[u8]| frame(0x80 | CLOSE, payload);
    let pong = frame(0x80 | PONG, b"");
    let mut long_length = vec![0x81, 0xff];
    long_length.extend_from_slice(&200u64.to_be_bytes());
    long_length.extend_from_slice(&[0; 204]);
    let cases: Vec<(&str, Vec<u8>, u16)> = vec![
        ("a frame above the limit", frame(0x80 | TEXT, &[b' '; 1025]), 1009),
        ("fragments above the limit together", half_of_two, 1009),
        ("a length that no memory holds", endless, 1009),
        ("16 MiB", sixteen_mib, 1009),
        ("text that is no UTF-8", frame(0x80 | TEXT, b"\"\xff\""), 1007),
        ("a lone surrogate", frame(0x80 | TEXT, b"\"\xed\xa0\x80\""), 1007),
        ("text that ends within a character", frame(0x80 | TEXT, b"\"\xc3"), 1007),
        ("an overlong slash", frame(0x80 | TEXT, b"\"\xc0\xaf\""), 1007),
        ("beyond the last character", frame(0x80 | TEXT, b"\"\xf4\x90\x80\x80\""), 1007),
        ("a character that goes wrong in the next piece", [frame(TEXT, b"\"\xc3"), frame(0x80, b"(\"")].concat(), 1007),
        ("a pong in between, and then no UTF-8", [frame(TEXT, b"\xe2\x82"), pong, frame(0x80, b"\x28")].concat(), 1007),
        ("no mask", unmasked.to_vec(), 1002),
        ("RSV1", frame(0xc0 | TEXT, b"{}"), 1002),
        ("RSV2", frame(0xa0 | TEXT, b"{}"), 1002),
        ("RSV3", frame(0x90 | PING, b""), 1002),
        ("a data frame that nobody knows", frame(0x83, b"{}"), 1002),
        ("a control frame that nobody knows", frame(0x8b, b""), 1002),
        ("RSV1 on a continuation", [frame(TEXT, b"{"), frame(0xc0, b"}")].concat(), 1002),
        ("a continuation after a control frame", [frame(0x80 | PONG, b""), frame(0x80, b"")].concat(), 1002),
        (
            "a length of 5 written with 2 bytes",
            vec![0x81, 0x80 | 126, 0, 5, 0, 0, 0, 0, b' ', b' ', b' ', b' ', b' '],
            1002,
        ),
        ("a length of 200 written with 8 bytes", long_length, 1002),
        ("a close in pieces", frame(CLOSE, &1000u16.to_be_bytes()), 1002),
        ("a close of 126 bytes", close(&[&1000u16.to_be_bytes()[..], &[b'x'; 124]].concat()), 1002),
        ("a continuation of nothing", frame(0x80, b"{}"), 1002),
        ("a message within a message", [frame(TEXT, b"{"), frame(0x80 | TEXT, b"}")].concat(), 1002),
        ("a ping in fragments", frame(PING, b""), 1002),
        ("a ping of 126 bytes", frame(0x80 | PING, &[0; 126]), 1002),
        ("half a close code", close(&[3]), 1002),
        ("a close code that is not for the wire", close(&1005u16.to_be_bytes()), 1002),
        ("a reason that is no UTF-8", close(&[3, 232, 0xff]), 1007),
        ("a goodbye", close(&1000u16.to_be_bytes()), 1000),
        ("a goodbye without a code", close(b""), 1000),
    ];
    for (what, bytes, code) in cases {
        let mut ws = raw(&hub).await;
        ws.send(TEXT, br#"{"type":"ping"}"#).await;
        assert_eq!(ws.next_json().await["type"], "pong");
        ws.write(&bytes).await;
        assert_eq!(ws.close_code().await, code, "{what}");
    }
    until("all of them are gone", async || hub.metric("aether_connections_active").await == 0.0).await;
}

#[tokio::test]
async fn every_close_code_is_answered_as_the_standard_has_it_and_what_follows_is_not_read() {
    let hub = TestHub::start();
    let for_the_wire = [1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 3000, 3999, 4000, 4999];
    let for_nobody = [0, 999, 1004, 1005, 1006, 1015, 1016, 2000, 2999, 5000, 65535];
    let codes = for_the_wire.map(|code| (code, 1000)).into_iter().chain(for_nobody.map(|code| (code, 1002)));
    for (code, answer) in codes {
        let mut ws = raw(&hub).await;
        let goodbye = frame(0x80 | CLOSE, &[&u16::to_be_bytes(code)[..], "wiedersehen".as_bytes()].concat());
        let after = frame(0x80 | TEXT, br#"{"type":"ping"}"#);
        ws.write(&[goodbye, after].concat()).await;
        assert_eq!(ws.close_code().await, answer, "{code}");
    }
}

#[tokio::test]
async fn what_is_no_request_is_answered_with_an_error_and_the_connection_goes_on() {
    let hub = TestHub::start();
    let mut ws = raw(&hub).await;
    let deep = "[".repeat(10_000);
    for (text, code) in [
        ("", 40003),
        ("null", 40003),
        ("[]", 40003),
        ("17", 40003),
        ("\"subscribe\"", 40003),
        ("{", 40003),
        ("SUB x", 40003),
        (deep.as_str(), 40003),
        ("{}", 40004),
        (r#"{"type":"subscribe","channels":"a"}"#, 40003),
        (r#"{"type":"subscribe","channels":[null]}"#, 40003),
        (r#"{"type":"subscribe","channels":["a"],"after_seq":{"a":"1"}}"#, 40003),
        (r#"{"type":"subscribe","channels":["a"],"after_seq":{"a":1.5}}"#, 40003),
        (r#"{"type":"subscribe","channels":["a"],"after_seq":{"a":18446744073709551616}}"#, 40003),
        (r#"{"type":17}"#, 40003),
        (r#"{"type":null}"#, 40003),
        (r#"{"type":"shout"}"#, 40004),
        (r#"{"command":"subscribe","data":null}"#, 40004),
        (r#"{"command":"replay"}"#, 40004),
        (r#"{"to":"x","event":2,"data":{}}"#, 40004),
        (r#"{"type":"message","channel":"a","seq_id":1,"payload":1}"#, 40004),
    ] {
        ws.send(TEXT, text.as_bytes()).await;
        let answer = ws.next_json().await;
        assert_eq!((&answer["type"], &answer["code"]), (&json!("error"), &json!(code)), "{text}");
        assert!(answer["message"].as_str().unwrap().len() < 300, "{answer}");
    }
    ws.send(BINARY, br#"{"type":"ping"}"#).await;
    assert_eq!(ws.next_json().await["code"], 40003);
    for _ in 0..200 {
        ws.send(BINARY, &[0xff; 100]).await;
    }
    for _ in 0..200 {
        assert_eq!(ws.next_json().await["type"], "error");
    }
    // Fields that nobody knows are no error, and a negative position is the beginning.
    let odd = r#"{"type":"subscribe","channels":["a"],"after_seq":{"a":-5},"later":{"version":2}}"#;
    ws.send(TEXT, odd.as_bytes()).await;
    assert_eq!(ws.next_json().await["channels"], json!(["a"]));
    assert_eq!(ws.next_json().await["type"], "live");
    hub.publish("a", json!(1)).await;
    assert_eq!(ws.next_json().await["seq_id"], 1);
}

#[tokio::test]
async fn a_client_that_sends_and_never_reads_does_not_fill_the_hub() {
    let hub = TestHub::start();
    let mut ws = raw(&hub).await;
    // Far more answers than kernels and the hub keep for it: it is not read until it reads.
    let pings: Vec<u8> = (0..2000).flat_map(|_| frame(0x80 | PING, &[1; 100])).collect();
    let (mut reading, mut writing) = ws.stream.split();
    let total = 100 * 2000;
    let written = async {
        use tokio::io::AsyncWriteExt;
        for _ in 0..100 {
            writing.write_all(&pings).await.unwrap();
        }
    };
    let mut written = std::pin::pin!(written);
    let stalled = tokio::time::timeout(Duration::from_secs(1), &mut written).await;
    assert!(stalled.is_err(), "21 MB of questions were taken although nobody took an answer");
    let read = async {
        use tokio::io::AsyncReadExt;
        let mut left = total * 102;
        let mut buffer = vec![0; 1 << 16];
        while left > 0 {
            left -= reading.read(&mut buffer).await.unwrap();
        }
    };
    within(DEADLINE, "all answers", async { tokio::join!(written, read) }).await;
}

#[tokio::test]
async fn a_dead_peer_is_found_within_ping_interval_and_pong_timeout_and_a_living_one_stays() {
    let config = "[websocket]\nping_interval = \"500ms\"\npong_timeout = \"5s\"";
    let hub = TestHub::plan().toml(config).start();
    let mut living = raw(&hub).await;
    let mut dead = raw(&hub).await;
    let began = Instant::now();
    let dying = async {
        let mut pings = 0;
        loop {
            match dead.try_next().await {
                Ok(frame) if frame.opcode == PING => pings += 1,
                Ok(frame) => panic!("{frame:?}"),
                Err(_) => return (began.elapsed(), pings),
            }
        }
    };
    let staying = async {
        for _ in 0..8 {
            let ping = living.next().await;
            assert_eq!(ping.opcode, PING);
            living.send(PONG, &ping.payload).await;
        }
    };
    let ((lasted, pings), ()) = tokio::join!(within(DEADLINE, "the end", dying), staying);
    assert!(lasted >= Duration::from_millis(5460) && lasted < DEADLINE, "{lasted:?}");
    assert!(pings >= 1);
    living.send(TEXT, br#"{"type":"ping"}"#).await;
    until("one is left", async || hub.metric("aether_connections_active").await == 1.0).await;
}

#[tokio::test]
async fn the_credential_may_come_by_header_query_or_subprotocol() {
    let hub = TestHub::start();
    let token = hub.token(&["c"]);
    let header = format!("Bearer {token}");
    let offers = format!("aether.v1, bearer.{token}");
    for (path, headers) in [
        (format!("/ws?token={token}"), vec![]),
        ("/ws".to_owned(), vec![("authorization", header.as_str())]),
        ("/ws".to_owned(), vec![("sec-websocket-protocol", offers.as_str())]),
    ] {
        let mut ws = WsClient::open(hub.address, &path, &headers, None).await.unwrap();
        ws.subscribe(&["c"]).await;
    }
}

#[tokio::test]
async fn a_request_that_is_no_handshake_is_told_what_is_missing() {
    let hub = TestHub::start();
    let good = [
        ("connection", "keep-alive, Upgrade"),
        ("upgrade", "WebSocket"),
        ("sec-websocket-version", "13"),
        ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
    ];
    let path = format!("/ws?token={}", hub.token(&["*"]));
    for missing in 0..good.len() {
        let mut headers = good.to_vec();
        headers.remove(missing);
        let answer = hub.http_as(None).await.send("GET", &path, &headers, b"").await;
        assert_eq!((answer.error(), answer.header("upgrade")), ((426, 42601), Some("websocket")));
    }
    let answer = hub.http_as(None).await.send("GET", &path, &good, b"").await;
    assert_eq!(answer.status, 101);
}
