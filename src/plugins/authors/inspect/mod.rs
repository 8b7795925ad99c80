//! What one can know of plugins and scripts without running a hook: what can never match, what waits where it must not,
//! what is kept where it gets lost, what is asked for and not used.
//!
//! The functions of the hooks are known by their lines from the checked VM; what they call and write is read from the
//! text between these lines, and from the functions of the same file that they call.

mod functions;
mod reader;
mod tokens;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use functions::Functions;
use tokens::{Kind, tokens};

use crate::plugins::registry;
use crate::plugins::source::about::About;
use crate::plugins::source::generation::{Event, Generation, Registration, Unit};

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Severity {
    Error,
    Warning,
}

/// Something that somebody should look at.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Finding {
    pub severity: Severity,
    /// `file:line`.
    pub place: String,
    pub why: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = if self.severity == Severity::Error { "" } else { "warning: " };
        write!(f, "{}: {kind}{}", self.place, self.why)
    }
}

/// Everything that can be known of a generation that loads.
pub fn inspect(generation: &Generation) -> Vec<Finding> {
    let mut found = Vec::new();
    patterns(generation, &mut found);
    views(generation, &mut found);
    hooks(generation, &mut found);
    for unit in &generation.program.units {
        permissions(unit, generation, &mut found);
    }
    found.sort();
    found.dedup();
    found
}

fn warn(place: &str, why: String) -> Finding {
    Finding { severity: Severity::Warning, place: place.to_owned(), why }
}

/// Hooks that no channel can ever reach.
fn patterns(generation: &Generation, found: &mut Vec<Finding>) {
    for hook in &generation.registrations {
        let Some(pattern) = &hook.pattern else { continue };
        if pattern.example().is_none() {
            let why = format!("{hook} can never match: no channel can have such a name");
            found.push(Finding { severity: Severity::Error, place: hook.place.clone(), why });
        }
        let unit = &generation.program.units[hook.unit];
        if let Some(only) = &unit.only
            && !only.iter().any(|allowed| allowed.meets(pattern))
        {
            let allowed: Vec<_> = only.iter().map(ToString::to_string).collect();
            let why = format!("{hook} never runs: the settings let {} run only on {}", unit.name, allowed.join(" "));
            found.push(warn(&hook.place, why));
        }
    }
}

/// Views that another one of the same name comes before.
fn views(generation: &Generation, found: &mut Vec<Finding>) {
    let views = generation.registrations.iter().filter_map(|hook| match &hook.about {
        About::View { name, .. } => Some((hook, name, hook.pattern.as_ref()?)),
        _ => None,
    });
    let views: Vec<_> = views.collect();
    for (at, (hook, name, pattern)) in views.iter().enumerate() {
        if let Some((last, ..)) = views[at + 1..].iter().rfind(|(_, other, over)| other == name && over.meets(pattern))
        {
            let why = format!("the view {name:?} is made by {last} ({}) too, and the last one counts", last.place);
            found.push(warn(&hook.place, why));
        }
    }
}

/// What the functions of the hooks call and write to.
fn hooks(generation: &Generation, found: &mut Vec<Finding>) {
    let Ok(vm) = generation.build_vm() else { return };
    let mut files: BTreeMap<String, Functions> = BTreeMap::new();
    for (hook, (file, line)) in generation.registrations.iter().zip(vm.origins()) {
        let unit = &generation.program.units[hook.unit];
        let source = file.strip_prefix(&format!("{}/", unit.root)).and_then(|path| unit.sources.get(path));
        let Some(source) = source else { continue };
        let functions = files.entry(file.clone()).or_insert_with(|| Functions::read(source));
        for function in functions.at(line).collect::<Vec<_>>() {
            if !matches!(hook.event, Event::Load | Event::Unload) {
                for write in functions.writes(function) {
                    let place = format!("{file}:{}", write.line);
                    let why = format!(
                        "{} outlives {hook}, and each worker has its own: keep it with aether.shared or aether.kv",
                        write.name
                    );
                    found.push(warn(&place, why));
                }
            }
            for call in functions.calls(function).iter().filter(|call| call.path.ends_with(":sync")) {
                if !hook.event.may_sync() {
                    let place = format!("{file}:{}", call.line);
                    let why =
                        format!("{hook} must not wait, and sync waits for the disk: set what is to be kept without it");
                    found.push(Finding { severity: Severity::Error, place, why });
                }
            }
            if !is_hot(hook) {
                continue;
            }
            for call in functions.calls(function) {
                if let Some(waits) = registry().find(|entry| entry.may_wait && is_below(&call.path, entry.name)) {
                    let place = format!("{file}:{}", call.line);
                    let why = format!(
                        "{hook} must not wait, and aether.{} does: {}ask in on.subscribe, or look up what was asked before",
                        waits.name,
                        if hook.event == Event::Publish { "register it with {async = true}, " } else { "" }
                    );
                    found.push(Finding { severity: Severity::Error, place, why });
                }
            }
        }
    }
}

/// Whether a call is one of `aether.<name>`, or of what that has made.
fn is_below(path: &str, name: &str) -> bool {
    path.strip_prefix("aether.")
        .and_then(|path| path.strip_prefix(name))
        .is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', ':']))
}

/// It runs on the threads that serve everybody, and must not wait.
fn is_hot(hook: &Registration) -> bool {
    match hook.about {
        About::Waits(waits) => !waits,
        _ => !hook.event.may_wait(),
    }
}

/// Permissions that nothing uses, and secrets that are not set.
fn permissions(unit: &Unit, generation: &Generation, found: &mut Vec<Finding>) {
    let mut texts = BTreeSet::new();
    for source in unit.sources.values() {
        texts.extend(
            tokens(source).into_iter().filter(|token| token.kind == Kind::Text).map(|token| token.text.to_owned()),
        );
    }
    let manifest = std::fs::read_to_string(format!("{}/plugin.toml", unit.root)).unwrap_or_default();
    let place = |name: &str| {
        let quoted = format!("{name:?}");
        let line = manifest.lines().position(|line| line.contains(&quoted)).map_or(1, |at| at + 1);
        format!("{}/plugin.toml:{line}", unit.root)
    };
    for (kind, names) in [("secrets", &unit.secrets), ("kv", &unit.kv), ("shared", &unit.shared)] {
        for name in names.iter().flatten().filter(|name| !texts.contains(*name)) {
            found.push(warn(&place(name), format!("[permissions] {kind}: {name:?} is not used by {}", unit.name)));
        }
    }
    for name in unit.secrets.iter().flatten().filter(|name| texts.contains(*name)) {
        if (generation.program.secrets)(name).is_none() {
            let why = format!("{} asks for the secret {name:?}, which is not set: secrets.{name}", unit.name);
            found.push(warn(&place(name), why));
        }
    }
    let used = |allowed: &crate::kernel::pattern::Pattern| {
        let own =
            generation.registrations.iter().filter(|hook| std::ptr::eq(&generation.program.units[hook.unit], unit));
        own.filter_map(|hook| hook.pattern.as_ref()).any(|pattern| allowed.meets(pattern))
    };
    for path in unit.routes.iter().flatten() {
        let own = |hook: &&Registration| std::ptr::eq(&generation.program.units[hook.unit], unit);
        let used = generation.registrations.iter().filter(own).any(|hook| match &hook.about {
            About::Route(route) => path.covers(&route.path),
            About::Dialect(spec) => spec.places.iter().any(|place| path.covers(&place.path)),
            _ => false,
        });
        if !used {
            let path = path.to_string();
            found.push(warn(&place(&path), format!("[permissions] routes: {} has no route at {path}", unit.name)));
        }
    }
    // Who publishes makes names that are written nowhere.
    let publishes = unit.sources.values().any(|source| source.contains("aether.publish"));
    // Nor are those of a plugin that listens where its settings say, and now say nowhere.
    let own = |hook: &&Registration| std::ptr::eq(&generation.program.units[hook.unit], unit);
    let hooks = generation.registrations.iter().filter(own).any(|hook| hook.pattern.is_some());
    let unknown = publishes || (!hooks && !unit.config.is_empty());
    for allowed in unit.may.iter().flat_map(|may| may.iter()).filter(|allowed| !unknown && !used(allowed)) {
        let allowed = allowed.to_string();
        found.push(warn(&place(&allowed), format!("[permissions] channels: {} has no hook on {allowed:?}", unit.name)));
    }
}
