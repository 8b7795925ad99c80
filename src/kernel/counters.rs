//! What the kernel counts. Gauges are counted where they rise and where a `Drop` lets them fall, so they cannot go negative.

use std::sync::atomic::{AtomicU64, Ordering};

#[derive(Default)]
pub struct Counter(AtomicU64);

impl Counter {
    pub fn add(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }
    pub fn sub(&self, n: u64) {
        self.0.fetch_sub(n, Ordering::Relaxed);
    }
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Upper bounds in seconds; the last bucket is everything.
pub const BUCKETS: [f64; 16] =
    [0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

#[derive(Default)]
pub struct Histogram {
    buckets: [Counter; BUCKETS.len() + 1],
    nanos: Counter,
}

impl Histogram {
    pub fn observe(&self, elapsed: std::time::Duration) {
        let seconds = elapsed.as_secs_f64();
        let bucket = BUCKETS.iter().position(|bound| seconds <= *bound).unwrap_or(BUCKETS.len());
        self.buckets[bucket].add(1);
        self.nanos.add(elapsed.as_nanos() as u64);
    }

    /// Counts per bucket (not cumulative), and the sum in seconds.
    pub fn read(&self) -> ([u64; BUCKETS.len() + 1], f64) {
        (std::array::from_fn(|i| self.buckets[i].get()), self.nanos.get() as f64 / 1e9)
    }
}

#[derive(Default)]
pub struct Counters {
    pub published: Counter,
    pub repeats: Counter,
    pub refused: Counter,
    pub pushed: Counter,
    /// Publications that were turned into bytes: once per format for those in a tail.
    pub encoded: Counter,
    /// Publications that a view made: once per view for those in a tail.
    pub rendered: Counter,
    pub gaps: Counter,
    pub lagged: Counter,
    /// Publications that readers did not get because they lagged.
    pub skipped: Counter,
    /// Publishes whose answer waited for the readers.
    pub held: Counter,
    pub store_reads: Counter,
    pub store_errors: Counter,
    pub groups: Counter,
    pub sessions: Counter,
    pub subscriptions: Counter,
    pub publish_seconds: Histogram,
    pub store_seconds: Histogram,
}
