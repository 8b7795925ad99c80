//! What a dialect wants done for a client that a case plays: the rules are asked, the stage is told, and so is the client.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use super::{Guest, No, Stop, seen};
use crate::kernel::dialect::{Act, Event, Tag};
use crate::kernel::format::{Gap, GapCause, Notice};
use crate::kernel::hooks::{Hooks, Refusal};
use crate::kernel::message::{ChannelName, Draft, Micros, Position, Publication};
use crate::kernel::session::Start;
use crate::plugins::Host;
use crate::plugins::authors::testing::Stage;
use crate::plugins::authors::testing::air::EPOCH;

impl Guest {
    pub(super) fn perform(&self, stage: &Stage, host: &Arc<Host>, act: Act) -> Result<Result<(), Stop>, String> {
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
                let (what, decision, retry_ms) = ("frame", "", None);
                self.told(host, &Event::Error { what, code: &code, why: &why, decision, retry_ms, tag: &tag });
                let no = No { status: 400, number: 40005, code, why, decision: None, retry_ms };
                return Ok(Err(Stop::Refused(no)));
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

    pub(super) fn leaves(&self, stage: &Stage, host: &Host, channel: &ChannelName) -> Result<(), String> {
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
}
