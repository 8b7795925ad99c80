//! The rules of one generation, asked: grants first, then the votes of the hooks that a channel concerns.

use std::any::Any;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use dashmap::DashMap;
use parking_lot::RwLock;
use rustc_hash::FxBuildHasher;

use super::decision::{Asker, Decision, Deny, new_id};
use super::turns::{MAX_LINE, Place};
use super::view::{self, Named};
use super::votes::{Allowed, Question};
use crate::kernel::hooks::{Admission, Answer, Client, Refusal, RefusalKind, Sight};
use crate::kernel::message::{ChannelName, Draft};
use crate::kernel::policy::Policy;
use crate::plugins::answering::routed::Routes;
use crate::plugins::dialect::Dialects;
use crate::plugins::source::generation::{Event, Generation};
use crate::plugins::told::attendance::is_attended;
use crate::plugins::told::duty::Duty;
use crate::plugins::vm::Failure;
use crate::plugins::voice::Voice;
use crate::plugins::waiting::beside::IN_LINE;
use crate::plugins::waiting::lanes::Unheard;
use crate::plugins::why::record::Record;
use crate::plugins::{Counters, HostConfig, Policies};

/// All rules of one generation.
pub struct Rules {
    pub generation: Arc<Generation>,
    /// No hook votes on any channel, so none needs to be looked up.
    votes: bool,
    /// Some hook wants to know who comes and goes somewhere.
    attended: bool,
    concerns: DashMap<ChannelName, Arc<Concern>, FxBuildHasher>,
    /// By registration.
    pub views: Box<[Sight]>,
    policy: Policies,
    /// Settings that were not taken when these rules were read.
    pub need_restart: Vec<String>,
    pub routes: Routes,
    pub dialects: Dialects,
    pub counters: Arc<Counters>,
    /// What runs beside the questions, while this generation is in charge.
    pub duty: RwLock<Option<Duty>>,
}

/// The hooks that concern one channel.
pub struct Concern {
    /// Stands for the channel in the VMs' caches.
    pub id: u64,
    subscribe: Box<[usize]>,
    publish: Box<[usize]>,
    history: Box<[usize]>,
    pub transform: Box<[usize]>,
    pub retain: Box<[usize]>,
    pub views: Box<[usize]>,
    /// Join or leave hooks.
    attended: bool,
}

/// Channels whose concern is kept. When it is full it starts afresh.
const MAX_CONCERNS: usize = 1 << 16;

/// When somebody who found too many waiting may try again.
const BUSY_FOR: Duration = Duration::from_secs(1);

/// What a hook said no with, or that it broke.
pub enum No {
    Denied(usize, Deny),
    Broken(usize, Failure),
    /// Too many wait already.
    Busy(usize, String),
}

impl No {
    pub fn unheard(hook: usize, unheard: Unheard) -> No {
        match unheard {
            Unheard::Busy(why) => No::Busy(hook, why),
            Unheard::Failed(failure) => No::Broken(hook, failure),
        }
    }
}

impl Rules {
    pub fn new(generation: Generation, config: HostConfig) -> Rules {
        let HostConfig { policy, need_restart, .. } = config;
        let generation = Arc::new(generation);
        Rules {
            votes: generation.registrations.iter().any(|hook| hook.pattern.is_some() && !is_attended(hook.event)),
            attended: generation.registrations.iter().any(|hook| is_attended(hook.event)),
            concerns: DashMap::default(),
            views: view::all(&generation),
            policy,
            need_restart,
            routes: Routes::of(&generation),
            dialects: Dialects::of(&generation),
            counters: generation.program.counters.clone(),
            duty: RwLock::default(),
            generation,
        }
    }

    pub async fn subscribe(
        self: &Arc<Self>,
        client: &Client,
        channel: &ChannelName,
        again: bool,
    ) -> Result<Sight, Refusal> {
        let granted = client.identity.grants.subscribe.matches(channel.as_str());
        let question = Question { event: Event::Subscribe, client, channel, granted, draft: None, again, here: false };
        self.decide(&question).await
    }

    pub async fn publish(
        self: &Arc<Self>,
        client: &Client,
        draft: Draft,
        place: Option<Place>,
    ) -> Result<Admission, Refusal> {
        let channel = &draft.channel;
        // What a plugin may publish stands in its manifest, and was looked at when it spoke.
        let granted = Voice::of(client).is_some() || client.identity.grants.publish.matches(channel.as_str());
        let (event, here) = (Event::Publish, place.is_none());
        let question = Question { event, client, channel, granted, draft: Some(&draft), again: false, here };
        // A rule about messages would refuse or mangle what none of them expects.
        let announces = Voice::of(client).is_some_and(|voice| voice.announces);
        if !announces {
            self.decide(&question).await?;
        }
        // Whoever was first comes first, also where rules change what is said.
        let turn = match place {
            Some(place) => Some(Box::new(place.turn().await) as Box<dyn Any + Send>),
            None => None,
        };
        let draft = if self.votes && !announces { self.admit(client, draft, here).await? } else { draft };
        Ok(Admission { draft, turn })
    }

    pub async fn history(
        self: &Arc<Self>,
        client: &Client,
        channel: &ChannelName,
        resume: bool,
    ) -> Result<Sight, Refusal> {
        // Whoever may listen may have what it missed, unless a rule says otherwise.
        let granted = resume || client.identity.grants.history.matches(channel.as_str());
        let question =
            Question { event: Event::History, client, channel, granted, draft: None, again: resume, here: false };
        self.decide(&question).await
    }

    /// What the settings say that a channel keeps.
    pub fn policy_of_settings(&self, channel: &ChannelName) -> Policy {
        (self.policy)(channel)
    }

    /// Whether any hook concerns a channel: if none does, it never enters Lua.
    pub fn concerns(&self, channel: &ChannelName) -> bool {
        self.votes && !self.concern(channel).is_empty()
    }

    /// The hooks of a kind, in the order in which they were registered.
    pub fn hooks_of(&self, event: Event) -> impl Iterator<Item = usize> {
        let all = self.generation.registrations.iter().enumerate();
        all.filter(move |(_, hook)| hook.event == event).map(|(at, _)| at)
    }

    /// Whether any hook wants to know who comes to a channel and who leaves.
    pub fn is_attended(&self, channel: &ChannelName) -> bool {
        self.attended && self.concern(channel).attended
    }

    pub fn is_concerned(&self, hook: usize, channel: &str) -> bool {
        self.generation.is_concerned(hook, channel)
    }

    pub fn concern(&self, channel: &ChannelName) -> Arc<Concern> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        if let Some(concern) = self.concerns.get(channel) {
            return concern.clone();
        }
        let name = channel.as_str();
        let of = |event: Event| -> Box<[usize]> {
            self.hooks_of(event).filter(|hook| self.is_concerned(*hook, name)).collect()
        };
        let concern = Arc::new(Concern {
            id: NEXT.fetch_add(1, Relaxed),
            subscribe: of(Event::Subscribe),
            publish: of(Event::Publish),
            history: of(Event::History),
            transform: of(Event::Transform),
            retain: of(Event::Retain),
            views: of(Event::View),
            attended: [Event::Join, Event::Leave].into_iter().any(|event| !of(event).is_empty()),
        });
        if self.concerns.len() >= MAX_CONCERNS {
            self.concerns.clear();
        }
        self.concerns.insert(channel.clone(), concern.clone());
        concern
    }

    /// Whether it is a yes, and what is then seen.
    async fn decide(self: &Arc<Self>, question: &Question<'_>) -> Result<Sight, Refusal> {
        let Question { event, client, channel, granted, .. } = *question;
        let asker = Asker::from(client);
        let mut allowed = Allowed::default();
        let mut sight = None;
        if self.votes {
            let concern = self.concern(channel);
            let hooks = match event {
                Event::Subscribe => &concern.subscribe,
                Event::Publish => &concern.publish,
                _ => &concern.history,
            };
            if !hooks.is_empty() {
                let voted = self.vote(question, concern.id, hooks).await;
                allowed = voted.map_err(|no| self.refuse(no, Some(channel.as_str()), asker))?;
            }
            if granted || allowed.by.is_some() {
                sight = self.sight_of(question, &concern, &allowed.named).await?;
            }
        }
        if !granted && allowed.by.is_none() {
            let why = "no rule allows this";
            return Err(self.refuse_by_default(event, "not_allowed", why, Some(channel.as_str()), asker));
        }
        self.sample(event, allowed.by, Some(channel.as_str()), asker);
        Ok(sight)
    }

    async fn sight_of(
        self: &Arc<Self>,
        question: &Question<'_>,
        concern: &Concern,
        named: &[Named],
    ) -> Result<Sight, Refusal> {
        let Question { event, client, channel, again, .. } = *question;
        match event {
            Event::Publish => Ok(None),
            // Whoever resumes has been asked what it sees, and sees the past as it sees what happens now.
            Event::History if named.is_empty() && (again || concern.views.is_empty()) => Ok(None),
            Event::History if named.is_empty() && client.identity.grants.admin => Ok(None),
            // What a subscriber would not be shown nobody reads up on.
            Event::History if named.is_empty() => self.seen_live(client, channel).await,
            _ => self.sight(client, channel, &concern.views, named),
        }
    }

    /// Boxed, because a question that leads to another one has no size otherwise.
    fn seen_live<'a>(self: &'a Arc<Self>, client: &'a Client, channel: &'a ChannelName) -> Answer<'a, Sight> {
        Box::pin(self.subscribe(client, channel, true))
    }

    /// A place in line for a draft whose rules wait or are slow, or that must not overtake one; an error if the line is
    /// full.
    pub fn place(&self, client: &Client, channel: &ChannelName) -> Result<Option<Place>, Refusal> {
        let turns = &self.generation.program.commons.turns;
        let concern = self.votes.then(|| self.concern(channel));
        let delays = |hook: &usize| self.generation.waits(*hook) || self.generation.is_slow(*hook);
        let delaying = concern.as_ref().and_then(|concern| concern.of_drafts().find(delays));
        if delaying.is_none() && !turns.is_used(channel) {
            return Ok(None);
        }
        // Transforms take their turn one after the other: a long line in front of a slow one would be long to wait in.
        let is_slow = |concern: &Arc<Concern>| concern.changes().any(|hook| self.generation.is_slow(hook));
        let most = if concern.as_ref().is_some_and(is_slow) { IN_LINE } else { MAX_LINE };
        turns.stand(channel, most).map(Some).ok_or_else(|| {
            let why = format!("{most} drafts of this channel wait for the rules already");
            let (channel, asker) = (Some(channel.as_str()), Asker::from(client));
            match delaying.or_else(|| self.hooks_of(Event::Publish).next()) {
                Some(hook) => self.refuse(No::Busy(hook, why), channel, asker),
                // They wait for rules that are in charge no longer.
                None => Refusal {
                    kind: RefusalKind::Busy,
                    retry_ms: Some(BUSY_FOR.as_millis() as u64),
                    ..self.refuse_by_default(Event::Publish, "busy", &why, channel, asker)
                },
            }
        })
    }

    pub fn refuse(&self, no: No, channel: Option<&str>, asker: Asker<'_>) -> Refusal {
        let (No::Denied(hook, _) | No::Broken(hook, _) | No::Busy(hook, _)) = &no;
        let registration = &self.generation.registrations[*hook];
        let decision = Decision {
            kind: RefusalKind::Denied,
            hook: &registration.to_string(),
            plugin: &self.generation.unit_of(*hook).name,
            place: &registration.place,
            code: "",
            why: "",
            told: None,
            rests: false,
            channel,
            asker,
        };
        let decision = match &no {
            No::Denied(_, deny) => {
                let said = deny.why.as_deref().unwrap_or("a rule denies this");
                let told = deny.private.then_some("a rule denies this");
                Decision { place: &deny.place, code: &deny.code, why: said, told, ..decision }
            }
            No::Busy(_, why) => {
                let told = Some("too many calls wait for this rule: come back later");
                Decision { kind: RefusalKind::Busy, code: "busy", why, told, ..decision }
            }
            No::Broken(_, Failure { why, rests }) => {
                let told = Some("a rule failed, so this is denied");
                Decision { kind: RefusalKind::Broken, code: "rule_error", why, told, rests: *rests, ..decision }
            }
        };
        let refusal = decision.refuse(&self.generation.program);
        match no {
            No::Busy(..) => Refusal { retry_ms: Some(BUSY_FOR.as_millis() as u64), ..refusal },
            No::Denied(_, Deny { retry_ms: Some(retry), .. }) => {
                Refusal { kind: RefusalKind::Busy, retry_ms: Some(retry), ..refusal }
            }
            _ => refusal,
        }
    }

    /// Writes down one yes of many.
    pub fn sample(&self, event: Event, by: Option<usize>, channel: Option<&str>, asker: Asker<'_>) {
        let commons = &self.generation.program.commons;
        commons.recorder.sample(|| {
            let hook = by.map(|by| &self.generation.registrations[by]);
            Record {
                id: new_id(),
                time: commons.now(),
                allowed: true,
                hook: hook.map_or_else(|| event.to_string(), |hook| hook.to_string()),
                plugin: by.map_or_else(String::new, |by| self.generation.unit_of(by).name.clone()),
                place: hook.map_or_else(String::new, |hook| hook.place.clone()),
                code: if by.is_some() { "allowed" } else { "granted" }.to_owned(),
                why: String::new(),
                channel: channel.unwrap_or_default().to_owned(),
                user: asker.user.unwrap_or_default().to_owned(),
                ip: asker.ip,
                transport: asker.transport,
            }
        });
    }
}

impl Concern {
    /// Those that change a draft, say how long it stays, or what is seen of it.
    pub fn changes(&self) -> impl Iterator<Item = usize> {
        self.transform.iter().chain(&self.retain).chain(&self.views).copied()
    }

    fn of_drafts(&self) -> impl Iterator<Item = usize> {
        self.publish.iter().copied().chain(self.changes())
    }

    /// A view that is declared runs no Lua, but a channel with views is one that rules concern.
    fn is_empty(&self) -> bool {
        let all = [&self.subscribe, &self.publish, &self.history, &self.transform, &self.retain, &self.views];
        all.into_iter().all(|hooks| hooks.is_empty())
    }
}
