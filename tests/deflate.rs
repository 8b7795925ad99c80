//! permessage-deflate (RFC 7692): what is compressed is compressed once for all, and says the same as what is not.

use std::process::Command;

use crate::common::raw_ws::{BINARY, CLOSE, PING, PONG, TEXT, deflate, frame};
use crate::common::*;
use crate::real_clients::{node, python};

const OFFER: &str = "permessage-deflate; client_max_window_bits";
/// Of a client's frame: whole, and compressed.
const PACKED: u8 = 0x80 | 0x40;

async fn offering(hub: &TestHub, offers: &[&str]) -> RawWs {
    let token = hub.token_for("tester", &["*"], &["*"]);
    RawWs::offering(hub.address, &format!("/ws?token={token}"), offers).await
}

async fn listener(hub: &TestHub, offers: &[&str], channel: &str, after: Option<u64>) -> RawWs {
    let mut ws = offering(hub, offers).await;
    let mut asked = json!({"type": "subscribe", "channels": [channel]});
    if let Some(after) = after {
        asked["after_seq"] = json!({channel: after});
    }
    ws.send(TEXT, asked.to_string().as_bytes()).await;
    assert_eq!(ws.next_json().await["type"], "subscribed");
    ws
}

/// The next messages as they came: whether compressed, and what they say.
async fn messages(ws: &mut RawWs, count: u64) -> Vec<(bool, String)> {
    let mut seen = Vec::new();
    while (seen.len() as u64) < count {
        let frame = ws.next().await;
        assert_eq!(frame.opcode, TEXT);
        let text = frame.message();
        if text.starts_with("{\"type\":\"message\"") {
            seen.push((frame.compressed, text));
        }
    }
    seen
}

fn texts(seen: &[(bool, String)]) -> Vec<&str> {
    seen.iter().map(|(_, text)| text.as_str()).collect()
}

/// A payload that is worth compressing.
fn large(n: u64) -> Json {
    json!({"n": n, "items": (0..20).map(|i| json!({"id": i, "name": format!("item {i} of {n}"), "größe": "mittel"})).collect::<Vec<_>>()})
}

#[tokio::test]
async fn the_first_offer_that_can_be_kept_is_answered_and_without_one_the_connection_goes_on_plain() {
    let hub = TestHub::start();
    let both = "permessage-deflate; server_no_context_takeover; client_no_context_takeover";
    let narrow = format!("{both}; server_max_window_bits=12");
    for (offers, answer) in [
        (&[][..], None),
        (&[OFFER], Some(both)),
        (&["permessage-deflate; server_max_window_bits=12; client_max_window_bits=12"], Some(narrow.as_str())),
        (&["x-unknown, permessage-deflate; what, permessage-deflate"], Some(both)),
        // A header for each offer.
        (
            &["permessage-deflate; server_max_window_bits=9", "permessage-deflate; server_max_window_bits=15"],
            Some(&narrow),
        ),
        (&["permessage-deflate; server_max_window_bits=9"], None),
        (&["permessage-deflate; server_max_window_bits"], None),
        (&["permessage-deflate; client_max_window_bits=17", "nonsense;;\"=,"], None),
    ] {
        let mut ws = offering(&hub, offers).await;
        assert_eq!(ws.agreed.as_deref(), answer, "{offers:?}");
        ws.send(TEXT, br#"{"type":"ping"}"#).await;
        assert_eq!(ws.next_json().await["type"], "pong", "{offers:?}");
    }
    let off = TestHub::plan().toml("[websocket]\ncompression = false").start();
    let mut ws = listener(&off, &[OFFER], "a", None).await;
    assert_eq!(ws.agreed, None);
    off.publish("a", large(1)).await;
    assert_eq!(ws.next_json().await["payload"], large(1));
}

#[tokio::test]
async fn a_thousand_subscribers_share_what_was_compressed_once() {
    const READERS: usize = 1000;
    const MESSAGES: u64 = 10;
    let hub = TestHub::start();
    let mut packed = Vec::new();
    for _ in 0..READERS {
        packed.push(listener(&hub, &[OFFER], "fan.out", None).await);
    }
    let mut plain = Vec::new();
    for _ in 0..10 {
        plain.push(listener(&hub, &[], "fan.out", None).await);
    }
    for n in 1..=MESSAGES {
        hub.publish("fan.out", large(n)).await;
    }
    let expected = messages(&mut plain[0], MESSAGES).await;
    for ws in &mut packed {
        let seen = messages(ws, MESSAGES).await;
        assert!(seen.iter().all(|(compressed, _)| *compressed));
        assert_eq!(texts(&seen), texts(&expected), "the same text, byte for byte");
    }
    for ws in &mut plain[1..] {
        assert_eq!(messages(ws, MESSAGES).await, expected);
    }
    let pushed = (READERS as u64 + 10) * MESSAGES;
    until("every delivery is counted", async || hub.metric("aether_messages_pushed_total").await == pushed as f64)
        .await;
    let metrics = hub.metrics().await;
    assert_eq!(metrics["aether_messages_compressed_total"], MESSAGES as f64, "once for a thousand");
    assert_eq!(metrics["aether_messages_encoded_total"], (2 * MESSAGES) as f64, "once for each of two formats");
    let before: usize = expected.iter().map(|(_, text)| text.len()).sum();
    assert_eq!(metrics["aether_compression_before_bytes_total"], before as f64);
    let after = metrics["aether_compression_after_bytes_total"];
    assert!(after > 0.0 && after < before as f64 / 3.0, "{after} of {before}");
}

#[tokio::test]
async fn live_resumed_and_replayed_messages_say_the_same_compressed_or_not() {
    const LAST: u64 = 60;
    let hub = TestHub::plan().toml("[channels]\ntail_count = 20\n[websocket]\ncompress_from = 300").start();
    let offers = ["permessage-deflate; server_max_window_bits=12; client_max_window_bits=12"];
    let mut live = [listener(&hub, &offers, "a", None).await, listener(&hub, &[], "a", None).await];
    let [mut packed, mut plain] = [Vec::new(), Vec::new()];
    for n in 1..=LAST {
        let payload = match n % 4 {
            0 => json!(n),
            1 => large(n),
            2 => json!((0..60).map(|i| (i * 7919 + n) * 2654435761 % 4294967296).collect::<Vec<_>>()),
            _ => json!("täglich 日本 \u{1F980} ".repeat(700)),
        };
        hub.publish("a", payload).await;
        packed.extend(messages(&mut live[0], 1).await);
        plain.extend(messages(&mut live[1], 1).await);
    }
    assert_eq!(texts(&packed), texts(&plain));
    for (compressed, text) in &packed {
        let wanted = text.len() >= 300;
        assert_eq!(*compressed, wanted, "{} bytes", text.len());
    }
    let compressed = hub.metric("aether_messages_compressed_total").await;
    for after in [50, 41, 40, 10, 0] {
        let mut ws = listener(&hub, &offers, "a", Some(after)).await;
        let seen = messages(&mut ws, LAST - after).await;
        assert_eq!(texts(&seen), texts(&plain)[after as usize..], "after {after}");
        match after >= LAST - 20 {
            true => assert_eq!(seen, packed[after as usize..], "the tail's bytes"),
            false => assert!(seen.iter().all(|(compressed, _)| !compressed), "compressed for one reader alone"),
        }
    }
    assert!(hub.metric("aether_store_reads_total").await > 0.0, "some of it came from the store");
    let again = hub.metric("aether_messages_compressed_total").await - compressed;
    assert_eq!(again, 0.0, "the tail was compressed already, and the store's pages are not");
    // The numbers of a history are the same, and its frame is one reader's.
    let mut ws = offering(&hub, &offers).await;
    ws.send(TEXT, br#"{"type":"history","channel":"a","after_seq":56}"#).await;
    let history = ws.next().await;
    assert!(!history.compressed && history.message().contains("\"seq_id\":57"), "{}", history.message());
}

#[tokio::test]
async fn who_sees_through_a_view_gets_the_views_bytes_compressed() {
    let rules = r#"
        aether.on.view("room.{room}", "public", { drop = { "secret" } })
        aether.on.subscribe("room.{room}", function(s)
            return aether.allow({ view = if s.user == "mod" then "full" else "public" })
        end)
    "#;
    let hub = TestHub::plan().rules(rules).start();
    let mut eyes = Vec::new();
    for user in ["mod", "guest", "mod", "guest"] {
        let token = hub.token_for(user, &["room.*"], &[]);
        let mut ws = RawWs::offering(hub.address, &format!("/ws?token={token}"), &[OFFER]).await;
        ws.send(TEXT, br#"{"type":"subscribe","channels":["room.1"]}"#).await;
        assert_eq!(ws.next_json().await["type"], "subscribed");
        eyes.push((user, ws));
    }
    let mut payload = large(1);
    let public = payload.clone();
    payload["secret"] = json!("s3cret");
    hub.publish("room.1", payload.clone()).await;
    for (user, ws) in &mut eyes {
        let frame = ws.next().await;
        assert!(frame.compressed);
        let seen: Json = serde_json::from_str(&frame.message()).unwrap();
        assert_eq!(seen["payload"], if *user == "mod" { payload.clone() } else { public.clone() }, "{user}");
    }
    assert_eq!(hub.metric("aether_messages_compressed_total").await, 2.0, "once for each view");
}

#[tokio::test]
async fn the_words_of_a_dialect_and_of_the_first_aether_are_compressed_as_well() {
    let rules = r#"
        aether.on.connect(function(req)
            if req.dialect ~= "pages" then return nil end
            return aether.allow({ user = "reader", grants = { subscribe = aether.patterns({ "news" }) } })
        end)
        aether.dialect("pages", {
            mount = { ws = "/pages" },
            styles = { "bytes" },
            on_open = function(c, req)
                if req.query.bytes then c:speak("bytes") end
                c:subscribe("news")
            end,
            on_frame = function(c, frame, kind) c:reply(`{kind} {frame}`) end,
            encode = function(ev)
                if ev.kind == "subscribed" then return "ready" end
                if ev.kind ~= "message" then return nil end
                if ev.style == "bytes" then return ev.payload, "binary" end
                return ev.payload
            end,
        })
    "#;
    let hub = TestHub::plan().toml("[websocket]\nfirst_aether = true").rules(rules).start();
    let mut pages = Vec::new();
    for (query, opcode) in [("", TEXT), ("?bytes=1", BINARY), ("", TEXT), ("?bytes=1", BINARY)] {
        let mut ws = RawWs::offering(hub.address, &format!("/pages{query}"), &[OFFER]).await;
        assert!(ws.agreed.is_some());
        assert_eq!(ws.next().await.message(), "ready");
        pages.push((ws, opcode));
    }
    let mut old = listener(&hub, &[OFFER], "news", None).await;
    hub.publish("news", large(1)).await;
    for (ws, opcode) in &mut pages {
        let page = ws.next().await;
        assert_eq!((page.opcode, page.compressed), (*opcode, true));
        assert_eq!(serde_json::from_str::<Json>(&page.message()).unwrap(), large(1));
    }
    let page = old.next().await;
    assert!(page.compressed);
    assert_eq!(serde_json::from_str::<Json>(&page.message()).unwrap()["payload"], large(1));
    assert_eq!(hub.metric("aether_messages_compressed_total").await, 3.0, "two styles, and the first Aether's frames");
    // And what they say compressed is heard, text and bytes.
    let (ws, _) = &mut pages[0];
    for (opcode, kind) in [(TEXT, "text"), (BINARY, "binary")] {
        ws.write(&frame(PACKED | opcode, &deflate(b"hello hello hello"))).await;
        assert_eq!(ws.next().await.message(), format!("{kind} hello hello hello"));
    }
}

#[tokio::test]
async fn a_client_may_compress_or_not_as_it_likes_in_one_frame_or_in_several() {
    let hub = TestHub::plan().toml("[websocket]\nmax_message_size = \"4KiB\"").start();
    let mut ws = listener(&hub, &[OFFER], "a", None).await;
    ws.write(&frame(PACKED | TEXT, &deflate(br#"{"type":"ping","id":1}"#))).await;
    assert_eq!(ws.next_json().await["id"], 1);
    ws.send(TEXT, br#"{"type":"ping","id":2}"#).await;
    assert_eq!(ws.next_json().await["id"], 2);
    let said = json!({"type": "publish", "channel": "a", "payload": "ä".repeat(1900)}).to_string();
    let packed = deflate(said.as_bytes());
    // In three pieces with a ping between them, and an empty one; only the first says that it is compressed.
    ws.write(&frame(0x40 | TEXT, &packed[..5])).await;
    ws.send(PING, b"between").await;
    let pong = ws.next().await;
    assert_eq!((pong.opcode, pong.compressed, &pong.payload[..]), (PONG, false, &b"between"[..]));
    ws.write(&frame(0, &packed[5..9])).await;
    ws.write(&frame(0, b"")).await;
    ws.write(&frame(0x80, &packed[9..])).await;
    let (mut published, mut heard) = (false, false);
    while !(published && heard) {
        let frame = ws.next().await;
        let said: Json = serde_json::from_str(&frame.message()).unwrap();
        match said["type"].as_str() {
            Some("published") => published = !frame.compressed,
            Some("message") => heard = said["payload"] == "ä".repeat(1900) && frame.compressed,
            _ => panic!("{said}"),
        }
    }
    // A message of just the size that is allowed, and the same in a way that makes it a little larger: not compressed at all.
    let text = format!("{:<4096}", r#"{"type":"ping"}"#);
    let stored = [&[0, 0, 0x10, 0xff, 0xef], text.as_bytes(), &[0]].concat();
    for packed in [deflate(text.as_bytes()), stored] {
        ws.write(&frame(PACKED | TEXT, &packed)).await;
        assert_eq!(ws.next_json().await["type"], "pong");
    }
}

#[tokio::test]
async fn what_breaks_the_extension_is_closed_with_its_code_and_a_bomb_goes_off_nowhere() {
    let hub = TestHub::plan().toml("[websocket]\nmax_message_size = \"64KiB\"").start();
    let bomb = deflate(&vec![b' '; 32 << 20]);
    assert!(bomb.len() < 64 * 1024, "{} bytes, small enough to be let in", bomb.len());
    let halves = bomb.split_at(bomb.len() / 2);
    let packed = deflate(br#"{"type":"ping"}"#);
    let cases: Vec<(&str, Vec<u8>, u16)> = vec![
        ("a bomb", frame(PACKED | TEXT, &bomb), 1009),
        ("a bomb in two pieces", [frame(0x40 | BINARY, halves.0), frame(0x80, halves.1)].concat(), 1009),
        ("one byte too many", frame(PACKED | TEXT, &deflate(&[b' '; 64 * 1024 + 1])), 1009),
        ("more bytes than compression can explain", frame(PACKED | TEXT, &[0; 72 * 1024]), 1009),
        ("nothing that was ever deflated", frame(PACKED | TEXT, &[0xff; 40]), 1007),
        ("no UTF-8, compressed", frame(PACKED | TEXT, &deflate(b"\"\xff\"")), 1007),
        (
            "a continuation that says it is compressed",
            [frame(0x40 | TEXT, &packed[..3]), frame(0xc0, &packed[3..])].concat(),
            1002,
        ),
        ("the same of a message that is not", [frame(TEXT, b"{"), frame(0xc0, b"}")].concat(), 1002),
        ("a compressed ping", frame(PACKED | PING, b""), 1002),
        ("a compressed close", frame(PACKED | CLOSE, &1000u16.to_be_bytes()), 1002),
        ("RSV2", frame(0xa0 | TEXT, b"{}"), 1002),
        ("RSV1 and RSV3", frame(0xd0 | TEXT, &packed), 1002),
    ];
    for (what, bytes, code) in cases {
        let mut ws = offering(&hub, &[OFFER]).await;
        ws.send(TEXT, br#"{"type":"ping"}"#).await;
        assert_eq!(ws.next_json().await["type"], "pong");
        ws.write(&bytes).await;
        assert_eq!(ws.close_code().await, code, "{what}");
    }
    let mut ws = offering(&hub, &[]).await;
    ws.write(&frame(PACKED | TEXT, &packed)).await;
    assert_eq!(ws.close_code().await, 1002, "compressed, and nobody agreed to that");
    until("all of them are gone", async || hub.metric("aether_connections_active").await == 0.0).await;
}

/// What clients that nobody here wrote are sent: with compression by their own libraries, as they come.
fn chapter(n: u64) -> String {
    (0..40).map(|line| format!("Zeile {line} von {n}, größer als alles zuvor. ")).collect()
}

const CHAPTERS: u64 = 30;

async fn tell(hub: &TestHub) {
    for n in 1..=CHAPTERS {
        hub.publish("demo.tale", json!(chapter(n))).await;
    }
}

async fn hears_the_tale(command: &mut Command) {
    let hub = TestHub::start();
    let address = hub.address.to_string();
    let arguments = [address.as_str(), &hub.token(&["demo.*"]), "demo.tale", &CHAPTERS.to_string()];
    let mut client = Program::start(command.args(arguments));
    client.until_err("connected").await;
    assert!(client.err().contains("connected permessage-deflate"), "{}", client.err());
    tell(&hub).await;
    assert_eq!(client.end().await, Some(0), "{}", client.err());
    let expected: Vec<String> = (1..=CHAPTERS).map(|n| format!("{n} {}", chapter(n))).collect();
    assert_eq!(client.out(), expected);
    assert_eq!(hub.metric("aether_messages_compressed_total").await, CHAPTERS as f64);
}

#[tokio::test]
async fn websockets_for_python_asks_for_compression_by_itself_and_reads_every_message() {
    let Some(home) = python() else { return };
    hears_the_tale(Command::new("python3").env("PYTHONPATH", home).arg(home.join("websockets_client.py"))).await;
}

#[tokio::test]
async fn ws_for_node_asks_for_compression_by_itself_and_reads_every_message() {
    let Some(home) = node() else { return };
    hears_the_tale(Command::new("node").arg(home.join("ws_client.mjs"))).await;
}

#[tokio::test]
async fn a_browser_asks_for_compression_by_itself_and_a_page_reads_every_message() {
    let Some(mut page) = Browser::open().await else { return };
    let hub = TestHub::start();
    page.visit(&format!("http://{}/healthz", hub.address)).await;
    page.until("document.body?.innerText ?? ''", |text| text.contains("ok")).await;
    let script = std::fs::read_to_string(repository().join("tests/clients/browser.js")).unwrap();
    page.eval(&format!("{script}\nlistenByWebSocket({:?}, 'demo.tale')", hub.token(&["demo.*"]))).await;
    page.until("connected", |count| count == "1").await;
    let agreed = page.eval("extensions").await;
    assert!(agreed.as_str().is_some_and(|agreed| agreed.starts_with("permessage-deflate")), "{agreed}");
    tell(&hub).await;
    page.until("seen.length", |count| count == CHAPTERS.to_string()).await;
    let expected: Vec<String> = (1..=CHAPTERS).map(|n| format!("{n} {}", chapter(n))).collect();
    assert_eq!(serde_json::from_value::<Vec<String>>(page.eval("seen").await).unwrap(), expected);
    assert_eq!(hub.metric("aether_messages_compressed_total").await, CHAPTERS as f64);
}
