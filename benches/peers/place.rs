//! Where a peer runs: a directory and ports of its own, on loopback, until it is ended.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

use super::nchan::MODULE;

const READY: Duration = Duration::from_secs(10);

/// A directory that goes with its peer.
pub struct Place {
    pub dir: PathBuf,
}

impl Place {
    pub fn new(peer: &str) -> anyhow::Result<Place> {
        let dir = std::env::temp_dir().join(format!("aether-peers-{}-{peer}", std::process::id()));
        std::fs::create_dir_all(&dir).with_context(|| format!("{}", dir.display()))?;
        Ok(Place { dir })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

pub fn free_port() -> anyhow::Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

pub fn wait_for(address: SocketAddr) -> anyhow::Result<()> {
    let began = Instant::now();
    while TcpStream::connect(address).is_err() {
        if began.elapsed() > READY {
            bail!("nobody listens at {address} after {READY:?}");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

/// Ends it with its children: nginx's workers outlive a master that is killed.
pub fn end(child: &mut Child) {
    let pid = rustix::process::Pid::from_child(child);
    let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
    let began = Instant::now();
    while began.elapsed() < READY {
        if !matches!(child.try_wait(), Ok(None)) {
            return;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    let _ = child.kill();
    let _ = child.wait();
}

/// What Debian calls them.
const PACKAGES: [&str; 3] = ["nginx", "libnginx-mod-nchan", "nats-server"];

/// Installs what is not there, or says what to install.
pub fn install() -> anyhow::Result<()> {
    let there = |program: &str| Command::new(program).arg("-v").output().is_ok();
    if PathBuf::from(MODULE).is_file() && there("nats-server") && (there("nginx") || there("/usr/sbin/nginx")) {
        return Ok(());
    }
    let wanted = PACKAGES.join(" ");
    let root = rustix::process::geteuid().is_root();
    if !root && !Command::new("sudo").args(["-n", "true"]).status().is_ok_and(|status| status.success()) {
        bail!(
            "the peers are not here, and this is not root. Install them: apt-get install --no-install-recommends {wanted}"
        );
    }
    eprintln!("installing {wanted}");
    for arguments in [&["update", "-qq"][..], &["install", "-y", "-qq", "--no-install-recommends"]] {
        let mut command = if root { Command::new("env") } else { Command::new("sudo") };
        if !root {
            command.arg("env");
        }
        // In runlevel 1 Debian starts no service that it installs: we start our own, on loopback.
        command.args(["RUNLEVEL=1", "DEBIAN_FRONTEND=noninteractive", "apt-get"]).args(arguments);
        if arguments[0] == "install" {
            command.args(PACKAGES);
        }
        if !command.status().context("apt-get")?.success() {
            bail!(
                "apt-get does not install {wanted}; do it yourself and come back, or measure ours alone with --no-peers"
            );
        }
    }
    Ok(())
}

/// What a peer calls its version.
pub fn version(program: &str, arguments: &[&str]) -> String {
    let said = Command::new(program).args(arguments).output();
    let said = said.map(|output| [output.stdout, output.stderr].concat()).unwrap_or_default();
    String::from_utf8_lossy(&said).lines().next().unwrap_or("unknown").trim().to_owned()
}
