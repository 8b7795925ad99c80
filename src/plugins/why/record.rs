//! The latest decisions: every no and a sample of the yeses, with where each came from. Bounded.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

use super::evidence::Evidence;
use super::trace::{self, Concluded};
use crate::kernel::message::Micros;

const DENIES: usize = 1000;
const ALLOWS: usize = 200;
/// What either ring may hold with its evidence; the oldest go.
const BYTES: usize = 8 << 20;
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
    denies: Mutex<Ring>,
    allows: Mutex<Ring>,
    /// Yeses so far.
    seen: AtomicU64,
}

#[derive(Default)]
struct Ring {
    kept: VecDeque<Kept>,
    weight: usize,
}

/// A decision, and what it was made from if that is known.
#[derive(Clone)]
pub struct Kept {
    pub record: Record,
    pub evidence: Option<Arc<Evidence>>,
    weight: usize,
}

impl Recorder {
    /// Whoever follows the decision keeps it with its evidence; else it is kept alone.
    pub fn deny(&self, record: Record) {
        if let Some(Concluded { record, .. }) = trace::conclude(Concluded { record, kept: true }) {
            self.keep(record, None);
        }
    }

    /// Keeps one of many; the record is made only for that one, or if somebody wants all.
    pub fn sample(&self, record: impl FnOnce() -> Record) {
        let rehearsal = trace::is_rehearsal();
        let kept = !rehearsal && self.seen.fetch_add(1, Ordering::Relaxed).is_multiple_of(SAMPLE);
        if !kept && !trace::wants_every() {
            return;
        }
        if let Some(Concluded { record, kept: true }) = trace::conclude(Concluded { record: record(), kept }) {
            self.keep(record, None);
        }
    }

    pub fn keep(&self, record: Record, evidence: Option<Arc<Evidence>>) {
        let (ring, max) = if record.allowed { (&self.allows, ALLOWS) } else { (&self.denies, DENIES) };
        let texts =
            [&record.hook, &record.plugin, &record.place, &record.code, &record.why, &record.channel, &record.user];
        let weight = 256
            + texts.iter().map(|text| text.len()).sum::<usize>()
            + evidence.as_ref().map_or(0, |evidence| evidence.weight());
        ring.lock().push(Kept { record, evidence, weight }, max);
    }

    /// The newest first.
    pub fn find(&self, filter: &DecisionFilter) -> Vec<Kept> {
        let mut found = Vec::new();
        for ring in [&self.denies, &self.allows] {
            // The newest first among those of one moment, too.
            found.extend(ring.lock().kept.iter().rev().filter(|kept| filter.fits(&kept.record)).cloned());
        }
        found.sort_by_key(|kept| std::cmp::Reverse(kept.record.time));
        found.truncate(filter.limit.unwrap_or(usize::MAX));
        found
    }
}

impl Ring {
    fn push(&mut self, kept: Kept, max: usize) {
        self.weight += kept.weight;
        self.kept.push_back(kept);
        while self.kept.len() > max || (self.weight > BYTES && self.kept.len() > 1) {
            let Some(oldest) = self.kept.pop_front() else { break };
            self.weight -= oldest.weight;
        }
    }
}
