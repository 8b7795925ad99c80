//! The host: the generation in charge, those before it, and the way from one to the next.
//!
//! A question is answered by one generation from its first hook to its last, and all questions of a request by the same
//! one. A reload builds the next generation beside the one in charge and swaps one pointer, or changes nothing.

use std::cell::OnceCell;
use std::collections::{BTreeMap, VecDeque};
use std::future::{Future, ready};
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;

use arc_swap::{ArcSwap, ArcSwapOption};
use parking_lot::Mutex;
use serde_json::Value as Json;

use crate::kernel::hooks::{
    Admission, Answer, Client, ConnectRequest, Farewell, Hooks, Identity, Refusal, Request, Sight,
};
use crate::kernel::kv::Kv;
use crate::kernel::message::{ChannelName, Draft, Micros};
use crate::kernel::policy::Policy;
use crate::plugins::asking::remembered::Forget;
use crate::plugins::asking::rules::Rules;
use crate::plugins::authors::inspect::{Finding, inspect};
use crate::plugins::commons::Commons;
use crate::plugins::dialect;
use crate::plugins::source::change::{self, Change};
use crate::plugins::source::generation::Generation;
use crate::plugins::source::handover;
use crate::plugins::told::departures::Departure;
use crate::plugins::told::duty::Duty;
use crate::plugins::why::asked::Asked;
use crate::plugins::why::effect::Effect;
use crate::plugins::why::evidence::Evidence;
use crate::plugins::why::record::{DecisionFilter, Record};
use crate::plugins::why::shadow::{Outcome, Shadow};
use crate::plugins::why::tails::Tails;
use crate::plugins::why::trace::{self, Concluded, Followed, Step, Trace};
use crate::plugins::world::World;
use crate::plugins::{Counters, HostConfig, LoadError, Sources, voice};

/// Generations that were in charge and can be again.
const KEPT: usize = 5;

pub struct Host {
    current: ArcSwap<Rules>,
    /// The newest last. Held for as long as a change takes: they come one after the other.
    past: Mutex<VecDeque<Arc<Rules>>>,
    latest: Mutex<Latest>,
    pub(super) sources: Sources,
    pub(super) commons: Arc<Commons>,
    pub(super) counters: Arc<Counters>,
    /// A candidate that is asked the same.
    pub(super) shadow: ArcSwapOption<Shadow>,
    pub(super) tails: Tails,
    /// Ends the replay that runs, if one does.
    pub(super) replaying: Mutex<Option<Arc<AtomicBool>>>,
}

/// How the last attempt at a change went.
#[derive(Clone, Default)]
pub struct Latest {
    /// When the generation at hand took charge.
    pub since: Micros,
    pub failed: Option<(Micros, LoadError)>,
    pub reloads: u64,
    pub failures: u64,
}

tokio::task_local! {
    /// The rules that judge the request at hand, from its first question on.
    static JUDGED_BY: OnceCell<Arc<Rules>>;
}

impl Host {
    /// Reads and checks everything. Nothing runs beside the questions until `begin`.
    pub fn load(config: HostConfig) -> Result<Arc<Host>, LoadError> {
        Host::load_from(Arc::new(move || Ok(config.clone())))
    }

    /// As `load`; each reload asks `sources` again.
    pub fn load_from(sources: Sources) -> Result<Arc<Host>, LoadError> {
        let config = sources()?;
        let commons = Commons::new(config.clock.clone()).map_err(|why| LoadError(vec![why]))?;
        Host::load_among(sources, config, Arc::new(commons))
    }

    /// As `load_from`, over `commons` that somebody else holds too.
    pub(super) fn load_among(
        sources: Sources,
        config: HostConfig,
        commons: Arc<Commons>,
    ) -> Result<Arc<Host>, LoadError> {
        let counters = Arc::new(Counters::default());
        let generation = Generation::load(&config, commons.clone(), counters.clone())?;
        let latest = Latest { since: commons.now(), ..Latest::default() };
        Ok(Arc::new(Host {
            current: ArcSwap::from_pointee(Rules::new(generation, config)),
            past: Mutex::default(),
            latest: Mutex::new(latest),
            sources,
            commons,
            counters,
            shadow: ArcSwapOption::empty(),
            tails: Tails::default(),
            replaying: Mutex::default(),
        }))
    }

    /// Takes charge: load hooks run, and what runs beside the questions begins.
    pub fn begin(&self) -> Result<(), LoadError> {
        let rules = self.current.load_full();
        handover::take(&rules.generation, &BTreeMap::new())?;
        *rules.duty.write() = Some(Duty::begin(&rules.generation));
        Ok(())
    }

    /// Whom to tell of changes.
    pub fn live_in(&self, world: impl World + 'static) {
        // The first world is the only one.
        let _ = self.commons.world.set(Box::new(world));
    }

    /// Reads everything anew. All of it is good and in charge when this returns, or nothing has changed.
    pub fn reload(&self) -> Result<Change, LoadError> {
        self.change_to(|| {
            let config = (self.sources)()?;
            let next = Generation::load(&config, self.commons.clone(), self.counters.clone())?;
            // Here and not where something takes charge: a rollback mends nothing on disk, and a restart would still fail.
            self.latest.lock().failed = None;
            Ok(Arc::new(Rules::new(next, config)))
        })
    }

    /// Puts in charge what `build` makes, or changes nothing.
    pub(super) fn change_to(&self, build: impl FnOnce() -> Result<Arc<Rules>, LoadError>) -> Result<Change, LoadError> {
        let began = Instant::now();
        let mut past = self.past.lock();
        let before = self.current.load_full();
        let built = build().and_then(|next| {
            self.open_listeners(&next)?;
            handover::take(&next.generation, &handover::leave(&before.generation)?)?;
            Ok(next)
        });
        match built {
            Ok(next) => {
                let change = self.put_in_charge(&before, next, began);
                past.push_back(before);
                if past.len() > KEPT {
                    past.pop_front();
                }
                tracing::info!(generation = change.generation, "other rules are in charge:\n{change}");
                Ok(change)
            }
            Err(error) => {
                let mut latest = self.latest.lock();
                latest.failures += 1;
                latest.failed = Some((self.commons.now(), error.clone()));
                tracing::error!("the rules were not changed, those in charge stay:\n{error}");
                Err(error)
            }
        }
    }

    /// Puts the generation before this one in charge again.
    pub fn rollback(&self) -> Result<Change, LoadError> {
        let began = Instant::now();
        let mut past = self.past.lock();
        let Some(next) = past.pop_back() else {
            return Err(LoadError(vec![
                "there is no generation to go back to: none was before this one, or it is kept no longer".into(),
            ]));
        };
        let before = self.current.load_full();
        let left = self.open_listeners(&next).and_then(|()| handover::leave(&before.generation));
        let left = left.and_then(|left| handover::take(&next.generation, &left));
        if let Err(error) = left {
            past.push_back(next);
            return Err(error);
        }
        let change = self.put_in_charge(&before, next, began);
        tracing::warn!(generation = change.generation, "the rules were rolled back:\n{change}");
        Ok(change)
    }

    fn put_in_charge(&self, before: &Arc<Rules>, next: Arc<Rules>, began: Instant) -> Change {
        let channels = self.commons.world.get().map_or_else(Vec::new, |world| world.channels());
        let change = change::between(before, &next, &channels);
        // What the old ones do by themselves ends before the new ones begin.
        // Taken out first: who tells of a departure must not wait for a timer that ends.
        let timers = before.duty.write().as_mut().and_then(|duty| duty.timers.take());
        drop(timers);
        *next.duty.write() = Some(Duty::begin(&next.generation));
        self.current.store(next);
        let ended = before.duty.write().take();
        drop(ended);
        self.commons.remembered.clear();
        let mut latest = self.latest.lock();
        latest.since = self.commons.now();
        latest.reloads += 1;
        drop(latest);
        if let Some(world) = self.commons.world.get() {
            world.rules_changed(&self.listeners());
        }
        Change { took: began.elapsed(), ..change }
    }

    /// Before anything changes: a port that is taken refuses the change.
    fn open_listeners(&self, next: &Rules) -> Result<(), LoadError> {
        let Some(world) = self.commons.world.get() else { return Ok(()) };
        let opened = world.open(&dialect::listeners(&next.generation));
        opened.map_err(|why| LoadError(vec![why]))
    }

    /// The listeners that the rules in charge have for themselves.
    pub fn listeners(&self) -> Vec<SocketAddr> {
        dialect::listeners(&self.current.load().generation)
    }

    /// The rules that judge what happens now.
    pub(super) fn rules(&self) -> Arc<Rules> {
        let pinned = JUDGED_BY.try_with(|rules| rules.get_or_init(|| self.current.load_full()).clone());
        pinned.unwrap_or_else(|_| self.current.load_full())
    }

    fn keep(&self, rules: &Rules, asked: Asked<'_>, steps: Vec<Step>, record: Record) {
        let evidence = Evidence::new(&rules.generation, asked, steps);
        self.commons.recorder.keep(record, Some(Arc::new(evidence)));
    }

    /// Asks the rules, and writes down what they decided if somebody may want to know.
    ///
    /// Whoever asks pins the question first: each of the wrappers around it would hold it twice, and move it.
    async fn watched<T>(
        &self,
        rules: &Arc<Rules>,
        asked: Asked<'_>,
        asking: impl Future<Output = Result<T, Refusal>>,
    ) -> Result<T, Refusal>
    where
        for<'a> Effect: From<&'a T>,
    {
        let shadow = self.shadow.load_full().filter(|shadow| shadow.wants());
        let tailed = self.tails.are_open();
        let (answer, followed) = trace::follow(Trace::new(shadow.is_some() || tailed), asking).await;
        match followed {
            Some(Followed { steps, concluded: Concluded { record, kept } }) => {
                if tailed {
                    self.tails.tell(asked, &record, false);
                }
                if let Some(shadow) = shadow {
                    let effect = answer.as_ref().ok().map(Effect::from);
                    shadow.offer(asked, &steps, Outcome { record: record.clone(), effect });
                }
                if kept {
                    self.keep(rules, asked, steps, record);
                }
            }
            None => shadow.into_iter().for_each(|shadow| shadow.pass_over()),
        }
        answer
    }

    /// Runs what belongs to one request, judged by `rules`.
    pub(super) fn judged_by(rules: Arc<Rules>, request: Request<'_>) -> Request<'_> {
        Box::pin(JUDGED_BY.scope(OnceCell::from(rules), request))
    }

    fn moved(&self, client: &Arc<Client>, channel: &ChannelName, came: bool) {
        if !self.rules().is_attended(channel) || self.commons.attendance.tell(client, channel, came) {
            return;
        }
        let dropped = self.counters.moves_dropped.fetch_add(1, Relaxed) + 1;
        if dropped.is_power_of_two() {
            tracing::warn!(dropped, "join and leave hooks are too slow, some are not told");
        }
    }

    /// Tells the hooks of `rules` that somebody has gone.
    pub(super) fn departed(&self, rules: &Rules, departure: Departure) {
        let duty = rules.duty.read();
        if let Some(departures) = duty.as_ref().and_then(|duty| duty.departures.as_ref())
            && !departures.tell(departure)
        {
            let dropped = self.counters.farewells_dropped.fetch_add(1, Relaxed) + 1;
            if dropped.is_power_of_two() {
                tracing::warn!(dropped, "disconnect hooks are too slow, farewells are dropped");
            }
        }
    }

    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    pub fn generation(&self) -> u64 {
        self.current.load().generation.id
    }

    pub fn latest(&self) -> Latest {
        self.latest.lock().clone()
    }

    /// From here on what `aether.kv` keeps is kept in `store`.
    pub fn keep_in(&self, store: Arc<dyn Kv>) {
        self.commons.kv.move_to(Some(store));
    }

    /// Entries of shared tables and limiters that had to go because others came.
    pub fn shared_evicted(&self) -> u64 {
        self.commons.shelves.evicted()
    }

    /// Values of metrics that found no series of their own.
    pub fn metrics_folded(&self) -> u64 {
        self.commons.tallies.folded()
    }

    /// What plugins count and measure, in the Prometheus text format.
    pub fn metrics(&self) -> String {
        self.commons.tallies.render()
    }

    /// Drops remembered credentials and votes; how many.
    pub fn forget(&self, what: &Forget) -> usize {
        self.commons.remembered.forget(what)
    }

    /// The latest decisions that fit, the newest first: every no of late, and a sample of the yeses.
    pub fn decisions(&self, filter: &DecisionFilter) -> Vec<Record> {
        self.commons.recorder.find(filter).into_iter().map(|kept| kept.record).collect()
    }

    /// What one should look at in what is loaded, though nothing of it keeps the hub from starting.
    pub fn findings(&self) -> Vec<Finding> {
        inspect(&self.current.load().generation)
    }

    /// A line per plugin and script, and a line per hook.
    pub fn summary(&self) -> Vec<String> {
        let rules = self.current.load();
        let generation = &rules.generation;
        let mut lines = Vec::new();
        for (at, unit) in generation.program.units.iter().enumerate() {
            let version = if unit.version.is_empty() { String::new() } else { format!(" {}", unit.version) };
            lines.push(format!("{}{version} ({})", unit.name, unit.shown(&unit.entry)));
            let own = generation.registrations.iter().filter(|hook| hook.unit == at);
            lines.extend(own.map(|hook| format!("  {hook} ({})", hook.place)));
        }
        lines
    }

    /// As `summary`, for programs.
    pub fn described(&self) -> Json {
        let rules = self.current.load();
        let latest = self.latest();
        let generation = &rules.generation;
        let units = generation.program.units.iter().enumerate().map(|(at, unit)| {
            let own = generation.registrations.iter().filter(|hook| hook.unit == at);
            serde_json::json!({
                "name": unit.name,
                "version": unit.version,
                "file": unit.shown(&unit.entry),
                "hooks": own.map(|hook| serde_json::json!({"hook": hook.to_string(), "place": hook.place})).collect::<Vec<_>>(),
            })
        });
        let failed = latest.failed.map(|(at, LoadError(why))| serde_json::json!({"at_ms": at / 1000, "errors": why}));
        serde_json::json!({
            "generation": generation.id,
            "since_ms": latest.since / 1000,
            "reloads": latest.reloads,
            "failed_reloads": latest.failures,
            "last_failure": failed,
            "need_restart": rules.need_restart,
            "can_roll_back_to": self.past.lock().iter().rev().map(|rules| rules.generation.id).collect::<Vec<_>>(),
            "plugins": units.collect::<Vec<_>>(),
        })
    }
}

/// VMs live on for a moment, each with its thread; they must not keep the store open.
impl Drop for Host {
    fn drop(&mut self) {
        if let Some(shadow) = self.shadow.swap(None) {
            shadow.stop();
        }
        let ended = self.current.load().duty.write().take();
        drop(ended);
        self.commons.lanes.close();
        self.commons.beside.close();
        self.commons.outside.close();
        self.commons.kv.move_to(None);
    }
}

impl Hooks for Host {
    fn connect<'a>(&'a self, request: &'a ConnectRequest) -> Answer<'a, Identity> {
        let rules = self.rules();
        Box::pin(async move { self.watched(&rules, Asked::Connect(request), pin!(rules.who(request))).await })
    }

    fn refresh<'a>(&'a self, client: &'a Client, token: &'a str) -> Answer<'a, Identity> {
        let rules = self.rules();
        Box::pin(async move {
            self.watched(&rules, Asked::Refresh(client, token), pin!(rules.who_now(client, token))).await
        })
    }

    fn subscribe<'a>(&'a self, client: &'a Client, channel: &'a ChannelName) -> Answer<'a, Sight> {
        let rules = self.rules();
        Box::pin(async move {
            let asked = Asked::Subscribe(client, channel);
            self.watched(&rules, asked, pin!(rules.subscribe(client, channel, false))).await
        })
    }

    fn still<'a>(&'a self, client: &'a Client, channel: &'a ChannelName) -> Answer<'a, Sight> {
        let rules = self.rules();
        Box::pin(async move {
            // No shadow hears of it: nobody has asked for anything.
            let (asked, tailed) = (Asked::Subscribe(client, channel), self.tails.are_open());
            let asking = pin!(rules.subscribe(client, channel, true));
            let (answer, followed) = trace::follow(Trace::new(tailed), asking).await;
            if let Some(Followed { steps, concluded: Concluded { record, kept } }) = followed {
                if tailed {
                    self.tails.tell(asked, &record, true);
                }
                if kept {
                    self.keep(&rules, asked, steps, record);
                }
            }
            answer
        })
    }

    fn publish<'a>(&'a self, client: &'a Client, draft: Draft) -> Answer<'a, Admission> {
        let rules = self.rules();
        // Taken now: drafts keep the order in which they came, not that in which somebody looks at them.
        match rules.place(client, &draft.channel) {
            Ok(place) => Box::pin(async move {
                let asked = draft.clone();
                let asking = pin!(rules.publish(client, draft, place));
                self.watched(&rules, Asked::Publish(client, &asked), voice::heard(client, asking)).await
            }),
            Err(refusal) => Box::pin(ready(Err(refusal))),
        }
    }

    fn history<'a>(&'a self, client: &'a Client, channel: &'a ChannelName, resume: bool) -> Answer<'a, Sight> {
        let rules = self.rules();
        let asked = Asked::History(client, channel, resume);
        Box::pin(async move { self.watched(&rules, asked, pin!(rules.history(client, channel, resume))).await })
    }

    fn joined(&self, client: &Arc<Client>, channel: &ChannelName) {
        self.moved(client, channel, true);
    }

    fn left(&self, client: &Arc<Client>, channel: &ChannelName) {
        self.moved(client, channel, false);
    }

    fn disconnected(&self, client: &Arc<Client>, why: &Farewell) {
        let departure = Departure { client: client.clone(), why: why.clone(), of_dialect: None };
        self.departed(&self.rules(), departure);
    }

    /// By the rules in charge: it is the channel's for as long as that is in memory, whichever request brought it there.
    fn policy(&self, channel: &ChannelName) -> Policy {
        self.current.load_full().policy(channel)
    }

    fn at_hand(&self) -> u64 {
        self.rules().generation.id
    }

    fn in_charge(&self) -> u64 {
        self.generation()
    }

    fn as_one<'a>(&'a self, request: Request<'a>) -> Request<'a> {
        Box::pin(JUDGED_BY.scope(OnceCell::new(), request))
    }
}
