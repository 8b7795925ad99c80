//! The order of drafts whose rules wait: a channel's drafts go on in the order in which they came.
//!
//! Their hooks run side by side; whoever is allowed first waits for those before it. A refused draft leaves the line.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use parking_lot::Mutex;
use rustc_hash::FxHashMap;
use tokio::sync::{Mutex as Line, OwnedMutexGuard};

use crate::kernel::message::ChannelName;

/// Drafts of one channel in line. The next one hears `busy`.
pub const MAX_LINE: usize = 1000;

#[derive(Clone, Default)]
pub struct Turns(Arc<Mutex<FxHashMap<ChannelName, Standing>>>);

struct Standing {
    line: Arc<Line<()>>,
    drafts: usize,
}

/// A place in line, taken when the draft came.
pub struct Place {
    turn: First,
    standing: Stands,
}

enum First {
    Stands(OwnedMutexGuard<()>),
    Waits(Pin<Box<dyn Future<Output = OwnedMutexGuard<()>> + Send>>),
}

/// It is this draft's turn, until this is dropped.
pub struct Turn {
    // The order matters: whoever comes next is woken before the line may go.
    _guard: OwnedMutexGuard<()>,
    _standing: Stands,
}

struct Stands {
    turns: Turns,
    channel: ChannelName,
}

impl Turns {
    /// Whether drafts of the channel stand in line, so that others must not overtake them.
    pub fn is_used(&self, channel: &ChannelName) -> bool {
        let lines = self.0.lock();
        !lines.is_empty() && lines.contains_key(channel)
    }

    /// The next place; none if `most` stand there already.
    pub fn stand(&self, channel: &ChannelName, most: usize) -> Option<Place> {
        let mut lines = self.0.lock();
        let standing = lines.entry(channel.clone()).or_insert_with(|| Standing { line: Arc::default(), drafts: 0 });
        if standing.drafts >= most {
            return None;
        }
        standing.drafts += 1;
        let mut turn = Box::pin(standing.line.clone().lock_owned());
        drop(lines);
        let standing = Stands { turns: self.clone(), channel: channel.clone() };
        // The first look takes the place, because tokio's mutex is fair.
        let turn = match turn.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(guard) => First::Stands(guard),
            Poll::Pending => First::Waits(turn),
        };
        Some(Place { turn, standing })
    }
}

impl Place {
    pub async fn turn(self) -> Turn {
        let guard = match self.turn {
            First::Stands(guard) => guard,
            First::Waits(turn) => turn.await,
        };
        Turn { _guard: guard, _standing: self.standing }
    }
}

impl Drop for Stands {
    fn drop(&mut self) {
        let mut lines = self.turns.0.lock();
        if let Some(standing) = lines.get_mut(&self.channel) {
            standing.drafts -= 1;
            if standing.drafts == 0 {
                lines.remove(&self.channel);
            }
        }
    }
}
