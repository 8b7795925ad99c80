//! One generation: all plugins and scripts with their sources and settings, as they were when they were loaded.
//! Immutable.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use super::about::About;
use super::breaker::Breaker;
use super::commons::Commons;
use super::dialect;
use super::foresight::can_wait;
use super::http::allow::{Allow, UrlPattern};
use super::manifest::Manifest;
use super::pace::Pace;
use super::route::PathPattern;
use super::routed;
use super::schema::{self, Setting};
use super::vm::Vm;
use super::{Counters, HostConfig, Limits, LoadError, PluginUse, Secrets};
use crate::kernel::pattern::{Pattern, Patterns};

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

/// A plugin, or one file of the operator's scripts.
pub struct Unit {
    pub name: String,
    pub version: String,
    /// Its directory, as messages show it.
    pub root: String,
    pub entry: String,
    /// Every Lua file below `root`, by its path there. `require` finds files here and nowhere else.
    pub sources: Arc<BTreeMap<String, String>>,
    /// Where it may register hooks; scripts may everywhere.
    pub may: Option<Patterns>,
    /// Where its hooks run, if the operator narrowed it.
    pub only: Option<Patterns>,
    /// The secrets it may read; scripts may all.
    pub secrets: Option<Vec<String>>,
    /// The stores on disk and the shared tables it may open; scripts may all.
    pub kv: Option<Vec<String>>,
    pub shared: Option<Vec<String>>,
    /// Whom it may ask over HTTP; none: it has no `aether.http`.
    pub http: Option<Arc<Allow>>,
    /// Its code has functions that wait.
    pub waits: bool,
    /// The paths that it may answer; scripts may all.
    pub routes: Option<Vec<PathPattern>>,
    /// What it may of `list`, `kick` and `announce`.
    pub sessions: Option<Vec<String>>,
    /// The dialects that it may speak; scripts may any.
    pub dialects: Option<Vec<String>>,
    /// Whether it may have listeners of its own.
    pub listens: bool,
    pub config: BTreeMap<String, Setting>,
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

impl Unit {
    fn plugin(used: &PluginUse, private: &[UrlPattern]) -> Result<Unit, Vec<String>> {
        let root = used.dir.display().to_string();
        let manifest =
            Manifest::read(&used.dir.join("plugin.toml"), &format!("{root}/plugin.toml")).map_err(|wrong| {
                if used.dir.is_dir() {
                    wrong
                } else {
                    {
                        let hint =
                            "start aether where plugins/ and scripts/ are, or set plugins.dir and plugins.scripts";
                        vec![format!("{}: there is no plugin in {root}: {hint}", used.at)]
                    }
                }
            })?;
        let mut errors = Vec::new();
        if manifest.name != used.name {
            errors.push(format!("{}: the plugin in {root} calls itself {}, not {}", used.at, manifest.name, used.name));
        }
        let only =
            used.channels.as_ref().map(|texts| narrow(texts, &manifest.permissions.channels, &used.at, &mut errors));
        let mut wrong = Vec::new();
        let config = schema::check(&manifest.config, &used.config, "", &mut wrong);
        errors.extend(wrong.into_iter().map(|why| format!("{}: {why}", used.place_of(&why))));
        let sources = read_sources(&used.dir).map_err(|why| vec![why])?;
        let entry = ["main.lua", "main.luau"].into_iter().find(|entry| sources.contains_key(*entry));
        if entry.is_none() {
            errors.push(format!("{root}/main.lua is missing"));
        }
        if !errors.is_empty() {
            return Err(errors);
        }
        let waits = Unit::can_wait(&root, &sources, entry.unwrap_or_default());
        let (patterns, private) = (manifest.permissions.http, private.to_vec());
        let http = Allow { everybody: false, patterns, private, at: format!("{root}/plugin.toml") };
        Ok(Unit {
            name: manifest.name,
            version: manifest.version,
            root,
            entry: entry.unwrap_or_default().to_owned(),
            sources: Arc::new(sources),
            may: Some(manifest.permissions.channels),
            only,
            secrets: Some(manifest.permissions.secrets),
            kv: Some(manifest.permissions.kv),
            shared: Some(manifest.permissions.shared),
            http: Some(http).filter(|http| !http.patterns.is_empty()).map(Arc::new),
            waits,
            routes: Some(manifest.permissions.routes),
            sessions: Some(manifest.permissions.sessions),
            dialects: Some(manifest.permissions.dialects),
            listens: manifest.permissions.listen,
            config,
        })
    }

    /// Every file directly in `dir` is a unit of its own; what lies deeper is there to be required.
    fn scripts(dir: &Path, private: &[UrlPattern]) -> Result<Vec<Unit>, String> {
        let root = dir.display().to_string();
        let http = Allow { everybody: true, private: private.to_vec(), ..Allow::default() };
        let http = Some(Arc::new(http));
        let sources = Arc::new(read_sources(dir)?);
        let unit = |entry: &String| Unit {
            name: entry.rsplit_once('.').map_or(entry.as_str(), |(name, _)| name).to_owned(),
            version: String::new(),
            root: root.clone(),
            entry: entry.clone(),
            sources: sources.clone(),
            may: None,
            only: None,
            secrets: None,
            kv: None,
            shared: None,
            http: http.clone(),
            waits: Unit::can_wait(&root, &sources, entry),
            routes: None,
            sessions: None,
            dialects: None,
            listens: true,
            config: BTreeMap::new(),
        };
        Ok(sources.keys().filter(|path| !path.contains('/')).map(unit).collect())
    }

    /// One file of tests, below `tests/` of `dir`. It may what the plugin may that it tests, so that both see the same.
    pub fn tests(dir: &Path, entry: &str, tested: Option<Manifest>) -> Result<Unit, String> {
        let mut sources = read_sources(dir)?;
        let root = dir.canonicalize().map_err(|e| format!("{}: {e}", dir.display()))?;
        collect(&root, &dir.join("tests"), "tests", MAX_DEPTH, &mut sources)?;
        let may = tested.as_ref().map(|tested| &tested.permissions);
        Ok(Unit {
            secrets: may.map(|may| may.secrets.clone()),
            kv: may.map(|may| may.kv.clone()),
            shared: may.map(|may| may.shared.clone()),
            routes: may.map(|may| may.routes.clone()),
            sessions: may.map(|may| may.sessions.clone()),
            dialects: may.map(|may| may.dialects.clone()),
            listens: may.is_none_or(|may| may.listen),
            name: tested.map_or_else(|| "tests".to_owned(), |tested| tested.name),
            version: String::new(),
            root: dir.display().to_string(),
            entry: entry.to_owned(),
            sources: Arc::new(sources),
            may: None,
            only: None,
            // A test asks the rules; it speaks to nobody itself.
            http: None,
            waits: false,
            config: BTreeMap::new(),
        })
    }

    /// What it may beside what every unit may, as `(kind, permission)`; none of a script, which may everything.
    pub fn permissions(&self) -> impl Iterator<Item = (&'static str, String)> + '_ {
        let channels = self.may.iter().flat_map(|may| may.iter()).map(|pattern| ("channels", pattern.to_string()));
        let lists = [
            ("secrets", &self.secrets),
            ("kv", &self.kv),
            ("shared", &self.shared),
            ("sessions", &self.sessions),
            ("dialects", &self.dialects),
        ];
        let named = lists
            .into_iter()
            .flat_map(|(kind, list)| list.iter().flatten().map(move |permission| (kind, permission.clone())));
        let http = self.may.is_some().then_some(self.http.as_ref()).flatten();
        let urls = http.into_iter().flat_map(|http| http.patterns.iter().map(|url| ("http", url.as_str().to_owned())));
        let routes = self.routes.iter().flatten().map(|path| ("routes", path.to_string()));
        let listen = (self.is_plugin() && self.listens).then(|| ("listen", "true".to_owned()));
        channels.chain(named).chain(routes).chain(urls).chain(listen)
    }

    pub fn is_plugin(&self) -> bool {
        self.may.is_some()
    }

    pub fn may_register(&self, pattern: &Pattern) -> bool {
        self.may.as_ref().is_none_or(|may| may.covers(pattern))
    }

    /// The name that messages show for one of its files.
    pub fn shown(&self, path: &str) -> String {
        format!("{}/{path}", self.root)
    }

    fn can_wait(root: &str, sources: &BTreeMap<String, String>, entry: &str) -> bool {
        can_wait(sources, entry, |from, wanted| resolve(root, sources, from, wanted).ok().map(str::to_owned))
    }

    /// The file that `require(wanted)` means in the file `from`, both as paths below the root.
    pub fn resolve(&self, from: &str, wanted: &str) -> Result<&str, String> {
        resolve(&self.root, &self.sources, from, wanted)
    }
}

fn resolve<'a>(root: &str, sources: &'a BTreeMap<String, String>, from: &str, wanted: &str) -> Result<&'a str, String> {
    {
        if !wanted.starts_with("./") && !wanted.starts_with("../") {
            return Err(format!(
                "require takes a path that begins with ./, or a plugin's name as @name, got {wanted:?}"
            ));
        }
        let mut path: Vec<&str> = from.split('/').collect();
        path.pop();
        for part in wanted.split('/') {
            match part {
                "." | "" => {}
                ".." => {
                    path.pop().ok_or_else(|| format!("require({wanted:?}) leaves {root}"))?;
                }
                part => path.push(part),
            }
        }
        let path = path.join("/");
        ["", ".lua", ".luau", "/init.lua", "/init.luau"]
            .iter()
            .find_map(|end| sources.get_key_value(&format!("{path}{end}")))
            .map(|(path, _)| path.as_str())
            .ok_or_else(|| format!("there is no {root}/{path} (.lua or .luau)"))
    }
}

/// The operator's list, which may only narrow what the manifest asks for.
fn narrow(texts: &[String], may: &Patterns, at: &str, errors: &mut Vec<String>) -> Patterns {
    let mut narrowed = Patterns::default();
    for text in texts {
        match Pattern::parse(text) {
            Ok(pattern) if may.covers(&pattern) => narrowed.extend([pattern]),
            Ok(pattern) => {
                errors.push(format!("{at}: channels: {pattern} is wider than the plugin's own [permissions] channels"))
            }
            Err(error) => errors.push(format!("{at}: channels: {error}")),
        }
    }
    narrowed
}

const MAX_DEPTH: usize = 8;
const MAX_FILE: u64 = 1 << 20;

fn read_sources(dir: &Path) -> Result<BTreeMap<String, String>, String> {
    let root = dir.canonicalize().map_err(|e| format!("{}: {e}", dir.display()))?;
    let mut sources = BTreeMap::new();
    collect(&root, dir, "", MAX_DEPTH, &mut sources)?;
    Ok(sources)
}

fn collect(
    root: &Path,
    dir: &Path,
    below: &str,
    depth: usize,
    sources: &mut BTreeMap<String, String>,
) -> Result<(), String> {
    let failed = |path: &Path, e: std::io::Error| format!("{}: {e}", path.display());
    for entry in std::fs::read_dir(dir).map_err(|e| failed(dir, e))? {
        let path: PathBuf = entry.map_err(|e| failed(dir, e))?.path();
        let Some(name) = path.file_name().and_then(|name| name.to_str()) else { continue };
        if name.starts_with('.') || (below.is_empty() && name == "tests") {
            continue;
        }
        let lua = name.ends_with(".lua") || name.ends_with(".luau");
        // A link may point about inside the directory (mounted config maps do), but not out of it.
        let Ok(real) = path.canonicalize() else { continue };
        if !real.starts_with(root) {
            continue;
        }
        let inner = if below.is_empty() { name.to_owned() } else { format!("{below}/{name}") };
        if real.is_dir() {
            if depth > 0 {
                collect(root, &path, &inner, depth - 1, sources)?;
            }
        } else if lua {
            if real.metadata().map_err(|e| failed(&path, e))?.len() > MAX_FILE {
                return Err(format!("{}: a script is at most {MAX_FILE} bytes", path.display()));
            }
            let text = std::fs::read(&real).map_err(|e| failed(&path, e))?;
            let text = String::from_utf8(text).map_err(|_| format!("{}: not a text in UTF-8", path.display()))?;
            sources.insert(inner, text);
        }
    }
    Ok(())
}
