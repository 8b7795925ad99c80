//! Payloads come out byte for byte as they went in, by every way out.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::common::*;

/// What JSON libraries like to change: large numbers, spelling, order, duplicates, escapes, blanks.
const TELLING: [&str; 12] = [
    r#"{"id":9007199254740993,"f":1.0,"h":"<b>&","z":"\u0000"}"#,
    "null",
    "false",
    r#"{"b":1,"a":2,"b":3}"#,
    "-0.0",
    "1e400",
    "123456789012345678901234567890",
    r#""\/\u00e9\ud83d\ude00 é 😀""#,
    "[ 1 ,\t2 , { } ]",
    "{\n  \"pretty\": [\n    1,\n    2\n  ]\n}",
    r#""data: x\n\nevent: gap\ndata: {}\r\n\r\n:""#,
    "\"\"",
];

/// What stands behind `"payload":` to the end of the frame.
fn payload_of(frame: &str) -> &str {
    let at = frame.find("\"payload\":").expect("a payload") + "\"payload\":".len();
    frame[at..].trim_end_matches('\n').strip_suffix('}').unwrap()
}

#[tokio::test]
async fn json_is_the_same_bytes_live_in_events_in_history_in_replay_and_in_batches() {
    let mut hub = TestHub::plan().with(|config| config.channels.tail_count = 3).start();
    let mut ws = hub.ws().await;
    ws.subscribe(&["one", "batch", "raw"]).await;
    let mut stream = hub.sse("channel=one", None).await;
    let mut bare = hub.sse("channel=one&data=payload", None).await;
    stream.expect("subscribed").await;
    bare.expect("subscribed").await;
    let mut http = hub.http().await;
    for payload in TELLING {
        http.post("/api/v1/publish", format!("{{\"channel\":\"one\",\"payload\": {payload} }}")).await.ok();
        assert_eq!(payload_of(&ws.next_text().await), payload);
        assert_eq!(payload_of(&stream.expect("message").await.data), payload);
        assert_eq!(bare.expect("message").await.data, payload);
        let header = [("content-type", "application/json; charset=utf-8")];
        let answer = http.send("POST", "/api/v1/publish?channel=raw", &header, payload.as_bytes()).await;
        answer.ok();
        assert_eq!(payload_of(&ws.next_text().await), payload);
    }
    let items = TELLING.map(|payload| format!("{{\"payload\":{payload},\"channel\":\"batch\"}}"));
    http.post("/api/v1/publish/batch", format!("{{\"messages\":[{}]}}", items.join(" , "))).await.ok();
    for payload in TELLING {
        assert_eq!(payload_of(&ws.next_text().await), payload);
    }

    hub.restart();
    let mut http = hub.http().await;
    for channel in ["one", "raw", "batch"] {
        let page = http.get(&format!("/api/v1/history?channel={channel}")).await;
        assert_eq!(page.text().matches("\"seq_id\":").count(), TELLING.len());
        let mut rest = page.text();
        for payload in TELLING {
            let at = rest.find(&format!("\"payload\":{payload}}}")).unwrap_or_else(|| panic!("{payload} in {rest}"));
            rest = &rest[at + payload.len()..];
        }
        let mut ws = hub.ws().await;
        ws.send(json!({"type": "subscribe", "channels": [channel], "after_seq": {channel: 0}})).await;
        ws.next_text().await;
        for payload in TELLING {
            assert_eq!(payload_of(&ws.next_text().await), payload);
        }
        let mut stream = hub.sse(&format!("channel={channel}&after_seq=0&data=payload"), None).await;
        stream.expect("subscribed").await;
        for payload in TELLING {
            assert_eq!(stream.expect("message").await.data, payload);
        }
    }
}

#[tokio::test]
async fn bare_bytes_are_carried_by_what_they_are() {
    let hub = TestHub::start();
    let mut ws = hub.ws().await;
    ws.subscribe(&["c"]).await;
    let mut bare = hub.sse("channel=c&data=payload", None).await;
    bare.expect("subscribed").await;
    let every_byte: Vec<u8> = (0..=255).collect();
    let form = Some("application/x-www-form-urlencoded"); // what curl -d says
    let cases: [(Option<&str>, &[u8], Json); 9] = [
        (None, b"{\"a\":1}", json!({"payload": {"a": 1}})),
        (form, b"{\"a\":1}", json!({"payload": {"a": 1}})),
        (form, b"hello", json!({"payload": "hello", "encoding": "text"})),
        (None, b"", json!({"payload": "", "encoding": "text"})),
        (Some("text/plain"), b"17", json!({"payload": "17", "encoding": "text", "content_type": "text/plain"})),
        (None, &every_byte, json!({"payload": STANDARD.encode(&every_byte), "encoding": "base64"})),
        (Some("image/png"), b"abc", json!({"payload": "YWJj", "encoding": "base64", "content_type": "image/png"})),
        (Some("text/plain"), b"\xff", json!({"payload": "/w==", "encoding": "base64", "content_type": "text/plain"})),
        (
            Some("application/cloudevents+json"),
            b"{}",
            json!({"payload": {}, "content_type": "application/cloudevents+json"}),
        ),
    ];
    let mut http = hub.http().await;
    for (content_type, body, expected) in cases {
        let headers: Vec<_> = content_type.map(|kind| ("content-type", kind)).into_iter().collect();
        http.send("POST", "/api/v1/publish?channel=c", &headers, body).await.ok();
        let mut frame = ws.next().await.unwrap();
        let history = hub.history("channel=c&before_seq=1000&limit=1").await["messages"][0].clone();
        for carried in [&mut frame, &mut history.clone()] {
            let fields = carried.as_object_mut().unwrap();
            fields.retain(|name, _| !["type", "channel", "seq_id", "timestamp"].contains(&name.as_str()));
            assert_eq!(*carried, expected, "{content_type:?}");
        }
        let data = bare.expect("message").await.data;
        match expected["payload"].as_str() {
            Some(text) => assert_eq!(data, text),
            None => assert_eq!(data.as_bytes(), body),
        }
    }
    let refused = http.send("POST", "/api/v1/publish?channel=c", &[("content-type", "application/json")], b"{").await;
    assert_eq!(refused.error(), (400, 40003));
}

#[tokio::test]
async fn no_text_can_begin_a_field_or_an_event_of_its_own() {
    let hub = TestHub::start();
    let mut frames = hub.sse("channel=c", None).await;
    let mut bare = hub.sse("channel=c&data=payload", None).await;
    let mut several = hub.sse("channel=c&channel=d&data=payload", None).await;
    for stream in [&mut frames, &mut bare, &mut several] {
        stream.expect("subscribed").await;
    }
    let hostile = [
        "a\n\nevent: gap\ndata: forged\n\n",
        "a\r\rid: 1\r\rb",
        "\r\nevent: x\r\n\r\n",
        "\0: :leading\n:comment\nretry: 1",
        "\u{feff}data: x",
        " one blank goes, one stays",
        "\n",
        "",
    ];
    let mut http = hub.http().await;
    let header = [("content-type", "text/plain")];
    for text in hostile {
        http.send("POST", "/api/v1/publish?channel=c", &header, text.as_bytes()).await.ok();
        // In a frame it is the same string to the byte; bare, an event stream knows only one kind of line end.
        assert_eq!(frames.expect("message").await.json()["payload"], text);
        let lines = text.replace("\r\n", "\n").replace('\r', "\n");
        assert_eq!(bare.expect("message").await.data, lines);
        assert_eq!(several.expect("message").await.data, lines);
    }
    assert_eq!(frames.retry(), Some(1000));
}

#[tokio::test]
async fn an_event_has_a_name_that_is_no_lie_and_a_meta_that_is_kept() {
    let mut hub = TestHub::start();
    let mut stream = hub.sse("channel=c", None).await;
    let mut ws = hub.ws().await;
    stream.expect("subscribed").await;
    ws.subscribe(&["c"]).await;
    let mut http = hub.http().await;
    let body = r#"{"channel":"c","payload":1,"event":"order.paid é","meta":{"b":1.0,"a":[]}}"#;
    http.post("/api/v1/publish", body).await.ok();
    let event = stream.expect("order.paid é").await;
    assert!(event.data.ends_with(r#""payload":1,"event":"order.paid é","meta":{"b":1.0,"a":[]}}"#), "{}", event.data);
    let frame = ws.next().await.unwrap();
    assert_eq!((&frame["event"], &frame["meta"]), (&json!("order.paid é"), &json!({"b": 1.0, "a": []})));
    http.post("/api/v1/publish?channel=c&event=tick", "1").await.ok();
    assert_eq!(stream.expect("tick").await.json()["event"], "tick");

    for bad in ["a\nb", "a\rb", "a\0b", "gap", "live", "bye", "error", "open", "subscribed", &"x".repeat(129)] {
        let body = json!({"channel": "c", "payload": 1, "event": bad}).to_string();
        assert_eq!(http.post("/api/v1/publish", body).await.error(), (400, 40003), "{bad:?}");
    }
    assert_eq!(http.post("/api/v1/publish?channel=c&event=a%0Ab", "1").await.error(), (400, 40003));
    ws.expect("message").await;
    ws.assert_silent().await;
    hub.restart();
    let kept = &hub.history("channel=c").await["messages"][0];
    assert_eq!((&kept["event"], &kept["meta"]), (&json!("order.paid é"), &json!({"b": 1.0, "a": []})));
}

#[tokio::test]
async fn sizes_up_to_the_limit_survive_and_beyond_it_are_refused() {
    let mut hub = TestHub::plan().toml("[server]\nmax_payload_size = \"1MiB\"").start();
    let mut ws = hub.ws().await;
    ws.subscribe(&["c"]).await;
    let mut http = hub.http().await;
    for (n, size) in [1, 125, 126, 65_535, 65_536, 140_000, (1 << 20) - 2].into_iter().enumerate() {
        let payload = format!("\"{}\"", "x".repeat(size));
        let header = [("content-type", "application/json")];
        let answer = http.send("POST", "/api/v1/publish?channel=c", &header, payload.as_bytes()).await;
        assert_eq!(answer.ok()["seq_id"], n as u64 + 1);
        assert_eq!(payload_of(&ws.next_text().await), payload);
    }
    let refused = http.post("/api/v1/publish?channel=c", vec![b'1'; (1 << 20) + 1]).await;
    assert_eq!(refused.error(), (413, 41301));
    hub.restart();
    let mut ws = hub.ws().await;
    ws.resume("c", 0).await;
    let seen = ws.read_to("c", 7).await;
    seen.assert_exactly(1, 7);
    assert_eq!(seen.messages.iter().map(|(_, payload)| payload.len()).max(), Some(1 << 20));
}
