//! Tells readers that their channels have grown, away from the lanes: a lane only leaves a note.
//!
//! The heralds go round the readers of all channels that have grown. Whose task sleeps is written to on the spot, by the
//! herald's hand: waking a task, running it and letting it sleep again costs half as much as the `write` that it is woken for.
//! Only who has more to do than that is woken. What grows during a round is for the next one, so that under load one `write`
//! serves several publications.

use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};

use parking_lot::Mutex;
use tokio::sync::Notify;

use super::channel::{Channel, Reader};
use super::message::Offset;

/// How many readers a herald takes at a time: what it needs for them is about a tenth of a millisecond.
const STRETCH: usize = 32;

/// The round that several heralds share, a stretch at a time, and what the next one is for.
#[derive(Default)]
pub struct Herald {
    round: Mutex<Round>,
    note: Notify,
}

#[derive(Default)]
struct Round {
    /// The channels of this round, and what their readers will have been told of.
    channels: Vec<(Arc<Channel>, Offset)>,
    /// Whose turn is next: of which channel, and the reader's key there.
    next: (usize, usize),
    /// Stretches that are being told.
    telling: usize,
    /// Somebody has been woken.
    woke: bool,
    /// The channels of the next round, each at most once.
    grown: Vec<Arc<Channel>>,
}

impl Herald {
    pub(super) fn announce(&self, channel: &Arc<Channel>) {
        if channel.is_unread() {
            channel.rounds.end(channel.tail.head());
        } else if channel.mark_grown() {
            self.round.lock().grown.push(channel.clone());
            self.note.notify_one();
        }
    }

    /// Runs until it is dropped. `behind` is ready when those who were woken before have had their turn.
    pub async fn run<F: Future<Output = ()>>(&self, behind: impl Fn() -> F) {
        let mut readers = Vec::with_capacity(STRETCH);
        loop {
            let Some(mut stretch) = self.next(&mut readers) else {
                self.note.notified().await;
                continue;
            };
            // Either a reader that has just lowered its flag sees the new head, or we see its flag down.
            fence(Ordering::SeqCst);
            let mut woke = false;
            for (reader, head) in readers.drain(..) {
                woke |= reader.ring(head);
            }
            match stretch.told(woke) {
                None => {}
                // The round is over when they have had it.
                Some(true) => behind().await,
                Some(false) => tokio::task::yield_now().await,
            }
        }
    }

    /// The readers that are to be told next, if there are any.
    fn next(&self, readers: &mut Vec<(Arc<Reader>, Offset)>) -> Option<Stretch<'_>> {
        let mut round = self.round.lock();
        round.take(readers);
        while readers.is_empty() && round.is_over() && round.begin() {
            round.take(readers);
        }
        if readers.is_empty() {
            return None;
        }
        round.telling += 1;
        if round.has_more() {
            self.note.notify_one();
        }
        Some(Stretch { herald: self, is_told: false })
    }
}

impl Round {
    fn take(&mut self, readers: &mut Vec<(Arc<Reader>, Offset)>) {
        while let Some((channel, head)) = self.channels.get(self.next.0)
            && readers.len() < STRETCH
        {
            let key = channel.readers_from(self.next.1, |reader| {
                readers.push((reader, *head));
                readers.len() < STRETCH
            });
            self.next = key.map_or((self.next.0 + 1, 0), |key| (self.next.0, key));
        }
    }

    fn has_more(&self) -> bool {
        self.next.0 < self.channels.len()
    }

    fn is_over(&self) -> bool {
        self.telling == 0 && !self.has_more()
    }

    /// Ends the round, and begins the next; false if there is nothing to tell.
    fn begin(&mut self) -> bool {
        for (channel, head) in self.channels.drain(..) {
            channel.rounds.end(head);
            if channel.mark_told(head) {
                self.grown.push(channel);
            }
        }
        let grown = self.grown.drain(..);
        self.channels.extend(grown.map(|channel| {
            let head = channel.tail.head();
            (channel, head)
        }));
        (self.next, self.woke) = ((0, 0), false);
        self.has_more()
    }
}

/// Some readers are being told.
struct Stretch<'a> {
    herald: &'a Herald,
    is_told: bool,
}

impl Stretch<'_> {
    /// They have been. If that was the round's last stretch: whether somebody was woken in it.
    fn told(&mut self, woke: bool) -> Option<bool> {
        let mut round = self.herald.round.lock();
        round.woke |= woke;
        if round.telling == 1 && !round.has_more() {
            return Some(round.woke); // Over when this is dropped.
        }
        round.telling -= 1;
        self.is_told = true;
        None
    }
}

impl Drop for Stretch<'_> {
    fn drop(&mut self) {
        if self.is_told {
            return;
        }
        let mut round = self.herald.round.lock();
        round.telling -= 1;
        if round.is_over() {
            self.herald.note.notify_one();
        }
    }
}
