//! Event streams: a plain `EventSource` gets everything, and resumes all its channels exactly by one cursor.

use std::collections::BTreeMap;

use crate::common::*;

/// One stream's life over several connections.
struct Reader {
    cursor: String,
    seen: BTreeMap<String, Vec<u64>>,
}

impl Reader {
    /// Comes back by `Last-Event-ID` and reads some messages more.
    async fn read(&mut self, hub: &TestHub, query: &str, count: u64) {
        let mut stream = hub.sse(query, Some(&self.cursor)).await;
        let mut left = count;
        while left > 0 {
            let event = stream.next().await.expect("the stream goes on");
            match event.name.as_str() {
                "message" => {
                    let frame = event.json();
                    let channel = frame["channel"].as_str().unwrap().to_owned();
                    self.seen.entry(channel).or_default().push(frame["seq_id"].as_u64().unwrap());
                    left -= 1;
                }
                "subscribed" | "live" => {}
                _ => panic!("{event:?}"),
            }
        }
        if count == 0 {
            stream.expect("subscribed").await;
        }
        self.cursor = stream.last_event_id();
    }
}

#[tokio::test]
async fn one_cursor_resumes_several_channels_exactly_also_after_a_restart_of_the_hub() {
    let mut hub = TestHub::plan().with(|config| config.channels.tail_count = 8).start();
    let query = "channel=a&channel=b.c&channel=d";
    let mut reader = Reader { cursor: String::new(), seen: BTreeMap::new() };
    let mut first = hub.sse(query, None).await;
    reader.cursor = first.expect("subscribed").await.id;
    drop(first);
    let mut dice = Dice::new(7);
    let mut published = [0; 3];
    let mut owed = 0;
    for round in 0..40 {
        for (n, channel) in ["a", "b.c", "d"].into_iter().enumerate() {
            let more = dice.below(12);
            if more > 0 {
                hub.publish_numbers(channel, published[n] + 1, published[n] + more).await;
            }
            published[n] += more;
            owed += more;
        }
        let count = dice.below(owed + 1);
        reader.read(&hub, query, count).await;
        owed -= count;
        if round % 15 == 14 {
            hub.restart();
        }
    }
    reader.read(&hub, query, owed).await;
    for (n, channel) in ["a", "b.c", "d"].into_iter().enumerate() {
        assert_eq!(reader.seen[channel], (1..=published[n]).collect::<Vec<_>>(), "{channel}");
    }
    let mut done = hub.sse(query, Some(&reader.cursor)).await;
    done.expect("subscribed").await;
    for _ in 0..3 {
        done.expect("live").await;
    }
}

#[tokio::test]
async fn the_first_event_carries_the_cursor_so_that_nothing_is_missed_before_the_first_message() {
    let hub = TestHub::start();
    hub.publish_numbers("c", 1, 4).await;
    for (query, resumed) in [("channel=c", "channel=c"), ("channel=c&channel=d", "channel=d&channel=c")] {
        let from = hub.history("channel=c").await["last_seq"].as_u64().unwrap();
        let mut stream = hub.sse(query, None).await;
        let hello = stream.expect("subscribed").await;
        assert_eq!(hello.json()["positions"]["c"]["seq_id"], from);
        assert_eq!(hello.json()["channels"][0], "c");
        assert!(!hello.id.is_empty());
        // A millisecond more for each stream that is here already.
        assert!(stream.retry().is_some_and(|retry| (1000..1010).contains(&retry)), "{:?}", stream.retry());
        drop(stream);
        hub.publish_numbers("c", from + 1, from + 3).await;
        let mut stream = hub.sse(resumed, Some(&hello.id)).await;
        stream.read_to("c", from + 3).await.assert_exactly(from + 1, from + 3);
        // The same cursor in the query, for clients that can set no header.
        let mut stream = hub.sse(&format!("{resumed}&cursor={}", hello.id), None).await;
        stream.read_to("c", from + 3).await.assert_exactly(from + 1, from + 3);
    }
}

#[tokio::test]
async fn a_channel_that_the_cursor_does_not_know_begins_now_or_where_after_seq_says() {
    let hub = TestHub::start();
    for channel in ["old", "new"] {
        hub.publish_numbers(channel, 1, 3).await;
    }
    let mut stream = hub.sse("channel=old&after_seq=1", None).await;
    let cursor = stream.expect("subscribed").await.id;
    let mut stream = hub.sse("channel=old&channel=new", Some(&cursor)).await;
    let hello = stream.expect("subscribed").await.json();
    assert_eq!((&hello["positions"]["old"]["seq_id"], &hello["positions"]["new"]["seq_id"]), (&json!(1), &json!(3)));
    stream.read_to("old", 3).await.assert_exactly(2, 3);
    let mut stream = hub.sse("channel=new&after_seq=0", Some(&cursor)).await;
    stream.read_to("new", 3).await.assert_exactly(1, 3);
}

#[tokio::test]
async fn gap_and_live_are_events_that_move_the_cursor() {
    let hub = TestHub::plan().toml("[retention]\ndefault_max_count = 3\n[channels]\ntail_count = 2").start();
    hub.publish_numbers("c", 1, 10).await;
    hub.publish_numbers("d", 1, 2).await;
    for query in ["channel=c&after_seq=2", "channel=c&channel=d&after_seq=2"] {
        let mut stream = hub.sse(query, None).await;
        stream.expect("subscribed").await;
        let first = next_of_c(&mut stream).await;
        let gap = first.json();
        assert_eq!((first.name.as_str(), &gap["missing"], &gap["cause"]), ("gap", &json!([3, 7]), &json!("evicted")));
        for seq in 8..=10 {
            assert_eq!(next_of_c(&mut stream).await.json()["seq_id"], seq);
        }
        let live = next_of_c(&mut stream).await;
        assert_eq!((live.name.as_str(), &live.json()["seq_id"]), ("live", &json!(10)));
        // Who comes back with the gap's own id does not hear of it again.
        let mut back = hub.sse(query, Some(&first.id)).await;
        back.expect("subscribed").await;
        for seq in 8..=10 {
            assert_eq!(next_of_c(&mut back).await.json()["seq_id"], seq);
        }
        assert_eq!(next_of_c(&mut back).await.name, "live");
    }
}

/// The next event that is about `c`.
async fn next_of_c(stream: &mut SseClient) -> Event {
    loop {
        let event = stream.next().await.expect("the stream goes on");
        if event.json()["channel"] == "c" {
            return event;
        }
    }
}

#[tokio::test]
async fn a_quiet_stream_is_kept_open_by_comments() {
    let hub = TestHub::plan().toml("[sse]\nheartbeat = \"100ms\"\nretry = \"250ms\"").start();
    let mut stream = hub.sse("channel=c", None).await;
    stream.expect("subscribed").await;
    assert_eq!(stream.retry(), Some(250));
    for _ in 0..3 {
        stream.next_comment().await;
    }
    hub.publish("c", json!(1)).await;
    assert_eq!(stream.expect("message").await.json()["seq_id"], 1);
}

#[tokio::test]
async fn a_stream_that_cannot_be_is_an_answer_and_not_an_event() {
    let hub = TestHub::start();
    let token = hub.token(&["mine.*"]);
    let all = hub.token(&["*"]);
    for (query, status, code) in [
        (format!("token={all}"), 400, 40002),
        (format!("channel=&token={all}"), 400, 40001),
        (format!("channel=a..b&token={all}"), 400, 40001),
        (format!("channel=c&cursor=nonsense&token={all}"), 400, 40003),
        (format!("channel=c&after_seq=-1&token={all}"), 400, 40003),
        (format!("channel=c&data=xml&token={all}"), 400, 40003),
        (format!("channel=other&token={token}"), 403, 40301),
        (format!("channel=mine.a&channel=other&token={token}"), 403, 40301),
        ("channel=other".to_owned(), 401, 40102),
        ("channel=other&token=a.b.c".to_owned(), 401, 40102),
    ] {
        let refused = SseClient::open(hub.address, &format!("/sse?{query}"), None).await.err();
        assert_eq!(refused.unwrap_or_else(|| panic!("{query}")).error(), (status, code), "{query}");
    }
    let refused = SseClient::open(hub.address, &format!("/sse?channel=c&token={all}"), Some("!")).await.err();
    assert_eq!(refused.unwrap().error(), (400, 40003));
    until("none of them stays", async || hub.metric("aether_connections_active").await == 0.0).await;
}

#[tokio::test]
async fn a_gap_that_was_not_read_is_told_again_to_whoever_comes_back() {
    let config = "[channels]\ntail_count = 2\n[[retention.rules]]\npattern = \"few\"\nmax_count = 3";
    let hub = TestHub::plan().toml(config).start();
    hub.publish_numbers("few", 1, 1).await;
    hub.publish_numbers("other", 1, 1).await;
    for query in ["channel=few", "channel=few&channel=other"] {
        let mut sse = hub.sse(query, None).await;
        let old = sse.expect("subscribed").await.id;
        hub.publish_numbers("few", 2, 10).await;
        // The connection breaks behind the first event, which carries a cursor already.
        let mut broken = hub.sse(query, Some(&old)).await;
        let first = broken.expect("subscribed").await.id;
        drop(broken);
        let mut back = hub.sse(query, Some(&first)).await;
        back.expect("subscribed").await;
        let gap = back.expect("gap").await.json();
        assert_eq!(gap["cause"], "evicted", "{query}: {gap}");
        hub.forget("few").await;
    }
}
