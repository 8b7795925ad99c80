//! What functions returned lately, for all VMs: `aether.memo`.
//!
//! Whoever misses an answer first flies; whoever wants the same meanwhile waits for that flight to land, in whichever VM
//! it is. So a thousand hooks that want one thing at once ask for it once.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use rustc_hash::FxHashMap;
use serde_json::Value as Json;
use tokio::sync::watch;

use crate::kernel::message::Micros;
use crate::plugins::kept::bounded::{Bounded, Entry};

/// Of all plugins. The next one is an error where it is made.
const MAX_MEMOS: usize = 256;
/// Bytes of one memo; beyond, the oldest go.
const MAX_BYTES: usize = 16 << 20;
/// Flights of one memo at once. The next one is an error in the hook that wants it.
const MAX_FLIGHTS: usize = 10_000;
/// How long it is remembered that there was nothing: somebody may be about to mend it.
const NOTHING: Duration = Duration::from_secs(1);

pub type Values = Arc<Vec<Json>>;
type Landed = Option<Result<Values, String>>;

/// By plugin and name, so that they outlive a generation.
#[derive(Default)]
pub struct Memos(Mutex<FxHashMap<(String, String), Arc<Memo>>>);

pub struct Memo {
    capacity: usize,
    kept: Bounded<Vec<u8>, Kept>,
    flights: Mutex<FxHashMap<Vec<u8>, watch::Receiver<Landed>>>,
}

struct Kept {
    values: Values,
    fresh_until: Micros,
}

/// How long values are good.
#[derive(Clone, Copy)]
pub struct Times {
    pub ttl: Duration,
    /// How long after that they will do while a new one is fetched.
    pub stale: Duration,
}

pub enum Looked {
    Known(Values),
    /// It will do, and whoever asked is to fetch a new one, unless somebody does.
    Stale(Values, Option<Flight>),
    /// Somebody fetches it.
    Flying(Arrival),
    /// Whoever asked is to fetch it.
    Missing(Flight, Arrival),
}

/// A call that is under way. Dropped before it lands it tells those who wait that nothing comes.
pub struct Flight {
    memo: Arc<Memo>,
    key: Vec<u8>,
    times: Times,
    landed: watch::Sender<Landed>,
}

pub struct Arrival(watch::Receiver<Landed>);

impl Memos {
    pub fn open(&self, plugin: &str, name: &str, capacity: usize) -> Result<Arc<Memo>, String> {
        let mut memos = self.0.lock();
        let id = (plugin.to_owned(), name.to_owned());
        if let Some(memo) = memos.get(&id).filter(|memo| memo.capacity == capacity) {
            return Ok(memo.clone());
        }
        if memos.len() >= MAX_MEMOS && !memos.contains_key(&id) {
            return Err(format!("there are {MAX_MEMOS} memos already, which is as many as there may be"));
        }
        let kept = Bounded::new(capacity, MAX_BYTES);
        let memo = Arc::new(Memo { capacity, kept, flights: Mutex::default() });
        memos.insert(id, memo.clone());
        Ok(memo)
    }
}

impl Memo {
    /// What it has, as long as that will do.
    pub fn known(&self, key: &Vec<u8>, now: Micros) -> Option<Values> {
        self.kept.read(key, now, |kept| kept.values.clone())
    }

    pub fn look(self: &Arc<Self>, key: Vec<u8>, times: Times, now: Micros) -> Result<Looked, String> {
        let known = |key: &Vec<u8>| self.kept.read(key, now, |kept| (kept.values.clone(), kept.fresh_until > now));
        if let Some((values, true)) = known(&key) {
            return Ok(Looked::Known(values));
        }
        let mut flights = self.flights.lock();
        // A flight lands in `kept` before it leaves `flights`: looked at in this order, nothing falls between.
        let (values, stale) = match known(&key) {
            Some((values, true)) => return Ok(Looked::Known(values)),
            Some((values, false)) => (Some(values), true),
            None => (None, false),
        };
        if let Some(flight) = flights.get(&key) {
            return Ok(match values {
                Some(values) => Looked::Stale(values, None),
                None => Looked::Flying(Arrival(flight.clone())),
            });
        }
        if flights.len() >= MAX_FLIGHTS {
            return match values {
                Some(values) if stale => Ok(Looked::Stale(values, None)),
                _ => Err(format!("{MAX_FLIGHTS} calls of it are under way already")),
            };
        }
        let (landed, arrival) = watch::channel(None);
        flights.insert(key.clone(), arrival.clone());
        let flight = Flight { memo: self.clone(), key, times, landed };
        Ok(match values {
            Some(values) => Looked::Stale(values, Some(flight)),
            None => Looked::Missing(flight, Arrival(arrival)),
        })
    }
}

impl Flight {
    /// An error is told to those who wait and not remembered.
    pub fn land(self, values: Result<Vec<Json>, String>, now: Micros) {
        let values = values.map(Arc::new);
        if let Ok(values) = &values {
            let Times { ttl, stale } = self.times;
            let nothing = values.first().is_none_or(Json::is_null);
            let (ttl, stale) = if nothing { (ttl.min(NOTHING), Duration::ZERO) } else { (ttl, stale) };
            let after = |time: Duration| now.saturating_add(time.as_micros() as Micros);
            let weight = self.key.len() + values.iter().map(weigh).sum::<usize>();
            let kept = Kept { values: values.clone(), fresh_until: after(ttl) };
            self.memo.kept.insert(self.key.clone(), Entry { value: kept, until: after(ttl + stale), weight }, now);
        }
        self.leave();
        self.landed.send_replace(Some(values));
    }

    fn leave(&self) {
        self.memo.flights.lock().remove(&self.key);
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        if self.landed.borrow().is_none() {
            self.leave();
            self.landed.send_replace(Some(Err("the call that fetched it was cut off".into())));
        }
    }
}

impl Arrival {
    pub async fn values(mut self) -> Result<Values, String> {
        let gone = || Err("the call that fetched it is gone".into());
        match self.0.wait_for(Option::is_some).await {
            Ok(landed) => landed.clone().unwrap_or_else(gone),
            Err(_) => gone(),
        }
    }
}

/// About the bytes in memory.
fn weigh(json: &Json) -> usize {
    32 + match json {
        Json::String(text) => text.len(),
        Json::Array(items) => items.iter().map(weigh).sum(),
        Json::Object(map) => map.iter().map(|(key, value)| key.len() + 32 + weigh(value)).sum(),
        _ => 0,
    }
}
