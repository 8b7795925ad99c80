//! A decision without consequences: what it changes lies over what is there, and goes with it.

use std::any::Any;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use serde_json::Value as Json;

use super::trace::{Read, Told, rehearsing};
use crate::kernel::message::Micros;
use crate::plugins::kept::bounded::{Bounded, Change, Found};

/// Keys that one rehearsal may change; a rule that changes more is told that it cannot.
const MAX_CHANGED: usize = 10_000;

/// What has become of a key: a value and when it ends, or nothing.
type Changed = Option<(Arc<Json>, Micros)>;

#[derive(Default)]
pub struct Rehearsal {
    /// When it is.
    pub now: Micros,
    /// What another run was told. A question that was asked then is answered again as it was, each as often as it came.
    known: VecDeque<Read>,
    kv: BTreeMap<Vec<u8>, Changed>,
    /// By where the entry lies.
    tables: BTreeMap<(usize, Vec<u8>), Option<Held>>,
}

/// A value of whatever the table holds.
struct Held {
    value: Box<dyn Any + Send>,
    until: Micros,
    weight: usize,
}

impl Rehearsal {
    pub fn at(now: Micros) -> Rehearsal {
        Rehearsal { now, ..Rehearsal::default() }
    }

    pub fn knowing(self, known: impl IntoIterator<Item = Read>) -> Rehearsal {
        Rehearsal { known: known.into_iter().collect(), ..self }
    }

    /// What the other run was told when it asked this.
    pub fn known(&mut self, read: &Read) -> Option<Told> {
        let same = |known: &Read| {
            (known.call, &known.of, &known.key, &known.with) == (read.call, &read.of, &read.key, &read.with)
        };
        let at = self.known.iter().position(same)?;
        self.known.remove(at).map(|read| read.told)
    }

    /// What has become of a key: none if nothing has.
    pub fn kv(&self, key: &[u8]) -> Option<Changed> {
        self.kv.get(key).cloned()
    }

    pub fn put_kv(&mut self, key: &[u8], value: Changed) -> Result<(), String> {
        if self.kv.len() >= MAX_CHANGED {
            return Err(format!("a rehearsal changes at most {MAX_CHANGED} keys"));
        }
        self.kv.insert(key.to_vec(), value);
        Ok(())
    }

    /// What has changed below `prefix`.
    pub fn kv_below(&self, prefix: &[u8]) -> Vec<(Vec<u8>, Changed)> {
        let from = self.kv.range(prefix.to_vec()..);
        from.take_while(|(key, _)| key.starts_with(prefix)).map(|(key, value)| (key.clone(), value.clone())).collect()
    }
}

/// A table whose changes in a rehearsal are not real.
pub struct Layered<V>(Bounded<Vec<u8>, V>);

impl<V: Clone + Send + 'static> Layered<V> {
    pub fn over(real: Bounded<Vec<u8>, V>) -> Layered<V> {
        Layered(real)
    }

    pub fn evicted(&self) -> u64 {
        self.0.evicted()
    }

    pub fn read<R>(&self, key: &Vec<u8>, now: Micros, read: impl FnOnce(&V) -> R) -> Option<R> {
        match self.lifted(key) {
            None => self.0.read(key, now, read),
            Some(held) => held.filter(|(_, until, _)| *until > now).map(|(value, ..)| read(&value)),
        }
    }

    pub fn change<R>(
        &self,
        key: Vec<u8>,
        now: Micros,
        change: impl FnOnce(Option<Found<'_, V>>) -> (Change<V>, R),
    ) -> R {
        if !super::trace::is_rehearsal() {
            return self.0.change(key, now, change);
        }
        let held = self.lifted(&key).unwrap_or_else(|| self.0.copy(&key, now)).filter(|(_, until, _)| *until > now);
        let mut held = held;
        let found = held.as_mut().map(|(value, until, weight)| Found { value, until: *until, weight: *weight });
        let (change, answer) = change(found);
        let becomes = match change {
            Change::Keep => return answer,
            Change::Put(entry) => Some(Held { value: Box::new(entry.value), until: entry.until, weight: entry.weight }),
            Change::Remove => None,
        };
        rehearsing(|rehearsal| {
            if rehearsal.tables.len() < MAX_CHANGED {
                rehearsal.tables.insert((self.place(), key), becomes);
            }
        });
        answer
    }

    pub fn for_each(&self, now: Micros, mut look: impl FnMut(&Vec<u8>, &V)) {
        let place = self.place();
        let changed: BTreeMap<Vec<u8>, bool> = rehearsing(|rehearsal| {
            let own = rehearsal.tables.range((place, Vec::new())..).take_while(|((at, _), _)| *at == place);
            own.map(|((_, key), held)| (key.clone(), held.as_ref().is_some_and(|held| held.until > now))).collect()
        })
        .unwrap_or_default();
        self.0.for_each(now, |key, value| {
            if !changed.contains_key(key) {
                look(key, value);
            }
        });
        for key in changed.iter().filter(|(_, there)| **there).map(|(key, _)| key) {
            if let Some(Some((value, ..))) = self.lifted(key) {
                look(key, &value);
            }
        }
    }

    /// What the rehearsal has made of a key.
    fn lifted(&self, key: &[u8]) -> Option<Option<(V, Micros, usize)>> {
        rehearsing(|rehearsal| {
            let held = rehearsal.tables.get(&(self.place(), key.to_vec()))?;
            Some(held.as_ref().and_then(|held| {
                let value = held.value.downcast_ref::<V>()?;
                Some((value.clone(), held.until, held.weight))
            }))
        })
        .flatten()
    }

    /// Stands for this table; it lives as long as the process does.
    fn place(&self) -> usize {
        std::ptr::from_ref(self).addr()
    }
}
