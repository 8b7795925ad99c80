//! **Nobody waits for a reader.** A session holds cursors and at most one half-written publication.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use aether::config::Period;
use aether::edges::line::{Frame, Socket};
use aether::edges::load::{self, Load};
use aether::edges::native::{Limits, WsDialect};
use aether::edges::pulse::Pulse;
use aether::edges::roster::Roster;
use aether::edges::session::{self, Shared};
use aether::edges::wire::Ending;
use aether::kernel::session::{Pace, Start};

use crate::common::kernel::{Kernel, Rules, listen, read};
use crate::common::*;

/// Large enough that a reader that stands still is stuck after some hundreds: kernels keep a few MiB for it.
const LARGE: usize = 16 * 1024;
const COUNT: u64 = 700;

fn rule(lag: &str) -> Plan {
    TestHub::plan().toml(&format!(
        "[server]\nwrite_timeout = \"2m\"\n[channels]\nlag_patience = \"0ms\"\n[[retention.rules]]\npattern = \"busy\"\nlag = \"{lag}\"\nmax_lag = 100"
    ))
}

use hub::Plan;

/// Publishes `first..=last` as large payloads and says how long each took.
async fn publish_large(http: &mut Http, channel: &str, first: u64, last: u64) -> Vec<Duration> {
    let mut took = Vec::new();
    for n in first..=last {
        let body = json!({"channel": channel, "payload": [n, "x".repeat(LARGE)]}).to_string();
        let began = Instant::now();
        assert_eq!(http.post("/api/v1/publish", body).await.ok()["seq_id"], n);
        took.push(began.elapsed());
    }
    took
}

fn p99(mut took: Vec<Duration>) -> Duration {
    took.sort();
    took[took.len() * 99 / 100]
}

#[tokio::test]
async fn one_paused_reader_holds_up_neither_publishers_nor_others_and_is_alone_closed_with_1012() {
    let hub = rule("close").start();
    let mut http = hub.http().await;
    let undisturbed = p99(publish_large(&mut http, "calm", 1, 300).await);

    let mut paused = WsClient::narrow(hub.address, &hub.token(&["*"])).await;
    paused.subscribe(&["busy"]).await;
    let mut others = Vec::new();
    for _ in 0..20 {
        let mut ws = hub.ws().await;
        ws.subscribe(&["busy"]).await;
        others.push(ws);
    }
    let mut took = Vec::new();
    for step in 0..COUNT / 50 {
        took.extend(publish_large(&mut http, "busy", step * 50 + 1, step * 50 + 50).await);
        // Nobody has read from the paused one, and all the others have everything.
        for ws in &mut others {
            ws.read_to("busy", step * 50 + 50).await.assert_exactly(step * 50 + 1, step * 50 + 50);
        }
    }
    let disturbed = p99(took);
    assert!(disturbed < undisturbed * 10 + Duration::from_secs(2), "{undisturbed:?} became {disturbed:?}");

    let (seen, rest, end) = paused.read_to_end("busy").await;
    seen.assert_exactly(1, seen.last());
    assert!((1..COUNT - 100).contains(&seen.last()), "it was behind by more than it may: {}", seen.last());
    assert_eq!(rest.len(), 1, "{rest:?}");
    assert_eq!((&rest[0]["type"], &rest[0]["code"], &rest[0]["retry_ms"]), (&json!("bye"), &json!(1012), &json!(0)));
    assert!(matches!(end, End::Closed(1012, _)), "{end:?}");
    for ws in &mut others {
        ws.assert_silent().await;
    }
    let metrics = hub.metrics().await;
    assert_eq!((metrics["aether_lagged_total"], metrics["aether_gaps_total"]), (1.0, 0.0));

    // It may come back at once, and misses nothing.
    let mut back = hub.ws().await;
    back.resume("busy", seen.last()).await;
    back.read_to("busy", COUNT).await.assert_exactly(seen.last() + 1, COUNT);
}

#[tokio::test]
async fn with_lag_skip_a_paused_reader_jumps_to_the_newest_and_hears_what_it_skipped() {
    let hub = rule("skip").start();
    let mut paused = WsClient::narrow(hub.address, &hub.token(&["*"])).await;
    paused.subscribe(&["busy"]).await;
    publish_large(&mut hub.http().await, "busy", 1, COUNT).await;
    let mut expected = 1;
    let mut skipped = 0;
    while expected <= COUNT {
        let frame = paused.next().await.unwrap();
        if frame["type"] == "gap" {
            assert_eq!((&frame["cause"], &frame["requested_from_seq"]), (&json!("skipped"), &json!(expected - 1)));
            let available = frame["available_from_seq"].as_u64().unwrap();
            assert_eq!(frame["missing"], json!([expected, available - 1]));
            skipped += available - expected;
            expected = available;
        } else {
            assert_eq!(frame["seq_id"], expected);
            expected += 1;
        }
    }
    assert!(skipped >= 100, "{skipped}");
    paused.assert_silent().await;
    let metrics = hub.metrics().await;
    assert_eq!(metrics["aether_messages_pushed_total"], (COUNT - skipped) as f64);
    assert!(metrics["aether_lagged_total"] >= 1.0);
}

#[tokio::test]
async fn with_catch_up_a_paused_reader_gets_everything_from_the_store() {
    let config = "[server]\nwrite_timeout = \"2m\"\n[channels]\ntail_count = 16";
    let hub = TestHub::plan().toml(config).start();
    let token = hub.token(&["*"]);
    let mut paused = WsClient::narrow(hub.address, &token).await;
    paused.subscribe(&["busy"]).await;
    let path = format!("/sse?channel=busy&token={token}");
    let mut stream = SseClient::open_with(hub.address, &path, &[], Some(4096)).await.unwrap();
    publish_large(&mut hub.http().await, "busy", 1, COUNT).await;
    let seen = paused.read_to("busy", COUNT).await;
    seen.assert_exactly(1, COUNT);
    assert_eq!(seen.gaps.len(), 0);
    paused.assert_silent().await;
    let seen = stream.read_to("busy", COUNT).await;
    seen.assert_exactly(1, COUNT);
    assert_eq!(seen.gaps.len(), 0);
    assert!(hub.metric("aether_store_reads_total").await > 0.0);
}

#[tokio::test]
async fn an_event_stream_that_lags_beyond_its_policy_ends_with_a_word_of_it() {
    let hub = rule("close").start();
    let path = format!("/sse?channel=busy&token={}", hub.token(&["*"]));
    let mut paused = SseClient::open_with(hub.address, &path, &[], Some(4096)).await.unwrap();
    publish_large(&mut hub.http().await, "busy", 1, COUNT).await;
    let mut expected = 0;
    let bye = loop {
        let event = paused.next().await.expect("it says why it ends");
        match event.name.as_str() {
            "subscribed" => {}
            "message" => {
                expected += 1;
                assert_eq!(event.json()["seq_id"], expected);
            }
            _ => break event,
        }
    };
    assert_eq!((bye.name.as_str(), &bye.json()["code"]), ("bye", &json!(1012)));
    assert_eq!(paused.next().await, None);
    assert!(expected < COUNT - 100, "{expected}");
    let mut back = hub.sse("channel=busy", Some(&paused.last_event_id())).await;
    back.read_to("busy", COUNT).await.assert_exactly(expected + 1, COUNT);
}

#[tokio::test]
async fn a_reader_that_takes_nothing_for_the_write_timeout_is_dropped() {
    let hub = TestHub::plan().with(|config| config.server.write_timeout = Period::seconds(1)).start();
    let token = hub.token(&["*"]);
    let mut dead = WsClient::narrow(hub.address, &token).await;
    dead.subscribe(&["busy"]).await;
    let path = format!("/sse?channel=busy&token={token}");
    let _stream = SseClient::open_with(hub.address, &path, &[], Some(4096)).await.unwrap();
    let mut idle = hub.ws().await;
    idle.subscribe(&["other"]).await;
    assert_eq!(hub.metric("aether_connections_active").await, 3.0);
    publish_large(&mut hub.http().await, "busy", 1, COUNT).await;
    until("both are gone and the idle one is not", async || hub.metric("aether_connections_active").await == 1.0).await;
    assert_eq!(hub.metric("aether_subscriptions_active").await, 1.0);
    idle.assert_silent().await;
}

/// Whether any file below a directory holds these bytes.
fn holds(directory: &std::path::Path, needle: &[u8]) -> bool {
    std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).any(|path| {
        if path.is_dir() {
            return holds(&path, needle);
        }
        std::fs::read(&path).unwrap().windows(needle.len()).any(|window| window == needle)
    })
}

#[tokio::test]
async fn a_channel_without_history_resumes_as_far_as_its_tail_and_never_touches_the_disk() {
    let config = "[channels]\ntail_count = 10\n[[retention.rules]]\npattern = \"cursor.*\"\nhistory = false";
    let mut hub = TestHub::plan().toml(config).start();
    let needle = "a-needle-that-no-disk-may-see";
    let mut ws = hub.ws().await;
    ws.subscribe(&["cursor.a"]).await;
    for seq in 1..=25 {
        let answer = hub.publish("cursor.a", json!(needle)).await;
        assert_eq!((&answer["seq_id"], &answer["ack"]), (&json!(seq), &json!("memory")));
    }
    ws.read_to("cursor.a", 25).await.assert_exactly(1, 25);
    let mut near = hub.ws().await;
    near.resume("cursor.a", 20).await;
    let seen = near.read_to("cursor.a", 25).await;
    seen.assert_exactly(21, 25);
    assert_eq!(seen.gaps.len(), 0);
    let mut far = hub.ws().await;
    far.resume("cursor.a", 3).await;
    let seen = far.read_to("cursor.a", 25).await;
    seen.assert_exactly(16, 25);
    let gap = &seen.gaps[0];
    assert_eq!((&gap["cause"], &gap["missing"], seen.gaps.len()), (&json!("evicted"), &json!([4, 15]), 1));
    assert_eq!(hub.history("channel=cursor.a").await["messages"], json!([]));

    hub.publish("kept", json!("a-needle-that-the-disk-must-see")).await;
    hub.stop();
    assert!(holds(hub.data(), b"a-needle-that-the-disk-must-see"));
    assert!(!holds(hub.data(), needle.as_bytes()) && !holds(hub.data(), b"cursor.a"));
    hub.restart();
    let mut ws = hub.ws().await;
    ws.resume("cursor.a", 20).await;
    assert_eq!(ws.expect("gap").await["cause"], "epoch", "what lived in memory began anew");
    assert_eq!(hub.publish("cursor.a", json!(1)).await["seq_id"], 1);
    ws.read_to("cursor.a", 1).await.assert_exactly(1, 1);
}

#[tokio::test]
async fn a_reader_of_a_channel_without_history_that_falls_behind_the_tail_hears_of_a_gap() {
    let config = "[server]\nwrite_timeout = \"2m\"\n[channels]\ntail_count = 16\n\
                  [[retention.rules]]\npattern = \"busy\"\nhistory = false";
    let hub = TestHub::plan().toml(config).start();
    let mut paused = WsClient::narrow(hub.address, &hub.token(&["*"])).await;
    paused.subscribe(&["busy"]).await;
    publish_large(&mut hub.http().await, "busy", 1, COUNT).await;
    let seen = paused.read_to("busy", COUNT).await;
    let seqs = seen.seqs();
    assert!(seqs.is_sorted_by(|a, b| a < b), "no number twice");
    let missing = seen.gaps.iter().map(|gap| (&gap["missing"][0], &gap["missing"][1]));
    let missing: u64 = missing.map(|(from, to)| to.as_u64().unwrap() - from.as_u64().unwrap() + 1).sum();
    assert!(missing > 0 && seqs.len() as u64 + missing == COUNT, "{} seen, {missing} said to be missing", seqs.len());
}

/// Takes the first bytes and then nothing, and counts how often it is asked.
struct Stuck {
    takes: usize,
    asked: Arc<AtomicUsize>,
}

impl Socket for Stuck {
    fn try_write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let taken = std::mem::take(&mut self.takes).min(bytes.len());
        if taken == 0 { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(taken) }
    }
    fn room(&self) -> usize {
        4096
    }
    fn poll_writable(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        Poll::Pending
    }
    fn poll_frame(&mut self, _: &mut Context<'_>) -> Poll<Result<Frame, Ending>> {
        Poll::Pending
    }
    async fn finish(&mut self, _: tokio::time::Instant) {}
}

/// Found by the simulation: seed 4.
#[tokio::test]
async fn who_asked_for_a_pace_and_is_stuck_lets_the_processor_rest() {
    let kernel = Kernel::start(Arc::new(Rules::default()));
    let mut session = kernel.session("ann");
    listen(&mut session, "a", Start::After(0, None)).await;
    session.set_pace("a", Pace { every: Duration::from_millis(5), conflate: false });
    kernel.say("a", &["one", "two", "three"]).await;
    let asked = Arc::new(AtomicUsize::new(0));
    let pulse =
        Pulse { interval: DEADLINE, timeout: None, write_timeout: Duration::from_millis(300), drain: Duration::ZERO };
    let shared =
        Arc::new(Shared { pulse, roster: Arc::new(Roster::default()), load: Load::new(load::Limits::default()) });
    let socket = Stuck { takes: 3, asked: asked.clone() };
    let limits = Limits { channels_per_request: 1, channels_per_connection: 1, refusals_per_minute: 0 };
    let ending = session::run(socket, WsDialect::new(limits, false), session, shared, Vec::new());
    assert_eq!(within(DEADLINE, "its end", ending).await.cause(), "timeout");
    let asked = asked.load(Ordering::Relaxed);
    assert!(asked < 20, "in 300 ms it was asked {asked} times");
}

#[tokio::test]
async fn who_wants_only_the_newest_gets_no_more_than_that_from_the_store_either() {
    let kernel = Kernel::start(Arc::new(Rules::default()));
    kernel.say("a", &["one", "two", "three"]).await;
    let kernel = Kernel::start_in(kernel.stop().await, Arc::new(Rules::default()), 8);
    let mut session = kernel.session("ann");
    listen(&mut session, "a", Start::After(0, None)).await;
    session.set_pace("a", Pace { every: Duration::from_millis(1), conflate: true });
    assert_eq!(read(&mut session).await, ["P a 3 three", "L a 3"]);
}
