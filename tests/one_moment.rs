//! **A request is judged by the rules of one moment**: all that it asks them, it asks as one.

use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use aether::edges::edge::{Beside, Edge, Settings};
use aether::edges::http::{Surface, routes};
use aether::edges::line::Frame;
use aether::edges::load::{self, Load};
use aether::edges::native::{Limits, WsDialect};
use aether::edges::operator::{Operator, Trouble};
use aether::edges::origin::Origins;
use aether::edges::pulse::Pulse;
use aether::edges::roster::Roster;
use aether::edges::routes::{Found, Routes};
use aether::edges::session;
use aether::edges::tail;
use aether::kernel::dialect::{Dialects, Mount};
use aether::kernel::hooks::{Admission, Answer, Client, ConnectRequest, Farewell, Hooks, Identity, Request, Sight};
use aether::kernel::message::{ChannelName, Draft};
use aether::kernel::policy::Policy;
use aether::kernel::session::Session;
use bytes::Bytes;
use parking_lot::Mutex;

use crate::common::kernel::{Kernel, Rules, client};
use crate::common::line::Line;
use crate::common::{DEADLINE, Http, until};

tokio::task_local! {
    static REQUEST: u64;
}

/// Writes down what is asked, and within which request.
#[derive(Default)]
struct Judged {
    rules: Rules,
    requests: AtomicU64,
    asked: Mutex<Vec<(&'static str, Option<u64>)>>,
}

impl Judged {
    fn note(&self, what: &'static str) {
        self.asked.lock().push((what, REQUEST.try_with(|request| *request).ok()));
    }
}

impl Hooks for Judged {
    fn connect<'a>(&'a self, request: &'a ConnectRequest) -> Answer<'a, Identity> {
        self.note("connect");
        self.rules.connect(request)
    }
    fn subscribe<'a>(&'a self, client: &'a Client, channel: &'a ChannelName) -> Answer<'a, Sight> {
        self.note("subscribe");
        self.rules.subscribe(client, channel)
    }
    fn publish<'a>(&'a self, client: &'a Client, draft: Draft) -> Answer<'a, Admission> {
        self.note("publish");
        self.rules.publish(client, draft)
    }
    fn history<'a>(&'a self, client: &'a Client, channel: &'a ChannelName, resume: bool) -> Answer<'a, Sight> {
        self.note("history");
        self.rules.history(client, channel, resume)
    }
    fn disconnected(&self, _: &Arc<Client>, _: &Farewell) {}
    fn policy(&self, channel: &ChannelName) -> Policy {
        Hooks::policy(&self.rules, channel)
    }
    fn as_one<'a>(&'a self, request: Request<'a>) -> Request<'a> {
        let number = self.requests.fetch_add(1, Ordering::SeqCst);
        Box::pin(REQUEST.scope(number, request))
    }
}

/// Nothing is asked of it here.
struct Nobody;

impl Operator for Nobody {
    fn ask(&self, _: &str, _: Bytes) -> Pin<Box<dyn Future<Output = Result<Vec<u8>, Trouble>> + Send>> {
        Box::pin(std::future::ready(Err(Trouble::Unknown)))
    }

    fn tail(&self, _: &tail::Asked) -> Result<tail::Tail, Trouble> {
        Err(Trouble::Unknown)
    }
}

impl Dialects for Nobody {
    fn mount(&self, _: Option<SocketAddr>, _: &str) -> Option<Mount> {
        None
    }

    fn streams(&self) -> Vec<Vec<u8>> {
        Vec::new()
    }
}

impl Routes for Nobody {
    fn find(&self, _: Option<SocketAddr>, _: &str, _: &str) -> Found {
        Found::Nothing
    }
}

fn shared() -> Arc<session::Shared> {
    let second = Duration::from_secs(1);
    let pulse = Pulse { interval: 30 * second, timeout: None, write_timeout: 10 * second, drain: second };
    Arc::new(session::Shared { pulse, roster: Arc::new(Roster::default()), load: Load::new(load::Limits::default()) })
}

const LIMITS: Limits = Limits { channels_per_request: 10, channels_per_connection: 10, refusals_per_minute: 10 };

#[tokio::test]
async fn what_an_http_request_asks_it_asks_as_one() {
    let rules = Arc::new(Judged::default());
    let kernel = Kernel::start(rules.clone());
    let settings = Settings {
        max_payload: 1024,
        max_batch_bytes: 4096,
        max_batch: 10,
        max_message: 1024,
        compression: false,
        compress_from: 0,
        body_timeout: DEADLINE,
        limits: LIMITS,
        origins: Origins::default(),
        first_aether: false,
        sse_retry: (Duration::from_secs(1), Duration::ZERO),
    };
    let delivery = tokio::runtime::Handle::current();
    let (counters, plugins_metrics) = (Arc::new(Vec::new), Arc::new(String::new));
    let beside = Beside {
        counters,
        plugins_metrics,
        operator: Arc::new(Nobody),
        routes: Arc::new(Nobody),
        dialects: Arc::new(Nobody),
    };
    let edge = Edge::new(kernel.hub.clone(), settings, shared(), shared(), delivery, beside);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut http = Http::connect(listener.local_addr().unwrap(), None).await;
    tokio::spawn(warp::serve(routes(edge, Surface::Whole)).incoming(listener).run());
    let asked = || std::mem::take(&mut *rules.asked.lock());
    let batch = r#"{"messages":[{"channel":"a","payload":1},{"channel":"b","payload":2}]}"#;
    http.post("/api/v1/publish/batch", batch).await.ok();
    assert_eq!(asked(), [("connect", Some(0)), ("publish", Some(0)), ("publish", Some(0))]);
    http.get("/api/v1/history?channel=a").await.ok();
    assert_eq!(asked(), [("connect", Some(1)), ("history", Some(1))]);
}

#[tokio::test]
async fn what_a_frame_asks_it_asks_as_one() {
    let rules = Arc::new(Judged::default());
    let kernel = Kernel::start(rules.clone());
    let line = Line::default();
    for frame in
        [r#"{"type":"subscribe","channels":["a","b"],"after_seq":{"a":0}}"#, r#"{"type":"history","channel":"a"}"#]
    {
        line.frames.lock().push_back(Frame::Text(frame.into()));
    }
    let session = Session::new(kernel.hub.clone(), client("ann"), kernel.format.clone());
    let dialect = WsDialect::new(LIMITS, false);
    let running = tokio::spawn(session::run(line.clone(), dialect, session, shared(), Vec::new()));
    until("the frames are answered", async || rules.asked.lock().len() == 4).await;
    running.abort();
    let asked = std::mem::take(&mut *rules.asked.lock());
    let expected = [("subscribe", Some(0)), ("history", Some(0)), ("subscribe", Some(0)), ("history", Some(1))];
    assert_eq!(asked, expected);
}
