//! How much processor time each hook takes, and which hooks are so slow that they run beside the threads that serve.
//!
//! A fast hook pays a counter; one call in so many is measured, and every call of a hook that was slow of late. Which calls
//! the watchdog met twice is told too, so that a hook which is slow once in a while does not hide between the samples.

use std::cell::Cell;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rustix::time::{ClockId, clock_gettime};

/// One call in so many is measured while a hook is fast. A prime, so that of hooks which take turns each is.
const EVERY: u32 = 31;
/// What one call counts for at most, in limits: a single bad one, or one that a page fault held up, moves nobody.
const MOST: f32 = 4.0;
/// An average goes this share of the way to the latest call.
const WEIGHT: f32 = 1.0 / 8.0;
/// So many calls, and so long, a hook stays beside before it may come back.
const PROBATION: (u32, Duration) = (32, Duration::from_secs(5));

#[derive(Default)]
pub struct Pace {
    beside: AtomicBool,
    /// Every call is measured until it is known to be fast again.
    suspect: AtomicBool,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// In limits, no call counted for more than `MOST`; decides.
    judged: f32,
    /// In seconds, as it was; for people.
    average: f32,
    /// Calls since it moved, and when that was.
    moved: (u32, Option<Instant>),
    told: bool,
}

#[derive(PartialEq, Eq, Debug)]
pub enum Move {
    /// With what it takes on average, and whether this is the first time.
    Beside(Duration, bool),
    Back,
}

thread_local! {
    static CALLS: Cell<u32> = const { Cell::new(0) };
}

impl Pace {
    pub fn is_slow(&self) -> bool {
        self.beside.load(Ordering::Relaxed)
    }

    /// A stopwatch, if this call is one that is measured.
    pub fn begin(&self) -> Option<Stopwatch> {
        let calls = CALLS.get().wrapping_add(1);
        CALLS.set(calls);
        let due = calls.is_multiple_of(EVERY) || self.suspect.load(Ordering::Relaxed);
        due.then(Stopwatch::begin)
    }

    /// A call took `time`. From `limit` on average a hook runs beside; below half of it, for a while, it comes back.
    pub fn took(&self, time: Duration, limit: Duration) -> Option<Move> {
        let mut state = self.state.lock();
        let toward = |average: &mut f32, value: f32| *average += (value - *average) * WEIGHT;
        toward(&mut state.judged, (time.as_secs_f32() / limit.as_secs_f32()).min(MOST));
        toward(&mut state.average, time.as_secs_f32());
        let judged = state.judged;
        self.suspect.store(judged > 1.0 / 8.0 || self.is_slow(), Ordering::Relaxed);
        if !self.is_slow() {
            if judged < 1.0 {
                return None;
            }
            state.moved = (0, Some(Instant::now()));
            self.beside.store(true, Ordering::Relaxed);
            let first = !std::mem::replace(&mut state.told, true);
            return Some(Move::Beside(Duration::from_secs_f32(state.average.max(0.0)), first));
        }
        state.moved.0 = state.moved.0.saturating_add(1);
        let (calls, since) = state.moved;
        let stayed = calls >= PROBATION.0 && since.is_none_or(|since| since.elapsed() >= PROBATION.1);
        if judged >= 0.5 || !stayed {
            return None;
        }
        self.beside.store(false, Ordering::Relaxed);
        Some(Move::Back)
    }
}

/// Measures what the thread that began it has run; where the system does not say, the time that has passed.
pub struct Stopwatch(Duration);

impl Stopwatch {
    fn begin() -> Stopwatch {
        Stopwatch(thread_time())
    }

    pub fn read(&self) -> Duration {
        thread_time().saturating_sub(self.0)
    }
}

fn thread_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec.try_into().unwrap_or(0), time.tv_nsec.try_into().unwrap_or(0))
}

/// This thread lets the others go first when there are too few processors.
pub fn yield_to_others() {
    /// Half-way down: a thread at 0 has about nine times the share of one at 10.
    const NICE: i32 = 10;
    // Without it the thread competes as all others do.
    if let Err(error) = rustix::process::setpriority_process(None, NICE) {
        tracing::warn!(%error, "slow hooks run at the same priority as everything else");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);
    const LIMIT: Duration = Duration::from_micros(500);

    #[test]
    fn one_bad_call_moves_nobody_and_three_in_a_row_do() {
        let pace = Pace::default();
        assert_eq!((pace.took(100 * MS, LIMIT), pace.is_slow()), (None, false));
        (0..40).for_each(|_| assert_eq!(pace.took(Duration::ZERO, LIMIT), None));
        let moves: Vec<_> = (0..3).map(|_| pace.took(4 * MS, LIMIT)).collect();
        assert!(matches!(moves[..], [None, None, Some(Move::Beside(_, true))]), "{moves:?}");
        assert!(pace.is_slow() && pace.begin().is_some());
    }

    #[test]
    fn a_slow_hook_stays_beside_for_some_time_and_some_calls() {
        let pace = Pace::default();
        for _ in 0..3 {
            pace.took(4 * MS, LIMIT);
        }
        (0..100).for_each(|_| assert_eq!(pace.took(Duration::ZERO, LIMIT), None, "no sooner than after a while"));
        pace.state.lock().moved.1 = Some(Instant::now() - PROBATION.1);
        assert_eq!((pace.took(Duration::ZERO, LIMIT), pace.is_slow()), (Some(Move::Back), false));
        for _ in 0..2 {
            pace.took(4 * MS, LIMIT);
        }
        assert!(matches!(pace.took(4 * MS, LIMIT), Some(Move::Beside(_, false))), "it is told once");
    }
}
