//! The program itself in a process of its own, for what can only be done to a process.

use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

use super::{DEADLINE, repository};

pub struct Spawned {
    pub address: SocketAddr,
    pub admin_key: String,
    pub signing_key: String,
    child: Child,
    /// What it says after its banner; read so that it never waits for us.
    stderr: Option<std::thread::JoinHandle<String>>,
}

/// Lines of a hub's own that a test which fails tells.
const SAID: usize = 60;

/// The program with settings of its own: nothing of the caller's environment reaches it.
pub fn aether(dir: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_aether"));
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("AETHER_")) {
        command.env_remove(name);
    }
    command.current_dir(dir).stdin(Stdio::null());
    command
}

/// Runs a verb to its end.
pub fn run(dir: &Path, arguments: &[&str], env: &[(&str, &str)]) -> Output {
    aether(dir).args(arguments).envs(env.iter().copied()).output().unwrap()
}

impl Spawned {
    /// Starts the hub with the settings of `<dir>/aether.toml`, the rules of `<dir>/scripts` or else the repository's, and its
    /// store in `<dir>/data`.
    pub fn start(dir: &Path) -> Spawned {
        Spawned::start_at(dir, "127.0.0.1:0")
    }

    /// kill -9, and the next one at the same address, on the same store.
    pub fn kill_and_restart(&mut self, dir: &Path) {
        self.kill_9();
        *self = Spawned::start_at(dir, &self.address.to_string());
    }

    pub fn start_at(dir: &Path, address: &str) -> Spawned {
        Spawned::start_with(dir, address, &[])
    }

    pub fn start_with(dir: &Path, address: &str, env: &[(&str, &str)]) -> Spawned {
        let mut command = aether(dir);
        command.args(["serve", "--addr", address, "--data"]).arg(dir.join("data"));
        command.env("AETHER_PLUGINS_DIR", repository().join("plugins"));
        let own = Some(dir.join("scripts")).filter(|own| own.is_dir());
        command.env("AETHER_PLUGINS_SCRIPTS", own.unwrap_or_else(|| repository().join("scripts")));
        command.envs(env.iter().copied());
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut errors = child.stderr.take().unwrap();
        let stderr = std::thread::spawn(move || {
            let mut text = String::new();
            let _ = errors.read_to_string(&mut text);
            text
        });
        let mut banner = BufReader::new(child.stdout.take().unwrap());
        let mut first = String::new();
        banner.read_line(&mut first).unwrap();
        let Some(address) = first.trim().strip_prefix("aether listens on ") else {
            let _ = child.kill();
            panic!("{first:?}, and: {}", stderr.join().unwrap());
        };
        let address = address.parse().unwrap();
        std::thread::spawn(move || std::io::copy(&mut banner, &mut std::io::sink()));
        // A key that stands in the settings has no file.
        let file = |name: &str| std::fs::read_to_string(dir.join("data/keys").join(name));
        let key = |name: &str| file(name).unwrap_or_default().trim().to_owned();
        Spawned { address, admin_key: key("admin_key"), signing_key: key("signing_key"), child, stderr: Some(stderr) }
    }

    pub fn token(&self, channels: &[&str]) -> String {
        let none: [&str; 0] = [];
        let claims = aether::keys::Claims::new("tester", channels, &none, Duration::from_secs(3600));
        claims.sign(&self.signing_key).unwrap()
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args([&format!("-{name}"), &pid]).status().unwrap().success());
    }

    pub fn kill_9(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    pub fn try_wait(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().unwrap()
    }

    /// Waits for its end, without holding up the caller's runtime.
    pub async fn wait(&mut self) -> ExitStatus {
        let deadline = Instant::now() + DEADLINE;
        loop {
            if let Some(status) = self.try_wait() {
                return status;
            }
            assert!(Instant::now() < deadline, "it does not end");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// What it said on stderr, once it has ended.
    pub fn stderr(&mut self) -> String {
        self.stderr.take().unwrap().join().unwrap()
    }
}

impl Drop for Spawned {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking()
            && let Some(Ok(text)) = self.stderr.take().map(std::thread::JoinHandle::join)
        {
            let skipped = text.lines().count().saturating_sub(SAID);
            let newest: Vec<_> = text.lines().skip(skipped).collect();
            eprintln!("the hub said last:\n{}", newest.join("\n"));
        }
    }
}
