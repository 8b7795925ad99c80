//! **Once.** A repeat under a known idempotency key changes nothing and reaches nobody.

use crate::common::*;

fn keyed(channel: &str, key: &str, payload: impl Into<Json>) -> String {
    json!({"channel": channel, "idempotency_key": key, "payload": payload.into()}).to_string()
}

#[tokio::test]
async fn a_repeat_answers_the_first_result_whatever_it_says_and_delivers_nothing() {
    let mut hub = TestHub::start();
    let mut ws = hub.ws().await;
    ws.subscribe(&["c"]).await;
    let before = hub.metrics().await;
    let mut http = hub.http().await;
    let first = http.post("/api/v1/publish", keyed("c", "k", "first")).await.ok();
    assert_eq!((&first["seq_id"], &first["duplicate"], &first["ack"]), (&json!(1), &json!(false), &json!("synced")));
    let repeat = http.post("/api/v1/publish", keyed("c", "k", "SECOND-DIFFERENT")).await.ok();
    let mut expected = first.clone();
    expected["duplicate"] = json!(true);
    assert_eq!(repeat, expected);
    assert_eq!(http.post("/api/v1/publish", keyed("c", "l", "third")).await.ok()["seq_id"], 2);
    let raw = http.post("/api/v1/publish?channel=c&idempotency_key=k", "raw").await.ok();
    assert_eq!(raw, expected, "the other form means the same key");

    let seen = ws.read_to("c", 2).await;
    assert_eq!(seen.messages, [(1, "\"first\"".to_owned()), (2, "\"third\"".to_owned())]);
    ws.assert_silent().await;
    let after = hub.metrics().await;
    let grown = |name: &str| after[name] - before[name];
    assert_eq!((grown("aether_messages_published_total"), grown("aether_messages_duplicate_total")), (2.0, 2.0));
    assert_eq!(grown("aether_messages_pushed_total"), 2.0);

    hub.restart();
    let again = hub.http().await.post("/api/v1/publish", keyed("c", "k", "after a restart")).await.ok();
    assert_eq!(again, expected);
    assert_eq!(hub.history("channel=c").await["messages"].as_array().unwrap().len(), 2);
}

#[tokio::test]
async fn a_key_belongs_to_its_channel_and_an_empty_one_is_none() {
    let hub = TestHub::start();
    let mut http = hub.http().await;
    for channel in ["a", "b"] {
        let answer = http.post("/api/v1/publish", keyed(channel, "k", 1)).await.ok();
        assert_eq!((&answer["seq_id"], &answer["duplicate"]), (&json!(1), &json!(false)));
    }
    for seq in 2..=3 {
        assert_eq!(http.post("/api/v1/publish", keyed("a", "", 1)).await.ok()["seq_id"], seq);
    }
    let long = "k".repeat(257);
    assert_eq!(http.post("/api/v1/publish", keyed("a", &long, 1)).await.error(), (400, 40003));
}

#[tokio::test]
async fn repeats_within_one_batch_and_across_batches_are_found() {
    let hub = TestHub::start();
    let mut ws = hub.ws().await;
    ws.subscribe(&["c", "d"]).await;
    let batch = json!({"messages": [
        {"channel": "c", "payload": 1, "idempotency_key": "x"},
        {"channel": "c", "payload": 2, "idempotency_key": "x"},
        {"channel": "d", "payload": 3, "idempotency_key": "x"},
        {"channel": "c", "payload": 4, "idempotency_key": "y"},
        {"channel": "c", "payload": 5, "idempotency_key": "x"},
    ]});
    let mut http = hub.http().await;
    let seqs = |answer: &Json| -> Vec<(u64, bool)> {
        let results = answer["results"].as_array().unwrap().iter();
        results.map(|r| (r["seq_id"].as_u64().unwrap(), r["duplicate"].as_bool().unwrap())).collect()
    };
    let answer = http.post("/api/v1/publish/batch", batch.to_string()).await.ok();
    assert_eq!(seqs(&answer), [(1, false), (1, true), (1, false), (2, false), (1, true)]);
    let answer = http.post("/api/v2/publish/batch", batch.to_string()).await.ok();
    assert_eq!(seqs(&answer), [(1, true), (1, true), (1, true), (2, true), (1, true)]);
    let mut payloads = Vec::new();
    for _ in 0..3 {
        payloads.push(ws.expect("message").await["payload"].as_u64().unwrap());
    }
    payloads.sort();
    assert_eq!(payloads, [1, 3, 4]);
    ws.assert_silent().await;
}

#[tokio::test]
async fn of_many_at_once_exactly_one_is_the_first() {
    let hub = TestHub::start();
    let mut ws = hub.ws().await;
    ws.subscribe(&["c"]).await;
    for round in 1..=5u64 {
        let key = format!("round-{round}");
        let publishers = (0..24).map(|n| {
            let (hub, key) = (&hub, &key);
            async move { hub.http().await.post("/api/v1/publish", keyed("c", key, n)).await.ok() }
        });
        let answers = futures_util::future::join_all(publishers).await;
        let originals = answers.iter().filter(|answer| answer["duplicate"] == false).count();
        assert_eq!(originals, 1);
        assert!(
            answers.iter().all(|answer| answer["seq_id"] == round && answer["timestamp"] == answers[0]["timestamp"])
        );
        ws.read_to("c", round).await.assert_exactly(round, round);
    }
    ws.assert_silent().await;
}

#[tokio::test]
async fn a_key_is_remembered_for_its_window_and_in_channels_without_history_too() {
    let config = "[publish]\nidempotency_window = \"3s\"\n[[retention.rules]]\npattern = \"m.*\"\nhistory = false";
    let hub = TestHub::plan().toml(config).start();
    for channel in ["kept", "m.x"] {
        let mut http = hub.http().await;
        assert_eq!(http.post("/api/v1/publish", keyed(channel, "k", 1)).await.ok()["duplicate"], false);
        let mut repeats = 0;
        loop {
            let answer = http.post("/api/v1/publish", keyed(channel, "k", 2)).await.ok();
            if answer["duplicate"] == false {
                assert_eq!(answer["seq_id"], 2, "{channel}");
                break;
            }
            assert_eq!(answer["seq_id"], 1);
            repeats += 1;
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            assert!(repeats < 3000, "the window never ends");
        }
        assert!(repeats > 0);
    }
}

#[tokio::test]
async fn deleting_history_does_not_forget_what_was_published() {
    let hub = TestHub::start();
    let mut http = hub.http().await;
    http.post("/api/v1/publish", keyed("c", "k", 1)).await.ok();
    hub.forget("c").await.ok();
    let repeat = http.post("/api/v1/publish", keyed("c", "k", 2)).await.ok();
    assert_eq!((&repeat["seq_id"], &repeat["duplicate"]), (&json!(1), &json!(true)));
}
