//! What scripts share in memory: tables of values, and the limiters. One for all VMs, gone with the process.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use serde_json::Value as Json;

use super::bounded::{Bounded, Change, Entry, NEVER};
use crate::kernel::message::Micros;
use crate::plugins::source::schema::describe;
use crate::plugins::vm::value::number;
use crate::plugins::why::rehearsal::Layered;

/// Of one table.
const MAX_ENTRIES: usize = 65_536;
const MAX_BYTES: usize = 32 << 20;
const MAX_LIST: usize = 10_000;
/// One value, as JSON.
pub const MAX_VALUE: usize = 64 << 10;
/// Names are few and written in the code; one that is made of data would be a leak.
const MAX_NAMES: usize = 64;
const MAX_LIMITERS: usize = 256;
const MAX_LIMITED: usize = 65_536;

#[derive(Default)]
pub struct Shelves {
    tables: Mutex<BTreeMap<String, Arc<Shelf>>>,
    limiters: Mutex<BTreeMap<LimiterId, Arc<Limiter>>>,
}

impl Shelves {
    pub fn table(&self, name: &str) -> Result<Arc<Shelf>, String> {
        let mut tables = self.tables.lock();
        if tables.len() >= MAX_NAMES && !tables.contains_key(name) {
            return Err(format!("there are {MAX_NAMES} shared tables already; put what varies into the key"));
        }
        Ok(tables
            .entry(name.to_owned())
            .or_insert_with(|| Arc::new(Shelf(Layered::over(Bounded::new(MAX_ENTRIES, MAX_BYTES)))))
            .clone())
    }

    /// The limiter that every VM knows by the same id.
    pub fn limiter(&self, id: LimiterId, pace: Pace) -> Result<Arc<Limiter>, String> {
        let mut limiters = self.limiters.lock();
        if limiters.len() >= MAX_LIMITERS && !limiters.contains_key(&id) {
            return Err(format!("there are {MAX_LIMITERS} limiters already; put what varies into the key"));
        }
        let make = || Arc::new(Limiter { pace, full_at: Layered::over(Bounded::new(MAX_LIMITED, usize::MAX)) });
        Ok(limiters.entry(id).or_insert_with(make).clone())
    }

    /// Entries of tables and limiters that had to go before their time.
    pub fn evicted(&self) -> u64 {
        let tables: u64 = self.tables.lock().values().map(|table| table.0.evicted()).sum();
        tables + self.limiters.lock().values().map(|limiter| limiter.full_at.evicted()).sum::<u64>()
    }
}

/// One table of values.
pub struct Shelf(Layered<Json>);

/// How a value is to be put.
#[derive(Clone, Copy, Default)]
pub struct Put {
    pub ttl: Option<Duration>,
    pub if_absent: bool,
}

impl Put {
    pub fn until(&self, now: Micros) -> Micros {
        self.ttl.map_or(NEVER, |ttl| now.saturating_add(ttl.as_micros().try_into().unwrap_or(NEVER)))
    }
}

impl Shelf {
    pub fn get(&self, key: &Vec<u8>, now: Micros) -> Option<Json> {
        self.0.read(key, now, Json::clone)
    }

    /// None takes the value away. Whether it was done.
    pub fn set(&self, key: Vec<u8>, value: Option<Json>, put: Put, now: Micros) -> Result<bool, String> {
        let value = value.map(|value| entry(&key, value, put.until(now))).transpose()?;
        Ok(self.0.change(key, now, |old| match value {
            _ if put.if_absent && old.is_some() => (Change::Keep, false),
            Some(entry) => (Change::Put(entry), true),
            None => (Change::Remove, true),
        }))
    }

    /// A counter keeps the end that it was made with.
    pub fn incr(&self, key: Vec<u8>, by: f64, put: Put, now: Micros) -> Result<f64, String> {
        self.0.change(key, now, |old| {
            let until = old.as_ref().map_or(put.until(now), |old| old.until);
            match add(old.map(|old| &*old.value), by) {
                Ok((sum, value)) => (Change::Put(Entry { value, until, weight: 32 }), Ok(sum)),
                Err(why) => (Change::Keep, Err(why)),
            }
        })
    }

    /// Puts `new` if what is there is `old`.
    pub fn cas(
        &self,
        key: Vec<u8>,
        old: Option<&Json>,
        new: Option<Json>,
        put: Put,
        now: Micros,
    ) -> Result<bool, String> {
        let new = new.map(|new| entry(&key, new, put.until(now))).transpose()?;
        Ok(self.0.change(key, now, |found| match new {
            _ if found.map(|found| &*found.value) != old => (Change::Keep, false),
            Some(entry) => (Change::Put(entry), true),
            None => (Change::Remove, true),
        }))
    }

    /// Appends to a list; how long it is now.
    pub fn push(&self, key: Vec<u8>, value: Json, put: Put, now: Micros) -> Result<usize, String> {
        let added = weigh(&key, &value)?;
        self.0.change(key, now, |old| {
            let Some(old) = old else {
                let entry = Entry { value: Json::Array(vec![value]), until: put.until(now), weight: added };
                return (Change::Put(entry), Ok(1));
            };
            match old.value {
                Json::Array(list) if list.len() >= MAX_LIST => {
                    (Change::Keep, Err(format!("push: a list has at most {MAX_LIST} items")))
                }
                Json::Array(list) => {
                    let mut list = std::mem::take(list);
                    list.push(value);
                    let length = list.len();
                    let entry = Entry { value: Json::Array(list), until: old.until, weight: old.weight + added };
                    (Change::Put(entry), Ok(length))
                }
                other => (Change::Keep, Err(format!("push: there is {} and no list", describe(other)))),
            }
        })
    }

    /// Takes the oldest of a list.
    pub fn pop(&self, key: Vec<u8>, now: Micros) -> Result<Option<Json>, String> {
        let length = key.len();
        self.0.change(key, now, |old| {
            let Some(old) = old else { return (Change::Keep, Ok(None)) };
            match old.value {
                Json::Array(list) if list.len() <= 1 => (Change::Remove, Ok(list.pop())),
                Json::Array(list) => {
                    let mut list = std::mem::take(list);
                    let first = list.remove(0);
                    let weight = old.weight.saturating_sub(length + first.to_string().len() * 2);
                    (Change::Put(Entry { value: Json::Array(list), until: old.until, weight }), Ok(Some(first)))
                }
                other => (Change::Keep, Err(format!("pop: there is {} and no list", describe(other)))),
            }
        })
    }

    /// Keys that begin with `prefix`, in order, at most `count`.
    pub fn keys(&self, prefix: &[u8], count: usize, now: Micros) -> Vec<Vec<u8>> {
        let mut keys = Vec::new();
        self.0.for_each(now, |key, _| {
            if key.starts_with(prefix) {
                keys.push(key.clone());
            }
        });
        keys.sort_unstable();
        keys.truncate(count);
        keys
    }
}

fn entry(key: &[u8], value: Json, until: Micros) -> Result<Entry<Json>, String> {
    Ok(Entry { weight: weigh(key, &value)?, value, until })
}

/// About what a value takes up; an error if it is too large.
fn weigh(key: &[u8], value: &Json) -> Result<usize, String> {
    let length = value.to_string().len();
    if length > MAX_VALUE {
        return Err(format!("a value has at most {MAX_VALUE} bytes as JSON, this has {length}"));
    }
    Ok(key.len() + length * 2)
}

/// A number and a step, as a number and as JSON.
pub fn add(old: Option<&Json>, by: f64) -> Result<(f64, Json), String> {
    let old = match old {
        None => 0.0,
        Some(Json::Number(number)) => number.as_f64().unwrap_or(f64::NAN),
        Some(other) => return Err(format!("incr: there is {} and no number", describe(other))),
    };
    let sum = old + by;
    Ok((sum, number(sum).map_err(|_| "incr: the sum is no number any more")?))
}

/// Who made a limiter, and which of its own it is.
pub type LimiterId = (String, String, String, usize);

/// `burst` at once, then one every `step`.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    pub step: f64,
    pub burst: f64,
}

/// A bucket per key, by the generic cell rate algorithm: all that is kept is when the bucket will be full again.
pub struct Limiter {
    pace: Pace,
    /// In nanoseconds. A bucket that is full is as good as none, so an entry ends with it.
    full_at: Layered<u64>,
}

impl Limiter {
    pub fn burst(&self) -> f64 {
        self.pace.burst
    }

    /// Takes `n`, or says in how many milliseconds there will be so many.
    pub fn take(&self, key: Vec<u8>, n: f64, now: Micros) -> Result<(), u64> {
        let nanos = now.saturating_mul(1000);
        let (step, burst) = (self.pace.step, self.pace.burst);
        self.full_at.change(key, now, |full_at| {
            let full_at = full_at.map_or(nanos, |full_at| *full_at.value).max(nanos);
            // The tenth of a nanosecond makes up for roundings: three times a third is a whole.
            let next = full_at + (n * step).round() as u64;
            let allowed = nanos + (burst * step).round() as u64 + 1;
            if next > allowed {
                return (Change::Keep, Err((next - allowed).div_ceil(1_000_000)));
            }
            (Change::Put(Entry { value: next, until: next / 1000 + 1, weight: 0 }), Ok(()))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limiter_lets_a_burst_through_and_then_its_rate() {
        let pace = Pace { step: 1e9 / 3.0, burst: 3.0 };
        let limiter = Shelves::default().limiter(("p".into(), "x:1".into(), "".into(), 0), pace).unwrap();
        let take = |n, millis: u64| limiter.take(b"k".to_vec(), n, millis * 1000);
        assert_eq!([take(1.0, 0), take(2.0, 0)], [Ok(()), Ok(())]);
        assert_eq!(take(1.0, 0), Err(334));
        assert_eq!(take(1.0, 333), Err(1));
        assert_eq!(take(1.0, 334), Ok(()));
        assert_eq!(take(3.0, 1000), Err(334));
        assert_eq!(limiter.take(b"other".to_vec(), 3.0, 0), Ok(()));
        // In the long run it is the rate.
        let taken = (2000..12_000).filter(|millis| take(1.0, *millis).is_ok()).count();
        assert!((30..=33).contains(&taken), "{taken}");
    }

    #[test]
    fn counters_from_many_threads_lose_nothing() {
        let shelf = Shelves::default().table("t").unwrap();
        std::thread::scope(|threads| {
            for _ in 0..4 {
                threads.spawn(|| {
                    for _ in 0..1000 {
                        shelf.incr(b"n".to_vec(), 1.0, Put::default(), 0).unwrap();
                        let old = || shelf.get(&b"c".to_vec(), 0);
                        loop {
                            let found = old();
                            let next = add(found.as_ref(), 1.0).unwrap().1;
                            if shelf.cas(b"c".to_vec(), found.as_ref(), Some(next), Put::default(), 0).unwrap() {
                                break;
                            }
                        }
                    }
                });
            }
        });
        for key in [b"n", b"c"] {
            assert_eq!(shelf.get(&key.to_vec(), 0).unwrap().as_f64(), Some(4000.0));
        }
    }
}
