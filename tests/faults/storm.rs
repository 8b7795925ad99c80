//! Publishers that do not give up and readers that count, while a disk fails and is mended, again and again.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::task::JoinHandle;

use crate::common::*;

/// A hub in `dir` with these settings of its store: large messages may come, tails are short, and `fleeting.*` needs no disk.
pub async fn hub(dir: &TempDir, store: &str) -> Spawned {
    let settings = format!(
        "[server]\nmax_payload_size = \"1MiB\"\n[store]\n{store}\n[channels]\ntail_count = 16\n\
         [[retention.rules]]\npattern = \"fleeting.*\"\nhistory = false\n"
    );
    dir.write("aether.toml", &settings);
    let dir = dir.path().to_owned();
    tokio::task::spawn_blocking(move || Spawned::start(&dir)).await.unwrap()
}

/// What a storm's publishers have met.
#[derive(Default)]
struct Weather {
    ended: AtomicBool,
    published: AtomicU64,
    refused: AtomicU64,
    /// How far each channel has been acknowledged.
    acknowledged: [AtomicU64; CHANNELS.len()],
}

impl Weather {
    fn acknowledged(&self) -> [u64; CHANNELS.len()] {
        self.acknowledged.each_ref().map(|last| last.load(Ordering::Relaxed))
    }
}

/// Publishes 1, 2, 3 ... each until it is answered, under a key of its own; how far it came.
async fn publisher(hub: (SocketAddr, String), place: usize, weather: Arc<Weather>) -> u64 {
    let channel = CHANNELS[place];
    let mut http = Http::connect(hub.0, Some(&hub.1)).await;
    let mut n = 0;
    while !weather.ended.load(Ordering::Relaxed) {
        n += 1;
        // Some take a file of their own in the store.
        let filling = "x".repeat(if n % 100 == 0 { 150_000 } else { n as usize % 300 });
        let body = json!({"channel": channel, "payload": [n, filling], "idempotency_key": format!("{channel}-{n}")});
        let body = body.to_string();
        let deadline = Instant::now() + DEADLINE;
        loop {
            let answer = http.post("/api/v1/publish", &body).await;
            if answer.status == 200 {
                assert_eq!(answer.json()["seq_id"], n, "{}", answer.text());
                break;
            }
            assert_eq!(answer.error(), (503, 50301), "{}", answer.text());
            assert!(answer.text().contains("come back") && answer.header("retry-after").is_some(), "{}", answer.text());
            assert!(Instant::now() < deadline, "{channel} {n} was not published within {DEADLINE:?}");
            weather.refused.fetch_add(1, Ordering::Relaxed);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        weather.published.fetch_add(1, Ordering::Relaxed);
        weather.acknowledged[place].store(n, Ordering::Relaxed);
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    n
}

/// Reads without ever coming back, until it is told how far it goes.
async fn reader(mut ws: WsClient, channel: &'static str, upto: tokio::sync::oneshot::Receiver<u64>) {
    let mut upto = std::pin::pin!(upto);
    let (mut last, mut end) = (0, None);
    while end.is_none_or(|end| last < end) {
        let frame = tokio::select! {
            told = &mut upto, if end.is_none() => {
                end = Some(told.unwrap());
                continue;
            }
            frame = ws.next() => frame.unwrap_or_else(|how| panic!("{channel} ended after {last}: {how:?}")),
        };
        match frame["type"].as_str().unwrap() {
            "message" => {
                last += 1;
                assert_eq!((&frame["seq_id"], &frame["payload"][0]), (&json!(last), &json!(last)), "{channel}");
            }
            "live" => {}
            _ => panic!("{frame}"),
        }
    }
}

const CHANNELS: [&str; 4] = ["storm.a", "storm.b", "storm.c", "storm.d"];

/// What a disk may have taken with it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Loss {
    Nothing,
    /// It says that it has what it does not have: whoever comes back is told what is missing, and what was acknowledged before
    /// the fault is there.
    Told,
}

/// Breaks and mends something some times while everybody publishes and reads. Nothing may be lost, given twice or out of order;
/// who reads is never sent away; what needs no disk goes on.
pub async fn ride(
    hub: &mut Spawned,
    mut dice: Dice,
    rounds: u64,
    loss: Loss,
    mut breaks: impl FnMut(),
    mut mends: impl FnMut(),
) {
    let access = (hub.address, hub.admin_key.clone());
    let token = hub.token(&["*"]);
    let weather = Arc::<Weather>::default();
    let (mut readers, mut publishers) = (Vec::new(), Vec::new());
    for (place, channel) in CHANNELS.into_iter().enumerate() {
        let (tell, upto) = tokio::sync::oneshot::channel();
        let mut ws = WsClient::connect(access.0, Some(&token)).await;
        ws.subscribe(&[channel]).await;
        readers.push((tokio::spawn(reader(ws, channel, upto)), tell));
        publishers.push(tokio::spawn(publisher(access.clone(), place, weather.clone())));
    }
    let mut doubtful = Vec::new();
    for round in 1..=rounds {
        let (published, refused) = (weather.published.load(Ordering::Relaxed), weather.refused.load(Ordering::Relaxed));
        let enough = published + 40 + dice.below(200);
        let all_well = |publishers: &[JoinHandle<u64>]| publishers.iter().all(|publisher| !publisher.is_finished());
        let get_on = async || !all_well(&publishers) || weather.published.load(Ordering::Relaxed) >= enough;
        until("the publishers get on", get_on).await;
        assert!(all_well(&publishers), "a publisher has ended: it says why above");
        let before = weather.acknowledged();
        breaks();
        let refuse = async || !all_well(&publishers) || weather.refused.load(Ordering::Relaxed) > refused;
        until("publishes are refused", refuse).await;
        let mut http = Http::connect(access.0, Some(&access.1)).await;
        assert_eq!(http.get("/healthz").await.status, 200, "nobody is to restart it");
        let status = http.get("/status").await.ok();
        let why = status["store_failure"].as_str().unwrap_or_else(|| panic!("{status}"));
        assert!(why.contains("store") && why.contains("by itself"), "{why}");
        assert_eq!(http.get("/readyz").await.status, 503);
        let fleeting = json!({"channel": "fleeting.here", "payload": round}).to_string();
        assert_eq!(http.post("/api/v1/publish", fleeting).await.ok()["seq_id"], round, "what needs no disk goes on");
        let past = http.get(&format!("/api/v1/history?channel={}&after_seq=0&limit=5", CHANNELS[0])).await;
        assert_eq!(past.ok()["messages"].as_array().unwrap().len(), 5, "what is stored is read");
        tokio::time::sleep(Duration::from_millis(dice.below(2500))).await;
        let then = weather.acknowledged();
        doubtful.push(before.into_iter().zip(then).map(|(before, then)| before + 1..=then + 1).collect::<Vec<_>>());
        mends();
        let then = weather.published.load(Ordering::Relaxed) + 10;
        let get_on = async || !all_well(&publishers) || weather.published.load(Ordering::Relaxed) >= then;
        until("the publishers get on again", get_on).await;
        assert!(all_well(&publishers), "a publisher has ended: it says why above");
        // The connection from before may have been idle for too long.
        let mut http = Http::connect(access.0, None).await;
        until("it is ready again", async || http.get("/readyz").await.status == 200).await;
        eprintln!("round {round}: {why}");
    }
    assert!(hub.try_wait().is_none(), "the same process, all the time");
    weather.ended.store(true, Ordering::Relaxed);
    for (place, (publisher, (reader, tell))) in publishers.into_iter().zip(readers).enumerate() {
        let channel = CHANNELS[place];
        let last = within(DEADLINE, "a publisher's end", publisher).await.unwrap();
        tell.send(last).unwrap_or_else(|_| panic!("the reader of {channel} has ended"));
        within(DEADLINE, "a reader's end", reader).await.unwrap();
        let mut again = WsClient::connect(access.0, Some(&token)).await;
        again.resume(channel, 0).await;
        let seen = again.read_to(channel, last).await;
        let mut there: Vec<u64> = seen.seqs();
        for gap in &seen.gaps {
            let [from, to] = [0, 1].map(|end| gap["missing"][end].as_u64().unwrap());
            let at_a_fault = doubtful.iter().any(|round| round[place].contains(&from) && round[place].contains(&to));
            assert!(
                loss == Loss::Told && gap["cause"] == "lost" && at_a_fault,
                "{channel}: {gap}, and the faults were at {:?}",
                doubtful.iter().map(|round| &round[place]).collect::<Vec<_>>()
            );
            eprintln!("{channel}: {from} to {to} of {last} were lost and told");
            there.extend(from..=to);
        }
        there.sort_unstable();
        assert!(there.iter().copied().eq(1..=last), "{channel} to {last}: {there:?}, told {:?}", seen.gaps);
    }
    let (published, refused) = (weather.published.load(Ordering::Relaxed), weather.refused.load(Ordering::Relaxed));
    eprintln!("{published} published, {refused} refused");
}
