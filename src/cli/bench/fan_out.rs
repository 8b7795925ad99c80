//! Publishers and subscribers at once: deliveries a second, how long each took, and whether each subscriber has everything.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::bail;
use serde_json::{Value as Json, json};

use super::dial;
use super::histogram::Histogram;
use super::mark::Tally;
use super::progress::Progress;
use super::publisher::{self, Load, Sent};
use super::readers;
use super::target::{Target, Transport};

/// Some servers confirm a subscription a moment before it is one.
const SETTLE: Duration = Duration::from_millis(200);

#[derive(Clone)]
pub struct Shape {
    pub transport: Transport,
    pub channels: usize,
    /// Of each channel.
    pub subscribers: usize,
    pub load: Load,
    /// How long nothing may come before what is missing counts as lost.
    pub patience: Duration,
}

pub struct FanOut {
    pub subscribers: usize,
    pub published: u64,
    pub deliveries: u64,
    pub publishes_per_s: f64,
    pub deliveries_per_s: f64,
    /// From the sending to the subscriber's read.
    pub latency: Histogram,
    /// From the sending to the publisher's yes.
    pub answer: Histogram,
    pub cpu_us_per_delivery: Option<f64>,
    pub memory_kib_per_connection: Option<f64>,
    pub lost: u64,
    pub doubled: u64,
    inexact: usize,
    faults: Vec<String>,
}

/// Runs once. `run` names the channels, so that no run meets another's.
pub fn run(target: &dyn Target, shape: &Shape, run: u64, progress: &Progress) -> anyhow::Result<FanOut> {
    let Shape { transport, load, .. } = shape;
    let channels: Vec<_> = (0..shape.channels).map(|number| target.channel(run, number)).collect();
    let account = target.account();
    let bare = account.memory_kib();
    let lines = dial::subscribers(target, *transport, &channels, shape.subscribers, progress)?;
    let subscribers = lines.len();
    std::thread::sleep(SETTLE);
    let memory = bare.zip(account.memory_kib()).map(|(bare, full)| (full - bare) / subscribers as f64);
    let (sent, so_far, stop) = (Sent::new(channels.len()), AtomicU64::new(0), AtomicBool::new(false));
    let cpu = account.cpu_seconds();
    let began = Instant::now();
    let (seen, answer, publishing) = std::thread::scope(|scope| {
        let reading = scope.spawn(|| readers::read(lines, *transport, channels.len(), &sent, &so_far, shape.patience));
        let publishing = scope.spawn(|| {
            let answer = publisher::run(target, &channels, load, &sent, &stop);
            // Whatever came of it, the readers need not wait for more.
            sent.finish();
            (answer, began.elapsed())
        });
        let text = |_: Duration| {
            let (published, delivered) = (sent.total(), so_far.load(Ordering::Relaxed));
            let seconds = began.elapsed().as_secs_f64();
            format!("{seconds:.1} s: {published} published, {delivered} delivered")
        };
        progress.wait(Duration::MAX, || publishing.is_finished() && reading.is_finished(), text);
        match (reading.join(), publishing.join()) {
            (Ok(seen), Ok((answer, took))) => Ok((seen?, answer?, took)),
            _ => bail!("the load generator panicked"),
        }
    })?;
    progress.clear();
    let spent = cpu.zip(account.cpu_seconds()).map(|(before, after)| after - before);
    let seconds = seen.last.saturating_duration_since(began).as_secs_f64().max(f64::EPSILON);
    let deliveries = seen.deliveries;
    Ok(FanOut {
        subscribers,
        published: sent.total(),
        deliveries,
        publishes_per_s: sent.total() as f64 / publishing.as_secs_f64(),
        deliveries_per_s: deliveries as f64 / seconds,
        latency: seen.latency,
        answer,
        cpu_us_per_delivery: spent.map(|seconds| seconds * 1e6 / deliveries.max(1) as f64),
        memory_kib_per_connection: memory,
        lost: seen.lost,
        doubled: seen.doubled,
        inexact: seen.inexact,
        faults: seen.faults,
    })
}

impl FanOut {
    /// Fails unless every subscriber has every message once.
    pub fn exact(&self) -> anyhow::Result<()> {
        if self.inexact == 0 {
            return Ok(());
        }
        let more = if self.inexact > self.faults.len() { ", ..." } else { "" };
        bail!(
            "{} of {} subscribers have not exactly what was published: {}{more}",
            self.inexact,
            self.subscribers,
            self.faults.join(", ")
        )
    }

    /// The share of deliveries that never came.
    pub fn lost_share(&self) -> f64 {
        self.lost as f64 / (self.lost + self.deliveries).max(1) as f64
    }

    pub fn json(&self) -> Json {
        json!({
            "published": self.published,
            "deliveries": self.deliveries,
            "deliveries_per_s": self.deliveries_per_s,
            "publishes_per_s": self.publishes_per_s,
            "latency": self.latency.json(),
            "answer": self.answer.json(),
            "cpu_us_per_delivery": self.cpu_us_per_delivery,
            "memory_kib_per_connection": self.memory_kib_per_connection,
            "lost": self.lost,
            "doubled": self.doubled,
            "inexact_subscribers": self.inexact,
        })
    }
}

/// Publishers alone.
pub struct Published {
    pub published: u64,
    pub publishes_per_s: f64,
    pub answer: Histogram,
    pub cpu_us_per_publish: Option<f64>,
}

pub fn publish(
    target: &dyn Target,
    load: &Load,
    channels: usize,
    run: u64,
    progress: &Progress,
) -> anyhow::Result<Published> {
    let channels: Vec<_> = (0..channels).map(|number| target.channel(run, number)).collect();
    let (sent, stop) = (Sent::new(channels.len()), AtomicBool::new(false));
    let (account, began) = (target.account(), Instant::now());
    let cpu = account.cpu_seconds();
    let answer = std::thread::scope(|scope| {
        let publishing = scope.spawn(|| publisher::run(target, &channels, load, &sent, &stop));
        let text = |took: Duration| format!("{:.1} s: {} published", took.as_secs_f64(), sent.total());
        progress.wait(Duration::MAX, || publishing.is_finished(), text);
        publishing.join().unwrap_or_else(|_| bail!("the load generator panicked"))
    })?;
    progress.clear();
    let seconds = began.elapsed().as_secs_f64();
    let spent = cpu.zip(account.cpu_seconds()).map(|(before, after)| after - before);
    sent.finish();
    for (channel, Tally { count, .. }) in channels.iter().zip(sent.tallies().unwrap_or_default()) {
        if let Some(numbered) = target.numbered(channel)?.filter(|numbered| *numbered != count) {
            bail!("{channel} should have {count} messages, and its last number is {numbered}");
        }
    }
    let published = sent.total();
    Ok(Published {
        published,
        publishes_per_s: published as f64 / seconds,
        answer,
        cpu_us_per_publish: spent.map(|seconds| seconds * 1e6 / published.max(1) as f64),
    })
}

impl Published {
    pub fn json(&self) -> Json {
        json!({
            "published": self.published,
            "publishes_per_s": self.publishes_per_s,
            "answer": self.answer.json(),
            "cpu_us_per_publish": self.cpu_us_per_publish,
        })
    }
}
