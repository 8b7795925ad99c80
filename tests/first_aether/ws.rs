//! Its WebSocket: who is let in, what a subscribe does step by step, how a connection ends.

use crate::common::raw_ws::{BINARY, PING, PONG, TEXT};
use crate::common::*;

async fn upgrade(hub: &TestHub, path: &str, headers: &[(&'static str, &str)]) -> u16 {
    match WsClient::open(hub.address, path, headers, None).await {
        Ok(_) => 101,
        Err(_) => WsClient::refusal(hub.address, path, headers).await.0,
    }
}

/// It asked for a token always. Here that is the operator's: a hub without `scripts/rules.lua` does, and so does one with this rule.
#[tokio::test]
async fn without_a_token_or_with_a_bad_one_the_upgrade_is_401() {
    let hub = TestHub::plan().rules("").start();
    assert_eq!(upgrade(&hub, "/ws", &[]).await, 401);
    assert_eq!(upgrade(&hub, "/ws?token=", &[]).await, 401);
    assert_eq!(upgrade(&hub, "/ws?token=not-a-token", &[]).await, 401);
    assert_eq!(upgrade(&hub, &format!("/ws?token={}", hub.token(&["a"])), &[]).await, 101);
}

/// With an empty list it refused everybody, clients without an `Origin` too.
#[tokio::test]
async fn a_list_of_origins_lets_in_what_is_on_it_and_who_sends_none() {
    let hub = TestHub::plan().toml("[websocket]\nallowed_origins = [\"https://app.example.com\"]").start();
    let path = format!("/ws?token={}", hub.token(&["a"]));
    assert_eq!(upgrade(&hub, &path, &[]).await, 101);
    assert_eq!(upgrade(&hub, &path, &[("origin", "https://app.example.com")]).await, 101);
    for other in ["https://app.example.com:8443", "http://app.example.com", "https://example.com"] {
        assert_eq!(upgrade(&hub, &path, &[("origin", other)]).await, 403, "{other}");
    }
    let open = TestHub::plan().toml("[websocket]\nallowed_origins = [\"*\"]").start();
    let path = format!("/ws?token={}", open.token(&["a"]));
    assert_eq!(upgrade(&open, &path, &[("origin", "https://anywhere.example")]).await, 101);
    let default = TestHub::start();
    let path = format!("/ws?token={}", default.token(&["a"]));
    assert_eq!(upgrade(&default, &path, &[]).await, 101);
}

#[tokio::test]
async fn no_subprotocol_and_no_extension_is_agreed_to_unasked() {
    let hub = TestHub::start();
    let path = format!("/ws?token={}", hub.token(&["a"]));
    let offers = [("sec-websocket-extensions", "permessage-deflate"), ("sec-websocket-protocol", "chat")];
    // A client that is told of what it did not offer, or of what is not spoken, breaks off.
    let mut ws = WsClient::open(hub.address, &path, &offers[..1], None).await.unwrap();
    ws.subscribe(&["a"]).await;
}

#[tokio::test]
async fn a_hundred_channels_in_a_subscribe_and_a_thousand_on_a_connection() {
    let hub = TestHub::start();
    let mut ws = hub.ws().await;
    let names = |from: usize, count: usize| -> Vec<String> { (from..from + count).map(|n| format!("c.{n}")).collect() };
    ws.send(json!({"type": "subscribe", "channels": names(0, 101)})).await;
    let error = ws.next().await.unwrap();
    let message = "too many channels per request: 101 (max 100)";
    assert_eq!((&error["type"], &error["message"]), (&json!("error"), &json!(message)));
    // 40005 there, which over HTTP meant something else.
    assert_eq!(error["code"], 40011);
    ws.assert_silent().await;
    for hundred in 0..10 {
        ws.send(json!({"type": "subscribe", "channels": names(100 * hundred, 100)})).await;
        assert_eq!(ws.expect("subscribed").await["channels"], json!(names(100 * hundred, 100)));
    }
    ws.send(json!({"type": "subscribe", "channels": ["one.more"]})).await;
    let error = ws.next().await.unwrap();
    assert_eq!((&error["code"], &error["message"]), (&json!(40012), &json!("total channels would exceed 1000")));
    ws.assert_silent().await;
}

/// It read a thousand, pushed them into a queue of 256, and closed most who had missed more.
#[tokio::test]
async fn a_resume_brings_everything_however_much_it_is_and_what_happens_meanwhile() {
    let hub = TestHub::start();
    hub.publish_numbers("a", 1, 3000).await;
    let mut ws = hub.ws().await;
    ws.send(json!({"type": "subscribe", "channels": ["a"], "after_seq": {"a": 500}})).await;
    let (seen, ()) = tokio::join!(
        async {
            ws.expect("subscribed").await;
            ws.read_to("a", 3100).await
        },
        hub.publish_numbers("a", 3001, 3100)
    );
    seen.assert_exactly(501, 3100);
    assert!(seen.gaps.is_empty(), "{:?}", seen.gaps);
}

/// There `-1` was one before the oldest, and a gap.
#[tokio::test]
async fn a_negative_number_is_from_the_beginning() {
    let hub = TestHub::start();
    hub.publish_numbers("a", 1, 3).await;
    let mut ws = hub.ws().await;
    ws.send(json!({"type": "subscribe", "channels": ["a"], "after_seq": {"a": -1}})).await;
    ws.expect("subscribed").await;
    let seen = ws.read_to("a", 3).await;
    seen.assert_exactly(1, 3);
    assert!(seen.gaps.is_empty());
}

/// There an emptied channel forgot its numbers: the next message was 1 again, and who resumed heard nothing of it.
#[tokio::test]
async fn numbers_go_on_when_everything_is_evicted_and_who_resumes_is_told() {
    let config = "[store]\nsweep_interval = \"100ms\"\n[[retention.rules]]\npattern = \"a\"\nttl = \"4s\"";
    let hub = TestHub::plan().toml(config).start();
    hub.publish_numbers("a", 1, 5).await;
    until("all is evicted", async || hub.history("channel=a").await["first_seq"] == 6).await;
    let mut ws = hub.ws().await;
    ws.send(json!({"type": "subscribe", "channels": ["a"], "after_seq": {"a": 2}})).await;
    ws.expect("subscribed").await;
    let gap = ws.expect("gap").await;
    assert_eq!((&gap["requested_from_seq"], &gap["available_from_seq"]), (&json!(2), &json!(6)));
    assert_eq!(gap["message"], "gap: requested seq 2 but earliest available is 6");
    assert_eq!(hub.publish("a", json!(6)).await["seq_id"], 6);
    assert_eq!(ws.expect("message").await["seq_id"], 6);
}

#[tokio::test]
async fn a_frame_beyond_the_limit_ends_the_connection_with_1009_and_a_binary_one_does_not() {
    let hub = TestHub::start();
    let mut ws = RawWs::connect(hub.address, &hub.token(&["a"])).await;
    ws.send(BINARY, b"\x00\x01").await;
    // It was ignored there; here it is an answer that says so.
    assert_eq!(ws.next_json().await["code"], 40003);
    ws.send(PING, b"there?").await;
    let pong = ws.next().await;
    assert_eq!((pong.opcode, pong.payload.as_slice()), (PONG, &b"there?"[..]));
    let frame = |size: usize| {
        let frame = r#"{"type":"unsubscribe","channels":[""]}"#;
        frame.replace("\"\"", &format!("\"{}\"", "x".repeat(size - frame.len()))).into_bytes()
    };
    ws.send(TEXT, &frame(65536)).await;
    ws.send(PING, b"still").await;
    assert_eq!(ws.next().await.opcode, PONG);
    ws.send(TEXT, &frame(65537)).await;
    assert_eq!(ws.close_code().await, 1009);
}

#[tokio::test]
async fn the_server_pings_and_a_hub_that_stops_says_1001() {
    let mut hub = TestHub::plan().toml("[websocket]\nping_interval = \"200ms\"\npong_timeout = \"30s\"").start();
    let mut quiet = RawWs::connect(hub.address, &hub.token(&["a"])).await;
    assert_eq!(quiet.next().await.opcode, PING);
    let mut ws = hub.ws().await;
    ws.subscribe(&["a"]).await;
    hub.publish("a", json!("before the end")).await;
    let stopping = hub.begin_stop();
    let (seen, _, end) = ws.read_to_end("a").await;
    seen.assert_exactly(1, 1);
    assert_eq!(end, End::Closed(1001, "server shutting down".into()));
    drop(quiet);
    stopping.unwrap().join().unwrap();
}

const EXACT: &str = "[websocket]\nfirst_aether = true\n";

/// Three thousand, to a client that takes in little at a time: the answer is held until the last of them has been taken.
#[tokio::test]
async fn where_the_settings_say_so_subscribed_comes_after_the_whole_replay() {
    let hub = TestHub::plan().toml(EXACT).start();
    hub.publish_numbers("a", 1, 3000).await;
    hub.publish_numbers("b", 1, 500).await;
    let mut ws = WsClient::narrow(hub.address, &hub.token(&["*"])).await;
    ws.send(json!({"type": "subscribe", "channels": ["a", "b"], "after_seq": {"a": 0, "b": 100}})).await;
    let publishing = tokio::spawn({
        let (address, key) = (hub.address, hub.keys.admin_key().to_owned());
        async move {
            for n in 3001..=3050 {
                let mut http = Http::connect(address, Some(&key)).await;
                http.post("/api/v1/publish", json!({"channel": "a", "payload": n}).to_string()).await.ok();
            }
        }
    });
    let (mut seen_a, mut seen_b) = (Vec::new(), Vec::new());
    loop {
        let frame = ws.next().await.unwrap();
        match (frame["type"].as_str(), frame["channel"].as_str()) {
            (Some("message"), Some("a")) => seen_a.push(frame["seq_id"].as_u64().unwrap()),
            (Some("message"), Some("b")) => seen_b.push(frame["seq_id"].as_u64().unwrap()),
            (Some("subscribed"), _) => {
                assert_eq!(frame, json!({"type": "subscribed", "channels": ["a", "b"]}));
                break;
            }
            _ => panic!("{frame}"),
        }
    }
    assert!(seen_a.len() >= 3000, "{} of the replay", seen_a.len());
    assert_eq!(seen_b, (101..=500).collect::<Vec<_>>());
    while seen_a.len() < 3050 {
        seen_a.push(ws.next().await.unwrap()["seq_id"].as_u64().unwrap());
    }
    assert_eq!(seen_a, (1..=3050).collect::<Vec<_>>());
    publishing.await.unwrap();
}

#[tokio::test]
async fn where_the_settings_say_so_nothing_is_said_that_it_did_not_know_but_to_who_offers_our_subprotocol() {
    let mut hub = TestHub::plan().toml(EXACT).start();
    let path = format!("/ws?token={}", hub.token(&["a"]));
    let ours = [("sec-websocket-protocol", "aether.v1")];
    let mut native = WsClient::open(hub.address, &path, &ours, None).await.unwrap();
    native.send(json!({"type": "subscribe", "channels": ["a"]})).await;
    assert!(native.next().await.unwrap()["positions"].is_object());
    let mut many = WsClient::open(hub.address, &path, &[], None).await.unwrap();
    many.send(json!({"type": "subscribe", "channels": vec!["x"; 101]})).await;
    let message = "too many channels per request: 101 (max 100)";
    assert_eq!(many.next().await.unwrap(), json!({"type": "error", "code": 40005, "message": message}));
    drop(many);
    // A credential that ends soon is not announced, and a binary frame is not answered.
    let short = aether::keys::Claims::new("u", &["a"], &[] as &[&str], std::time::Duration::from_secs(5));
    let mut first = RawWs::connect(hub.address, &short.sign(hub.keys.signing_key()).unwrap()).await;
    first.send(BINARY, b"\x00").await;
    first.send(PING, b"?").await;
    assert_eq!(first.next().await.opcode, PONG);
    let stopping = hub.begin_stop();
    assert_eq!(native.next().await.unwrap()["type"], "bye");
    assert_eq!(native.end().await, End::Closed(1001, "server shutting down".into()));
    assert_eq!(first.close_code().await, 1001);
    stopping.unwrap().join().unwrap();
}

/// Clients know a number and no epoch: a hub that begins behind all numbers of the old one takes none of them for its own.
#[tokio::test]
async fn who_comes_with_a_number_of_the_old_hub_is_told_and_gets_everything_of_the_new_one() {
    let config = "[publish]\nfirst_seq = 1000\n[[retention.rules]]\npattern = \"fleeting\"\nhistory = false";
    let mut hub = TestHub::plan().toml(config).start();
    for channel in ["kept", "fleeting"] {
        let empty = hub.history(&format!("channel={channel}")).await;
        assert_eq!((&empty["first_seq"], &empty["last_seq"]), (&json!(1000), &json!(999)), "{channel}");
        hub.publish_numbers(channel, 1000, 1004).await;
        let mut ws = hub.ws().await;
        ws.resume(channel, 3).await;
        let seen = ws.read_to(channel, 1004).await;
        seen.assert_exactly(1000, 1004);
        assert_eq!(seen.gaps[0]["message"], "gap: requested seq 3 but earliest available is 1000", "{channel}");
        // And from then on it is as ever.
        let mut ws = hub.ws().await;
        ws.resume(channel, 1002).await;
        let seen = ws.read_to(channel, 1004).await;
        seen.assert_exactly(1003, 1004);
        assert!(seen.gaps.is_empty(), "{channel}");
    }
    hub.restart();
    assert_eq!(hub.publish("kept", json!(1)).await["seq_id"], 1005, "what has begun goes on");
    hub.config.publish.first_seq = aether::config::Count(1);
    hub.restart();
    assert_eq!(hub.publish("kept", json!(1)).await["seq_id"], 1006);
    assert_eq!(hub.publish("another", json!(1)).await["seq_id"], 1);
}
