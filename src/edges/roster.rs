//! Who is connected, so that everybody, or somebody, can be told something. Holds one small entry per connection.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Context;

use futures_util::task::AtomicWaker;
use parking_lot::Mutex;
use slab::Slab;

use crate::kernel::hooks::Client;
use crate::kernel::message::ChannelName;

/// Connections come and go on several threads at once; each shard has a lock of its own.
const SHARDS: usize = 16;
/// Orders that a connection has not looked at yet; beyond, it is slow to the point of being gone, and is sent away.
const ORDERS: usize = 64;

#[derive(Default)]
pub struct Roster {
    stopping: AtomicBool,
    shards: [Mutex<Slab<Arc<Line>>>; SHARDS],
}

/// The way to one connection.
struct Line {
    client: Mutex<Arc<Client>>,
    waker: AtomicWaker,
    ordered: AtomicBool,
    orders: Mutex<Vec<Order>>,
}

/// What an operator wants of a connection.
#[derive(Clone, Debug)]
pub enum Order {
    Leave,
    /// The same, for a reason of the rules.
    Kick(Arc<str>),
    Unsubscribe(ChannelName),
}

/// A connection's entry; gone when it is dropped.
pub struct Member {
    roster: Arc<Roster>,
    shard: usize,
    key: usize,
    line: Arc<Line>,
}

impl Roster {
    pub fn enter(self: &Arc<Self>, client: Arc<Client>) -> Member {
        let line = Arc::new(Line {
            client: Mutex::new(client),
            waker: AtomicWaker::new(),
            ordered: AtomicBool::new(false),
            orders: Mutex::default(),
        });
        let shard = Arc::as_ptr(&line) as usize / 64 % SHARDS;
        let key = self.shards[shard].lock().insert(line.clone());
        Member { roster: self.clone(), shard, key, line }
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
        self.each(|line| line.waker.wake());
    }

    pub fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::SeqCst)
    }

    /// Those that are connected and wanted.
    pub fn clients(&self, mut wanted: impl FnMut(&Client) -> bool) -> Vec<Arc<Client>> {
        let mut found = Vec::new();
        self.each(|line| {
            let client = line.client.lock();
            if wanted(&client) {
                found.push(client.clone());
            }
        });
        found
    }

    /// Gives an order to those that are meant, and says how many they are.
    pub fn order(&self, meant: impl Fn(&Client) -> bool, order: &Order) -> usize {
        let mut count = 0;
        self.each(|line| {
            if !meant(&line.client.lock()) {
                return;
            }
            count += 1;
            let mut orders = line.orders.lock();
            if orders.len() < ORDERS {
                orders.push(order.clone());
            } else {
                *orders = vec![Order::Leave];
            }
            line.ordered.store(true, Ordering::Release);
            line.waker.wake();
        });
        count
    }

    fn each(&self, mut tell: impl FnMut(&Line)) {
        for shard in &self.shards {
            for (_, line) in shard.lock().iter() {
                tell(line);
            }
        }
    }
}

impl Member {
    /// Whether it is time to go; wakes the task when it is, or when there is an order.
    pub fn poll_stop(&self, cx: &mut Context<'_>) -> bool {
        self.line.waker.register(cx.waker());
        self.roster.is_stopping()
    }

    /// Orders since the last look. Call after `poll_stop`, which registers the waker.
    pub fn orders(&self) -> Vec<Order> {
        if !self.line.ordered.swap(false, Ordering::Acquire) {
            return Vec::new();
        }
        std::mem::take(&mut *self.line.orders.lock())
    }

    /// Its client is somebody else now, or the same with other rights.
    pub fn is_now(&self, client: Arc<Client>) {
        *self.line.client.lock() = client;
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        self.roster.shards[self.shard].lock().remove(self.key);
    }
}
