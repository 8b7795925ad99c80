//! The rules' ties to all the rest: where they are read from, what happens when they change, and who asks for it.

use std::future::Future;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use super::Again;
use crate::config::{ChannelPattern, Config, Plugin};
use crate::edges::frames::RESERVED_EVENTS;
use crate::edges::operator::{Operator, Trouble};
use crate::edges::routes::OWN_PATHS;
use crate::edges::tail::{self, Tail};
use crate::kernel::message::ChannelName;
use crate::keys::Keys;
use crate::plugins::testing::{Failed, Suite, Troupe};
use crate::plugins::{self, Host, HostConfig, LoadError, PluginUse, Wanted};

/// How often a watched directory is looked at. What has changed is loaded once it stands still for as long.
const WATCH: Duration = Duration::from_millis(500);
/// Depth of directories that are watched.
const DEPTH: usize = 8;

/// The plugins and scripts that the settings name, checked.
pub fn load_plugins(config: &Config, keys: &Keys) -> Result<Arc<Host>, LoadError> {
    Host::load(host_config(config, keys))
}

/// As `load_plugins`; each reload reads the settings again.
pub fn host(config: &Config, keys: &Keys, again: Again) -> Result<Arc<Host>, LoadError> {
    let first = parking_lot::Mutex::new(Some(host_config(config, keys)));
    let started_with = config.clone();
    Host::load_from(Arc::new(move || {
        if let Some(first) = first.lock().take() {
            return Ok(first);
        }
        let next = again().map_err(|error| LoadError(error.to_string().lines().map(str::to_owned).collect()))?;
        let (config, need_restart) = started_with.reload(next);
        let keys = Keys::rehearse(&config).map_err(|error| LoadError(vec![format!("{error:#}")]))?;
        if config.plugins.test_on_reload {
            play_tests(&config)?;
        }
        Ok(HostConfig { need_restart, ..host_config(&config, &keys) })
    }))
}

/// Plays the tests of the plugins in use and of the scripts; every case that fails is told.
fn play_tests(config: &Config) -> Result<(), LoadError> {
    let plugins = &config.plugins.dir;
    let used = config.plugin.iter().map(|plugin| plugins.join(&plugin.name)).chain(config.scripts_dir());
    let mut failed = Vec::new();
    for dir in used.filter(|dir| dir.join("tests").is_dir()) {
        let suite = Suite { is_plugin: dir.join("plugin.toml").is_file(), dir, plugins: plugins.clone() };
        let troupe =
            Troupe::new(suite, None).map_err(|error| LoadError(vec![format!("tests have no threads: {error}")]))?;
        for file in troupe.files() {
            troupe.play(&file, None, |played| {
                if let Some(Failed { place, why, .. }) = played.failed {
                    failed.push(format!("{place}: the case {:?} fails: {why}", played.case));
                }
            });
        }
    }
    if failed.is_empty() { Ok(()) } else { Err(LoadError(failed)) }
}

fn host_config(config: &Config, keys: &Keys) -> HostConfig {
    let (secrets, policies) = (keys.clone(), config.clone());
    HostConfig {
        plugins: config.plugin.iter().map(|plugin| plugin_use(config, plugin)).collect(),
        scripts: config.scripts_dir(),
        secrets: Arc::new(move |name| secrets.secret(name)),
        reserved_events: &RESERVED_EVENTS,
        policy: Arc::new(move |channel| policies.policy(channel)),
        limits: plugins::Limits {
            waiting_threads: config.plugins.waiting_threads,
            waiting_time: config.plugins.waiting_timeout.0,
            waiting_budget: config.plugins.waiting_budget.0,
            waiting_calls: config.plugins.waiting_calls,
            ..plugins::Limits::default()
        },
        private_http: config.plugins.private_http.clone(),
        own_paths: OWN_PATHS,
        ..HostConfig::default()
    }
}

fn plugin_use(config: &Config, plugin: &Plugin) -> PluginUse {
    let patterns = |list: &Vec<ChannelPattern>| list.iter().map(|p| p.as_str().to_owned()).collect();
    PluginUse {
        name: plugin.name.clone(),
        dir: config.plugins.dir.join(&plugin.name),
        channels: plugin.channels.as_ref().map(patterns),
        config: plugin.config.clone(),
        at: if plugin.at.is_empty() { "default settings".into() } else { plugin.at.clone() },
        places: plugin.places.clone(),
    }
}

/// The operator's questions, brought to the host.
pub struct Desk(pub Arc<Host>);

impl Operator for Desk {
    fn ask(&self, verb: &str, with: Bytes) -> Pin<Box<dyn Future<Output = Result<Vec<u8>, Trouble>> + Send>> {
        let (host, verb) = (self.0.clone(), verb.to_owned());
        Box::pin(async move {
            let answered = tokio::task::spawn_blocking(move || host.answer(&verb, &with)).await;
            let answer = answered.map_err(|error| Trouble::Failed(vec![error.to_string()]))?;
            let answer = answer.map_err(told)?;
            let mut body = serde_json::to_vec(&answer).unwrap_or_default();
            body.push(b'\n');
            Ok(body)
        })
    }

    fn tail(&self, asked: &tail::Asked) -> Result<Tail, Trouble> {
        let tail::Asked { channel, user, view, full } = asked.clone();
        let wanted = Wanted { channel, user, view, full };
        let plugins::Tail { decisions, lost } = self.0.tail(wanted.clone()).map_err(told)?;
        // It must not keep the rules from going down.
        let host = Arc::downgrade(&self.0);
        let masked = self.0.mask();
        let sight = Box::new(move |channel: &ChannelName| match host.upgrade() {
            Some(host) => host.seen_by_tail(&wanted, channel),
            None => Some(masked.clone()),
        });
        Ok(Tail { decisions, lost, sight })
    }
}

fn told(trouble: plugins::Trouble) -> Trouble {
    match trouble {
        plugins::Trouble::Unknown => Trouble::Unknown,
        plugins::Trouble::Question(what) => Trouble::Question(what),
        plugins::Trouble::Failed(problems) => Trouble::Failed(problems),
    }
}

/// Reloads on SIGHUP and, if it is to watch, when a file has changed, until it is stopped.
pub async fn follow(host: Arc<Host>, mut watch: Option<Watch>, stop: CancellationToken) {
    let mut asked = match signal(SignalKind::hangup()) {
        Ok(asked) => asked,
        Err(error) => return tracing::warn!(%error, "SIGHUP cannot be heard: use `aether reload`"),
    };
    loop {
        let changed = async {
            match &mut watch {
                Some(watch) => watch.changed().await,
                None => std::future::pending().await,
            }
        };
        let why = tokio::select! {
            () = stop.cancelled() => return,
            Some(()) = asked.recv() => "SIGHUP",
            () = changed => "a file has changed",
        };
        tracing::info!(why, "reloading the rules");
        let host = host.clone();
        // How it went is logged, counted and in /api/v1/rules.
        let _ = tokio::task::spawn_blocking(move || host.reload().map(drop)).await;
    }
}

/// Sees that files have changed by their times and sizes. Looking twice a second costs less than it is worth to depend on
/// what each operating system, and each network file system, tells of changes.
pub struct Watch {
    places: Vec<PathBuf>,
    seen: u64,
}

impl Watch {
    /// Before the files are read for the first time: a change between reading and watching is seen.
    pub fn new(places: Vec<PathBuf>) -> Watch {
        let seen = fingerprint(&places);
        Watch { places, seen }
    }

    async fn changed(&mut self) {
        let mut last = self.seen;
        loop {
            tokio::time::sleep(WATCH).await;
            let places = self.places.clone();
            let Ok(now) = tokio::task::spawn_blocking(move || fingerprint(&places)).await else { continue };
            // An editor writes several times: what still moves is left alone.
            if now == last && now != self.seen {
                self.seen = now;
                return;
            }
            last = now;
        }
    }
}

fn fingerprint(places: &[PathBuf]) -> u64 {
    let mut hasher = DefaultHasher::new();
    for place in places {
        look(place, DEPTH, &mut hasher);
    }
    hasher.finish()
}

fn look(place: &Path, depth: usize, hasher: &mut DefaultHasher) {
    let Ok(about) = std::fs::metadata(place) else { return };
    if about.is_dir() {
        let mut inside: Vec<_> = std::fs::read_dir(place).into_iter().flatten().flatten().map(|e| e.path()).collect();
        inside.sort();
        inside.iter().filter(|_| depth > 0).for_each(|path| look(path, depth - 1, hasher));
        return;
    }
    place.hash(hasher);
    (about.len(), about.modified().ok()).hash(hasher);
}
