//! **A dialect is a guest in the hub's house**: a plugin says how its clients are heard and answered, and the hub holds it to
//! the same rules, limits and promises as everybody else.

use std::time::Duration;

use tokio_tungstenite::tungstenite::Message;

use crate::common::*;

/// A dialect of lines; its line `-- MORE` is where tests add to it.
const LINES: &str = include_str!("lua/dialects.lua");

fn lines(more: &str) -> String {
    LINES.replace("-- MORE", more)
}

fn start() -> TestHub {
    TestHub::plan().rules(&lines("")).start()
}

async fn come(hub: &TestHub, query: &str) -> WsClient {
    let opened = WsClient::open(hub.address, &format!("/lines?{query}"), &[], None).await;
    opened.unwrap_or_else(|error| panic!("the upgrade was refused: {error}"))
}

/// Somebody who has been greeted.
async fn guest(hub: &TestHub, name: &str) -> WsClient {
    let mut ws = come(hub, &format!("name={name}")).await;
    ws.hears(&format!("HELLO {name}")).await;
    ws
}

async fn say(ws: &mut WsClient, said: &str, answer: &str) {
    ws.send_text(said).await;
    ws.hears(answer).await;
}

/// The connection lives, is heard, and hears.
async fn lives(hub: &TestHub, ws: &mut WsClient, number: u64) {
    say(ws, "PING", "PONG").await;
    hub.publish("news.lives", json!(number)).await;
    ws.hears(&format!("MSG news.lives {number} {number}")).await;
}

async fn reload(hub: &TestHub, rules: &str) -> Response {
    hub.dir().write("scripts/rules.lua", rules);
    hub.http().await.post("/api/v1/rules/reload", "{}").await
}

fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

#[tokio::test]
async fn a_no_is_told_in_the_dialects_words_and_the_connection_goes_on_hearing() {
    let hub = start();
    let mut ann = guest(&hub, "ann").await;
    say(&mut ann, "SUB news.lives", "OK subscribed news.lives").await;
    for (at, (said, answer)) in [
        ("SUB secret", "NO subscribe not_allowed"),
        ("PUB secret hello", "NO publish not_allowed"),
        ("SUB ..", "NO frame bad_channel"),
        ("WHAT", "NO frame unknown_verb"),
        ("BREAK", "NO frame rule_error"),
        ("AGAIN nonsense", "NO frame rule_error"),
        ("AUTH nonsense", "NO authenticate unauthorized"),
    ]
    .into_iter()
    .enumerate()
    {
        ann.send_text(said).await;
        let heard = ann.hear().await.unwrap();
        if said.starts_with("AUTH") {
            assert!(heard.starts_with("NO authenticate "), "{heard}");
        } else {
            assert_eq!(heard, answer, "{said}");
        }
        lives(&hub, &mut ann, at as u64 + 1).await;
    }
    ann.send_message(Message::binary(vec![0, 255])).await;
    ann.hears("NO frame unknown_verb").await;
    say(&mut ann, "PUB news hello", "OK published news").await;
    say(&mut ann, "END news.lives", "OK unsubscribed news.lives").await;
}

#[tokio::test]
async fn whom_on_open_does_not_let_in_hears_it_over_http_and_refuse_says_how() {
    let hub = start();
    for (path, numbers, reason) in [
        ("/lines", (401, 40102), "unauthorized"),
        ("/lines?name=mallory", (401, 40102), "banned"),
        ("/lines?name=ann&to=secret", (403, 40301), "not_allowed"),
        ("/lines?name=ann&to=..", (400, 40005), "bad_channel"),
        ("/lines?name=ann&fail=busy_today", (400, 40005), "busy_today"),
    ] {
        let (status, body) = WsClient::refusal(hub.address, path, &[]).await;
        assert_eq!((status, &body["error"]["code"]), (numbers.0, &json!(numbers.1)), "{path}: {body}");
        if reason != "unauthorized" {
            assert_eq!(body["error"]["reason"], reason, "{path}");
        }
        let events = path.replacen("/lines", "/lines/events", 1);
        let refused = SseClient::open(hub.address, &events, None).await.err().expect("it is refused");
        assert_eq!(refused.error(), (numbers.0, numbers.1), "{events}");
    }
    let teapot = SseClient::open(hub.address, "/lines/events?name=ann&fail=teapot", None).await.err().unwrap();
    assert_eq!((teapot.status, teapot.text(), teapot.header("x-why")), (418, "short and stout", Some("teapot")));
    assert_eq!(WsClient::refusal(hub.address, "/lines?name=ann&fail=teapot", &[]).await.0, 418);
    assert_eq!(hub.http_as(None).await.get("/lines?name=ann").await.error(), (426, 42601));
    assert_eq!(hub.http_as(None).await.post("/lines/events?name=ann", "").await.error(), (405, 40500));
}

#[tokio::test]
async fn a_dialect_is_spoken_on_sockets_and_streams_alike_and_nobody_misses_what_comes_between() {
    let hub = start();
    let mut ws = guest(&hub, "ann").await;
    say(&mut ws, "SUB news", "OK subscribed news").await;
    let mut sse = SseClient::open(hub.address, "/lines/events?name=bob&to=news", None).await.unwrap();
    for expected in ["OK subscribed news", "HELLO bob"] {
        assert_eq!(sse.next().await.unwrap().data, expected);
    }
    hub.publish("news", json!("one\ntwo")).await;
    ws.hears("MSG news 1 \"one\\ntwo\"").await;
    let event = sse.next().await.unwrap();
    assert_eq!((event.data.as_str(), event.id.as_str()), ("MSG news 1 \"one\\ntwo\"", "1"));
    drop(sse);
    hub.publish("news", json!(2)).await;
    let mut sse = SseClient::open(hub.address, "/lines/events?name=bob&to=news", Some("1")).await.unwrap();
    for expected in ["OK subscribed news", "HELLO bob", "MSG news 2 2"] {
        assert_eq!(sse.next().await.unwrap().data, expected);
    }
    let mut late = guest(&hub, "eve").await;
    say(&mut late, "SUB news 0", "OK subscribed news").await;
    late.hears("MSG news 1 \"one\\ntwo\"").await;
    late.hears("MSG news 2 2").await;
    say(&mut late, "SUB news 7", "OK subscribed news").await;
    late.hears("GAP news epoch nil").await;
}

#[tokio::test]
async fn what_a_dialect_keeps_stays_with_the_connection_and_on_close_has_it() {
    let hub = start();
    let mut native = hub.ws().await;
    native.subscribe(&["gone"]).await;
    let (mut ann, mut bob) = (guest(&hub, "ann").await, guest(&hub, "bob").await);
    for count in 1..=3 {
        say(&mut ann, "COUNT", &format!("COUNT {count}")).await;
    }
    say(&mut bob, "COUNT", "COUNT 1").await;
    say(&mut ann, "BREAK", "NO frame rule_error").await;
    say(&mut ann, "COUNT", "COUNT 4").await;
    say(&mut ann, "CLOSE 4000", "BYE 4000").await;
    assert_eq!(ann.hear().await, Err(End::Closed(4000, "as you wish".into())));
    let gone = native.expect("message").await["payload"].clone();
    assert_eq!(gone, json!({"user": "ann", "count": 4, "cause": "server", "code": 4000}));
    bob.close().await;
    let gone = native.expect("message").await["payload"].clone();
    assert_eq!(gone, json!({"user": "bob", "count": 1, "cause": "client", "code": 1000}));
}

#[tokio::test]
async fn close_codes_are_those_that_a_close_frame_may_carry() {
    let hub = start();
    for code in [1000, 1003, 1008, 1013, 3000, 4999] {
        let mut ann = guest(&hub, "ann").await;
        say(&mut ann, &format!("CLOSE {code}"), &format!("BYE {code}")).await;
        assert_eq!(ann.hear().await, Err(End::Closed(code, "as you wish".into())));
    }
    let mut ann = guest(&hub, "ann").await;
    for code in ["1005", "1006", "1015", "2000", "999", "5000", "4000.5", "0"] {
        say(&mut ann, &format!("CLOSE {code}"), "NO frame rule_error").await;
    }
    say(&mut ann, "PING", "PONG").await;
}

/// The same dialect on another listener, where it answers every path, and says how it is.
fn listening(port: u16) -> String {
    let here = format!(
        "{{ ws = \"/lines\", sse = \"/lines/events\" }},\n\t\t{{ ws = \"/*\", listen = \"127.0.0.1:{port}\" }}"
    );
    let mount = format!("mount = {{\n\t\t{here},\n\t}}");
    let route = format!(
        "\naether.http.route(\"GET\", \"/status/\", {{ auth = \"none\", listen = \"127.0.0.1:{port}\" }}, function() return {{ body = \"up\" }} end)"
    );
    lines("").replacen("mount = { ws = \"/lines\", sse = \"/lines/events\" }", &mount, 1) + &route
}

#[tokio::test]
async fn a_listener_of_its_own_opens_and_closes_with_the_rules_and_its_connections_stay() {
    let hub = start();
    let port = free_port();
    let there = std::net::SocketAddr::from(([127, 0, 0, 1], port));
    assert!(Http::try_connect(there, None).await.is_err());
    reload(&hub, &listening(port)).await.ok();
    let mut ws = WsClient::open(there, "/any/path?name=ann", &[], None).await.unwrap();
    ws.hears("HELLO ann").await;
    say(&mut ws, "SUB news", "OK subscribed news").await;
    let mut root = WsClient::open(there, "/?name=bob", &[], None).await.unwrap();
    root.hears("HELLO bob").await;
    let mut http = Http::connect(there, None).await;
    let status = http.get("/status/").await;
    assert_eq!((status.status, status.text()), (200, "up"));
    // What the hub answers is not there, and what is there the hub does not answer.
    assert_ne!(http.get("/healthz").await.status, 200);
    assert_ne!(hub.http_as(None).await.get("/status/").await.text(), "up");
    assert!(WsClient::open(hub.address, "/any/path?name=ann", &[], None).await.is_err());
    assert_eq!(WsClient::refusal(there, "/ws", &[]).await.0, 401, "here /ws is a path like any other");
    assert!(Http::try_connect(hub.address, None).await.is_ok());

    reload(&hub, &lines("")).await.ok();
    until("the listener is closed", async || Http::try_connect(there, None).await.is_err()).await;
    hub.publish("news", json!(1)).await;
    ws.hears("MSG news 1 1").await;
    say(&mut ws, "PING", "PONG").await;
    reload(&hub, &listening(port)).await.ok();
    let mut again = WsClient::open(there, "/?name=eve", &[], None).await.unwrap();
    again.hears("HELLO eve").await;
}

#[tokio::test]
async fn a_listener_that_is_taken_refuses_the_reload_which_changes_nothing() {
    let hub = start();
    let mut ann = guest(&hub, "ann").await;
    let (free, taken) = (free_port(), std::net::TcpListener::bind("127.0.0.1:0").unwrap());
    let port = taken.local_addr().unwrap().port();
    let both = listening(free).replacen("PONG", "PANG", 1)
        + &format!("\naether.http.route(\"GET\", \"/x\", {{ auth = \"none\", listen = \"127.0.0.1:{port}\" }}, print)");
    let refused = reload(&hub, &both).await;
    assert_eq!(refused.error(), (422, 42201));
    let why = refused.text().to_owned();
    assert!(why.contains(&format!("cannot listen on 127.0.0.1:{port}, as a plugin wants")), "{why}");
    assert!(Http::try_connect(([127, 0, 0, 1], free).into(), None).await.is_err(), "none is opened if one cannot be");
    say(&mut ann, "PING", "PONG").await;
    drop(taken);
    reload(&hub, &both).await.ok();
    say(&mut ann, "PING", "PANG").await;
}

#[tokio::test]
async fn a_thousand_subscribers_cost_one_encoding_a_publication_and_one_call_of_lua() {
    const READERS: usize = 1000;
    let hub = start();
    let mut readers = Vec::new();
    for _ in 0..READERS {
        let mut ws = come(&hub, "name=ann&to=news").await;
        ws.hears("OK subscribed news").await;
        ws.hears("HELLO ann").await;
        readers.push(ws);
    }
    hub.publish("news", json!(0)).await;
    let before = hub.metrics().await;
    hub.publish_numbers("news", 1, 5).await;
    for ws in &mut readers {
        for n in 0..=5 {
            ws.hears(&format!("MSG news {} {n}", n + 1)).await;
        }
    }
    let metrics = hub.metrics().await;
    let more = |name: &str| metrics[name] - before[name];
    assert!(more("aether_messages_encoded_total") <= 6.0, "{}", more("aether_messages_encoded_total"));
    // One a publication, and whoever publishes is asked who that is.
    assert!(more("aether_lua_entries_total") <= 10.0, "{}", more("aether_lua_entries_total"));
}

#[tokio::test]
async fn a_reload_changes_what_connections_hear_and_how_they_are_heard() {
    let hub = start();
    let mut ann = guest(&hub, "ann").await;
    say(&mut ann, "SUB news", "OK subscribed news").await;
    say(&mut ann, "COUNT", "COUNT 1").await;
    hub.publish("news", json!(1)).await;
    ann.hears("MSG news 1 1").await;
    reload(&hub, &lines("").replace("MSG {", "NEWS {").replace("\"PONG\"", "\"PANG\"")).await.ok();
    hub.publish("news", json!(2)).await;
    ann.hears("NEWS news 2 2").await;
    say(&mut ann, "PING", "PANG").await;
    say(&mut ann, "COUNT", "COUNT 2").await;
}

#[tokio::test]
async fn a_dialect_that_is_spoken_no_longer_sends_its_connections_away() {
    let hub = start();
    let mut ann = guest(&hub, "ann").await;
    let mut sse = SseClient::open(hub.address, "/lines/events?name=bob&to=news", None).await.unwrap();
    let mut native = hub.ws().await;
    reload(&hub, "aether.on.publish('a', print)").await.ok();
    assert_eq!(ann.hear().await, Err(End::Closed(1012, "this dialect is spoken here no longer".into())));
    while sse.next().await.is_some() {}
    native.assert_silent().await;
    assert_eq!(WsClient::refusal(hub.address, "/lines?name=ann", &[]).await.0, 404);
    reload(&hub, &lines("")).await.ok();
    guest(&hub, "ann").await;
}

#[tokio::test]
async fn what_encode_breaks_on_is_a_gap_and_never_silence() {
    let hub = start();
    let mut ann = guest(&hub, "ann").await;
    say(&mut ann, "SUB news", "OK subscribed news").await;
    hub.publish("news", json!(1)).await;
    let mut http = hub.http().await;
    let text = [("content-type", "text/plain")];
    http.send("POST", "/api/v1/publish?channel=news", &text, b"unspeakable").await.ok();
    hub.publish("news", json!(3)).await;
    for expected in ["MSG news 1 1", "GAP news denied 2", "MSG news 3 3"] {
        ann.hears(expected).await;
    }
    let mut sse = SseClient::open(hub.address, "/lines/events?name=bob&to=news", Some("0")).await.unwrap();
    let mut seen = Vec::new();
    while seen.len() < 5 {
        seen.push(sse.next().await.unwrap().data);
    }
    assert_eq!(seen[2..], ["MSG news 1 1", "GAP news denied 2", "MSG news 3 3"]);
}

#[tokio::test]
async fn a_dialect_without_words_even_for_a_gap_ends_rather_than_skip() {
    let rules = lines("").replace("ev.kind == \"gap\" then", "ev.kind == \"gap\" then error('nor for that')");
    let hub = TestHub::plan().rules(&rules).start();
    let mut ann = guest(&hub, "ann").await;
    say(&mut ann, "SUB news", "OK subscribed news").await;
    let mut http = hub.http().await;
    http.send("POST", "/api/v1/publish?channel=news", &[("content-type", "text/plain")], b"unspeakable").await.ok();
    hub.publish("news", json!(2)).await;
    assert_eq!(ann.hear().await, Err(End::Closed(1011, "this dialect cannot say what happens".into())));
}

#[tokio::test]
async fn the_rules_decide_for_a_dialect_as_for_anybody() {
    let rules = lines("").replacen("aether.dialect(", "aether.on.subscribe('news.closed', function(s) return if s.dialect == 'lines' then aether.deny('closed') else aether.allow() end)\naether.on.publish('news.loud', function(s, ch, msg) return if msg:text() == 'LOUD' then aether.deny('too_loud') else nil end)\naether.on.history('news.past', function() return aether.deny('no_past') end)\naether.dialect(", 1);
    let hub = TestHub::plan().rules(&rules).start();
    let mut ann = guest(&hub, "ann").await;
    say(&mut ann, "SUB news.closed", "NO subscribe closed").await;
    say(&mut ann, "PUB news.loud LOUD", "NO publish too_loud").await;
    say(&mut ann, "PUB news.loud quiet", "OK published news.loud").await;
    hub.publish("news.past", json!(1)).await;
    say(&mut ann, "SUB news.past 0", "OK subscribed news.past").await;
    ann.hears("GAP news.past denied 1").await;
    say(&mut ann, "AGAIN 1h", "NO replay no_past").await;
    say(&mut ann, "SUB $user.ann", "NO subscribe not_allowed").await;
    // Its channels are nobody's but its own only if its rules say so; a native client needs its own grants.
    let mut native = hub.ws_as(Some(&hub.token(&["other"]))).await;
    native.send(json!({"type": "subscribe", "channels": ["news"]})).await;
    native.expect("error").await;
}

#[tokio::test]
async fn a_credential_shown_later_counts_from_then_on() {
    let refresh = "
aether.on.refresh(function(s, token)
	if token == 'old' then return aether.deny('stale') end
	return aether.allow({ user = s.user, grants = { subscribe = { token } } })
end)";
    let hub = TestHub::plan().rules(&(lines("") + refresh)).start();
    let mut ann = guest(&hub, "ann").await;
    say(&mut ann, "SUB news", "OK subscribed news").await;
    say(&mut ann, "AUTH old", "NO authenticate stale").await;
    say(&mut ann, "AUTH room.1", "NO subscribe not_allowed").await;
    ann.hears("OK unsubscribed news").await;
    ann.hears("OK authenticated nil").await;
    say(&mut ann, "SUB room.1", "OK subscribed room.1").await;
}

#[tokio::test]
async fn a_dialect_sees_what_a_view_leaves_live_and_from_the_past() {
    let views = "aether.on.view('room.{room}', 'public', { drop = { 'email' } })\n";
    let hub = TestHub::plan().rules(&(views.to_owned() + &lines(""))).start();
    let (mut whole, mut masked) = (guest(&hub, "ann").await, guest(&hub, "guest").await);
    hub.publish("room.1", json!({"n": 1, "email": "a@b.c"})).await;
    say(&mut masked, "SUB room.1 0", "OK subscribed room.1").await;
    masked.hears("MSG room.1 1 {\"n\":1}").await;
    say(&mut whole, "SUB room.1", "OK subscribed room.1").await;
    hub.publish("room.1", json!({"n": 2, "email": "a@b.c"})).await;
    masked.hears("MSG room.1 2 {\"n\":2}").await;
    whole.hears("MSG room.1 2 {\"email\":\"a@b.c\",\"n\":2}").await;
}

#[tokio::test]
async fn a_replay_says_once_more_what_the_channels_have_said_the_oldest_first() {
    let hub = start();
    let mut ann = guest(&hub, "ann").await;
    for (channel, n) in [("news.a", 1), ("news.b", 2), ("news.a", 3), ("news.c", 4)] {
        hub.publish(channel, json!(n)).await;
    }
    for channel in ["news.a", "news.b"] {
        say(&mut ann, &format!("SUB {channel}"), &format!("OK subscribed {channel}")).await;
    }
    say(&mut ann, "AGAIN 1h", "MSG news.a 1 1").await;
    ann.hears("MSG news.b 1 2").await;
    ann.hears("MSG news.a 2 3").await;
    hub.publish("news.a", json!(5)).await;
    ann.hears("MSG news.a 3 5").await;
}

#[tokio::test]
async fn frames_origins_beats_and_headers_are_as_the_dialect_says() {
    let more = "frame = { max = \"1KiB\" }, beat = { every = \"200ms\", timeout = \"300ms\" },
	origins = { \"https://shop.example\" }, headers = { [\"x-lines\"] = \"1\" },";
    let rules = lines(more).replace(
        "ev.kind == \"live\" or ev.kind == \"ping\"",
        "ev.kind == \"ping\" then return \"TICK\" elseif ev.kind == \"live\"",
    );
    let hub = TestHub::plan().rules(&rules).start();
    let origin = |origin: &'static str| [("origin", origin)];
    let path = "/lines?name=ann";
    let (status, body) = WsClient::refusal(hub.address, path, &origin("https://evil.example")).await;
    assert_eq!((status, &body["error"]["code"]), (403, &json!(40303)));
    let mut page = WsClient::open(hub.address, path, &origin("https://shop.example"), None).await.unwrap();
    page.hears("HELLO ann").await;
    let stream = SseClient::open(hub.address, "/lines/events?name=ann", None).await.unwrap();
    assert!(stream.headers.contains(&("x-lines".into(), "1".into())), "{:?}", stream.headers);
    // It answers pings, and hears the dialect's own.
    page.hears("TICK").await;
    page.hears("TICK").await;
    page.send_text(&format!("PUB news {}", "x".repeat(900))).await;
    while page.hear().await != Ok("OK published news".into()) {}
    page.send_text(&"x".repeat(1025)).await;
    let end = loop {
        match page.hear().await {
            Ok(heard) => assert!(heard == "TICK" || heard == "BYE 1009", "{heard}"),
            Err(end) => break end,
        }
    };
    assert_eq!(end, End::Closed(1009, "frame too large".into()));
}

#[tokio::test]
async fn a_client_that_answers_no_beat_is_gone_as_soon_as_the_dialect_says() {
    let rules = lines("beat = { every = \"200ms\", timeout = \"300ms\" },");
    let hub = TestHub::plan().rules(&rules).start();
    let mut native = hub.ws().await;
    native.subscribe(&["gone"]).await;
    let deaf = guest(&hub, "deaf").await;
    // Nobody reads it, so nobody answers.
    let gone = native.expect("message").await["payload"].clone();
    assert_eq!((&gone["user"], &gone["cause"]), (&json!("deaf"), &json!("timeout")));
    drop(deaf);
}

#[tokio::test]
async fn who_asks_in_vain_too_often_is_sent_away() {
    let hub = TestHub::plan().rules(&lines("")).with(|config| config.limits.refusals_per_minute = 10).start();
    let mut ann = guest(&hub, "ann").await;
    ann.send_at_once("WHAT", 20).await;
    let mut noes = 0;
    let end = loop {
        match ann.hear().await {
            Ok(no) if no == "NO frame unknown_verb" => noes += 1,
            Ok(no) => assert!(no == "NO frame too_many_refusals" || no.starts_with("BYE 4429 "), "{no}"),
            Err(end) => break end,
        }
    };
    assert_eq!((noes, end), (10, End::Closed(4429, "too many refused requests".into())));
    let mut ann = guest(&hub, "ann").await;
    for _ in 0..10 {
        say(&mut ann, "BREAK", "NO frame rule_error").await;
    }
    ann.send_text("BREAK").await;
    while ann.hear().await.is_ok() {}
}

#[tokio::test]
async fn a_hook_that_never_returns_or_eats_all_memory_is_stopped_and_harms_nobody() {
    let hub = start();
    let (mut ann, mut eve) = (guest(&hub, "ann").await, guest(&hub, "eve").await);
    say(&mut ann, "SUB news.lives", "OK subscribed news.lives").await;
    say(&mut eve, "SUB news.lives", "OK subscribed news.lives").await;
    for (n, bad) in (1..).zip(["SPIN", "BOMB", "SPIN"]) {
        say(&mut eve, bad, "NO frame rule_error").await;
        lives(&hub, &mut ann, n).await;
        eve.hears(&format!("MSG news.lives {n} {n}")).await;
    }
    assert!(hub.metric("aether_rules_killed_total").await >= 2.0);
}

#[tokio::test]
async fn a_client_whose_frames_break_the_dialect_silences_nobody_else() {
    let hub = start();
    let (mut ann, mut eve) = (guest(&hub, "ann").await, guest(&hub, "eve").await);
    say(&mut ann, "SUB news", "OK subscribed news").await;
    for n in 1..=50 {
        say(&mut eve, "BREAK", "NO frame rule_error").await;
        say(&mut eve, "PUB news unspeakable", "OK published news").await;
        ann.hears(&format!("GAP news denied {n}")).await;
    }
    say(&mut ann, "PING", "PONG").await;
    say(&mut eve, "PUB news hello", "OK published news").await;
    ann.hears("MSG news 51 hello").await;
    assert_eq!(hub.metric("aether_rules_breakers_open").await, 0.0);
}

#[tokio::test]
async fn frames_that_wait_for_a_back_end_keep_their_order_and_hold_up_nobody_else() {
    let gate = tokio::sync::Semaphore::new(0);
    let gate = std::sync::Arc::new(gate);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let opened = gate.clone();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let gate = opened.clone();
            tokio::spawn(async move {
                use tokio::io::{AsyncReadExt, AsyncWriteExt};
                let mut head = Vec::new();
                while stream.read_buf(&mut head).await.is_ok_and(|read| read > 0) {
                    if head.ends_with(b"\r\n\r\n") {
                        if head.starts_with(b"GET /slow") {
                            gate.acquire().await.unwrap().forget();
                        }
                        head.clear();
                        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
                    }
                }
            });
        }
    });
    let rules = lines("async = true,").replacen(
        "\tPING =",
        &format!("\tASK = function(c, path) c:reply(path .. ' ' .. assert(aether.http.get('{url}/' .. path)).status) end,\n\tPING ="),
        1,
    );
    let plan = TestHub::plan().rules(&rules).with(|config| config.plugins.private_http = vec![format!("{url}/*")]);
    let hub = plan.start();
    let (mut ann, mut bob) = (guest(&hub, "ann").await, guest(&hub, "bob").await);
    for said in ["ASK slow", "COUNT", "ASK fast", "PING"] {
        ann.send_text(said).await;
    }
    for count in 1..=50 {
        say(&mut bob, "COUNT", &format!("COUNT {count}")).await;
        say(&mut bob, "ASK fast", "fast 200").await;
    }
    gate.add_permits(1);
    for heard in ["slow 200", "COUNT 1", "fast 200", "PONG"] {
        ann.hears(heard).await;
    }
    ann.send_text("ASK slow").await;
    ann.close().await;
    gate.add_permits(10);
    say(&mut bob, "PING", "PONG").await;
}

#[tokio::test]
async fn who_finds_no_place_is_told_when_to_come_back_whoever_says_it() {
    let hub =
        TestHub::plan().toml("[limits]\nreturns_per_second = 2").rules(&lines("limits = { connections = 1 },")).start();
    let _held = guest(&hub, "ann").await;
    let mut told = Vec::new();
    for _ in 0..3 {
        let refused = SseClient::open(hub.address, "/lines/events?name=bob", None).await.err().unwrap();
        let retry_ms = refused.text().strip_prefix("not before ").and_then(|ms| ms.parse::<u64>().ok());
        assert!((refused.status, retry_ms.is_some()) == (503, true), "{refused:?}");
        assert_eq!(refused.header("retry-after"), retry_ms.map(|ms| ms.div_ceil(1000).to_string()).as_deref());
        told.push(retry_ms.unwrap());
    }
    assert!(told.is_sorted_by(|one, next| one < next), "each its own: {told:?}");
}

#[tokio::test]
async fn frames_of_every_kind_leave_the_hub_standing() {
    let hub = start();
    let mut ann = guest(&hub, "ann").await;
    let mut dice = Dice::new(7);
    for _ in 0..300 {
        let bytes: Vec<u8> = (0..dice.below(200)).map(|_| dice.below(256) as u8).collect();
        let said = match String::from_utf8(bytes) {
            Ok(text) => Message::text(text),
            Err(bytes) => Message::binary(bytes.into_bytes()),
        };
        ann.send_message(said).await;
        let heard = ann.hear().await.unwrap();
        assert!(heard.starts_with("NO frame "), "{heard}");
    }
    say(&mut ann, "PING", "PONG").await;
}

#[tokio::test]
async fn the_operator_drains_and_sends_away_a_dialects_connections_too() {
    let mut hub = start();
    let mut ann = guest(&hub, "ann").await;
    let mut bob = SseClient::open(hub.address, "/lines/events?name=bob", None).await.unwrap();
    assert_eq!(bob.next().await.unwrap().data, "HELLO bob");
    hub.ask_to_stop();
    let when = |bye: &str| bye.strip_prefix("BYE 1001 ").and_then(|ms| ms.parse::<u64>().ok());
    let bye = ann.hear().await.unwrap();
    assert!(when(&bye).is_some(), "{bye}");
    assert_eq!(ann.hear().await, Err(End::Closed(1001, "server shutting down".into())));
    let bye = bob.next().await.unwrap().data;
    assert!(bob.next().await.is_none());
    assert!(when(&bye).is_some() && when(&bye) == bob.retry(), "what an EventSource goes by is the same: {bye}");
    tokio::time::timeout(Duration::from_secs(60), tokio::task::spawn_blocking(move || hub.stop()))
        .await
        .unwrap()
        .unwrap();
}
