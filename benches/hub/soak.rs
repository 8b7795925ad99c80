//! Ten million messages through channels that keep a thousand each, then a hundred thousand channels that come and go: what
//! stays on disk and in memory.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::process::{HubProcess, Publisher};
use super::{Outcome, PAYLOAD};

const MESSAGES: u64 = 10_000_000;
const CHANNELS: u64 = 100;
const BATCH: u64 = 1000;
const PUBLISHERS: u64 = 4;
const PASSING: u64 = 100_000;

pub fn soak() -> Outcome {
    let messages = std::env::var("SOAK_MESSAGES").ok().and_then(|n| n.parse().ok()).unwrap_or(MESSAGES);
    let hub = HubProcess::start_with(&[
        ("AETHER_RETENTION_DEFAULT_MAX_COUNT", "1000"),
        ("AETHER_PUBLISH_MAX_BATCH", "1000"),
        ("AETHER_CHANNELS_IDLE_AFTER", "2s"),
    ])?;
    println!(
        "\nsoak: {messages} messages of {PAYLOAD} B through {CHANNELS} channels that keep 1,000 each, batches of {BATCH}"
    );
    println!("| messages | messages/s | store MiB | hub PSS MiB |");
    println!("|---|---|---|---|");
    let next = Arc::new(AtomicU64::new(0));
    let began = Instant::now();
    let workers: Vec<_> = (0..PUBLISHERS)
        .map(|_| {
            let mut publisher = Publisher::connect(&hub)?;
            let next = next.clone();
            Ok(std::thread::spawn(move || -> Outcome {
                loop {
                    let batch = next.fetch_add(1, Ordering::Relaxed);
                    if batch * BATCH >= messages {
                        return Ok(());
                    }
                    publisher.batch(&body(|i| format!("demo.soak{}", (batch + i) % CHANNELS)))?;
                }
            }))
        })
        .collect::<Outcome<_>>()?;
    for tenth in 1..=10 {
        while next.load(Ordering::Relaxed) * BATCH < messages * tenth / 10 {
            if workers.iter().any(|worker| worker.is_finished()) {
                break;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        let sent = (next.load(Ordering::Relaxed) * BATCH).min(messages);
        row(&hub, sent, sent as f64 / began.elapsed().as_secs_f64())?;
    }
    for worker in workers {
        worker.join().map_err(|_| "a publisher panicked")??;
    }

    println!("\nthen {PASSING} channels, each used once");
    println!("| | messages/s | store MiB | hub PSS MiB |");
    println!("|---|---|---|---|");
    for round in 1..=3 {
        let began = Instant::now();
        let mut publisher = Publisher::connect(&hub)?;
        for first in (0..PASSING).step_by(BATCH as usize) {
            publisher.batch(&body(|i| format!("demo.passing{round}.{}", first + i)))?;
        }
        row(&hub, round, PASSING as f64 / began.elapsed().as_secs_f64())?;
        // They are idle after two seconds.
        std::thread::sleep(Duration::from_secs(5));
        row(&hub, round, 0.0)?;
    }
    Ok(())
}

fn body(channel: impl Fn(u64) -> String) -> String {
    let text = "x".repeat(PAYLOAD - 2);
    let items: Vec<_> =
        (0..BATCH).map(|i| format!("{{\"channel\":\"{}\",\"payload\":\"{text}\"}}", channel(i))).collect();
    format!("{{\"messages\":[{}]}}", items.join(","))
}

fn row(hub: &HubProcess, first: u64, rate: f64) -> Outcome {
    let store = size(&hub.dir.join("store"))? as f64 / f64::from(1 << 20);
    println!("| {first} | {rate:.0} | {store:.0} | {:.0} |", hub.pss_kib()? / 1024.0);
    Ok(())
}

fn size(dir: &Path) -> Outcome<u64> {
    let mut total = 0;
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        let meta = entry.metadata()?;
        total += if meta.is_dir() { size(&entry.path())? } else { meta.len() };
    }
    Ok(total)
}
