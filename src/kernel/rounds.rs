//! How far those readers of a channel have come who take every turn that they get: a publisher does not outrun them.
//!
//! Where processor time is short everybody's turn comes late. What is published meanwhile leaves the tail unseen, each reader
//! that has missed it reads the store for itself, and turns come later still: a hub that was delivering 4.5 million messages a
//! second fell to 1.5 million, seconds late. So the answer to a publish waits while the readers' round takes longer than half
//! of the tail lasts. A reader that cannot take a turn, because its socket is full, keeps nobody waiting.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::Notify;

use super::channel::Channel;
use super::lane::Shared;
use super::message::Offset;

/// How long an answer waits at most.
const PATIENCE: Duration = Duration::from_millis(100);

pub(super) struct Rounds {
    /// What the last round that is over has told everybody of.
    served: AtomicU64,
    over: Notify,
}

impl Rounds {
    pub fn new(head: Offset) -> Rounds {
        Rounds { served: AtomicU64::new(head), over: Notify::new() }
    }

    pub fn end(&self, head: Offset) {
        self.served.store(head, Ordering::Relaxed);
        self.over.notify_waiters();
    }

    pub fn served(&self) -> Offset {
        self.served.load(Ordering::Relaxed)
    }

    /// Waits for the end of a round from the call on, not from when it is first polled.
    pub fn next_end(&self) -> tokio::sync::futures::Notified<'_> {
        self.over.notified()
    }
}

impl Shared {
    /// Waits while channels outrun their readers, not for ever.
    pub async fn let_readers_follow(&self, channels: &[Arc<Channel>]) {
        if channels.iter().any(|channel| channel.outruns_its_readers(self.limit_of(channel))) {
            self.counters.held.add(1);
            let follow = async {
                for channel in channels {
                    self.let_follow(channel).await;
                }
            };
            let _ = tokio::time::timeout(PATIENCE, follow).await;
        }
    }

    async fn let_follow(&self, channel: &Arc<Channel>) {
        loop {
            let end = channel.rounds.next_end();
            if !channel.outruns_its_readers(self.limit_of(channel)) {
                return;
            }
            end.await;
        }
    }
}
