//! A channel in memory: its policy, its tail, and who is to be woken when it grows.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering, fence};
use std::sync::{Arc, LazyLock, OnceLock, Weak};
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::task::AtomicWaker;
use parking_lot::{Mutex, RwLock};
use slab::Slab;
use tokio::time::Instant;

use super::counters::Counters;
use super::hooks::Client;
use super::log::{Extent, Log};
use super::message::{ChannelName, Epoch, Micros, Offset, Position};
use super::policy::{Ack, Policy};
use super::rounds::Rounds;
use super::tail::{Tail, TailLimit};

/// Readers that are looked through for who they are: a fraction of a millisecond.
const SEEN: usize = 10_000;

pub struct Channel {
    pub name: ChannelName,
    policy: RwLock<Policy>,
    /// Its log keeps what it says; otherwise the tail is all there is.
    is_kept: bool,
    pub epoch: Epoch,
    pub tail: Tail,
    /// Where what has left the tail can be read.
    pub log: Arc<dyn Log>,
    readers: RwLock<Slab<Arc<Reader>>>,
    /// Of them, those that only watch: no listing and no count of listeners has them.
    watchers: AtomicUsize,
    pub(super) rounds: Rounds,
    /// A round of the herald is on its way.
    is_told: AtomicBool,
    /// The time of the last publication, for order in time as well; and, of a clock that never jumps, of the last use.
    last_time: AtomicU64,
    last_use: AtomicU64,
}

impl Channel {
    pub(super) fn new(
        name: ChannelName,
        policy: Policy,
        extent: Extent,
        log: Arc<dyn Log>,
        counters: Arc<Counters>,
    ) -> Self {
        Channel {
            tail: Tail::new(name.clone(), extent.epoch, extent.last, counters),
            name,
            policy: RwLock::new(policy),
            is_kept: policy.history.is_some(),
            epoch: extent.epoch,
            log,
            readers: RwLock::new(Slab::new()),
            watchers: AtomicUsize::new(0),
            rounds: Rounds::new(extent.last),
            is_told: AtomicBool::new(false),
            last_time: AtomicU64::new(0),
            last_use: AtomicU64::new(0),
        }
    }

    pub fn policy(&self) -> Policy {
        *self.policy.read()
    }

    pub(super) fn set_policy(&self, policy: Policy) {
        *self.policy.write() = policy;
    }

    pub fn is_kept(&self) -> bool {
        self.is_kept
    }

    /// What of a policy this channel can take over while it is in memory: it keeps its lane.
    pub(super) fn fit(&self, wanted: Policy) -> Policy {
        match (self.is_kept, wanted.history) {
            (true, None) => Policy { history: self.policy().history, ..wanted },
            (false, Some(_)) => Policy { history: None, ack: Ack::Memory, ..wanted },
            _ => wanted,
        }
    }

    /// The position of the newest publication.
    pub fn head(&self) -> Position {
        Position { epoch: self.epoch, offset: self.tail.head() }
    }

    pub fn subscribers(&self) -> usize {
        self.readers.read().len().saturating_sub(self.watchers.load(Ordering::Relaxed))
    }

    pub(super) fn listeners(&self) -> Vec<Arc<Client>> {
        self.readers.read().iter().filter(|(_, reader)| !reader.watches).map(|(_, reader)| reader.client()).collect()
    }

    /// Users who listen, so many at most, and how many connections do. Looks no further than `SEEN`: who asks may do so
    /// again and again.
    pub(super) fn users(&self, most: usize) -> (BTreeSet<String>, usize) {
        let readers = self.readers.read();
        let mut users = BTreeSet::new();
        for (_, reader) in readers.iter().take(SEEN).filter(|(_, reader)| !reader.watches) {
            let client = reader.client.lock();
            if let Some(user) = client.identity.user.as_deref()
                && !users.contains(user)
            {
                users.insert(user.to_owned());
            }
            if users.len() >= most {
                break;
            }
        }
        (users, readers.len().saturating_sub(self.watchers.load(Ordering::Relaxed)))
    }

    /// Whether somebody listens who is wanted.
    pub fn has_listener(&self, wanted: impl Fn(&Client) -> bool) -> bool {
        self.readers.read().iter().any(|(_, reader)| !reader.watches && wanted(&reader.client.lock()))
    }

    pub(super) fn enter(&self, reader: Arc<Reader>) -> usize {
        let mut readers = self.readers.write();
        self.watchers.fetch_add(usize::from(reader.watches), Ordering::Relaxed);
        readers.insert(reader)
    }

    pub(super) fn leave(&self, key: usize) {
        let mut readers = self.readers.write();
        let gone = readers.remove(key);
        if readers.is_empty() {
            *readers = Slab::new(); // Where a million were, every round would look for them.
        }
        self.watchers.fetch_sub(usize::from(gone.watches), Ordering::Relaxed);
    }

    pub(super) fn touch(&self) {
        self.last_use.store(uptime(), Ordering::Relaxed);
    }

    pub(super) fn idle_for(&self) -> Duration {
        Duration::from_micros(uptime().saturating_sub(self.last_use.load(Ordering::Relaxed)))
    }

    /// While it is in memory a channel's publications never go back in time, whatever the clock does. Only the lane calls it.
    pub(super) fn time_for(&self, now: Micros) -> Micros {
        let time = now.max(self.last_time.load(Ordering::Relaxed));
        self.last_time.store(time, Ordering::Relaxed);
        time
    }

    /// Nobody has to be told that it has grown. Who comes in just now reads the head after it has entered.
    pub(super) fn is_unread(&self) -> bool {
        self.readers.read().is_empty()
    }

    /// Its readers are woken so late that they will soon find their publications gone from the tail.
    pub(super) fn outruns_its_readers(&self, limit: TailLimit) -> bool {
        self.tail.is_half_above(self.rounds.served(), limit) && !self.is_unread()
    }

    /// It has grown; true if the herald has not been told yet.
    pub(super) fn mark_grown(&self) -> bool {
        !self.is_told.swap(true, Ordering::AcqRel)
    }

    /// Everybody has been told of `head`; true if there is more, and this is who tells the herald.
    pub(super) fn mark_told(&self, head: Offset) -> bool {
        self.is_told.swap(false, Ordering::AcqRel);
        self.tail.head() > head && self.mark_grown()
    }

    /// Gives readers from a key on while they are wanted; the key to go on from, if that was not all.
    pub(super) fn readers_from(&self, key: usize, mut give: impl FnMut(Arc<Reader>) -> bool) -> Option<usize> {
        let readers = self.readers.read();
        let mut wants_more = |key: &usize| readers.get(*key).is_none_or(|reader| give(reader.clone()));
        let last = (key..readers.capacity()).find(|key| !wants_more(key));
        last.map(|key| key + 1)
    }
}

/// Time that never jumps: a clock that is set back must not keep everything in memory.
fn uptime() -> Micros {
    static BEGAN: LazyLock<Instant> = LazyLock::new(Instant::now);
    BEGAN.elapsed().as_micros() as Micros
}

/// One session's interest in one channel.
pub struct Reader {
    pub(super) bell: Arc<Bell>,
    pub(super) slot: u32,
    client: Mutex<Arc<Client>>,
    /// Up while the session knows that there is something here: waking it again costs this flag.
    ringing: AtomicBool,
    /// The head that it saw at its last turn.
    looked_at: AtomicU64,
    watches: bool,
}

impl Reader {
    pub(super) fn new(bell: Arc<Bell>, slot: u32, client: Arc<Client>, watches: bool) -> Self {
        Reader {
            bell,
            slot,
            client: Mutex::new(client),
            ringing: AtomicBool::new(false),
            looked_at: AtomicU64::new(0),
            watches,
        }
    }

    pub(super) fn client(&self) -> Arc<Client> {
        self.client.lock().clone()
    }

    pub(super) fn set_client(&self, client: Arc<Client>) {
        *self.client.lock() = client;
    }

    /// There is something to see, up to `head`. True if that has woken a task.
    pub(super) fn ring(&self, head: Offset) -> bool {
        let knows = self.ringing.load(Ordering::Relaxed) || self.looked_at.load(Ordering::Relaxed) >= head;
        !knows && self.claim() && self.bell.ring(self.slot)
    }

    /// Raises the flag; true if it was down, so that whoever raised it must queue the slot.
    pub(super) fn claim(&self) -> bool {
        !self.ringing.swap(true, Ordering::AcqRel)
    }

    /// Lowers the flag *before* the head is read: what arrives from here on rings again.
    fn release(&self) {
        self.ringing.store(false, Ordering::Relaxed);
        fence(Ordering::SeqCst);
    }
}

/// Where a session can be written to while its task sleeps.
pub trait Outlet: Send + Sync {
    /// Writes what is new. False if the task has to be woken: it is awake, or there is more to do than that.
    fn write(&self) -> bool;
}

/// How channels reach a sleeping session. At most one entry a subscription, so its end is the number of subscriptions.
#[derive(Default)]
pub struct Bell {
    rung: Mutex<Vec<u32>>,
    waker: AtomicWaker,
    outlet: OnceLock<Weak<dyn Outlet>>,
}

impl Bell {
    /// True if a task was woken.
    fn ring(&self, slot: u32) -> bool {
        self.rung.lock().push(slot);
        let outlet = self.outlet.get().and_then(Weak::upgrade);
        let is_done = outlet.is_some_and(|outlet| outlet.write());
        if !is_done {
            self.waker.wake();
        }
        !is_done
    }

    pub(super) fn set_outlet(&self, outlet: Weak<dyn Outlet>) {
        let _ = self.outlet.set(outlet);
    }

    /// Moves what has rung to `queue`; pending if nothing has.
    pub(super) fn poll(&self, queue: &mut std::collections::VecDeque<u32>, cx: &mut Context<'_>) -> Poll<()> {
        self.waker.register(cx.waker());
        self.drain(queue);
        if queue.is_empty() { Poll::Pending } else { Poll::Ready(()) }
    }

    pub(super) fn drain(&self, queue: &mut std::collections::VecDeque<u32>) {
        queue.extend(self.rung.lock().drain(..));
    }
}

/// A subscription's place among a channel's readers; leaves when it is dropped.
pub(super) struct Seat {
    pub channel: Arc<Channel>,
    pub reader: Arc<Reader>,
    key: usize,
}

impl Seat {
    pub fn take(channel: Arc<Channel>, bell: Arc<Bell>, slot: u32, client: Arc<Client>, watches: bool) -> Self {
        let reader = Arc::new(Reader::new(bell, slot, client, watches));
        let key = channel.enter(reader.clone());
        Seat { channel, reader, key }
    }

    pub fn head(&self) -> Offset {
        self.channel.tail.head()
    }

    /// Everything up to the head is about to be looked at.
    pub fn look(&self) {
        self.reader.release();
        self.reader.looked_at.store(self.head(), Ordering::Relaxed);
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.channel.leave(self.key);
    }
}
