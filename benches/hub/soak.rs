//! Ten million messages through channels that keep a thousand each, then a hundred thousand channels that come and go: what
//! stays on disk and in memory.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use aether::cli::bench::hub::Hub;
use aether::cli::bench::publisher::Publisher;
use aether::cli::bench::target::Target;
use anyhow::{Context, bail, ensure};

use super::PAYLOAD;

const MESSAGES: u64 = 10_000_000;
const CHANNELS: u64 = 100;
const BATCH: u64 = 1000;
const PUBLISHERS: u64 = 4;
const PASSING: u64 = 100_000;

pub fn soak() -> anyhow::Result<()> {
    let messages = std::env::var("SOAK_MESSAGES").ok().and_then(|n| n.parse().ok()).unwrap_or(MESSAGES);
    let hub = super::start(&[
        ("AETHER_RETENTION_DEFAULT_MAX_COUNT", "1000"),
        ("AETHER_PUBLISH_MAX_BATCH", "1000"),
        ("AETHER_CHANNELS_IDLE_AFTER", "2s"),
    ])?;
    println!(
        "\nsoak: {messages} messages of {PAYLOAD} B through {CHANNELS} channels that keep 1,000 each, batches of {BATCH}"
    );
    println!("| messages | messages/s | store MiB | hub PSS MiB |");
    println!("|---|---|---|---|");
    let (next, began) = (AtomicU64::new(0), Instant::now());
    let publishers: Vec<_> = (0..PUBLISHERS).map(|_| Publisher::connect(&hub)).collect::<anyhow::Result<_>>()?;
    std::thread::scope(|scope| {
        let (hub, next) = (&hub, &next);
        let workers: Vec<_> = publishers
            .into_iter()
            .map(|mut publisher| {
                scope.spawn(move || -> anyhow::Result<()> {
                    loop {
                        let batch = next.fetch_add(1, Ordering::Relaxed);
                        if batch * BATCH >= messages {
                            return Ok(());
                        }
                        put(&mut publisher, hub, |i| format!("demo.soak{}", (batch + i) % CHANNELS))?;
                    }
                })
            })
            .collect();
        for tenth in 1..=10 {
            while next.load(Ordering::Relaxed) * BATCH < messages * tenth / 10 {
                if workers.iter().any(|worker| worker.is_finished()) {
                    break;
                }
                std::thread::sleep(Duration::from_millis(20));
            }
            let sent = (next.load(Ordering::Relaxed) * BATCH).min(messages);
            row(hub, sent, sent as f64 / began.elapsed().as_secs_f64())?;
        }
        workers.into_iter().try_for_each(|worker| worker.join().unwrap_or_else(|_| bail!("a publisher panicked")))
    })?;

    println!("\nthen {PASSING} channels, each used once");
    println!("| | messages/s | store MiB | hub PSS MiB |");
    println!("|---|---|---|---|");
    for round in 1..=3 {
        let began = Instant::now();
        let mut publisher = Publisher::connect(&hub)?;
        for first in (0..PASSING).step_by(BATCH as usize) {
            put(&mut publisher, &hub, |i| format!("demo.passing{round}.{}", first + i))?;
        }
        row(&hub, round, PASSING as f64 / began.elapsed().as_secs_f64())?;
        // They are idle after two seconds.
        std::thread::sleep(Duration::from_secs(5));
        row(&hub, round, 0.0)?;
    }
    Ok(())
}

/// Publishes a batch, each message to a channel of its own.
fn put(publisher: &mut Publisher<'_>, hub: &Hub, channel: impl Fn(u64) -> String) -> anyhow::Result<()> {
    let text = "x".repeat(PAYLOAD - 2);
    let items: Vec<_> =
        (0..BATCH).map(|i| format!("{{\"channel\":\"{}\",\"payload\":\"{text}\"}}", channel(i))).collect();
    let body = format!("{{\"messages\":[{}]}}", items.join(","));
    ensure!(
        publisher.request(|request| hub.post("/api/v1/publish/batch", body.as_bytes(), request))?,
        "a batch is refused"
    );
    Ok(())
}

fn row(hub: &Hub, first: u64, rate: f64) -> anyhow::Result<()> {
    let store = size(&hub.data().context("our own hub")?.join("store"))? as f64 / f64::from(1 << 20);
    let memory = hub.account().memory_kib().context("its memory")? / 1024.0;
    println!("| {first} | {rate:.0} | {store:.0} | {memory:.0} |");
    Ok(())
}

fn size(dir: &Path) -> anyhow::Result<u64> {
    let mut total = 0;
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        let meta = entry.metadata()?;
        total += if meta.is_dir() { size(&entry.path())? } else { meta.len() };
    }
    Ok(total)
}
