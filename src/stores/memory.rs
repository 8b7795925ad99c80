//! A log that lives in memory: it numbers the channels that keep no history, and nothing of it touches a disk.
//!
//! A channel that leaves memory is forgotten with its numbers; if it comes back, it begins a new epoch.

use std::collections::VecDeque;
use std::future::ready;
use std::sync::Arc;
use std::time::Duration;

use dashmap::DashMap;
use parking_lot::Mutex;
use rustc_hash::FxHashMap;

use super::new_epoch;
use crate::kernel::log::{Appended, Entry, Extent, From, Log, LogError, Page, Policies, Range, Reply};
use crate::kernel::message::{ChannelName, Epoch, Micros, Offset, Publication};
use crate::kernel::policy::{Ack, Policy, Retention};

/// Idempotency keys a channel remembers; beyond, the oldest are forgotten before their time.
const KEYS: usize = 10_000;

pub struct MemoryLog {
    channels: DashMap<ChannelName, Arc<Mutex<Kept>>>,
    window: Duration,
    first: Offset,
}

struct Kept {
    epoch: Epoch,
    last: Offset,
    retention: Option<Retention>,
    publications: VecDeque<Publication>,
    bytes: u64,
    keys: FxHashMap<Box<str>, (Offset, Micros)>,
    /// The keys in the order of their age.
    ages: VecDeque<(Micros, Box<str>)>,
}

impl MemoryLog {
    /// `window`: how long idempotency keys are remembered.
    pub fn new(window: Duration) -> Self {
        MemoryLog { channels: DashMap::new(), window, first: 1 }
    }

    /// Channels begin with this number, at least 1.
    pub fn beginning_at(self, first: Offset) -> Self {
        MemoryLog { first: first.max(1), ..self }
    }

    fn kept(&self, channel: &ChannelName) -> Result<Arc<Mutex<Kept>>, LogError> {
        let known = self.channels.get(channel).map(|kept| kept.clone());
        known.ok_or_else(|| LogError(format!("{channel} is not open")))
    }

    fn append_now(&self, batch: &[Entry]) -> Result<Vec<Appended>, LogError> {
        let channels: Vec<_> = batch.iter().map(|entry| self.kept(&entry.channel)).collect::<Result<_, _>>()?;
        Ok(channels.iter().zip(batch).map(|(kept, entry)| kept.lock().append(entry, self.window)).collect())
    }
}

impl Kept {
    fn extent(&self) -> Extent {
        let first = self.publications.front().map_or(self.last + 1, |p| p.offset);
        Extent { epoch: self.epoch, first, last: self.last }
    }

    fn append(&mut self, entry: &Entry, window: Duration) -> Appended {
        self.forget_keys(entry.time, window);
        if let Some((offset, time)) = entry.key.as_ref().and_then(|key| self.keys.get(key)) {
            return Appended::Repeat { offset: *offset, time: *time };
        }
        self.last += 1;
        let (offset, time) = (self.last, entry.time);
        if let Some(key) = &entry.key {
            self.keys.insert(key.clone(), (offset, time));
            self.ages.push_back((time, key.clone()));
        }
        if self.retention.is_some() {
            self.bytes += entry.message.weight() as u64;
            self.publications.push_back(Publication {
                offset,
                time,
                expires: entry.expires,
                once: entry.once,
                message: entry.message.clone(),
            });
            self.trim(time);
        }
        Appended::New { offset, time }
    }

    fn forget_keys(&mut self, now: Micros, window: Duration) {
        let dead = now.saturating_sub(window.as_micros() as Micros);
        while self.ages.len() > KEYS || self.ages.front().is_some_and(|(time, _)| *time < dead) {
            if let Some((_, key)) = self.ages.pop_front() {
                self.keys.remove(&key);
            }
        }
    }

    fn trim(&mut self, now: Micros) {
        let Some(retention) = self.retention else { return };
        while let Some(oldest) = self.publications.front() {
            let is_newest = self.publications.len() == 1;
            let too_many = retention.count.is_some_and(|count| self.publications.len() as u64 > count);
            let too_big = !is_newest && retention.bytes.is_some_and(|bytes| self.bytes > bytes);
            let too_old = retention.age.is_some_and(|age| oldest.time + (age.as_micros() as Micros) < now);
            if !(too_many || too_big || too_old) {
                return;
            }
            self.bytes -= oldest.message.weight() as u64;
            self.publications.pop_front();
        }
    }

    fn read(&mut self, range: Range) -> Page {
        self.trim(range.now);
        let alive = |p: &&Publication| p.expires.is_none_or(|at| at > range.now);
        let (mut publications, more) = match range.from {
            From::After { after, upto } => {
                let wanted = self.publications.iter().filter(|p| p.offset > after && p.offset <= upto);
                take(wanted.filter(alive), range)
            }
            From::Before { before } => {
                let wanted = self.publications.iter().rev().filter(|p| p.offset < before);
                take(wanted.filter(alive), range)
            }
        };
        publications.sort_by_key(|p| p.offset);
        Page { publications, more, extent: self.extent(), lost: Vec::new() }
    }
}

fn take<'a>(mut wanted: impl Iterator<Item = &'a Publication>, range: Range) -> (Vec<Publication>, bool) {
    let (mut taken, mut bytes) = (Vec::new(), 0);
    for publication in wanted.by_ref() {
        if taken.len() == range.count || (bytes > 0 && bytes >= range.bytes) {
            return (taken, true);
        }
        bytes += publication.message.weight();
        taken.push(publication.clone());
    }
    (taken, false)
}

impl Log for MemoryLog {
    fn open<'a>(&'a self, channel: &'a ChannelName, policy: &'a Policy) -> Reply<'a, Extent> {
        let kept = self.channels.entry(channel.clone()).or_insert_with(|| {
            Arc::new(Mutex::new(Kept {
                epoch: new_epoch(),
                last: self.first - 1,
                retention: policy.history,
                publications: VecDeque::new(),
                bytes: 0,
                keys: FxHashMap::default(),
                ages: VecDeque::new(),
            }))
        });
        let mut kept = kept.lock();
        if kept.retention.is_some() && policy.history.is_some() {
            kept.retention = policy.history;
        }
        Box::pin(ready(Ok(kept.extent())))
    }

    fn append<'a>(&'a self, batch: &'a [Entry]) -> Reply<'a, Vec<Appended>> {
        Box::pin(ready(self.append_now(batch)))
    }

    fn settle(&self, _ack: Ack) -> Reply<'_, ()> {
        Box::pin(ready(Ok(())))
    }

    fn read<'a>(&'a self, channel: &'a ChannelName, range: Range) -> Reply<'a, Page> {
        Box::pin(ready(self.kept(channel).map(|kept| kept.lock().read(range))))
    }

    fn forget<'a>(&'a self, channel: &'a ChannelName) -> Reply<'a, Extent> {
        Box::pin(ready(self.kept(channel).map(|kept| {
            let mut kept = kept.lock();
            kept.publications.clear();
            kept.bytes = 0;
            kept.extent()
        })))
    }

    fn sweep<'a>(&'a self, now: Micros, _policies: Policies<'a>) -> Reply<'a, ()> {
        for kept in &self.channels {
            let mut kept = kept.lock();
            kept.trim(now);
            kept.forget_keys(now, self.window);
        }
        Box::pin(ready(Ok(())))
    }

    fn close(&self, channel: &ChannelName) {
        self.channels.remove_if(channel, |_, kept| kept.lock().retention.is_none());
    }

    fn shut(&self) -> Reply<'_, ()> {
        Box::pin(ready(Ok(())))
    }
}
