//! When publishers who find a lane's queue full may come back: each at a place of its own behind all that waits.
//!
//! The governor of the edges spaces clients by how many a second could be let in; that says what handshakes and rules bear,
//! and a publisher waits for neither. It waits for the store. So places are as far apart as the lane needs for one of its
//! requests, and the first is where those that wait now will have been served. The lane shows how long that takes: it takes
//! what waits in groups, a group takes about as long as the one before, and one that has already taken longer counts for what
//! it has taken. So a store that hangs is told in the times long before anybody has been served again.

use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use super::lane::GROUP;

/// Nobody comes back sooner: less cannot be told.
const LEAST: Duration = Duration::from_millis(1);
/// However long the store hangs, it is asked again; and from there on this is how far places reach. Those for whom there is
/// none share the line from its beginning.
const MOST: Duration = Duration::from_secs(15);

#[derive(Default)]
pub(super) struct Returns(Mutex<Line>);

#[derive(Default)]
struct Line {
    /// How long the last group took.
    took: Duration,
    /// Since when the lane has been busy with what it does now.
    busy: Option<Instant>,
    /// The first place that nobody has.
    next: Option<Instant>,
}

impl Returns {
    /// The lane turns to a group, or to its store: who comes now waits for the end of it.
    pub fn begins(&self) {
        self.0.lock().busy = Some(Instant::now());
    }

    /// Only a group says how long groups take.
    pub fn ends(&self, group: bool) {
        let mut line = self.0.lock();
        if let Some(since) = line.busy.take().filter(|_| group) {
            line.took = since.elapsed();
        }
    }

    /// When the next one may come back, if so many requests wait.
    pub fn place(&self, waiting: usize) -> Duration {
        self.0.lock().place(waiting, Instant::now())
    }
}

impl Line {
    fn place(&mut self, waiting: usize, now: Instant) -> Duration {
        let waiting = u32::try_from(waiting.max(1)).unwrap_or(u32::MAX);
        let so_far = self.busy.map_or(Duration::ZERO, |since| now.saturating_duration_since(since));
        let group = self.took.max(so_far);
        // The one at hand, and those that wait.
        let groups = 1 + waiting.div_ceil(GROUP as u32);
        let all = group.saturating_mul(groups).clamp(LEAST, MOST);
        let first = now + all;
        let place = self.next.filter(|next| (first..first + MOST).contains(next)).unwrap_or(first);
        self.next = Some(place + all / waiting);
        place - now
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn line(took: Duration) -> (Line, Instant) {
        (Line { took, ..Line::default() }, Instant::now())
    }

    #[test]
    fn each_of_many_has_a_place_of_its_own_and_they_come_no_faster_than_they_are_served() {
        let (mut line, now) = line(100 * MS);
        // Two groups of 2,048 and the one at hand: 300 ms for 4,096.
        let times: Vec<_> = (0..8192).map(|_| line.place(4096, now)).collect();
        assert_eq!(times[0], 300 * MS, "when all that waits has been served");
        assert!(times.is_sorted_by(|one, next| one < next));
        let within = |from: Duration| times.iter().filter(|at| (from..from + 300 * MS).contains(*at)).count();
        assert!((4095..=4097).contains(&within(times[0])), "{}", within(times[0]));
        assert!((4090..=4097).contains(&within(times[4096])), "{}", within(times[4096]));
    }

    #[test]
    fn a_store_that_hangs_is_told_before_it_has_answered() {
        let (mut line, now) = line(MS);
        line.busy = Some(now);
        assert_eq!(line.place(16, now), 2 * MS);
        let later = now + Duration::from_secs(4);
        assert_eq!(line.place(16, later), Duration::from_secs(8));
        assert_eq!(line.place(16, later), Duration::from_millis(8500), "half a second for each of sixteen");
    }

    #[test]
    fn nobody_is_sent_away_for_ever_and_a_place_that_has_passed_is_nobody_s() {
        let (mut line, now) = line(Duration::from_secs(3600));
        let times: Vec<_> = (0..10_000).map(|_| line.place(4, now)).collect();
        assert!(times.iter().all(|time| (MOST..2 * MOST).contains(time)), "{:?}", times.iter().max());
        line.took = MS;
        assert_eq!(line.place(4, now + 3 * MOST), 2 * MS);
        let (mut unknown, now) = (Line::default(), now);
        assert_eq!(unknown.place(1, now), LEAST, "of a lane that has served nobody yet");
    }

    #[tokio::test(start_paused = true)]
    async fn a_look_at_the_store_is_waited_for_and_says_nothing_about_groups() {
        let returns = Returns::default();
        returns.begins();
        tokio::time::advance(20 * MS).await;
        returns.ends(true);
        returns.begins();
        tokio::time::advance(200 * MS).await;
        assert_eq!(returns.place(1), 400 * MS);
        returns.ends(false);
        tokio::time::advance(1000 * MS).await;
        assert_eq!(returns.place(1), 40 * MS);
    }
}
