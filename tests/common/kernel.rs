//! A hub without sockets, under rules that a test sets: for what the kernel alone promises.

use std::collections::{HashMap, HashSet};
use std::future::ready;
use std::sync::Arc;
use std::time::Duration;

use aether::kernel::TailLimit;
use aether::kernel::format::{Format, Notice};
use aether::kernel::hooks::{
    Admission, Answer, Client, ConnectRequest, Farewell, Hooks, Identity, Refusal, RefusalKind, Sight,
};
use aether::kernel::hub::{Hub, Parts, Receipt};
use aether::kernel::message::{ChannelName, Draft, Epoch, Message, Position, Publication};
use aether::kernel::policy::Policy;
use aether::kernel::session::{Batch, Session, Start};
use aether::stores::memory::MemoryLog;
use aether::stores::sled::SledLog;
use parking_lot::Mutex;

use super::{DEADLINE, TempDir};

/// A line an event, so that any cut shows.
pub struct Lines;

impl Format for Lines {
    fn publication(&self, channel: &ChannelName, epoch: Epoch, p: &Publication, out: &mut Vec<u8>) {
        let payload = String::from_utf8_lossy(&p.message.payload);
        out.extend_from_slice(format!("P {channel} {epoch} {} {payload}\n", p.offset).as_bytes());
    }
    fn notice(&self, channel: &ChannelName, at: Position, notice: &Notice, out: &mut Vec<u8>) {
        let line = match notice {
            Notice::Live => format!("L {channel} {} {}\n", at.epoch, at.offset),
            Notice::Gap(gap) => {
                let (from, to) = gap.missing.unwrap_or((0, 0));
                format!(
                    "G {channel} {} {} {} {from} {to} {}\n",
                    at.epoch,
                    gap.requested,
                    gap.available,
                    gap.cause.as_str()
                )
            }
        };
        out.extend_from_slice(line.as_bytes());
    }
}

pub fn now() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |t| t.as_micros() as u64)
}

/// Rules that a test sets.
#[derive(Default)]
pub struct Rules {
    /// What a client sees, by its id; who is not listed sees everything.
    pub sights: Mutex<HashMap<String, Sight>>,
    /// The same, of what was said before.
    pub past: Mutex<HashMap<String, Sight>>,
    /// Channels that nobody may listen to.
    pub closed: Mutex<HashSet<String>>,
    pub policies: Mutex<HashMap<String, Policy>>,
    /// Who came and went, in order: `+ann a`, `-ann a`.
    pub presence: Mutex<Vec<String>>,
}

impl Rules {
    pub fn policy(&self, channel: &str, policy: Policy) {
        self.policies.lock().insert(channel.into(), policy);
    }
}

pub fn refusal() -> Refusal {
    Refusal {
        kind: RefusalKind::Denied,
        code: "closed".into(),
        why: "closed".into(),
        decision: "d".into(),
        retry_ms: None,
    }
}

impl Hooks for Rules {
    fn connect<'a>(&'a self, _: &'a ConnectRequest) -> Answer<'a, Identity> {
        Box::pin(ready(Ok(Identity::default())))
    }
    fn subscribe<'a>(&'a self, client: &'a Client, channel: &'a ChannelName) -> Answer<'a, Sight> {
        let sight = self.sights.lock().get(&client.id).cloned().flatten();
        let closed = self.closed.lock().contains(channel.as_str());
        Box::pin(ready(if closed { Err(refusal()) } else { Ok(sight) }))
    }
    fn publish<'a>(&'a self, _: &'a Client, draft: Draft) -> Answer<'a, Admission> {
        Box::pin(ready(Ok(draft.into())))
    }
    fn history<'a>(&'a self, client: &'a Client, _: &'a ChannelName, _: bool) -> Answer<'a, Sight> {
        let sight = self.past.lock().get(&client.id).cloned().flatten();
        Box::pin(ready(Ok(sight)))
    }
    fn joined(&self, client: &Arc<Client>, channel: &ChannelName) {
        self.presence.lock().push(format!("+{} {channel}", client.id));
    }
    fn left(&self, client: &Arc<Client>, channel: &ChannelName) {
        self.presence.lock().push(format!("-{} {channel}", client.id));
    }
    fn disconnected(&self, _: &Arc<Client>, _: &Farewell) {}
    fn policy(&self, channel: &ChannelName) -> Policy {
        self.policies.lock().get(channel.as_str()).copied().unwrap_or_default()
    }
}

pub fn client(id: &str) -> Arc<Client> {
    Arc::new(Client {
        id: id.into(),
        identity: Identity::default(),
        ip: None,
        dialect: "lines",
        transport: "test",
        credential: false,
        connected: 0,
    })
}

pub fn channel(name: &str) -> ChannelName {
    ChannelName::new(name).unwrap()
}

pub fn draft(name: &str, payload: &str) -> Draft {
    Draft::new(channel(name), Message { payload: payload.to_owned().into(), ..Message::default() })
}

/// A hub over a store on disk, with a tail of a few publications.
pub struct Kernel {
    pub hub: Arc<Hub>,
    pub format: Arc<dyn Format>,
    herald: tokio::task::JoinHandle<()>,
    pub dir: TempDir,
}

impl Kernel {
    pub fn start(hooks: Arc<dyn Hooks>) -> Kernel {
        Kernel::start_in(TempDir::new(), hooks, 8)
    }

    /// `tail`: how many publications stay in memory.
    pub fn start_in(dir: TempDir, hooks: Arc<dyn Hooks>, tail: usize) -> Kernel {
        Kernel::start_by(now, dir, hooks, tail)
    }

    /// With a clock of its own.
    pub fn start_by(clock: fn() -> u64, dir: TempDir, hooks: Arc<dyn Hooks>, tail: usize) -> Kernel {
        let window = Duration::from_secs(3600);
        let kept = SledLog::open(&dir.path().join("store"), 1 << 20, Duration::from_secs(1), window).unwrap();
        let hub = Hub::start(Parts {
            hooks,
            kept: Arc::new(kept),
            fleeting: Arc::new(MemoryLog::new(window)),
            clock,
            tail: TailLimit { count: tail, bytes: 1 << 20 },
            idle_after: Duration::from_secs(60),
            flush_interval: Duration::from_millis(50),
            sweep_interval: Duration::from_millis(20),
            lag_patience: Duration::ZERO,
            queue: 64,
        });
        let hub = hub.unwrap();
        let herald = tokio::spawn({
            let hub = hub.clone();
            async move { hub.herald(tokio::task::yield_now).await }
        });
        Kernel { hub, herald, dir, format: Arc::new(Lines) }
    }

    pub fn session(&self, id: &str) -> Session {
        Session::new(self.hub.clone(), client(id), self.format.clone())
    }

    /// From now on nobody is woken, until the herald is driven by somebody else.
    pub fn hush(&self) {
        self.herald.abort();
    }

    pub async fn publish(&self, draft: Draft) -> Receipt {
        self.hub.publish(&client("publisher"), draft).await.unwrap()
    }

    pub async fn say(&self, name: &str, payloads: &[&str]) {
        for payload in payloads {
            self.publish(draft(name, payload)).await;
        }
    }

    /// Ends it and gives its directory back.
    pub async fn stop(self) -> TempDir {
        self.hub.stop(DEADLINE).await.unwrap();
        self.herald.abort();
        let _ = self.herald.await;
        self.dir
    }
}

pub async fn listen(session: &mut Session, name: &str, start: Start) {
    session.subscribe(channel(name), start).await.unwrap();
}

/// All that there is to say, a line each, as `P channel offset payload`, `G channel cause from to` and `L channel offset`.
pub async fn read(session: &mut Session) -> Vec<String> {
    let mut batch = Batch::default();
    let mut said = Vec::new();
    let deadline = std::time::Instant::now() + DEADLINE;
    loop {
        if session.wants_log() {
            session.fetch().await.unwrap();
        }
        session.fill(&mut batch, 4096).unwrap();
        let length = batch.bytes.len();
        said.extend_from_slice(&batch.bytes);
        session.commit(&batch, length, &mut Vec::new());
        let arrived = session.positions().map(|(_, at)| at).eq(session.heads().map(|(_, at)| at));
        if length == 0 && arrived {
            break;
        }
        assert!(std::time::Instant::now() < deadline, "nothing more comes after {:?}", String::from_utf8_lossy(&said));
        tokio::task::yield_now().await;
    }
    String::from_utf8(said).unwrap().lines().map(shorten).collect()
}

/// A line without its epoch, which differs from run to run.
fn shorten(line: &str) -> String {
    let words: Vec<&str> = line.split(' ').collect();
    match words[0] {
        "G" => format!("G {} {} {} {}", words[1], words[7], words[5], words[6]),
        kind => format!("{kind} {} {}", words[1], words[3..].join(" ")),
    }
}
