//! A decision with what it was made from, kept for whoever asks why.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use super::asked::{Asked, Question};
use super::legible::weigh;
use super::trace::{Key, Read, Said, Step, Told};
use crate::plugins::asking::shown::Shown;
use crate::plugins::source::generation::Generation;

/// What was read in one decision is kept as it was up to so many bytes; of what comes then, that it was read.
const KEPT: usize = 16 << 10;

pub struct Evidence {
    pub generation: u64,
    pub question: Question,
    /// The question and all that was read are whole: it can be asked again and comes out the same.
    pub whole: bool,
    pub steps: Vec<Step>,
    pub hooks: BTreeMap<usize, Named>,
}

/// A hook, by the names that outlive its generation.
#[derive(Clone)]
pub struct Named {
    pub hook: String,
    pub plugin: String,
    pub place: String,
}

impl Named {
    pub fn of(generation: &Generation, hook: usize) -> Named {
        let registration = &generation.registrations[hook];
        Named {
            hook: registration.to_string(),
            plugin: generation.unit_of(hook).name.clone(),
            place: registration.place.clone(),
        }
    }
}

impl Evidence {
    /// Fit to be kept: bounded, and without any credential.
    pub fn new(generation: &Arc<Generation>, asked: Asked<'_>, steps: Vec<Step>) -> Evidence {
        let (question, mut whole) = asked.kept();
        let (shown, mut room) = (asked.shown(), KEPT);
        let steps: Vec<Step> = steps.into_iter().map(|step| fit(step, shown, &mut room, &mut whole)).collect();
        Evidence::of(generation, question, whole, steps)
    }

    /// As it is.
    pub fn of(generation: &Arc<Generation>, question: Question, whole: bool, steps: Vec<Step>) -> Evidence {
        let hooks = steps.iter().filter_map(|step| match step {
            Step::Hook(hook) | Step::Known(hook) | Step::Said(hook, _) => Some(*hook),
            _ => None,
        });
        let hooks = hooks.map(|hook| (hook, Named::of(generation, hook))).collect();
        Evidence { generation: generation.id, question, whole, steps, hooks }
    }

    /// What was read, to be told again.
    pub fn reads(&self) -> impl Iterator<Item = &Read> {
        reads(&self.steps)
    }

    /// Whether an answer that was remembered had a part in it.
    pub fn is_remembered(&self) -> bool {
        self.steps.iter().any(|step| matches!(step, Step::Known(_) | Step::KnownCredential))
    }

    pub fn weight(&self) -> usize {
        let hooks: usize = self.hooks.values().map(|named| named.hook.len() + named.plugin.len() + 128).sum();
        self.question.weight() + hooks + self.steps.iter().map(weight_of).sum::<usize>()
    }
}

pub fn reads(steps: &[Step]) -> impl Iterator<Item = &Read> {
    steps.iter().filter_map(|step| if let Step::Read(read) = step { Some(read) } else { None })
}

pub fn weight_of(step: &Step) -> usize {
    let told = |told: &Told| match told {
        Told::Json(json) => weigh(json),
        Told::Rows(rows) => rows.iter().map(|(key, value)| key.len() + weigh(value)).sum(),
        Told::Keys(keys) => keys.iter().map(|key| 24 + key.len()).sum(),
        Told::Http(answered) => 1024 + answered.body.len(),
        _ => 0,
    };
    64 + match step {
        Step::Read(read) => {
            let key = match &read.key {
                Key::Packed(key) => key.len(),
                Key::Text(text) => text.len(),
                Key::None => 0,
            };
            64 + key + told(&read.with) + told(&read.told)
        }
        Step::Said(_, Said::Deny(deny)) => 128 + deny.why.as_ref().map_or(0, String::len),
        Step::Said(_, Said::Broke { why, .. }) => why.len(),
        Step::Logged(line) | Step::Withheld(line) => line.len(),
        _ => 0,
    }
}

fn fit(step: Step, shown: Shown<'_>, room: &mut usize, whole: &mut bool) -> Step {
    let weight = weight_of(&step);
    match step {
        Step::Read(mut read) => {
            if weight > *room {
                *whole = false;
                (read.with, read.told) = (Told::Nothing, Told::Json(Arc::new("too long to be kept".into())));
                return Step::Read(read);
            }
            *room -= weight;
            conceal(&mut read, shown);
            Step::Read(read)
        }
        Step::Said(hook, Said::Deny(mut deny)) => {
            deny.why = deny.why.map(|why| shown.hide(&why).into_owned());
            Step::Said(hook, Said::Deny(deny))
        }
        Step::Said(hook, Said::Broke { why, rests }) => {
            Step::Said(hook, Said::Broke { why: shown.hide(&why).into_owned(), rests })
        }
        other => other,
    }
}

/// A rule may look a credential up by itself; it stays out of what is kept.
fn conceal(read: &mut Read, shown: Shown<'_>) {
    if matches!(shown, Shown::Nothing) {
        return;
    }
    let tells = |text: &str| matches!(shown.hide(text), Cow::Owned(_));
    let tells_key = match &read.key {
        Key::Packed(key) => tells(&String::from_utf8_lossy(key)),
        Key::Text(text) => tells(text),
        Key::None => false,
    };
    if tells_key {
        read.key = Key::Text("<secret>".into());
    }
    for told in [&mut read.with, &mut read.told] {
        let secret = match &*told {
            Told::Json(json) => tells(&json.to_string()),
            Told::Rows(rows) => rows.iter().any(|(_, json)| tells(&json.to_string())),
            _ => false,
        };
        if secret {
            *told = Told::Secret;
        }
    }
}
