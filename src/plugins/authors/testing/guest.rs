//! A client of a dialect, played by a case: let in and heard as a real one, on the case's stage instead of a socket.
//!
//! What the dialect wants done is asked of the rules and done here, and its own words say what came of it.

mod acts;

use std::cell::{Cell, RefCell};
use std::collections::HashSet;
use std::rc::Rc;
use std::sync::Arc;

use super::Stage;
use super::air::EPOCH;
use crate::kernel::dialect::{
    Act, Broken, Event, Heard, Instead, Manners, Memory, Mount, NoEntry, Speech, Tongue, Transport, Way,
};
use crate::kernel::format::{Gap, GapCause, Notice};
use crate::kernel::hooks::{Client, ConnectRequest, Farewell, Hooks, Refusal, RefusalKind, Sight};
use crate::kernel::message::{ChannelName, Message, Position, Publication};
use crate::plugins::dialect;
use crate::plugins::told::departures;
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
    pub retry_ms: Option<u64>,
}

enum Stop {
    /// It was told so, and goes on.
    Refused(No),
    Closed(u16, String),
}

impl No {
    fn of(refusal: &Refusal, (status, number): (u16, u32), why: String) -> No {
        let (status, number) = if refusal.kind == RefusalKind::Busy { (429, 42901) } else { (status, number) };
        let (code, decision) = (refusal.code.clone(), Some(refusal.decision.clone()));
        No { status, number, code, why, decision, retry_ms: refusal.retry_ms }
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
                let (decision, retry_ms) = (no.decision.as_deref(), no.retry_ms);
                let entry = NoEntry { status: no.status, code: no.number, reason, why, decision, retry_ms };
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
                    return Ok(Some(No { status: 400, number: 40005, code, why, decision: None, retry_ms: None }));
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
                self.told(
                    host,
                    &Event::Error { what: "frame", code, why: BROKEN, decision, retry_ms: None, tag: &None },
                );
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
            self.told(host, &Event::Closing { code, reason, retry_ms: None });
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
