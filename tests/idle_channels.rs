//! Idle channels leave memory, and come back as what they promised to be.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::common::*;

const SETTINGS: &str = "
[channels]
idle_after = \"100ms\"
[store]
sweep_interval = \"100ms\"
[[retention.rules]]
pattern = \"weak.*\"
ack = \"written\"
[[retention.rules]]
pattern = \"fleeting.*\"
history = false
";

async fn in_memory(hub: &TestHub, count: f64) {
    until("channels have left memory", async || hub.metric("aether_channels_in_memory").await == count).await;
}

#[tokio::test]
async fn an_idle_channel_leaves_memory_and_goes_on_where_it_was() {
    let hub = TestHub::plan().toml(SETTINGS).start();
    let mut held = hub.ws().await;
    held.subscribe(&["held"]).await;
    let mut http = hub.http().await;
    for n in 0..5 {
        let messages: Vec<_> = (0..100).map(|m| json!({"channel": format!("kept.{n}.{m}"), "payload": 1})).collect();
        http.post("/api/v1/publish/batch", json!({"messages": messages}).to_string()).await.ok();
    }
    let weak = hub.publish("weak.a", json!(1)).await;
    let fleeting = hub.publish("fleeting.a", json!(1)).await;
    assert_eq!((&weak["seq_id"], &fleeting["seq_id"]), (&json!(1), &json!(1)));
    // All but the one that somebody reads.
    in_memory(&hub, 1.0).await;

    assert_eq!(hub.publish("kept.3.7", json!(2)).await["seq_id"], 2);
    let mut ws = hub.ws().await;
    ws.resume("kept.3.7", 0).await;
    ws.read_to("kept.3.7", 2).await.assert_exactly(1, 2);
    let again = hub.publish("weak.a", json!(2)).await;
    assert_eq!((&again["seq_id"], &again["epoch"]), (&json!(2), &weak["epoch"]), "its reserve was given back");
    let again = hub.publish("fleeting.a", json!(2)).await;
    assert_eq!(again["seq_id"], 1);
    assert_ne!(again["epoch"], fleeting["epoch"], "what was kept nowhere is another log now, and says so");
    drop(ws);
    in_memory(&hub, 1.0).await;
    hub.publish("held", json!(1)).await;
    held.read_to("held", 1).await.assert_exactly(1, 1);
}

#[tokio::test]
async fn publishing_at_the_moment_of_leaving_loses_nothing_and_gives_no_number_twice() {
    let hub = TestHub::plan().toml(SETTINGS).start();
    let publishers = (0..24u64).map(|n| {
        let hub = &hub;
        async move {
            let kind = ["kept", "weak", "fleeting"][n as usize % 3];
            let channel = format!("{kind}.{n}");
            let mut dice = Dice::new(n + 5);
            let mut given: BTreeMap<String, Vec<u64>> = BTreeMap::new();
            for _ in 0..12 {
                let answer = hub.publish(&channel, json!(1)).await;
                let epoch = answer["epoch"].as_str().unwrap().to_owned();
                given.entry(epoch).or_default().push(answer["seq_id"].as_u64().unwrap());
                // About as long as it takes a channel to be found idle.
                tokio::time::sleep(Duration::from_millis(80 + dice.below(240))).await;
            }
            for seqs in given.values() {
                assert_eq!(*seqs, (1..=seqs.len() as u64).collect::<Vec<_>>(), "{channel}");
            }
            if kind != "fleeting" {
                assert_eq!(given.len(), 1, "{channel} has one life");
                let page = hub.history(&format!("channel={channel}")).await;
                assert_eq!(page["messages"].as_array().unwrap().len(), 12);
            }
        }
    });
    futures_util::future::join_all(publishers).await;
}

#[tokio::test]
async fn deleting_history_under_a_replay_and_under_writers_leaves_every_hole_named() {
    let hub = TestHub::plan().with(|config| config.channels.tail_count = 16).start();
    hub.publish_numbers("c", 1, 3000).await;
    let writer = async {
        for n in 0..20 {
            hub.publish_numbers("c", 3001 + n * 50, 3050 + n * 50).await;
            if n % 4 == 1 {
                hub.forget("c").await.ok();
            }
        }
    };
    let reader = async |after: u64| {
        let mut ws = hub.ws().await;
        ws.resume("c", after).await;
        let mut at = after;
        while at < 4000 {
            let frame = ws.next().await.unwrap();
            match frame["type"].as_str() {
                Some("message") => {
                    assert_eq!(frame["seq_id"], at + 1, "a hole, or a repeat");
                    at += 1;
                }
                Some("gap") => {
                    assert_eq!((&frame["cause"], &frame["missing"][0]), (&json!("evicted"), &json!(at + 1)));
                    at = frame["missing"][1].as_u64().unwrap();
                    assert_eq!(frame["available_from_seq"], at + 1);
                }
                Some("live") => {}
                _ => panic!("{frame}"),
            }
        }
    };
    let readers = futures_util::future::join_all((0..10).map(|n| reader(n * 300)));
    tokio::join!(writer, readers);
}
