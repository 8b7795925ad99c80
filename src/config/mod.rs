//! Every setting, its default, and what a channel's policy comes to.
//!
//! `aether.toml` at the root of the repository says in words what each key is for; a test holds it against these defaults.
//! `read` gathers the sources (defaults, file, environment, flags), `check` knows the ranges, `units` the values, `reload`
//! what a running hub takes of them, `first_aether` the names that settings had there, `aphlict` what that was told.

mod aphlict;
mod check;
mod first_aether;
mod path;
mod read;
mod reload;
mod sources;
mod units;
mod wrong;

use std::collections::BTreeMap;
use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::kernel::message::ChannelName;
use crate::kernel::policy;

pub use check::SHORTEST_KEY;
pub use sources::{ConfigError, DEFAULT_FILE, Look, Problem, Setting, Sources};
pub use units::{Bound, ChannelPattern, Count, Network, NoneOr, Period, Secret, Size};

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    pub server: Server,
    pub store: Store,
    pub channels: Channels,
    pub publish: Publish,
    pub websocket: WebSocket,
    pub sse: Sse,
    pub limits: Limits,
    pub retention: Retention,
    pub shutdown: Shutdown,
    pub log: Log,
    pub secrets: BTreeMap<String, Secret>,
    pub plugins: Plugins,
    /// The plugins in use, in their order.
    pub plugin: Vec<Plugin>,
    /// What was set and does nothing, each with its place: nothing that stops a start.
    #[serde(skip)]
    pub notes: Vec<String>,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            server: Server::default(),
            store: Store::default(),
            channels: Channels::default(),
            publish: Publish::default(),
            websocket: WebSocket::default(),
            sse: Sse::default(),
            limits: Limits::default(),
            retention: Retention::default(),
            shutdown: Shutdown::default(),
            log: Log::default(),
            secrets: BTreeMap::new(),
            plugins: Plugins::default(),
            plugin: ["jwt-auth", "api-keys"].map(|name| Plugin { name: name.into(), ..Plugin::default() }).into(),
            notes: Vec::new(),
        }
    }
}

/// The listening side of the process.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Server {
    #[serde(deserialize_with = "units::address")]
    pub addr: SocketAddr,
    /// The payload of one publish.
    pub max_payload_size: Size,
    /// The whole body of a batch.
    pub max_batch_size: Size,
    pub header_timeout: Period,
    pub write_timeout: Period,
    /// How long a peer that has vanished may go unnoticed.
    pub peer_timeout: Period,
    /// 0: one for two cores.
    pub front_workers: usize,
    /// 0: one per core.
    pub delivery_workers: usize,
    /// Proxies that are believed when they say who their client is.
    pub trusted_proxies: Vec<Network>,
    /// Where the operator is answered, and then only there.
    pub admin_addr: NoneOr<SocketAddr>,
    /// PEM files; both or neither.
    pub tls_cert: NoneOr<PathBuf>,
    pub tls_key: NoneOr<PathBuf>,
}

impl Default for Server {
    fn default() -> Self {
        Server {
            addr: SocketAddr::from((Ipv4Addr::LOCALHOST, 8080)),
            max_payload_size: Size::kib(64),
            max_batch_size: Size::mib(4),
            header_timeout: Period::seconds(10),
            write_timeout: Period::seconds(10),
            peer_timeout: Period::seconds(60),
            front_workers: 0,
            delivery_workers: 0,
            trusted_proxies: Vec::new(),
            admin_addr: NoneOr::default(),
            tls_cert: NoneOr::default(),
            tls_key: NoneOr::default(),
        }
    }
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Store {
    pub path: PathBuf,
    pub cache_size: Size,
    /// How long a `written` publication may wait for the disk.
    pub flush_interval: Period,
    /// How often what retention no longer keeps is removed.
    pub sweep_interval: Period,
    /// With less room on the disk publishes are refused; 0 asks for none.
    pub min_free: Size,
}

impl Default for Store {
    fn default() -> Self {
        Store {
            path: "data".into(),
            cache_size: Size::mib(64),
            flush_interval: Period::seconds(1),
            sweep_interval: Period::seconds(1),
            min_free: Size::mib(64),
        }
    }
}

/// What a live channel holds in memory.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Channels {
    pub tail_count: usize,
    pub tail_bytes: Size,
    pub idle_after: Period,
    /// How long a reader may be further behind than its channel's `max_lag` before the policy strikes.
    pub lag_patience: Period,
}

impl Default for Channels {
    fn default() -> Self {
        Channels {
            tail_count: 1024,
            tail_bytes: Size::mib(1),
            idle_after: Period::seconds(60),
            lag_patience: Period(std::time::Duration::from_millis(250)),
        }
    }
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Publish {
    pub max_batch: usize,
    pub idempotency_window: Period,
    /// Publishes that may wait in one lane; the next one hears 503.
    pub queue: usize,
    /// What a channel's first message is called.
    pub first_seq: Count,
}

impl Default for Publish {
    fn default() -> Self {
        Publish { max_batch: 100, idempotency_window: Period::seconds(24 * 3600), queue: 4096, first_seq: Count(1) }
    }
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct WebSocket {
    pub ping_interval: Period,
    pub pong_timeout: Period,
    pub max_message_size: Size,
    /// permessage-deflate, for clients that offer it.
    pub compression: bool,
    /// Smaller messages go as they are.
    pub compress_from: Size,
    /// Empty: the same origin, and clients that send none.
    pub allowed_origins: Vec<String>,
    /// Clients that do not offer `aether.v1` get exactly the first Aether's frames.
    pub first_aether: bool,
}

impl Default for WebSocket {
    fn default() -> Self {
        WebSocket {
            ping_interval: Period::seconds(30),
            pong_timeout: Period::seconds(60),
            max_message_size: Size::kib(64),
            compression: true,
            compress_from: Size(256),
            allowed_origins: Vec::new(),
            first_aether: false,
        }
    }
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Sse {
    pub heartbeat: Period,
    pub retry: Period,
    /// Over how long the times of lost streams are spread.
    pub retry_spread: Period,
}

impl Default for Sse {
    fn default() -> Self {
        Sse { heartbeat: Period::seconds(15), retry: Period::seconds(1), retry_spread: Period::seconds(5) }
    }
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    pub channels_per_request: usize,
    pub channels_per_connection: usize,
    pub connections: usize,
    /// Of one address; 0: no bound.
    pub connections_per_ip: usize,
    /// Of one tenant; 0: no bound.
    pub connections_per_tenant: usize,
    /// New connections, all in all; 0: no bound.
    pub handshakes_per_second: usize,
    /// Clients that are told to come back in one second; 0: as many as were seen to come in.
    pub returns_per_second: usize,
    /// Nobody is told to stay away longer.
    pub return_window: Period,
    /// How late the hub may be before something gives way.
    pub delay: Bound<Period>,
    /// Resident memory at which all that may give way does.
    pub memory: Bound<Size>,
    /// Noes that one connection may hear; 0: no bound.
    pub refusals_per_minute: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            channels_per_request: 100,
            channels_per_connection: 1000,
            connections: 100_000,
            connections_per_ip: 10_000,
            connections_per_tenant: 0,
            handshakes_per_second: 10_000,
            returns_per_second: 0,
            return_window: Period::seconds(60),
            delay: Bound(Some(Period::seconds(1))),
            memory: Bound(None),
            refusals_per_minute: 1000,
        }
    }
}

/// What channels keep and promise: the defaults, and rules of which the first that matches wins.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Retention {
    pub default_ttl: Bound<Period>,
    pub default_max_count: Bound<Count>,
    pub default_max_bytes: Bound<Size>,
    pub default_ack: Ack,
    pub default_lag: Lag,
    pub default_max_lag: Bound<Count>,
    pub rules: Vec<Rule>,
}

impl Default for Retention {
    fn default() -> Self {
        Retention {
            default_ttl: Bound(Some(Period::seconds(720 * 3600))),
            default_max_count: Bound(Some(Count(10_000))),
            default_max_bytes: Bound(None),
            default_ack: Ack::default(),
            default_lag: Lag::default(),
            default_max_lag: Bound(None),
            rules: Vec::new(),
        }
    }
}

/// What the channels of one pattern keep and promise; what is left out falls to the defaults.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Rule {
    pub pattern: Option<ChannelPattern>,
    pub ttl: Option<Bound<Period>>,
    pub max_count: Option<Bound<Count>>,
    pub max_bytes: Option<Bound<Size>>,
    /// `false`: nothing is stored.
    pub history: Option<bool>,
    pub ack: Option<Ack>,
    pub lag: Option<Lag>,
    pub max_lag: Option<Bound<Count>>,
}

/// When a publisher hears its 200.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ack {
    Memory,
    Written,
    #[default]
    Synced,
}

impl From<Ack> for policy::Ack {
    fn from(ack: Ack) -> Self {
        match ack {
            Ack::Memory => policy::Ack::Memory,
            Ack::Written => policy::Ack::Written,
            Ack::Synced => policy::Ack::Synced,
        }
    }
}

/// What happens to a reader that is too far behind.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Lag {
    #[default]
    CatchUp,
    DropOldest,
    DropNewest,
    Skip,
    Close,
}

impl From<Lag> for policy::Lag {
    fn from(lag: Lag) -> Self {
        match lag {
            Lag::CatchUp => policy::Lag::CatchUp,
            Lag::DropOldest => policy::Lag::DropOldest,
            Lag::DropNewest => policy::Lag::DropNewest,
            Lag::Skip => policy::Lag::Skip,
            Lag::Close => policy::Lag::Close,
        }
    }
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Shutdown {
    pub timeout: Period,
}

impl Default for Shutdown {
    fn default() -> Self {
        Shutdown { timeout: Period::seconds(10) }
    }
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Log {
    pub level: Level,
    pub format: LogFormat,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    Error,
    Warn,
    #[default]
    Info,
    Debug,
    Trace,
}

impl From<Level> for tracing::Level {
    fn from(level: Level) -> Self {
        match level {
            Level::Error => tracing::Level::ERROR,
            Level::Warn => tracing::Level::WARN,
            Level::Info => tracing::Level::INFO,
            Level::Debug => tracing::Level::DEBUG,
            Level::Trace => tracing::Level::TRACE,
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    #[default]
    Text,
    Json,
}

/// Where Lua comes from.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Plugins {
    pub dir: PathBuf,
    /// The operator's own rules, loaded after the plugins.
    pub scripts: PathBuf,
    /// Whether a file that changes is loaded at once.
    pub watch: bool,
    /// Whether a reload plays the tests of what it loads, and is refused if one fails.
    pub test_on_reload: bool,
    /// Threads for hooks that wait.
    pub waiting_threads: usize,
    pub waiting_timeout: Period,
    pub waiting_budget: Period,
    pub waiting_calls: usize,
    /// Private addresses that scripts may ask over HTTP.
    pub private_http: Vec<String>,
}

impl Default for Plugins {
    fn default() -> Self {
        Plugins {
            dir: "plugins".into(),
            scripts: "scripts".into(),
            watch: false,
            test_on_reload: false,
            waiting_threads: 2,
            waiting_timeout: Period::seconds(3),
            waiting_budget: Period(std::time::Duration::from_millis(20)),
            waiting_calls: 1000,
            private_http: Vec::new(),
        }
    }
}

/// One plugin in use: a `[[plugin]]` entry.
#[derive(Clone, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Plugin {
    #[serde(rename = "use")]
    pub name: String,
    /// Narrows the channels that the plugin's manifest asks for; it can widen none.
    pub channels: Option<Vec<ChannelPattern>>,
    /// The plugin's own settings; its manifest says what they may be.
    pub config: serde_json::Map<String, serde_json::Value>,
    /// Where the entry stands, `aether.toml:41:1`; empty for a default.
    #[serde(skip)]
    pub at: String,
    /// Where each of its settings stands, by its path: `keys.0.publish`.
    #[serde(skip)]
    pub places: BTreeMap<String, String>,
}

impl fmt::Debug for Plugin {
    // The settings are named without their values: some of them are secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let settings: Vec<_> = self.config.keys().collect();
        f.debug_struct("Plugin")
            .field("use", &self.name)
            .field("channels", &self.channels)
            .field("config", &settings)
            .field("at", &self.at)
            .finish()
    }
}

impl Config {
    /// What this channel keeps and promises: the first rule that matches, and the defaults for what it leaves out.
    pub fn policy(&self, channel: &ChannelName) -> policy::Policy {
        let fallback = Rule::default();
        let matching = |rule: &&Rule| rule.pattern.as_ref().is_some_and(|pattern| pattern.matches(channel.as_str()));
        let rule = self.retention.rules.iter().find(matching).unwrap_or(&fallback);
        let defaults = &self.retention;
        let history = policy::Retention {
            count: rule.max_count.unwrap_or(defaults.default_max_count).0.map(|count| count.0),
            age: rule.ttl.unwrap_or(defaults.default_ttl).0.map(|period| period.0),
            bytes: rule.max_bytes.unwrap_or(defaults.default_max_bytes).0.map(|size| size.0),
        };
        policy::Policy {
            history: rule.history.unwrap_or(true).then_some(history),
            ack: rule.ack.unwrap_or(defaults.default_ack).into(),
            lag: rule.lag.unwrap_or(defaults.default_lag).into(),
            max_lag: rule.max_lag.unwrap_or(defaults.default_max_lag).0.map(|count| count.0),
        }
    }

    /// Where rules are: what a watching hub looks at.
    pub fn rule_dirs(&self) -> Vec<PathBuf> {
        vec![self.plugins.dir.clone(), self.plugins.scripts.clone()]
    }

    /// The directory with the operator's own rules, if there is one.
    pub fn scripts_dir(&self) -> Option<PathBuf> {
        Some(self.plugins.scripts.clone()).filter(|dir| dir.is_dir())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn read(text: &str) -> Config {
        Sources { file: Some(("aether.toml".into(), text.into())), ..Sources::default() }.read().unwrap()
    }

    fn policy(config: &Config, channel: &str) -> policy::Policy {
        config.policy(&ChannelName::new(channel).unwrap())
    }

    #[test]
    fn the_default_policy_is_the_kernels_own() {
        assert_eq!(policy(&Config::default(), "a"), policy::Policy::default());
    }

    #[test]
    fn the_first_rule_that_matches_wins_and_leaves_the_rest_to_the_defaults() {
        let config = read(
            "[retention]\ndefault_max_bytes = \"1MiB\"\ndefault_ack = \"written\"\n\
             [[retention.rules]]\npattern = \"a.*\"\nttl = \"1h\"\nlag = \"skip\"\nmax_lag = 7\nmax_bytes = \"none\"\n\
             [[retention.rules]]\npattern = \"a.b\"\nhistory = false\n\
             [[retention.rules]]\npattern = \"mem.*\"\nhistory = false\nack = \"memory\"\n",
        );
        let first = policy(&config, "a.b");
        assert_eq!(
            first.history,
            Some(policy::Retention { count: Some(10_000), age: Some(Duration::from_secs(3600)), bytes: None })
        );
        assert_eq!((first.ack, first.lag, first.max_lag), (policy::Ack::Written, policy::Lag::Skip, Some(7)));
        let memory = policy(&config, "mem.x");
        assert_eq!((memory.history, memory.ack), (None, policy::Ack::Memory));
        assert_eq!(policy(&config, "other").history.unwrap().bytes, Some(1 << 20));
    }

    #[test]
    fn a_plugin_knows_the_line_that_asked_for_it() {
        let config = read(
            "[plugins]\ndir = \"p\"\n\n[[plugin]]\nuse = \"room-acl\"\nchannels = [\"room.*\"]\n\
             [plugin.config]\nmsgs_per_sec = 20\nkeys = [{ name = \"a\", publish = [] }]\n",
        );
        let uses = &config.plugin;
        assert_eq!((uses.len(), uses[0].at.as_str(), uses[0].name.as_str()), (1, "aether.toml:4:1", "room-acl"));
        let channels: Vec<_> = uses[0].channels.iter().flatten().map(ChannelPattern::as_str).collect();
        assert_eq!(channels, ["room.*"]);
        assert_eq!(
            serde_json::to_string(&uses[0].config).unwrap().len(),
            r#"{"msgs_per_sec":20,"keys":[{"name":"a","publish":[]}]}"#.len()
        );
    }

    #[test]
    fn without_an_entry_tokens_and_keys_are_in_use_and_an_empty_list_means_none() {
        let names = |config: &Config| config.plugin.iter().map(|p| p.name.clone()).collect::<Vec<_>>();
        assert_eq!(names(&read("")), ["jwt-auth", "api-keys"]);
        assert_eq!(names(&read("plugin = []")), [""; 0]);
    }

    #[test]
    fn printing_a_configuration_shows_no_secret() {
        let config = read(
            "[secrets]\nsigning_key = \"hunter2-hunter2-hunter2-hunter2-hunter2\"\n\
             [[plugin]]\nuse = \"x\"\n[plugin.config]\npassword = \"hunter2\"\n",
        );
        assert!(!format!("{config:?}").contains("hunter2"));
    }
}
