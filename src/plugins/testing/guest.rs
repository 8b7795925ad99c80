//! A client of a dialect, played by a case: let in and heard as a real one, on the case's stage instead of a socket.
//!
//! What the dialect wants done is asked of the rules and done here, and its own words say what came of it.

use std::cell::{Cell, RefCell};
use std::collections::HashSet;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use super::Stage;
use super::air::EPOCH;
use crate::kernel::dialect::{
    Act, Broken, Event, Heard, Instead, Manners, Memory, Mount, NoEntry, Speech, Tag, Tongue, Transport, Way,
};
use crate::kernel::format::{Gap, GapCause, Notice};
use crate::kernel::hooks::{Client, ConnectRequest, Farewell, Hooks, Refusal, RefusalKind, Sight};
use crate::kernel::message::{ChannelName, Draft, Message, Micros, Position, Publication};
use crate::kernel::session::Start;
use crate::plugins::departures;
use crate::plugins::dialect;
use crate::plugins::{DecisionFilter, Host};

/// Rounds of publications that publications led to.
const MAX_ECHOES: usize = 100;

pub struct Guest {
    tongue: Arc<dyn Tongue>,
    pub transport: Transport,
    style: Cell<Option<&'static str>>,
    manners: Arc<Manners>,
    client: RefCell<Arc<Client>>,
    memory: RefCell<Memory>,
    listens: RefCell<Vec<(ChannelName, Sight)>>,
    /// Of what several channels got it has had one copy.
    copies: RefCell<HashSet<u64>>,
    sent: RefCell<Vec<Speech>>,
    /// How many of them the case has taken.
    taken: Cell<usize>,
    closed: RefCell<Option<(u16, String)>>,
    refused: RefCell<Option<Refused>>,
    /// What its hooks broke with, until the case is told.
    broke: RefCell<Vec<String>>,
}

/// The answer over HTTP to somebody who is not let in.
#[derive(Clone)]
pub struct Refused {
    pub no: No,
    /// What the dialect answers in place of what the hub would.
    pub instead: Option<Instead>,
}

/// Why something was not done, in the words and numbers of `edges/wire.rs`, which plugins do not see.
#[derive(Clone)]
pub struct No {
    pub status: u16,
    pub number: u32,
    pub code: String,
    pub why: String,
    pub decision: Option<String>,
}

enum Stop {
    /// It was told so, and goes on.
    Refused(No),
    Closed(u16, String),
}

impl No {
    fn of(refusal: &Refusal, (status, number): (u16, u32), why: String) -> No {
        let (status, number) = if refusal.kind == RefusalKind::Busy { (429, 42901) } else { (status, number) };
        No { status, number, code: refusal.code.clone(), why, decision: Some(refusal.decision.clone()) }
    }
}

impl Guest {
    /// Comes to where a dialect is spoken.
    pub fn comes(
        stage: &Stage,
        host: &Arc<Host>,
        mount: Mount,
        request: ConnectRequest,
        known: impl FnOnce(&ConnectRequest, crate::kernel::hooks::Identity) -> Client,
    ) -> Result<Rc<Guest>, String> {
        let identity = stage.wait(host.connect(&request))?;
        let (client, mut no) = match identity {
            Ok(identity) => (known(&request, identity), None),
            Err(refusal) => {
                (known(&request, Default::default()), Some(No::of(&refusal, (401, 40102), refusal.why.clone())))
            }
        };
        let guest = Rc::new(Guest {
            tongue: mount.tongue,
            transport: mount.transport,
            style: Cell::default(),
            manners: mount.manners,
            client: RefCell::new(Arc::new(client)),
            memory: RefCell::default(),
            listens: RefCell::default(),
            copies: RefCell::default(),
            sent: RefCell::default(),
            taken: Cell::new(0),
            closed: RefCell::default(),
            refused: RefCell::default(),
            broke: RefCell::default(),
        });
        if no.is_none() {
            stage.guests_hear(host)?;
            stage.witness().meets(&guest.client(), None);
            no = guest.begins(stage, host, request.clone())?;
        }
        match no {
            None => stage.welcome(guest.clone()),
            Some(no) => {
                let (reason, why) = (no.code.as_str(), no.why.as_str());
                let entry =
                    NoEntry { status: no.status, code: no.number, reason, why, decision: no.decision.as_deref() };
                let instead = guest.tongue.refuse(&request, &entry);
                guest.sent.borrow_mut().clear();
                *guest.refused.borrow_mut() = Some(Refused { no, instead });
                for channel in stage.witness().misses(&guest.client()) {
                    host.left(&guest.client(), &channel);
                }
                stage.settle(host)?;
            }
        }
        Ok(guest)
    }

    /// What the dialect does first; the first thing that cannot be done is why nothing begins.
    fn begins(&self, stage: &Stage, host: &Arc<Host>, request: ConnectRequest) -> Result<Option<No>, String> {
        for act in match self.hear(stage, Heard::Came(request))? {
            Ok(acts) => acts,
            Err(refusal) => {
                self.broke_in(host, &refusal);
                return Ok(Some(No::of(&refusal, (500, 50001), BROKEN.to_owned())));
            }
        } {
            match self.perform(stage, host, act)? {
                Ok(()) => {}
                Err(Stop::Refused(no)) => return Ok(Some(no)),
                Err(Stop::Closed(_, why)) => {
                    let code = "closed".to_owned();
                    return Ok(Some(No { status: 400, number: 40005, code, why, decision: None }));
                }
            }
        }
        Ok(None)
    }

    pub fn client(&self) -> Arc<Client> {
        self.client.borrow().clone()
    }

    pub fn memory(&self) -> Memory {
        self.memory.borrow().clone()
    }

    pub fn closed(&self) -> Option<(u16, String)> {
        self.closed.borrow().clone()
    }

    pub fn refused(&self) -> Option<Refused> {
        self.refused.borrow().clone()
    }

    pub fn is_there(&self) -> bool {
        self.closed.borrow().is_none() && self.refused.borrow().is_none()
    }

    /// Everything that it was sent.
    pub fn sent(&self) -> Vec<Speech> {
        self.sent.borrow().clone()
    }

    /// What it was sent since this was asked last.
    pub fn take(&self) -> Vec<Speech> {
        let sent = self.sent.borrow();
        sent[self.taken.replace(sent.len())..].to_vec()
    }

    /// What broke since this was asked last.
    pub fn broke(&self) -> Vec<String> {
        self.broke.take()
    }

    /// Says something.
    pub fn says(&self, stage: &Stage, host: &Arc<Host>, said: Speech) -> Result<(), String> {
        stage.guests_hear(host)?;
        if !self.is_there() {
            return Err("this connection has ended".into());
        }
        match self.hear(stage, Heard::Said(said))? {
            Ok(acts) => {
                for act in acts {
                    if let Err(Stop::Closed(code, reason)) = self.perform(stage, host, act)? {
                        self.ends(stage, host, "server", Some(code), &reason)?;
                        break;
                    }
                }
            }
            Err(refusal) => {
                self.broke_in(host, &refusal);
                let (code, decision) = (refusal.code.as_str(), refusal.decision.as_str());
                self.told(host, &Event::Error { what: "frame", code, why: BROKEN, decision, tag: &None });
            }
        }
        stage.guests_hear(host)
    }

    fn hear(&self, stage: &Stage, heard: Heard) -> Result<Result<Vec<Act>, Refusal>, String> {
        let (client, mut memory) = (self.client(), self.memory.take());
        let answer = stage.wait(self.tongue.hear(&client, heard, &mut memory));
        *self.memory.borrow_mut() = memory;
        answer
    }

    fn broke_in(&self, host: &Host, refusal: &Refusal) {
        self.broke.borrow_mut().push(super::answers::reason(host, refusal));
    }

    /// Is told something, in the dialect's words; whether there were words.
    pub fn told(&self, host: &Host, event: &Event<'_>) -> bool {
        match self.tongue.say(Way { transport: self.transport, style: self.style.get() }, event) {
            Ok(speech) => self.sent.borrow_mut().extend(speech),
            Err(Broken) => {
                let newest = DecisionFilter { allowed: Some(false), limit: Some(1), ..DecisionFilter::default() };
                let why = host.decisions(&newest).pop().map(|record| record.why);
                self.broke.borrow_mut().push(why.unwrap_or_else(|| "encode broke".into()));
                return false;
            }
        }
        true
    }

    /// As a real connection that cannot be told: it hears of a gap, and if not even that, it ends.
    fn notified(&self, host: &Host, channel: &ChannelName, at: u64, notice: &Notice) {
        let at = Position { epoch: EPOCH, offset: at };
        if !self.told(host, &Event::Notice { channel, at, notice }) && self.transport == Transport::WebSocket {
            *self.closed.borrow_mut() = Some((1011, "this dialect cannot say what happens".into()));
        }
    }

    pub fn listens_to(&self, channel: &ChannelName) -> bool {
        self.listens.borrow().iter().any(|(name, _)| name == channel)
    }

    /// Hears what was said in a channel, as it sees that channel.
    pub fn hears(&self, host: &Host, channel: &ChannelName, said: &Publication) {
        let sight = self.listens.borrow().iter().find(|(name, _)| name == channel).map(|(_, sight)| sight.clone());
        let (Some(sight), true) = (sight, self.is_there()) else { return };
        if said.once.is_some_and(|number| !self.copies.borrow_mut().insert(number)) {
            return;
        }
        let withheld = Notice::Gap(Gap::at(said.offset, GapCause::Denied));
        let seen = match seen(&sight, channel, said) {
            Some(message) => Publication { message, ..said.clone() },
            None => return self.notified(host, channel, said.offset, &withheld),
        };
        if !self.told(host, &Event::Message { channel, epoch: EPOCH, publication: &seen }) {
            self.notified(host, channel, said.offset, &withheld);
        }
    }

    fn perform(&self, stage: &Stage, host: &Arc<Host>, act: Act) -> Result<Result<(), Stop>, String> {
        match act {
            Act::Reply(speech) => self.sent.borrow_mut().push(speech),
            Act::Subscribe { channel, start, tag, .. } => return self.subscribe(stage, host, channel, start, &tag),
            Act::Unsubscribe { channel, tag } => {
                self.leaves(stage, host, &channel)?;
                self.told(host, &Event::Unsubscribed { channel: &channel, tag: &tag });
            }
            Act::Publish { draft, tag } => return self.publish(stage, host, draft, &tag),
            Act::Replay { age, tag } => return self.replay(stage, host, age, &tag),
            Act::Authenticate { token, tag } => return self.authenticate(stage, host, &token, &tag),
            Act::Speak { style } => match self.manners.styles.iter().find(|known| **known == style) {
                Some(known) => self.style.set(Some(known)),
                None => {
                    let (code, why) = ("no_style".into(), format!("this dialect has no style {style:?}"));
                    return self.perform(stage, host, Act::Fail { code, why, tag: None });
                }
            },
            Act::Fail { code, why, tag } => {
                let event = Event::Error { what: "frame", code: &code, why: &why, decision: "", tag: &tag };
                self.told(host, &event);
                return Ok(Err(Stop::Refused(No { status: 400, number: 40005, code, why, decision: None })));
            }
            Act::Close { code, reason } => return Ok(Err(Stop::Closed(code, reason))),
        }
        Ok(Ok(()))
    }

    fn denied(&self, host: &Host, what: &'static str, channel: &ChannelName, refusal: &Refusal, tag: &Tag) -> Stop {
        self.told(host, &Event::Denied { what, channel: Some(channel), refusal, tag });
        let why = format!("unauthorized channel: {channel}: {}", refusal.why);
        Stop::Refused(No::of(refusal, (403, 40301), why))
    }

    fn subscribe(
        &self,
        stage: &Stage,
        host: &Arc<Host>,
        channel: ChannelName,
        start: Start,
        tag: &Tag,
    ) -> Result<Result<(), Stop>, String> {
        let (client, held) = (self.client(), self.listens_to(&channel));
        let head = stage.air.borrow().head(&channel);
        if held && start == Start::Now {
            let at = Position { epoch: EPOCH, offset: head };
            self.told(host, &Event::Subscribed { channel: &channel, at, tag });
            return Ok(Ok(()));
        }
        let mut sight = match stage.wait(host.subscribe(&client, &channel))? {
            Ok(sight) => sight,
            Err(refusal) => return Ok(Err(self.denied(host, "subscribe", &channel, &refusal, tag))),
        };
        let mut missed = None;
        if let Start::After(after, epoch) = start {
            let past = stage.wait(host.history(&client, &channel, true))?;
            missed = Some(match past {
                Ok(past) => {
                    sight = sight.or(past);
                    let from_here = epoch.is_none_or(|epoch| epoch == EPOCH) && after <= head;
                    let gap = (!from_here).then(|| Gap { missing: None, ..Gap::between(after, 1, GapCause::Epoch) });
                    (if from_here { after } else { 0 }, gap)
                }
                Err(_) => (head, (after < head).then(|| Gap::between(after, head + 1, GapCause::Denied))),
            });
        }
        let mut listens = self.listens.take();
        listens.retain(|(name, _)| *name != channel);
        listens.push((channel.clone(), sight));
        *self.listens.borrow_mut() = listens;
        if stage.witness().meets(&client, Some(&channel)) {
            host.joined(&client, &channel);
            stage.settle(host)?;
        }
        let from = missed.as_ref().map_or(head, |(from, _)| *from);
        let at = Position { epoch: EPOCH, offset: from };
        self.told(host, &Event::Subscribed { channel: &channel, at, tag });
        if let Some((from, gap)) = missed {
            if let Some(gap) = gap {
                self.notified(host, &channel, from, &Notice::Gap(gap));
            }
            let said = stage.air.borrow().after(&channel, from, stage.now());
            said.iter().for_each(|publication| self.hears(host, &channel, publication));
            self.notified(host, &channel, head, &Notice::Live);
        }
        Ok(Ok(()))
    }

    fn leaves(&self, stage: &Stage, host: &Host, channel: &ChannelName) -> Result<(), String> {
        let held = self.listens_to(channel);
        self.listens.borrow_mut().retain(|(name, _)| name != channel);
        if held {
            let client = self.client();
            stage.witness().leaves(&client, channel);
            host.left(&client, channel);
            stage.settle(host)?;
        }
        Ok(())
    }

    fn publish(&self, stage: &Stage, host: &Arc<Host>, draft: Draft, tag: &Tag) -> Result<Result<(), Stop>, String> {
        let channel = draft.channel.clone();
        match stage.wait(host.publish(&self.client(), draft))? {
            Ok(admission) => {
                let receipt = stage.air.borrow_mut().say(admission.draft, stage.now())?;
                self.told(host, &Event::Published { receipt: &receipt, tag });
                if !receipt.duplicate {
                    stage.spread(host, &receipt);
                }
                Ok(Ok(()))
            }
            Err(refusal) => Ok(Err(self.denied(host, "publish", &channel, &refusal, tag))),
        }
    }

    fn replay(&self, stage: &Stage, host: &Arc<Host>, age: Duration, tag: &Tag) -> Result<Result<(), Stop>, String> {
        let since = stage.now().saturating_sub(age.as_micros() as Micros);
        let mut said = Vec::new();
        let names: Vec<_> = self.listens.borrow().iter().map(|(name, _)| name.clone()).collect();
        for name in names {
            let sight = match stage.wait(host.history(&self.client(), &name, false))? {
                Ok(sight) => sight,
                Err(refusal) => return Ok(Err(self.denied(host, "replay", &name, &refusal, tag))),
            };
            for publication in stage.air.borrow().after(&name, 0, stage.now()) {
                if let Some(message) = seen(&sight, &name, &publication).filter(|_| publication.time >= since) {
                    said.push((name.clone(), Publication { message, ..publication }));
                }
            }
        }
        said.sort_by_key(|(_, publication)| publication.time);
        let mut copies = HashSet::new();
        said.retain(|(_, publication)| publication.once.is_none_or(|number| copies.insert(number)));
        for (channel, publication) in &said {
            self.told(host, &Event::Message { channel, epoch: EPOCH, publication });
        }
        Ok(Ok(()))
    }

    fn authenticate(
        &self,
        stage: &Stage,
        host: &Arc<Host>,
        token: &str,
        tag: &Tag,
    ) -> Result<Result<(), Stop>, String> {
        let client = self.client();
        let identity = match stage.wait(host.refresh(&client, token))? {
            Ok(identity) => identity,
            Err(refusal) => {
                self.told(host, &Event::Denied { what: "authenticate", channel: None, refusal: &refusal, tag });
                return Ok(Err(Stop::Refused(No::of(&refusal, (401, 40102), refusal.why.clone()))));
            }
        };
        let client = client.with(identity);
        *self.client.borrow_mut() = client.clone();
        stage.witness().meets(&client, None);
        let held: Vec<_> = self.listens.borrow().iter().map(|(name, _)| name.clone()).collect();
        for name in held {
            match stage.wait(host.still(&client, &name))? {
                Ok(sight) => {
                    let mut listens = self.listens.borrow_mut();
                    listens.iter_mut().filter(|(held, _)| *held == name).for_each(|(_, sees)| *sees = sight.clone());
                }
                Err(refusal) => {
                    let (channel, tag) = (&name, &None);
                    let _ = self.denied(host, "subscribe", channel, &refusal, tag);
                    self.leaves(stage, host, channel)?;
                    self.told(host, &Event::Unsubscribed { channel, tag });
                }
            }
        }
        self.told(host, &Event::Authenticated { tag });
        Ok(Ok(()))
    }

    /// A plugin ended its subscription.
    pub fn is_unsubscribed(&self, stage: &Stage, host: &Host, channel: &ChannelName) -> Result<(), String> {
        if self.listens_to(channel) {
            self.leaves(stage, host, channel)?;
            self.told(host, &Event::Unsubscribed { channel, tag: &None });
        }
        Ok(())
    }

    /// The rules speak its dialect no longer.
    pub fn is_lost(&self) -> bool {
        self.is_there() && !self.tongue.is_spoken()
    }

    /// Ends: the dialect hears of it, and so do the rules.
    pub fn ends(
        &self,
        stage: &Stage,
        host: &Arc<Host>,
        cause: &'static str,
        code: Option<u16>,
        reason: &str,
    ) -> Result<(), String> {
        if !self.is_there() {
            return Ok(());
        }
        if let Some(code) = code.filter(|_| cause != "client") {
            self.told(host, &Event::Closing { code, reason });
        }
        *self.closed.borrow_mut() = Some((code.unwrap_or(1006), reason.to_owned()));
        let (client, why) = (self.client(), Farewell { cause, code, reason: reason.to_owned() });
        stage.witness().misses(&client);
        self.listens.take().iter().for_each(|(name, _)| host.left(&client, name));
        stage.settle(host)?;
        let (rules, memory) = (host.rules(), self.memory());
        let hook = rules.dialects.named(self.tongue.name()).and_then(dialect::Hooks::on_close);
        let broke = stage.aside(|| {
            let generation = &rules.generation;
            let told = hook.and_then(|hook| dialect::tell_gone_here(generation, hook, &client, memory, &why).err());
            told.into_iter().chain(departures::tell(generation, &client, &why)).map(|failure| failure.why).collect()
        });
        let broke: Vec<String> = broke;
        self.broke.borrow_mut().extend(broke);
        stage.met()
    }
}

/// What a client is told of a hook that broke; the rest is in the log.
const BROKEN: &str = "the plugin that answers here failed";

fn seen(sight: &Sight, channel: &ChannelName, publication: &Publication) -> Option<Message> {
    match sight {
        None => Some(publication.message.clone()),
        Some(view) => view.render(channel, publication),
    }
}

impl Stage {
    /// Somebody is here from now on.
    fn welcome(&self, guest: Rc<Guest>) {
        self.guests.borrow_mut().push(guest);
    }

    /// Lets the guests hear what was said.
    pub fn spread(&self, host: &Host, receipt: &crate::kernel::hub::Receipt) {
        let said = self.air.borrow().after(&receipt.channel, receipt.offset - 1, self.now());
        let guests = self.guests.borrow().clone();
        for publication in said.iter().filter(|said| said.offset == receipt.offset) {
            guests.iter().for_each(|guest| guest.hears(host, &receipt.channel, publication));
        }
    }

    /// Does to the guests what the plugins have done meanwhile: what they published, and whom they sent away.
    pub fn guests_hear(&self, host: &Arc<Host>) -> Result<(), String> {
        let guests = self.guests.borrow().clone();
        for guest in guests.iter().filter(|guest| guest.is_lost()) {
            guest.ends(self, host, "server", Some(1012), "this dialect is spoken here no longer")?;
        }
        for _ in 0..MAX_ECHOES {
            let (published, sent) = (self.witness().published(), self.witness().sent());
            let (heard, went) = self.heard.replace((published.len(), sent.len()));
            for (client, draft) in
                published[heard..].iter().flat_map(|(by, drafts)| drafts.iter().map(move |d| (by, d)))
            {
                match self.wait(host.publish(client, draft.clone()))? {
                    Ok(admission) => {
                        let receipt = self.air.borrow_mut().say(admission.draft, self.now())?;
                        if !receipt.duplicate {
                            self.spread(host, &receipt);
                        }
                    }
                    // The hub writes that into its log.
                    Err(refusal) => {
                        tracing::warn!(channel = %draft.channel, "a plugin's message was not published: {refusal}")
                    }
                }
            }
            for sent in &sent[went..] {
                for guest in guests.iter().filter(|guest| guest.client().id == sent.client.id) {
                    match &sent.channel {
                        None => guest.ends(self, host, "server", Some(4403), &sent.why)?,
                        Some(channel) => guest.is_unsubscribed(self, host, channel)?,
                    }
                }
            }
            if published.len() == heard && sent.len() == went {
                return Ok(());
            }
        }
        Err("what plugins publish leads to more without end".into())
    }
}
