//! What was wrong with Pushlet and is not here: a test for each that would fail with it. (One frame that ends the process: `nonsense`;
//! no resume: `resume`; no credentials: `access`; the JSON form of its README: `golden`.)

use super::*;
use crate::common::raw_ws::CLOSE;

const LARGE: usize = 60_000;

/// Publishes messages of 60 kB: a number and then filling.
async fn flood(hub: &TestHub, count: usize) {
    let (mut http, filling) = (hub.http_as(None).await, "x".repeat(LARGE));
    for number in 0..count {
        let answer = http.send("POST", "/send?topic=a", FORM, format!("message={number}+{filling}").as_bytes()).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
    }
}

const FORM: &[(&str, &str)] = &[("content-type", "application/x-www-form-urlencoded")];

/// There, a reader that fell 256 messages behind ended the process with the next one.
#[tokio::test]
async fn a_reader_that_is_stuck_hurts_nobody_and_has_everything_in_the_end() {
    let hub = TestHub::plan().toml(&format!("[server]\nwrite_timeout = \"300s\"\n{OPEN}")).start();
    let mut stuck = Line::open(&hub, "?topic=a").await;
    let mut narrow = SseClient::open_with(hub.address, "/events?topic=a", &[], Some(4096)).await.unwrap();
    let mut reader = Line::open(&hub, "?topic=a").await;
    let count = 400;
    let reading = async {
        let mut seen = Vec::new();
        for _ in 0..count {
            seen.push(reader.hears().await);
        }
        seen
    };
    let (seen, ()) = tokio::join!(reading, flood(&hub, count));
    for (number, frame) in seen.iter().enumerate() {
        let data = push(frame).1["data"].as_str().unwrap().to_owned();
        assert_eq!((data.split(' ').next(), data.len() > LARGE), (Some(&*number.to_string()), true));
    }
    // The very same frames, with the time at which each was published and not that of its delivery.
    for wanted in &seen {
        assert!(stuck.hears().await == *wanted, "the stuck one missed something");
    }
    narrow.expect("connected").await;
    for number in 0..count {
        assert!(narrow.expect("message").await.data.starts_with(&format!("{number} ")));
    }
    reader.is_silent().await;
}

/// There, answers and pushes were written by two tasks at once.
#[tokio::test]
async fn answers_and_messages_never_mix_on_a_socket() {
    let hub = open();
    let mut line = Line::open(&hub, "?topic=a").await;
    let (mut http, count) = (hub.http_as(None).await, 300);
    let publishing = async {
        for number in 0..count {
            assert_eq!(http.get(&format!("/send?topic=a&message={number}")).await.status, 200);
        }
    };
    let talking = async {
        let (mut answers, mut messages) = (0, 0);
        for _ in 0..count {
            line.says("PING").await;
            line.says("SUB b").await;
        }
        while answers < 2 * count || messages < count {
            match &*line.hears().await {
                "OK" => answers += 1,
                frame => {
                    assert_eq!(push(frame).1["data"], messages.to_string());
                    messages += 1;
                }
            }
        }
    };
    tokio::join!(publishing, talking);
    line.is_silent().await;
}

#[tokio::test]
async fn nothing_in_a_message_can_begin_a_field_of_the_stream() {
    let hub = open();
    let mut stream = SseClient::open(hub.address, "/events?topic=a", None).await.unwrap();
    stream.expect("connected").await;
    for (message, heard) in [
        ("a\nevent: evil\ndata: injected\n\ndata: second", None),
        (":a comment\n:another", None),
        ("id: 1\nretry: 1\n\n\n", None),
        (" leading and trailing ", None),
        ("\n", None),
        ("nul \0 in it", None),
        // A stream of lines cannot tell these from LF.
        ("cr\rcrlf\r\nlf\n", Some("cr\ncrlf\nlf\n")),
    ] {
        send(&hub, "a", "price", message).await;
        let event = stream.expect("price").await;
        assert_eq!(event.data, heard.unwrap_or(message));
    }
    for event in ["a\nb", "a\rdata: x", "a\0"] {
        let answer = hub.http_as(None).await.get(&format!("/send?topic=a&message=x&event={}", escaped(event))).await;
        assert_eq!((answer.status, answer.text()), (400, "Event must be one line\n"));
    }
    let form = [("content-type", "application/x-www-form-urlencoded")];
    let answer = hub.http_as(None).await.send("POST", "/send?topic=a", &form, b"message=x&event=%ff").await;
    assert_eq!((answer.status, answer.text()), (400, "Event must be UTF-8\n"));
    send(&hub, "a", "message", "last").await;
    assert_eq!(stream.expect("message").await.data, "last");
}

/// There, a client might have any number of topics.
#[tokio::test]
async fn a_connection_has_so_many_topics_and_no_more() {
    let hub = TestHub::plan().toml(&format!("[limits]\nchannels_per_connection = 4\n{OPEN}")).start();
    let mut line = Line::open(&hub, "").await;
    // One of the four is what is said to everybody.
    for topic in ["a", "b", "c"] {
        line.says(format!("SUB {topic}")).await;
        line.expects("OK").await;
    }
    line.says("SUB d").await;
    let no = line.hears().await;
    assert!(no.contains("\"event\":\"error\""), "{no}");
    line.says("UNSUB a").await;
    line.expects("OK").await;
    line.says("SUB d").await;
    line.expects("OK").await;
}

/// There, a message that its broker lost was sent all the same, and so was one after the end.
#[tokio::test]
async fn only_what_was_sent_is_said_to_be_sent() {
    let rules = "aether.on.publish('pushlet.*', function(s, ch, msg)
	return if msg:text() == 'no' then aether.deny('not_this', 'this is not said here') else nil
end)";
    let hub = TestHub::plan().toml(OPEN).rules(rules).start();
    let mut line = Line::open(&hub, "?topic=a").await;
    let mut http = hub.http_as(None).await;
    let refused = http.get("/send?topic=a&message=no").await;
    assert_eq!((refused.status, refused.text()), (403, "Message not sent: this is not said here (not_this)\n"));
    assert_eq!(http.get("/send?topic=a&message=yes").await.status, 200);
    assert_eq!(push(&line.hears().await).1["data"], "yes");
}

#[tokio::test]
async fn what_is_published_after_the_hub_has_begun_to_stop_is_refused_at_once() {
    let mut hub = open();
    let mut http = hub.http_as(None).await;
    let mut stuck = Line::open(&hub, "?topic=a").await;
    assert_eq!(http.get("/send?topic=a&message=before").await.status, 200);
    let ending = hub.begin_stop().unwrap();
    loop {
        let answer = within(DEADLINE, "an answer", http.try_send("GET", "/send?topic=a&message=x", &[], b"")).await;
        match answer {
            Ok(answer) if answer.status == 200 => continue,
            Ok(answer) => assert_eq!(answer.status, 503),
            Err(_) => {} // let go
        }
        break;
    }
    until("the hub ends", async || ending.is_finished()).await;
    ending.join().unwrap();
    while stuck.0.try_next().await.is_ok_and(|frame| frame.opcode != CLOSE) {}
}

/// There, whoever listened to five topics heard it five times, and whoever listened to none did not.
#[tokio::test]
async fn what_is_said_to_everybody_comes_once_to_each() {
    let hub = open();
    let (mut five, mut none) = (Line::open(&hub, "?topic=a").await, Line::open(&hub, "").await);
    let mut stream = SseClient::open(hub.address, "/events?topic=b", None).await.unwrap();
    stream.expect("connected").await;
    for topic in ["b", "c", "d", "e"] {
        five.says(format!("SUB {topic}")).await;
        five.expects("OK").await;
    }
    for number in 0..20 {
        let answer = hub.http_as(None).await.get(&format!("/send/all?message={number}&event=news")).await;
        assert_eq!(answer.status, 200);
    }
    for number in 0..20 {
        for line in [&mut five, &mut none] {
            let (topic, json) = push(&line.hears().await);
            assert_eq!(
                (&*topic, &json["data"], &json["event"]),
                ("global", &json!(number.to_string()), &json!("news"))
            );
        }
        assert_eq!(stream.expect("news").await.data, number.to_string());
    }
    five.is_silent().await;
    none.is_silent().await;
}

/// There, a heartbeat slower than the deadline of 60 s disconnected everybody.
#[tokio::test]
async fn a_heartbeat_slower_than_the_deadline_disconnects_nobody_who_answers() {
    let hub = TestHub::plan()
        .toml(&format!("[websocket]\nping_interval = \"500ms\"\npong_timeout = \"500ms\"\n{OPEN}heartbeat = \"2s\"\n"))
        .start();
    let mut line = Line::open(&hub, "?topic=a").await;
    for _ in 0..3 {
        let ping = line.0.next().await;
        assert_eq!(ping.opcode, PING);
        line.0.send(crate::common::raw_ws::PONG, &ping.payload).await;
    }
    line.is_silent().await;
}

#[tokio::test]
async fn a_socket_whose_client_has_vanished_is_closed_soon() {
    let hub = TestHub::plan()
        .toml(&format!("[websocket]\nping_interval = \"1s\"\npong_timeout = \"1s\"\n{OPEN}heartbeat = \"1s\"\n"))
        .start();
    let mut line = Line::open(&hub, "?topic=a").await;
    // It never answers.
    assert_eq!(line.0.next().await.opcode, PING);
    let end = within(DEADLINE, "the end", async {
        loop {
            match line.0.try_next().await {
                Ok(frame) if frame.opcode == CLOSE => return,
                Ok(frame) => assert_eq!(frame.opcode, PING),
                Err(_) => return,
            }
        }
    });
    end.await;
    until("nobody is connected", async || hub.metric("aether_connections_active").await == 0.0).await;
}

/// A shell of Pushlet said what `PublishToAll` and `Publish` say from its own process: a script does here.
#[tokio::test]
async fn rules_and_other_plugins_publish_as_its_host_program_did() {
    let rules = "local pushlet = require('@pushlet')
aether.on.connect(function() return aether.allow() end)
aether.http.route('GET', '/host', { auth = 'none' }, function()
	assert(pushlet.publish('a b', 'price', 'to a topic'))
	assert(pushlet.publish_to_all('error', 'to all'))
	local sent, why = pushlet.publish('', 'x', 'x')
	return { body = `{sent} {why}` }
end)";
    let hub = TestHub::plan().toml(OPEN).rules(rules).start();
    let mut line = Line::open(&hub, "?topic=a%20b").await;
    assert_eq!(hub.http_as(None).await.get("/host").await.text(), "nil a topic is missing");
    let mut heard = [push(&line.hears().await), push(&line.hears().await)];
    heard.sort_by(|(one, _), (two, _)| one.cmp(two));
    assert_eq!((&*heard[0].0, &heard[0].1["data"]), ("a b", &json!("to a topic")));
    assert_eq!((&*heard[1].0, &heard[1].1["event"]), ("global", &json!("error")));
}
