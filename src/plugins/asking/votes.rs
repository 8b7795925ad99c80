//! The votes on a question about a channel: hooks that are fast first, then the slow ones, then those that wait.

use std::borrow::Cow;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use mlua::Value;

use super::decision::{Allow, Vote};
use super::remembered::Mark;
use super::rules::{No, Rules};
use super::view::Named;
use crate::kernel::hooks::Client;
use crate::kernel::message::{ChannelName, Draft};
use crate::plugins::source::generation::{Event, Program};
use crate::plugins::vm::Vm;
use crate::plugins::vm::msg::{Lent, Own};
use crate::plugins::vm::resident::with_vm;
use crate::plugins::voice::{self, Voice};
use crate::plugins::why::trace;

const SUBSCRIBE_OPTIONS: [&str; 3] = ["ttl", "tags", "view"];
const HISTORY_OPTIONS: [&str; 1] = ["view"];

/// A question about a channel.
pub struct Question<'a> {
    pub event: Event,
    pub client: &'a Client,
    pub channel: &'a ChannelName,
    /// An allow that needs no hook.
    pub granted: bool,
    pub draft: Option<&'a Draft>,
    /// It comes back for what it missed, or listens already.
    pub again: bool,
    /// Slow hooks run on this thread all the same: the draft has no place in line.
    pub here: bool,
}

/// The same, for another thread.
struct Copied {
    event: Event,
    client: Client,
    channel: ChannelName,
    granted: bool,
    draft: Option<Draft>,
    again: bool,
}

impl Copied {
    fn of(question: &Question<'_>) -> Copied {
        let Question { event, client, channel, granted, draft, again, .. } = *question;
        Copied { event, client: client.clone(), channel: channel.clone(), granted, draft: draft.cloned(), again }
    }

    fn question(&self) -> Question<'_> {
        let Copied { event, client, channel, granted, draft, again } = self;
        let (event, granted, again) = (*event, *granted, *again);
        Question { event, client, channel, granted, draft: draft.as_ref(), again, here: true }
    }
}

/// The hooks that said yes.
#[derive(Default)]
pub struct Allowed {
    /// The last of them.
    pub by: Option<usize>,
    pub named: Vec<Named>,
}

impl Allowed {
    fn add(&mut self, hook: usize, view: Option<Arc<str>>) {
        self.by = self.by.max(Some(hook));
        self.named.extend(view.map(|view| Named { hook, view }));
    }

    fn join(&mut self, others: Allowed) {
        self.by = self.by.max(others.by);
        self.named.extend(others.named);
    }
}

impl Rules {
    /// The first no ends the voting, because nothing outvotes it.
    pub async fn vote(self: &Arc<Self>, question: &Question<'_>, concern: u64, hooks: &[usize]) -> Result<Allowed, No> {
        if question.event != Event::Subscribe {
            return self.ask_all(question, concern, &self.of_others(question.client, hooks)).await;
        }
        let (commons, client) = (&self.generation.program.commons, question.client);
        let (now, generation) = (commons.now(), self.generation.id);
        let (mut known, mut open) = (Allowed::default(), Vec::new());
        for &hook in hooks {
            match commons.remembered.vote((generation, hook), client, question.channel, now) {
                Some(view) => {
                    trace::known(hook);
                    self.counters.votes_known.fetch_add(1, Relaxed);
                    known.add(hook, view);
                }
                None => open.push(hook),
            }
        }
        known.join(self.ask_all(question, concern, &open).await?);
        Ok(known)
    }

    /// The hooks but those of the plugin that speaks: it need not be asked about what it says itself.
    fn of_others<'a>(&self, client: &Client, hooks: &'a [usize]) -> Cow<'a, [usize]> {
        let Some(voice) = Voice::of(client) else { return Cow::Borrowed(hooks) };
        hooks.iter().copied().filter(|hook| self.generation.unit_of(*hook).name != voice.unit).collect()
    }

    /// Those that are fast first: a no of theirs needs nobody to wait.
    async fn ask_all(self: &Arc<Self>, question: &Question<'_>, concern: u64, hooks: &[usize]) -> Result<Allowed, No> {
        let is_slow = |hook: &usize| !question.here && self.generation.is_slow(*hook);
        if !hooks.iter().any(|hook| self.generation.waits(*hook) || is_slow(hook)) {
            return self.ask(question, concern, hooks);
        }
        let (waiting, hot): (Vec<usize>, Vec<usize>) = hooks.iter().partition(|hook| self.generation.waits(**hook));
        let (slow, hot): (Vec<usize>, Vec<usize>) = hot.into_iter().partition(is_slow);
        let mut allowed = self.ask(question, concern, &hot)?;
        for hook in slow {
            let (rules, copied, errand) = (self.clone(), Copied::of(question), trace::lend());
            let ask = move || {
                let depth = Voice::depth_of(&copied.client);
                let asking = async { voice::within(depth, || rules.ask(&copied.question(), concern, &[hook])) };
                trace::stand(errand.carry(asking))
            };
            let asked = self.generation.program.commons.beside.run(&self.generation, hook, ask).await;
            allowed.join(trace::back(asked.map_err(|unheard| No::unheard(hook, unheard))??)?);
        }
        for hook in waiting {
            self.ask_waiting(question, concern, hook, &mut allowed).await?;
        }
        Ok(allowed)
    }

    async fn ask_waiting(
        &self,
        question: &Question<'_>,
        concern: u64,
        hook: usize,
        allowed: &mut Allowed,
    ) -> Result<(), No> {
        let commons = &self.generation.program.commons;
        let (mark, client) = (commons.remembered.mark(), question.client.with(question.client.identity.clone()));
        let (event, again, draft) = (question.event, question.again, question.draft.cloned());
        let (channel, generation) = (question.channel.clone(), self.generation.clone());
        let options = options_of(event);
        let depth = Voice::depth_of(&client);
        let errand = trace::lend();
        let vote = commons.lanes.run(&self.generation, hook, move |vm| {
            errand.carry(voice::after(depth, async move {
                let mut own = None;
                let pattern = generation.registrations[hook].pattern.as_ref();
                let asked = vm.ask_waiting(hook, options, |lua| {
                    let about = match (&draft, event) {
                        (Some(draft), _) => {
                            let reserved = generation.program.reserved_events;
                            own.insert(Own::new(lua, reserved, Lent::of(draft, &client))?).handle()
                        }
                        (None, event) => request(&vm, event, again),
                    };
                    let channel = vm.handles.channel(lua, concern, hook, pattern, channel.as_str())?;
                    Ok((vm.handles.session(lua, &client)?, channel, about))
                });
                asked.await
            }))
        });
        let vote = vote.await.map_err(|unheard| No::unheard(hook, unheard))?;
        match trace::back(vote).map_err(|failure| No::Broken(hook, failure))? {
            Vote::None => {}
            Vote::Deny(deny) => return Err(No::Denied(hook, deny)),
            Vote::Allow(allow) => self.say_yes(question, hook, *allow, mark, allowed),
        }
        Ok(())
    }

    fn ask(&self, question: &Question<'_>, concern: u64, hooks: &[usize]) -> Result<Allowed, No> {
        let Some(&first) = hooks.first() else { return Ok(Allowed::default()) };
        let Program { limits, commons, .. } = &*self.generation.program;
        let client = question.client;
        let mark = commons.remembered.mark();
        let mut asked = first;
        let options = options_of(question.event);
        let votes = with_vm(&self.generation, |vm| {
            let lease = question.draft.map(|draft| vm.handles.desk.lend(Lent::of(draft, client)));
            let mut allowed = Allowed::default();
            for &hook in hooks {
                asked = hook;
                let pattern = self.generation.registrations[hook].pattern.as_ref();
                let vote = vm.ask(hook, limits.call, options, |lua| {
                    let about = match (&lease, question.event) {
                        (Some(lease), _) => lease.handle(),
                        (None, event) => request(vm, event, question.again),
                    };
                    let channel = vm.handles.channel(lua, concern, hook, pattern, question.channel.as_str())?;
                    Ok((vm.handles.session(lua, client)?, channel, about))
                });
                match vote? {
                    Vote::None => {}
                    Vote::Allow(allow) => self.say_yes(question, hook, *allow, mark, &mut allowed),
                    Vote::Deny(deny) => return Ok(Err(No::Denied(hook, deny))),
                }
            }
            Ok(Ok(allowed))
        });
        votes.unwrap_or_else(|failure| Err(No::Broken(asked, failure)))
    }

    /// Counts a yes, and remembers it for as long as the hook says.
    fn say_yes(&self, question: &Question<'_>, hook: usize, allow: Allow, mark: Mark, allowed: &mut Allowed) {
        let commons = &self.generation.program.commons;
        let view: Option<Arc<str>> = allow.view.as_deref().map(Arc::from);
        if let Some(ttl) = allow.ttl {
            let whose = ((self.generation.id, hook), question.client, question.channel);
            commons.remembered.keep_vote(mark, whose, (allow.tags, view.clone()), ttl, commons.now());
        }
        allowed.add(hook, view);
    }
}

/// What a vote that is not about a message is asked with.
fn request(vm: &Vm, event: Event, again: bool) -> Value {
    match event {
        Event::History => vm.handles.read_request(again),
        Event::Subscribe => vm.handles.subscribe_request(again),
        _ => Value::Nil,
    }
}

fn options_of(event: Event) -> &'static [&'static str] {
    match event {
        Event::Subscribe => &SUBSCRIBE_OPTIONS,
        Event::History => &HISTORY_OPTIONS,
        _ => &[],
    }
}
