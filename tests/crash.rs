//! **Safe before seen.** kill -9 takes nothing that was promised to be on disk, and no number ever means two things.
//!
//! Three rounds; `AETHER_CRASH_ROUNDS=50 cargo test crash` for more.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::Mutex;

use crate::common::*;

const CHANNELS: [&str; 4] = ["synced.a", "synced.b", "written", "memory"];
const SETTINGS: &str = "
[store]
flush_interval = \"50ms\"
[channels]
tail_count = 64
[[retention.rules]]
pattern = \"synced.*\"
max_count = \"none\"
[[retention.rules]]
pattern = \"written\"
max_count = \"none\"
ack = \"written\"
[[retention.rules]]
pattern = \"memory\"
max_count = \"none\"
ack = \"memory\"
";

fn rounds() -> u64 {
    std::env::var("AETHER_CRASH_ROUNDS").map_or(3, |text| text.parse().expect("AETHER_CRASH_ROUNDS is a number"))
}

/// What anybody has been told a number means, over all lives of the hub: nobody may be told something else.
#[derive(Default)]
struct Meanings(BTreeMap<(String, u64), String>);

impl Meanings {
    fn told(&mut self, channel: &str, seq: u64, payload: &str) {
        let known = self.0.entry((channel.to_owned(), seq)).or_insert_with(|| payload.to_owned());
        assert_eq!(known, payload, "{channel} {seq} has two meanings");
    }
}

type Shared = Arc<Mutex<Meanings>>;

/// Publishes until the hub is gone; what was acknowledged.
async fn writer(
    hub: (std::net::SocketAddr, String),
    round: u64,
    number: u64,
    meanings: Shared,
    promised: Arc<AtomicU64>,
) -> Vec<(String, u64)> {
    let mut http = Http::connect(hub.0, Some(&hub.1)).await;
    let mut acknowledged = Vec::new();
    for n in 0.. {
        let channel = CHANNELS[(number + n) as usize % CHANNELS.len()];
        let payload = json!(format!("{round}-{number}-{n}-{}", "x".repeat((n % 50) as usize)));
        let (path, body) = if n % 5 == 4 {
            let item = json!({"channel": channel, "payload": payload});
            ("/api/v1/publish/batch", json!({"messages": [item]}))
        } else {
            ("/api/v1/publish", json!({"channel": channel, "payload": payload}))
        };
        let Ok(answer) = http.try_send("POST", path, &[], body.to_string().as_bytes()).await else { break };
        let answer = answer.ok();
        let answer = answer["results"].get(0).unwrap_or(&answer);
        let seq = answer["seq_id"].as_u64().unwrap_or_else(|| panic!("{answer}"));
        meanings.lock().await.told(channel, seq, &payload.to_string());
        if answer["ack"] == "synced" {
            acknowledged.push((channel.to_owned(), seq));
            promised.fetch_add(1, Ordering::Relaxed);
        }
    }
    acknowledged
}

/// A subscriber that lives through all rounds: what it has, in order, and what it was told it will not get.
struct Follower {
    channel: &'static str,
    last: u64,
    epoch: Option<String>,
    lost: Vec<(u64, u64)>,
}

impl Follower {
    /// Follows until the hub is gone, or until `upto`.
    async fn follow(&mut self, address: std::net::SocketAddr, token: &str, upto: Option<u64>, meanings: &Shared) {
        let mut ws = WsClient::connect(address, Some(token)).await;
        let mut ask = json!({"type": "subscribe", "channels": [self.channel], "after_seq": {self.channel: self.last}});
        if let Some(epoch) = &self.epoch {
            ask["epoch"] = json!({self.channel: epoch});
        }
        ws.send(ask).await;
        while upto.is_none_or(|upto| self.last < upto) {
            let Ok(frame) = ws.next().await else { return };
            match frame["type"].as_str().unwrap() {
                "message" => {
                    let seq = frame["seq_id"].as_u64().unwrap();
                    assert_eq!(seq, self.last + 1, "{} skips or repeats", self.channel);
                    meanings.lock().await.told(self.channel, seq, &frame["payload"].to_string());
                    self.last = seq;
                }
                "gap" => {
                    assert_eq!(frame["cause"], "lost", "{frame}");
                    assert!(!self.channel.starts_with("synced"), "{frame}");
                    let missing = (frame["missing"][0].as_u64().unwrap(), frame["missing"][1].as_u64().unwrap());
                    assert_eq!(missing.0, self.last + 1);
                    self.last = missing.1;
                    self.lost.push(missing);
                }
                "subscribed" => {
                    let epoch = frame["positions"][self.channel]["epoch"].as_str().unwrap();
                    let known = self.epoch.get_or_insert_with(|| epoch.to_owned());
                    assert_eq!(known, epoch, "the store is the same, and so is its life");
                }
                "live" => {}
                _ => panic!("{frame}"),
            }
        }
    }
}

/// Starts the program on a store that a kill may have left locked for a moment.
async fn start(dir: &Path) -> Spawned {
    let dir = dir.to_owned();
    tokio::task::spawn_blocking(move || Spawned::start(&dir)).await.unwrap()
}

#[tokio::test]
async fn kill_9_under_writers_takes_nothing_synced_and_gives_no_number_twice() {
    let dir = TempDir::new();
    dir.write("aether.toml", SETTINGS);
    let (meanings, promised) = (Shared::default(), Arc::<AtomicU64>::default());
    let mut acknowledged: Vec<(String, u64)> = Vec::new();
    let mut followers = CHANNELS.map(|channel| Follower { channel, last: 0, epoch: None, lost: Vec::new() });
    let mut dice = Dice::new(std::process::id().into());
    for round in 0..rounds() {
        let mut hub = start(dir.path()).await;
        let token = hub.token(&["*"]);
        let access = (hub.address, hub.admin_key.clone());
        let writers: Vec<_> = (0..12)
            .map(|n| tokio::spawn(writer(access.clone(), round, n, meanings.clone(), promised.clone())))
            .collect();
        let following = futures_util::future::join_all(
            followers.iter_mut().map(|follower| follower.follow(access.0, &token, None, &meanings)),
        );
        let killed = AtomicBool::new(false);
        let kill = async {
            // When something was promised, and then at a moment that nobody knows.
            let before = promised.load(Ordering::Relaxed);
            until("something is promised", async || promised.load(Ordering::Relaxed) > before).await;
            tokio::time::sleep(Duration::from_millis(300 + dice.below(700))).await;
            hub.kill_9();
            killed.store(true, Ordering::Relaxed);
        };
        within(DEADLINE, "the end of all connections", async { tokio::join!(following, kill) }).await;
        assert!(killed.load(Ordering::Relaxed), "the followers left before the hub did");
        for writer in writers {
            acknowledged.extend(within(DEADLINE, "a writer's end", writer).await.unwrap());
        }
        assert!(!acknowledged.is_empty());

        // The next life: everything that was promised is there, as it was told.
        let hub = start(dir.path()).await;
        let mut http = Http::connect(hub.address, Some(&hub.admin_key)).await;
        let token = hub.token(&["*"]);
        let mut kept: BTreeMap<(String, u64), String> = BTreeMap::new();
        for channel in CHANNELS {
            let mut after = 0;
            loop {
                let page =
                    http.get(&format!("/api/v1/history?channel={channel}&after_seq={after}&limit=1000")).await.ok();
                for message in page["messages"].as_array().unwrap() {
                    after = message["seq_id"].as_u64().unwrap();
                    kept.insert((channel.to_owned(), after), message["payload"].to_string());
                }
                if page["has_more"] == false {
                    break;
                }
            }
        }
        let mut meanings_now = meanings.lock().await;
        for ((channel, seq), payload) in &kept {
            meanings_now.told(channel, *seq, payload);
        }
        for (channel, seq) in &acknowledged {
            assert!(
                kept.contains_key(&(channel.clone(), *seq)),
                "{channel} {seq} was acknowledged as synced and is gone"
            );
        }
        drop(meanings_now);
        for follower in &mut followers {
            let body = json!({"channel": follower.channel, "payload": format!("after round {round}")}).to_string();
            let seq = http.post("/api/v1/publish", body).await.ok()["seq_id"].as_u64().unwrap();
            follower.follow(hub.address, &token, Some(seq), &meanings).await;
            assert_eq!(follower.last, seq);
        }
        // This life ends badly too, with nobody writing.
        drop(hub);
    }
    for follower in &followers {
        eprintln!("{}: {} messages, lost {:?}", follower.channel, follower.last, follower.lost);
        assert_eq!(follower.lost.is_empty(), follower.channel.starts_with("synced"), "{}", follower.channel);
    }
}

#[tokio::test]
async fn after_kill_9_an_idempotency_key_is_still_known() {
    let dir = TempDir::new();
    let mut hub = start(dir.path()).await;
    let body = json!({"channel": "c", "payload": 1, "idempotency_key": "k"}).to_string();
    let first = Http::connect(hub.address, Some(&hub.admin_key)).await.post("/api/v1/publish", &body).await.ok();
    hub.kill_9();
    let hub = start(dir.path()).await;
    let again = Http::connect(hub.address, Some(&hub.admin_key)).await.post("/api/v1/publish", &body).await.ok();
    assert_eq!((&again["seq_id"], &again["duplicate"]), (&first["seq_id"], &json!(true)));
    assert_eq!(again["epoch"], first["epoch"]);
}

/// Who has no answer asks again with the same key, and the next hub knows what the one before it stored.
#[tokio::test]
async fn a_repeat_after_a_kill_is_never_a_second_message() {
    let dir = TempDir::new();
    let mut hub = Spawned::start(dir.path());
    let work = publish_stubbornly(hub.address, hub.admin_key.clone(), "repeats", 1000 * rounds());
    let publisher = tokio::spawn(work);
    let mut dice = Dice::new(7);
    while !publisher.is_finished() {
        tokio::time::sleep(Duration::from_millis(50 + dice.below(700))).await;
        // However slow the machine, it gets on in every life.
        until("something is published", async || {
            let Ok(mut http) = Http::try_connect(hub.address, None).await else { return false };
            let page = http.get("/metricsz").await;
            publisher.is_finished() || parse_metrics(page.text())["aether_messages_published_total"] > 0.0
        })
        .await;
        hub.kill_and_restart(dir.path());
    }
    publisher.await.unwrap();
}
