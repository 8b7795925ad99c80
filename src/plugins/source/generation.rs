//! One generation: all plugins and scripts with their sources and settings, as they were when they were loaded.
//! Immutable.

use std::fmt;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use super::about::About;
pub use super::unit::Unit;
use crate::kernel::pattern::Pattern;
use crate::plugins::answering::routed;
use crate::plugins::asking::breaker::Breaker;
use crate::plugins::asking::pace::Pace;
use crate::plugins::commons::Commons;
use crate::plugins::dialect;
use crate::plugins::vm::Vm;
use crate::plugins::waiting::http::allow::UrlPattern;
use crate::plugins::{Counters, HostConfig, Limits, LoadError, Secrets};

/// What a VM is built from.
pub struct Program {
    pub units: Vec<Unit>,
    pub secrets: Secrets,
    /// Names of events that only the hub may use.
    pub reserved_events: &'static [&'static str],
    pub limits: Limits,
    pub counters: Arc<Counters>,
    pub commons: Arc<Commons>,
    pub own_paths: &'static [&'static str],
    /// Calls that wait, by unit.
    pub waiting: Vec<AtomicUsize>,
    /// Calls of slow hooks that are in line, by unit.
    pub in_line: Vec<AtomicUsize>,
    /// By hook, once all are known.
    paces: OnceLock<Box<[Pace]>>,
    /// By hook, once a VM has said how many there are.
    breakers: OnceLock<Box<[Breaker]>>,
}

impl Program {
    pub fn new(units: Vec<Unit>, config: &HostConfig, counters: Arc<Counters>, commons: Arc<Commons>) -> Program {
        Program {
            breakers: OnceLock::new(),
            waiting: units.iter().map(|_| AtomicUsize::new(0)).collect(),
            in_line: units.iter().map(|_| AtomicUsize::new(0)).collect(),
            paces: OnceLock::new(),
            units,
            secrets: config.secrets.clone(),
            own_paths: config.own_paths,
            reserved_events: config.reserved_events,
            limits: config.limits,
            counters,
            commons,
        }
    }

    /// The breaker of one of so many hooks. Each has its own: whoever can make a rule for one channel break must not
    /// close the others.
    pub fn breaker(&self, hook: usize, hooks: usize) -> &Breaker {
        &self.breakers.get_or_init(|| (0..hooks).map(|_| Breaker::default()).collect())[hook]
    }

    pub fn pace(&self, hook: usize) -> Option<&Pace> {
        self.paces.get()?.get(hook)
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Event {
    Connect,
    Refresh,
    Subscribe,
    Publish,
    History,
    Transform,
    Retain,
    Retention,
    View,
    Join,
    Leave,
    Disconnect,
    Timer,
    Route,
    DialectOpen,
    DialectFrame,
    DialectEncode,
    DialectClose,
    DialectRefuse,
    Load,
    Unload,
}

impl Event {
    /// Whether what its hooks answer is ignored.
    pub fn is_only_told(self) -> bool {
        matches!(
            self,
            Event::Join | Event::Leave | Event::Disconnect | Event::Load | Event::Timer | Event::DialectClose
        )
    }

    /// Whether hooks of this kind may wait without being told to. Publish hooks may if they are told to.
    pub fn may_wait(self) -> bool {
        use Event::{Connect, Disconnect, History, Join, Leave, Load, Refresh, Route, Subscribe, Timer, Unload};
        use Event::{DialectClose, DialectFrame, DialectOpen};
        matches!(
            self,
            DialectOpen
                | DialectFrame
                | DialectClose
                | Timer
                | Route
                | Join
                | Leave
                | Connect
                | Refresh
                | Subscribe
                | History
                | Disconnect
                | Load
                | Unload
        )
    }

    /// Whether the hook may stop its thread for the disk: the others are asked again and again, by threads that serve
    /// everybody.
    pub fn may_sync(self) -> bool {
        use Event::{DialectEncode, DialectFrame, DialectRefuse};
        use Event::{History, Publish, Retain, Retention, Subscribe, Transform, View};
        let often = matches!(self, Subscribe | Publish | History | Transform | Retain | Retention | View);
        !(often || matches!(self, DialectEncode | DialectFrame | DialectRefuse))
    }
}

impl Event {
    /// What a dialect's hooks are for.
    pub const OF_DIALECT: [Event; 5] =
        [Event::DialectOpen, Event::DialectFrame, Event::DialectEncode, Event::DialectClose, Event::DialectRefuse];

    pub fn is_of_dialect(self) -> bool {
        Event::OF_DIALECT.contains(&self)
    }

    /// As it is registered, where that has one name.
    pub fn name(self) -> &'static str {
        match self {
            Event::Connect => "on.connect",
            Event::Refresh => "on.refresh",
            Event::Subscribe => "on.subscribe",
            Event::Publish => "on.publish",
            Event::History => "on.history",
            Event::Transform => "on.transform",
            Event::Retain => "on.retain",
            Event::Retention => "on.retention",
            Event::View => "on.view",
            Event::Join => "on.join",
            Event::Leave => "on.leave",
            Event::Disconnect => "on.disconnect",
            Event::Timer => "timer",
            Event::Route => "http.route",
            Event::DialectOpen => "dialect.on_open",
            Event::DialectFrame => "dialect.on_frame",
            Event::DialectEncode => "dialect.encode",
            Event::DialectClose => "dialect.on_close",
            Event::DialectRefuse => "dialect.refuse",
            Event::Load => "on.load",
            Event::Unload => "on.unload",
        }
    }
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A breaker that is open when its generation goes is open no more.
impl Drop for Program {
    fn drop(&mut self) {
        let open = self.breakers.get().into_iter().flatten().filter(|breaker| breaker.is_open()).count();
        self.counters.breakers_open.fetch_sub(open as u64, Ordering::Relaxed);
    }
}

/// That a unit listens to something. Every VM of a generation must register exactly the same.
#[derive(Clone, PartialEq, Debug)]
pub struct Registration {
    pub event: Event,
    pub pattern: Option<Pattern>,
    pub unit: usize,
    pub place: String,
    pub about: About,
}

impl fmt::Display for Registration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let About::Timer(schedule) = &self.about {
            return schedule.fmt(f);
        }
        self.event.fmt(f)?;
        self.pattern.as_ref().map_or(Ok(()), |pattern| write!(f, " {pattern}"))?;
        match &self.about {
            About::Nothing | About::Waits(_) | About::Timer(_) | About::Attendance { .. } => Ok(()),
            About::View { name, .. } => write!(f, " {name}"),
            About::Route(route) => write!(f, " {route}"),
            About::Dialect(spec) => write!(f, " {}", spec.name),
        }
    }
}

pub struct Generation {
    pub id: u64,
    pub program: Arc<Program>,
    pub registrations: Vec<Registration>,
}

impl Generation {
    /// Reads and checks everything, the code too, which runs once in a VM that is thrown away.
    pub fn load(config: &HostConfig, commons: Arc<Commons>, counters: Arc<Counters>) -> Result<Generation, LoadError> {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let mut errors = Vec::new();
        let mut units = Vec::new();
        let private: Vec<UrlPattern> = match config.private_http.iter().map(|text| UrlPattern::parse(text)).collect() {
            Ok(patterns) => patterns,
            Err(why) => {
                let why: String = why;
                errors.push(format!("plugins.private_http: {why}"));
                Vec::new()
            }
        };
        for plugin in &config.plugins {
            match Unit::plugin(plugin, &private) {
                Ok(unit) => units.push(unit),
                Err(wrong) => errors.extend(wrong),
            }
        }
        if let Some(dir) = &config.scripts {
            match Unit::scripts(dir, &private) {
                Ok(scripts) => units.extend(scripts),
                Err(wrong) => errors.push(wrong),
            }
        }
        let program = Arc::new(Program::new(units, config, counters, commons));
        let registrations = match Vm::build(&program) {
            Ok(vm) => {
                errors.extend(routed::clashes(vm.registrations()));
                errors.extend(dialect::clashes(vm.registrations()));
                vm.registrations().to_vec()
            }
            Err(wrong) => {
                errors.extend(wrong);
                Vec::new()
            }
        };
        if !errors.is_empty() {
            return Err(LoadError(errors));
        }
        // The program is this generation's alone, so nobody has set them.
        let _ = program.paces.set(registrations.iter().map(|_| Pace::default()).collect());
        let generation = Generation { id: NEXT.fetch_add(1, Ordering::Relaxed), program, registrations };
        if (0..generation.registrations.len()).any(|hook| generation.waits(hook)) {
            let threads = generation.program.limits.waiting_threads;
            let opened = generation.program.commons.lanes.open(threads);
            opened.map_err(|error| LoadError(vec![format!("hooks that wait have no thread: {error}")]))?;
        }
        Ok(generation)
    }

    /// A VM for this thread. One that listens to other things than the checked one is refused: what it would decide
    /// nobody checked.
    pub fn build_vm(&self) -> Result<Vm, Vec<String>> {
        let vm = Vm::build(&self.program)?;
        let differs = |(a, b): &(&Registration, &Registration)| a != b;
        if let Some((here, checked)) = vm.registrations().iter().zip(&self.registrations).find(differs) {
            return Err(vec![format!("{}: {here} is registered where the checked load had {checked}", here.place)]);
        }
        if vm.registrations().len() != self.registrations.len() {
            return Err(vec!["a script registers other hooks than when it was checked".into()]);
        }
        self.program.counters.vms.fetch_add(1, Ordering::Relaxed);
        Ok(vm)
    }

    /// Whether a hook may wait, and so runs on a thread of those that do.
    pub fn waits(&self, hook: usize) -> bool {
        let registration = &self.registrations[hook];
        match &registration.about {
            About::Waits(waits) | About::Attendance { waits: Some(waits), .. } => *waits,
            About::Timer(_) => true,
            About::Dialect(spec) if spec.waits.is_some() => registration.event.may_wait() && spec.waits == Some(true),
            _ => registration.event.may_wait() && self.program.units[registration.unit].waits,
        }
    }

    pub fn is_concerned(&self, hook: usize, channel: &str) -> bool {
        let pattern = self.registrations[hook].pattern.as_ref();
        pattern.is_some_and(|pattern| pattern.matches(channel))
            && self.unit_of(hook).only.as_ref().is_none_or(|only| only.matches(channel))
    }

    /// Whether a hook that does not wait takes so long that it must not run on a thread that serves.
    pub fn is_slow(&self, hook: usize) -> bool {
        self.program.pace(hook).is_some_and(Pace::is_slow)
    }

    pub fn unit_of(&self, hook: usize) -> &Unit {
        &self.program.units[self.registrations[hook].unit]
    }
}
