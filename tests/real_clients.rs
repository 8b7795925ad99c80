//! Clients that nobody here wrote come back over a hub that is killed under a publisher, and have every message once.
//!
//! Their packages are installed below the target directory; the versions are in `tests/clients`.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use crate::common::*;

const CHANNEL: &str = "demo.real";
/// Half before the kill is due, half after.
const LAST: u64 = 600;

#[tokio::test]
async fn websockets_for_python_has_every_message_once() {
    let Some(home) = python() else { return };
    survives(Command::new("python3").env("PYTHONPATH", home).arg(home.join("websockets_client.py"))).await;
}

#[tokio::test]
async fn httpx_sse_for_python_has_every_message_once() {
    let Some(home) = python() else { return };
    survives(Command::new("python3").env("PYTHONPATH", home).arg(home.join("httpx_sse_client.py"))).await;
}

#[tokio::test]
async fn ws_for_node_has_every_message_once() {
    let Some(home) = node() else { return };
    survives(Command::new("node").arg(home.join("ws_client.mjs"))).await;
}

#[tokio::test]
async fn eventsource_for_node_has_every_message_once() {
    let Some(home) = node() else { return };
    survives(Command::new("node").arg(home.join("eventsource_client.mjs"))).await;
}

#[tokio::test]
async fn the_event_source_of_a_browser_has_every_message_once() {
    in_a_page("listenByEventSource").await;
}

#[tokio::test]
async fn the_web_socket_of_a_browser_has_every_message_once() {
    in_a_page("listenByWebSocket").await;
}

/// A hub, killed when its client has some of what a publisher is publishing, and the same publisher to the end.
struct Killing {
    dir: TempDir,
    hub: Spawned,
    publisher: Option<Stubborn>,
}

impl Killing {
    fn start() -> Killing {
        let dir = TempDir::new();
        Killing { hub: Spawned::start(dir.path()), dir, publisher: None }
    }

    fn publish(&mut self) {
        self.publisher = Some(Stubborn::start(self.hub.address, self.hub.admin_key.clone(), CHANNEL, LAST));
    }

    async fn kill(&mut self) {
        self.publisher.as_ref().expect("somebody publishes").go_on().await;
        self.hub.kill_and_restart(self.dir.path());
    }

    async fn finish(&mut self) {
        self.publisher.take().expect("somebody publishes").finish().await;
    }
}

async fn survives(command: &mut Command) {
    let mut killing = Killing::start();
    let token = killing.hub.token(&["demo.*"]);
    let address = killing.hub.address.to_string();
    let mut client = Program::start(command.args([&address, &token, CHANNEL, &LAST.to_string()]));
    client.until_err("connected").await;
    killing.publish();
    client.until_lines(LAST as usize / 4).await;
    killing.kill().await;
    killing.finish().await;
    assert_eq!(client.end().await, Some(0), "{}", client.err());
    assert_every_message_once(&client.out());
    assert!(client.err().matches("connected").count() >= 2, "{}", client.err());
}

async fn in_a_page(listen: &str) {
    let Some(mut page) = Browser::open().await else { return };
    let mut killing = Killing::start();
    let token = killing.hub.token(&["demo.*"]);
    // A page of the hub's own origin that does nothing itself.
    page.visit(&format!("http://{}/healthz", killing.hub.address)).await;
    page.until("document.body?.innerText ?? ''", |text| text.contains("ok")).await;
    let script = std::fs::read_to_string(repository().join("tests/clients/browser.js")).unwrap();
    page.eval(&format!("{script}\n{listen}({token:?}, {CHANNEL:?})")).await;
    page.until("connected", |count| count == "1").await;
    killing.publish();
    page.until("seen.length", |count| count.parse::<u64>().is_ok_and(|count| count >= LAST / 4)).await;
    killing.kill().await;
    killing.finish().await;
    page.until("seen.length", |count| count.parse::<u64>().is_ok_and(|count| count >= LAST)).await;
    // A little later, so that one too many would be seen.
    tokio::time::sleep(std::time::Duration::from_millis(300)).await;
    let seen: Vec<String> = serde_json::from_value(page.eval("seen").await).unwrap();
    assert_every_message_once(&seen);
    page.until("connected > 1", |more| more == "true").await;
}

/// Each payload is the number of its message.
#[track_caller]
fn assert_every_message_once(seen: &[String]) {
    let wanted: Vec<String> = (1..=LAST).map(|n| format!("{n} {n}")).collect();
    let odd =
        seen.iter().zip(&wanted).position(|(seen, wanted)| seen != wanted).unwrap_or(seen.len().min(wanted.len()));
    assert!(seen == wanted, "{} of {LAST}; at {odd}: {:?}", seen.len(), seen.get(odd.saturating_sub(2)..odd + 3));
}

pub fn python() -> Option<&'static Path> {
    static HOME: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    let advice = "Install python3 with pip (apt-get install python3 python3-pip), and let pip reach its index";
    there("Python with its packages", advice, &HOME, |home| {
        let mut pip = Command::new("python3");
        pip.args([
            "-m",
            "pip",
            "install",
            "--quiet",
            "--disable-pip-version-check",
            "--retries",
            "1",
            "--timeout",
            "20",
        ]);
        pip.arg("--target").arg(home).arg("--requirement").arg(home.join("requirements.txt"));
        pip
    })
}

pub fn node() -> Option<&'static Path> {
    static HOME: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    let advice = "Install Node 18 or later with npm (apt-get install nodejs npm), and let npm reach its registry";
    there("Node with its packages", advice, &HOME, |home| {
        let mut npm = Command::new("npm");
        npm.args(["install", "--no-audit", "--no-fund", "--ignore-scripts", "--fetch-retries", "1"]);
        npm.arg("--prefix").arg(home);
        npm
    })
}

/// Where the packages and scripts are; installed once for each version of `tests/clients`.
fn there(
    what: &str,
    advice: &str,
    home: &'static OnceLock<Result<PathBuf, String>>,
    install: impl Fn(&Path) -> Command,
) -> Option<&'static Path> {
    match home.get_or_init(|| installed(&what[..4], install)) {
        Ok(home) => Some(home),
        Err(why) => {
            missing(what, &format!("{advice}. ({why})"));
            None
        }
    }
}

fn installed(name: &str, install: impl Fn(&Path) -> Command) -> Result<PathBuf, String> {
    let mut files: Vec<_> = std::fs::read_dir(repository().join("tests/clients"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .map(|path| (path.file_name().unwrap().to_owned(), std::fs::read(&path).unwrap()))
        .collect();
    files.sort();
    let mut hasher = DefaultHasher::new();
    files.hash(&mut hasher);
    let target = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let home = target.join(format!("clients-{name}-{:016x}", hasher.finish()));
    if home.exists() {
        return Ok(home);
    }
    // In a place of its own and then under its name: an installation that was broken off is no installation.
    let scratch = target.join(format!("clients-{name}-{}.part", std::process::id()));
    std::fs::create_dir_all(&scratch).unwrap();
    for (name, text) in &files {
        std::fs::write(scratch.join(name), text).unwrap();
    }
    let mut command = install(&scratch);
    let outcome = match command.output() {
        Ok(output) if output.status.success() => std::fs::rename(&scratch, &home).map_err(|error| error.to_string()),
        Ok(output) => Err(String::from_utf8_lossy(&output.stderr).trim().to_owned()),
        Err(error) => Err(format!("{}: {error}", command.get_program().display())),
    };
    let _ = std::fs::remove_dir_all(&scratch);
    // Of two that install at once, the second finds the work of the first.
    if home.exists() { Ok(home) } else { outcome.map(|()| home) }
}
