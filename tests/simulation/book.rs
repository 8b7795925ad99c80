//! The truth: what every log has taken in, how safe it is, and the first promise that was broken.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::sync::Arc;

use aether::kernel::message::{Epoch, Micros, Offset, Publication};
use aether::kernel::policy::Ack;
use parking_lot::{Mutex, MutexGuard};

use super::weather::{clock, latest};
use super::world::TAIL;

/// What was going on that a failure tells of.
const EVENTS: usize = 60;

/// Which promise was broken.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Class {
    Order,
    Hole,
    Duplicate,
    LostWakeUp,
    /// Seen or acknowledged before it was as safe as its channel promises.
    Unsafe,
    /// Anything else: a gap with a wrong reason, other words, a panic, a task that spins.
    Wrong,
}

#[derive(Clone, Debug)]
pub struct Broken {
    pub class: Class,
    pub what: String,
    /// What happened before, the newest last.
    pub events: Vec<String>,
}

/// One life of a channel's log.
#[derive(Clone, Debug)]
pub struct Life {
    /// Whether it can be read back.
    pub is_kept: bool,
    pub promises: Ack,
    pub count: Option<u64>,
    pub age: Option<Micros>,
    /// All that was ever said in it, also what is gone.
    pub said: BTreeMap<Offset, Publication>,
    pub keys: BTreeMap<Box<str>, (Offset, Micros)>,
    pub last: Offset,
    /// Everything below is gone.
    pub floor: Offset,
    pub reserved: Offset,
    pub lost: Vec<(Offset, Offset)>,
    pub written: Offset,
    pub synced: Offset,
    /// The newest that a publisher was told of.
    pub acked: Offset,
    /// Deleted before anybody could see them: above the first, up to the second.
    pub never: (Offset, Offset),
}

impl Life {
    pub fn trim(&mut self, now: Micros) {
        if let Some(count) = self.count {
            self.floor = self.floor.max((self.last + 1).saturating_sub(count));
        }
        if let Some(age) = self.age {
            let old = self.said.range(self.floor..).take_while(|(_, p)| p.time + age < now).last();
            self.floor = old.map_or(self.floor, |(offset, _)| offset + 1);
        }
        if !self.is_kept {
            self.floor = self.floor.max((self.last + 1).saturating_sub(TAIL as u64));
        }
    }

    pub fn is_lost(&self, offset: Offset) -> bool {
        self.lost.iter().any(|(from, to)| (*from..=*to).contains(&offset))
    }

    /// Whether a reader may be told that it is gone for good.
    pub fn is_gone(&self, offset: Offset) -> bool {
        let expired = |p: &Publication| p.expires.is_some_and(|at| at <= latest());
        // What has outlived its time leaves a tail with all that is older.
        let with_younger = || !self.is_kept && self.said.range(offset..).any(|(_, p)| expired(p));
        offset < self.floor || self.said.get(&offset).is_none_or(expired) || self.is_lost(offset) || with_younger()
    }

    pub fn is_safe(&self, offset: Offset) -> bool {
        match self.promises {
            Ack::Memory => true,
            Ack::Written => offset <= self.written.max(self.synced),
            Ack::Synced => offset <= self.synced,
        }
    }
}

/// Clones are the same book.
#[derive(Clone, Default)]
pub struct Book(Arc<Mutex<Pages>>);

#[derive(Default)]
pub struct Pages {
    pub lives: BTreeMap<(String, u64), Life>,
    epochs: u64,
    broken: Option<Broken>,
    events: VecDeque<String>,
    /// Of all events: two runs of a seed have the same.
    digest: u64,
    tally: BTreeMap<&'static str, u64>,
}

impl Pages {
    pub fn life(&mut self, channel: &str, epoch: Epoch) -> Option<&mut Life> {
        self.lives.get_mut(&(channel.to_owned(), epoch.0))
    }

    pub fn new_epoch(&mut self) -> Epoch {
        self.epochs += 1;
        Epoch(1000 + self.epochs)
    }

    pub fn count(&mut self, what: &'static str) {
        *self.tally.entry(what).or_default() += 1;
    }
}

impl Book {
    pub fn open(&self) -> MutexGuard<'_, Pages> {
        self.0.lock()
    }

    pub fn count(&self, what: &'static str) {
        self.open().count(what);
    }

    pub fn tally(&self) -> BTreeMap<&'static str, u64> {
        self.open().tally.clone()
    }

    pub fn digest(&self) -> u64 {
        self.open().digest
    }

    /// Something happened that a failure should tell of.
    pub fn note(&self, what: fmt::Arguments<'_>) {
        let line = format!("{:>12} {what}", clock() % 1_000_000_000_000);
        if std::env::var_os("AETHER_SIM_TRACE").is_some() {
            eprintln!("{line}");
        }
        let mut pages = self.open();
        for byte in line.bytes() {
            pages.digest = (pages.digest ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
        pages.events.push_back(line);
        if pages.events.len() > EVENTS {
            pages.events.pop_front();
        }
    }

    /// A promise is broken; the first one counts.
    pub fn breaks(&self, class: Class, what: impl fmt::Display) {
        let mut pages = self.open();
        if pages.broken.is_none() {
            let events = pages.events.iter().cloned().collect();
            pages.broken = Some(Broken { class, what: what.to_string(), events });
        }
    }

    pub fn is_broken(&self) -> bool {
        self.open().broken.is_some()
    }

    pub fn broken(&self) -> Option<Broken> {
        self.open().broken.clone()
    }

    /// A publication is made into bytes for readers: they will see it.
    pub fn shown(&self, channel: &str, epoch: Epoch, publication: &Publication) {
        let mut pages = self.open();
        let offset = publication.offset;
        let broken = match pages.life(channel, epoch) {
            None => Some((Class::Wrong, "of a life that never was".to_owned())),
            Some(life) if !life.said.contains_key(&offset) => Some((Class::Wrong, "was never said".to_owned())),
            Some(life) if life.never.0 < offset && offset <= life.never.1 => {
                Some((Class::Wrong, "is shown, and was deleted before".to_owned()))
            }
            Some(life) if !life.is_safe(offset) => Some((
                Class::Unsafe,
                format!("is shown and not yet {:?}: written {}, synced {}", life.promises, life.written, life.synced),
            )),
            Some(_) => None,
        };
        drop(pages);
        if let Some((class, what)) = broken {
            self.breaks(class, format!("{channel} {epoch} {offset} {what}"));
        }
    }

    /// Somebody was told that a channel is deleted, when it had been shown up to `head`.
    pub fn deleted(&self, channel: &str, epoch: Epoch, head: Offset) {
        let mut pages = self.open();
        pages.count("a channel was deleted");
        if let Some(life) = pages.life(channel, epoch) {
            life.never = (head, life.floor.saturating_sub(1));
        }
    }

    /// A publisher was told that its message has this place.
    pub fn acknowledged(&self, channel: &str, epoch: Epoch, offset: Offset, payload: &str, duplicate: bool) {
        let mut pages = self.open();
        let Some(life) = pages.life(channel, epoch) else {
            drop(pages);
            return self.breaks(Class::Wrong, format!("{channel} {epoch} {offset} was acknowledged and never was"));
        };
        life.acked = life.acked.max(offset);
        let said = life.said.get(&offset).map(|p| p.message.payload.clone());
        let is_safe = life.is_safe(offset);
        let broken = match said {
            None => Some((Class::Hole, "was acknowledged and is not in the log".to_owned())),
            Some(_) if !is_safe => Some((Class::Unsafe, "was acknowledged before it was safe".to_owned())),
            Some(said) if !said.is_empty() && said != payload => {
                Some((Class::Order, format!("was acknowledged for {payload}, and the log has {said:?} there")))
            }
            Some(_) => None,
        };
        if duplicate {
            pages.count("a repeat was recognised");
        }
        drop(pages);
        if let Some((class, what)) = broken {
            self.breaks(class, format!("{channel} {epoch} {offset} {what}"));
        }
    }
}
