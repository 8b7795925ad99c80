//! Who is connected, so that everybody can be told something. Holds one small entry per connection.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Context;

use futures_util::task::AtomicWaker;
use parking_lot::Mutex;
use slab::Slab;

/// Connections come and go on several threads at once; each shard has a lock of its own.
const SHARDS: usize = 16;

#[derive(Default)]
pub struct Roster {
    stopping: AtomicBool,
    shards: [Mutex<Slab<Arc<AtomicWaker>>>; SHARDS],
}

/// A connection's entry; gone when it is dropped.
pub struct Member {
    roster: Arc<Roster>,
    shard: usize,
    key: usize,
    waker: Arc<AtomicWaker>,
}

impl Roster {
    pub fn enter(self: &Arc<Self>) -> Member {
        let waker = Arc::new(AtomicWaker::new());
        let shard = Arc::as_ptr(&waker) as usize / 64 % SHARDS;
        let key = self.shards[shard].lock().insert(waker.clone());
        Member { roster: self.clone(), shard, key, waker }
    }

    pub fn len(&self) -> usize {
        self.shards.iter().map(|shard| shard.lock().len()).sum()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Tells every connection to finish what it owes and go.
    pub fn stop(&self) {
        self.stopping.store(true, Ordering::SeqCst);
        for shard in &self.shards {
            for (_, waker) in shard.lock().iter() {
                waker.wake();
            }
        }
    }

    pub fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::SeqCst)
    }
}

impl Member {
    /// Whether it is time to go; wakes the task when it is.
    pub fn poll_stop(&self, cx: &mut Context<'_>) -> bool {
        self.waker.register(cx.waker());
        self.roster.is_stopping()
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        self.roster.shards[self.shard].lock().remove(self.key);
    }
}
