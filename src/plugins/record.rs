//! The latest decisions: every no and a sample of the yeses, with where each came from. Bounded.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

use crate::kernel::message::Micros;

const DENIES: usize = 1000;
const ALLOWS: usize = 200;
/// One yes in so many is kept.
const SAMPLE: u64 = 64;

/// A decision as it was made. It has no credential and no payload in it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Record {
    pub id: String,
    pub time: Micros,
    pub allowed: bool,
    /// `on.subscribe room.{room}`; of several that allowed, the last.
    pub hook: String,
    pub plugin: String,
    /// `file:line`.
    pub place: String,
    pub code: String,
    pub why: String,
    pub channel: String,
    pub user: String,
    pub ip: Option<IpAddr>,
    pub transport: &'static str,
}

/// Which decisions are wanted: those that fit all that is given.
#[derive(Clone, Debug, Default)]
pub struct DecisionFilter {
    pub id: Option<String>,
    pub allowed: Option<bool>,
    pub user: Option<String>,
    pub channel: Option<String>,
    pub plugin: Option<String>,
    pub code: Option<String>,
    pub since: Option<Micros>,
    /// At most so many, the newest.
    pub limit: Option<usize>,
}

impl DecisionFilter {
    fn fits(&self, record: &Record) -> bool {
        let same = |wanted: &Option<String>, is: &str| wanted.as_deref().is_none_or(|wanted| wanted == is);
        same(&self.id, &record.id)
            && same(&self.user, &record.user)
            && same(&self.channel, &record.channel)
            && same(&self.plugin, &record.plugin)
            && same(&self.code, &record.code)
            && self.allowed.is_none_or(|allowed| allowed == record.allowed)
            && self.since.is_none_or(|since| record.time >= since)
    }
}

#[derive(Default)]
pub struct Recorder {
    denies: Mutex<VecDeque<Record>>,
    allows: Mutex<VecDeque<Record>>,
    /// Yeses so far.
    seen: AtomicU64,
}

impl Recorder {
    pub fn deny(&self, record: Record) {
        push(&mut self.denies.lock(), record, DENIES);
    }

    /// Keeps one of many; the record is made only for that one.
    pub fn sample(&self, record: impl FnOnce() -> Record) {
        if self.seen.fetch_add(1, Ordering::Relaxed).is_multiple_of(SAMPLE) {
            push(&mut self.allows.lock(), record(), ALLOWS);
        }
    }

    /// The newest first.
    pub fn find(&self, filter: &DecisionFilter) -> Vec<Record> {
        let mut found: Vec<Record> = self.denies.lock().iter().filter(|record| filter.fits(record)).cloned().collect();
        found.extend(self.allows.lock().iter().filter(|record| filter.fits(record)).cloned());
        found.sort_by_key(|record| std::cmp::Reverse(record.time));
        found.truncate(filter.limit.unwrap_or(usize::MAX));
        found
    }
}

fn push(ring: &mut VecDeque<Record>, record: Record, max: usize) {
    if ring.len() >= max {
        ring.pop_front();
    }
    ring.push_back(record);
}
