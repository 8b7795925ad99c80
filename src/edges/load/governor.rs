//! When those who leave or are refused may come back: each at a time of its own, and no more in a second than can be let in.
//!
//! The times are places in a line, as far apart as the hub has been seen to need for one client. Who is told to come back
//! takes the next place.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use super::Limits;
use crate::edges::wire::Ending;

/// What a hub is taken to manage that has not had to show it yet, in clients a second.
const UNTRIED: f64 = 1000.0;
/// However slow letting in was: it has to be tried to become faster.
const SLOWEST: f64 = 10.0;
/// What was slow once may be quick again: so much more a second is tried while nobody waits.
const RECOVERY: f64 = 1.02;
/// Clients may wait for the rules for a moment without being a queue.
const FEW: u64 = 32;
/// Nobody comes back before this: the hub needs a moment too.
const LEAST: Duration = Duration::from_millis(500);
/// Who asked in vain without end stays away at least so long, and at most twice that.
const PENANCE: f64 = 10_000.0;

pub struct Governor {
    limits: Limits,
    line: Mutex<Line>,
    /// Clients that are being let in at this moment, and those who were since the last look.
    arriving: AtomicU64,
    arrived: AtomicU64,
    told: AtomicU64,
}

struct Line {
    /// Clients a second that can be let in, as far as is known.
    measured: f64,
    /// The first place that nobody has.
    next: Option<Instant>,
    dice: u64,
}

/// Somebody is being let in, until this is dropped.
pub struct Arrival<'a>(&'a Governor);

impl Governor {
    /// The same seed and the same moments give the same times.
    pub fn new(limits: Limits, seed: u64) -> Governor {
        Governor {
            limits,
            line: Mutex::new(Line { measured: UNTRIED, next: None, dice: seed | 1 }),
            arriving: AtomicU64::new(0),
            arrived: AtomicU64::new(0),
            told: AtomicU64::new(0),
        }
    }

    pub fn arrival(&self) -> Arrival<'_> {
        self.arriving.fetch_add(1, Ordering::Relaxed);
        Arrival(self)
    }

    /// Learns from the second that has passed what can be let in. A queue shows what the hub can do; without one it can do
    /// at least what it has done.
    pub fn learn(&self) {
        let done = self.arrived.swap(0, Ordering::Relaxed) as f64;
        let waiting = self.arriving.load(Ordering::Relaxed);
        let mut line = self.line.lock();
        if waiting > FEW && waiting as f64 > done / 2.0 {
            line.measured = ((line.measured + done) / 2.0).max(SLOWEST);
        } else {
            let recovered = (line.measured * RECOVERY).min(UNTRIED);
            line.measured = line.measured.max(done).max(recovered);
        }
    }

    /// Clients that may be told to come back in one second.
    pub fn rate(&self) -> f64 {
        self.rate_of(&self.line.lock())
    }

    fn rate_of(&self, line: &Line) -> f64 {
        let most = match self.limits.handshakes_per_second {
            0 => f64::INFINITY,
            most => most as f64,
        };
        match self.limits.returns_per_second {
            0 => line.measured.min(most),
            set => (set as f64).min(most),
        }
    }

    /// When the next one may come back, from now on.
    pub fn place(&self) -> Duration {
        self.place_at(Instant::now())
    }

    fn place_at(&self, now: Instant) -> Duration {
        self.told.fetch_add(1, Ordering::Relaxed);
        let mut line = self.line.lock();
        let gap = 1.0 / self.rate_of(&line);
        let first = now + LEAST;
        let window = self.limits.return_window.saturating_sub(LEAST);
        // At the end of the window it begins anew: too many are then told the same second, but evenly.
        let next = line.next.filter(|next| *next > first && *next - first < window).unwrap_or(first);
        line.next = Some(next + Duration::from_secs_f64(gap));
        let within = line.roll() * gap;
        let after = next + Duration::from_secs_f64(within) - now;
        after.min(self.limits.return_window.max(LEAST))
    }

    /// In milliseconds, for who leaves; none: not with what it has shown.
    pub fn after(&self, why: Ending) -> Option<u64> {
        match why {
            Ending::Lagged => Some(0),
            Ending::Draining | Ending::Squeezed | Ending::Store => Some(self.place().as_millis() as u64),
            Ending::Refused => Some((PENANCE * (1.0 + self.line.lock().roll())) as u64),
            _ => None,
        }
    }

    /// How long the `nth` of the clients that are here waits when the hub vanishes without a word: they were not told
    /// anything then, so this is told when they come.
    pub fn unasked(&self, nth: u64, least: Duration, spread: Duration) -> Duration {
        let spread = spread.as_secs_f64();
        let place = nth as f64 / self.rate();
        least + Duration::from_secs_f64(if spread > 0.0 { place % spread } else { 0.0 })
    }

    pub fn figures(&self) -> [(&'static str, &'static str, &'static str, f64); 2] {
        let told = self.told.load(Ordering::Relaxed) as f64;
        [
            ("aether_returns_per_second", "gauge", "Clients a second that are told to come back", self.rate()),
            ("aether_returns_told_total", "counter", "Clients that were told when to come back", told),
        ]
    }
}

impl Line {
    /// From 0 to less than 1.
    fn roll(&mut self) -> f64 {
        self.dice ^= self.dice << 13;
        self.dice ^= self.dice >> 7;
        self.dice ^= self.dice << 17;
        (self.dice >> 11) as f64 / (1u64 << 53) as f64
    }
}

impl Drop for Arrival<'_> {
    fn drop(&mut self) {
        self.0.arriving.fetch_sub(1, Ordering::Relaxed);
        self.0.arrived.fetch_add(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn governor(returns_per_second: usize, handshakes_per_second: usize, seed: u64) -> Governor {
        Governor::new(Limits { handshakes_per_second, returns_per_second, ..Limits::default() }, seed)
    }

    /// The most that come back in any one second that begins with one of them.
    fn busiest(mut times: Vec<Duration>) -> usize {
        times.sort();
        let second = Duration::from_secs(1);
        let within = |from: Duration| times.iter().filter(|at| (from..from + second).contains(*at)).count();
        times.iter().map(|from| within(*from)).max().unwrap_or(0)
    }

    #[test]
    fn each_of_many_is_told_a_time_of_its_own_and_no_second_has_more_than_the_rate() {
        let (governor, now) = (governor(100, 0, 7), Instant::now());
        let times: Vec<_> = (0..3000).map(|_| governor.place_at(now)).collect();
        let mut own = times.clone();
        own.sort();
        own.dedup();
        assert_eq!(own.len(), 3000);
        let most = busiest(times);
        assert!((95..=101).contains(&most), "{most}");
        assert!(own[0] >= LEAST && own[2999] < LEAST + Duration::from_secs(31), "{:?}", own[2999]);
    }

    #[test]
    fn the_same_seed_tells_the_same_times_and_another_one_others() {
        let now = Instant::now();
        let told = |seed| {
            let governor = governor(100, 0, seed);
            (0..50).map(|_| governor.place_at(now)).collect::<Vec<_>>()
        };
        assert_eq!(told(3), told(3));
        assert_ne!(told(3), told(5));
    }

    #[test]
    fn more_than_the_window_has_places_for_are_spread_evenly_over_it() {
        let (governor, now) = (governor(100, 0, 7), Instant::now());
        let times: Vec<_> = (0..18_000).map(|_| governor.place_at(now)).collect();
        assert!(times.iter().all(|at| *at < Duration::from_secs(61)));
        let second = |at: u64| times.iter().filter(|time| time.as_secs() == at).count();
        assert!((10..50).all(|at| (295..=410).contains(&second(at))), "{:?}", (10..50).map(second).collect::<Vec<_>>());
    }

    #[test]
    fn nobody_is_told_to_stay_away_longer_than_the_window() {
        let limits = Limits { returns_per_second: 1, return_window: Duration::from_secs(2), ..Limits::default() };
        let (governor, now) = (Governor::new(limits, 7), Instant::now());
        assert!((0..100).all(|_| (LEAST..=Duration::from_secs(2)).contains(&governor.place_at(now))));
    }

    #[test]
    fn a_place_that_has_passed_is_nobody_s_any_more() {
        let (governor, now) = (governor(10, 0, 7), Instant::now());
        assert!((0..100).all(|_| governor.place_at(now) >= LEAST));
        assert!(governor.place_at(now) > Duration::from_secs(10));
        assert!(governor.place_at(now + Duration::from_secs(30)) <= LEAST + Duration::from_millis(100));
    }

    #[test]
    fn what_can_be_let_in_is_measured_where_clients_wait_and_never_above_what_the_operator_allows() {
        let governor = governor(0, 1500, 7);
        let second = |done: usize, waiting: usize| {
            let held: Vec<_> = (0..waiting).map(|_| governor.arrival()).collect();
            (0..done).for_each(|_| drop(governor.arrival()));
            governor.learn();
            let rate = governor.rate();
            drop(held);
            governor.arrived.store(0, Ordering::Relaxed);
            rate
        };
        assert_eq!(second(3, 0), UNTRIED, "a quiet second says nothing");
        assert_eq!(second(1200, 10), 1200.0, "it has shown that it can");
        assert_eq!(second(9000, 10), 1500.0, "the operator allows no more");
        let slow: Vec<_> = (0..20).map(|_| second(40, 400)).collect();
        assert!((39.0..45.0).contains(&slow[19]), "{slow:?}");
        let later: Vec<_> = (0..300).map(|_| second(0, 0)).collect();
        assert_eq!(later[299], UNTRIED, "what was slow once is tried again");
    }

    #[test]
    fn streams_that_lose_the_hub_without_a_word_come_back_one_after_another() {
        let governor = governor(100, 0, 7);
        let (least, spread) = (Duration::from_secs(1), Duration::from_secs(5));
        let times: Vec<_> = (0..500).map(|nth| governor.unasked(nth, least, spread)).collect();
        assert_eq!((times[0], busiest(times)), (least, 100));
        assert!(governor.unasked(1_000_000, least, spread) < least + spread);
        assert_eq!(governor.unasked(77, least, Duration::ZERO), least);
    }
}
