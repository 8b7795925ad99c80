//! Views: what a class of readers sees of a channel, and who sees through which.

use std::sync::{Arc, Weak};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::decision::{Asker, Decision};
use super::redact::Rule;
use super::rules::{No, Rules};
use super::shown::Shown;
use crate::kernel::format;
use crate::kernel::hooks::{Client, Refusal, RefusalKind, Sight};
use crate::kernel::message::{ChannelName, Draft, Media, Message, Publication};
use crate::plugins::Facts;
use crate::plugins::source::about::About;
use crate::plugins::source::generation::{Event, Generation};
use crate::plugins::source::schema::hint;
use crate::plugins::vm::Failure;
use crate::plugins::vm::msg::Lent;
use crate::plugins::vm::resident::with_vm;
use crate::plugins::vm::value::describe;
use crate::plugins::waiting::lanes::Unheard;

/// The view that leaves everything as it is; nobody can register it.
pub const FULL: &str = "full";

/// What `aether.announce` says, which views leave as it is: whoever listens may see who else does. Nobody else can publish
/// these events, and their form is looked at all the same, since a log may be older than that.
pub fn announced(message: &Message) -> Option<(&'static str, Announced)> {
    let kind = ["join", "leave"].into_iter().find(|kind| message.event.as_deref() == Some(kind))?;
    let who = serde_json::from_slice(&message.payload).ok().filter(|_| message.media == Media::Json)?;
    Some((kind, who))
}

/// Who came or went.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Announced {
    users: Vec<String>,
    sessions: u64,
}

/// That a hook which said yes named a view.
pub struct Named {
    pub hook: usize,
    pub view: Arc<str>,
}

/// Paths in the payload, applied to its bytes.
struct Declared {
    name: String,
    rule: Rule,
    /// Of what masks hash.
    key: [u8; 32],
}

impl format::View for Declared {
    fn name(&self) -> &str {
        &self.name
    }

    fn render(&self, _: &ChannelName, publication: &Publication) -> Option<Message> {
        let message = &publication.message;
        if announced(message).is_some() {
            return Some(message.clone());
        }
        if message.media != Media::Json {
            return None;
        }
        let payload = self.rule.apply(&message.payload, &self.key)?;
        Some(Message { payload, ..message.clone() })
    }
}

/// A function of a script, run where the readers are served.
struct Scripted {
    itself: Weak<Scripted>,
    name: String,
    hook: usize,
    generation: Arc<Generation>,
}

/// How often, and how long after each other, a reader of the past asks for a place in the line of a slow view. Then what
/// it wants to see is withheld.
const TRIES: usize = 100;
const BETWEEN_TRIES: Duration = Duration::from_millis(50);

impl Scripted {
    /// What it makes of a publication, on the thread of the slow ones.
    async fn render_beside(self: Arc<Self>, channel: &ChannelName, publication: &Publication) -> Option<Message> {
        let beside = &self.generation.program.commons.beside;
        for _ in 0..TRIES {
            let (view, name, publication) = (self.clone(), channel.clone(), publication.clone());
            match beside
                .run(&self.generation, self.hook, move || format::View::render(&*view, &name, &publication))
                .await
            {
                Ok(seen) => return seen,
                Err(Unheard::Busy(_)) => tokio::time::sleep(BETWEEN_TRIES).await,
                Err(Unheard::Failed(failure)) => {
                    withheld(&self.generation, self.hook, &failure, Some(channel));
                    return None;
                }
            }
        }
        let place = &self.generation.registrations[self.hook].place;
        let why = format!("{place}: this view is slow, and too many wait for it");
        withheld(&self.generation, self.hook, &Failure { why, rests: false }, Some(channel));
        None
    }
}

impl format::View for Scripted {
    fn name(&self) -> &str {
        &self.name
    }

    fn render(&self, channel: &ChannelName, publication: &Publication) -> Option<Message> {
        if announced(&publication.message).is_some() {
            return Some(publication.message.clone());
        }
        let seen = with_vm(&self.generation, |vm| {
            let lent = Lent { message: publication.message.clone(), open: true, ..Lent::default() };
            let lease = vm.handles.desk.lend(lent);
            let pattern = self.generation.registrations[self.hook].pattern.as_ref();
            let stays = vm.call(
                self.hook,
                self.generation.program.limits.call,
                |lua| Ok((vm.handles.channel_of(lua, self.hook, pattern, channel)?, lease.handle())),
                |value, _| match value {
                    value if value.is_nil() => Ok(false),
                    value if lease.is(value) => Ok(true),
                    other => Err(format!("expected msg, or nil to withhold it, got {}", describe(other))),
                },
            )?;
            Ok(stays.then(|| lease.back().message))
        });
        seen.unwrap_or_else(|failure| {
            withheld(&self.generation, self.hook, &failure, Some(channel));
            None
        })
    }

    fn is_slow(&self) -> bool {
        self.generation.is_slow(self.hook)
    }

    fn foresee<'a>(&'a self, channel: &'a ChannelName, page: &'a mut [Publication]) -> format::Foreseeing<'a> {
        Box::pin(async move {
            let Some(itself) = self.itself.upgrade() else { return };
            for publication in page.iter_mut().filter(|it| it.message.foreseen.through(self).is_none()) {
                let seen = itself.clone().render_beside(channel, publication).await;
                publication.message.foreseen.add(itself.clone(), seen);
            }
        })
    }
}

/// Writes down that what makes a message visible broke; nobody is there to be told.
pub fn withheld(generation: &Generation, hook: usize, Failure { why, rests }: &Failure, channel: Option<&ChannelName>) {
    let registration = &generation.registrations[hook];
    let decision = Decision {
        kind: RefusalKind::Broken,
        hook: &registration.to_string(),
        plugin: &generation.unit_of(hook).name,
        place: &registration.place,
        code: "rule_error",
        why,
        told: None,
        rests: *rests,
        channel: channel.map(ChannelName::as_str),
        asker: Asker { user: None, ip: None, transport: "", shown: Shown::Nothing },
    };
    decision.write_down(&generation.program.commons);
}

/// Each registration's view, made once, so that sessions which see through the same one share its bytes.
pub fn all(generation: &Arc<Generation>) -> Box<[Sight]> {
    let of = |(hook, registration): (usize, &crate::plugins::source::generation::Registration)| -> Sight {
        let About::View { name, rule } = &registration.about else { return None };
        let name = name.clone();
        Some(match rule {
            Some(rule) => {
                let key = generation.program.commons.mask_key;
                Arc::new(Declared { name, rule: rule.clone(), key }) as Arc<dyn format::View>
            }
            None => Arc::new_cyclic(|itself| Scripted {
                itself: itself.clone(),
                name,
                hook,
                generation: generation.clone(),
            }),
        })
    };
    generation.registrations.iter().enumerate().map(of).collect()
}

impl Rules {
    /// Lets a draft carry what readers will see of it through the slow ones among `views`.
    pub fn foresee(&self, draft: &mut Draft, views: &[usize]) {
        for view in
            views.iter().filter(|hook| self.generation.is_slow(**hook)).filter_map(|hook| self.views[*hook].clone())
        {
            // A view is shown the message alone.
            let said =
                Publication { offset: 0, time: 0, expires: None, once: draft.once, message: draft.message.clone() };
            let seen = view.render(&draft.channel, &said);
            draft.message.foreseen.add(view, seen);
        }
    }

    /// What a client sees of a channel that it was let into: what the votes name, else what it was given when it came, else
    /// everything. `views` are the hooks that make the channel's views.
    pub fn sight(
        &self,
        client: &Client,
        channel: &ChannelName,
        views: &[usize],
        named: &[Named],
    ) -> Result<Sight, Refusal> {
        let (name, by) = match named.split_first() {
            Some((first, others)) => {
                if let Some(other) = others.iter().find(|other| other.view != first.view) {
                    return Err(self.broken(first.hook, self.disagree(first, other), channel, client));
                }
                (&*first.view, Some(first.hook))
            }
            None => {
                let facts = client.identity.attrs.as_ref().and_then(|attrs| attrs.downcast_ref::<Facts>());
                match facts.and_then(|facts| facts.view.as_deref()) {
                    Some(name) if !views.is_empty() => (name, None),
                    _ => return Ok(None),
                }
            }
        };
        if name == FULL {
            return Ok(None);
        }
        // The last one registered counts.
        let found = views.iter().rev().filter_map(|hook| self.views[*hook].as_ref()).find(|view| view.name() == name);
        match found {
            Some(view) => Ok(Some(view.clone())),
            None => Err(self.no_such_view(name, by, views, channel, client)),
        }
    }

    fn disagree(&self, one: &Named, other: &Named) -> String {
        let (mut a, mut b) = (one, other);
        if b.hook < a.hook {
            (a, b) = (b, a);
        }
        let said = |named: &Named| {
            let hook = &self.generation.registrations[named.hook];
            format!("{}: {hook} names the view {:?}", hook.place, named.view)
        };
        format!("{}, and {}; let them agree", said(a), said(b))
    }

    fn no_such_view(
        &self,
        name: &str,
        by: Option<usize>,
        views: &[usize],
        channel: &ChannelName,
        client: &Client,
    ) -> Refusal {
        let known: Vec<&str> = views.iter().filter_map(|hook| Some(self.views[*hook].as_ref()?.name())).collect();
        let known = [known, vec![FULL]].concat();
        let list = known.join(", ");
        let wrong = format!("there is no view {name:?} of {channel}{}; it has {list}", hint(name, &known));
        if let Some(hook) = by {
            let registration = &self.generation.registrations[hook];
            let why = format!("{}: {registration}: {wrong}", registration.place);
            return self.broken(hook, why, channel, client);
        }
        let facts = client.identity.attrs.as_ref().and_then(|attrs| attrs.downcast_ref::<Facts>());
        let place = facts.map_or("", |facts| facts.said_at.as_str());
        let decision = Decision {
            kind: RefusalKind::Broken,
            hook: &Event::Connect.to_string(),
            plugin: "",
            place,
            code: "rule_error",
            why: &format!("{place}: on.connect: {wrong}"),
            told: Some("a rule failed, so this is denied"),
            rests: false,
            channel: Some(channel.as_str()),
            asker: Asker::from(client),
        };
        decision.refuse(&self.generation.program)
    }

    fn broken(&self, hook: usize, why: String, channel: &ChannelName, client: &Client) -> Refusal {
        let no = No::Broken(hook, Failure { why, rests: false });
        self.refuse(no, Some(channel.as_str()), Asker::from(client))
    }
}
