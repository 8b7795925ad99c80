//! A map with a bound, whose entries may end: what is over or oldest goes when it is full.
//!
//! In shards, so that threads seldom meet. Nothing of a caller's runs under a lock except the small closures given here,
//! which never enter Lua.

use std::hash::{BuildHasher, Hash};
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::RwLock;
use rustc_hash::{FxBuildHasher, FxHashMap};

use crate::kernel::message::Micros;

const SHARDS: usize = 16;
/// What a full shard keeps: room is made in one go, because looking for what is oldest costs a walk.
const KEPT: (usize, usize) = (7, 8);
/// An entry's own bytes: keys, stamps and the table's slot.
const OVERHEAD: usize = 96;

pub struct Bounded<K, V> {
    shards: Box<[RwLock<Shard<K, V>>]>,
    /// Per shard.
    max: usize,
    max_weight: usize,
    /// Entries that had to go before their time.
    evicted: AtomicU64,
    /// Counts what has been forgotten, so that an answer that was on its way meanwhile is not kept.
    forgotten: AtomicU64,
}

struct Shard<K, V> {
    map: FxHashMap<K, Held<V>>,
    weight: usize,
    /// Counts writes: says who is older.
    stamp: u64,
}

struct Held<V> {
    value: V,
    until: Micros,
    weight: usize,
    stamp: u64,
}

/// An entry to be: its value, when it ends and what it weighs.
pub struct Entry<V> {
    pub value: V,
    pub until: Micros,
    pub weight: usize,
}

/// An entry that is there.
pub struct Found<'a, V> {
    pub value: &'a mut V,
    pub until: Micros,
    pub weight: usize,
}

/// What becomes of an entry.
pub enum Change<V> {
    Keep,
    Put(Entry<V>),
    Remove,
}

/// Never.
pub const NEVER: Micros = Micros::MAX;

impl<K: Hash + Eq, V> Bounded<K, V> {
    /// `max` entries that weigh `max_weight` bytes in all.
    pub fn new(max: usize, max_weight: usize) -> Self {
        let shard = || RwLock::new(Shard { map: FxHashMap::default(), weight: 0, stamp: 0 });
        Bounded {
            shards: (0..SHARDS).map(|_| shard()).collect(),
            max: (max / SHARDS).max(1),
            max_weight: (max_weight / SHARDS).max(1),
            evicted: AtomicU64::new(0),
            forgotten: AtomicU64::new(0),
        }
    }

    fn shard(&self, key: &K) -> &RwLock<Shard<K, V>> {
        // The upper bits, because the maps use the lower ones.
        let hash = FxBuildHasher.hash_one(key);
        &self.shards[(hash >> 32) as usize % SHARDS]
    }

    /// Reads what `key` holds now.
    pub fn read<R>(&self, key: &K, now: Micros, read: impl FnOnce(&V) -> R) -> Option<R> {
        let shard = self.shard(key).read();
        shard.map.get(key).filter(|held| held.until > now).map(|held| read(&held.value))
    }

    /// What `key` holds now, when that ends and what it weighs.
    pub fn copy(&self, key: &K, now: Micros) -> Option<(V, Micros, usize)>
    where
        V: Clone,
    {
        let shard = self.shard(key).read();
        let held = shard.map.get(key).filter(|held| held.until > now)?;
        Some((held.value.clone(), held.until, held.weight - OVERHEAD))
    }

    /// Changes what `key` holds, in one step for all threads.
    pub fn change<R>(&self, key: K, now: Micros, change: impl FnOnce(Option<Found<'_, V>>) -> (Change<V>, R)) -> R {
        let mut shard = self.shard(&key).write();
        let found = shard.map.get_mut(&key).filter(|held| held.until > now);
        let found =
            found.map(|held| Found { until: held.until, weight: held.weight - OVERHEAD, value: &mut held.value });
        let (change, answer) = change(found);
        match change {
            Change::Keep => {}
            Change::Remove => shard.remove(&key),
            Change::Put(entry) => self.put(&mut shard, key, entry, now),
        }
        answer
    }

    pub fn insert(&self, key: K, entry: Entry<V>, now: Micros) {
        self.change(key, now, |_| (Change::Put(entry), ()));
    }

    /// A mark for `insert_since`.
    pub fn mark(&self) -> u64 {
        self.forgotten.load(Ordering::Acquire)
    }

    /// Inserts unless something has been forgotten since `mark`: perhaps it was this.
    pub fn insert_since(&self, mark: u64, key: K, entry: Entry<V>, now: Micros) {
        // Looked at under the lock: whoever forgets counts first and takes the locks then.
        self.change(key, now, |_| match self.forgotten.load(Ordering::Acquire) == mark {
            true => (Change::Put(entry), ()),
            false => (Change::Keep, ()),
        });
    }

    /// Drops all that `goes` says; how many those were.
    pub fn forget(&self, goes: impl Fn(&K, &V) -> bool) -> usize {
        self.forgotten.fetch_add(1, Ordering::AcqRel);
        let mut gone = 0;
        for shard in &self.shards {
            let mut shard = shard.write();
            let Shard { map, weight, .. } = &mut *shard;
            map.retain(|key, held| {
                let goes = goes(key, &held.value);
                if goes {
                    *weight -= held.weight;
                    gone += 1;
                }
                !goes
            });
        }
        gone
    }

    /// Looks at everything that has not ended.
    pub fn for_each(&self, now: Micros, mut look: impl FnMut(&K, &V)) {
        for shard in &self.shards {
            shard.read().map.iter().filter(|(_, held)| held.until > now).for_each(|(key, held)| look(key, &held.value));
        }
    }

    pub fn evicted(&self) -> u64 {
        self.evicted.load(Ordering::Relaxed)
    }

    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.shards.iter().map(|shard| shard.read().map.len()).sum()
    }

    fn put(&self, shard: &mut Shard<K, V>, key: K, entry: Entry<V>, now: Micros) {
        let Entry { value, until, weight } = entry;
        let weight = weight + OVERHEAD;
        shard.remove(&key);
        if shard.map.len() >= self.max || shard.weight + weight > self.max_weight {
            self.make_room(shard, weight, now);
        }
        shard.stamp += 1;
        let stamp = shard.stamp;
        shard.weight += weight;
        shard.map.insert(key, Held { value, until, weight, stamp });
    }

    fn make_room(&self, shard: &mut Shard<K, V>, weight: usize, now: Micros) {
        shard.retain(|held| held.until > now);
        let many = self.max / KEPT.1 * KEPT.0;
        let heavy = (self.max_weight / KEPT.1 * KEPT.0).saturating_sub(weight);
        if shard.map.len() <= many.min(self.max - 1) && shard.weight <= heavy {
            return;
        }
        let mut ages: Vec<(u64, usize)> = shard.map.values().map(|held| (held.stamp, held.weight)).collect();
        ages.sort_unstable_by(|a, b| b.cmp(a));
        let (mut count, mut sum) = (0, 0);
        let kept = ages.iter().take_while(|(_, weight)| {
            count += 1;
            sum += weight;
            count <= many.min(self.max - 1) && sum <= heavy
        });
        let oldest = kept.last().map_or(u64::MAX, |(stamp, _)| *stamp);
        let gone = shard.retain(|held| held.stamp >= oldest);
        self.evicted.fetch_add(gone as u64, Ordering::Relaxed);
    }
}

impl<K: Hash + Eq, V> Shard<K, V> {
    fn remove(&mut self, key: &K) {
        if let Some(held) = self.map.remove(key) {
            self.weight -= held.weight;
        }
    }

    fn retain(&mut self, stays: impl Fn(&Held<V>) -> bool) -> usize {
        let before = self.map.len();
        let weight = &mut self.weight;
        self.map.retain(|_, held| {
            let stays = stays(held);
            if !stays {
                *weight -= held.weight;
            }
            stays
        });
        before - self.map.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(value: u32, until: Micros) -> Entry<u32> {
        Entry { value, until, weight: 1 }
    }

    #[test]
    fn it_never_grows_beyond_its_bounds_and_the_newest_stays() {
        let map = Bounded::new(160, usize::MAX);
        for n in 0..10_000 {
            map.insert(n, entry(n, NEVER), 0);
            assert_eq!(map.read(&n, 0, |value| *value), Some(n));
        }
        assert!(map.len() <= 160 && map.evicted() as usize == 10_000 - map.len());
        let heavy = Bounded::new(usize::MAX, 16_000);
        for n in 0..1000 {
            heavy.insert(n, Entry { value: n, until: NEVER, weight: 200 }, 0);
        }
        assert!(heavy.len() <= 16_000 / 296 && heavy.read(&999, 0, |value| *value) == Some(999));
    }

    #[test]
    fn what_is_over_is_not_there_and_goes_first() {
        let map = Bounded::new(160, usize::MAX);
        for n in 0..80 {
            map.insert(n, entry(n, 10), 0);
        }
        assert_eq!((map.read(&1, 9, |v| *v), map.read(&1, 10, |v| *v)), (Some(1), None));
        for n in 100..160 {
            map.insert(n, entry(n, NEVER), 20);
        }
        assert!((100..160).all(|n| map.read(&n, 20, |_| ()).is_some()) || map.evicted() < 20);
    }

    #[test]
    fn what_was_on_its_way_while_something_was_forgotten_is_not_kept() {
        let map = Bounded::new(16, usize::MAX);
        let mark = map.mark();
        assert_eq!(map.forget(|_, _| true), 0);
        map.insert_since(mark, 1, entry(1, NEVER), 0);
        assert_eq!(map.len(), 0);
        map.insert_since(map.mark(), 1, entry(1, NEVER), 0);
        assert_eq!(map.forget(|key, value| key == value), 1);
    }
}
