//! The kernel's questions, answered: grants first, then the votes of the hooks that a channel concerns.

use std::future::ready;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use dashmap::DashMap;
use mlua::Value;
use rustc_hash::FxBuildHasher;

use super::decision::{Allow, Decision, Deny, Vote};
use super::departures::Departures;
use super::generation::{Event, Generation};
use super::handles::Request;
use super::resident::with_vm;
use super::vm::Failure;
use super::{Counters, Facts, HostConfig, LoadError, Policies};
use crate::kernel::hooks::{Answer, Client, ConnectRequest, Farewell, Hooks, Identity, Refusal, RefusalKind};
use crate::kernel::message::{ChannelName, Draft};
use crate::kernel::policy::Policy;

/// All rules of one generation.
pub struct Host {
    generation: Arc<Generation>,
    connect: Vec<usize>,
    /// No hook votes on any channel, so none needs to be looked up.
    votes: bool,
    concerns: DashMap<ChannelName, Arc<Concern>, FxBuildHasher>,
    departures: Option<Departures>,
    policy: Policies,
    counters: Arc<Counters>,
}

/// The hooks that vote on one channel.
struct Concern {
    /// Stands for the channel in the VMs' caches.
    id: u64,
    subscribe: Box<[usize]>,
    publish: Box<[usize]>,
    history: Box<[usize]>,
}

/// Channels whose concern is kept. When it is full it starts afresh.
const MAX_CONCERNS: usize = 1 << 16;

const CONNECT_OPTIONS: [&str; 7] = ["user", "tenant", "expires", "attrs", "view", "ttl", "grants"];

/// What a hook said no with, or that it broke.
enum No {
    Denied(usize, Deny),
    Broken(usize, Failure),
}

/// A question about a channel.
struct Question<'a> {
    event: Event,
    client: &'a Client,
    channel: &'a ChannelName,
    /// An allow that needs no hook.
    granted: bool,
    draft: Option<&'a Draft>,
    resume: bool,
}

impl Host {
    pub fn load(config: HostConfig) -> Result<Arc<Host>, LoadError> {
        let counters = Arc::new(Counters::default());
        let generation = Arc::new(Generation::load(&config, counters.clone())?);
        let hooks = || generation.registrations.iter().enumerate();
        Ok(Arc::new(Host {
            connect: hooks().filter(|(_, hook)| hook.event == Event::Connect).map(|(at, _)| at).collect(),
            votes: hooks().any(|(_, hook)| hook.pattern.is_some()),
            concerns: DashMap::default(),
            departures: Departures::start(&generation),
            policy: config.policy,
            counters,
            generation,
        }))
    }

    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// A line per plugin and script, and a line per hook.
    pub fn summary(&self) -> Vec<String> {
        let mut lines = Vec::new();
        for (at, unit) in self.generation.program.units.iter().enumerate() {
            let version = if unit.version.is_empty() { String::new() } else { format!(" {}", unit.version) };
            lines.push(format!("{}{version} ({})", unit.name, unit.shown(&unit.entry)));
            let own = self.generation.registrations.iter().filter(|hook| hook.unit == at);
            lines.extend(own.map(|hook| format!("  {hook} ({})", hook.place)));
        }
        lines
    }

    fn concern(&self, channel: &ChannelName) -> Arc<Concern> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        if let Some(concern) = self.concerns.get(channel) {
            return concern.clone();
        }
        let name = channel.as_str();
        let of = |event: Event| -> Box<[usize]> {
            let concerned = |at: &usize| {
                let hook = &self.generation.registrations[*at];
                hook.event == event
                    && hook.pattern.as_ref().is_some_and(|pattern| pattern.matches(name))
                    && self.generation.unit_of(*at).only.as_ref().is_none_or(|only| only.matches(name))
            };
            (0..self.generation.registrations.len()).filter(concerned).collect()
        };
        let concern = Arc::new(Concern {
            id: NEXT.fetch_add(1, Relaxed),
            subscribe: of(Event::Subscribe),
            publish: of(Event::Publish),
            history: of(Event::History),
        });
        if self.concerns.len() >= MAX_CONCERNS {
            self.concerns.clear();
        }
        self.concerns.insert(channel.clone(), concern.clone());
        concern
    }

    fn decide(&self, question: &Question<'_>) -> Result<(), Refusal> {
        let mut allowed = question.granted;
        if self.votes {
            let concern = self.concern(question.channel);
            let hooks = match question.event {
                Event::Subscribe => &concern.subscribe,
                Event::Publish => &concern.publish,
                _ => &concern.history,
            };
            if !hooks.is_empty() {
                match self.vote(question, concern.id, hooks) {
                    Ok(vote) => allowed |= vote,
                    Err(no) => return Err(self.refuse(no, Some(question))),
                }
            }
        }
        if allowed {
            return Ok(());
        }
        self.counters.denied.fetch_add(1, Relaxed);
        Err(Decision {
            kind: RefusalKind::Denied,
            hook: &question.event.to_string(),
            plugin: "",
            place: "",
            code: "not_allowed",
            why: "no rule allows this",
            told: None,
            channel: Some(question.channel.as_str()),
            user: question.client.identity.user.as_deref(),
        }
        .refuse())
    }

    /// Whether a hook allows it. The first no ends the voting, because nothing outvotes it.
    fn vote(&self, question: &Question<'_>, concern: u64, hooks: &[usize]) -> Result<bool, No> {
        let limits = &self.generation.program.limits;
        let client = question.client;
        let mut asked = hooks[0];
        let votes = with_vm(&self.generation, |vm| {
            let lease = question.draft.map(|draft| vm.handles.lend(draft, client.identity.user.as_deref()));
            let mut allowed = false;
            for &hook in hooks {
                asked = hook;
                let pattern = self.generation.registrations[hook].pattern.as_ref();
                let vote = vm.ask(hook, limits.call, &[], |lua| {
                    let about = match (&lease, question.event) {
                        (Some(lease), _) => Value::UserData(lease.handle()),
                        (None, Event::History) => vm.handles.read_request(question.resume),
                        _ => Value::Nil,
                    };
                    let channel = vm.handles.channel(lua, concern, hook, pattern, question.channel.as_str())?;
                    Ok((vm.handles.session(lua, client)?, channel, about))
                });
                match vote? {
                    Vote::None => {}
                    Vote::Allow(_) => allowed = true,
                    Vote::Deny(deny) => return Ok(Err(No::Denied(hook, deny))),
                }
            }
            Ok(Ok(allowed))
        });
        votes.unwrap_or_else(|failure| Err(No::Broken(asked, failure)))
    }

    fn who(&self, request: &ConnectRequest) -> Result<Identity, Refusal> {
        let budget = self.generation.program.limits.connect;
        let mut asked = self.connect.first().copied().unwrap_or_default();
        let answer = if self.connect.is_empty() {
            Ok(Vote::None)
        } else {
            with_vm(&self.generation, |vm| {
                for &hook in &self.connect {
                    asked = hook;
                    match vm.ask(hook, budget, &CONNECT_OPTIONS, |_| Ok(Request(request.clone())))? {
                        Vote::None => {}
                        answer => return Ok(answer),
                    }
                }
                Ok(Vote::None)
            })
        };
        match answer {
            Ok(Vote::Allow(allow)) => Ok(identity(allow)),
            Ok(Vote::Deny(deny)) => Err(self.refuse(No::Denied(asked, deny), None)),
            Err(failure) => Err(self.refuse(No::Broken(asked, failure), None)),
            Ok(Vote::None) => {
                self.counters.denied.fetch_add(1, Relaxed);
                let why =
                    if request.bearer.is_some() { "no rule knows this credential" } else { "a credential is required" };
                Err(Decision {
                    kind: RefusalKind::Denied,
                    hook: "on.connect",
                    plugin: "",
                    place: "",
                    code: "unauthorized",
                    why,
                    told: None,
                    channel: None,
                    user: None,
                }
                .refuse())
            }
        }
    }

    fn refuse(&self, no: No, question: Option<&Question<'_>>) -> Refusal {
        self.counters.denied.fetch_add(1, Relaxed);
        let (No::Denied(hook, _) | No::Broken(hook, _)) = &no;
        let registration = &self.generation.registrations[*hook];
        let decision = Decision {
            kind: RefusalKind::Denied,
            hook: &registration.to_string(),
            plugin: &self.generation.unit_of(*hook).name,
            place: &registration.place,
            code: "",
            why: "",
            told: None,
            channel: question.map(|question| question.channel.as_str()),
            user: question.and_then(|question| question.client.identity.user.as_deref()),
        };
        match &no {
            No::Denied(_, deny) => {
                let said = deny.why.as_deref().unwrap_or("a rule denies this");
                let told = deny.private.then_some("a rule denies this");
                Decision { place: &deny.place, code: &deny.code, why: said, told, ..decision }.refuse()
            }
            No::Broken(_, Failure(why)) => {
                let told = Some("a rule failed, so this is denied");
                Decision { kind: RefusalKind::Broken, code: "rule_error", why, told, ..decision }.refuse()
            }
        }
    }
}

fn identity(allow: Allow) -> Identity {
    let facts = Facts { attrs: allow.attrs.unwrap_or_default(), view: allow.view, ttl: allow.ttl };
    Identity {
        user: allow.user,
        tenant: allow.tenant,
        // The cast saturates: what lies beyond the end of time never comes.
        expires: allow.expires.map(|seconds| (seconds * 1e6) as u64),
        grants: allow.grants,
        attrs: Some(Arc::new(facts)),
    }
}

impl Hooks for Host {
    fn connect<'a>(&'a self, request: &'a ConnectRequest) -> Answer<'a, Identity> {
        Box::pin(ready(self.who(request)))
    }

    fn subscribe<'a>(&'a self, client: &'a Client, channel: &'a ChannelName) -> Answer<'a, ()> {
        let granted = client.identity.grants.subscribe.matches(channel.as_str());
        let question = Question { event: Event::Subscribe, client, channel, granted, draft: None, resume: false };
        Box::pin(ready(self.decide(&question)))
    }

    fn publish<'a>(&'a self, client: &'a Client, draft: &'a Draft) -> Answer<'a, ()> {
        let channel = &draft.channel;
        let granted = client.identity.grants.publish.matches(channel.as_str());
        let question = Question { event: Event::Publish, client, channel, granted, draft: Some(draft), resume: false };
        Box::pin(ready(self.decide(&question)))
    }

    fn history<'a>(&'a self, client: &'a Client, channel: &'a ChannelName, resume: bool) -> Answer<'a, ()> {
        // Whoever may listen may have what it missed, unless a rule says otherwise.
        let granted = resume || client.identity.grants.history.matches(channel.as_str());
        let question = Question { event: Event::History, client, channel, granted, draft: None, resume };
        Box::pin(ready(self.decide(&question)))
    }

    fn disconnected(&self, client: &Arc<Client>, why: &Farewell) {
        if let Some(departures) = &self.departures
            && !departures.tell(client, why)
        {
            let dropped = self.counters.farewells_dropped.fetch_add(1, Relaxed) + 1;
            if dropped.is_power_of_two() {
                tracing::warn!(dropped, "disconnect hooks are too slow, farewells are dropped");
            }
        }
    }

    fn policy(&self, channel: &ChannelName) -> Policy {
        (self.policy)(channel)
    }
}
