//! What was wrong with Aphlict (H1 to H11), each with a test that fails where it still is. H1, H3, H4 and H10 are those of
//! `mesh.rs`; the age of what is replayed has its clock in `plugins/aphlict/tests`.

use std::time::{Duration, Instant};

use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Message;

use super::*;

#[tokio::test]
async fn h2_an_instance_hears_replays_and_counts_nothing_of_another() {
    let node = Node::start();
    let names = ["default", "acme", "acme.a", "a", "a:b", "acme%20", &"x".repeat(300)];
    let mut clients = Vec::new();
    for name in names {
        let mut client = node.browser(&format!("/ws/~{name}/")).await;
        subscribe(&mut client, &["PHID-1", "acme.PHID-1"]).await;
        clients.push(client);
    }
    for name in names {
        let path = format!("/?instance={}", name.replace('%', "%25"));
        let body = json!({"subscribers": ["PHID-1", "a.PHID-1", "b"], "to": name}).to_string();
        assert_eq!(node.post(&path, &body).await.status, 200);
    }
    for (name, client) in names.iter().zip(&mut clients) {
        for _ in 0..2 {
            let heard: Vec<_> = heard(client, 1).await.into_iter().map(|frame| frame["to"].clone()).collect();
            assert_eq!(heard, [json!(name)]);
            say(client, "replay", json!({"age": 60_000})).await;
        }
        let status = node.status(&name.replace('%', "%25")).await;
        assert_eq!((&status["clients.active"], &status["instance"]), (&json!(1), &json!(name)));
    }
}

#[tokio::test]
async fn h5_an_id_that_every_object_has_in_javascript_reaches_nobody_who_did_not_ask_for_it() {
    let node = Node::start();
    let mut stranger = node.browser("/ws/").await;
    subscribe(&mut stranger, &["PHID-1"]).await;
    let mut subscriber = node.browser("/ws/").await;
    let ids = ["constructor", "toString", "__proto__", "hasOwnProperty", ""];
    subscribe(&mut subscriber, &ids).await;
    for id in ids {
        node.post("/", &json!({"subscribers": [id], "id": id}).to_string()).await.ok();
        let frame: Json = serde_json::from_str(&subscriber.next_text().await).unwrap();
        assert_eq!(frame["id"], id);
    }
    assert_silent(&mut stranger).await;
}

#[tokio::test]
async fn h6_what_has_no_subscribers_is_refused_and_later_replays_are_whole() {
    let node = Node::start();
    let mut listener = node.browser("/ws/").await;
    subscribe(&mut listener, &["PHID-1"]).await;
    for n in 0..3 {
        node.post("/", &format!("{{\"subscribers\":[\"PHID-1\"],\"n\":{n}}}")).await.ok();
        for body in ["null", "[]", "{}", r#"{"type":"notification"}"#, r#"{"subscribers":null}"#, "\u{feff}{}"] {
            let refused = node.post("/", body).await;
            assert_eq!((refused.status, refused.text()), (400, ""), "{body}");
        }
    }
    assert_eq!(heard(&mut listener, 3).await.len(), 3);
    let mut late = node.browser("/ws/").await;
    subscribe(&mut late, &["PHID-1"]).await;
    say(&mut late, "replay", json!({"age": 60_000})).await;
    let numbers: Vec<_> = until_pong(&mut late).await.into_iter().map(|frame| frame["n"].clone()).collect();
    assert_eq!(numbers, [0, 1, 2]);
}

#[tokio::test]
async fn h7_whatever_a_client_says_it_goes_on_hearing_and_is_heard() {
    let node = Node::start();
    let mut client = node.browser("/ws/").await;
    subscribe(&mut client, &["PHID-1"]).await;
    let words = [
        "{",
        "}",
        "[",
        "]",
        ":",
        ",",
        "\"command\"",
        "\"data\"",
        "\"subscribe\"",
        "\"replay\"",
        "null",
        "-1e999",
        "\"\\ud800\"",
    ];
    let mut dice = Dice::new(7);
    for round in 0..600 {
        let frame: String = (0..dice.below(8)).map(|_| words[dice.below(words.len() as u64) as usize]).collect();
        match dice.below(4) {
            0 => client.send_message(Message::binary(frame.into_bytes())).await,
            1 => {
                let bytes: Vec<u8> = (0..dice.below(64)).map(|_| dice.below(256) as u8).collect();
                client.send_message(Message::binary(bytes)).await;
            }
            _ => client.send_text(&frame).await,
        }
        if round % 50 == 0 {
            assert_silent(&mut client).await;
        }
    }
    let nested = "[".repeat(30_000);
    client.send_text(&nested).await;
    client.send_text(&format!("{{\"command\":\"subscribe\",\"data\":{nested}}}")).await;
    say(&mut client, "subscribe", json!(vec!["x"; 10_000])).await;
    say(&mut client, "subscribe", json!(["y".repeat(40_000)])).await;
    assert_silent(&mut client).await;
    node.post("/", r#"{"subscribers":["PHID-1"]}"#).await.ok();
    assert_eq!(heard(&mut client, 1).await.len(), 1);
}

#[tokio::test]
async fn h8_pages_of_other_hosts_neither_connect_nor_publish() {
    let node = Node::start();
    let refused = async |origin: &'static str| {
        let headers = [("origin", origin), ("cookie", "phsid=hunter2")];
        WsClient::refusal(node.client, "/ws/", &headers).await.0
    };
    for origin in ["https://evil.example", "https://127.0.0.1.evil.example", "null"] {
        assert_eq!(refused(origin).await, 403, "{origin}");
    }
    let mut http = Http::connect(node.admin, None).await;
    let body = br#"{"subscribers":["PHID-1"]}"#;
    let page = [("origin", "http://127.0.0.1:8080"), ("content-type", "text/plain")];
    assert_eq!(http.send("POST", "/", &page, body).await.status, 403);
    assert_eq!(node.status("").await["messages.in"], 0);
    // More pages are let in by name.
    let node = Node::with(r#"origins = ["https://phorge.example"]"#);
    let listed = WsClient::open(node.client, "/ws/", &[("origin", "https://phorge.example")], None).await;
    assert_silent(&mut listed.unwrap()).await;
    assert_eq!(WsClient::refusal(node.client, "/ws/", &[("origin", "https://127.0.0.1")]).await.0, 403);
    WsClient::open(node.client, "/ws/", &[], None).await.expect("what is no page is not asked");
}

#[test]
fn h8_both_servers_are_on_loopback_unless_somebody_says_otherwise() {
    let manifest = std::fs::read_to_string(repository().join("plugins/aphlict/plugin.toml")).unwrap();
    for (name, address) in [("client", "127.0.0.1:22280"), ("admin", "127.0.0.1:22281")] {
        let setting = format!("[config.{name}]\ntype = \"list<string>\"\ndefault = [\"{address}\"]");
        assert!(manifest.contains(&setting), "{setting}");
    }
}

#[tokio::test]
async fn h8_a_rule_of_the_operator_says_no_and_other_sessions_have_no_way_in() {
    let node = {
        let (client, admin) = (free_address(), free_address());
        let rules = "aether.on.subscribe('aphlict.{instance}.{id}', function(s, ch) return if ch.id == 'PHID-SECRET' then aether.deny('no') else nil end)";
        let plan = TestHub::plan().toml(&settings(client, admin, &[], "")).rules(rules);
        Node { hub: plan.start(), client, admin }
    };
    let mut client = node.browser("/ws/").await;
    subscribe(&mut client, &["PHID-SECRET", "PHID-1"]).await;
    node.post("/", r#"{"subscribers":["PHID-SECRET"]}"#).await.ok();
    node.post("/", r#"{"subscribers":["PHID-1"]}"#).await.ok();
    say(&mut client, "replay", Json::Null).await;
    let heard = heard(&mut client, 2).await;
    assert!(heard.len() == 2 && heard.iter().all(|frame| frame["subscribers"][0] == "PHID-1"), "{heard:?}");
    let mut native = node.hub.ws().await;
    native.send(json!({"type": "subscribe", "channels": ["aphlict.default.PHID-1"]})).await;
    assert_eq!(native.expect("error").await["reason"], "aphlict");
}

#[tokio::test]
async fn h9_what_is_too_large_or_too_much_is_refused_and_nobody_else_is_hurt() {
    let node = Node::with("[websocket]\nmax_message_size = \"64KiB\"\n[limits]\nchannels_per_connection = 100");
    let mut other = node.browser("/ws/").await;
    subscribe(&mut other, &["PHID-1"]).await;
    let body = format!("{{\"subscribers\":[\"PHID-1\"],\"x\":\"{}\"}}", "x".repeat(100_000));
    assert_eq!(node.post("/", &body).await.status, 413);
    // A frame of 16 MiB is not read: its connection ends, and others hear nothing of it.
    let mut large = node.browser("/ws/").await;
    // It may be cut off before all is sent.
    let sent = tokio::time::timeout(DEADLINE, async {
        let huge = Message::binary(vec![b' '; 16 << 20]);
        large.try_send_message(huge).await
    });
    let _ = sent.await;
    assert!(matches!(large.end().await, End::Closed(1009, _) | End::Broken));
    // Names are not kept for having been asked about.
    for n in 0..300 {
        assert_eq!(node.status(&format!("stranger-{n}")).await["clients.total"], 0);
    }
    let ids: Vec<String> = (0..500).map(|n| format!("PHID-{n}")).collect();
    say(&mut other, "subscribe", json!(ids)).await;
    assert_silent(&mut other).await;
    for id in ["PHID-1", "PHID-499"] {
        node.post("/", &json!({"subscribers": [id]}).to_string()).await.ok();
    }
    let first = heard(&mut other, 1).await;
    assert!(first.len() == 1 && first[0]["subscribers"][0] == "PHID-1", "a hundred channels and no more: {first:?}");
    // Many who watch one thing.
    let crowd: Vec<String> = (0..1500).map(|n| format!("PHID-USER-{n:010}")).chain(["PHID-1".into()]).collect();
    node.post("/", &json!({"subscribers": crowd}).to_string()).await.ok();
    assert_eq!(heard(&mut other, 1).await.len(), 1);
}

#[tokio::test]
async fn h10_a_browser_that_is_not_there_any_more_is_noticed() {
    let node = Node::with("[websocket]\nping_interval = \"100ms\"\npong_timeout = \"300ms\"");
    let mut socket = TcpStream::connect(node.client).await.unwrap();
    let handshake = format!(
        "GET / HTTP/1.1\r\nhost: {}\r\nconnection: Upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n\
         sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
        node.client
    );
    socket.write_all(handshake.as_bytes()).await.unwrap();
    until("it is there", async || node.status("").await["clients.active"] == 1).await;
    // It answers no ping.
    until("it is gone", async || node.status("").await["clients.active"] == 0).await;
    assert_eq!(node.status("").await["clients.total"], 1);
}

#[tokio::test]
async fn h11_counts_and_ids_are_given_back() {
    let node = Node::start();
    let mut clients = Vec::new();
    for _ in 0..20 {
        let mut client = node.browser("/ws/~acme/").await;
        subscribe(&mut client, &["PHID-1"]).await;
        clients.push(client);
    }
    let body = r#"{"subscribers":["PHID-1","PHID-2"],"uniqueID":"u","touched":["Xa"]}"#;
    // A publisher's message, and its copies that peers send.
    for path in ["/?instance=acme"; 5] {
        node.post(path, body).await.ok();
    }
    let status = node.status("acme").await;
    let counts = ["clients.active", "clients.total", "messages.in", "messages.out", "history.size"];
    assert_eq!(counts.map(|name| status[name].as_u64().unwrap()), [20, 20, 1, 20, 1]);
    for client in clients {
        client.close().await;
    }
    until("all are gone", async || node.status("acme").await["clients.active"] == 0).await;
    assert_eq!(node.status("acme").await["clients.total"], 20);
}

#[tokio::test]
async fn what_was_published_is_there_for_whoever_comes_after_the_answer_and_after_a_restart() {
    let mut node = Node::start();
    for n in 0..20 {
        node.post("/", &format!("{{\"subscribers\":[\"PHID-1\",\"PHID-{n}\"],\"n\":{n}}}")).await.ok();
        let mut client = node.browser("/ws/").await;
        subscribe(&mut client, &[&format!("PHID-{n}")]).await;
        say(&mut client, "replay", json!({"age": 60_000})).await;
        assert!(until_pong(&mut client).await.iter().any(|frame| frame["n"] == n), "{n}");
    }
    let began = Instant::now();
    node.hub.restart();
    let mut client = node.browser("/ws/").await;
    subscribe(&mut client, &["PHID-1"]).await;
    say(&mut client, "replay", json!({"age": 60_000})).await;
    let numbers: Vec<_> = until_pong(&mut client).await.into_iter().map(|frame| frame["n"].as_u64().unwrap()).collect();
    assert!(numbers == (0..20).collect::<Vec<_>>() || began.elapsed() > Duration::from_secs(30), "{numbers:?}");
}

#[tokio::test]
async fn two_who_follow_the_same_ids_get_one_copy_each_and_go_on_hearing() {
    let node = Node::start();
    let (mut ann, mut bob) = (node.browser("/").await, node.browser("/").await);
    for client in [&mut ann, &mut bob] {
        subscribe(client, &["A", "B"]).await;
    }
    for n in 0..20 {
        node.post("/", &format!(r#"{{"subscribers":["A","B"],"n":{n}}}"#)).await.ok();
    }
    for client in [&mut ann, &mut bob] {
        // What it is not told of the other copies must not keep it from what comes next.
        let mut heard = Vec::new();
        while heard.len() < 20 {
            say(client, "ping", json!(null)).await;
            heard.extend(until_pong(client).await);
        }
        assert_eq!(
            heard.iter().map(|said| said["n"].as_u64().unwrap()).collect::<Vec<_>>(),
            (0..20).collect::<Vec<_>>()
        );
    }
}

#[tokio::test]
async fn touched_is_there_once_wherever_it_stood() {
    let node = Node::start();
    let mut ann = node.browser("/").await;
    subscribe(&mut ann, &["A"]).await;
    node.post("/", r#"{"touched":["abc"],"subscribers":["A"],"big":9007199254740993}"#).await.ok();
    let heard = ann.hear().await.unwrap();
    assert_eq!(heard.matches("touched").count(), 1, "{heard}");
    assert!(heard.contains(r#""touched":["abc","#) && heard.contains("9007199254740993"), "{heard}");
}
