//! What scripts keep on disk: one ordered store, parted by plugin and name, behind a bounded cache.
//!
//! Changes of a key take its lock, write through to the store and then change the cache, so that no thread reads back what
//! another has replaced. The hub is the store's only writer.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::{Mutex, RwLock};
use serde_json::Value as Json;

use super::bounded::{Bounded, Entry, NEVER};
use super::shared::{MAX_VALUE, Put, add};
use crate::kernel::kv::{Kv, MemoryKv};
use crate::kernel::message::Micros;
use crate::plugins::vm::keys::push_text;
use crate::plugins::why::trace::{is_rehearsal, rehearsing};

const LOCKS: usize = 64;
const CACHED: usize = 16_384;
const CACHED_BYTES: usize = 32 << 20;
/// Every so many changes a stretch of the store is looked through for what has ended.
const SWEEP_EVERY: u64 = 64;
const SWEEP: usize = 256;

pub struct House {
    /// None when the hub has ended: a VM may live on for a moment, the store must not.
    store: RwLock<Option<Arc<dyn Kv>>>,
    locks: Vec<Mutex<()>>,
    /// What is not there is known too.
    cache: Bounded<Vec<u8>, Option<Kept>>,
    changes: AtomicU64,
    swept: Mutex<Option<Vec<u8>>>,
}

/// A value and when it ends.
#[derive(Clone)]
struct Kept {
    value: Arc<Json>,
    until: Micros,
}

/// What a change did.
pub enum Outcome<R> {
    Put(Json, Micros, R),
    Remove(R),
    Keep(R),
}

impl House {
    /// Keeps nothing on disk until it is given a store: what a check does leaves no trace.
    pub fn new() -> House {
        House {
            store: RwLock::new(Some(Arc::new(MemoryKv::default()))),
            locks: (0..LOCKS).map(|_| Mutex::default()).collect(),
            cache: Bounded::new(CACHED, CACHED_BYTES),
            changes: AtomicU64::new(0),
            swept: Mutex::default(),
        }
    }

    /// Moves to another store, or out of any.
    pub fn move_to(&self, store: Option<Arc<dyn Kv>>) {
        let _locks: Vec<_> = self.locks.iter().map(Mutex::lock).collect();
        *self.store.write() = store;
        self.cache.forget(|_, _| true);
    }

    fn store(&self) -> Result<Arc<dyn Kv>, String> {
        self.store.read().clone().ok_or_else(|| "the hub has ended".into())
    }

    pub fn get(&self, key: &[u8], now: Micros) -> Result<Option<Arc<Json>>, String> {
        let known = match rehearsing(|rehearsal| rehearsal.kv(key)).flatten() {
            Some(changed) => Some(changed.map(|(value, until)| Kept { value, until })),
            None => self.cache.read(&key.to_vec(), now, |kept| kept.clone()),
        };
        let kept = match known {
            Some(kept) => kept,
            None => {
                let _lock = self.lock(key).lock();
                self.load(key, now)?
            }
        };
        Ok(kept.filter(|kept| kept.until > now).map(|kept| kept.value))
    }

    /// Changes a key in one step for all threads. `change` must not enter Lua.
    pub fn change<R>(
        &self,
        key: &[u8],
        now: Micros,
        change: impl FnOnce(Option<&Json>, Micros) -> Result<Outcome<R>, String>,
    ) -> Result<R, String> {
        if is_rehearsal() {
            return self.rehearse(key, now, change);
        }
        let answer = {
            let _lock = self.lock(key).lock();
            let known = self.cache.read(&key.to_vec(), now, |kept| kept.clone());
            let kept = known.map_or_else(|| self.load(key, now), Ok)?.filter(|kept| kept.until > now);
            let until = kept.as_ref().map_or(0, |kept| kept.until);
            match change(kept.as_ref().map(|kept| &*kept.value), until)? {
                Outcome::Keep(answer) => return Ok(answer),
                Outcome::Put(value, until, answer) => {
                    self.store()?.put(key, &pack(&value, until)?).map_err(failed)?;
                    self.remember(key, Some(Kept { value: Arc::new(value), until }), now);
                    answer
                }
                Outcome::Remove(answer) => {
                    self.store()?.delete(key).map_err(failed)?;
                    self.remember(key, None, now);
                    answer
                }
            }
        };
        if self.changes.fetch_add(1, Ordering::Relaxed) % SWEEP_EVERY == SWEEP_EVERY - 1 {
            self.sweep(now);
        }
        Ok(answer)
    }

    fn rehearse<R>(
        &self,
        key: &[u8],
        now: Micros,
        change: impl FnOnce(Option<&Json>, Micros) -> Result<Outcome<R>, String>,
    ) -> Result<R, String> {
        let changed = rehearsing(|rehearsal| rehearsal.kv(key)).flatten();
        let kept = match changed {
            Some(changed) => changed.map(|(value, until)| Kept { value, until }),
            None => {
                let _lock = self.lock(key).lock();
                self.load(key, now)?
            }
        };
        let kept = kept.filter(|kept| kept.until > now);
        let until = kept.as_ref().map_or(0, |kept| kept.until);
        let (becomes, answer) = match change(kept.as_ref().map(|kept| &*kept.value), until)? {
            Outcome::Keep(answer) => return Ok(answer),
            Outcome::Put(value, until, answer) => {
                pack(&value, until)?;
                (Some((Arc::new(value), until)), answer)
            }
            Outcome::Remove(answer) => (None, answer),
        };
        rehearsing(|rehearsal| rehearsal.put_kv(key, becomes)).unwrap_or(Ok(()))?;
        Ok(answer)
    }

    /// Comes back when everything that was kept before is on disk.
    pub fn sync(&self) -> Result<(), String> {
        self.store()?.sync().map_err(failed)
    }

    /// Up to `count` keys and values below `prefix`, after `after`.
    pub fn scan(
        &self,
        prefix: &[u8],
        after: Option<&[u8]>,
        count: usize,
        now: Micros,
    ) -> Result<Vec<(Vec<u8>, Json)>, String> {
        let changed = rehearsing(|rehearsal| rehearsal.kv_below(prefix)).unwrap_or_default();
        if changed.is_empty() {
            return self.scan_store(prefix, after, count, now);
        }
        let found = self.scan_store(prefix, after, count + changed.len(), now)?;
        let mut found: BTreeMap<Vec<u8>, Json> = found.into_iter().collect();
        for (key, value) in changed {
            found.remove(&key);
            let comes = after.is_none_or(|after| key.as_slice() > after);
            if let Some((value, _)) = value.filter(|(_, until)| *until > now && comes) {
                found.insert(key, Arc::unwrap_or_clone(value));
            }
        }
        Ok(found.into_iter().take(count).collect())
    }

    fn scan_store(
        &self,
        prefix: &[u8],
        after: Option<&[u8]>,
        count: usize,
        now: Micros,
    ) -> Result<Vec<(Vec<u8>, Json)>, String> {
        let (mut found, mut after) = (Vec::new(), after.map(<[u8]>::to_vec));
        let store = self.store()?;
        loop {
            let page = store.scan(prefix, after.as_deref(), count).map_err(failed)?;
            let whole = page.len() < count;
            for (key, value) in page {
                if let Some(kept) = unpack(&value)
                    && kept.until > now
                {
                    found.push((key.clone(), Arc::unwrap_or_clone(kept.value)));
                    if found.len() == count {
                        return Ok(found);
                    }
                }
                after = Some(key);
            }
            if whole {
                return Ok(found);
            }
        }
    }

    fn lock(&self, key: &[u8]) -> &Mutex<()> {
        use std::hash::BuildHasher;
        &self.locks[(rustc_hash::FxBuildHasher.hash_one(key) >> 32) as usize % LOCKS]
    }

    /// Reads a key into the cache; its lock is held.
    fn load(&self, key: &[u8], now: Micros) -> Result<Option<Kept>, String> {
        let stored = self.store()?.get(key).map_err(failed)?;
        let kept = match stored {
            None => None,
            Some(bytes) => Some(unpack(&bytes).ok_or("what is stored under this key is damaged")?),
        };
        let kept = kept.filter(|kept| kept.until > now);
        self.remember(key, kept.clone(), now);
        Ok(kept)
    }

    fn remember(&self, key: &[u8], kept: Option<Kept>, now: Micros) {
        let until = kept.as_ref().map_or(NEVER, |kept| kept.until);
        let weight = key.len() + kept.as_ref().map_or(0, |kept| kept.value.to_string().len() * 2);
        self.cache.insert(key.to_vec(), Entry { value: kept, until, weight }, now);
    }

    /// Deletes what has ended, a stretch at a time, so that what nobody reads again does not stay.
    fn sweep(&self, now: Micros) {
        // Whoever finds it taken leaves it to the other.
        let (Some(mut from), Ok(store)) = (self.swept.try_lock(), self.store()) else { return };
        let Ok(page) = store.scan(&[], from.as_deref(), SWEEP) else { return };
        *from = page.last().filter(|_| page.len() == SWEEP).map(|(key, _)| key.clone());
        for (key, value) in page {
            if unpack(&value).is_some_and(|kept| kept.until <= now) {
                let _lock = self.lock(&key).lock();
                // It may have been put anew since.
                let ended = |bytes: Vec<u8>| unpack(&bytes).is_some_and(|kept| kept.until <= now);
                if store.get(&key).is_ok_and(|stored| stored.is_some_and(ended)) {
                    let gone = store.delete(&key);
                    if let Err(error) = gone {
                        tracing::warn!(%error, "what has ended could not be deleted from the kv store");
                    }
                }
            }
        }
    }
}

/// Changes in the words of scripts.
impl House {
    /// None takes the value away. Whether it was done.
    pub fn set(&self, key: &[u8], value: Option<Json>, put: Put, now: Micros) -> Result<bool, String> {
        self.change(key, now, |old, _| {
            Ok(match value {
                _ if put.if_absent && old.is_some() => Outcome::Keep(false),
                Some(value) => Outcome::Put(value, put.until(now), true),
                None if old.is_none() => Outcome::Keep(true),
                None => Outcome::Remove(true),
            })
        })
    }

    /// Whether there was something.
    pub fn delete(&self, key: &[u8], now: Micros) -> Result<bool, String> {
        self.change(key, now, |old, _| Ok(if old.is_some() { Outcome::Remove(true) } else { Outcome::Keep(false) }))
    }

    /// A counter keeps the end that it was made with.
    pub fn incr(&self, key: &[u8], by: f64, put: Put, now: Micros) -> Result<f64, String> {
        self.change(key, now, |old, until| {
            let until = if old.is_some() { until } else { put.until(now) };
            let (sum, value) = add(old, by)?;
            Ok(Outcome::Put(value, until, sum))
        })
    }

    /// Puts `new` if what is there is `old`.
    pub fn cas(
        &self,
        key: &[u8],
        old: Option<&Json>,
        new: Option<Json>,
        put: Put,
        now: Micros,
    ) -> Result<bool, String> {
        self.change(key, now, |found, _| {
            Ok(match new {
                _ if found != old => Outcome::Keep(false),
                Some(new) => Outcome::Put(new, put.until(now), true),
                None if found.is_none() => Outcome::Keep(true),
                None => Outcome::Remove(true),
            })
        })
    }
}

/// What everything of a plugin's `name` begins with. Scripts are one plugin without a name.
pub fn place(plugin: Option<&str>, name: &str) -> Vec<u8> {
    let mut place = Vec::new();
    push_text(&mut place, plugin.unwrap_or_default().as_bytes());
    push_text(&mut place, name.as_bytes());
    place
}

fn failed(error: crate::kernel::kv::KvError) -> String {
    format!("the store failed: {error}")
}

fn pack(value: &Json, until: Micros) -> Result<Vec<u8>, String> {
    let mut bytes = until.to_be_bytes().to_vec();
    serde_json::to_writer(&mut bytes, value).map_err(|error| error.to_string())?;
    let length = bytes.len() - 8;
    if length > MAX_VALUE {
        return Err(format!("a value has at most {MAX_VALUE} bytes as JSON, this has {length}"));
    }
    Ok(bytes)
}

fn unpack(bytes: &[u8]) -> Option<Kept> {
    let (until, value) = bytes.split_first_chunk::<8>()?;
    Some(Kept { value: Arc::new(serde_json::from_slice(value).ok()?), until: Micros::from_be_bytes(*until) })
}
