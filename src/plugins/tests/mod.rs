//! The host, told from outside: files in, answers out.

mod actions;
mod attendance;
mod auth;
mod backend;
mod beside;
mod breaker;
mod examples;
mod explain;
mod exports;
mod hostile;
mod hostile_alone;
mod hostile_dialect;
mod http;
mod keysets;
mod library;
mod loading;
mod memo;
mod metrics;
mod record;
mod redact;
mod reload;
mod remembered;
mod replay;
mod retention;
mod routes;
mod rules;
mod safety;
mod shadow;
mod timers;
mod transform;
mod views;
mod waiting;

use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Once, Weak};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use bytes::Bytes;
use parking_lot::Mutex;

use crate::kernel::hooks::{Answer, Client, ConnectRequest, Grants, Hooks, Identity, Refusal};
use crate::kernel::message::{ChannelName, Draft, Message};
use crate::kernel::pattern::Patterns;
use crate::plugins::{Host, HostConfig, Limits, LoadError, PluginUse};

/// A directory of its own, gone with the test.
struct Dir(PathBuf);

impl Dir {
    fn new() -> Dir {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let name = format!("aether-plugins-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let dir = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&dir).unwrap();
        Dir(dir)
    }

    fn write(&self, path: &str, text: impl AsRef<[u8]>) {
        let path = self.0.join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    fn path(&self, path: &str) -> PathBuf {
        self.0.join(path)
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// How long anything may take. Generous: the machine may be busy, and nobody waits this long when all is well.
const DEADLINE: Duration = Duration::from_secs(60);

/// Asks again and again until the answer is yes.
#[track_caller]
fn until(what: &str, mut ask: impl FnMut() -> bool) {
    let deadline = Instant::now() + DEADLINE;
    while !ask() {
        assert!(Instant::now() < deadline, "{what}: not within {DEADLINE:?}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Settings under which a machine may be slow: no hook is called so, and one that runs out of time has looped.
fn calm() -> HostConfig {
    let loops = Duration::from_millis(250);
    let limits = Limits {
        call: loops,
        slow: Duration::MAX,
        connect: loops,
        waiting_time: DEADLINE,
        waiting_budget: loops,
        ..Limits::default()
    };
    HostConfig { limits, ..HostConfig::default() }
}

/// A host of one script, and the directory that it was read from.
fn script(code: &str) -> (Arc<Host>, Dir) {
    try_script(code).map_err(|error| panic!("{error}")).unwrap()
}

fn try_script(code: &str) -> Result<(Arc<Host>, Dir), LoadError> {
    try_script_with(code, calm())
}

fn try_script_with(code: &str, config: HostConfig) -> Result<(Arc<Host>, Dir), LoadError> {
    let dir = Dir::new();
    dir.write("rules.lua", code);
    let host = Host::load(HostConfig { scripts: Some(dir.0.clone()), ..config })?;
    host.begin()?;
    Ok((host, dir))
}

fn script_with(code: &str, config: HostConfig) -> (Arc<Host>, Dir) {
    try_script_with(code, config).map_err(|error| panic!("{error}")).unwrap()
}

/// A clock in hand, which begins in 2001.
#[derive(Clone)]
struct Hand(Arc<AtomicU64>);

impl Hand {
    fn new() -> Hand {
        Hand(Arc::new(AtomicU64::new(1_000_000_000_000_000)))
    }

    fn config(&self) -> HostConfig {
        let time = self.0.clone();
        HostConfig { clock: Arc::new(move || time.load(Ordering::SeqCst)), ..calm() }
    }

    fn pass(&self, seconds: u64) {
        self.0.fetch_add(seconds * 1_000_000, Ordering::SeqCst);
    }
}

/// What loading the script complains about, without the directory's name.
fn complaints(code: &str) -> Vec<String> {
    let dir = Dir::new();
    dir.write("rules.lua", code);
    let config = HostConfig { scripts: Some(dir.0.clone()), ..calm() };
    let LoadError(errors) = Host::load(config).err().unwrap_or(LoadError(vec![]));
    errors.into_iter().map(|error| error.replace(&format!("{}/", dir.0.display()), "")).collect()
}

fn plugin_use(name: &str, dir: &Path, config: serde_json::Value) -> PluginUse {
    let config = config.as_object().cloned().unwrap_or_default();
    PluginUse {
        name: name.into(),
        dir: dir.into(),
        channels: None,
        config,
        at: "aether.toml:41".into(),
        ..PluginUse::default()
    }
}

fn now<T>(mut answer: Answer<'_, T>) -> Result<T, Refusal> {
    match answer.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(answer) => answer,
        Poll::Pending => panic!("a hot hook waits"),
    }
}

fn name(text: &str) -> ChannelName {
    ChannelName::new(text).unwrap()
}

fn client(user: Option<&str>, grants: Grants) -> Client {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    Client {
        id: format!("s{}", NEXT.fetch_add(1, Ordering::Relaxed)),
        identity: Identity { user: user.map(str::to_owned), grants, ..Identity::default() },
        ip: None,
        dialect: "native",
        transport: "ws",
        credential: user.is_some(),
        connected: 5_000_000,
    }
}

fn nobody() -> Client {
    client(None, Grants::default())
}

fn granted(patterns: &[&str]) -> Grants {
    let patterns = Patterns::from_strings(patterns).unwrap();
    Grants { subscribe: patterns.clone(), publish: patterns.clone(), history: patterns, admin: false }
}

fn draft(channel: &str, payload: &str) -> Draft {
    let message = Message { payload: Bytes::copy_from_slice(payload.as_bytes()), ..Message::default() };
    Draft::new(name(channel), message)
}

fn subscribe(host: &Host, client: &Client, channel: &str) -> Result<(), Refusal> {
    now(host.subscribe(client, &name(channel))).map(drop)
}

fn publish(host: &Host, client: &Client, channel: &str, payload: &str) -> Result<(), Refusal> {
    now(host.publish(client, draft(channel, payload))).map(drop)
}

fn history(host: &Host, client: &Client, channel: &str, resume: bool) -> Result<(), Refusal> {
    now(host.history(client, &name(channel), resume)).map(drop)
}

fn connect(host: &Host, bearer: Option<&str>) -> Result<Identity, Refusal> {
    connect_by("ws", host, bearer)
}

fn connect_by(transport: &'static str, host: &Host, bearer: Option<&str>) -> Result<Identity, Refusal> {
    let mut headers = vec![("x-test".to_owned(), "yes".to_owned())];
    // Back ends send none.
    if transport != "http" {
        headers.push(("cookie".into(), "a=1; b=2".into()));
    }
    let request = ConnectRequest {
        dialect: "native",
        transport,
        method: "GET".into(),
        path: "/ws".into(),
        query: vec![("room".into(), "7".into())],
        headers,
        ip: Some([127, 0, 0, 1].into()),
        bearer: bearer.map(str::to_owned),
    };
    now(host.connect(&request))
}

fn entries(host: &Host) -> u64 {
    host.counters().lua_entries.load(Ordering::Relaxed)
}

thread_local! {
    static LINES: RefCell<Option<Vec<u8>>> = const { RefCell::new(None) };
}
/// What any thread logs, for those who listen; each is told what names its file.
static EARS: Mutex<Vec<(PathBuf, Weak<Mutex<String>>)>> = Mutex::new(Vec::new());

struct Lines;

impl std::io::Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        LINES.with_borrow_mut(|lines| lines.iter_mut().for_each(|lines| lines.extend_from_slice(bytes)));
        let line = String::from_utf8_lossy(bytes);
        EARS.lock().retain(|(dir, ear)| {
            let ear = ear.upgrade();
            ear.iter().filter(|_| line.contains(&*dir.to_string_lossy())).for_each(|ear| *ear.lock() += &line);
            ear.is_some()
        });
        Ok(bytes.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// One subscriber for all tests: with one per thread, what another thread meets first is switched off for all.
fn listen() {
    static SUBSCRIBER: Once = Once::new();
    SUBSCRIBER.call_once(|| {
        let subscriber = tracing_subscriber::fmt().with_ansi(false).with_writer(|| Lines).finish();
        tracing::subscriber::set_global_default(subscriber).unwrap();
    });
}

/// What is logged on this thread while `act` runs.
fn logged(act: impl FnOnce()) -> String {
    listen();
    LINES.set(Some(Vec::new()));
    act();
    String::from_utf8(LINES.take().unwrap_or_default()).unwrap()
}

/// What any thread logs about files in `dir` from now on.
fn heard_about(dir: &Dir) -> Arc<Mutex<String>> {
    listen();
    let ear = Arc::default();
    EARS.lock().push((dir.0.clone(), Arc::downgrade(&ear)));
    ear
}
