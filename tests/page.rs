//! The console page in a real browser: what it shows is what happened, also when its hub is killed under it.

use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::common::{Browser, TempDir};

/// Long, because the machine may be busy with the other tests; nothing waits this long when all is well.
const PATIENCE: Duration = Duration::from_secs(120);

#[tokio::test(flavor = "multi_thread")]
async fn the_page_resumes_over_websocket_when_its_hub_was_killed() {
    resumes("ws", "WebSocket").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_resumes_over_sse_when_its_hub_was_killed() {
    resumes("sse", "SSE").await;
}

async fn resumes(transport: &str, spoken: &str) {
    let Some(mut page) = Browser::open().await else { return };
    let mut hub = Hub::start();
    page.visit(&hub.link()).await;
    page.until("document.getElementById('rows').innerText", |text| text.contains("Subscribed to demo.hello")).await;
    page.eval(&format!("document.querySelector('input[value={transport}]').click()")).await;
    page.until("document.getElementById('state-text').textContent", |text| text == format!("listening over {spoken}"))
        .await;

    // No double holds this number.
    hub.publish(r#"{"n":9007199254740993}"#);
    hub.publish("2");
    hub.publish("3");
    page.until(SEQS, |seqs| seqs == "1 2 3").await;
    let rows = page.eval("document.getElementById('rows').innerText").await;
    assert!(rows.as_str().is_some_and(|text| text.contains("9007199254740993")), "{rows}");

    hub.kill();
    page.until("document.getElementById('state').dataset.state", |state| state == "waiting").await;
    hub.start_again();
    hub.publish("4");
    hub.publish("5");
    page.until("document.getElementById('rows').innerText", |text| text.contains("Resumed after seq 3,")).await;
    hub.publish("6");
    page.until(SEQS, |seqs| seqs == "1 2 3 4 5 6").await;

    let counts =
        "['holes', 'twice', 'skipped', 'count'].map((id) => document.getElementById(id).textContent).join(' ')";
    assert_eq!(page.eval(counts).await, "0 0 0 6 / 6");
    page.assert_quiet();
}

const SEQS: &str = "[...document.querySelectorAll('.row .seq')].map((seq) => seq.textContent).join(' ')";

#[tokio::test(flavor = "multi_thread")]
async fn the_page_says_why_it_was_refused_and_stays_away() {
    let Some(mut page) = Browser::open().await else { return };
    let hub = Hub::start();
    for transport in ["ws", "sse"] {
        page.visit("about:blank").await;
        page.visit(&format!("http://{}/#token=not.a.token", hub.address)).await;
        page.until("document.querySelectorAll('input[name=transport]').length", |count| count == "2").await;
        page.eval(&format!("document.querySelector('input[value={transport}]').click()")).await;
        page.until("document.getElementById('state-text').textContent", |text| text == "refused: not a valid token")
            .await;
        page.until("document.getElementById('connect').textContent", |text| text == "Connect").await;
    }
}

/// A hub of its own: a free port, a directory that goes with it.
pub struct Hub {
    pub address: String,
    child: Child,
    data: TempDir,
}

impl Hub {
    pub fn start() -> Hub {
        let data = TempDir::new();
        let (child, address) = spawn(data.path(), "127.0.0.1:0");
        Hub { address, child, data }
    }

    fn start_again(&mut self) {
        let (child, address) = spawn(self.data.path(), &self.address);
        assert_eq!(address, self.address);
        self.child = child;
    }

    /// SIGKILL.
    fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    fn key(&self, name: &str) -> String {
        std::fs::read_to_string(self.data.path().join("keys").join(name))
            .expect("the hub made its keys")
            .trim()
            .to_owned()
    }

    fn link(&self) -> String {
        format!("http://{}/#token={}", self.address, self.key("demo_token"))
    }

    fn publish(&self, payload: &str) {
        let body = format!(r#"{{"channel":"demo.hello","payload":{payload}}}"#);
        let authorization =
            format!("Authorization: Bearer {}\r\nContent-Length: {}\r\n", self.key("admin_key"), body.len());
        let answer = self.ask("POST /api/v1/publish", &authorization, &body);
        assert!(answer.contains(r#""ack":"synced""#), "{answer}");
    }

    /// The answer's body.
    pub fn get(&self, path: &str) -> String {
        let answer = self.ask(&format!("GET {path}"), "", "");
        answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned()).unwrap_or_default()
    }

    fn ask(&self, what: &str, headers: &str, body: &str) -> String {
        let mut stream = std::net::TcpStream::connect(&self.address).expect("the hub listens");
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout can be set");
        let request = format!("{what} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n{headers}\r\n{body}", self.address);
        stream.write_all(request.as_bytes()).expect("the hub reads");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("the hub answers in time");
        answer
    }
}

impl Drop for Hub {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Its first line says where it listens.
fn spawn(data: &Path, address: &str) -> (Child, String) {
    let mut child = Command::new(env!("CARGO_BIN_EXE_aether"))
        .args(["--data", &data.display().to_string(), "--addr", address, "--log-level", "warn"])
        .stdout(Stdio::piped())
        .spawn()
        .expect("the hub starts");
    let mut line = String::new();
    let stdout = child.stdout.take().expect("stdout is piped");
    let _ = BufReader::new(stdout).read_line(&mut line);
    let address = line.trim().strip_prefix("aether listens on ").unwrap_or_else(|| panic!("no banner but {line:?}"));
    (child, address.to_owned())
}
