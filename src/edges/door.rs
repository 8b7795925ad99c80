//! Who may come in: how many connections, how many of one address, how many in a second.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::load::tenants::{Seat, Tenants};
use super::wire::Fault;

/// What the operator has set; 0 in the last two sets no bound.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    pub connections: usize,
    pub per_ip: usize,
    pub per_second: usize,
}

/// The setting that keeps somebody out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Full {
    Connections,
    PerIp,
    PerSecond,
    /// Not a setting of ours: the limit of open files.
    Files,
}

impl Full {
    fn setting(self) -> &'static str {
        match self {
            Full::Connections => "limits.connections",
            Full::PerIp => "limits.connections_per_ip",
            Full::PerSecond => "limits.handshakes_per_second",
            Full::Files => "the limit of open files: ulimit -n",
        }
    }
}

pub struct Door {
    limits: Limits,
    /// When the hub is full its operator still gets in.
    pub is_operators: bool,
    inside: AtomicUsize,
    /// Only addresses that have a connection are here, so it is no larger than `inside`.
    by_ip: Mutex<HashMap<IpAddr, usize>>,
    bucket: Mutex<Bucket>,
    turned_away: AtomicU64,
    rests: AtomicU64,
    last_said: Mutex<Option<Instant>>,
}

/// A connection's place inside; whoever holds the socket holds it, and it is free again when it is dropped.
pub struct Permit {
    door: Arc<Door>,
    /// The address that it counts for; none where it counts for no address.
    ip: Option<IpAddr>,
    /// Whether it counts for `limits.connections`.
    whole: bool,
    /// For a client of a proxy: the place of the proxy's connection.
    _of_proxy: Option<Arc<Permit>>,
    /// Its place among its tenant's, once it is known whose it is.
    seat: Mutex<Option<Seat>>,
}

impl Permit {
    /// Whose connection this is. It counts for one tenant at a time.
    pub fn sit(&self, tenants: &Arc<Tenants>, tenant: &str) -> Result<(), Fault> {
        let mut seat = self.seat.lock();
        if !seat.as_ref().is_some_and(|seat| seat.is_of(tenant)) {
            *seat = None;
            *seat = Some(tenants.enter(tenant)?);
        }
        Ok(())
    }
}

impl Door {
    pub fn new(limits: Limits) -> Arc<Door> {
        Door::of(limits, false)
    }

    pub fn for_operator(limits: Limits) -> Arc<Door> {
        Door::of(limits, true)
    }

    fn of(limits: Limits, is_operators: bool) -> Arc<Door> {
        let bucket = Bucket { tokens: limits.per_second as f64, filled: Instant::now() };
        Arc::new(Door {
            limits,
            is_operators,
            inside: AtomicUsize::new(0),
            by_ip: Mutex::default(),
            bucket: Mutex::new(bucket),
            turned_away: AtomicU64::new(0),
            rests: AtomicU64::new(0),
            last_said: Mutex::new(None),
        })
    }

    /// A new connection. A proxy's own address is not counted: everybody comes from there.
    pub fn admit(self: &Arc<Self>, peer: IpAddr, is_proxy: bool) -> Result<Permit, Full> {
        self.enter(peer, is_proxy).inspect_err(|full| self.note(*full, peer))
    }

    /// A client that a proxy names, on the proxy's connection.
    pub fn admit_behind(self: &Arc<Self>, client: IpAddr, proxy: &Arc<Permit>) -> Result<Permit, Full> {
        let ip = self.count_ip(client).inspect_err(|full| self.note(*full, client))?;
        Ok(Permit { door: self.clone(), ip, whole: false, _of_proxy: Some(proxy.clone()), seat: Mutex::default() })
    }

    /// Connections and requests that were kept out.
    pub fn turned_away(&self) -> u64 {
        self.turned_away.load(Ordering::Relaxed)
    }

    /// Notes that somebody is kept out for a reason that is not the door's own.
    pub fn turns_away(&self, why: Full, peer: IpAddr) -> Full {
        self.note(why, peer);
        why
    }

    /// Nobody can be let in for a moment.
    pub fn rests(&self) {
        self.rests.fetch_add(1, Ordering::Relaxed);
    }

    pub fn rested(&self) -> u64 {
        self.rests.load(Ordering::Relaxed)
    }

    fn enter(self: &Arc<Self>, peer: IpAddr, is_proxy: bool) -> Result<Permit, Full> {
        let rate = self.limits.per_second;
        if rate > 0 && !self.bucket.lock().take(rate as f64, Instant::now()) {
            return Err(Full::PerSecond);
        }
        let below = |count: usize| (count < self.limits.connections).then_some(count + 1);
        if self.inside.fetch_update(Ordering::Relaxed, Ordering::Relaxed, below).is_err() {
            return Err(Full::Connections);
        }
        // From here on the permit gives the place back.
        let mut permit = Permit { door: self.clone(), ip: None, whole: true, _of_proxy: None, seat: Mutex::default() };
        if !is_proxy {
            permit.ip = self.count_ip(peer)?;
        }
        Ok(permit)
    }

    fn count_ip(&self, ip: IpAddr) -> Result<Option<IpAddr>, Full> {
        if self.limits.per_ip == 0 {
            return Ok(None);
        }
        let ip = household(ip);
        let mut by_ip = self.by_ip.lock();
        let count = by_ip.entry(ip).or_default();
        if *count >= self.limits.per_ip {
            return Err(Full::PerIp);
        }
        *count += 1;
        Ok(Some(ip))
    }

    /// Counts it, and says it at most once a second: a flood must not become a flood of lines.
    fn note(&self, full: Full, ip: IpAddr) {
        let turned_away = self.turned_away.fetch_add(1, Ordering::Relaxed) + 1;
        let mut last = self.last_said.lock();
        if last.is_none_or(|at| at.elapsed() > Duration::from_secs(1)) {
            *last = Some(Instant::now());
            tracing::warn!(%ip, turned_away, "too many connections ({})", full.setting());
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if self.whole {
            self.door.inside.fetch_sub(1, Ordering::Relaxed);
        }
        if let Some(ip) = self.ip {
            let mut by_ip = self.door.by_ip.lock();
            if let Some(count) = by_ip.get_mut(&ip) {
                *count -= 1;
                if *count == 0 {
                    by_ip.remove(&ip);
                }
            }
        }
    }
}

/// What counts as one address: of IPv6 a network of 64 bits, which is what one customer is given.
fn household(ip: IpAddr) -> IpAddr {
    match ip.to_canonical() {
        IpAddr::V6(ip) => {
            let [a, b, c, d, ..] = ip.segments();
            IpAddr::V6(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0))
        }
        v4 => v4,
    }
}

/// As many tokens as a second brings; each connection takes one.
struct Bucket {
    tokens: f64,
    filled: Instant,
}

impl Bucket {
    fn take(&mut self, rate: f64, now: Instant) -> bool {
        let since = now.saturating_duration_since(self.filled).as_secs_f64();
        self.tokens = (self.tokens + since * rate).min(rate);
        self.filled = now;
        if self.tokens < 1.0 {
            return false;
        }
        self.tokens -= 1.0;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn a_place_is_free_again_when_its_connection_is_gone_and_not_before() {
        let door = Door::new(Limits { connections: 3, per_ip: 2, per_second: 0 });
        let first = door.admit(ip("10.0.0.1"), false).ok();
        let _second = door.admit(ip("::ffff:10.0.0.1"), false).ok();
        assert_eq!(door.admit(ip("10.0.0.1"), false).err(), Some(Full::PerIp), "who was refused keeps no place");
        let _third = door.admit(ip("10.0.0.2"), false).ok();
        assert_eq!(door.admit(ip("10.0.0.3"), false).err(), Some(Full::Connections));
        drop(first);
        assert!(door.admit(ip("10.0.0.1"), false).is_ok());
        assert_eq!(door.turned_away(), 2);
        drop((_second, _third));
        assert!(door.by_ip.lock().is_empty() && door.inside.load(Ordering::Relaxed) == 0);
    }

    #[test]
    fn an_ipv6_network_is_one_address() {
        let door = Door::new(Limits { connections: 9, per_ip: 1, per_second: 0 });
        let _held = door.admit(ip("2001:db8::1"), false).ok();
        assert_eq!(door.admit(ip("2001:db8::2"), false).err(), Some(Full::PerIp));
        assert!(door.admit(ip("2001:db8:0:1::1"), false).is_ok());
    }

    #[test]
    fn the_clients_of_a_proxy_are_counted_and_the_proxy_is_not() {
        let door = Door::new(Limits { connections: 3, per_ip: 1, per_second: 0 });
        let proxy: Vec<_> = (0..2).map(|_| Arc::new(door.admit(ip("10.0.0.1"), true).ok().unwrap())).collect();
        let client = door.admit_behind(ip("1.2.3.4"), &proxy[0]).ok();
        assert_eq!(door.admit_behind(ip("1.2.3.4"), &proxy[1]).err(), Some(Full::PerIp));
        drop(client);
        assert!(door.admit_behind(ip("1.2.3.4"), &proxy[1]).is_ok());
    }

    #[test]
    fn a_second_brings_as_many_tokens_as_were_set_and_no_store_of_them() {
        let began = Instant::now();
        let mut bucket = Bucket { tokens: 5.0, filled: began };
        let mut taken = |at: u64| (0..20).filter(|_| bucket.take(5.0, began + Duration::from_secs(at))).count();
        assert_eq!((taken(0), taken(1), taken(100)), (5, 5, 5));
    }
}
