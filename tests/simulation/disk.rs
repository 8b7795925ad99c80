//! The store of the simulation: it keeps what it promises, late, and says so when it does not.
//!
//! A crash takes what was not yet safe, from a point on that the dice choose. Numbers of channels with a weaker promise are
//! reserved ahead, as `stores/sled.rs` does it. After a fault it may take nothing until it is mended: then it goes on from what
//! a crash would have left.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use aether::kernel::log::{Appended, Entry, Extent, From, Log, LogError, Page, Policies, Range, Reply};
use aether::kernel::message::{ChannelName, Epoch, Micros, Offset, Publication};
use aether::kernel::policy::{Ack, Policy};
use parking_lot::Mutex;

use super::book::{Book, Class, Life};
use super::dice::Dice;
use super::planted::Planted;
use super::weather::Weather;

/// Numbers reserved at a time.
const RESERVE: u64 = 16;

pub struct Disk {
    book: Book,
    dice: Dice,
    weather: Weather,
    planted: Planted,
    is_kept: bool,
    /// The life that each channel is in, and whether it is open.
    channels: Mutex<BTreeMap<ChannelName, (Epoch, bool)>>,
    /// It takes nothing until it is mended.
    is_broken: AtomicBool,
}

/// What a crash leaves.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Crash {
    /// The process died: what was handed to the operating system stays.
    Kill,
    /// The machine did: what was synced stays.
    Power,
}

impl Disk {
    pub fn new(book: &Book, dice: &Dice, weather: &Weather, planted: Planted, is_kept: bool) -> Arc<Disk> {
        let (book, dice, weather) = (book.clone(), dice.clone(), weather.clone());
        Arc::new(Disk { book, dice, weather, planted, is_kept, channels: Mutex::default(), is_broken: false.into() })
    }

    /// The hub is gone, and this is what the next one finds.
    pub fn crash(&self, how: Crash) {
        self.is_broken.store(false, Ordering::Relaxed);
        if !self.is_kept {
            self.channels.lock().clear();
            return;
        }
        self.find(how);
        self.channels.lock().values_mut().for_each(|(_, is_open)| *is_open = false);
    }

    /// Goes on from what there is.
    fn find(&self, how: Crash) {
        for (name, (epoch, _)) in self.channels.lock().iter() {
            let mut pages = self.book.open();
            let Some(life) = pages.life(name.as_str(), *epoch) else { continue };
            let stays = if how == Crash::Kill { life.written.max(life.synced) } else { life.synced };
            let cut = self.dice.between(stays, life.last);
            life.keys.retain(|_, (offset, _)| *offset <= cut);
            if life.reserved > cut {
                // Readers may have seen them.
                life.lost.push((cut + 1, life.reserved));
                life.last = life.reserved;
            } else {
                life.said.split_off(&(cut + 1));
                life.last = cut;
            }
            // What retention took went in with what is lost now.
            life.floor = life.floor.min(cut + 1);
            (life.written, life.synced, life.reserved) = (life.last, life.last, 0);
            drop(pages);
            self.book.note(format_args!("{name} is found up to {cut}"));
        }
    }

    fn failed(&self, chance: u64, what: &'static str) -> Result<(), LogError> {
        if !self.weather.strikes(chance) {
            return Ok(());
        }
        self.book.count(what);
        self.book.note(format_args!("{what}"));
        Err(LogError(what.into()))
    }

    /// A write, which may fail so that it takes nothing any more.
    fn writes(&self, chance: u64, what: &'static str) -> Result<(), LogError> {
        if self.is_broken.load(Ordering::Relaxed) {
            return Err(LogError("the store takes nothing".into()));
        }
        self.failed(chance, what).inspect_err(|_| self.may_break())
    }

    fn may_break(&self) {
        if self.is_kept && self.weather.strikes(self.weather.chances.store_breaks) {
            self.book.count("the store broke");
            self.book.note(format_args!("the store takes nothing from here on"));
            self.is_broken.store(true, Ordering::Relaxed);
        }
    }

    async fn mend_now(&self) -> Result<bool, LogError> {
        self.weather.delay(self.weather.chances.log_is_slow).await;
        if !self.is_broken.load(Ordering::Relaxed) || self.weather.strikes(50) {
            return Ok(false);
        }
        self.book.count("the store was mended");
        self.book.note(format_args!("the store is mended"));
        self.find(Crash::Power);
        self.is_broken.store(false, Ordering::Relaxed);
        self.weather.delay(self.weather.chances.log_is_slow).await;
        Ok(true)
    }

    fn epoch(&self, channel: &ChannelName) -> Result<Epoch, LogError> {
        match self.channels.lock().get(channel) {
            Some((epoch, true)) => Ok(*epoch),
            _ => Err(LogError(format!("{channel} is not open"))),
        }
    }

    fn with<T>(&self, channel: &ChannelName, act: impl FnOnce(&mut Life) -> T) -> Result<T, LogError> {
        let epoch = self.epoch(channel)?;
        let mut pages = self.book.open();
        let life = pages.life(channel.as_str(), epoch).ok_or_else(|| LogError("it has no life".into()))?;
        Ok(act(life))
    }

    fn open_now(&self, channel: &ChannelName, policy: &Policy) -> Extent {
        let mut channels = self.channels.lock();
        let mut pages = self.book.open();
        let place = channels.entry(channel.clone()).or_insert_with(|| (pages.new_epoch(), false));
        place.1 = true;
        let life = pages.lives.entry((channel.as_str().into(), place.0.0)).or_insert_with(|| Life {
            is_kept: self.is_kept,
            // The least that it ever does.
            promises: if channel.as_str() == "turning" { Ack::Memory } else { policy.ack },
            count: policy.history.and_then(|kept| kept.count),
            age: policy.history.and_then(|kept| kept.age).map(|age| age.as_micros() as Micros),
            said: BTreeMap::new(),
            keys: BTreeMap::new(),
            last: 0,
            floor: 1,
            reserved: 0,
            lost: Vec::new(),
            written: 0,
            synced: 0,
            acked: 0,
            never: (0, 0),
        });
        extent(life, place.0)
    }

    fn append_one(&self, entry: &Entry) -> Result<Appended, LogError> {
        let forgets_keys = self.planted == Planted::KeyIsForgotten && self.dice.percent(30);
        let twice = self.with(&entry.channel, |life| {
            if let Some((offset, time)) = entry.key.as_ref().and_then(|key| life.keys.get(key))
                && !forgets_keys
            {
                return Ok(Appended::Repeat { offset: *offset, time: *time });
            }
            // Under a key that is known nothing is taken twice, whatever the publisher does.
            let known = entry.key.as_ref().is_some_and(|_| {
                life.said.values().any(|p| p.message.payload == entry.message.payload && !life.is_lost(p.offset))
            });
            life.last += 1;
            let (offset, time) = (life.last, entry.time);
            if life.promises != Ack::Synced && life.reserved < offset && life.is_kept {
                life.reserved = offset + RESERVE;
            }
            if let Some(key) = &entry.key {
                life.keys.insert(key.clone(), (offset, time));
            }
            let Entry { message, expires, once, .. } = entry.clone();
            life.said.insert(offset, Publication { offset, time, expires, once, message });
            life.trim(time);
            if known { Err(offset) } else { Ok(Appended::New { offset, time }) }
        })?;
        twice.map_err(|offset| {
            let what = format!("{} {offset}: a repeat under a known key was taken again", entry.channel);
            self.book.breaks(Class::Duplicate, what);
            LogError("taken twice".into())
        })
    }

    fn append_now(&self, batch: &[Entry]) -> Result<Vec<Appended>, LogError> {
        for entry in batch {
            self.epoch(&entry.channel)?;
        }
        let mut appended = batch.iter().map(|entry| self.append_one(entry)).collect::<Result<Vec<_>, _>>()?;
        if self.planted == Planted::NumbersAreExchanged
            && let Some(at) = (1..batch.len()).find(|at| batch[at - 1].channel == batch[*at].channel)
        {
            appended.swap(at - 1, at);
        }
        Ok(appended)
    }

    fn settle_now(&self, ack: Ack, upto: &[(ChannelName, Epoch, Offset)]) {
        if self.planted == Planted::SyncIsForgotten && self.dice.percent(30) {
            return;
        }
        let mut pages = self.book.open();
        for (channel, epoch, last) in upto {
            let Some(life) = pages.life(channel.as_str(), *epoch) else { continue };
            life.written = life.written.max(*last);
            if ack == Ack::Synced {
                life.synced = life.synced.max(*last);
            }
        }
    }

    fn lasts(&self) -> Vec<(ChannelName, Epoch, Offset)> {
        let channels = self.channels.lock();
        let mut pages = self.book.open();
        let last = |(name, (epoch, _)): (&ChannelName, &(Epoch, bool))| {
            Some((name.clone(), *epoch, pages.life(name.as_str(), *epoch)?.last))
        };
        channels.iter().filter_map(last).collect()
    }

    fn read_now(&self, channel: &ChannelName, range: Range) -> Result<Page, LogError> {
        let epoch = self.epoch(channel)?;
        let mut page = self.with(channel, |life| {
            life.trim(range.now);
            let alive =
                |p: &&Publication| life.is_kept && p.expires.is_none_or(|at| at > range.now) && !life.is_lost(p.offset);
            let (publications, more) = match range.from {
                From::After { after, upto } => {
                    let wanted = life.said.range((after + 1).max(life.floor)..).map(|(_, p)| p);
                    take(wanted.filter(|p| p.offset <= upto).filter(alive), range.count)
                }
                From::Before { before } => {
                    let floor = life.floor.min(before);
                    let wanted = life.said.range(floor..before).rev().map(|(_, p)| p);
                    take(wanted.filter(alive), range.count)
                }
            };
            Page { publications, more, extent: extent(life, epoch), lost: life.lost.clone() }
        })?;
        page.publications.sort_by_key(|p| p.offset);
        if self.planted == Planted::PageHasAHole && page.publications.len() > 2 {
            page.publications.remove(1);
        }
        Ok(page)
    }

    /// The hub ended as it should.
    async fn shut_now(&self) -> Result<(), LogError> {
        self.writes(self.weather.chances.settle_fails, "the last sync fails")?;
        self.settle_now(Ack::Synced, &self.lasts());
        let mut channels = self.channels.lock();
        let mut pages = self.book.open();
        for (name, (epoch, is_open)) in channels.iter_mut() {
            *is_open = false;
            if let Some(life) = pages.life(name.as_str(), *epoch) {
                life.reserved = 0;
            }
        }
        if !self.is_kept {
            channels.clear();
        }
        Ok(())
    }
}

fn extent(life: &Life, epoch: Epoch) -> Extent {
    Extent { epoch, first: if life.is_kept { life.floor } else { life.last + 1 }, last: life.last }
}

fn take<'a>(mut wanted: impl Iterator<Item = &'a Publication>, count: usize) -> (Vec<Publication>, bool) {
    let taken: Vec<_> = wanted.by_ref().take(count).cloned().collect();
    let more = wanted.next().is_some();
    (taken, more)
}

impl Log for Disk {
    fn open<'a>(&'a self, channel: &'a ChannelName, policy: &'a Policy) -> Reply<'a, Extent> {
        Box::pin(async move {
            self.weather.delay(self.weather.chances.log_is_slow).await;
            self.failed(self.weather.chances.open_fails, "a channel does not open")?;
            let extent = self.open_now(channel, policy);
            self.weather.delay(self.weather.chances.log_is_slow).await;
            Ok(extent)
        })
    }

    fn append<'a>(&'a self, batch: &'a [Entry]) -> Reply<'a, Vec<Appended>> {
        Box::pin(async move {
            self.weather.delay(self.weather.chances.log_is_slow).await;
            self.writes(self.weather.chances.append_fails, "an append fails")?;
            let appended = self.append_now(batch)?;
            self.weather.delay(self.weather.chances.log_is_slow).await;
            Ok(appended)
        })
    }

    fn settle(&self, ack: Ack) -> Reply<'_, ()> {
        Box::pin(async move {
            let lasts = self.lasts();
            self.weather.delay(self.weather.chances.log_is_slow).await;
            let is_tried = !self.is_broken.load(Ordering::Relaxed);
            let outcome = self.writes(self.weather.chances.settle_fails, "a sync fails");
            // Nobody knows what a sync has done that has failed.
            if outcome.is_ok() || (is_tried && self.dice.percent(50)) {
                self.settle_now(ack, &lasts);
            }
            self.weather.delay(self.weather.chances.log_is_slow).await;
            outcome
        })
    }

    fn read<'a>(&'a self, channel: &'a ChannelName, range: Range) -> Reply<'a, Page> {
        Box::pin(async move {
            self.weather.delay(self.weather.chances.log_is_slow).await;
            self.failed(self.weather.chances.read_fails, "a read fails")?;
            let page = self.read_now(channel, range)?;
            self.book.count("a page was read");
            self.weather.delay(self.weather.chances.log_is_slow).await;
            Ok(page)
        })
    }

    fn forget<'a>(&'a self, channel: &'a ChannelName) -> Reply<'a, Extent> {
        Box::pin(async move {
            self.weather.delay(self.weather.chances.log_is_slow).await;
            self.writes(self.weather.chances.append_fails, "a deletion fails")?;
            let epoch = self.epoch(channel)?;
            self.with(channel, |life| {
                life.floor = life.last + 1;
                extent(life, epoch)
            })
        })
    }

    fn sweep<'a>(&'a self, now: Micros, _policies: Policies<'a>) -> Reply<'a, ()> {
        Box::pin(async move {
            self.writes(self.weather.chances.sweep_fails, "a sweep fails")?;
            let names: Vec<_> =
                self.channels.lock().iter().filter(|(_, place)| place.1).map(|(name, _)| name.clone()).collect();
            names.iter().try_for_each(|name| self.with(name, |life| life.trim(now)))
        })
    }

    fn close(&self, channel: &ChannelName) {
        self.book.count("a channel left memory");
        self.book.note(format_args!("{channel} leaves memory"));
        let mut channels = self.channels.lock();
        if !self.is_kept {
            channels.remove(channel);
        } else if let Some(place) = channels.get_mut(channel) {
            place.1 = false;
        }
    }

    fn failure(&self) -> Option<String> {
        self.is_broken.load(Ordering::Relaxed).then(|| "the store takes nothing".into())
    }

    fn mend(&self) -> Reply<'_, bool> {
        Box::pin(self.mend_now())
    }

    fn shut(&self) -> Reply<'_, ()> {
        Box::pin(self.shut_now())
    }
}
