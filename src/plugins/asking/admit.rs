//! What becomes of a message that was let in: transforms change it, retain hooks say how long it stays.

use std::sync::Arc;
use std::time::Duration;

use mlua::{Lua, Value};

use super::decision::{Asker, Deny, Vote, sentence};
use super::rules::{Concern, No, Rules};
use crate::kernel::hooks::{Client, Refusal};
use crate::kernel::message::{ChannelName, Draft};
use crate::plugins::source::generation::Generation;
use crate::plugins::source::schema::read_duration;
use crate::plugins::vm::msg::{Lease, Lent};
use crate::plugins::vm::resident::with_vm;
use crate::plugins::vm::value::{describe, lua_to_json};
use crate::plugins::vm::{Failure, Vm};
use crate::plugins::voice::{self, Voice};
use crate::plugins::why::trace;

/// How long a message is kept, as far as rules say.
#[derive(Default)]
struct Keep {
    fleeting: bool,
    ttl: Option<Duration>,
}

/// A message that is lent to one hook after the other.
struct Lending<'a> {
    generation: &'a Generation,
    vm: &'a Vm,
    lease: &'a Lease<'a>,
    concern: &'a Concern,
    channel: &'a ChannelName,
}

impl Rules {
    /// The draft as the transforms leave it; on a thread of the slow ones if one of them is slow, unless it must be `here`.
    pub async fn admit(self: &Arc<Self>, client: &Client, draft: Draft, here: bool) -> Result<Draft, Refusal> {
        let concern = self.concern(&draft.channel);
        let Some(slow) = concern.changes().find(|hook| !here && self.generation.is_slow(*hook)) else {
            return self.admit_here(client, draft, &concern);
        };
        let (rules, channel, by, errand) = (self.clone(), draft.channel.clone(), client.clone(), trace::lend());
        let admit = move || {
            let admitting = async {
                voice::within(Voice::depth_of(&by), || {
                    let mut draft = rules.admit_here(&by, draft, &concern)?;
                    rules.foresee(&mut draft, &concern.views);
                    Ok(draft)
                })
            };
            trace::stand(errand.carry(admitting))
        };
        let admitted = self.generation.program.commons.beside.run(&self.generation, slow, admit).await;
        match admitted {
            Ok(carried) => trace::back(carried?),
            Err(unheard) => Err(self.refuse(No::unheard(slow, unheard), Some(channel.as_str()), Asker::from(client))),
        }
    }

    /// Each transform is given what the one before made. In one go, because nobody else may see it half changed.
    fn admit_here(&self, client: &Client, mut draft: Draft, concern: &Concern) -> Result<Draft, Refusal> {
        if concern.transform.is_empty() && concern.retain.is_empty() {
            return Ok(draft);
        }
        let mut lent = Some(Lent {
            message: std::mem::take(&mut draft.message),
            sender: client.identity.user.clone(),
            id: draft.idempotency_key.take(),
            open: true,
            json: None,
        });
        let mut asked = concern.transform.first().copied();
        let outcome = with_vm(&self.generation, |vm| {
            let lease = vm.handles.desk.lend(lent.take().unwrap_or_default());
            let lending = Lending { generation: &self.generation, vm, lease: &lease, concern, channel: &draft.channel };
            for &hook in &concern.transform {
                asked = Some(hook);
                if let Some(deny) = lending.transform(hook)? {
                    return Ok(Err(No::Denied(hook, deny)));
                }
            }
            lease.close();
            let mut keep = Keep::default();
            for &hook in &concern.retain {
                match lending.retain(hook) {
                    Ok(said) => {
                        keep.fleeting |= said.fleeting;
                        keep.ttl = shorter(keep.ttl, said.ttl);
                    }
                    Err(failure) => self.tell_broken(hook, &failure, &draft.channel, "so the message is kept"),
                }
            }
            Ok(Ok((lease.back(), keep)))
        });
        let (lent, keep) = match (outcome, lent, asked) {
            (Ok(Ok(done)), ..) => done,
            (Ok(Err(no)), ..) => {
                return Err(self.refuse(no, Some(draft.channel.as_str()), Asker::from(client)));
            }
            (Err(failure), _, Some(hook)) => {
                let no = No::Broken(hook, failure);
                return Err(self.refuse(no, Some(draft.channel.as_str()), Asker::from(client)));
            }
            // There is no VM, and nobody wanted to change anything.
            (Err(failure), lent, None) => {
                for &hook in &concern.retain {
                    self.tell_broken(hook, &failure, &draft.channel, "so the message is kept");
                }
                (lent.unwrap_or_default(), Keep::default())
            }
        };
        draft.message = lent.message;
        draft.idempotency_key = lent.id;
        draft.fleeting |= keep.fleeting;
        draft.ttl = shorter(draft.ttl, keep.ttl);
        Ok(draft)
    }

    /// Writes down that a hook broke whose answer nobody waits for.
    pub fn tell_broken(&self, hook: usize, failure: &Failure, channel: &ChannelName, so: &str) {
        let commons = &self.generation.program.commons;
        if failure.rests || trace::is_rehearsal() || !commons.log_rate.allows(commons.now()) {
            return;
        }
        let registration = &self.generation.registrations[hook];
        let (plugin, place) = (&*self.generation.unit_of(hook).name, &*registration.place);
        tracing::error!(target: "aether::plugin", plugin, hook = %registration, place, why = failure.why, %channel, "a rule broke, {so}");
    }
}

impl Lending<'_> {
    /// The no that a transform says, if it says one.
    fn transform(&self, hook: usize) -> Result<Option<Deny>, Failure> {
        let read = |value: &Value, reason: &Value| match value {
            value if self.lease.is(value) => Ok(None),
            Value::Nil => {
                let why = match reason {
                    Value::Nil => "a rule rejects this message".to_owned(),
                    Value::String(why) => sentence(&why.to_string_lossy()),
                    other => return Err(format!("expected a sentence beside nil, got {}", describe(other))),
                };
                let place = self.generation.registrations[hook].place.clone();
                Ok(Some(Deny { code: "rejected".into(), why: Some(why), private: false, retry_ms: None, place }))
            }
            value => match Vote::read(value, &Value::Nil, &[]) {
                Ok(Vote::Deny(deny)) if value.is_userdata() => Ok(Some(deny)),
                _ => Err(format!("expected msg, nil or aether.deny, got {}", describe(value))),
            },
        };
        let deny = self.ask(hook, read)?;
        trace::passed(hook, deny.as_ref());
        Ok(deny)
    }

    fn retain(&self, hook: usize) -> Result<Keep, Failure> {
        let keep = self.ask(hook, |value, _| read_keep(value))?;
        trace::passed(hook, None);
        Ok(keep)
    }

    fn ask<T>(&self, hook: usize, read: impl FnOnce(&Value, &Value) -> Result<T, String>) -> Result<T, Failure> {
        let pattern = self.generation.registrations[hook].pattern.as_ref();
        let args = |lua: &Lua| {
            let channel = self.vm.handles.channel(lua, self.concern.id, hook, pattern, self.channel.as_str())?;
            Ok((channel, self.lease.handle()))
        };
        self.vm.call(hook, self.generation.program.limits.call, args, read)
    }
}

fn read_keep(value: &Value) -> Result<Keep, String> {
    let wrong = || format!("expected true, false, nil or {{ttl = \"5m\"}}, got {}", describe(value));
    match value {
        Value::Nil | Value::Boolean(true) => Ok(Keep::default()),
        Value::Boolean(false) => Ok(Keep { fleeting: true, ttl: None }),
        Value::Table(table) => {
            let mut keep = Keep::default();
            for pair in table.pairs::<String, Value>() {
                let (key, value) = pair.map_err(|_| wrong())?;
                if key != "ttl" {
                    return Err(format!("{key} is not known here: a message is kept for {{ttl = \"5m\"}}"));
                }
                let ttl = lua_to_json(&value).ok().and_then(|json| read_duration(&json));
                keep.ttl =
                    Some(ttl.ok_or_else(|| format!("ttl: expected a duration like \"5m\", got {}", describe(&value)))?);
            }
            Ok(keep)
        }
        _ => Err(wrong()),
    }
}

fn shorter(a: Option<Duration>, b: Option<Duration>) -> Option<Duration> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}
