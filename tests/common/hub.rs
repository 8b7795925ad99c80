//! A whole hub in this process, on a port of its own and with a store of its own.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use aether::config::{Bound, Config, Period, Size, Sources};
use aether::edges::load::Load;
use aether::keys::{Claims, Keys};
use aether::server::Running;
use tokio::sync::oneshot;

use super::{DEADLINE, Http, Json, Response, SseClient, TempDir, WsClient, json, parse_metrics, repository};

pub struct TestHub {
    pub address: SocketAddr,
    /// The same, if the operator has no listener apart.
    pub admin_address: SocketAddr,
    pub keys: Keys,
    pub config: Config,
    load: Option<Arc<Load>>,
    dir: Option<TempDir>,
    stop: Mutex<Option<oneshot::Sender<()>>>,
    thread: Option<JoinHandle<()>>,
}

/// The settings of a test, before its hub starts.
pub struct Plan {
    dir: TempDir,
    config: Config,
}

impl Plan {
    /// Settings as they would stand in aether.toml; what tests need everywhere stays set.
    pub fn toml(mut self, text: &str) -> Plan {
        let file = Some(("aether.toml".to_owned(), text.to_owned()));
        let config = Sources { file, ..Sources::default() }.read().unwrap_or_else(|error| panic!("{error}"));
        self.config = at_home(config, &self.dir);
        self
    }

    /// The operator's rules, instead of the repository's `scripts/rules.lua`.
    pub fn rules(mut self, lua: &str) -> Plan {
        self.dir.write("scripts/rules.lua", lua);
        self.config.plugins.scripts = self.dir.path().join("scripts");
        self
    }

    pub fn with(mut self, change: impl FnOnce(&mut Config)) -> Plan {
        change(&mut self.config);
        self
    }

    pub fn start(self) -> TestHub {
        let mut hub = TestHub {
            address: SocketAddr::from(([0, 0, 0, 0], 0)),
            admin_address: SocketAddr::from(([0, 0, 0, 0], 0)),
            keys: Keys::prepare(&self.config).unwrap(),
            config: self.config,
            load: None,
            dir: Some(self.dir),
            stop: Mutex::default(),
            thread: None,
        };
        hub.run();
        hub
    }
}

fn at_home(mut config: Config, dir: &TempDir) -> Config {
    config.server.addr = SocketAddr::from(([127, 0, 0, 1], 0));
    config.server.front_workers = 2;
    config.server.delivery_workers = 2;
    config.store.path = dir.path().join("data");
    config.store.cache_size = Size::mib(16);
    config.plugins.dir = repository().join("plugins");
    if !config.plugins.scripts.starts_with(dir.path()) {
        config.plugins.scripts = repository().join("scripts");
    }
    if config.shutdown.timeout == Period::seconds(10) {
        config.shutdown.timeout = Period(DEADLINE / 2);
    }
    // A busy machine is no overload of the hub.
    if config.limits.delay == Bound(Some(Period::seconds(1))) {
        config.limits.delay = Bound(None);
    }
    // What the rules wait for is the test's own, and the machine may be busy.
    if config.plugins.waiting_timeout == Period::seconds(3) {
        config.plugins.waiting_timeout = Period(DEADLINE);
        config.plugins.waiting_budget = Period(Duration::from_millis(500));
    }
    config
}

impl TestHub {
    pub fn plan() -> Plan {
        let dir = TempDir::new();
        Plan { config: at_home(Config::default(), &dir), dir }
    }

    pub fn start() -> TestHub {
        TestHub::plan().start()
    }

    fn run(&mut self) {
        let (stop, stopped) = oneshot::channel();
        let (ready, started) = mpsc::channel();
        let (config, keys) = (self.config.clone(), self.keys.clone());
        let same = config.clone();
        let again: aether::server::Again = Arc::new(move || Ok(same.clone()));
        let thread = std::thread::spawn(move || {
            let deadline = Instant::now() + DEADLINE;
            let hub = loop {
                match Running::start(&config, &keys, again.clone()) {
                    Ok(hub) => break hub,
                    // The last tasks of the hub before this one end with their process, not before: here that goes on.
                    Err(error) if error.to_string().contains("is in use") && Instant::now() < deadline => {
                        std::thread::sleep(Duration::from_millis(5));
                    }
                    Err(error) => return ready.send(Err(format!("{error:#}"))).unwrap(),
                }
            };
            ready.send(Ok((hub.address, hub.admin_address, hub.load()))).unwrap();
            let stopped = async {
                let _ = stopped.await;
            };
            hub.serve_until(stopped).unwrap();
        });
        let started = started.recv_timeout(DEADLINE).unwrap();
        let load;
        (self.address, self.admin_address, load) = started.unwrap_or_else(|why| panic!("{why}"));
        self.load = Some(load);
        self.stop = Mutex::new(Some(stop));
        self.thread = Some(thread);
    }

    /// What presses it, which a test may say as well as the machine.
    pub fn load(&self) -> &Load {
        self.load.as_ref().expect("it runs")
    }

    /// Asks it to stop, and does not wait.
    pub fn ask_to_stop(&self) {
        if let Some(stop) = self.stop.lock().unwrap().take() {
            let _ = stop.send(());
        }
    }

    /// The same; the thread ends when the hub has.
    pub fn begin_stop(&mut self) -> Option<JoinHandle<()>> {
        self.ask_to_stop();
        self.thread.take()
    }

    pub fn stop(&mut self) {
        if let Some(thread) = self.begin_stop() {
            thread.join().expect("the hub stops without a panic");
        }
    }

    /// Stops it and starts another one on the same store, at another port.
    pub fn restart(&mut self) {
        self.stop();
        self.run();
    }

    pub fn data(&self) -> &std::path::Path {
        &self.config.store.path
    }

    pub fn dir(&self) -> &TempDir {
        self.dir.as_ref().unwrap()
    }

    pub fn token(&self, channels: &[&str]) -> String {
        self.token_for("tester", channels, &[])
    }

    pub fn token_for(&self, sub: &str, channels: &[&str], publish: &[&str]) -> String {
        Claims::new(sub, channels, publish, Duration::from_secs(3600)).sign(self.keys.signing_key()).unwrap()
    }

    /// An HTTP connection with the admin key.
    pub async fn http(&self) -> Http {
        Http::connect(self.address, Some(self.keys.admin_key())).await
    }

    pub async fn http_as(&self, bearer: Option<&str>) -> Http {
        Http::connect(self.address, bearer).await
    }

    /// A WebSocket that may read everything.
    pub async fn ws(&self) -> WsClient {
        let token = self.token(&["*"]);
        WsClient::connect(self.address, Some(&token)).await
    }

    pub async fn ws_as(&self, token: Option<&str>) -> WsClient {
        WsClient::connect(self.address, token).await
    }

    /// An event stream that may read everything. `query`: `channel=a&channel=b`.
    pub async fn sse(&self, query: &str, last_event_id: Option<&str>) -> SseClient {
        let token = self.token(&["*"]);
        let path = format!("/sse?{query}&token={token}");
        let deadline = Instant::now() + DEADLINE;
        loop {
            match SseClient::open(self.address, &path, last_event_id).await {
                Ok(client) => return client,
                // As a WebSocket does.
                Err(refused) if refused.status == 429 && Instant::now() < deadline => {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
                Err(refused) => panic!("{refused:?}"),
            }
        }
    }

    /// Publishes with the admin key; the answer.
    pub async fn publish(&self, channel: &str, payload: Json) -> Json {
        let body = json!({"channel": channel, "payload": payload}).to_string();
        self.http().await.post("/api/v1/publish", body).await.ok()
    }

    /// Publishes `first..=last` as payloads, a hundred in a batch.
    pub async fn publish_numbers(&self, channel: &str, first: u64, last: u64) {
        let mut http = self.http().await;
        let numbers: Vec<u64> = (first..=last).collect();
        for chunk in numbers.chunks(100) {
            let messages: Vec<_> = chunk.iter().map(|n| json!({"channel": channel, "payload": n})).collect();
            let answer = http.post("/api/v1/publish/batch", json!({"messages": messages}).to_string()).await.ok();
            for result in answer["results"].as_array().unwrap() {
                assert_eq!(result["status"], "success", "{result}");
            }
        }
    }

    pub async fn history(&self, query: &str) -> Json {
        self.http().await.get(&format!("/api/v1/history?{query}")).await.ok()
    }

    pub async fn forget(&self, channel: &str) -> Response {
        self.http().await.send("DELETE", &format!("/api/v1/history?channel={channel}"), &[], b"").await
    }

    pub async fn metrics(&self) -> BTreeMap<String, f64> {
        let answer = self.http_as(None).await.get("/metricsz").await;
        assert_eq!(answer.status, 200);
        parse_metrics(answer.text())
    }

    pub async fn metric(&self, name: &str) -> f64 {
        *self.metrics().await.get(name).unwrap_or_else(|| panic!("{name} is not among the metrics"))
    }
}

impl Drop for TestHub {
    fn drop(&mut self) {
        if let Some(thread) = self.begin_stop() {
            let ended = thread.join();
            assert!(std::thread::panicking() || ended.is_ok(), "the hub panicked");
        }
    }
}
