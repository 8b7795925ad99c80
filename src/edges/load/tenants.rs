//! Tenants, side by side: how many connections each may have, and whose turns come later while there are not enough for all.
//!
//! A tenant is an opaque name in a client's identity; those without one are one tenant together. While nothing is scarce
//! nobody is held back.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use serde_json::json;

use crate::edges::wire::Fault;

/// From this part of all places on, nobody may have more than a fair share of them.
const SCARCE: f64 = 0.9;
/// Who has written more than its share by this much is held back.
const SLACK: f64 = 1.25;
/// How long a connection of a tenant that is held back waits between its turns, in milliseconds.
const SHORTEST: u32 = 5;
const LONGEST: u32 = 500;
/// How many of the largest are shown.
const SHOWN: usize = 5;

pub struct Tenants {
    /// Connections of one tenant; 0: no bound.
    most: usize,
    /// Connections of all.
    places: usize,
    inside: AtomicUsize,
    /// Those that have a connection: no more than there are places.
    known: Mutex<HashMap<Box<str>, Arc<Tenant>>>,
    refused: AtomicU64,
    held_back: AtomicUsize,
}

/// One of them, as its connections see it.
pub struct Tenant {
    name: Box<str>,
    connections: AtomicUsize,
    /// Bytes since the last look, and those of a second.
    written: AtomicU64,
    rate: AtomicU64,
    pause: AtomicU32,
}

/// A connection's place among its tenant's; free again when it is dropped.
pub struct Seat {
    tenants: Arc<Tenants>,
    tenant: Arc<Tenant>,
}

impl Tenants {
    pub fn new(most: usize, places: usize) -> Arc<Tenants> {
        Arc::new(Tenants {
            most,
            places,
            inside: AtomicUsize::new(0),
            known: Mutex::default(),
            refused: AtomicU64::new(0),
            held_back: AtomicUsize::new(0),
        })
    }

    pub fn enter(self: &Arc<Self>, name: &str) -> Result<Seat, Fault> {
        let mut known = self.known.lock();
        let has = known.get(name).map_or(0, |tenant| tenant.connections.load(Ordering::Relaxed));
        let tenants = known.len() + usize::from(has == 0);
        // Nobody chose to be without a tenant together.
        let bound = if name.is_empty() || self.most == 0 { usize::MAX } else { self.most };
        let is_scarce = self.inside.load(Ordering::Relaxed) as f64 >= self.places as f64 * SCARCE;
        let fair = if is_scarce { (self.places / tenants).max(1) } else { usize::MAX };
        if has >= bound || (tenants > 1 && has >= fair) {
            self.refused.fetch_add(1, Ordering::Relaxed);
            return Err(Fault::TenantFull);
        }
        let tenant = known.entry(name.into()).or_insert_with(|| Arc::new(Tenant::new(name))).clone();
        tenant.connections.fetch_add(1, Ordering::Relaxed);
        self.inside.fetch_add(1, Ordering::Relaxed);
        Ok(Seat { tenants: self.clone(), tenant })
    }

    /// The one of this name, if it is here.
    pub fn of(&self, name: Option<&str>) -> Option<Arc<Tenant>> {
        self.known.lock().get(name.unwrap_or_default()).cloned()
    }

    /// Looks at what each has written in `elapsed`. While `scarce`, who has written more than a fair share waits longer and
    /// longer between turns; what its readers then miss they get in fewer and larger ones.
    pub fn share(&self, elapsed: Duration, scarce: bool) {
        let known = self.known.lock();
        let spent: Vec<_> = known.values().map(|tenant| (tenant, tenant.written.swap(0, Ordering::Relaxed))).collect();
        let active = spent.iter().filter(|(_, bytes)| *bytes > 0).count();
        let fair = spent.iter().map(|(_, bytes)| *bytes as f64).sum::<f64>() / active.max(1) as f64;
        let mut held_back = 0;
        for (tenant, bytes) in spent {
            tenant.rate.store((bytes as f64 / elapsed.as_secs_f64()) as u64, Ordering::Relaxed);
            let before = tenant.pause.load(Ordering::Relaxed);
            let pause = match scarce && active > 1 && bytes as f64 > fair * SLACK {
                true => (before * 2).clamp(SHORTEST, LONGEST),
                false if before > SHORTEST => before / 2,
                false => 0,
            };
            tenant.pause.store(pause, Ordering::Relaxed);
            held_back += usize::from(pause > 0);
        }
        self.held_back.store(held_back, Ordering::Relaxed);
    }

    pub fn status(&self) -> serde_json::Value {
        let known = self.known.lock();
        let mut all: Vec<_> = known.values().map(|tenant| (tenant.rate.load(Ordering::Relaxed), tenant)).collect();
        all.sort_by(|a, b| b.0.cmp(&a.0).then_with(|| a.1.name.cmp(&b.1.name)));
        let shown = |(rate, tenant): &(u64, &Arc<Tenant>)| {
            json!({
                "tenant": tenant.name,
                "connections": tenant.connections.load(Ordering::Relaxed),
                "bytes_per_second": rate,
                "pause_ms": tenant.pause.load(Ordering::Relaxed),
            })
        };
        json!({ "connected": all.len(), "largest": all.iter().take(SHOWN).map(shown).collect::<Vec<_>>() })
    }

    pub fn figures(&self) -> [(&'static str, &'static str, &'static str, f64); 3] {
        let connected = self.known.lock().len() as f64;
        let (held_back, refused) = (self.held_back.load(Ordering::Relaxed), self.refused.load(Ordering::Relaxed));
        [
            ("aether_tenants_connected", "gauge", "Tenants that have a connection", connected),
            ("aether_tenants_held_back", "gauge", "Tenants whose turns come later now", held_back as f64),
            ("aether_tenants_refused_total", "counter", "Connections beyond a tenant's bound or share", refused as f64),
        ]
    }
}

impl Tenant {
    fn new(name: &str) -> Tenant {
        Tenant {
            name: name.into(),
            connections: AtomicUsize::new(0),
            written: AtomicU64::new(0),
            rate: AtomicU64::new(0),
            pause: AtomicU32::new(0),
        }
    }

    pub fn wrote(&self, bytes: usize) {
        self.written.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// How long a connection waits for its next turn; none: not at all.
    pub fn pause(&self) -> Option<Duration> {
        let pause = self.pause.load(Ordering::Relaxed);
        (pause > 0).then(|| Duration::from_millis(pause.into()))
    }
}

impl Seat {
    pub fn is_of(&self, name: &str) -> bool {
        &*self.tenant.name == name
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut known = self.tenants.known.lock();
        self.tenants.inside.fetch_sub(1, Ordering::Relaxed);
        if self.tenant.connections.fetch_sub(1, Ordering::Relaxed) == 1 {
            known.remove(&self.tenant.name);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn enter(tenants: &Arc<Tenants>, name: &str, count: usize) -> Vec<Seat> {
        (0..count).map_while(|_| tenants.enter(name).ok()).collect()
    }

    #[test]
    fn a_tenant_has_no_more_than_its_bound_and_who_has_none_is_not_bound() {
        let tenants = Tenants::new(3, 1000);
        let mut a = enter(&tenants, "a", 9);
        assert_eq!((a.len(), enter(&tenants, "b", 9).len(), enter(&tenants, "", 9).len()), (3, 3, 9));
        a.pop();
        assert_eq!(enter(&tenants, "a", 9).len(), 1);
        drop(a);
        assert!(tenants.known.lock().is_empty() && tenants.inside.load(Ordering::Relaxed) == 0);
    }

    #[test]
    fn while_places_are_scarce_nobody_gets_more_than_a_fair_share_of_them() {
        let tenants = Tenants::new(0, 100);
        let small = enter(&tenants, "small", 2);
        let storm = enter(&tenants, "storm", 200);
        assert_eq!(storm.len(), 88, "all that is not scarce is anybody's");
        assert_eq!(enter(&tenants, "small", 8).len(), 8, "and the rest is for those who have little");
        drop((small, storm));
        let alone = enter(&tenants, "alone", 200);
        assert_eq!(alone.len(), 200, "alone it has nobody to share with: the door says when it is full");
    }

    #[test]
    fn who_writes_more_than_a_fair_share_waits_between_turns_while_it_is_tight_and_only_then() {
        let tenants = Tenants::new(0, 100);
        let _seats = (enter(&tenants, "storm", 1), enter(&tenants, "quiet", 1));
        let (storm, quiet) = (tenants.of(Some("storm")).unwrap(), tenants.of(Some("quiet")).unwrap());
        let second = Duration::from_secs(1);
        let mut pauses = Vec::new();
        for round in 0..12 {
            storm.wrote(1_000_000);
            quiet.wrote(10_000);
            tenants.share(second, (2..8).contains(&round));
            assert_eq!(quiet.pause(), None, "round {round}");
            pauses.push(storm.pause().map_or(0, |pause| pause.as_millis()));
        }
        assert_eq!(pauses, [0, 0, 5, 10, 20, 40, 80, 160, 80, 40, 20, 10]);
    }

    #[test]
    fn one_tenant_alone_is_never_held_back() {
        let tenants = Tenants::new(0, 100);
        let _seat = enter(&tenants, "", 1);
        let alone = tenants.of(None).unwrap();
        alone.wrote(1_000_000);
        tenants.share(Duration::from_secs(1), true);
        assert_eq!(alone.pause(), None);
    }
}
