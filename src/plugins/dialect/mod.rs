//! Dialects: whole wire protocols that plugins speak. What one is, which hooks it has, and where it is spoken.

mod line;
mod said;
mod tongue;

use std::net::SocketAddr;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::kernel::dialect::{Manners, Transport};
use crate::plugins::answering::route::PathPattern;
use crate::plugins::source::about::About;
use crate::plugins::source::generation::{Event, Generation, Registration};

pub use line::{speech, tell_gone, tell_gone_here};
pub use tongue::Spoken;

/// What a plugin says of its dialect.
#[derive(Clone, PartialEq, Debug)]
pub struct Spec {
    pub name: &'static str,
    pub places: Vec<Place>,
    pub manners: Arc<Manners>,
    /// Whether its hooks wait, if it says so.
    pub waits: Option<bool>,
}

/// Where it is spoken.
#[derive(Clone, PartialEq, Debug)]
pub struct Place {
    pub transport: Transport,
    pub path: PathPattern,
    /// A listener of its own; none: the hub's.
    pub listen: Option<SocketAddr>,
}

impl Place {
    fn is_at(&self, listener: Option<SocketAddr>, path: &str) -> bool {
        self.listen == listener && self.path.captures(path).is_some()
    }

    fn clashes(&self, other: &Place) -> bool {
        self.listen == other.listen && self.path.overlaps(&other.path)
    }
}

/// The same name for as long as the process lives: connections outlive the rules that named their dialect. There are as
/// many as operators ever load, so they are never given back.
pub fn interned(name: &str) -> &'static str {
    static NAMES: Mutex<Vec<&'static str>> = Mutex::new(Vec::new());
    let mut names = NAMES.lock();
    if let Some(known) = names.iter().find(|known| **known == name) {
        return known;
    }
    let name: &'static str = Box::leak(name.to_owned().into_boxed_str());
    names.push(name);
    name
}

/// A dialect's hooks, as a generation has them.
pub struct Hooks {
    pub spec: Arc<Spec>,
    pub unit: usize,
    came: Option<usize>,
    said: Option<usize>,
    says: Option<usize>,
    gone: Option<usize>,
    refuses: Option<usize>,
}

impl Hooks {
    /// The hook that hears that a connection has gone.
    pub fn on_close(&self) -> Option<usize> {
        self.gone
    }
}

/// All dialects of a generation.
#[derive(Default)]
pub struct Dialects(Vec<Hooks>);

impl Dialects {
    pub fn of(generation: &Generation) -> Dialects {
        let mut all: Vec<Hooks> = Vec::new();
        for (at, registration) in generation.registrations.iter().enumerate() {
            let About::Dialect(spec) = &registration.about else { continue };
            if all.last().is_none_or(|last| last.spec.name != spec.name) {
                let (spec, unit) = (spec.clone(), registration.unit);
                all.push(Hooks { spec, unit, came: None, said: None, says: None, gone: None, refuses: None });
            }
            let Some(hooks) = all.last_mut() else { continue };
            match registration.event {
                Event::DialectOpen => hooks.came = Some(at),
                Event::DialectFrame => hooks.said = Some(at),
                Event::DialectEncode => hooks.says = Some(at),
                Event::DialectClose => hooks.gone = Some(at),
                Event::DialectRefuse => hooks.refuses = Some(at),
                _ => {}
            }
        }
        Dialects(all)
    }

    pub fn named(&self, name: &str) -> Option<&Hooks> {
        self.0.iter().find(|hooks| hooks.spec.name == name)
    }

    fn at(&self, listener: Option<SocketAddr>, path: &str) -> Option<(&Spec, &Place)> {
        let mut all = self.0.iter().flat_map(|hooks| hooks.spec.places.iter().map(|place| (&*hooks.spec, place)));
        all.find(|(_, place)| place.is_at(listener, path))
    }

    fn places(&self) -> impl Iterator<Item = &Place> {
        self.0.iter().flat_map(|hooks| &hooks.spec.places)
    }
}

/// The addresses that dialects and routes have for themselves.
pub fn listeners(generation: &Generation) -> Vec<SocketAddr> {
    let wanted = generation.registrations.iter().flat_map(|hook| match &hook.about {
        About::Dialect(spec) => spec.places.iter().filter_map(|place| place.listen).collect(),
        About::Route(route) => route.listen.into_iter().collect(),
        _ => Vec::new(),
    });
    let mut wanted: Vec<_> = wanted.collect();
    wanted.sort();
    wanted.dedup();
    wanted
}

/// Dialects that are there already, and places that are taken, as errors that name both.
pub fn clashes(registrations: &[Registration]) -> Vec<String> {
    let mut seen: Vec<(&Registration, &Arc<Spec>)> = Vec::new();
    let mut errors = Vec::new();
    for hook in registrations.iter().filter(|hook| hook.event == Event::DialectEncode) {
        let About::Dialect(spec) = &hook.about else { continue };
        for (other, taken) in &seen {
            let at = |what: String| format!("{}: dialect {}: {what} at {}", hook.place, spec.name, other.place);
            if taken.name == spec.name {
                errors.push(at("there is one of this name already,".into()));
            } else if let Some(place) = spec.places.iter().find(|one| taken.places.iter().any(|two| one.clashes(two))) {
                errors.push(at(format!("{} is taken by {},", place.path, taken.name)));
            }
        }
        seen.push((hook, spec));
    }
    errors
}
