//! What is different between two generations, for the eyes of whoever reloads.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

use serde::Serialize;

use super::generation::{Generation, Unit};
use crate::kernel::message::ChannelName;
use crate::plugins::asking::rules::Rules;

/// Channels that a change names; beyond, it says how many there are.
const NAMED: usize = 20;

#[derive(Clone, Debug, Default, Serialize)]
pub struct Change {
    /// The one in charge from now on, and the one before.
    pub generation: u64,
    pub before: u64,
    /// `room-acl 1.2.0 -> 1.3.0`, `+ room-acl 1.2.0`, `- room-acl`.
    pub plugins: Vec<String>,
    pub hooks_added: Vec<String>,
    pub hooks_removed: Vec<String>,
    /// What plugins may that they might not before.
    pub permissions_grown: Vec<String>,
    /// Channels in use that hooks concern now, and did not before: a publish to them enters Lua from now on.
    pub channels_entering: usize,
    /// Some of them.
    pub entering: Vec<String>,
    /// Settings that have changed and were not taken.
    pub need_restart: Vec<String>,
    #[serde(rename = "took_ms", serialize_with = "millis")]
    pub took: Duration,
}

fn millis<S: serde::Serializer>(took: &Duration, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_f64(took.as_secs_f64() * 1000.0)
}

pub fn between(before: &Rules, next: &Rules, channels: &[ChannelName]) -> Change {
    let entering: Vec<_> = channels.iter().filter(|name| next.concerns(name) && !before.concerns(name)).collect();
    let (old, new) = (hooks(&before.generation), hooks(&next.generation));
    let only = |a: &BTreeSet<String>, b: &BTreeSet<String>| a.difference(b).cloned().collect();
    let (was, is) = (units(&before.generation), units(&next.generation));
    Change {
        generation: next.generation.id,
        before: before.generation.id,
        plugins: versions(&was, &is),
        hooks_added: only(&new, &old),
        hooks_removed: only(&old, &new),
        permissions_grown: is.iter().flat_map(|(name, unit)| grown(name, was.get(name).copied(), unit)).collect(),
        channels_entering: entering.len(),
        entering: entering.iter().take(NAMED).map(|name| name.to_string()).collect(),
        need_restart: next.need_restart.clone(),
        took: Duration::ZERO,
    }
}

fn hooks(generation: &Generation) -> BTreeSet<String> {
    let named =
        |hook: &super::generation::Registration| format!("{}: {hook}", generation.program.units[hook.unit].name);
    generation.registrations.iter().map(named).collect()
}

fn units(generation: &Generation) -> BTreeMap<&str, &Unit> {
    generation.program.units.iter().map(|unit| (unit.name.as_str(), unit)).collect()
}

fn versions(was: &BTreeMap<&str, &Unit>, is: &BTreeMap<&str, &Unit>) -> Vec<String> {
    let label = |unit: &Unit| format!("{} {}", unit.name, unit.version).trim_end().to_owned();
    let gone = was.iter().filter(|(name, _)| !is.contains_key(*name)).map(|(name, _)| format!("- {name}"));
    let come = is.iter().filter_map(|(name, unit)| match was.get(name) {
        None => Some(format!("+ {}", label(unit))),
        Some(old) if old.version != unit.version => Some(format!("{} -> {}", label(old), unit.version)),
        Some(_) => None,
    });
    gone.chain(come).collect()
}

/// What a plugin may now and might not before; a script may everything.
fn grown<'a>(name: &'a str, was: Option<&'a Unit>, is: &'a Unit) -> impl Iterator<Item = String> + 'a {
    let is_new = move |kind: &str, permission: &String| {
        was.is_none_or(|was| !was.permissions().any(|(k, p)| k == kind && p == *permission))
    };
    is.permissions().filter(move |(kind, p)| is_new(kind, p)).map(move |(kind, p)| format!("{name}: {kind} {p:?}"))
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "generation {} after {}, in {:.0?}", self.generation, self.before, self.took)?;
        for line in &self.plugins {
            write!(f, "\n  {line}")?;
        }
        for hook in &self.hooks_added {
            write!(f, "\n  + {hook}")?;
        }
        for hook in &self.hooks_removed {
            write!(f, "\n  - {hook}")?;
        }
        for permission in &self.permissions_grown {
            write!(f, "\n  may now: {permission}")?;
        }
        if self.channels_entering > 0 {
            let dots = if self.channels_entering > self.entering.len() { " ..." } else { "" };
            let (count, names) = (self.channels_entering, self.entering.join(" "));
            write!(f, "\n  channels that enter Lua now: {count} ({names}{dots})")?;
        }
        for setting in &self.need_restart {
            write!(f, "\n  needs a restart: {setting}")?;
        }
        Ok(())
    }
}
