//! The console page in a real browser: what it shows is what happened, also when its hub is killed under it.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;

/// Long, because the machine may be busy with the other tests; nothing waits this long when all is well.
const PATIENCE: Duration = Duration::from_secs(60);

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
    data: Scratch,
}

impl Hub {
    pub fn start() -> Hub {
        let data = Scratch::new("hub");
        let (child, address) = spawn(&data.0, "127.0.0.1:0");
        Hub { address, child, data }
    }

    fn start_again(&mut self) {
        let (child, address) = spawn(&self.data.0, &self.address);
        assert_eq!(address, self.address);
        self.child = child;
    }

    /// SIGKILL.
    fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    fn key(&self, name: &str) -> String {
        std::fs::read_to_string(self.data.0.join("keys").join(name)).expect("the hub made its keys").trim().to_owned()
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

/// A directory that is removed with its owner.
struct Scratch(PathBuf);

impl Scratch {
    fn new(what: &str) -> Scratch {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("aether-{what}-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&path).expect("a temporary directory");
        Scratch(path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Chromium with one page, driven over its DevTools protocol.
struct Browser {
    child: Child,
    _profile: Scratch,
    socket: tokio_tungstenite::WebSocketStream<tokio_tungstenite::MaybeTlsStream<tokio::net::TcpStream>>,
    calls: u64,
    session: Option<String>,
    /// What the page said to its console, and what went wrong in it.
    complaints: Vec<String>,
}

impl Browser {
    /// None, and a loud word, where there is no Chromium.
    async fn open() -> Option<Browser> {
        let Some(program) = chromium() else {
            let advice = "Install chromium, or say where it is: CHROMIUM=/path/to/chrome cargo test";
            assert!(std::env::var("CI").as_deref() != Ok("true"), "there is no Chromium to open the page in. {advice}");
            // Not by eprintln!, which the harness keeps to itself.
            let _ = writeln!(
                std::io::stderr(),
                "\nSKIPPED: the console page was not opened, there is no Chromium. {advice}\n"
            );
            return None;
        };
        let profile = Scratch::new("chromium");
        let mut command = Command::new(program);
        command.args([
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-quic",
            "--disable-dev-shm-usage",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            "--remote-debugging-port=0",
        ]);
        command.arg(format!("--user-data-dir={}", profile.0.display())).arg("about:blank");
        let child =
            command.stdout(Stdio::null()).stderr(Stdio::null()).process_group(0).spawn().expect("Chromium starts");
        let endpoint = endpoint(&profile.0.join("DevToolsActivePort")).await;
        let (socket, _) = tokio_tungstenite::connect_async(endpoint).await.expect("Chromium takes our connection");
        let mut browser = Browser { child, _profile: profile, socket, calls: 0, session: None, complaints: Vec::new() };
        let target = browser.call("Target.createTarget", json!({ "url": "about:blank" })).await;
        let attached = json!({ "targetId": target["targetId"], "flatten": true });
        let attached = browser.call("Target.attachToTarget", attached).await;
        browser.session = attached["sessionId"].as_str().map(str::to_owned);
        for domain in ["Runtime.enable", "Log.enable", "Page.enable"] {
            browser.call(domain, json!({})).await;
        }
        Some(browser)
    }

    async fn visit(&mut self, url: &str) {
        let went = self.call("Page.navigate", json!({ "url": url })).await;
        assert!(went["errorText"].is_null(), "{url}: {}", went["errorText"]);
    }

    /// An expression's value.
    async fn eval(&mut self, expression: &str) -> Value {
        let asked = json!({ "expression": expression, "returnByValue": true });
        self.call("Runtime.evaluate", asked).await["result"]["value"].clone()
    }

    /// Asks until the answer, as a text, is what was waited for.
    async fn until(&mut self, expression: &str, wanted: impl Fn(&str) -> bool) {
        let begun = Instant::now();
        loop {
            let value = self.eval(expression).await;
            let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            if wanted(&text) {
                return;
            }
            assert!(begun.elapsed() < PATIENCE, "{expression} is still {text}; the console says {:?}", self.complaints);
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    async fn call(&mut self, method: &str, params: Value) -> Value {
        self.calls += 1;
        let mut request = json!({ "id": self.calls, "method": method, "params": params });
        if let Some(session) = &self.session {
            request["sessionId"] = json!(session);
        }
        let exchange = async {
            self.socket.send(Message::text(request.to_string())).await.expect("Chromium reads");
            loop {
                let message = self.socket.next().await.expect("Chromium is there").expect("Chromium speaks WebSocket");
                let Message::Text(text) = message else { continue };
                let said: Value = serde_json::from_str(&text).expect("Chromium speaks JSON");
                if said["id"] == self.calls {
                    assert!(said["error"].is_null(), "{method}: {}", said["error"]);
                    return said["result"].clone();
                }
                self.complaints.extend(complaint(&said));
            }
        };
        tokio::time::timeout(PATIENCE, exchange).await.unwrap_or_else(|_| panic!("Chromium does not answer {method}"))
    }

    fn assert_quiet(&self) {
        assert!(self.complaints.is_empty(), "{:#?}", self.complaints);
    }
}

/// What must not happen in a page that works. That a hub which is not there cannot be reached, Chromium notes by itself.
fn complaint(event: &Value) -> Option<String> {
    let params = &event["params"];
    let said = match event["method"].as_str()? {
        "Runtime.exceptionThrown" => params["exceptionDetails"].to_string(),
        "Runtime.consoleAPICalled" if ["error", "warning", "assert"].contains(&params["type"].as_str()?) => {
            params["args"].to_string()
        }
        "Log.entryAdded" if params["entry"]["level"] == "error" => {
            let text = params["entry"]["text"].as_str()?;
            let hub_is_gone =
                ["net::ERR_CONNECTION_REFUSED", "net::ERR_CONNECTION_RESET", "net::ERR_INCOMPLETE_CHUNKED_ENCODING"];
            if hub_is_gone.iter().any(|known| text.contains(known)) {
                return None;
            }
            params["entry"].to_string()
        }
        _ => return None,
    };
    Some(said)
}

impl Drop for Browser {
    fn drop(&mut self) {
        // The whole group: Chromium is many processes.
        let _ = Command::new("kill").args(["-9", "--", &format!("-{}", self.child.id())]).status();
        let _ = self.child.wait();
    }
}

fn chromium() -> Option<PathBuf> {
    if let Some(named) = std::env::var_os("CHROMIUM") {
        return Some(named.into());
    }
    let names = ["chromium", "chromium-browser", "google-chrome", "google-chrome-stable"];
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).flat_map(|dir| names.map(|name| dir.join(name))).find(|program| program.is_file())
}

/// Chromium writes its port and path here once it listens.
async fn endpoint(file: &Path) -> String {
    let begun = Instant::now();
    loop {
        let text = std::fs::read_to_string(file).unwrap_or_default();
        if let Some((port, path)) = text.split_once('\n')
            && path.starts_with('/')
        {
            return format!("ws://127.0.0.1:{port}{}", path.trim());
        }
        assert!(begun.elapsed() < PATIENCE, "Chromium does not open its DevTools");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
