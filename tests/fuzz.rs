//! Nonsense, a lot of it: the hub lives, and who sent it is answered on the same connection where its transport lets it.
//!
//! Bounded here; `PROPTEST_CASES=100000 cargo test --test main fuzz` goes on for longer.

use std::cell::{Cell, RefCell};
use std::time::Duration;

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use tokio::runtime::Runtime;

use crate::common::raw_ws::{BINARY, CLOSE, PING, PONG, TEXT, deflate, frame};
use crate::common::*;

const CASES: u32 = 300;

fn runner(cases: u32) -> TestRunner {
    let asked = std::env::var("PROPTEST_CASES").ok().and_then(|text| text.parse().ok());
    TestRunner::new(Config { cases: asked.unwrap_or(cases), failure_persistence: None, ..Config::default() })
}

fn hub() -> (Runtime, TestHub) {
    let patient = "[limits]\nrefusals_per_minute = 0\nhandshakes_per_second = 0\n[websocket]\nmax_message_size = \"4KiB\"\n\
                   [[retention.rules]]\npattern = \"*\"\nhistory = false\n";
    (Runtime::new().unwrap(), TestHub::plan().toml(patient).start())
}

/// Words that mean something to some hub, and values that parsers stumble over.
fn word() -> impl Strategy<Value = String> {
    let known = prop::sample::select(vec![
        "SUB",
        "SUB ",
        "null",
        "[]",
        "{}",
        "{\"command\":\"subscribe\",\"data\":null}",
        "{\"command\":\"replay\"}",
        "{\"event\":2,\"data\":{}}",
        "{\"action\":\"subscribe\"}",
        "true",
        "-0",
        "1e999",
        "\"",
        "\\u0000",
        "\u{feff}{}",
        "{\"type\":null}",
        "{\"type\":{}}",
        "{\"type\":\"subscribe\"",
        "[[[[[[[[",
        "NaN",
        "\u{202e}",
        "__proto__",
    ]);
    prop_oneof![known.prop_map(str::to_owned), any::<String>(), "[ -~]{0,40}"]
}

fn value() -> impl Strategy<Value = Json> {
    let leaf = prop_oneof![
        Just(Json::Null),
        any::<bool>().prop_map(Json::from),
        any::<i64>().prop_map(Json::from),
        any::<u64>().prop_map(Json::from),
        any::<f64>().prop_map(|number| json!(number)),
        word().prop_map(Json::from),
        prop::sample::select(vec!["a", "a.b", "$x", "*", "a..b", "a.*", ""]).prop_map(Json::from),
    ];
    leaf.prop_recursive(3, 24, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Json::from),
            prop::collection::vec((word(), inner), 0..6).prop_map(|pairs| pairs.into_iter().collect::<Json>()),
        ]
    })
}

/// A frame that looks like one of ours, with anything in its fields.
fn request() -> impl Strategy<Value = String> {
    let kinds =
        vec!["subscribe", "unsubscribe", "publish", "history", "presence", "refresh", "ping", "message", "bye", ""];
    let fields = vec![
        "id",
        "channels",
        "channel",
        "after_seq",
        "before_seq",
        "epoch",
        "pace",
        "dry_run",
        "payload",
        "event",
        "meta",
        "idempotency_key",
        "ttl",
        "token",
        "limit",
        "type",
    ];
    let fields = prop::collection::vec((prop::sample::select(fields), value()), 0..6);
    (prop::sample::select(kinds), fields).prop_map(|(kind, fields)| {
        let mut frame: serde_json::Map<String, Json> =
            fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        frame.entry("type").or_insert(json!(kind));
        Json::from(frame).to_string()
    })
}

async fn lives(hub: &TestHub) {
    assert_eq!(hub.http_as(None).await.get("/healthz").await.status, 200);
}

#[test]
fn whatever_a_websocket_says_it_is_heard_and_the_same_socket_still_answers_a_ping() {
    let (runtime, hub) = hub();
    let ws = RefCell::new(runtime.block_on(RawWs::connect(hub.address, &hub.token_for("x", &["*"], &["*"]))));
    let count = Cell::new(0);
    let texts = prop::collection::vec(prop_oneof![request(), word(), value().prop_map(|json| json.to_string())], 1..6);
    let outcome = runner(CASES).run(&texts, |texts| {
        count.set(count.get() + 1);
        let (mut ws, number) = (ws.borrow_mut(), count.get());
        runtime.block_on(async {
            for text in texts.iter().filter(|text| text.len() <= 4096) {
                ws.send(TEXT, text.as_bytes()).await;
            }
            ws.send(BINARY, b"\0").await;
            ws.send(TEXT, format!("{{\"type\":\"ping\",\"id\":\"is there {number}?\"}}").as_bytes()).await;
            let pong = json!({"type": "pong", "id": format!("is there {number}?")});
            while ws.next_json().await != pong {}
        });
        Ok(())
    });
    outcome.unwrap_or_else(|failure| panic!("{failure}"));
    runtime.block_on(lives(&hub));
}

#[test]
fn whatever_bytes_a_websocket_is_made_of_the_hub_lives_and_ends_it_or_answers() {
    let (runtime, hub) = hub();
    let token = hub.token(&["*"]);
    let piece = prop_oneof![
        prop::collection::vec(any::<u8>(), 0..200),
        (any::<u8>(), prop::collection::vec(any::<u8>(), 0..300)).prop_map(|(first, payload)| frame(first, &payload)),
        (prop::sample::select(vec![TEXT, BINARY, 0, CLOSE, PING, PONG]), any::<bool>(), request())
            .prop_map(|(opcode, last, text)| frame(if last { 0x80 | opcode } else { opcode }, text.as_bytes())),
        // Compressed: whole, cut off, or not at all what it says.
        (prop::sample::select(vec![0xc0, 0x40]), request(), 0..40usize).prop_map(|(first, text, left_out)| {
            let packed = deflate(text.as_bytes());
            frame(first | TEXT, &packed[..packed.len() - left_out.min(packed.len())])
        }),
        prop::collection::vec(any::<u8>(), 0..300).prop_map(|noise| frame(0xc0 | TEXT, &noise)),
        // Lengths that do not come true.
        (any::<u8>(), 126..=127u8, any::<[u8; 8]>())
            .prop_map(|(first, length, more)| { [&[first, 0x80 | length][..], &more[..]].concat() }),
    ];
    let offers = prop::sample::select(vec![&[][..], &["permessage-deflate"]]);
    let outcome = runner(CASES / 3).run(&(offers, prop::collection::vec(piece, 1..8)), |(offers, pieces)| {
        runtime.block_on(async {
            let mut ws = RawWs::offering(hub.address, &format!("/ws?token={token}"), offers).await;
            for piece in &pieces {
                ws.write(piece).await;
            }
            ws.send(PING, b"?").await;
            // It may wait for the rest of a frame that was announced: then there is nothing to hear.
            while let Ok(Ok(said)) = tokio::time::timeout(Duration::from_millis(20), ws.try_next()).await {
                if said.opcode == CLOSE {
                    let code = u16::from_be_bytes([said.payload[0], said.payload[1]]);
                    assert!([1000, 1002, 1007, 1009].contains(&code), "{code}");
                    break;
                }
            }
        });
        Ok(())
    });
    outcome.unwrap_or_else(|failure| panic!("{failure}"));
    runtime.block_on(lives(&hub));
}

#[test]
fn whatever_a_request_carries_it_is_answered_and_the_same_connection_goes_on() {
    let (runtime, hub) = hub();
    let http = RefCell::new(runtime.block_on(hub.http()));
    let body = prop_oneof![
        prop::collection::vec(any::<u8>(), 0..600),
        word().prop_map(String::into_bytes),
        request().prop_map(String::into_bytes),
        prop::collection::vec(value(), 0..5)
            .prop_map(|messages| json!({"messages": messages}).to_string().into_bytes()),
        prop::collection::vec(request(), 0..5)
            .prop_map(|all| format!("{{\"messages\":[{}]}}", all.join(",")).into_bytes()),
    ];
    let paths = prop::sample::select(vec![
        "/api/v1/publish",
        "/api/v1/publish?channel=a",
        "/api/v1/publish?channel=%00&ttl=x&event=%0a",
        "/api/v1/publish/batch",
        "/api/v1/disconnect",
        "/api/v1/unsubscribe",
        "/api/v1/nothing",
    ]);
    let types =
        prop::sample::select(vec!["application/json", "text/plain", "a/b+json", "", ";;;", "multipart/form-data"]);
    let outcome = runner(CASES).run(&(paths, types, body), |(path, kind, body)| {
        let mut http = http.borrow_mut();
        runtime.block_on(async {
            let answer = http.send("POST", path, &[("content-type", kind)], &body).await;
            assert!(answer.status < 500 && !answer.body.is_empty(), "{path} {kind}: {answer:?}");
            assert!(answer.json().is_object());
            assert_eq!(http.get("/healthz").await.status, 200);
        });
        Ok(())
    });
    outcome.unwrap_or_else(|failure| panic!("{failure}"));
}

#[test]
fn whatever_a_cursor_or_a_query_says_a_stream_begins_or_says_why_not() {
    let (runtime, hub) = hub();
    let token = hub.token(&["*"]);
    let http = RefCell::new(runtime.block_on(hub.http_as(Some(&token))));
    let good = runtime.block_on(http.borrow_mut().get("/poll?channel=a")).ok()["cursor"].as_str().unwrap().to_owned();
    // Ours, with something changed, cut off or added; and anything at all.
    let bent = (0..good.len(), "[A-Za-z0-9_=~.:,-]{0,3}", any::<bool>()).prop_map(move |(at, more, cut)| {
        let rest = if cut { "" } else { good.get(at + 1..).unwrap_or("") };
        format!("{}{more}{rest}", good.get(..at).unwrap_or(""))
    });
    let cursor = prop_oneof![bent, word(), "[!-~]{0,80}"];
    let names =
        prop::sample::select(vec!["cursor", "after_seq", "epoch", "max_rate", "wait", "data", "heartbeat", "x"]);
    let outcome = runner(CASES).run(&(cursor, names, word()), |(cursor, name, value)| {
        let mut http = http.borrow_mut();
        let query: String = form_urlencoded::Serializer::new(String::new())
            .append_pair("channel", "a")
            .append_pair("cursor", &cursor)
            .append_pair(name, &value)
            .append_pair("wait", "0")
            .finish();
        runtime.block_on(async {
            // As a header only what fits into one.
            let header: String = cursor.chars().filter(char::is_ascii_graphic).collect();
            let headers: &[(&str, &str)] = if header.is_empty() { &[] } else { &[("last-event-id", &header)] };
            for headers in [&[][..], headers] {
                let polled = http.send("GET", &format!("/poll?wait=0&{query}"), headers, b"").await;
                assert!([200, 400].contains(&polled.status), "{query}: {}", polled.text());
                assert!(polled.json().is_object());
            }
            let path = format!("/sse?{query}&token={token}");
            match SseClient::open(hub.address, &path, Some(&header)).await {
                Ok(mut stream) => assert_eq!(stream.next().await.expect("a first event").name, "subscribed"),
                Err(refused) => assert_eq!(refused.status, 400, "{query}: {}", refused.text()),
            }
        });
        Ok(())
    });
    outcome.unwrap_or_else(|failure| panic!("{failure}"));
    runtime.block_on(lives(&hub));
}
