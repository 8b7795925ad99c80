//! The embedded default: one directory, no service. `group` writes, `reading` reads, `sweep` deletes.
//!
//! | tree | key | value |
//! |---|---|---|
//! | `heads` | channel's name | its number, and how far its offsets have gone: outlives its messages |
//! | `messages` | channel's number, last offset in the block (both big-endian) | a block of publications: `pieces` |
//! | `keys` | hash of channel's number and idempotency key | offset, time, until when |
//! | `key_ages` | until when (big-endian), hash | nothing |
//! | `meta` | `format`, `epoch`, `ended`, `noted` | `life` and `journal` say what for |
//! | `kv` | what rules keep | their values: `kv` |
//!
//! One lane writes. A group becomes one block per channel, a note in the `journal`, and one `fdatasync` of that; `pages` brings
//! sled's own files to the disk now and then. Messages and their idempotency keys go in as one transaction: a crash takes both or
//! neither.
//!
//! A channel whose policy acknowledges before `fdatasync` has offsets reserved ahead in its head: after a crash it goes on
//! behind them, so that a number that somebody has seen is never given to another message.

mod changes;
mod disk;
mod group;
mod journal;
mod mending;
mod opening;
mod pages;
mod pieces;
mod reading;
mod replay;
mod sweep;

pub use disk::{Disk, RealDisk};
pub use opening::OpenError;

use std::cell::Cell;
use std::collections::hash_map::Entry as MapEntry;
use std::convert::Infallible;
use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::ops::RangeBounds;
use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Once};
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use dashmap::DashMap;
use parking_lot::{Mutex, RwLock};
use rustc_hash::{FxHashMap, FxHashSet};
use sha2::{Digest, Sha256};
use sled::transaction::{ConflictableTransactionError, TransactionError, Transactional};
use sled::{Batch, Db, IVec, Tree};
use tokio::sync::Semaphore;

use changes::{Changes, In, Trees};
use journal::Journal;
use mending::{Failure, Repair, Room};
use opening::Home;
use pages::Pages;

use super::kv::SledKv;
use super::life::Life;
use super::{block, new_epoch};
use crate::kernel::log::{Appended, Entry, Extent, From, Log, LogError, Page, Policies, Range, Reply};
use crate::kernel::message::{ChannelName, Epoch, Micros, Offset, Publication};
use crate::kernel::policy::{Ack, Policy, Retention};

const FORMAT: &[u8] = b"aether-log-2";
/// The same without a journal.
const FORMAT_BEFORE: &[u8] = b"aether-log-1";
/// Which number of the journal sled has come to.
const NOTED: &str = "noted";
/// A block's bounds: most are one piece.
const BLOCK_COUNT: usize = 512;
const BLOCK_BYTES: usize = 6 * 1024;
/// Offsets that a channel with a weaker ack reserves at a time.
const RESERVE: u64 = 4096;
/// Stretches taken by crashes that a channel remembers.
const LOST: usize = 16;
/// Blocks that one append deletes at most, so that a group stays short.
const TRIM_BLOCKS: usize = 4096;
/// More than the resolution of a file system's clock.
const TICK: Duration = Duration::from_millis(100);
/// How long a slice of housekeeping may take.
const SWEEP_BUDGET: Duration = Duration::from_millis(10);
/// How long a store that is in use is waited for.
const LOCK_PATIENCE: Duration = Duration::from_secs(2);
/// Reads that run at once: they are short, and more threads than this only wait for each other.
const READERS: usize = 8;

#[derive(Clone)]
pub struct SledLog(Arc<Store>);

/// A store, through all its openings.
struct Store {
    home: Arc<Home>,
    /// None where it could not be opened again yet. Locked while it is opened again: who reads waits for that.
    current: RwLock<Option<Arc<Inner>>>,
    failure: Mutex<Option<Failure>>,
    repair: Mutex<Repair>,
    room: Mutex<Room>,
    readers: Semaphore,
}

/// One opening of it.
struct Inner {
    home: Arc<Home>,
    db: Db,
    trees: Trees,
    journal: Journal,
    pages: Arc<Pages>,
    epoch: Epoch,
    window: Micros,
    /// The channels that somebody uses: the kernel closes those that nobody does.
    open: DashMap<ChannelName, Arc<Mutex<Open>>>,
    /// How many groups have been appended, and how many of them are on disk.
    groups: AtomicU64,
    safe_groups: AtomicU64,
    /// Where the sweep through all channels goes on.
    sweep_from: Mutex<Option<Vec<u8>>>,
}

/// A channel that somebody uses.
struct Open {
    /// None until its first message.
    number: Option<u64>,
    last: Offset,
    /// Everything below has been deleted.
    floor: Offset,
    /// Blocks below have been deleted from the tree.
    trimmed: Offset,
    /// Offsets given out ahead, for a weaker ack; 0 if none.
    reserved: Offset,
    lost: Vec<(Offset, Offset)>,
    retention: Retention,
    weak: bool,
    /// What its blocks weigh; counted only where the policy bounds it.
    bytes: u64,
    /// The group that it has grown with last, and where it ended before that.
    group: u64,
    before: Offset,
}

/// A head as it lies in the store.
#[derive(Clone, Default)]
struct Head {
    number: u64,
    last: Offset,
    floor: Offset,
    reserved: Offset,
    lost: Vec<(Offset, Offset)>,
}

impl Head {
    fn to_bytes(&self) -> Vec<u8> {
        let lost = self.lost.iter().flat_map(|(from, to)| [*from, *to]);
        let words = [self.number, self.last, self.floor, self.reserved].into_iter().chain(lost);
        words.flat_map(u64::to_be_bytes).collect()
    }

    fn from_bytes(bytes: &[u8]) -> Result<Head, LogError> {
        let words: Vec<u64> = bytes.chunks_exact(8).map(be).collect();
        let [number, last, floor, reserved, lost @ ..] = &words[..] else {
            return Err(LogError("a channel's head is damaged".into()));
        };
        let lost = lost.chunks_exact(2).map(|pair| (pair[0], pair[1])).collect();
        Ok(Head { number: *number, last: *last, floor: *floor, reserved: *reserved, lost })
    }
}

impl Open {
    fn new(first: Offset, retention: Retention, weak: bool) -> Open {
        Open {
            number: None,
            last: first - 1,
            floor: first,
            trimmed: first,
            reserved: 0,
            lost: Vec::new(),
            retention,
            weak,
            bytes: 0,
            group: 0,
            before: first - 1,
        }
    }

    /// The oldest offset that the policy still lets anyone see.
    fn first(&self) -> Offset {
        let by_count = self.retention.count.map_or(1, |count| (self.last + 1).saturating_sub(count));
        self.floor.max(by_count)
    }

    fn extent(&self, epoch: Epoch) -> Extent {
        Extent { epoch, first: self.first(), last: self.last }
    }

    fn head(&self, number: u64) -> Head {
        Head { number, last: self.last, floor: self.floor, reserved: self.reserved, lost: self.lost.clone() }
    }
}

impl SledLog {
    /// `window`: how long idempotency keys are remembered.
    pub fn open(path: &Path, cache: u64, flush_interval: Duration, window: Duration) -> Result<SledLog, OpenError> {
        SledLog::open_on(Arc::new(RealDisk), path, cache, flush_interval, window)
    }

    pub fn open_on(
        disk: Arc<dyn Disk>,
        path: &Path,
        cache: u64,
        flush_interval: Duration,
        window: Duration,
    ) -> Result<SledLog, OpenError> {
        let home = Arc::new(Home {
            path: path.to_owned(),
            cache,
            flush_interval,
            window,
            disk,
            first: AtomicU64::new(1),
            spare: AtomicU64::new(0),
            syncs: AtomicU64::new(0),
        });
        let inner = Inner::open_patiently(&home)?;
        let store = Arc::new(Store {
            home,
            current: RwLock::new(Some(Arc::new(inner))),
            failure: Mutex::default(),
            repair: Mutex::default(),
            room: Mutex::default(),
            readers: Semaphore::new(READERS),
        });
        mending::wake_the_stuck(&store).map_err(|error| OpenError::Io(path.to_owned(), error))?;
        Ok(SledLog(store))
    }

    /// Channels that have no message yet begin with this number, at least 1.
    pub fn begin_at(&self, first: Offset) {
        self.0.home.first.store(first.max(1), Ordering::Relaxed);
    }

    /// Publishes leave that many bytes of the disk alone: what is stored can then still be trimmed and closed.
    pub fn spare(&self, bytes: u64) {
        self.0.home.spare.store(bytes, Ordering::Relaxed);
    }

    /// What rules keep, beside the log.
    pub fn kv(&self) -> SledKv {
        SledKv { log: self.clone() }
    }

    /// Comes back when everything that was written before is on disk.
    pub fn sync(&self) -> Result<(), LogError> {
        self.write(Inner::sync)
    }

    /// How often the journal has been synced.
    pub fn syncs(&self) -> u64 {
        self.0.home.syncs.load(Ordering::Relaxed)
    }

    /// Writes, unless an earlier write has failed.
    fn write<T>(&self, write: impl FnOnce(&Inner) -> Result<T, LogError>) -> Result<T, LogError> {
        self.0.write(write)
    }

    pub(super) fn read_rules<T>(&self, read: impl FnOnce(&Tree) -> Result<T, LogError>) -> Result<T, LogError> {
        read(&self.0.inner()?.trees.kv)
    }

    /// None: what lies under the key goes.
    pub(super) fn write_rules(&self, key: &[u8], value: Option<&[u8]>) -> Result<(), LogError> {
        self.0.find_room((key.len() + value.map_or(0, <[u8]>::len)) as u64)?;
        let mut changes = Changes::default();
        match value {
            Some(value) => changes.put(In::Kv, key, value),
            None => changes.remove(In::Kv, key),
        }
        self.write(|inner| {
            inner.change(&changes)?;
            tidy(&inner.trees.kv, key..)
        })
    }

    pub fn size_on_disk(&self) -> u64 {
        let Ok(inner) = self.0.inner() else { return 0 };
        inner.db.size_on_disk().unwrap_or(0) + inner.journal.size_on_disk()
    }
}

impl Inner {
    fn open_channel(&self, name: &ChannelName, policy: &Policy) -> Result<Extent, LogError> {
        if let Some(open) = self.open.get(name).map(|open| open.clone()) {
            let mut open = open.lock();
            self.retain(&mut open, policy)?;
            return Ok(open.extent(self.epoch));
        }
        let retention = policy.history.unwrap_or(Retention { count: Some(0), age: None, bytes: None });
        let first = self.home.first.load(Ordering::Relaxed);
        let mut open = Open::new(first, retention, policy.ack != Ack::Synced);
        if let Some(stored) = self.trees.heads.get(name.as_str()).map_err(failed)? {
            self.recover(name, &mut open, Head::from_bytes(&stored)?, 0)?;
        }
        let extent = open.extent(self.epoch);
        self.open.insert(name.clone(), Arc::new(Mutex::new(open)));
        Ok(extent)
    }

    /// Finds out how far a channel reached when it was last used. `seen`: what we know somebody to have seen.
    fn recover(&self, name: &ChannelName, open: &mut Open, head: Head, seen: Offset) -> Result<(), LogError> {
        // Pieces without a head are what a crash has left of a block that was never whole.
        let keys = self.trees.messages.range(block_keys(head.number, 0)).keys().rev();
        let mut heads = keys.filter(|key| key.as_ref().map_or(true, |key| pieces::is_head(key)));
        let newest = heads.next().transpose().map_err(failed)?;
        let stored = newest.map_or(0, |key| offset_of(&key));
        open.number = Some(head.number);
        open.floor = head.floor.max(1);
        open.trimmed = open.floor;
        open.last = head.last.max(stored);
        open.lost = head.lost;
        let given = head.reserved.max(seen);
        if given > open.last {
            // It was not closed properly: numbers up to the reserve may have been seen by readers.
            open.lost.push((open.last + 1, given));
            let first = open.floor;
            open.lost.retain(|(_, to)| *to >= first);
            // Beyond, the oldest are called evicted.
            let surplus = open.lost.len().saturating_sub(LOST);
            open.lost.drain(..surplus);
            open.last = given;
            self.write_head(name, open)?;
        }
        if open.retention.bytes.is_some() {
            self.weigh(open)?;
        }
        Ok(())
    }

    /// Another policy for a channel in use.
    fn retain(&self, open: &mut Open, policy: &Policy) -> Result<(), LogError> {
        // Numbers reserved ahead harm nobody, and a publish with the weaker promise may still be on its way.
        open.weak |= policy.ack != Ack::Synced;
        let Some(retention) = policy.history.filter(|retention| *retention != open.retention) else { return Ok(()) };
        let weighed = open.retention.bytes.is_some();
        // What the old count no longer showed stays unseen, though it may not be deleted yet.
        open.floor = open.first();
        open.retention = retention;
        if retention.bytes.is_some() && !weighed {
            self.weigh(open)?;
        }
        Ok(())
    }

    fn weigh(&self, open: &mut Open) -> Result<(), LogError> {
        open.bytes = 0;
        let Some(number) = open.number else { return Ok(()) };
        for entry in self.trees.messages.range(block_keys(number, open.first())) {
            open.bytes += entry.map_err(failed)?.1.len() as u64;
        }
        Ok(())
    }

    fn write_head(&self, name: &ChannelName, open: &Open) -> Result<(), LogError> {
        let Some(number) = open.number else { return Ok(()) };
        let mut changes = Changes::default();
        changes.put(In::Heads, name.as_str(), open.head(number).to_bytes());
        self.change(&changes)
    }

    /// Every change of the trees goes one of these two ways.
    fn change(&self, changes: &Changes) -> Result<(), LogError> {
        self.note_and(changes, || changes.one_by_one(&self.trees))
    }

    fn change_at_once(&self, changes: &Changes) -> Result<(), LogError> {
        self.note_and(changes, || changes.at_once(&self.trees))
    }

    fn note_and(&self, changes: &Changes, act: impl FnOnce() -> Result<(), LogError>) -> Result<(), LogError> {
        if changes.is_empty() {
            return Ok(());
        }
        self.journal.note(changes, |number| {
            act()?;
            self.trees.has_come_to(number)
        })
    }

    fn channel(&self, name: &ChannelName) -> Result<Arc<Mutex<Open>>, LogError> {
        let open = self.open.get(name).map(|open| open.clone());
        open.ok_or_else(|| LogError(format!("{name} is not open")))
    }

    fn settle(&self, ack: Ack) -> Result<(), LogError> {
        match ack {
            Ack::Memory => Ok(()),
            Ack::Written => self.journal.write(),
            Ack::Synced => self.sync(),
        }
    }

    fn sync(&self) -> Result<(), LogError> {
        let groups = self.groups.load(Ordering::Relaxed);
        self.pages.sync_large()?;
        if self.journal.sync()? {
            self.home.syncs.fetch_add(1, Ordering::Relaxed);
        }
        self.safe_groups.fetch_max(groups, Ordering::Relaxed);
        Ok(())
    }

    /// A weaker ack's reserve is given back: nothing was lost.
    fn close(&self, name: &ChannelName) -> Result<(), LogError> {
        let Some((_, channel)) = self.open.remove(name) else { return Ok(()) };
        let mut open = channel.lock();
        if open.reserved > 0 {
            open.reserved = open.last;
            self.write_head(name, &open)?;
        }
        Ok(())
    }

    fn shut(&self) -> Result<(), LogError> {
        let names: Vec<_> = self.open.iter().map(|entry| entry.key().clone()).collect();
        for name in names {
            self.close(&name)?;
        }
        self.sync()?;
        self.journal.end()?;
        let mark = new_epoch().0;
        self.trees.meta.insert("ended", &mark.to_be_bytes()).map_err(failed)?;
        self.pages.sync()?;
        let life = Life { epoch: self.epoch, ended: Some(mark) };
        let unmarked = |error| LogError(format!("the mark of a proper end: {error}"));
        life.write(&self.home.path).map_err(unmarked)?;
        journal::remove(&self.home.path).map_err(unmarked)
    }
}

/// sled divides a page that has become too large, or joins one that has become too small, when somebody next comes by, even to
/// read: if the disk failed by then nobody could read it. So somebody comes by at once.
pub(super) fn tidy<K: AsRef<[u8]>>(tree: &Tree, keys: impl RangeBounds<K>) -> Result<(), LogError> {
    tree.range(keys).next().transpose().map(drop).map_err(failed)
}

fn damaged(name: &ChannelName) -> LogError {
    LogError(format!("a block of {name} is damaged"))
}

fn failed(error: sled::Error) -> LogError {
    LogError(error.to_string())
}

fn be(bytes: &[u8]) -> u64 {
    bytes.iter().take(8).fold(0, |word, byte| word << 8 | u64::from(*byte))
}

fn block_key(number: u64, offset: Offset) -> [u8; 16] {
    let mut key = [0; 16];
    key[..8].copy_from_slice(&number.to_be_bytes());
    key[8..].copy_from_slice(&offset.to_be_bytes());
    key
}

/// The keys of a channel's blocks that hold `from` or something newer.
fn block_keys(number: u64, from: Offset) -> std::ops::RangeInclusive<[u8; 16]> {
    block_key(number, from)..=block_key(number, Offset::MAX)
}

fn offset_of(key: &[u8]) -> Offset {
    be(&key[8..])
}

fn key_hash(number: u64, key: &str) -> [u8; 16] {
    let digest = Sha256::new().chain_update(number.to_be_bytes()).chain_update(key).finalize();
    let mut hash = [0; 16];
    hash.copy_from_slice(&digest[..16]);
    hash
}

impl Log for SledLog {
    fn open<'a>(&'a self, channel: &'a ChannelName, policy: &'a Policy) -> Reply<'a, Extent> {
        Box::pin(async { self.0.inner()?.open_channel(channel, policy) })
    }

    fn append<'a>(&'a self, batch: &'a [Entry]) -> Reply<'a, Vec<Appended>> {
        Box::pin(async move {
            let inner = self.0.inner()?;
            for entry in batch {
                inner.channel(&entry.channel)?;
            }
            drop(inner);
            self.0.find_room(batch.iter().map(|entry| entry.message.weight() as u64).sum())?;
            self.write(|inner| inner.append(batch))
        })
    }

    fn settle(&self, ack: Ack) -> Reply<'_, ()> {
        Box::pin(async move { self.write(|inner| inner.settle(ack)) })
    }

    fn read<'a>(&'a self, channel: &'a ChannelName, range: Range) -> Reply<'a, Page> {
        Box::pin(async move {
            let _permit = self.0.readers.acquire().await;
            let (store, channel) = (self.0.clone(), channel.clone());
            let read = tokio::task::spawn_blocking(move || store.inner()?.read(&channel, range));
            read.await.unwrap_or_else(|error| Err(LogError(format!("a read failed: {error}"))))
        })
    }

    fn forget<'a>(&'a self, channel: &'a ChannelName) -> Reply<'a, Extent> {
        Box::pin(async move {
            self.0.inner()?.channel(channel)?;
            self.write(|inner| inner.forget(channel))
        })
    }

    fn sweep<'a>(&'a self, now: Micros, policies: Policies<'a>) -> Reply<'a, ()> {
        Box::pin(async move { self.write(|inner| inner.sweep(now, policies)) })
    }

    fn close(&self, channel: &ChannelName) {
        if self.0.is_broken() {
            return self.0.leave_open(channel);
        }
        if let Err(error) = self.write(|inner| inner.close(channel)) {
            tracing::error!(%error, %channel, "a channel could not be closed properly");
        }
    }

    fn failure(&self) -> Option<String> {
        self.0.failure.lock().as_ref().map(|failure| failure.why().to_owned())
    }

    fn mend(&self) -> Reply<'_, bool> {
        Box::pin(async { Ok(self.0.mend()) })
    }

    fn shut(&self) -> Reply<'_, ()> {
        Box::pin(async { self.write(Inner::shut) })
    }
}
