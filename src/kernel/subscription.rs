//! One channel of a session: where it stands, and what it has yet to be told.

use std::time::Duration;

use std::sync::Arc;
use tokio::time::Instant;

use super::channel::Seat;
use super::format::{Format, Gap, GapCause};
use super::hooks::Sight;
use super::message::{ChannelName, Epoch, Offset, Position};
use super::tail::Encoding;

pub(super) struct Subscription {
    pub seat: Seat,
    /// What it sees; the encoding is made of that.
    pub sight: Sight,
    pub encoding: Arc<Encoding>,
    /// It came back with a position, so the rules of the history had a say in what it sees.
    pub resumed: bool,
    /// Everything up to here has been written to the socket.
    pub cursor: Offset,
    /// Everything up to here is in the batch at hand.
    pub reached: Offset,
    /// Said before anything else, and kept until the socket has taken it.
    pub gap: Option<Gap>,
    /// The gap is in the batch at hand.
    pub gap_said: bool,
    /// The fill that it last had a turn in.
    pub turn: u64,
    /// Since when it has not been at the head.
    pub behind_since: Option<Instant>,
    /// Where the replay is over, while there is one.
    pub live_at: Option<Offset>,
    /// It lagged and its channel drops the newest: what lies between here and the head is left out when it gets here.
    pub full_at: Option<Offset>,
    /// How fast its reader wants it, if not as fast as it comes.
    pub pace: Option<Pace>,
    /// With a pace: before this nothing more is said.
    pub rests_until: Option<Instant>,
}

/// How fast a reader wants a channel.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Pace {
    /// The time between two publications, at least.
    pub every: Duration,
    /// Only the newest one counts when that time has passed; what it replaces is left out without a gap, because the reader
    /// asked for it.
    pub conflate: bool,
}

/// Where a subscription begins.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Start {
    /// With the next publication.
    Now,
    /// With everything after an offset, of the log's present life or of the one that is named.
    After(Offset, Option<Epoch>),
}

impl Subscription {
    /// Sees the channel so from its cursor on.
    pub fn look_through(&mut self, sight: Sight, format: &Arc<dyn Format>) {
        self.encoding = self.seat.channel.tail.encoding(format, &sight);
        self.sight = sight;
    }

    /// Further behind than the channel's policy allows, or than the tail reaches.
    pub fn is_far_behind(&self) -> bool {
        let channel = &self.seat.channel;
        match channel.policy().max_lag {
            Some(max) => channel.tail.head().saturating_sub(self.reached) > max,
            None => self.reached + 1 < channel.tail.first(),
        }
    }

    /// How many publications it may be behind.
    pub fn room(&self) -> u64 {
        let tail = &self.seat.channel.tail;
        self.seat.channel.policy().max_lag.unwrap_or_else(|| (tail.head() + 1).saturating_sub(tail.first()))
    }

    /// Where a reader stands who has been told everything up to `offset`: a gap that it has not been told of yet must be told
    /// again if it comes back with this place.
    pub fn place(&self, offset: Offset) -> (&ChannelName, Position) {
        match self.gap {
            Some(gap) if !self.gap_said => {
                let epoch = if gap.cause == GapCause::Epoch { Epoch::UNKNOWN } else { self.seat.channel.epoch };
                (&self.seat.channel.name, Position { epoch, offset: gap.requested })
            }
            _ => self.position(offset),
        }
    }

    pub fn position(&self, offset: Offset) -> (&ChannelName, Position) {
        (&self.seat.channel.name, Position { epoch: self.seat.channel.epoch, offset })
    }
}

/// Where a reader that asks for what is after `after` begins, and what it must be told.
pub(super) fn begin(
    after: Offset,
    epoch: Option<Epoch>,
    current: Epoch,
    (first, head): (Offset, Offset),
    may_resume: bool,
) -> (Offset, Option<Gap>) {
    // Retention may have made room already for what is appended and not shown yet. Nobody stands beyond the head.
    let first = first.min(head + 1);
    let another_life = epoch.is_some_and(|epoch| epoch != current) || after > head;
    if another_life {
        let available = if may_resume { first } else { head + 1 };
        let gap = Gap { requested: after, available, cause: GapCause::Epoch, missing: None };
        return (available - 1, Some(gap));
    }
    if !may_resume {
        return (head, (after < head).then(|| Gap::between(after, head + 1, GapCause::Denied)));
    }
    if after + 1 < first {
        return (first - 1, Some(Gap::between(after, first, GapCause::Evicted)));
    }
    (after, None)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Found by the simulation: seed 1.
    #[test]
    fn who_may_not_have_the_past_hears_of_another_life_all_the_same() {
        let (here, before) = (Epoch(1), Epoch(2));
        let told = |after, epoch| begin(after, epoch, here, (3, 7), false);
        for (after, epoch) in [(5, Some(before)), (20, Some(before)), (20, Some(here)), (20, None)] {
            let gap = Gap { requested: after, available: 8, cause: GapCause::Epoch, missing: None };
            assert_eq!(told(after, epoch), (7, Some(gap)), "{after} {epoch:?}");
        }
        assert_eq!(told(5, Some(here)), (7, Some(Gap::between(5, 8, GapCause::Denied))));
        assert_eq!(told(7, Some(here)), (7, None));
    }

    /// Found by the simulation: seed 6089.
    #[test]
    fn nobody_is_put_beyond_the_head_though_the_log_begins_there() {
        let here = Epoch(1);
        let told = |after, epoch| begin(after, epoch, here, (12, 7), true);
        assert_eq!(told(5, Some(here)), (7, Some(Gap::between(5, 8, GapCause::Evicted))));
        assert_eq!(told(7, Some(here)), (7, None));
        let gap = Gap { requested: 5, available: 8, cause: GapCause::Epoch, missing: None };
        assert_eq!(told(5, Some(Epoch(2))), (7, Some(gap)));
    }
}
