//! **Nothing is skipped in silence.** From its cursor on a reader gets every publication exactly once, or a gap that names
//! what is missing and why.

use std::time::Duration;

use crate::common::*;

const MANY: u64 = 1600;

async fn writer(hub: &TestHub, number: u64) {
    let mut http = hub.http().await;
    for n in 0..MANY / 16 {
        let body = json!({"channel": "r", "payload": [number, n]}).to_string();
        http.post("/api/v1/publish", body).await.ok();
    }
}

/// Comes, reads a little, breaks off, and comes back where it was; and so on to the end.
async fn ws_reader(hub: &TestHub, number: u64) -> Seen {
    let mut dice = Dice::new(number + 1);
    let mut all = Seen::default();
    while all.last() < MANY {
        let mut ws = hub.ws().await;
        ws.resume("r", all.last()).await;
        let until = (all.last() + 1 + dice.below(120)).min(MANY);
        let seen = ws.read_to("r", until).await;
        all.messages.extend(seen.messages);
        all.gaps.extend(seen.gaps);
    }
    all
}

async fn sse_reader(hub: &TestHub, number: u64) -> Seen {
    let mut dice = Dice::new(number + 1000);
    let mut all = Seen::default();
    let mut cursor = None;
    while all.last() < MANY {
        let mut sse = hub.sse("channel=r&after_seq=0", cursor.as_deref()).await;
        let until = (all.last() + 1 + dice.below(120)).min(MANY);
        let seen = sse.read_to("r", until).await;
        cursor = Some(sse.last_event_id());
        all.messages.extend(seen.messages);
        all.gaps.extend(seen.gaps);
    }
    all
}

#[tokio::test]
async fn forty_readers_resuming_at_random_points_under_16_writers_miss_nothing_and_see_nothing_twice() {
    // A short tail, so that many of them must read the store while it is written to.
    let hub = TestHub::plan().with(|config| config.channels.tail_count = 64).start();
    let writing = futures_util::future::join_all((0..16).map(|n| writer(&hub, n)));
    let ws = futures_util::future::join_all((0..20).map(|n| ws_reader(&hub, n)));
    let sse = futures_util::future::join_all((0..20).map(|n| sse_reader(&hub, n)));
    let (_, ws, sse) = tokio::join!(writing, ws, sse);
    let first = &ws[0];
    for seen in ws.iter().chain(&sse) {
        seen.assert_exactly(1, MANY);
        assert_eq!(seen.gaps, [Json::Null; 0]);
        assert_eq!(seen.messages, first.messages);
    }
}

#[tokio::test]
async fn a_replay_of_100_000_messages_to_a_slow_reader_completes_while_the_channel_goes_on() {
    let plan = TestHub::plan().with(|config| {
        config.publish.max_batch = 5000;
        config.retention.default_max_count.0 = None;
        // A reader that takes its time is not one that takes nothing.
        config.server.write_timeout = aether::config::Period::seconds(20);
    });
    let hub = plan.start();
    let mut http = hub.http().await;
    for chunk in 0..20u64 {
        let messages: Vec<_> = (1..=5000).map(|n| json!({"channel": "long", "payload": chunk * 5000 + n})).collect();
        http.post("/api/v1/publish/batch", json!({"messages": messages}).to_string()).await.ok();
    }
    let mut slow = WsClient::narrow(hub.address, &hub.token(&["*"])).await;
    slow.resume("long", 0).await;
    let mut expected = 1;
    let mut live_at = None;
    while expected <= 100_500 {
        let frame = slow.next().await.unwrap();
        if frame["type"] == "live" {
            assert_eq!(frame["seq_id"], expected - 1);
            live_at = Some(expected - 1);
            continue;
        }
        assert_eq!((frame["seq_id"].as_u64(), frame["payload"].as_u64()), (Some(expected), Some(expected)));
        if expected % 20_000 == 0 {
            hub.publish_numbers("long", 100_000 + expected / 200 - 99, 100_000 + expected / 200).await;
        }
        if expected % 1000 == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        expected += 1;
    }
    if live_at.is_none() {
        live_at = slow.expect("live").await["seq_id"].as_u64();
    }
    assert!(live_at.is_some_and(|at| (100_000..=100_500).contains(&at)), "{live_at:?}");
}

#[tokio::test]
async fn everything_replayed_comes_first_then_live_then_what_is_new() {
    let hub = TestHub::start();
    hub.publish_numbers("c", 1, 5).await;
    let mut ws = hub.ws().await;
    let subscribed = ws.resume("c", 2).await;
    assert_eq!(subscribed["positions"]["c"]["seq_id"], 2, "delivery begins after it");
    for seq in 3..=5 {
        assert_eq!(ws.next().await.unwrap()["seq_id"], seq);
    }
    let live = ws.next().await.unwrap();
    assert_eq!((&live["type"], &live["channel"], &live["seq_id"]), (&json!("live"), &json!("c"), &json!(5)));
    assert_eq!(live["epoch"], subscribed["positions"]["c"]["epoch"]);
    hub.publish("c", json!(6)).await;
    assert_eq!(ws.next().await.unwrap()["seq_id"], 6);
    ws.assert_silent().await;
}

#[tokio::test]
async fn after_seq_0_is_everything_the_newest_is_nothing_and_none_is_no_replay() {
    let hub = TestHub::start();
    hub.publish_numbers("c", 1, 3).await;
    let mut ws = hub.ws().await;
    ws.resume("c", 0).await;
    ws.read_to("c", 3).await.assert_exactly(1, 3);
    assert_eq!(ws.expect("live").await["seq_id"], 3);

    let mut newest = hub.ws().await;
    newest.resume("c", 3).await;
    assert_eq!(newest.expect("live").await["seq_id"], 3);
    newest.assert_silent().await;

    let mut fresh = hub.ws().await;
    let subscribed = fresh.subscribe(&["c"]).await;
    assert_eq!(subscribed["positions"]["c"]["seq_id"], 3);
    fresh.assert_silent().await;
}

#[tokio::test]
async fn a_position_of_this_life_of_the_log_resumes_and_one_of_another_yields_a_gap() {
    let mut hub = TestHub::start();
    hub.publish_numbers("c", 1, 4).await;
    let epoch = hub.publish("c", json!(5)).await["epoch"].as_str().unwrap().to_owned();
    assert_eq!(epoch.len(), 14);
    let resume =
        |epoch: &str| json!({"type": "subscribe", "channels": ["c"], "after_seq": {"c": 3}, "epoch": {"c": epoch}});
    hub.restart();

    let mut ws = hub.ws().await;
    ws.send(resume(&epoch)).await;
    ws.expect("subscribed").await;
    let seen = ws.read_to("c", 5).await;
    seen.assert_exactly(4, 5);
    assert_eq!(seen.gaps.len(), 0);

    // The store is lost; its successor has as many messages.
    let mut sse = hub.sse("channel=c&after_seq=3", None).await;
    sse.read_to("c", 5).await.assert_exactly(4, 5);
    let cursor = sse.last_event_id();
    hub.stop();
    std::fs::remove_dir_all(hub.data().join("store")).unwrap();
    hub.restart();
    hub.publish_numbers("c", 101, 105).await;
    for wrong in [epoch.as_str(), "no epoch at all"] {
        let mut ws = hub.ws().await;
        ws.send(resume(wrong)).await;
        ws.expect("subscribed").await;
        let seen = ws.read_to("c", 5).await;
        seen.assert_exactly(1, 5);
        assert_eq!(seen.messages[0].1, "101");
        let gap = &seen.gaps[0];
        assert_eq!((seen.gaps.len(), &gap["cause"], &gap["requested_from_seq"]), (1, &json!("epoch"), &json!(3)));
        assert_eq!(
            (&gap["available_from_seq"], gap.get("missing")),
            (&json!(1), None),
            "what that life had is unknown"
        );
        assert_ne!(gap["epoch"], json!(epoch), "the epoch that is true now");
    }
    let mut sse = hub.sse("channel=c", Some(&cursor)).await;
    let seen = sse.read_to("c", 5).await;
    seen.assert_exactly(1, 5);
    assert_eq!((seen.gaps.len(), &seen.gaps[0]["cause"]), (1, &json!("epoch")));

    let mut ahead = hub.ws().await;
    ahead.resume("c", 6).await;
    let seen = ahead.read_to("c", 5).await;
    seen.assert_exactly(1, 5);
    assert_eq!(seen.gaps[0]["cause"], "epoch", "a position beyond the newest is of another life");
}

/// Resumes after `after` and expects one gap that says exactly what is missing, then `first..=last`, then `live`.
async fn assert_gap(hub: &TestHub, channel: &str, after: u64, first: u64, last: u64) {
    let mut ws = hub.ws().await;
    let subscribed = ws.resume(channel, after).await;
    assert_eq!(subscribed["channels"], json!([channel]));
    let seen = ws.read_to(channel, last).await;
    seen.assert_exactly(first, last);
    let gap = &seen.gaps[0];
    assert_eq!(seen.gaps.len(), 1, "{:?}", seen.gaps);
    assert_eq!(gap["cause"], "evicted");
    assert_eq!((&gap["requested_from_seq"], &gap["available_from_seq"]), (&json!(after), &json!(first)));
    assert_eq!(gap["missing"], json!([after + 1, first - 1]));
    assert_eq!(ws.expect("live").await["seq_id"], last);
}

#[tokio::test]
async fn what_the_count_evicts_is_named_in_a_gap() {
    let mut hub = TestHub::plan().toml("[retention]\ndefault_max_count = 5\n[channels]\ntail_count = 2").start();
    hub.publish_numbers("c", 1, 20).await;
    assert_gap(&hub, "c", 3, 16, 20).await;
    hub.restart();
    assert_gap(&hub, "c", 3, 16, 20).await;
    assert_eq!(hub.publish("c", json!(21)).await["seq_id"], 21);
    let page = hub.history("channel=c").await;
    assert_eq!(
        (&page["first_seq"], &page["last_seq"], page["messages"].as_array().unwrap().len()),
        (&json!(17), &json!(21), 5)
    );
}

#[tokio::test]
async fn numbers_go_on_after_age_has_evicted_everything() {
    let mut hub =
        TestHub::plan().toml("[retention]\ndefault_ttl = \"300ms\"\n[store]\nsweep_interval = \"100ms\"").start();
    hub.publish_numbers("c", 1, 9).await;
    until("all of it is swept away", async || {
        let page = hub.history("channel=c").await;
        page["messages"] == json!([]) && page["first_seq"] == 10
    })
    .await;
    // What comes now lives until it is read, however slow the machine.
    hub.stop();
    hub.config.retention.default_ttl.0 = None;
    hub.restart();
    assert_eq!(hub.publish("c", json!("ten")).await["seq_id"], 10);
    assert_gap(&hub, "c", 4, 10, 10).await;
}

#[tokio::test]
async fn numbers_go_on_after_history_was_deleted_and_readers_hear_of_it() {
    let mut hub = TestHub::start();
    hub.publish_numbers("c", 1, 9).await;
    let mut reader = hub.ws().await;
    reader.resume("c", 9).await;
    reader.expect("live").await;
    assert_eq!(hub.forget("c").await.ok(), json!({"ok": true, "channel": "c"}));
    assert_eq!(hub.history("channel=c").await["messages"], json!([]));

    // Everything is gone: the gap comes without waiting for the next message.
    let mut ws = hub.ws().await;
    ws.resume("c", 4).await;
    let gap = ws.expect("gap").await;
    assert_eq!(
        (&gap["cause"], &gap["missing"], &gap["available_from_seq"]),
        (&json!("evicted"), &json!([5, 9]), &json!(10))
    );
    assert_eq!(ws.expect("live").await["seq_id"], 9);

    assert_eq!(hub.publish("c", json!("ten")).await["seq_id"], 10);
    reader.read_to("c", 10).await.assert_exactly(10, 10);
    ws.read_to("c", 10).await.assert_exactly(10, 10);
    assert_gap(&hub, "c", 4, 10, 10).await;
    hub.forget("c").await.ok();
    hub.restart();
    assert_eq!(hub.publish("c", json!("eleven")).await["seq_id"], 11);
    assert_gap(&hub, "c", 0, 11, 11).await;
}

#[tokio::test]
async fn a_message_that_outlives_its_own_ttl_is_a_gap_too() {
    let hub = TestHub::start();
    hub.publish("c", json!(1)).await;
    let short = json!({"channel": "c", "payload": 2, "ttl": 0.3}).to_string();
    hub.http().await.post("/api/v1/publish", short).await.ok();
    hub.publish("c", json!(3)).await;
    until("the second one is gone", async || {
        let page = hub.history("channel=c").await;
        page["messages"].as_array().unwrap().len() == 2
    })
    .await;
    // The tail lets it go at the lane's next look at the clock.
    until("a resume hears of the gap", async || {
        let mut ws = hub.ws().await;
        ws.resume("c", 0).await;
        let seen = ws.read_to("c", 3).await;
        match seen.gaps.len() {
            0 => false,
            _ => {
                assert_eq!(seen.seqs(), [1, 3]);
                assert_eq!((&seen.gaps[0]["cause"], &seen.gaps[0]["missing"]), (&json!("evicted"), &json!([2, 2])));
                true
            }
        }
    })
    .await;
}

#[tokio::test]
async fn who_may_listen_but_not_look_back_is_told_what_it_misses() {
    let rules = r#"
        aether.on.connect(function(req) return aether.allow() end)
        aether.on.subscribe("c", function() return aether.allow() end)
        aether.on.history("c", function() return aether.deny("no_past", "what was said before is not for you") end)
    "#;
    let hub = TestHub::plan().rules(rules).start();
    hub.publish_numbers("c", 1, 6).await;
    let mut ws = hub.ws_as(None).await;
    let subscribed = ws.resume("c", 2).await;
    assert_eq!(subscribed["positions"]["c"]["seq_id"], 6);
    let gap = ws.expect("gap").await;
    assert_eq!(
        (&gap["cause"], &gap["missing"], &gap["available_from_seq"]),
        (&json!("denied"), &json!([3, 6]), &json!(7))
    );
    hub.publish("c", json!(7)).await;
    ws.read_to("c", 7).await.assert_exactly(7, 7);
}

#[tokio::test]
async fn one_request_resumes_several_channels_each_from_its_own_position() {
    let hub = TestHub::start();
    for (channel, count) in [("a", 10), ("b", 20), ("c", 5)] {
        hub.publish_numbers(channel, 1, count).await;
    }
    let mut ws = hub.ws().await;
    let asked = json!({"type": "subscribe", "channels": ["a", "b", "c"], "after_seq": {"a": 7, "b": 0, "x": 1}, "id": [1, "x"]});
    ws.send(asked).await;
    let subscribed = ws.expect("subscribed").await;
    assert_eq!((&subscribed["channels"], &subscribed["id"]), (&json!(["a", "b", "c"]), &json!([1, "x"])));
    let positions = &subscribed["positions"];
    assert_eq!([&positions["a"]["seq_id"], &positions["b"]["seq_id"], &positions["c"]["seq_id"]], [7, 0, 5]);
    let (mut a, mut b) = (Vec::new(), Vec::new());
    let mut live = Vec::new();
    while live.len() < 2 {
        let frame = ws.next().await.unwrap();
        let seqs = if frame["channel"] == "a" { &mut a } else { &mut b };
        match frame["type"].as_str() {
            Some("message") => seqs.push(frame["seq_id"].as_u64().unwrap()),
            Some("live") => {
                assert_eq!(seqs.last().copied(), frame["seq_id"].as_u64());
                live.push(frame);
            }
            _ => panic!("{frame}"),
        }
    }
    assert_eq!((a, b), ((8..=10).collect(), (1..=20).collect()));
    ws.assert_silent().await;
}

#[tokio::test]
async fn unsubscribing_stops_and_resubscribing_begins_afresh() {
    let hub = TestHub::start();
    let mut ws = hub.ws().await;
    ws.subscribe(&["a", "b"]).await;
    ws.send(json!({"type": "unsubscribe", "channels": ["a", "never"], "id": "u1"})).await;
    assert_eq!(ws.next().await.unwrap(), json!({"type": "unsubscribed", "channels": ["a"], "id": "u1"}));
    hub.publish_numbers("a", 1, 3).await;
    hub.publish("b", json!(1)).await;
    assert_eq!(ws.next().await.unwrap()["channel"], "b");
    ws.assert_silent().await;
    ws.resume("a", 1).await;
    ws.read_to("a", 3).await.assert_exactly(2, 3);
    // Nothing was held: no answer, unless one is asked for by an id.
    ws.send(json!({"type": "unsubscribe", "channels": ["never"]})).await;
    ws.expect("live").await;
    ws.assert_silent().await;
    ws.send(json!({"type": "unsubscribe", "channels": [], "id": 7})).await;
    assert_eq!(ws.next().await.unwrap(), json!({"type": "unsubscribed", "channels": [], "id": 7}));
}

#[tokio::test]
async fn an_unsubscribe_in_the_middle_of_a_replay_leaves_nothing_behind() {
    let hub = TestHub::plan().with(|config| config.channels.tail_count = 10).start();
    hub.publish_numbers("a", 1, 3000).await;
    let mut ws = hub.ws().await;
    for _ in 0..20 {
        ws.resume("a", 0).await;
        ws.send(json!({"type": "unsubscribe", "channels": ["a"]})).await;
        ws.send(json!({"type": "subscribe", "channels": ["b"]})).await;
        let mut last = 0;
        loop {
            let frame = ws.next().await.unwrap();
            match frame["type"].as_str() {
                Some("message") => {
                    last += 1;
                    assert_eq!(frame["seq_id"], last);
                }
                Some("unsubscribed") => break,
                Some("live") => {}
                _ => panic!("{frame}"),
            }
        }
        assert_eq!(ws.next().await.unwrap()["type"], "subscribed", "and no message of a channel that was left");
        ws.send(json!({"type": "unsubscribe", "channels": ["b"]})).await;
        ws.expect("unsubscribed").await;
    }
    ws.assert_silent().await;
}

#[tokio::test]
async fn a_name_that_is_given_twice_counts_once_and_a_list_is_never_null() {
    let hub = TestHub::start();
    hub.publish_numbers("a", 1, 2).await;
    let mut ws = hub.ws().await;
    ws.send(json!({"type": "subscribe", "channels": ["a", "a", "a"], "after_seq": {"a": 0}})).await;
    assert_eq!(ws.expect("subscribed").await["channels"], json!(["a"]));
    ws.read_to("a", 2).await.assert_exactly(1, 2);
    ws.expect("live").await;
    for again in [json!({"type": "subscribe", "channels": ["a"], "after_seq": {"a": 0}}), json!({"type": "subscribe"})]
    {
        ws.send(again).await;
        let subscribed = ws.next().await.unwrap();
        assert_eq!((&subscribed["type"], &subscribed["channels"]), (&json!("subscribed"), &json!([])));
    }
    ws.send(json!({"type": "subscribe", "channels": ["not a name", "b"], "id": 3})).await;
    let error = ws.next().await.unwrap();
    assert_eq!((&error["type"], &error["code"], &error["id"]), (&json!("error"), &json!(40001), &json!(3)));
    assert_eq!(ws.next().await.unwrap()["channels"], json!(["b"]));
    hub.publish("a", json!(3)).await;
    ws.read_to("a", 3).await.assert_exactly(3, 3);
}

#[tokio::test]
async fn too_many_channels_in_a_request_or_on_a_connection_are_refused_whole() {
    let plan = TestHub::plan().toml("[limits]\nchannels_per_request = 3\nchannels_per_connection = 5");
    let hub = plan.start();
    let mut ws = hub.ws().await;
    let ask = |names: &[&str]| json!({"type": "subscribe", "channels": names, "id": 9});
    ws.send(ask(&["a", "b", "c", "d"])).await;
    let error = ws.next().await.unwrap();
    assert_eq!(
        (&error["code"], &error["id"], &error["reason"]),
        (&json!(40011), &json!(9), &json!("too_many_in_request"))
    );
    ws.send(ask(&["a", "b", "c"])).await;
    ws.expect("subscribed").await;
    ws.send(ask(&["d", "e", "f"])).await;
    assert_eq!(ws.next().await.unwrap()["code"], 40012);
    ws.send(ask(&["a", "d", "e"])).await;
    assert_eq!(
        ws.expect("subscribed").await["channels"],
        json!(["d", "e"]),
        "what it has already does not count again"
    );
    hub.publish("f", json!(1)).await;
    ws.assert_silent().await;
    let refused = SseClient::open(
        hub.address,
        &format!("/sse?channel=a&channel=b&channel=c&channel=d&token={}", hub.token(&["*"])),
        None,
    )
    .await;
    assert_eq!(refused.err().unwrap().error(), (400, 40011));
}

#[tokio::test]
async fn a_gap_is_told_once_and_before_what_follows_it_while_the_channel_goes_on() {
    let config = "[channels]\ntail_count = 16\n[[retention.rules]]\npattern = \"*\"\nhistory = false";
    let hub = TestHub::plan().toml(config).start();
    let stop = std::sync::atomic::AtomicBool::new(false);
    let publishing = async {
        let mut http = hub.http().await;
        while !stop.load(std::sync::atomic::Ordering::Relaxed) {
            http.post("/api/v1/publish", r#"{"channel":"busy","payload":1}"#).await.ok();
        }
    };
    let reading = async {
        let mut ws = hub.ws().await;
        until("there is something to miss", async || hub.metric("aether_messages_published_total").await > 20.0).await;
        for _ in 0..200 {
            ws.resume("busy", 1).await;
            let mut at = 1;
            loop {
                let frame = ws.next().await.unwrap();
                match frame["type"].as_str().unwrap() {
                    "gap" => {
                        assert_eq!(frame["requested_from_seq"], at, "{frame}");
                        at = frame["available_from_seq"].as_u64().unwrap() - 1;
                    }
                    "message" => {
                        at += 1;
                        assert_eq!(frame["seq_id"], at, "{frame}");
                    }
                    "live" => break,
                    _ => panic!("{frame}"),
                }
            }
            ws.send(json!({"type": "unsubscribe", "channels": ["busy"]})).await;
            while ws.next().await.unwrap()["type"] != "unsubscribed" {}
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
    };
    tokio::join!(publishing, reading);
}
