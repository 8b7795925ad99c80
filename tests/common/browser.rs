//! Chromium with one page, driven over its DevTools protocol.

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;

use super::{TempDir, missing};

/// Long, because the machine may be busy with the other tests; nothing waits this long when all is well.
const PATIENCE: Duration = Duration::from_secs(120);

pub struct Browser {
    child: Child,
    _profile: TempDir,
    socket: tokio_tungstenite::WebSocketStream<tokio_tungstenite::MaybeTlsStream<tokio::net::TcpStream>>,
    calls: u64,
    session: Option<String>,
    /// What the page said to its console, and what went wrong in it.
    complaints: Vec<String>,
}

impl Browser {
    /// None, and a loud word, where there is no Chromium.
    pub async fn open() -> Option<Browser> {
        let Some(program) = chromium() else {
            missing("Chromium", "Install chromium, or say where it is: CHROMIUM=/path/to/chrome cargo test");
            return None;
        };
        let profile = TempDir::new();
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
        command.arg(format!("--user-data-dir={}", profile.path().display())).arg("about:blank");
        let child =
            command.stdout(Stdio::null()).stderr(Stdio::null()).process_group(0).spawn().expect("Chromium starts");
        let endpoint = endpoint(&profile.path().join("DevToolsActivePort")).await;
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

    pub async fn visit(&mut self, url: &str) {
        let went = self.call("Page.navigate", json!({ "url": url })).await;
        assert!(went["errorText"].is_null(), "{url}: {}", went["errorText"]);
    }

    /// An expression's value.
    pub async fn eval(&mut self, expression: &str) -> Value {
        let asked = json!({ "expression": expression, "returnByValue": true });
        self.call("Runtime.evaluate", asked).await["result"]["value"].clone()
    }

    /// Asks until the answer, as a text, is what was waited for.
    pub async fn until(&mut self, expression: &str, wanted: impl Fn(&str) -> bool) {
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

    pub fn assert_quiet(&self) {
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
