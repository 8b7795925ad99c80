//! The hub: publish, read, forget, and a place where sessions begin.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use dashmap::DashMap;
use tokio::sync::{mpsc, oneshot};

use super::channel::Channel;
use super::counters::Counters;
use super::hooks::{Client, Hooks, Refusal};
use super::lane::{Lane, Request, Shared};
use super::log::{Appended, From, Log, LogError, Page, Range};
use super::message::{Admitted, ChannelName, Draft, Epoch, Micros, Offset};
use super::policy::{Ack, Policy};
use super::rendering::render;
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
    kept: LaneHandle,
    fleeting: LaneHandle,
    stopping: AtomicBool,
    lag_patience: Duration,
}

struct LaneHandle {
    log: Arc<dyn Log>,
    inbox: mpsc::Sender<Request>,
    thread: parking_lot::Mutex<Option<std::thread::JoinHandle<()>>>,
}

/// How long a publisher waits for the store.
const PATIENCE: Duration = Duration::from_secs(15);

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

#[derive(Debug)]
pub enum PublishError {
    Refused(Refusal),
    /// The hub is going down.
    Stopping,
    /// Too many publishes wait already.
    Busy,
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

impl std::convert::From<LogError> for PublishError {
    fn from(error: LogError) -> Self {
        PublishError::Store(error)
    }
}

impl Hub {
    /// Starts the lanes. `Hub::herald` must be driven by somebody, where the sessions run.
    pub fn start(parts: Parts) -> std::io::Result<Arc<Hub>> {
        let hooks = parts.hooks.clone();
        let shared = Arc::new(Shared {
            channels: DashMap::default(),
            herald: Default::default(),
            counters: Default::default(),
            clock: parts.clock,
            policy: Box::new(move |name| resolve(hooks.policy(name))),
            tail: parts.tail,
            idle_after: parts.idle_after,
            flush_interval: parts.flush_interval,
            sweep_interval: parts.sweep_interval,
        });
        let kept = LaneHandle::start("lane-kept", parts.kept, &shared, parts.queue)?;
        let fleeting = LaneHandle::start("lane-fleeting", parts.fleeting, &shared, parts.queue)?;
        Ok(Arc::new(Hub {
            hooks: parts.hooks,
            shared,
            kept,
            fleeting,
            stopping: AtomicBool::new(false),
            lag_patience: parts.lag_patience,
        }))
    }

    /// Wakes readers until it is dropped.
    pub async fn herald(&self) {
        self.shared.herald.run().await
    }

    pub async fn publish(&self, client: &Client, draft: Draft) -> Result<Receipt, PublishError> {
        let admitted = self.admit(client, draft).await?;
        let channel = self.channel(&admitted.draft().channel).await?;
        let appended = self.append(self.lane(&channel.policy), vec![(channel.clone(), admitted)]).await?;
        Ok(receipt(&channel, appended[0]))
    }

    /// Publishes several messages with one group commit; each has a result of its own.
    pub async fn publish_batch(&self, client: &Client, drafts: Vec<Draft>) -> Vec<Result<Receipt, PublishError>> {
        let mut results: Vec<Result<Receipt, PublishError>> = Vec::with_capacity(drafts.len());
        let (mut kept, mut fleeting) = (Vec::new(), Vec::new());
        for draft in drafts {
            let index = results.len();
            results.push(Err(PublishError::Busy));
            match self.prepare(client, draft).await {
                Ok(item) if item.0.policy.history.is_some() => kept.push((index, item)),
                Ok(item) => fleeting.push((index, item)),
                Err(error) => results[index] = Err(error),
            }
        }
        for (lane, items) in [(&self.kept, kept), (&self.fleeting, fleeting)] {
            if items.is_empty() {
                continue;
            }
            let places: Vec<_> = items.iter().map(|(index, (channel, _))| (*index, channel.clone())).collect();
            let outcome = self.append(lane, items.into_iter().map(|(_, item)| item).collect()).await;
            for (nth, (index, channel)) in places.into_iter().enumerate() {
                results[index] = match &outcome {
                    Ok(appended) => Ok(receipt(&channel, appended[nth])),
                    Err(PublishError::Store(error)) => Err(PublishError::Store(error.clone())),
                    Err(_) if self.is_stopping() => Err(PublishError::Stopping),
                    Err(_) => Err(PublishError::Busy),
                };
            }
        }
        results
    }

    /// What a publish would do: asks the rules, and does nothing.
    pub async fn rehearse(&self, client: &Client, draft: &Draft) -> Result<Rehearsal, PublishError> {
        if self.is_stopping() {
            return Err(PublishError::Stopping);
        }
        self.hooks.publish(client, draft.clone()).await.map_err(PublishError::Refused)?;
        let known = self.shared.channels.get(&draft.channel).map(|channel| channel.clone());
        let policy = known.as_ref().map_or_else(|| (self.shared.policy)(&draft.channel), |channel| channel.policy);
        Ok(Rehearsal { readers: known.map_or(0, |channel| channel.subscribers()), policy })
    }

    async fn prepare(&self, client: &Client, draft: Draft) -> Result<(Arc<Channel>, Admitted), PublishError> {
        let admitted = self.admit(client, draft).await?;
        Ok((self.channel(&admitted.draft().channel).await?, admitted))
    }

    async fn admit(&self, client: &Client, draft: Draft) -> Result<Admitted, PublishError> {
        if self.is_stopping() {
            return Err(PublishError::Stopping);
        }
        match self.hooks.publish(client, draft).await {
            Ok(admission) => Ok(Admitted(admission.draft)),
            Err(refusal) => {
                self.shared.counters.refused.add(1);
                Err(PublishError::Refused(refusal))
            }
        }
    }

    async fn append(
        &self,
        lane: &LaneHandle,
        items: Vec<(Arc<Channel>, Admitted)>,
    ) -> Result<Vec<Appended>, PublishError> {
        let began = Instant::now();
        let (reply, answer) = oneshot::channel();
        lane.inbox.try_send(Request::Publish { items, reply }).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => PublishError::Busy,
            mpsc::error::TrySendError::Closed(_) => PublishError::Stopping,
        })?;
        // A store that hangs is as good as one that fails: nobody waits for it without an end.
        let answer = tokio::time::timeout(PATIENCE, answer).await;
        let answer = answer.map_err(|_| LogError("the store does not answer".into()))?;
        let appended = answer.map_err(|_| PublishError::Stopping)??;
        self.shared.counters.publish_seconds.observe(began.elapsed());
        Ok(appended)
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
        let mut page = channel.log.read(name, range).await.map_err(ReadError::Store)?;
        page.extent.last = channel.tail.head();
        let mut withheld = Vec::new();
        if let Some(view) = sight {
            page.publications = std::mem::take(&mut page.publications)
                .into_iter()
                .filter_map(|publication| {
                    let seen = render(&*view, name, &publication, &self.shared.counters);
                    if seen.is_none() {
                        withheld.push(publication.offset);
                    }
                    seen
                })
                .collect();
        }
        Ok(Past { page, epoch: channel.epoch, withheld })
    }

    /// Deletes a channel's publications; its numbers go on.
    pub async fn forget(&self, name: &ChannelName) -> Result<(), LogError> {
        let channel = self.channel(name).await?;
        let (reply, answer) = oneshot::channel();
        self.lane(&channel.policy).ask(Request::Forget { channel, reply }, answer).await
    }

    /// The channel in memory; its lane brings it there when it is first touched. Callers have been let in before.
    pub(super) async fn channel(&self, name: &ChannelName) -> Result<Arc<Channel>, LogError> {
        if let Some(known) = self.shared.channels.get(name) {
            return Ok(known.clone());
        }
        let policy = (self.shared.policy)(name);
        let (reply, answer) = oneshot::channel();
        self.lane(&policy).ask(Request::Open { name: name.clone(), policy, reply }, answer).await
    }

    fn lane(&self, policy: &Policy) -> &LaneHandle {
        if policy.history.is_some() { &self.kept } else { &self.fleeting }
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

    pub fn channels_with_subscribers(&self) -> usize {
        self.shared.channels.iter().filter(|channel| channel.subscribers() > 0).count()
    }

    /// Why channels with a history take nothing any more, if so.
    pub fn store_failure(&self) -> Option<String> {
        self.kept.log.failure()
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
            let (reply, answer) = oneshot::channel();
            let stopped = tokio::time::timeout(limit, lane.ask(Request::Stop { reply }, answer)).await;
            match stopped {
                Ok(stopped) => {
                    outcome = outcome.and(stopped);
                    if let Some(thread) = lane.thread.lock().take() {
                        let _ = thread.join();
                    }
                }
                Err(_) => outcome = outcome.and(Err(LogError("the store does not answer".into()))),
            }
        }
        outcome
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum HistoryFrom {
    After(Offset),
    Before(Offset),
}

impl LaneHandle {
    fn start(name: &str, log: Arc<dyn Log>, shared: &Arc<Shared>, queue: usize) -> std::io::Result<LaneHandle> {
        let (inbox, requests) = mpsc::channel(queue);
        let lane = Lane::new(log.clone(), shared.clone());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build()?;
        let thread =
            std::thread::Builder::new().name(name.into()).spawn(move || runtime.block_on(lane.run(requests)))?;
        Ok(LaneHandle { log, inbox, thread: parking_lot::Mutex::new(Some(thread)) })
    }

    async fn ask<T>(&self, request: Request, answer: oneshot::Receiver<Result<T, LogError>>) -> Result<T, LogError> {
        let gone = |_| LogError("the hub is stopping".into());
        self.inbox.send(request).await.map_err(|_| LogError("the hub is stopping".into()))?;
        answer.await.map_err(gone)?
    }
}

/// A channel that keeps nothing promises nothing about disks.
fn resolve(mut policy: Policy) -> Policy {
    if policy.history.is_none() {
        policy.ack = Ack::Memory;
    }
    policy
}

fn receipt(channel: &Channel, appended: Appended) -> Receipt {
    let (offset, time, duplicate) = match appended {
        Appended::New { offset, time } => (offset, time, false),
        Appended::Repeat { offset, time } => (offset, time, true),
    };
    Receipt { channel: channel.name.clone(), offset, epoch: channel.epoch, time, ack: channel.policy.ack, duplicate }
}
