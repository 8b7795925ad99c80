//! What the targets stand on: hubs that live in memory, hosts with the plugins of this repository, and frames a line each.

use std::future::{Future, ready};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use aether::edges::frames::WsFormat;
use aether::kernel::TailLimit;
use aether::kernel::hooks::{
    Admission, Answer, Client, ConnectRequest, Farewell, Grants, Hooks, Identity, Refusal, RefusalKind, Sight,
};
use aether::kernel::hub::{Hub, Parts};
use aether::kernel::kv::MemoryKv;
use aether::kernel::message::{ChannelName, Draft};
use aether::kernel::pattern::Patterns;
use aether::kernel::policy::Policy;
use aether::kernel::session::{Batch, Session};
use aether::plugins::{Host, HostConfig, Limits, PluginUse};
use aether::stores::memory::MemoryLog;
use bytes::Bytes;
use serde_json::Value as Json;
use tokio::runtime::Runtime;

/// Of one input; beyond, they would only be slow.
const LINES: usize = 16;

pub fn lines(bytes: &[u8]) -> impl Iterator<Item = Bytes> + '_ {
    bytes.split(|byte| *byte == b'\n').take(LINES).map(Bytes::copy_from_slice)
}

fn now() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, |since| since.as_micros() as u64)
}

/// Lets everybody do everything.
pub struct Open;

impl Hooks for Open {
    fn connect<'a>(&'a self, _: &'a ConnectRequest) -> Answer<'a, Identity> {
        Box::pin(ready(Ok(Identity::default())))
    }
    fn subscribe<'a>(&'a self, _: &'a Client, _: &'a ChannelName) -> Answer<'a, Sight> {
        Box::pin(ready(Ok(None)))
    }
    fn publish<'a>(&'a self, _: &'a Client, draft: Draft) -> Answer<'a, Admission> {
        Box::pin(ready(Ok(draft.into())))
    }
    fn history<'a>(&'a self, _: &'a Client, _: &'a ChannelName, _: bool) -> Answer<'a, Sight> {
        Box::pin(ready(Ok(None)))
    }
    fn disconnected(&self, _: &Arc<Client>, _: &Farewell) {}
    fn policy(&self, _: &ChannelName) -> Policy {
        Policy { history: None, ..Policy::default() }
    }
}

pub fn client(identity: Identity) -> Arc<Client> {
    Arc::new(Client {
        id: "fuzz".into(),
        identity,
        ip: None,
        dialect: "native",
        transport: "ws",
        credential: true,
        connected: 0,
    })
}

pub fn anything() -> Grants {
    let all = Patterns::from_strings(["*"]).expect("a pattern");
    Grants { subscribe: all.clone(), publish: all.clone(), history: all, admin: false }
}

/// A hub without threads: its lanes run where it is driven.
pub struct Stand {
    runtime: Runtime,
    pub hub: Arc<Hub>,
}

impl Stand {
    pub fn new(hooks: Arc<dyn Hooks>) -> Stand {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
        let window = Duration::from_secs(60);
        let _inside = runtime.enter();
        let (hub, lanes) = Hub::at_rest(Parts {
            hooks,
            kept: Arc::new(MemoryLog::new(window)),
            fleeting: Arc::new(MemoryLog::new(window)),
            clock: now,
            tail: TailLimit { count: 16, bytes: 1 << 20 },
            idle_after: Duration::ZERO,
            flush_interval: Duration::from_millis(100),
            sweep_interval: Duration::from_millis(100),
            lag_patience: Duration::ZERO,
            queue: 64,
        });
        for lane in lanes {
            runtime.spawn(lane);
        }
        let herald = hub.clone();
        runtime.spawn(async move { herald.herald(tokio::task::yield_now).await });
        drop(_inside);
        Stand { runtime, hub }
    }

    pub fn drive<T>(&self, what: impl Future<Output = T>) -> T {
        self.runtime.block_on(what)
    }

    pub fn session(&self) -> Session {
        let identity = Identity { user: Some("fuzz".into()), grants: anything(), ..Identity::default() };
        Session::new(self.hub.clone(), client(identity), Arc::new(WsFormat))
    }

    /// What the session owes is written to a socket that takes everything.
    pub fn written(&self, session: &mut Session) -> Vec<u8> {
        let (mut batch, mut said) = (Batch::default(), Vec::new());
        for _ in 0..4 {
            self.drive(tokio::task::yield_now());
            if session.wants_log() {
                let _ = self.drive(session.fetch());
            }
            if session.fill(&mut batch, 1 << 20).is_err() {
                break;
            }
            said.extend_from_slice(&batch.bytes);
            session.commit(&batch, batch.bytes.len(), &mut Vec::new());
        }
        said
    }
}

pub fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the repository").to_owned()
}

/// Signs the tokens of the corpus.
const SIGNING_KEY: &str = "0123456789abcdef0123456789abcdef";
/// Of xlvein's own example: signs its token.
const TEST_SECRET: &str = "j8jasd98efan9sdfj89asjdf";

/// A host with some of the repository's plugins, each with its settings, that gives rules all the time they want: this
/// machine may be busy, and a rule that is stopped for being slow is no finding.
pub fn host(plugins: &[(&str, Json)], scripts: Option<PathBuf>) -> Arc<Host> {
    let used = |(name, config): &(&str, Json)| PluginUse {
        name: (*name).into(),
        dir: repository().join("plugins").join(name),
        config: config.as_object().cloned().unwrap_or_default(),
        at: "fuzz".into(),
        ..PluginUse::default()
    };
    let long = Duration::from_secs(20);
    let host = Host::load(HostConfig {
        plugins: plugins.iter().map(used).collect(),
        scripts,
        secrets: Arc::new(|name| Some(if name == "test_secret" { TEST_SECRET } else { SIGNING_KEY }.into())),
        limits: Limits {
            call: long,
            slow: long,
            connect: long,
            waiting_time: long,
            waiting_budget: long,
            memory: 512 << 20,
            ..Limits::default()
        },
        ..HostConfig::default()
    });
    let host = host.unwrap_or_else(|error| panic!("{error}"));
    host.keep_in(Arc::new(MemoryKv::default()));
    host.begin().unwrap_or_else(|error| panic!("{error}"));
    host
}

/// Rules may say no to anything; they may not break.
#[track_caller]
pub fn not_broken<T>(answer: Result<T, Refusal>, asked: &[u8]) -> Option<T> {
    match answer {
        Ok(answer) => Some(answer),
        Err(refusal) => {
            assert_ne!(refusal.kind, RefusalKind::Broken, "{refusal}: {}", String::from_utf8_lossy(asked));
            None
        }
    }
}
