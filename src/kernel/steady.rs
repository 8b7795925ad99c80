//! Whether what the clock says can be believed: it is set by people and programs, and what is deleted because it is old does
//! not come back when the clock does.

use std::time::Duration;

use tokio::time::Instant;

use super::message::Micros;

/// Further ahead than this of where it should be, it has jumped.
const JUMP: Duration = Duration::from_secs(60);
/// A clock that has been ahead for so long is right.
const DOUBT: Duration = Duration::from_secs(600);

pub(super) struct Steady {
    seen: Instant,
    said: Micros,
    doubted: Option<Doubt>,
}

/// It has jumped ahead.
struct Doubt {
    until: Instant,
    /// How far.
    by: Micros,
}

impl Steady {
    pub fn new(now: Micros) -> Steady {
        Steady { seen: Instant::now(), said: now, doubted: None }
    }

    /// What the clock says now; true if something may be deleted because of it.
    pub fn believes(&mut self, now: Micros) -> bool {
        self.at(Instant::now(), now)
    }

    fn at(&mut self, instant: Instant, now: Micros) -> bool {
        let expected = self.said + instant.saturating_duration_since(self.seen).as_micros() as Micros;
        (self.seen, self.said) = (instant, now);
        let jump = JUMP.as_micros() as Micros;
        if now > expected + jump {
            let by = now - expected + self.doubted.as_ref().map_or(0, |doubt| doubt.by);
            tracing::warn!(
                seconds = (now - expected) / 1_000_000,
                "the clock has jumped ahead: nothing is deleted for its age until it has been so for {} minutes",
                DOUBT.as_secs() / 60
            );
            self.doubted = Some(Doubt { until: instant + DOUBT, by });
        } else if now + jump < expected {
            tracing::warn!(seconds = (expected - now) / 1_000_000, "the clock has jumped back");
            self.doubted.take_if(|doubt| expected - now + jump >= doubt.by);
        }
        self.doubted.take_if(|doubt| instant >= doubt.until);
        self.doubted.is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Micros = 1_000_000;
    const DAY: Micros = 24 * 3600 * SECOND;

    #[test]
    fn a_jump_ahead_is_doubted_until_it_is_taken_back_or_has_lasted() {
        let begin = Instant::now();
        let mut clock = Steady { seen: begin, said: DAY, doubted: None };
        let mut says = |after: u64, now: Micros| clock.at(begin + Duration::from_secs(after), now);
        assert!(says(1, DAY + SECOND));
        assert!(says(2, DAY + 30 * SECOND), "clocks are set right by some seconds");
        assert!(!says(3, 2 * DAY));
        assert!(!says(4, 2 * DAY + SECOND), "it is still so");
        assert!(says(5, DAY + 5 * SECOND), "it was a mistake");
        assert!(!says(6, 3 * DAY));
        assert!(!says(605, 3 * DAY + 599 * SECOND));
        assert!(says(606, 3 * DAY + 600 * SECOND), "nobody has taken it back");
        assert!(says(607, DAY), "a jump back deletes nothing");
        assert!(!says(608, DAY + 300 * SECOND) && !says(609, DAY + 600 * SECOND), "two jumps are one larger one");
        assert!(!says(610, DAY + 300 * SECOND), "of which half is taken back");
    }
}
