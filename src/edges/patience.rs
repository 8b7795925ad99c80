//! How many noes one connection may hear: each costs the rules some time, and who asks in vain as fast as it can is sent away.

use tokio::time::Instant;

/// A bucket that a minute fills.
pub struct Patience {
    per_minute: f64,
    left: f64,
    since: Instant,
}

impl Patience {
    /// 0: it has no end.
    pub fn new(per_minute: usize) -> Patience {
        Patience { per_minute: per_minute as f64, left: per_minute as f64, since: Instant::now() }
    }

    /// Whether there was some left.
    pub fn take(&mut self, now: Instant) -> bool {
        let gained = now.duration_since(self.since).as_secs_f64() / 60.0 * self.per_minute;
        self.left = (self.left + gained).min(self.per_minute) - 1.0;
        self.since = now;
        self.per_minute == 0.0 || self.left >= 0.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn it_lasts_for_a_minute_s_worth_at_once_and_grows_back() {
        let now = Instant::now();
        let mut patience = Patience { since: now, ..Patience::new(60) };
        assert!((0..60).all(|_| patience.take(now)) && !patience.take(now));
        let mut patience = Patience { since: now, ..Patience::new(60) };
        assert!((0..60).all(|_| patience.take(now)));
        assert!((1..100).all(|second| patience.take(now + Duration::from_secs(second))));
        let mut endless = Patience::new(0);
        assert!((0..1000).all(|_| endless.take(now)));
    }
}
