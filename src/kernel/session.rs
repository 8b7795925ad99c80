//! A session: one connected client and its cursors.
//!
//! It owns a position in each of its channels, never a queue of messages. What it writes from there on, `turn` says.

use std::collections::VecDeque;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll};

use rustc_hash::FxHashMap;
use slab::Slab;
use tokio::time::Instant;

use super::channel::{Bell, Seat};
use super::format::Format;
use super::hooks::{Client, Refusal, Sight};
use super::hub::Hub;
use super::log::LogError;
use super::message::{ChannelName, Position};
use super::once::Once;
use super::subscription::{Subscription, begin};
use super::turn::Stretch;

pub use super::channel::Outlet;
pub use super::subscription::{Pace, Start};
pub use super::turn::{Batch, Close};

pub struct Session {
    pub(super) hub: Arc<Hub>,
    pub(super) client: Arc<Client>,
    pub(super) format: Arc<dyn Format>,
    pub(super) subscriptions: Slab<Subscription>,
    pub(super) by_name: FxHashMap<ChannelName, u32>,
    pub(super) bell: Arc<Bell>,
    /// Subscriptions with something to say, each at most once.
    pub(super) ready: VecDeque<u32>,
    /// Those that must read the log first.
    pub(super) behind: VecDeque<u32>,
    /// Those that wait for the next moment of their pace.
    pub(super) resting: Vec<u32>,
    /// What was read for the first of those behind; dropped if the socket does not take it.
    pub(super) stretch: Option<Stretch>,
    pub(super) once: Once,
    /// Counts the fills.
    pub(super) turn: u64,
    /// The number of the rules that let it in.
    pub(super) judged_by: u64,
    /// It is an operator's eye: no rule is asked, nobody is told that it comes and goes, and nothing counts it.
    pub(super) watches: bool,
}

#[derive(Debug)]
pub enum SubscribeError {
    Refused(Refusal),
    Store(LogError),
}

impl Session {
    pub fn new(hub: Arc<Hub>, client: Arc<Client>, format: Arc<dyn Format>) -> Self {
        hub.counters().sessions.add(1);
        Session::of(hub, client, format, false)
    }

    /// One that only watches: it is let in everywhere without a question, and nobody hears of it.
    pub fn watching(hub: Arc<Hub>, client: Arc<Client>, format: Arc<dyn Format>) -> Self {
        Session::of(hub, client, format, true)
    }

    fn of(hub: Arc<Hub>, client: Arc<Client>, format: Arc<dyn Format>, watches: bool) -> Self {
        Session {
            judged_by: hub.hooks().at_hand(),
            hub,
            client,
            format,
            subscriptions: Slab::new(),
            by_name: FxHashMap::default(),
            bell: Arc::default(),
            ready: VecDeque::new(),
            behind: VecDeque::new(),
            resting: Vec::new(),
            stretch: None,
            once: Once::default(),
            turn: 0,
            watches,
        }
    }

    pub fn client(&self) -> &Arc<Client> {
        &self.client
    }

    pub fn hub(&self) -> &Arc<Hub> {
        &self.hub
    }

    /// Whether other rules are in charge than those that let it in.
    pub fn is_outdated(&self) -> bool {
        self.judged_by != self.hub.hooks().in_charge()
    }

    pub fn len(&self) -> usize {
        self.subscriptions.len()
    }

    pub fn is_empty(&self) -> bool {
        self.subscriptions.is_empty()
    }

    pub fn holds(&self, channel: &str) -> bool {
        self.by_name.contains_key(channel)
    }

    /// Whether what it missed of a channel is still on its way.
    pub fn is_replaying(&self, channel: &str) -> bool {
        self.by_name.get(channel).is_some_and(|slot| self.subscriptions[*slot as usize].live_at.is_some())
    }

    /// Where the session stands in each of its channels.
    pub fn positions(&self) -> impl Iterator<Item = (&ChannelName, Position)> {
        self.subscriptions.iter().map(|(_, s)| s.place(s.cursor))
    }

    /// Where each of its channels stands.
    pub fn heads(&self) -> impl Iterator<Item = (&ChannelName, Position)> {
        self.subscriptions.iter().map(|(_, s)| s.position(s.seat.head()))
    }

    /// Begins to listen. The position that is answered is where delivery begins.
    pub async fn subscribe(&mut self, name: ChannelName, start: Start) -> Result<Position, SubscribeError> {
        let resumes = matches!(start, Start::After(..));
        let (sight, may_resume) = self.ask(&name, resumes).await.map_err(SubscribeError::Refused)?;
        self.sit(name, start, sight, may_resume).await.map_err(SubscribeError::Store)
    }

    /// Begins to watch a channel, from now on or, if `all`, with all that is in memory of it. If it does already, it sees it
    /// so from now on.
    pub async fn watch(&mut self, name: ChannelName, all: bool, sight: Sight) -> Result<(), LogError> {
        debug_assert!(self.watches, "whoever is somebody is asked about");
        if let Some(slot) = self.by_name.get(&name) {
            self.subscriptions[*slot as usize].look_through(sight, &self.format);
            return Ok(());
        }
        let start = match all {
            true => Start::After(self.hub.channel(&name).await?.tail.first() - 1, None),
            false => Start::Now,
        };
        self.sit(name, start, sight, true).await.map(drop)
    }

    async fn sit(
        &mut self,
        name: ChannelName,
        start: Start,
        sight: Sight,
        may_resume: bool,
    ) -> Result<Position, LogError> {
        let resumes = matches!(start, Start::After(..));
        let channel = self.hub.channel(&name).await?;
        let extent = channel.log.open(&name, &channel.policy()).await?;
        let first = if channel.is_kept() { extent.first } else { channel.tail.first() };
        if self.subscriptions.capacity() == 0 {
            // Most sessions have one; the slab would make room for four.
            self.subscriptions.reserve_exact(1);
        }
        let entry = self.subscriptions.vacant_entry();
        let slot = entry.key() as u32;
        // The cursor is placed before history is read: what arrives meanwhile is simply further along.
        let seat = Seat::take(channel, self.bell.clone(), slot, self.client.clone(), self.watches);
        let head = seat.head();
        let (cursor, gap) = match start {
            Start::Now => (head, None),
            Start::After(after, epoch) => begin(after, epoch, seat.channel.epoch, (first, head), may_resume),
        };
        let live_at = resumes.then_some(head);
        let position = Position { epoch: seat.channel.epoch, offset: cursor };
        let encoding = seat.channel.tail.encoding(&self.format, &sight);
        let has_something = cursor < head || gap.is_some() || live_at.is_some() || seat.head() > head;
        if has_something && seat.reader.claim() {
            self.ready.push_back(slot);
        }
        entry.insert(Subscription {
            seat,
            sight,
            encoding,
            resumed: resumes,
            cursor,
            reached: cursor,
            gap,
            live_at,
            full_at: None,
            pace: None,
            rests_until: None,
            gap_said: false,
            turn: 0,
            behind_since: None,
        });
        if !self.watches {
            self.hub.counters().subscriptions.add(1);
            self.hub.hooks().joined(&self.client, &name);
        }
        self.by_name.insert(name, slot);
        Ok(position)
    }

    /// Whether it may listen, what it then sees, and whether it may have what it missed. What it missed it sees as what
    /// happens now; only a view that the history alone names narrows both.
    async fn ask(&self, name: &ChannelName, resumes: bool) -> Result<(Sight, bool), Refusal> {
        let hooks = self.hub.hooks();
        let sight = match self.by_name.contains_key(name.as_str()) {
            false => hooks.subscribe(&self.client, name).await?,
            true => hooks.still(&self.client, name).await?,
        };
        if !resumes {
            return Ok((sight, true));
        }
        match hooks.history(&self.client, name, true).await {
            Ok(past) => Ok((sight.or(past), true)),
            Err(_) => Ok((sight, false)),
        }
    }

    /// From now on everything is said in another way.
    pub fn speaks(&mut self, format: Arc<dyn Format>) {
        for (_, subscription) in &mut self.subscriptions {
            let sight = subscription.sight.clone();
            subscription.look_through(sight, &format);
        }
        self.format = format;
    }

    /// Slows one of its channels down.
    pub fn set_pace(&mut self, name: &str, pace: Pace) {
        if let Some(slot) = self.by_name.get(name) {
            self.subscriptions[*slot as usize].pace = Some(pace);
        }
    }

    /// When `fill` has something to do even if nothing comes.
    pub fn next_turn(&self) -> Option<Instant> {
        self.resting.iter().filter_map(|slot| self.subscriptions[*slot as usize].rests_until).min()
    }

    /// It is somebody else now, or the same under other rules: every subscription is voted on again, and goes on from its
    /// cursor with what it sees from now on. Those that are denied have ended when this returns.
    pub async fn becomes(&mut self, client: Arc<Client>) -> Vec<(ChannelName, Refusal)> {
        self.client = client;
        let mut ended = Vec::new();
        let held: Vec<_> = self.by_name.iter().map(|(name, slot)| (name.clone(), *slot as usize)).collect();
        for (name, slot) in held {
            match self.ask(&name, self.subscriptions[slot].resumed).await {
                Ok((sight, _)) => {
                    self.subscriptions[slot].look_through(sight, &self.format);
                    self.sits_as_now(slot);
                }
                Err(refusal) => {
                    self.unsubscribe(name.as_str());
                    ended.push((name, refusal));
                }
            }
        }
        ended
    }

    /// Another user has come in place of the one who listened; or the same one is listed with its new rights.
    fn sits_as_now(&self, slot: usize) {
        let seat = &self.subscriptions[slot].seat;
        let (before, now) = (seat.reader.client(), &self.client);
        seat.reader.set_client(now.clone());
        let person = |client: &Client| (client.identity.user.clone(), client.identity.tenant.clone());
        if !Arc::ptr_eq(&before, now) && person(&before) != person(now) {
            self.hub.hooks().left(&before, &seat.channel.name);
            self.hub.hooks().joined(now, &seat.channel.name);
        }
    }

    /// Stops listening to everything: what the rules hear of it, they hear before they hear that the client has gone.
    pub fn end(&mut self) {
        self.ready.clear();
        self.behind.clear();
        self.resting.clear();
        for name in self.by_name.keys().cloned().collect::<Vec<_>>() {
            self.unsubscribe(name.as_str());
        }
    }

    /// Stops listening; false if it did not.
    pub fn unsubscribe(&mut self, name: &str) -> bool {
        let Some(slot) = self.by_name.remove(name) else { return false };
        let Subscription { seat, .. } = self.subscriptions.remove(slot as usize);
        if !self.watches {
            self.hub.hooks().left(&seat.reader.client(), &seat.channel.name);
            self.hub.counters().subscriptions.sub(1);
        }
        self.ready.retain(|s| *s != slot);
        self.behind.retain(|s| *s != slot);
        self.resting.retain(|s| *s != slot);
        self.stretch.take_if(|stretch| stretch.slot == slot);
        true
    }

    /// From now on it may be written to in its sleep.
    pub fn set_outlet(&self, outlet: Weak<dyn Outlet>) {
        self.bell.set_outlet(outlet);
    }

    /// Ready when `fill` or `fetch` has something to do.
    pub fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let rung = self.bell.poll(&mut self.ready, cx);
        if self.behind.is_empty() { rung } else { Poll::Ready(()) }
    }

    /// Whether the next step is `fetch`, because what comes next has left memory.
    pub fn wants_log(&self) -> bool {
        self.ready.is_empty() && !self.behind.is_empty()
    }

    /// Whether nothing is to be done until a channel grows.
    pub fn is_at_rest(&self) -> bool {
        self.ready.is_empty() && self.behind.is_empty() && self.stretch.is_none()
    }

    /// Whether `fetch` has read something that `fill` has not proposed yet.
    pub fn has_stretch(&self) -> bool {
        self.stretch.is_some()
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.end();
        if !self.watches {
            self.hub.counters().sessions.sub(1);
        }
    }
}
