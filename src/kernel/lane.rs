//! One thread that owns some channels: their order, their log and their tails.
//!
//! Numbering, appending and showing a publication happen here and nowhere else, so order within a channel needs no lock and
//! no two readers ever see two orders. Whatever waits is taken as one group: one append, one `settle`. A channel belongs to
//! the lane whose log keeps it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use dashmap::DashMap;
use rustc_hash::{FxBuildHasher, FxHashMap};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use super::channel::Channel;
use super::counters::Counters;
use super::herald::Herald;
use super::inbox::Weight;
use super::log::{Appended, Entry, Log, LogError};
use super::message::{Admitted, ChannelName, Draft, Message, Micros, Publication};
use super::policy::{Ack, Policy};
use super::returns::Returns;
use super::steady::Steady;
use super::tail::TailLimit;

/// The channels in memory, shared by the lanes, which alone add and remove.
pub(super) type Channels = DashMap<ChannelName, Arc<Channel>, FxBuildHasher>;

/// Publishes that are taken as one group at most.
pub(super) const GROUP: usize = 2048;
/// What is left of a tail while memory is short: one part of so many.
const SMALL: usize = 8;
/// And how long an idle channel stays then.
const SMALL_IDLE: Duration = Duration::from_secs(1);
/// How long letting channels go may take; the rest goes next time.
const SWEEP_BUDGET: Duration = Duration::from_millis(10);
/// How often a failure that goes on is said.
const SAY_AGAIN: Duration = Duration::from_secs(1);
/// How often rules are asked again for what they may have changed meanwhile.
const CHANGES: usize = 4;
/// How often a lane looks at the clock.
const TICK: Duration = Duration::from_millis(200);

/// What a lane is asked for. Its inbox has an end: a publisher that finds it full is told to come back.
pub(super) enum Request {
    /// With the policy that the rules of this number have for it.
    Open {
        name: ChannelName,
        policy: Policy,
        rules: u64,
        reply: oneshot::Sender<Result<Arc<Channel>, LogError>>,
    },
    Publish {
        items: Vec<Item>,
        weight: Weight,
        reply: oneshot::Sender<Result<Vec<Appended>, LogError>>,
    },
    Forget {
        channel: Arc<Channel>,
        reply: oneshot::Sender<Result<(), LogError>>,
    },
    Stop {
        reply: oneshot::Sender<Result<(), LogError>>,
    },
}

/// A message on its way to a lane, with what its publisher is promised: a policy that changes meanwhile changes nothing
/// about that.
pub(super) struct Item {
    pub channel: Arc<Channel>,
    pub admitted: Admitted,
    pub ack: Ack,
}

/// What the lanes and the hub share.
pub(super) struct Shared {
    pub channels: Channels,
    pub herald: Herald,
    pub counters: Arc<Counters>,
    pub clock: fn() -> Micros,
    pub policy: Box<dyn Fn(&ChannelName) -> Policy + Send + Sync>,
    /// The number of the rules that answer there.
    pub in_charge: Box<dyn Fn() -> u64 + Send + Sync>,
    pub tail: TailLimit,
    /// Memory is short: tails hold less of what the store has as well, and idle channels go soon.
    pub small: AtomicBool,
    pub idle_after: Duration,
    pub flush_interval: Duration,
    pub sweep_interval: Duration,
}

impl Shared {
    /// What is nowhere but in its tail stays there: its memory is no cache.
    pub fn limit_of(&self, channel: &Channel) -> TailLimit {
        let TailLimit { count, bytes } = self.tail;
        match self.is_small(channel) {
            true => TailLimit { count: (count / SMALL).max(1), bytes: bytes / SMALL },
            false => self.tail,
        }
    }

    /// A channel takes over what the rules now say of it; true if it is something else.
    pub async fn resolve(&self, channel: &Channel) -> Result<bool, LogError> {
        let mut has_changed = false;
        // They may have changed once more when the store has heard of it; rules that never answer the same are no reason to stay.
        for _ in 0..CHANGES {
            let policy = channel.fit((self.policy)(&channel.name));
            if policy == channel.policy() {
                break;
            }
            // The store first: it must reserve numbers before anybody is promised less than the disk.
            channel.log.open(&channel.name, &policy).await?;
            channel.set_policy(policy);
            has_changed = true;
        }
        Ok(has_changed)
    }

    fn is_small(&self, channel: &Channel) -> bool {
        channel.is_kept() && self.small.load(Ordering::Relaxed)
    }
}

pub(super) struct Lane {
    log: Arc<dyn Log>,
    shared: Arc<Shared>,
    returns: Arc<Returns>,
    /// Appended, and not yet as safe as it was promised to be: nobody sees them before that.
    unsettled: Vec<(Arc<Channel>, Publication)>,
    /// Since the log was mended nobody has asked how far these reach: before that nothing is acknowledged.
    unasked: Vec<Arc<Channel>>,
    /// The weakest-acknowledged publications wait for the next flush.
    dirty_since: Option<Instant>,
    last_sweep: Instant,
    last_said: Option<Instant>,
    steady: Steady,
}

/// An answer that somebody waits for, to so many messages, which weigh something until it is given.
type PendingReply = (oneshot::Sender<Result<Vec<Appended>, LogError>>, usize, Weight);

impl Lane {
    pub fn new(log: Arc<dyn Log>, shared: Arc<Shared>, returns: Arc<Returns>) -> Self {
        let steady = Steady::new((shared.clock)());
        Lane {
            log,
            shared,
            returns,
            steady,
            unsettled: Vec::new(),
            unasked: Vec::new(),
            dirty_since: None,
            last_sweep: Instant::now(),
            last_said: None,
        }
    }

    /// Serves requests until it is told to stop.
    pub async fn run(mut self, mut inbox: mpsc::Receiver<Request>) {
        let mut requests = Vec::with_capacity(64);
        loop {
            let taken = tokio::time::timeout(TICK, inbox.recv_many(&mut requests, GROUP)).await;
            self.returns.begins();
            match taken {
                Ok(0) => return,
                Ok(_) => {
                    let stop = self.serve(&mut requests).await;
                    if let Some(reply) = stop {
                        let _ = reply.send(self.stop().await);
                        return;
                    }
                }
                Err(_) => {}
            }
            self.tick().await;
            self.returns.ends(taken.is_ok());
        }
    }

    async fn serve(&mut self, requests: &mut Vec<Request>) -> Option<oneshot::Sender<Result<(), LogError>>> {
        let mut items = Vec::with_capacity(requests.len());
        let mut replies: Vec<PendingReply> = Vec::with_capacity(requests.len());
        for request in requests.drain(..) {
            match request {
                Request::Publish { items: more, weight, reply } => {
                    replies.push((reply, more.len(), weight));
                    items.extend(more);
                }
                Request::Open { name, policy, rules, reply } => {
                    let _ = reply.send(self.open(name, policy, rules).await);
                }
                Request::Forget { channel, reply } => {
                    self.publish(std::mem::take(&mut items), std::mem::take(&mut replies)).await;
                    let _ = reply.send(self.forget(&channel).await);
                }
                Request::Stop { reply } => {
                    self.publish(items, replies).await;
                    return Some(reply);
                }
            }
        }
        self.publish(items, replies).await;
        None
    }

    async fn open(&mut self, name: ChannelName, policy: Policy, rules: u64) -> Result<Arc<Channel>, LogError> {
        if let Some(known) = self.shared.channels.get(&name) {
            return Ok(known.clone());
        }
        let extent = self.log.open(&name, &policy).await?;
        let channel =
            Arc::new(Channel::new(name.clone(), policy, extent, self.log.clone(), self.shared.counters.clone()));
        channel.touch();
        self.shared.channels.insert(name, channel.clone());
        if (self.shared.in_charge)() != rules {
            // Who asked all channels again may have come before it was one.
            self.shared.resolve(&channel).await?;
        }
        Ok(channel)
    }

    /// The one place where a message becomes a publication: number, append, show, settle, show, answer, wake.
    async fn publish(&mut self, items: Vec<Item>, replies: Vec<PendingReply>) {
        if items.is_empty() {
            return;
        }
        let began = Instant::now();
        let appended = match self.append(items).await {
            Ok(appended) => appended,
            Err(error) => {
                self.complain("the store did not take a group of publishes", &error);
                replies.into_iter().for_each(|(reply, ..)| drop(reply.send(Err(error.clone()))));
                return;
            }
        };
        let promised = appended.iter().map(|(_, ack)| *ack).max().unwrap_or(Ack::Memory);
        let (mut appended, mut late) = (appended.into_iter(), Vec::with_capacity(replies.len()));
        for (reply, count, weight) in replies {
            let (mine, acks): (Vec<_>, Vec<_>) = appended.by_ref().take(count).unzip();
            match acks.into_iter().max() {
                // What is shown already waits for nobody's disk, and is true whatever that says.
                None | Some(Ack::Memory) => drop(reply.send(Ok(mine))),
                Some(_) => late.push((reply, mine, weight)),
            }
        }
        if promised != Ack::Synced {
            self.dirty_since.get_or_insert(began);
        }
        let settled = self.settle(promised).await;
        match &settled {
            Ok(()) => {
                self.shared.counters.groups.add(1);
                self.shared.counters.store_seconds.observe(began.elapsed());
            }
            Err(error) => self.complain("the store did not take a group of publishes", error),
        }
        for (reply, mine, _weight) in late {
            let _ = reply.send(settled.clone().map(|()| mine));
        }
    }

    /// Numbers a group and gives it to the log; what is promised no more than memory is shown. Each with what its answer
    /// waits for.
    async fn append(&mut self, items: Vec<Item>) -> Result<Vec<(Appended, Ack)>, LogError> {
        self.ask().await?;
        // What an earlier group could not settle comes first, or nothing does: order within a channel holds.
        if !self.unsettled.is_empty() {
            self.settle(Ack::Synced).await?;
        }
        let now = (self.shared.clock)();
        let mut places = Vec::with_capacity(items.len());
        let mut entries = Vec::with_capacity(items.len());
        for Item { channel, admitted: Admitted(draft), ack } in items {
            let time = channel.time_for(now);
            channel.touch();
            // From now on, though a clock that was set back has its order in time go on from where it was.
            let expires = draft.ttl.map(|ttl| now + ttl.as_micros() as Micros);
            let Draft { channel: name, message, idempotency_key: key, once, fleeting, .. } = draft;
            let entry = Entry { channel: name, message, key, time, expires, once };
            // The log takes the number and nothing else: what has long expired is never read.
            let said = fleeting.then(|| (entry.message.clone(), expires));
            entries.push(if fleeting {
                Entry { message: Message::default(), expires: Some(0), ..entry }
            } else {
                entry
            });
            places.push((channel, ack, said));
        }
        let appended = self.log.append(&entries).await?;
        let mut waiting = Vec::with_capacity(appended.len());
        // A policy may have changed between two publishes of a group: none is shown before the one in front of it.
        let is_mixed = places.windows(2).any(|pair| pair[0].1 != pair[1].1);
        let mut behind = FxHashMap::default();
        for (((channel, ack, said), entry), result) in places.into_iter().zip(entries).zip(appended) {
            let mut waits_for = ack;
            if is_mixed {
                let before = behind.entry(Arc::as_ptr(&channel) as usize).or_insert(ack);
                waits_for = waits_for.max(*before);
                *before = waits_for;
            }
            let Appended::New { offset, time } = result else {
                // The first one may still be on its way to the disk, in this very group.
                self.shared.counters.repeats.add(1);
                waiting.push((result, waits_for));
                continue;
            };
            let (message, expires) = said.unwrap_or((entry.message, entry.expires));
            let publication = Publication { offset, time, expires, once: entry.once, message };
            self.shared.counters.published.add(1);
            if waits_for == Ack::Memory {
                self.show(&channel, publication);
            } else {
                self.unsettled.push((channel, publication));
            }
            waiting.push((result, waits_for));
        }
        Ok(waiting)
    }

    /// Makes what was appended as safe as `ack` says and shows it to the readers.
    async fn settle(&mut self, ack: Ack) -> Result<(), LogError> {
        if ack != Ack::Memory {
            self.log.settle(ack).await?;
        }
        if ack == Ack::Synced {
            self.dirty_since = None;
        }
        for (channel, publication) in std::mem::take(&mut self.unsettled) {
            self.show(&channel, publication);
        }
        Ok(())
    }

    fn show(&self, channel: &Arc<Channel>, publication: Publication) {
        channel.tail.push(publication, self.shared.limit_of(channel));
        self.shared.herald.announce(channel);
    }

    async fn forget(&mut self, channel: &Arc<Channel>) -> Result<(), LogError> {
        // What an earlier group could not settle is deleted too: shown afterwards, it would be back.
        if !self.unsettled.is_empty() {
            self.settle(Ack::Synced).await?;
        }
        let extent = self.log.forget(&channel.name).await?;
        self.log.settle(Ack::Synced).await?;
        channel.tail.drop_until(extent.last);
        Ok(())
    }

    /// Goes on from what the log has found on its disk. What waited to be settled is there or it is not; nobody was told of it.
    async fn mend(&mut self) -> Result<(), LogError> {
        if self.log.failure().is_some() && self.log.mend().await? {
            self.unsettled.clear();
            self.dirty_since = None;
            let channels = self.shared.channels.iter().map(|entry| entry.value().clone());
            self.unasked = channels.filter(|channel| Arc::ptr_eq(&channel.log, &self.log)).collect();
        }
        self.ask().await
    }

    async fn ask(&mut self) -> Result<(), LogError> {
        while let Some(channel) = self.unasked.last() {
            let extent = self.log.open(&channel.name, &channel.policy()).await?;
            channel.tail.leap(extent.last);
            self.shared.herald.announce(channel);
            self.unasked.pop();
        }
        Ok(())
    }

    async fn tick(&mut self) {
        if (self.log.failure().is_some() || !self.unasked.is_empty())
            && let Err(error) = self.mend().await
        {
            self.complain("the store could not be mended", &error);
        }
        if self.dirty_since.is_some_and(|since| since.elapsed() >= self.shared.flush_interval)
            && let Err(error) = self.settle(Ack::Synced).await
        {
            self.complain("the store could not be flushed", &error);
        }
        if self.last_sweep.elapsed() < self.shared.sweep_interval {
            return;
        }
        self.last_sweep = Instant::now();
        let now = (self.shared.clock)();
        self.drop_idle(now);
        if self.steady.believes(now)
            && let Err(error) = self.log.sweep(now, &self.shared.policy).await
        {
            self.complain("the store could not be swept", &error);
        }
    }

    /// Counts a failure, and says it at most once a second: a flood of publishes must not become a flood of lines.
    fn complain(&mut self, what: &str, error: &LogError) {
        self.shared.counters.store_errors.add(1);
        if self.last_said.is_none_or(|at| at.elapsed() > SAY_AGAIN) {
            self.last_said = Some(Instant::now());
            tracing::error!(%error, "{what}");
        }
    }

    /// Channels that nobody holds leave memory; the log knows how far they reached.
    fn drop_idle(&self, now: Micros) {
        let began = Instant::now();
        self.shared.channels.retain(|name, channel| {
            if !Arc::ptr_eq(&channel.log, &self.log) {
                return true;
            }
            channel.tail.expire(now);
            let mut idle_after = self.shared.idle_after;
            if self.shared.is_small(channel) {
                channel.tail.shrink(self.shared.limit_of(channel));
                idle_after = idle_after.min(SMALL_IDLE);
            }
            // Nobody can take a new reference while we hold the map's shard.
            let stays =
                Arc::strong_count(channel) > 1 || channel.idle_for() < idle_after || began.elapsed() > SWEEP_BUDGET;
            if !stays {
                self.log.close(name);
            }
            stays
        });
    }

    async fn stop(&mut self) -> Result<(), LogError> {
        self.log.settle(Ack::Synced).await?;
        self.log.shut().await
    }
}
