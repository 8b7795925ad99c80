//! The hub: publish, read, forget, and a place where sessions begin.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use dashmap::DashMap;
use tokio::sync::oneshot;

use super::channel::Channel;
use super::counters::Counters;
use super::hooks::{Admission, Client, Hooks, Refusal, Turn};
use super::inbox::{Inbox, Parcel, Sent, Work};
use super::lane::{Item, Request, Shared};
use super::log::{From, Log, LogError, Page, Range};
use super::message::{Admitted, ChannelName, Draft, Epoch, Micros, Offset, Publication};
use super::policy::{Ack, Policy};
use super::rendering::{is_dark, render};
use super::tail::TailLimit;

/// What the hub is built from.
pub struct Parts {
    pub hooks: Arc<dyn Hooks>,
    /// Keeps the channels that have a history.
    pub kept: Arc<dyn Log>,
    /// Numbers the channels that live in memory only.
    pub fleeting: Arc<dyn Log>,
    pub clock: fn() -> Micros,
    pub tail: TailLimit,
    pub idle_after: Duration,
    pub flush_interval: Duration,
    /// How often a lane lets idle channels go and its log sweeps a slice.
    pub sweep_interval: Duration,
    /// How long a reader may be further behind than its channel allows before the policy strikes.
    pub lag_patience: Duration,
    /// Publishes that may wait for a lane; beyond, publishers are told to come back.
    pub queue: usize,
}

pub struct Hub {
    hooks: Arc<dyn Hooks>,
    shared: Arc<Shared>,
    kept: Inbox,
    fleeting: Inbox,
    stopping: AtomicBool,
    lag_patience: Duration,
}

/// What a publisher is told.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Receipt {
    pub channel: ChannelName,
    pub offset: Offset,
    pub epoch: Epoch,
    pub time: Micros,
    pub ack: Ack,
    /// Its idempotency key was known; nothing was delivered.
    pub duplicate: bool,
}

/// What a publish would do.
#[derive(Clone, Copy, Debug)]
pub struct Rehearsal {
    /// Subscribers that would be reached now.
    pub readers: usize,
    pub policy: Policy,
}

#[derive(Clone, Debug)]
pub enum PublishError {
    Refused(Refusal),
    /// The hub is going down.
    Stopping,
    /// Too many publishes wait already; when to come back.
    Busy(Duration),
    Store(LogError),
}

/// A page of what was said before.
#[derive(Debug)]
pub struct Past {
    pub page: Page,
    pub epoch: Epoch,
    /// Those of the page that the reader's view withholds; they are not in it.
    pub withheld: Vec<Offset>,
}

#[derive(Debug)]
pub enum ReadError {
    Refused(Refusal),
    Store(LogError),
}

impl fmt::Display for PublishError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PublishError::Refused(refusal) => refusal.fmt(f),
            PublishError::Stopping => f.write_str("the hub is going down"),
            PublishError::Busy(_) => f.write_str("too many publishes are waiting"),
            PublishError::Store(error) => error.fmt(f),
        }
    }
}

impl std::convert::From<LogError> for PublishError {
    fn from(error: LogError) -> Self {
        PublishError::Store(error)
    }
}

impl Hub {
    /// Starts the lanes. `Hub::herald` must be driven by somebody.
    pub fn start(parts: Parts) -> std::io::Result<Arc<Hub>> {
        let (hub, [kept, fleeting]) = Hub::at_rest(parts);
        hub.kept.start("lane-kept", kept)?;
        hub.fleeting.start("lane-fleeting", fleeting)?;
        Ok(hub)
    }

    /// A hub without threads, and the work of its lanes, for whoever wants to say what happens when: `tests/simulation`.
    pub fn at_rest(parts: Parts) -> (Arc<Hub>, [Work; 2]) {
        let (hooks, charge) = (parts.hooks.clone(), parts.hooks.clone());
        let shared = Arc::new(Shared {
            channels: DashMap::default(),
            herald: Default::default(),
            counters: Default::default(),
            clock: parts.clock,
            policy: Box::new(move |name| resolve(hooks.policy(name))),
            in_charge: Box::new(move || charge.in_charge()),
            tail: parts.tail,
            small: AtomicBool::new(false),
            idle_after: parts.idle_after,
            flush_interval: parts.flush_interval,
            sweep_interval: parts.sweep_interval,
        });
        let (kept, kept_work) = Inbox::to(parts.kept, &shared, parts.queue);
        let (fleeting, fleeting_work) = Inbox::to(parts.fleeting, &shared, parts.queue);
        let hub = Hub {
            hooks: parts.hooks,
            shared,
            kept,
            fleeting,
            stopping: AtomicBool::new(false),
            lag_patience: parts.lag_patience,
        };
        (Arc::new(hub), [kept_work, fleeting_work])
    }

    /// Tells readers what is new until it is dropped; several may share that. `behind` is ready when those tasks have had
    /// their turn that were woken before it was called.
    pub async fn herald<F: Future<Output = ()>>(&self, behind: impl Fn() -> F) {
        self.shared.herald.run(behind).await
    }

    pub async fn publish(&self, client: &Client, draft: Draft) -> Result<Receipt, PublishError> {
        let (item, turn) = self.admit(client, draft).await?;
        let mut parcel = Parcel::to(self.lane(item.channel.is_kept()));
        parcel.add(0, item);
        let sent = parcel.send();
        drop(turn);
        let mut result = [Err(PublishError::Stopping)];
        self.deliver(sent, &mut result).await;
        let [result] = result;
        result
    }

    /// Publishes several messages with one group commit; each has a result of its own.
    pub async fn publish_batch(&self, client: &Client, drafts: Vec<Draft>) -> Vec<Result<Receipt, PublishError>> {
        let mut results = Vec::with_capacity(drafts.len());
        let mut parcels = [Parcel::to(&self.kept), Parcel::to(&self.fleeting)];
        let mut sent = Vec::new();
        for (index, draft) in drafts.into_iter().enumerate() {
            match self.admit(client, draft).await {
                Ok((item, turn)) => {
                    let parcel = &mut parcels[usize::from(!item.channel.is_kept())];
                    parcel.add(index, item);
                    // The rules are asked nothing while a turn is held: two batches could wait for each other's turns, and
                    // one for its own.
                    if turn.is_some() {
                        sent.push(parcel.send());
                    }
                    results.push(Err(PublishError::Stopping));
                }
                Err(error) => results.push(Err(error)),
            }
        }
        sent.extend(parcels.each_mut().map(Parcel::send));
        for sent in sent {
            self.deliver(sent, &mut results).await;
        }
        results
    }

    async fn deliver(&self, sent: Sent<'_>, results: &mut [Result<Receipt, PublishError>]) {
        if let Some(took) = sent.arrive(results).await {
            self.shared.counters.publish_seconds.observe(took);
        }
    }

    /// Waits, not for ever, while channels to which was just published outrun their readers. For publishers who wait for an
    /// answer; what plugins say comes from one task for all, or from a hook with a time of its own.
    pub async fn let_readers_follow(&self, published: impl Iterator<Item = &Receipt>) {
        let mut channels: Vec<Arc<Channel>> = Vec::new();
        for Receipt { channel: name, .. } in published {
            if channels.last().is_none_or(|last| last.name != *name) {
                channels.extend(self.shared.channels.get(name).map(|channel| channel.clone()));
            }
        }
        self.shared.let_readers_follow(&channels).await;
    }

    /// What a publish would do: asks the rules, and does nothing.
    pub async fn rehearse(&self, client: &Client, draft: &Draft) -> Result<Rehearsal, PublishError> {
        if self.is_stopping() {
            return Err(PublishError::Stopping);
        }
        self.hooks.publish(client, draft.clone()).await.map_err(PublishError::Refused)?;
        let known = self.shared.channels.get(&draft.channel).map(|channel| channel.clone());
        let policy = known.as_ref().map_or_else(|| (self.shared.policy)(&draft.channel), |channel| channel.policy());
        Ok(Rehearsal { readers: known.map_or(0, |channel| channel.subscribers()), policy })
    }

    async fn admit(&self, client: &Client, draft: Draft) -> Result<(Item, Option<Turn>), PublishError> {
        if self.is_stopping() {
            return Err(PublishError::Stopping);
        }
        let admission = self.hooks.publish(client, draft).await.map_err(|refusal| {
            self.shared.counters.refused.add(1);
            PublishError::Refused(refusal)
        });
        let Admission { draft, turn } = admission?;
        let channel = self.channel(&draft.channel).await?;
        let ack = channel.policy().ack;
        Ok((Item { channel, admitted: Admitted(draft), ack }, turn))
    }

    /// What was said in a channel before.
    pub async fn history(
        &self,
        client: &Client,
        name: &ChannelName,
        from: HistoryFrom,
        count: usize,
        bytes: usize,
    ) -> Result<Past, ReadError> {
        let sight = self.hooks.history(client, name, false).await.map_err(ReadError::Refused)?;
        let channel = self.channel(name).await.map_err(ReadError::Store)?;
        let from = match from {
            HistoryFrom::After(after) => From::After { after, upto: channel.tail.head() },
            // What is not settled yet is nobody's history.
            HistoryFrom::Before(before) => From::Before { before: before.min(channel.tail.head() + 1) },
        };
        let range = Range { from, count, bytes, now: (self.shared.clock)() };
        let mut page = channel.log.read(name, range).await.map_err(|error| {
            self.shared.counters.store_errors.add(1);
            tracing::error!(%error, channel = %name, "a history could not be read");
            ReadError::Store(error)
        })?;
        page.extent.last = channel.tail.head();
        page.extent.first = page.extent.first.min(page.extent.last + 1);
        let mut withheld = Vec::new();
        if let Some(view) = sight {
            let mut kept = std::mem::take(&mut page.publications);
            for at in 0..kept.len() {
                // Which may turn out at any time.
                if is_dark(&*view, &kept[at]) {
                    view.foresee(name, &mut kept[at..]).await;
                }
                match render(&*view, name, &kept[at], &self.shared.counters) {
                    Some(seen) => page.publications.push(seen),
                    None => withheld.push(kept[at].offset),
                }
            }
        }
        Ok(Past { page, epoch: channel.epoch, withheld })
    }

    /// The newest that a channel keeps below an offset, as they were said: no rule is asked.
    pub async fn kept(
        &self,
        name: &ChannelName,
        before: Offset,
        count: usize,
        bytes: usize,
    ) -> Result<Vec<Publication>, LogError> {
        let channel = self.channel(name).await?;
        let from = From::Before { before: before.min(channel.tail.head() + 1) };
        let range = Range { from, count, bytes, now: (self.shared.clock)() };
        Ok(channel.log.read(name, range).await?.publications)
    }

    /// Deletes a channel's publications; its numbers go on.
    pub async fn forget(&self, name: &ChannelName) -> Result<(), LogError> {
        let channel = self.channel(name).await?;
        let (reply, answer) = oneshot::channel();
        self.lane(channel.is_kept()).ask(Request::Forget { channel, reply }, answer).await
    }

    /// The channel in memory; its lane brings it there when it is first touched. Callers have been let in before.
    pub(super) async fn channel(&self, name: &ChannelName) -> Result<Arc<Channel>, LogError> {
        if let Some(known) = self.shared.channels.get(name) {
            return Ok(known.clone());
        }
        let rules = (self.shared.in_charge)();
        let policy = (self.shared.policy)(name);
        let (reply, answer) = oneshot::channel();
        let open = Request::Open { name: name.clone(), policy, rules, reply };
        self.lane(policy.history.is_some()).ask(open, answer).await
    }

    fn lane(&self, is_kept: bool) -> &Inbox {
        if is_kept { &self.kept } else { &self.fleeting }
    }

    /// Channels in memory that are wanted take the policy that the rules answer now, from the next publish, turn and sweep
    /// on; how many have changed. Whether a channel is kept at all is decided when it is next opened.
    pub async fn resolve_again(&self, wanted: impl Fn(&str) -> bool) -> Result<usize, LogError> {
        let mut changed = 0;
        for channel in self.channels(wanted) {
            changed += usize::from(self.shared.resolve(&channel).await?);
            tokio::task::consume_budget().await;
        }
        Ok(changed)
    }

    /// Whether tails hold an eighth of what they may of channels that the store keeps, and idle ones go soon: memory is short.
    pub fn keep_small_tails(&self, small: bool) {
        self.shared.small.store(small, Ordering::Relaxed);
    }

    pub fn hooks(&self) -> &Arc<dyn Hooks> {
        &self.hooks
    }

    pub fn counters(&self) -> &Counters {
        &self.shared.counters
    }

    pub(super) fn lag_patience(&self) -> Duration {
        self.lag_patience
    }

    pub fn now(&self) -> Micros {
        (self.shared.clock)()
    }

    pub fn channels_in_memory(&self) -> usize {
        self.shared.channels.len()
    }

    /// The channels in memory that are wanted, by name.
    pub fn channels(&self, wanted: impl Fn(&str) -> bool) -> Vec<Arc<Channel>> {
        let all = self.shared.channels.iter().filter(|entry| wanted(entry.key().as_str()));
        let mut found: Vec<_> = all.map(|entry| entry.value().clone()).collect();
        found.sort_by(|a, b| a.name.cmp(&b.name));
        found
    }

    /// Who listens to a channel.
    pub fn listeners(&self, name: &ChannelName) -> Vec<Arc<Client>> {
        self.shared.channels.get(name).map_or_else(Vec::new, |channel| channel.listeners())
    }

    /// Users who listen to a channel, so many at most, and how many connections do.
    pub fn users(&self, name: &ChannelName, most: usize) -> (BTreeSet<String>, usize) {
        self.shared.channels.get(name).map_or_else(Default::default, |channel| channel.users(most))
    }

    pub fn channels_with_subscribers(&self) -> usize {
        self.shared.channels.iter().filter(|channel| channel.subscribers() > 0).count()
    }

    /// Why nothing is stored or numbered any more, if so.
    pub fn store_failure(&self) -> Option<String> {
        self.kept.failure().or_else(|| self.fleeting.failure())
    }

    pub fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Acquire)
    }

    /// From here on publishes are refused at once; what was taken in before is finished.
    pub fn refuse_publishes(&self) {
        self.stopping.store(true, Ordering::Release);
    }

    /// Finishes what the lanes have taken in, puts it on disk and ends them; gives up on one that does not answer in time.
    pub async fn stop(&self, limit: Duration) -> Result<(), LogError> {
        self.refuse_publishes();
        let mut outcome = Ok(());
        for lane in [&self.kept, &self.fleeting] {
            outcome = outcome.and(lane.stop(limit).await);
        }
        outcome
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum HistoryFrom {
    After(Offset),
    Before(Offset),
}

/// A channel that keeps nothing promises nothing about disks.
fn resolve(mut policy: Policy) -> Policy {
    if policy.history.is_none() {
        policy.ack = Ack::Memory;
    }
    policy
}
