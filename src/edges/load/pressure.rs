//! The ladder on which things give way, and where on it the hub stands: the cheapest to refuse first, publishes last.
//!
//! What presses is either delay (a task waits too long for its turn on a runtime) or memory. Each has its own steps up and
//! down, so far apart that what gives way does not at once bring itself back.

use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::time::Duration;

use serde_json::json;
use tokio::time::Instant;

use super::Limits;
use crate::edges::wire::Fault;

/// What gives way, and all that stands before it too.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[repr(u8)]
pub enum Level {
    Calm,
    /// Channels hold less in memory of what the store has as well.
    Caches,
    /// Nobody new comes in.
    Newcomers,
    /// History is not read, and replays are slow.
    Reads,
    /// Readers that take nothing are closed, the slowest first.
    Readers,
}

impl Level {
    pub fn word(self) -> &'static str {
        ["calm", "caches", "newcomers", "reads", "readers"][self as usize]
    }
}

/// What presses.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Cause {
    Delay,
    Memory,
}

impl Cause {
    pub fn setting(self) -> &'static str {
        match self {
            Cause::Delay => "limits.delay",
            Cause::Memory => "limits.memory",
        }
    }

    /// A stable word for programs.
    pub fn word(self) -> &'static str {
        match self {
            Cause::Delay => "overloaded",
            Cause::Memory => "memory",
        }
    }
}

const LEVELS: [Level; 5] = [Level::Calm, Level::Caches, Level::Newcomers, Level::Reads, Level::Readers];

/// Where a level begins, and below which it may end, in shares of the limit.
struct Step(Level, f64, f64);

/// Memory is what all of them give back, delay only what costs time.
const BY_MEMORY: &[Step] = &[
    Step(Level::Caches, 0.80, 0.75),
    Step(Level::Newcomers, 0.90, 0.85),
    Step(Level::Reads, 0.95, 0.90),
    Step(Level::Readers, 1.00, 0.95),
];
const BY_DELAY: &[Step] = &[Step(Level::Newcomers, 1.0, 0.5), Step(Level::Reads, 2.0, 1.0)];

/// No step is left sooner than this after it was taken.
const STAY: Duration = Duration::from_secs(1);

/// A machine that slept was not late for all that time.
const STALL: Duration = Duration::from_secs(7);

/// One cause's way up and down. It goes up as far as it must at once, and down one step after another.
pub struct Ladder {
    steps: &'static [Step],
    taken: usize,
    since: Instant,
}

impl Ladder {
    pub fn of(cause: Cause) -> Ladder {
        let steps = match cause {
            Cause::Delay => BY_DELAY,
            Cause::Memory => BY_MEMORY,
        };
        Ladder { steps, taken: 0, since: Instant::now() }
    }

    /// `share`: how much of the limit there is.
    pub fn step(&mut self, share: f64, now: Instant) -> Level {
        let reached = self.steps.iter().take_while(|Step(_, up, _)| share >= *up).count();
        let may_leave = self.taken > 0 && share < self.steps[self.taken - 1].2 && now - self.since >= STAY;
        if reached > self.taken {
            (self.taken, self.since) = (reached, now);
        } else if may_leave {
            (self.taken, self.since) = (self.taken - 1, now);
        }
        self.taken.checked_sub(1).map_or(Level::Calm, |at| self.steps[at].0)
    }
}

/// How late tasks are, smoothed; one task writes it.
#[derive(Default)]
pub struct Delay(AtomicU64);

impl Delay {
    /// One stall is no overload, however long: it takes about a second of them.
    pub fn note(&self, late: Duration) {
        let before = self.0.load(Ordering::Relaxed);
        self.0.store((before * 7 + late.min(STALL).as_micros() as u64) / 8, Ordering::Relaxed);
    }

    pub fn get(&self) -> Duration {
        Duration::from_micros(self.0.load(Ordering::Relaxed))
    }
}

pub struct Pressure {
    limits: Limits,
    level: AtomicU8,
    /// Whether it is memory that the level comes from.
    by_memory: AtomicU8,
    pub front: Delay,
    pub delivery: Delay,
    pub heralds: Delay,
    memory: AtomicU64,
    newcomers_refused: AtomicU64,
    reads_refused: AtomicU64,
    readers_closed: AtomicU64,
}

impl Pressure {
    pub fn new(limits: Limits) -> Pressure {
        Pressure {
            limits,
            level: AtomicU8::new(0),
            by_memory: AtomicU8::new(0),
            front: Delay::default(),
            delivery: Delay::default(),
            heralds: Delay::default(),
            memory: AtomicU64::new(0),
            newcomers_refused: AtomicU64::new(0),
            reads_refused: AtomicU64::new(0),
            readers_closed: AtomicU64::new(0),
        }
    }

    pub fn level(&self) -> Level {
        LEVELS[usize::from(self.level.load(Ordering::Relaxed)) % LEVELS.len()]
    }

    /// What presses, if this gives way now.
    pub fn yields(&self, level: Level) -> Option<Cause> {
        let cause = if self.by_memory.load(Ordering::Relaxed) == 1 { Cause::Memory } else { Cause::Delay };
        (self.level() >= level).then_some(cause)
    }

    /// Somebody new wants in.
    pub fn admits_newcomers(&self) -> Result<(), Fault> {
        self.admits(Level::Newcomers, &self.newcomers_refused)
    }

    /// Somebody wants what was said before.
    pub fn admits_reads(&self) -> Result<(), Fault> {
        self.admits(Level::Reads, &self.reads_refused)
    }

    fn admits(&self, level: Level, refused: &AtomicU64) -> Result<(), Fault> {
        self.yields(level).map_or(Ok(()), |cause| {
            refused.fetch_add(1, Ordering::Relaxed);
            Err(Fault::Pressed(cause))
        })
    }

    /// From now on the hub stands here; true if that is news.
    pub fn stands(&self, level: Level, cause: Cause) -> bool {
        self.by_memory.store(u8::from(cause == Cause::Memory), Ordering::Relaxed);
        self.level.swap(level as u8, Ordering::Relaxed) != level as u8
    }

    pub fn measured(&self, resident: u64) {
        self.memory.store(resident, Ordering::Relaxed);
    }

    /// One more reader was closed.
    pub fn closed_reader(&self) {
        self.readers_closed.fetch_add(1, Ordering::Relaxed);
    }

    /// The latest of the runtimes, as a share of what is allowed.
    pub fn delay_share(&self) -> f64 {
        let late = self.front.get().max(self.delivery.get()).max(self.heralds.get()).as_secs_f64();
        self.limits.delay.map_or(0.0, |most| late / most.as_secs_f64())
    }

    pub fn memory_share(&self) -> f64 {
        self.limits.memory.map_or(0.0, |most| self.memory.load(Ordering::Relaxed) as f64 / most as f64)
    }

    pub fn status(&self) -> serde_json::Value {
        let level = self.level();
        json!({
            "level": level.word(),
            "cause": self.yields(Level::Caches).map(Cause::setting),
            "front_delay_ms": self.front.get().as_millis() as u64,
            "delivery_delay_ms": self.delivery.get().as_millis() as u64,
            "herald_delay_ms": self.heralds.get().as_millis() as u64,
            "memory_bytes": self.memory.load(Ordering::Relaxed),
            "memory_limit": self.limits.memory,
        })
    }

    pub fn figures(&self) -> Vec<(&'static str, &'static str, &'static str, f64)> {
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed) as f64;
        let help = "What gives way: 0 nothing, 1 caches, 2 newcomers, 3 reads of the store, 4 slow readers";
        let bound = self.limits.memory.unwrap_or(0) as f64;
        vec![
            ("aether_pressure", "gauge", help, f64::from(self.level() as u8)),
            ("aether_front_delay_seconds", "gauge", "How late tasks of the front are", self.front.get().as_secs_f64()),
            (
                "aether_delivery_delay_seconds",
                "gauge",
                "How late tasks of the delivery are",
                self.delivery.get().as_secs_f64(),
            ),
            ("aether_herald_delay_seconds", "gauge", "How late the heralds are", self.heralds.get().as_secs_f64()),
            ("aether_memory_limit_bytes", "gauge", "What limits.memory says; 0: no bound", bound),
            (
                "aether_pressure_newcomers_refused_total",
                "counter",
                "Subscribers refused because the hub was pressed",
                count(&self.newcomers_refused),
            ),
            (
                "aether_pressure_reads_refused_total",
                "counter",
                "Reads of history refused because the hub was pressed",
                count(&self.reads_refused),
            ),
            (
                "aether_pressure_readers_closed_total",
                "counter",
                "Slow readers closed because memory was short",
                count(&self.readers_closed),
            ),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_climbs_at_once_and_goes_down_step_by_step() {
        let (mut ladder, now) = (Ladder::of(Cause::Memory), Instant::now());
        let at = |seconds: u64| now + Duration::from_secs(seconds);
        assert_eq!(ladder.step(0.5, at(0)), Level::Calm);
        assert_eq!(ladder.step(1.2, at(1)), Level::Readers);
        let down: Vec<_> = (2..7).map(|second| ladder.step(0.1, at(second))).collect();
        assert_eq!(down, [Level::Reads, Level::Newcomers, Level::Caches, Level::Calm, Level::Calm]);
    }

    #[test]
    fn what_swings_around_a_limit_does_not_make_it_flap() {
        let (mut ladder, now) = (Ladder::of(Cause::Memory), Instant::now());
        let levels: Vec<_> = (0..100u64)
            .map(|tenth| {
                ladder.step(if tenth % 2 == 0 { 0.91 } else { 0.88 }, now + Duration::from_millis(tenth * 100))
            })
            .collect();
        assert!(levels.iter().all(|level| *level == Level::Newcomers), "{levels:?}");
        let (mut ladder, mut changes, mut before) = (Ladder::of(Cause::Delay), 0, Level::Calm);
        for tenth in 0..100u64 {
            let share = if tenth % 2 == 0 { 1.1 } else { 0.1 };
            let level = ladder.step(share, now + Duration::from_millis(tenth * 100));
            changes += u32::from(level != before);
            before = level;
        }
        assert!(changes <= 20, "however wildly it swings, a step is kept for a second: {changes}");
    }

    #[test]
    fn delay_closes_no_reader_and_shrinks_no_cache() {
        let (mut ladder, now) = (Ladder::of(Cause::Delay), Instant::now());
        assert_eq!(ladder.step(0.99, now), Level::Calm);
        assert_eq!(ladder.step(1.0, now), Level::Newcomers);
        assert_eq!(ladder.step(100.0, now), Level::Reads);
    }

    #[test]
    fn one_stall_is_no_overload() {
        let delay = Delay::default();
        delay.note(Duration::from_secs(4000));
        assert!(delay.get() < Duration::from_secs(1));
        (0..20).for_each(|_| delay.note(Duration::from_secs(4)));
        assert!(delay.get() > Duration::from_secs(3));
        (0..40).for_each(|_| delay.note(Duration::from_millis(1)));
        assert!(delay.get() < Duration::from_millis(100));
    }
}
