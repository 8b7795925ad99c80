//! The Lua plugin host: the kernel's `Hooks`, answered by grants in Rust and by scripts in Luau.
//!
//! ```text
//!  plugin.toml, main.lua, scripts/*.lua
//!        | manifest, schema: read and checked without running code
//!        v
//!   generation ---- build ----> vm (one per thread) <---- watchdog stops what overruns
//!        ^                       | api: the global `aether`     handles: s, ch, msg, req
//!        |                       v
//!   rules: which hooks concern a channel (once per channel) -> votes -> decision
//!        ^
//!   host: the generation in charge, reload, rollback
//! ```
//!
//! What holds:
//! * A channel that no hook concerns never enters Lua; which hooks concern it is computed once per channel.
//! * Votes do not depend on order: any deny wins, else any allow (a grant is one), else no.
//! * What breaks denies: an error, a strange answer, a used-up budget, a VM that cannot be built. The client hears
//!   `rule_error` and a decision id; the log has the id with `file:line`.
//! * Everything is checked at load, in a VM of its own; a VM that registers other hooks than that one is refused.
//! * A VM belongs to the thread that built it, is bounded in memory and watched; a script reaches nothing but `aether`.
//! * A question is answered by one generation from its first hook to its last; a reload changes all of them or nothing.
//! * A hook that waits runs on the lanes, many at once; one that does not runs where it was asked, and must not wait.
//! * What is told after the fact (who left, who joined) comes from queues with an end, on threads of their own.
//!
//! Who is who:
//! * `source`, from files to hooks: `manifest` `schema` read, `unit` `generation` hold, `roster` loads, `change` `handover` from one to
//!   the next, `foresight` says who may wait.
//! * `vm`, with its `watchdog`, what hooks are called with (`handles` `msg`, and `scan`: one path of a JSON text), `value` `keys`
//!   `running` `floor`, and `resident`: a thread's VMs. `api`: what `aether` has.
//! * `asking`: `host` -> `rules` (`votes`, `who` for connecting, `admit` for what becomes of a message, `view` `redact`, `retention`) ->
//!   `decision`; `remembered` and `breaker` spare the asking, `pace` finds the slow, `turns` keeps a channel's order.
//! * `waiting`: `lanes` are the threads, for them `http` `memo` `keysets`; `timers` `schedule`; `beside` for what is slow.
//! * `dialect`: wire protocols that plugins speak, behind the kernel's port of the same name.
//! * `told`, after the fact: `duty`, with `departures` and `attendance` (`crowd`). `answering` HTTP: `routed` `route` `visit`.
//! * `world` is how rules act, `voice` who speaks then; `kept`: `kv` `shared` `tallies`, what they keep and count.
//! * `why`: `trace` while deciding, `record` `evidence` afterwards, `asked` `rehearsal` to ask again without consequences, `shadow`
//!   beside the rules in charge, `tails` for those who look on; `operator` has the verbs.
//! * For `authors`: `testing`, `inspect`, `editor`, `portrait`, `bench`.

mod answering;
mod api;
mod asking;
mod authors;
mod commons;
mod dialect;
mod host;
mod kept;
mod operator;
mod source;
mod told;
mod vm;
mod voice;
mod waiting;
mod why;
mod world;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

pub use answering::route::Auth;
pub use answering::routed::{Call, Routed};
pub use answering::visit::{RouteAnswer, Visit};
pub use api::{Entry, registry};
pub use asking::breaker::BreakerLimits;
pub use asking::remembered::Forget;
pub use authors::bench::Bench;
pub use authors::inspect::{Finding, Severity};
pub use authors::portrait::Portrait;
pub use authors::{editor, reference, testing};
pub use commons::Clock;
pub use dialect::Spoken;
pub use host::{Host, Latest};
pub use operator::Trouble;
pub use source::change::Change;
pub use why::record::{DecisionFilter, Record};
pub use why::tails::{Tail, Wanted};
pub use world::{Publishing, Said, World};

use crate::kernel::message::ChannelName;
use crate::kernel::policy::Policy;

pub type Secrets = Arc<dyn Fn(&str) -> Option<String> + Send + Sync>;
/// Where plugins and scripts are and how they are set: asked at the start and at every reload.
pub type Sources = Arc<dyn Fn() -> Result<HostConfig, LoadError> + Send + Sync>;
pub type Policies = Arc<dyn Fn(&ChannelName) -> Policy + Send + Sync>;

#[derive(Clone)]
pub struct HostConfig {
    /// In order; scripts come last.
    pub plugins: Vec<PluginUse>,
    /// Every `*.lua` and `*.luau` directly in it, sorted; what lies deeper can be required, `tests/` is left out.
    pub scripts: Option<PathBuf>,
    pub secrets: Secrets,
    /// Names of events that only the hub may use.
    pub reserved_events: &'static [&'static str],
    pub policy: Policies,
    pub limits: Limits,
    pub clock: Clock,
    /// Private addresses that scripts may reach: `http://127.0.0.1:9000/*`.
    pub private_http: Vec<String>,
    /// Paths that the hub answers itself; no plugin's route may.
    pub own_paths: &'static [&'static str],
    /// Settings beside the rules that have changed since the hub started, for whoever reloads: a line each.
    pub need_restart: Vec<String>,
}

impl Default for HostConfig {
    fn default() -> Self {
        HostConfig {
            plugins: Vec::new(),
            scripts: None,
            secrets: Arc::new(|_| None),
            reserved_events: &[],
            policy: Arc::new(|_| Policy::default()),
            limits: Limits::default(),
            clock: commons::system_clock(),
            private_http: Vec::new(),
            own_paths: &[],
            need_restart: Vec::new(),
        }
    }
}

/// That a plugin is to be loaded, and how.
#[derive(Clone, Debug, Default)]
pub struct PluginUse {
    pub name: String,
    pub dir: PathBuf,
    /// Where its hooks run; may only narrow what its manifest says.
    pub channels: Option<Vec<String>>,
    pub config: serde_json::Map<String, serde_json::Value>,
    /// Where the operator wrote this, for messages: `aether.toml:41`.
    pub at: String,
    /// Where each setting stands, by its path: `keys.0.publish`.
    pub places: BTreeMap<String, String>,
}

impl PluginUse {
    /// Where the setting stands that a complaint is about, or what it lies in. A complaint begins with a path: `keys[1].publish`.
    fn place_of(&self, complaint: &str) -> &str {
        let path = complaint.split([':', ' ']).next().unwrap_or_default();
        let steps = path.split(['.', '[']).map(|step| match step.strip_suffix(']').map(str::parse::<usize>) {
            Some(Ok(number)) => number.saturating_sub(1).to_string(),
            _ => step.to_owned(),
        });
        let steps: Vec<String> = steps.collect();
        let known = (1..=steps.len()).rev().find_map(|length| self.places.get(&steps[..length].join(".")));
        known.unwrap_or(&self.at)
    }
}

#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Processor time of one subscribe, publish or history hook.
    pub call: Duration,
    /// A hook that does not wait and takes so much of it on average runs beside the others.
    pub slow: Duration,
    /// Processor time of one connect or disconnect hook.
    pub connect: Duration,
    /// Processor time of loading one plugin or script.
    pub load: Duration,
    /// Bytes per VM.
    pub memory: usize,
    /// Threads for hooks that wait.
    pub waiting_threads: usize,
    /// How long a hook that waits may take, and how much processor time.
    pub waiting_time: Duration,
    pub waiting_budget: Duration,
    /// Calls of one plugin that may wait at once; the next one is refused as busy.
    pub waiting_calls: usize,
    pub breaker: BreakerLimits,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            call: Duration::from_millis(5),
            slow: Duration::from_micros(500),
            connect: Duration::from_millis(20),
            load: Duration::from_secs(2),
            memory: 64 << 20,
            waiting_threads: 2,
            waiting_time: Duration::from_secs(3),
            waiting_budget: Duration::from_millis(20),
            waiting_calls: 1000,
            breaker: BreakerLimits::default(),
        }
    }
}

/// What a session's connect hook said beside who it is; travels in `Identity::attrs`.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    pub attrs: serde_json::Value,
    /// Through which view it sees channels that have some, unless a vote names one; and the rule that said so.
    pub view: Option<String>,
    pub said_at: String,
    /// How long an HTTP credential's verdict may be remembered.
    pub ttl: Option<Duration>,
}

#[derive(Debug, Default)]
pub struct Counters {
    /// Calls of Lua functions by hooks.
    pub lua_entries: AtomicU64,
    /// Refusals of any kind.
    pub denied: AtomicU64,
    /// Hooks that broke, the killed ones included.
    pub errors: AtomicU64,
    pub killed_over_budget: AtomicU64,
    /// VMs built to serve.
    pub vms: AtomicU64,
    /// HTTP requests whose credential was known already.
    pub credentials_known: AtomicU64,
    /// HTTP requests for whose credential the rules were asked.
    pub credentials_asked: AtomicU64,
    /// Votes of subscribe hooks that were known already.
    pub votes_known: AtomicU64,
    /// Breakers that are open now.
    pub breakers_open: AtomicU64,
    /// Calls that were refused by an open breaker.
    pub broken_off: AtomicU64,
    /// Farewells that found the queue of the disconnect hooks full.
    pub farewells_dropped: AtomicU64,
    /// Joins and leaves that found the queue of their hooks full.
    pub moves_dropped: AtomicU64,
}

/// Everything that is wrong, a line each.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LoadError(pub Vec<String>);

impl fmt::Display for LoadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join("\n"))
    }
}

impl std::error::Error for LoadError {}
