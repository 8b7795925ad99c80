//! The embedded default: one directory, no service. `group` writes, `sweep` deletes.
//!
//! | tree | key | value |
//! |---|---|---|
//! | `heads` | channel's name | its number, and how far its offsets have gone: outlives its messages |
//! | `messages` | channel's number, last offset in the block (both big-endian) | a block of publications |
//! | `keys` | hash of channel's number and idempotency key | offset, time, until when |
//! | `key_ages` | until when (big-endian), hash | nothing |
//! | `meta` | `format`, `epoch`, `ended` | `life` says what for |
//! | `kv` | what rules keep | their values: `kv` |
//!
//! One lane writes. A group becomes one block per channel, then one flush and one `fdatasync` of sled's file: sled's own
//! `flush` ends in `sync_file_range`, which promises nothing after a power failure. Messages and their idempotency keys go
//! in as one transaction: a crash takes both or neither.
//!
//! A channel whose policy acknowledges before `fdatasync` has offsets reserved ahead in its head: after a crash it goes on
//! behind them, so that a number that somebody has seen is never given to another message.

mod group;
mod sweep;

use std::cell::Cell;
use std::collections::hash_map::Entry as MapEntry;
use std::convert::Infallible;
use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Once, OnceLock};
use std::time::{Duration, Instant};

use bytes::Bytes;
use dashmap::DashMap;
use parking_lot::Mutex;
use rustc_hash::{FxHashMap, FxHashSet};
use sha2::{Digest, Sha256};
use sled::transaction::{ConflictableTransactionError, TransactionError, Transactional};
use sled::{Batch, Db, Tree};
use tokio::sync::Semaphore;

use super::kv::SledKv;
use super::life::Life;
use super::{block, new_epoch};
use crate::kernel::log::{Appended, Entry, Extent, From, Log, LogError, Page, Policies, Range, Reply};
use crate::kernel::message::{ChannelName, Epoch, Micros, Offset, Publication};
use crate::kernel::policy::{Ack, Policy, Retention};

const FORMAT: &[u8] = b"aether-log-1";
/// A block's bounds. sled puts values above an eighth of a MiB into files of their own, so most stay below.
const BLOCK_COUNT: usize = 512;
const BLOCK_BYTES: usize = 96 * 1024;
/// Offsets that a channel with a weaker ack reserves at a time.
const RESERVE: u64 = 4096;
/// Stretches taken by crashes that a channel remembers.
const LOST: usize = 16;
/// Blocks that one append deletes at most, so that a group stays short.
const TRIM_BLOCKS: usize = 512;
/// How long a slice of housekeeping may take.
const SWEEP_BUDGET: Duration = Duration::from_millis(10);
/// How long a store that is in use is waited for.
const LOCK_PATIENCE: Duration = Duration::from_secs(2);
/// Reads that run at once: they are short, and more threads than this only wait for each other.
const READERS: usize = 8;

#[derive(Debug)]
pub enum OpenError {
    /// Another process has it.
    Locked(PathBuf),
    Damaged(PathBuf, String),
    /// Written by something else, or by a later version.
    Foreign(PathBuf),
    Io(PathBuf, io::Error),
}

impl std::fmt::Display for OpenError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            OpenError::Locked(path) => {
                write!(
                    f,
                    "the store in {} is in use: is another aether running on it? Stop it, or give this one another --data",
                    path.display()
                )
            }
            OpenError::Damaged(path, what) => {
                write!(
                    f,
                    "the store in {} is damaged ({what}): restore a backup, or move the directory away to begin a new one (subscribers will be told by a new epoch)",
                    path.display()
                )
            }
            OpenError::Foreign(path) => {
                write!(
                    f,
                    "the store in {} was not written by this version of aether: give another --data, or use the version that wrote it",
                    path.display()
                )
            }
            OpenError::Io(path, error) => write!(f, "the store in {} cannot be opened: {error}", path.display()),
        }
    }
}

impl std::error::Error for OpenError {}

#[derive(Clone)]
pub struct SledLog {
    inner: Arc<Inner>,
    /// Why nothing is written any more. After an I/O error sled's `flush` can wait for ever, so it is never called again,
    /// not even when the store is dropped.
    failure: Arc<OnceLock<String>>,
    readers: Arc<Semaphore>,
}

struct Inner {
    path: PathBuf,
    db: Db,
    meta: Tree,
    heads: Tree,
    messages: Tree,
    keys: Tree,
    key_ages: Tree,
    epoch: Epoch,
    window: Micros,
    /// sled's own file, for `fdatasync`.
    file: File,
    open: DashMap<ChannelName, Arc<Mutex<Open>>>,
    /// What the first message of a channel is called.
    first: AtomicU64,
    /// Values so large that sled wrote them to files of their own since the last sync.
    large: AtomicBool,
    /// Those of them that are on disk.
    synced_large: Mutex<FxHashSet<OsString>>,
    syncs: AtomicU64,
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
        let began = Instant::now();
        let inner = loop {
            match Inner::open(path, cache, flush_interval, window) {
                // The one before may be on its way out.
                Err(OpenError::Locked(_)) if began.elapsed() < LOCK_PATIENCE => {
                    std::thread::sleep(Duration::from_millis(20));
                }
                outcome => break outcome?,
            }
        };
        Ok(SledLog { inner: Arc::new(inner), failure: Arc::default(), readers: Arc::new(Semaphore::new(READERS)) })
    }

    /// Channels that have no message yet begin with this number, at least 1.
    pub fn begin_at(&self, first: Offset) {
        self.inner.first.store(first.max(1), Ordering::Relaxed);
    }

    /// What rules keep, beside the log.
    pub fn kv(&self) -> Result<SledKv, OpenError> {
        let tree = self.inner.db.open_tree("kv");
        let kept = tree.map(|tree| SledKv { tree, log: self.clone() });
        kept.map_err(|error| OpenError::Damaged(self.inner.path.clone(), error.to_string()))
    }

    /// Comes back when everything that was written before is on disk.
    pub fn sync(&self) -> Result<(), LogError> {
        self.write(Inner::sync)
    }

    /// How often `fdatasync` has been called.
    pub fn syncs(&self) -> u64 {
        self.inner.syncs.load(Ordering::Relaxed)
    }

    /// Writes, unless an earlier write has failed.
    fn write<T>(&self, write: impl FnOnce(&Inner) -> Result<T, LogError>) -> Result<T, LogError> {
        if let Some(why) = self.failure.get() {
            return Err(LogError(format!("the store stopped at an error: {why}")));
        }
        write(&self.inner).inspect_err(|LogError(why)| {
            if self.failure.set(why.clone()).is_ok() {
                tracing::error!(%why, "the store takes nothing any more: mend the cause and start the hub again");
                std::mem::forget(self.inner.clone());
            }
        })
    }

    pub fn size_on_disk(&self) -> u64 {
        self.inner.db.size_on_disk().unwrap_or(0)
    }
}

/// sled meets some kinds of damage with a panic; what it says there helps nobody, and what other threads say meanwhile does.
fn quietly<R>(open: impl FnOnce() -> R) -> std::thread::Result<R> {
    thread_local! {
        static QUIET: Cell<bool> = const { Cell::new(false) };
    }
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let hook = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            if !QUIET.get() {
                hook(panic);
            }
        }));
    });
    QUIET.set(true);
    let opened = std::panic::catch_unwind(AssertUnwindSafe(open));
    QUIET.set(false);
    opened
}

impl Inner {
    fn open(path: &Path, cache: u64, flush_interval: Duration, window: Duration) -> Result<Inner, OpenError> {
        let at = || path.to_path_buf();
        let damaged = |error: LogError| OpenError::Damaged(at(), error.0);
        std::fs::create_dir_all(path).map_err(|error| OpenError::Io(at(), error))?;
        let config = sled::Config::new()
            .path(path)
            .cache_capacity(cache)
            // The flusher thread also collects garbage, so it must stay on.
            .flush_every_ms(Some(flush_interval.as_millis().max(1) as u64));
        let opened = quietly(|| config.open());
        let db = match opened {
            Ok(Ok(db)) => db,
            Ok(Err(sled::Error::Io(error))) if error.to_string().contains("acquire lock") => {
                return Err(OpenError::Locked(at()));
            }
            Ok(Err(sled::Error::Io(error))) => return Err(OpenError::Io(at(), error)),
            Ok(Err(error)) => return Err(OpenError::Damaged(at(), error.to_string())),
            Err(_) => return Err(OpenError::Damaged(at(), "it cannot be read".into())),
        };
        let tree = |name: &str| db.open_tree(name).map_err(|error| OpenError::Damaged(at(), error.to_string()));
        let meta = tree("meta")?;
        let word =
            |name: &str| Ok::<_, OpenError>(meta.get(name).map_err(failed).map_err(damaged)?.map(|word| be(&word)));
        let life = Life::read(path).map_err(|error| match error.kind() {
            io::ErrorKind::InvalidData => OpenError::Damaged(at(), error.to_string()),
            _ => OpenError::Io(at(), error),
        })?;
        let format = meta.get("format").map_err(failed).map_err(damaged)?;
        if format.as_ref().is_some_and(|format| format != FORMAT) {
            return Err(OpenError::Foreign(at()));
        }
        let epoch = match (life, format.and(word("epoch")?)) {
            (Some(life), known) if known != Some(life.epoch.0) => {
                return Err(OpenError::Damaged(at(), "its contents are lost".into()));
            }
            (Some(life), _) if life.ended.is_some() && word("ended")? != life.ended => {
                return Err(OpenError::Damaged(at(), "its newest part is lost".into()));
            }
            (_, Some(epoch)) => Epoch(epoch),
            (_, None) if db.was_recovered() && db.tree_names().len() > 2 => return Err(OpenError::Foreign(at())),
            (_, None) => {
                let epoch = new_epoch();
                meta.insert("epoch", &epoch.0.to_be_bytes()).map_err(failed).map_err(damaged)?;
                meta.insert("format", FORMAT).map_err(failed).map_err(damaged)?;
                epoch
            }
        };
        let file = File::open(path.join("db")).map_err(|error| OpenError::Io(at(), error))?;
        let inner = Inner {
            path: at(),
            meta,
            heads: tree("heads")?,
            messages: tree("messages")?,
            keys: tree("keys")?,
            key_ages: tree("key_ages")?,
            db,
            epoch,
            window: window.as_micros() as Micros,
            file,
            open: DashMap::new(),
            first: AtomicU64::new(1),
            large: AtomicBool::new(false),
            synced_large: Mutex::default(),
            syncs: AtomicU64::new(0),
            sweep_from: Mutex::new(None),
        };
        inner.sync().map_err(damaged)?;
        Life { epoch, ended: None }.write(path).map_err(|error| OpenError::Io(at(), error))?;
        Ok(inner)
    }

    fn open_channel(&self, name: &ChannelName, policy: &Policy) -> Result<Extent, LogError> {
        if let Some(open) = self.open.get(name).map(|open| open.clone()) {
            let mut open = open.lock();
            self.change(&mut open, policy)?;
            return Ok(open.extent(self.epoch));
        }
        let retention = policy.history.unwrap_or(Retention { count: Some(0), age: None, bytes: None });
        let first = self.first.load(Ordering::Relaxed);
        let mut open = Open::new(first, retention, policy.ack != Ack::Synced);
        if let Some(stored) = self.heads.get(name.as_str()).map_err(failed)? {
            self.recover(name, &mut open, Head::from_bytes(&stored)?)?;
        }
        let extent = open.extent(self.epoch);
        self.open.insert(name.clone(), Arc::new(Mutex::new(open)));
        Ok(extent)
    }

    /// Finds out how far a channel reached when it was last used.
    fn recover(&self, name: &ChannelName, open: &mut Open, head: Head) -> Result<(), LogError> {
        let newest = self.messages.range(block_keys(head.number, 0)).keys().next_back().transpose().map_err(failed)?;
        let stored = newest.map_or(0, |key| offset_of(&key));
        open.number = Some(head.number);
        open.floor = head.floor.max(1);
        open.trimmed = open.floor;
        open.last = head.last.max(stored);
        open.lost = head.lost;
        if head.reserved > open.last {
            // It was not closed properly: numbers up to the reserve may have been seen by readers.
            open.lost.push((open.last + 1, head.reserved));
            let first = open.floor;
            open.lost.retain(|(_, to)| *to >= first);
            // Beyond, the oldest are called evicted.
            let surplus = open.lost.len().saturating_sub(LOST);
            open.lost.drain(..surplus);
            open.last = head.reserved;
            self.write_head(name, open)?;
        }
        if open.retention.bytes.is_some() {
            self.weigh(open)?;
        }
        Ok(())
    }

    /// Another policy for a channel in use.
    fn change(&self, open: &mut Open, policy: &Policy) -> Result<(), LogError> {
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
        for entry in self.messages.range(block_keys(number, open.first())) {
            open.bytes += entry.map_err(failed)?.1.len() as u64;
        }
        Ok(())
    }

    fn write_head(&self, name: &ChannelName, open: &Open) -> Result<(), LogError> {
        let Some(number) = open.number else { return Ok(()) };
        self.heads.insert(name.as_str(), open.head(number).to_bytes()).map_err(failed)?;
        Ok(())
    }

    fn channel(&self, name: &ChannelName) -> Result<Arc<Mutex<Open>>, LogError> {
        let open = self.open.get(name).map(|open| open.clone());
        open.ok_or_else(|| LogError(format!("{name} is not open")))
    }

    fn settle(&self, ack: Ack) -> Result<(), LogError> {
        match ack {
            Ack::Memory => Ok(()),
            Ack::Written => self.db.flush().map(|_| ()).map_err(failed),
            Ack::Synced => self.sync(),
        }
    }

    fn sync(&self) -> Result<(), LogError> {
        self.db.flush().map_err(failed)?;
        self.file.sync_data().map_err(|error| LogError(format!("fdatasync: {error}")))?;
        self.syncs.fetch_add(1, Ordering::Relaxed);
        if self.large.swap(false, Ordering::Relaxed) {
            self.sync_large().map_err(|error| LogError(format!("fsync of a large value: {error}")))?;
        }
        Ok(())
    }

    /// sled writes large values to files of their own and does not sync them.
    fn sync_large(&self) -> io::Result<()> {
        let blobs = self.path.join("blobs");
        let mut synced = self.synced_large.lock();
        let mut present = FxHashSet::default();
        for entry in std::fs::read_dir(&blobs)? {
            let name = entry?.file_name();
            if !synced.contains(&name) {
                File::open(blobs.join(&name))?.sync_data()?;
            }
            present.insert(name);
        }
        *synced = present;
        File::open(&blobs)?.sync_all()
    }

    fn read(&self, name: &ChannelName, range: Range) -> Result<Page, LogError> {
        let channel = self.channel(name)?;
        let (number, extent, lost, age) = {
            let open = channel.lock();
            (open.number, open.extent(self.epoch), open.lost.clone(), open.retention.age)
        };
        let mut page = Page { publications: Vec::new(), more: false, extent, lost };
        let Some(number) = number else { return Ok(page) };
        let oldest = age.map_or(0, |age| range.now.saturating_sub(age.as_micros() as Micros));
        let alive =
            |p: &Publication| p.offset >= extent.first && p.time >= oldest && p.expires.is_none_or(|at| at > range.now);
        let mut taken = Taken { page: &mut page, weight: 0, range };
        match range.from {
            From::After { after, upto } => {
                let mut next = after.max(extent.first.saturating_sub(1)).saturating_add(1);
                'blocks: for entry in self.messages.range(block_keys(number, next)) {
                    for publication in unpack(name, &entry.map_err(failed)?.1)? {
                        if publication.offset > upto {
                            break 'blocks;
                        }
                        if publication.offset < next || !alive(&publication) {
                            continue;
                        }
                        next = publication.offset + 1;
                        if !taken.take(publication) {
                            break 'blocks;
                        }
                    }
                }
            }
            From::Before { before } => {
                let mut next = before.saturating_sub(1);
                let newest_block = self.messages.range(block_keys(number, before)).next();
                let end = newest_block.transpose().map_err(failed)?.map_or(Offset::MAX, |(key, _)| offset_of(&key));
                'blocks: for entry in self.messages.range(block_key(number, 0)..=block_key(number, end)).rev() {
                    for publication in unpack(name, &entry.map_err(failed)?.1)?.into_iter().rev() {
                        if publication.offset < extent.first {
                            break 'blocks;
                        }
                        if publication.offset > next || !alive(&publication) {
                            continue;
                        }
                        next = publication.offset - 1;
                        if !taken.take(publication) {
                            break 'blocks;
                        }
                    }
                }
                page.publications.reverse();
            }
        }
        Ok(page)
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
        let mark = new_epoch().0;
        self.meta.insert("ended", &mark.to_be_bytes()).map_err(failed)?;
        self.sync()?;
        let life = Life { epoch: self.epoch, ended: Some(mark) };
        life.write(&self.path).map_err(|error| LogError(format!("the mark of a proper end: {error}")))
    }
}

/// A page as it fills.
struct Taken<'a> {
    page: &'a mut Page,
    weight: usize,
    range: Range,
}

impl Taken<'_> {
    /// False if there is no room for it.
    fn take(&mut self, publication: Publication) -> bool {
        let full = self.page.publications.len() >= self.range.count || self.weight >= self.range.bytes;
        if full && !(self.page.publications.is_empty() && self.range.count > 0) {
            self.page.more = true;
            return false;
        }
        self.weight += publication.message.weight();
        self.page.publications.push(publication);
        true
    }
}

fn unpack(name: &ChannelName, value: &sled::IVec) -> Result<Vec<Publication>, LogError> {
    block::unpack(Bytes::copy_from_slice(value)).map_err(|_| damaged(name))
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
        Box::pin(async { self.inner.open_channel(channel, policy) })
    }

    fn append<'a>(&'a self, batch: &'a [Entry]) -> Reply<'a, Vec<Appended>> {
        Box::pin(async move {
            for entry in batch {
                self.inner.channel(&entry.channel)?;
            }
            self.write(|inner| inner.append(batch))
        })
    }

    fn settle(&self, ack: Ack) -> Reply<'_, ()> {
        Box::pin(async move { self.write(|inner| inner.settle(ack)) })
    }

    fn read<'a>(&'a self, channel: &'a ChannelName, range: Range) -> Reply<'a, Page> {
        Box::pin(async move {
            let _permit = self.readers.acquire().await;
            let (inner, channel) = (self.inner.clone(), channel.clone());
            let read = tokio::task::spawn_blocking(move || inner.read(&channel, range));
            read.await.unwrap_or_else(|error| Err(LogError(format!("a read failed: {error}"))))
        })
    }

    fn forget<'a>(&'a self, channel: &'a ChannelName) -> Reply<'a, Extent> {
        Box::pin(async move {
            self.inner.channel(channel)?;
            self.write(|inner| inner.forget(channel))
        })
    }

    fn sweep<'a>(&'a self, now: Micros, policies: Policies<'a>) -> Reply<'a, ()> {
        Box::pin(async move { self.write(|inner| inner.sweep(now, policies)) })
    }

    fn close(&self, channel: &ChannelName) {
        if let Err(error) = self.write(|inner| inner.close(channel)) {
            tracing::error!(%error, %channel, "a channel could not be closed properly");
        }
    }

    fn failure(&self) -> Option<String> {
        self.failure.get().cloned()
    }

    fn shut(&self) -> Reply<'_, ()> {
        Box::pin(async { self.write(Inner::shut) })
    }
}
