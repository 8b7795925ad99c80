//! Who is connected, so that everybody, or somebody, can be told something. Holds one small entry per connection.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::task::Context;
use std::time::Duration;

use futures_util::task::AtomicWaker;
use parking_lot::Mutex;
use slab::Slab;

use crate::kernel::hooks::Client;
use crate::kernel::message::ChannelName;

/// Connections come and go on several threads at once; each shard has a lock of its own.
const SHARDS: usize = 16;
/// Orders that a connection has not looked at yet; beyond, it is slow to the point of being gone, and is sent away.
const ORDERS: usize = 64;
/// An order that is given slowly is given so many times a second to some.
const SLICES: u32 = 100;

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
    /// Its socket takes nothing just now.
    stuck: AtomicBool,
    orders: Mutex<Vec<Order>>,
}

/// What an operator wants of a connection.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Order {
    Leave,
    /// The same, for a reason of the rules.
    Kick(Arc<str>),
    Unsubscribe(ChannelName),
    /// Ask the rules again about every subscription: they have changed.
    Reconsider,
    /// Leave, if the socket has taken nothing for so long: memory is short.
    Squeeze(Duration),
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
            stuck: AtomicBool::new(false),
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
            line.give(order);
        });
        count
    }

    /// Closes who has taken nothing for so long.
    pub fn squeeze(&self, least: Duration) {
        self.each(|line| {
            if line.stuck.load(Ordering::Relaxed) {
                line.give(&Order::Squeeze(least));
            }
        });
    }

    /// Gives an order to all that are connected now, so many a second; how many they were. Those who come meanwhile do not
    /// hear it: they came under the rules of now, or look themselves (`Session::is_outdated`).
    pub async fn each_slowly(&self, order: &Order, per_second: u32) -> usize {
        let mut lines = Vec::new();
        for shard in &self.shards {
            lines.extend(shard.lock().iter().map(|(_, line)| Arc::downgrade(line)));
        }
        let at_once = (per_second / SLICES).max(1) as usize;
        let pause = Duration::from_secs_f64(at_once as f64 / f64::from(per_second.max(1)));
        let mut slices = tokio::time::interval(pause);
        for some in lines.chunks(at_once) {
            slices.tick().await;
            some.iter().filter_map(Weak::upgrade).for_each(|line| line.give(order));
        }
        lines.len()
    }

    fn each(&self, mut tell: impl FnMut(&Line)) {
        for shard in &self.shards {
            for (_, line) in shard.lock().iter() {
                tell(line);
            }
        }
    }
}

impl Line {
    fn give(&self, order: &Order) {
        let mut orders = self.orders.lock();
        if orders.len() >= ORDERS {
            *orders = vec![Order::Leave];
        } else if !orders.contains(order) {
            orders.push(order.clone());
        }
        self.ordered.store(true, Ordering::Release);
        self.waker.wake();
    }
}

impl Member {
    /// Whether it is time to go; wakes the task when it is, or when there is an order.
    pub fn poll_stop(&self, cx: &mut Context<'_>) -> bool {
        self.line.waker.register(cx.waker());
        self.roster.is_stopping()
    }

    /// It is told something that others heard before it came.
    pub fn hear(&self, order: &Order) {
        self.line.give(order);
    }

    /// Whether it has been told something that it has not looked at.
    pub fn is_called(&self) -> bool {
        self.line.ordered.load(Ordering::Acquire) || self.roster.is_stopping()
    }

    /// Orders since the last look. Call after `poll_stop`, which registers the waker.
    pub fn orders(&self) -> Vec<Order> {
        if !self.line.ordered.swap(false, Ordering::Acquire) {
            return Vec::new();
        }
        std::mem::take(&mut *self.line.orders.lock())
    }

    /// Whether its socket takes nothing.
    pub fn set_stuck(&self, stuck: bool) {
        self.line.stuck.store(stuck, Ordering::Relaxed);
    }

    /// Its client is somebody else now, or the same with other rights.
    pub fn set_client(&self, client: Arc<Client>) {
        *self.line.client.lock() = client;
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        self.roster.shards[self.shard].lock().remove(self.key);
    }
}
