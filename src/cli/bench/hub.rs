//! A hub under load: one of our own in a directory that goes with it, or one that was there already.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use rustix::process::{Pid, Signal};

use super::account::{Account, get};
use super::ours;
use super::target::{Step, TEXT, Target, Transport, frame, upgrade, upgrade_deflate};
use crate::keys::{ADMIN_KEY, DEMO_TOKEN};

/// What the demo token of a new hub may read.
pub const CHANNELS: &str = "demo.bench";

pub struct Hub {
    pub address: SocketAddr,
    pub key: String,
    pub token: String,
    /// What the names of its channels begin with.
    pub channels: String,
    account: Account,
    durability: String,
    own: Option<Own>,
}

/// A hub that ends with us.
struct Own {
    child: Child,
    dir: PathBuf,
    /// What it says to people: kept open.
    _said: BufReader<ChildStdout>,
}

impl Own {
    /// Comes back when it listens.
    fn launch(program: &Path, how: &Start<'_>, dir: &Path) -> anyhow::Result<(Own, SocketAddr)> {
        let defaults = dir.join("aether.toml");
        std::fs::write(&defaults, "")?;
        let mut command = Command::new(program);
        command.args(["serve", "--addr", "127.0.0.1:0", "--log-level", "warn", "--data"]).arg(dir.join("data"));
        command.arg("--config").arg(how.config.unwrap_or(&defaults));
        // Whatever the settings say of them, we measure one listener without TLS.
        let plain = ["AETHER_SERVER_TLS_CERT", "AETHER_SERVER_TLS_KEY", "AETHER_SERVER_ADMIN_ADDR"];
        command.envs(plain.map(|name| (name, "none")));
        // Publishers are faster than a thousand readers: what these have not read yet is not to be gone.
        command.env("AETHER_RETENTION_DEFAULT_MAX_COUNT", "1000000");
        command.envs(how.env.iter().copied());
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        let mut child = ours::spawn(&mut command).context("a hub of our own")?;
        let mut said = BufReader::new(child.stdout.take().context("no stdout")?);
        let mut first = String::new();
        said.read_line(&mut first)?;
        let own = Own { child, dir: dir.to_owned(), _said: said };
        let Some(address) = first.trim().strip_prefix("aether listens on ") else {
            bail!(
                "a hub of our own did not start, and said why. Begin this where plugins/ lies, or measure one with --hub"
            )
        };
        Ok((own, address.parse()?))
    }
}

/// How our own hub is started.
#[derive(Default)]
pub struct Start<'a> {
    /// Settings from the environment.
    pub env: &'a [(&'a str, &'a str)],
    /// A file with settings; otherwise it has the defaults.
    pub config: Option<&'a Path>,
}

impl Hub {
    /// A hub in a process of its own, its history on disk.
    pub fn start(program: &Path, how: &Start<'_>) -> anyhow::Result<Hub> {
        static STARTED: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);
        let number = STARTED.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let dir = std::env::temp_dir().join(format!("aether-bench-{}-{number}", std::process::id()));
        ours::make_dir(&dir).with_context(|| format!("{}", dir.display()))?;
        Hub::start_in(program, how, &dir).inspect_err(|_| ours::remove_dir(&dir))
    }

    fn start_in(program: &Path, how: &Start<'_>, dir: &Path) -> anyhow::Result<Hub> {
        let (own, address) = Own::launch(program, how, dir)?;
        let held = |name: &str| std::fs::read_to_string(own.dir.join("data/keys").join(name)).unwrap_or_default();
        let (key, token) = (held(ADMIN_KEY).trim().to_owned(), held(DEMO_TOKEN).trim().to_owned());
        let (account, channels) = (Account::Processes(own.child.id()), CHANNELS.to_owned());
        let mut hub = Hub { address, key, token, channels, account, durability: String::new(), own: Some(own) };
        hub.durability = format!("history on disk, ack {}", hub.promise()?);
        Ok(hub)
    }

    /// Stops our own hub, and starts it again on the same store; how long until it was ready.
    pub fn restart(&mut self, program: &Path, how: &Start<'_>) -> anyhow::Result<Duration> {
        let mut old = self.own.take().context("it is not ours")?;
        let _ = rustix::process::kill_process(Pid::from_child(&old.child), Signal::TERM);
        ours::forget(&mut old.child);
        let dir = std::mem::take(&mut old.dir);
        let began = Instant::now();
        let (own, address) = Own::launch(program, how, &dir).inspect_err(|_| ours::remove_dir(&dir))?;
        let took = began.elapsed();
        self.account = Account::Processes(own.child.id());
        (self.address, self.own) = (address, Some(own));
        Ok(took)
    }

    /// A hub that runs already.
    pub fn at(address: SocketAddr, key: String, token: String, channels: String) -> anyhow::Result<Hub> {
        let account = Account::Metrics { address, key: key.clone() };
        let mut hub = Hub { address, key, token, channels, account, durability: String::new(), own: None };
        hub.durability = format!("ack {}", hub.promise()?);
        Ok(hub)
    }

    /// Publishes once to hear what a yes means here.
    fn promise(&self) -> anyhow::Result<String> {
        let mut publisher = super::publisher::Publisher::connect(self)?;
        publisher.publish(&format!("{}.hello", self.channels), &["1".to_owned()])?;
        let answer = String::from_utf8_lossy(publisher.answer()).into_owned();
        word(&answer, "ack").context("the hub does not say what its yes means; is this Aether?")
    }

    /// Where our own hub keeps everything.
    pub fn data(&self) -> Option<PathBuf> {
        self.own.as_ref().map(|own| own.dir.join("data"))
    }

    /// `GET` of a path, head and all.
    pub fn get(&self, path: &str) -> anyhow::Result<String> {
        get(self.address, path, &self.key)
    }

    /// Appends a request, with a key that may do everything.
    pub fn post(&self, path: &str, body: &[u8], request: &mut Vec<u8>) {
        let head = format!(
            "POST {path} HTTP/1.1\r\nHost: bench\r\nAuthorization: Bearer {}\r\nContent-Length: {}\r\n\r\n",
            self.key,
            body.len()
        );
        request.extend_from_slice(head.as_bytes());
        request.extend_from_slice(body);
    }
}

/// A word of an answer in JSON, by its name.
pub fn word(answer: &str, name: &str) -> Option<String> {
    let rest = answer.split_once(&format!("\"{name}\":"))?.1.trim_start_matches('"');
    Some(rest.split(['"', ',', '}']).next()?.to_owned())
}

impl Target for Hub {
    fn name(&self) -> String {
        "aether".into()
    }

    fn durability(&self) -> String {
        self.durability.clone()
    }

    fn subscribers_at(&self) -> SocketAddr {
        self.address
    }

    fn account(&self) -> &Account {
        &self.account
    }

    fn channel(&self, run: u64, number: usize) -> String {
        // Other processes that measure the same hub have channels of their own.
        format!("{}.{}.{run}.{number}", self.channels, std::process::id())
    }

    fn subscribe(&self, transport: Transport, channel: &str) -> Vec<Step> {
        let token = &self.token;
        match transport {
            Transport::Ws | Transport::WsDeflate => {
                let path = format!("/ws?token={token}");
                let door = if transport == Transport::Ws { upgrade(&path) } else { upgrade_deflate(&path) };
                let asked = format!(r#"{{"type":"subscribe","channels":["{channel}"]}}"#);
                vec![Step::new(door, b"\r\n\r\n"), Step::new(frame(TEXT, asked.as_bytes()), b"}}}\n")]
            }
            Transport::Sse => {
                let path = format!("/sse?channel={channel}&token={token}");
                vec![Step::new(format!("GET {path} HTTP/1.1\r\nHost: bench\r\n\r\n"), b"\n\n\r\n")]
            }
        }
    }

    fn publish(&self, channel: &str, payloads: &[String], request: &mut Vec<u8>) {
        let one = |payload: &String| format!("{{\"channel\":\"{channel}\",\"payload\":{payload}}}");
        match payloads {
            [payload] => self.post("/api/v1/publish", one(payload).as_bytes(), request),
            many => {
                let items: Vec<_> = many.iter().map(one).collect();
                let body = format!("{{\"messages\":[{}]}}", items.join(","));
                self.post("/api/v1/publish/batch", body.as_bytes(), request);
            }
        }
    }

    fn numbered(&self, channel: &str) -> anyhow::Result<Option<u64>> {
        let answer = self.get(&format!("/api/v1/history?channel={channel}&limit=1"))?;
        let last = word(&answer, "last_seq").and_then(|number| number.parse().ok());
        Ok(Some(last.with_context(|| format!("the history of {channel} says: {answer}"))?))
    }
}

impl Drop for Own {
    fn drop(&mut self) {
        ours::kill(&mut self.child);
        // One that was started again has left its directory to its successor.
        if !self.dir.as_os_str().is_empty() {
            ours::remove_dir(&self.dir);
        }
    }
}
