//! A hub to test against, and clients that count what they are sent. Every wait has a deadline.

pub mod browser;
pub mod golden;
pub mod http;
pub mod hub;
pub mod kernel;
pub mod line;
pub mod moody;
pub mod program;
pub mod raw_ws;
pub mod spawned;
pub mod sse;
pub mod ws;

use std::collections::BTreeMap;
use std::future::Future;
use std::io::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

pub use serde_json::{Value as Json, json};
use tokio::sync::watch;

pub use browser::Browser;
pub use http::{Http, Response};
pub use hub::TestHub;
pub use program::Program;
pub use raw_ws::RawWs;
pub use spawned::Spawned;
pub use sse::{Event, SseClient};
pub use ws::{End, WsClient};

/// The first Lua and the first text below a heading of docs/operating.md.
pub fn manual(heading: &str) -> (String, String) {
    let page = std::fs::read_to_string(repository().join("docs/operating.md")).unwrap();
    let part = page.split_once(&format!("{heading}\n")).unwrap_or_else(|| panic!("{heading}")).1;
    let block = |language: &str| {
        let from = part.split_once(&format!("```{language}\n")).unwrap().1;
        from.split_once("```").unwrap().0.to_owned()
    };
    (block("lua"), block("text"))
}

/// How long anything may take. Generous: the machine may be busy, and nobody waits this long when all is well.
pub const DEADLINE: Duration = Duration::from_secs(60);

/// Waits for a future, or fails and says what was waited for.
pub async fn within<T>(limit: Duration, what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(limit, future).await {
        Ok(value) => value,
        Err(_) => panic!("{what}: nothing within {limit:?}"),
    }
}

/// A test that needs what this machine has not: said where everybody sees it, and no excuse for a gate.
#[track_caller]
pub fn missing(what: &str, advice: &str) {
    assert!(std::env::var("CI").as_deref() != Ok("true"), "there is no {what}. {advice}");
    let test = std::thread::current().name().unwrap_or("a test").to_owned();
    // Not by eprintln!, which the harness keeps to itself.
    let _ = writeln!(std::io::stderr(), "\nSKIPPED {test}: there is no {what}. {advice}\n");
}

/// Asks again and again until the answer is yes.
pub async fn until(what: &str, mut ask: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + DEADLINE;
    while !ask().await {
        assert!(Instant::now() < deadline, "{what}: not within {DEADLINE:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Publishes `1..=last` as payloads, each until it is answered: a hub that is killed meanwhile has each of them once.
pub async fn publish_stubbornly(address: SocketAddr, key: String, channel: &str, last: u64) {
    publish_up_to(address, key, channel, last, watch::channel(last).1).await;
}

async fn publish_up_to(address: SocketAddr, key: String, channel: &str, last: u64, mut may: watch::Receiver<u64>) {
    let mut http = None;
    for n in 1..=last {
        may.wait_for(|upto| n <= *upto).await.expect("somebody lets it go on");
        let deadline = Instant::now() + DEADLINE;
        let body = json!({"channel": channel, "payload": n, "idempotency_key": format!("stubborn-{n}")}).to_string();
        loop {
            assert!(Instant::now() < deadline, "{n} was not published");
            if http.is_none() {
                http = Http::try_connect(address, Some(&key)).await.ok();
            }
            if let Some(connection) = &mut http {
                match connection.try_send("POST", "/api/v1/publish", &[], body.as_bytes()).await {
                    Ok(answer) => {
                        let answer = answer.ok();
                        if answer["seq_id"] != n {
                            let kept = format!("/api/v1/history?channel={channel}&after_seq={}", n.saturating_sub(3));
                            let kept = connection.get(&kept).await;
                            panic!("{n} was answered with {answer}; the channel has {}", kept.text());
                        }
                        break;
                    }
                    Err(_) => http = None,
                }
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

/// The same beside the test, with a rest in the middle: a kill meets it there, however fast it is and however slow the others.
pub struct Stubborn {
    task: tokio::task::JoinHandle<()>,
    may: watch::Sender<u64>,
    last: u64,
}

impl Stubborn {
    pub fn start(address: SocketAddr, key: String, channel: &'static str, last: u64) -> Stubborn {
        let (may, upto) = watch::channel(last / 2);
        Stubborn { task: tokio::spawn(publish_up_to(address, key, channel, last, upto)), may, last }
    }

    /// It goes on, and has just asked for something when this returns: the hub is to be killed now.
    pub async fn go_on(&self) {
        self.may.send(self.last).expect("it has not ended");
        // The hub may be so slow that it is still in the first half: then it is asking already.
        for _ in 0..3 {
            tokio::task::yield_now().await;
        }
        assert!(!self.task.is_finished(), "the kill comes too late to be one mid-stream");
    }

    pub async fn finish(self) {
        self.task.await.unwrap();
    }
}

/// A directory that goes when it is dropped.
pub struct TempDir(PathBuf);

impl TempDir {
    pub fn new() -> TempDir {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let name = format!("aether-test-{}-{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&path).unwrap();
        TempDir(path)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    pub fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.0.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, text).unwrap();
        path
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// The root of the repository: its plugins and scripts are the ones under test.
pub fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Numbers that look random and are the same in every run.
pub struct Dice(u64);

impl Dice {
    pub fn new(seed: u64) -> Dice {
        Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }
}

/// What one subscriber has been sent in one channel: each seq with its payload, in order.
#[derive(Debug, Default)]
pub struct Seen {
    pub messages: Vec<(u64, String)>,
    pub gaps: Vec<Json>,
}

impl Seen {
    pub fn seqs(&self) -> Vec<u64> {
        self.messages.iter().map(|(seq, _)| *seq).collect()
    }

    pub fn last(&self) -> u64 {
        self.messages.last().map_or(0, |(seq, _)| *seq)
    }

    /// Every seq from `first` to `last`, each once and in order.
    #[track_caller]
    pub fn assert_exactly(&self, first: u64, last: u64) {
        let mut expected = first;
        for (seq, _) in &self.messages {
            assert_eq!(*seq, expected, "after {} messages; {} .. {} were due", expected - first, first, last);
            expected += 1;
        }
        assert_eq!(expected, last + 1, "the last ones are missing");
    }
}

/// Prometheus text, by name.
pub fn parse_metrics(text: &str) -> BTreeMap<String, f64> {
    let lines = text.lines().filter(|line| !line.starts_with('#') && !line.is_empty());
    lines.filter_map(|line| line.rsplit_once(' ')).map(|(name, value)| (name.into(), value.parse().unwrap())).collect()
}
