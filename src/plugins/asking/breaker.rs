//! A breaker per hook: what breaks again and again is refused without being run.
//!
//! Closed it costs one load. Open it refuses; after a rest one call tries, and its outcome decides.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;

use crate::kernel::message::Micros;

#[derive(Clone, Copy, Debug)]
pub struct BreakerLimits {
    /// So many failures ..
    pub failures: usize,
    /// .. within this open it.
    pub within: Duration,
    /// How long it stays open before one call may try.
    pub rest: Duration,
}

impl Default for BreakerLimits {
    fn default() -> Self {
        BreakerLimits { failures: 20, within: Duration::from_secs(10), rest: Duration::from_secs(5) }
    }
}

/// What a call counts for that ran until it was killed: twenty of those would hold up a thread for 100 ms.
pub const KILL_WEIGHT: usize = 5;

#[derive(Default)]
pub struct Breaker {
    open: AtomicBool,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// When it failed lately.
    failures: VecDeque<Micros>,
    /// When the next call may try, while it is open.
    try_at: Micros,
}

#[derive(PartialEq, Eq, Debug)]
pub enum Turn {
    Opened,
    Closed,
}

impl Breaker {
    /// Whether a call may run. `now` is asked for only if it is open.
    pub fn admits(&self, limits: &BreakerLimits, now: impl FnOnce() -> Micros) -> bool {
        if !self.open.load(Ordering::Acquire) {
            return true;
        }
        let (now, mut state) = (now(), self.state.lock());
        let rest = limits.rest.as_micros() as Micros;
        // A clock that was set back must not keep it open.
        let tries = now >= state.try_at || state.try_at > now + rest;
        if tries {
            // One at a time; should it never report, the next may try after another rest.
            state.try_at = now + rest;
        }
        tries
    }

    pub fn is_open(&self) -> bool {
        self.open.load(Ordering::Acquire)
    }

    pub fn succeeded(&self) -> Option<Turn> {
        if !self.open.load(Ordering::Acquire) {
            return None;
        }
        let mut state = self.state.lock();
        state.failures.clear();
        self.open.swap(false, Ordering::AcqRel).then_some(Turn::Closed)
    }

    /// `killed`: it used up its whole budget, and others waited for it.
    pub fn failed(&self, limits: &BreakerLimits, now: Micros, killed: bool) -> Option<Turn> {
        let mut state = self.state.lock();
        if self.open.load(Ordering::Acquire) {
            state.try_at = now + limits.rest.as_micros() as Micros;
            return None;
        }
        let since = now.saturating_sub(limits.within.as_micros() as Micros);
        state.failures.retain(|at| (since..=now).contains(at));
        let weight = if killed { KILL_WEIGHT } else { 1 };
        state.failures.extend(std::iter::repeat_n(now, weight));
        if state.failures.len() < limits.failures {
            return None;
        }
        state.try_at = now + limits.rest.as_micros() as Micros;
        self.open.store(true, Ordering::Release);
        Some(Turn::Opened)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Micros = 1_000_000;

    #[test]
    fn it_opens_at_the_twentieth_failure_in_ten_seconds_and_one_call_tries_after_five() {
        let (breaker, limits) = (Breaker::default(), BreakerLimits::default());
        for second in 0..40 {
            assert_eq!(breaker.failed(&limits, second * SECOND, false), None, "one a second is not too many");
        }
        let turns = (0..20).filter_map(|_| breaker.failed(&limits, 100 * SECOND, false)).collect::<Vec<_>>();
        assert_eq!(turns, [Turn::Opened]);
        assert!(!breaker.admits(&limits, || 104 * SECOND));
        assert!(breaker.admits(&limits, || 105 * SECOND) && !breaker.admits(&limits, || 105 * SECOND));
        assert_eq!(breaker.failed(&limits, 106 * SECOND, false), None);
        assert!(!breaker.admits(&limits, || 110 * SECOND) && breaker.admits(&limits, || 111 * SECOND));
        assert_eq!((breaker.succeeded(), breaker.succeeded()), (Some(Turn::Closed), None));
        assert!(breaker.admits(&limits, || 0));
    }

    #[test]
    fn a_clock_that_is_set_back_does_not_keep_it_open() {
        let (breaker, limits) = (Breaker::default(), BreakerLimits::default());
        (0..4).for_each(|_| {
            breaker.failed(&limits, 1000 * SECOND, true);
        });
        assert!(breaker.admits(&limits, || 3 * SECOND));
    }
}
