//! What `aether.http` does: one thread beside all others that speaks to the outside, over connections that it keeps.
//!
//! hyper-util's client, because hyper, rustls and tokio-rustls are here anyway: it adds pooling and nothing else, where
//! reqwest would bring a second stack of connectors, cookies and proxies. Trust comes from the system's certificates
//! (`SSL_CERT_FILE` names others), because that is where an operator puts the certificate of an internal authority.

pub mod allow;
mod connect;

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use http::header::{AUTHORIZATION, COOKIE, LOCATION};
use http::{HeaderMap, Method, Request, StatusCode, Uri};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::client::legacy::Client;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use parking_lot::Mutex;
use rustc_hash::FxHashMap;
use tokio::runtime::{Handle, Runtime};
use tokio::sync::Semaphore;
use tokio_util::task::AbortOnDropHandle;

use allow::{Allow, Reach};
use connect::Connector;

use crate::plugins::authors::testing::Network;

/// Requests of one plugin at once. Further ones wait, within their own time.
const IN_FLIGHT: usize = 64;
/// Connections to one host that are kept though nobody uses them, and for how long.
const IDLE: (usize, Duration) = (16, Duration::from_secs(30));
const REDIRECTS: usize = 5;

type Pool = Client<Connector, Full<Bytes>>;

/// A request of a script, checked.
#[derive(Clone, Debug)]
pub struct Asked {
    pub method: Method,
    pub uri: Uri,
    pub headers: HeaderMap,
    pub body: Bytes,
    pub timeout: Duration,
    pub max_body: usize,
    /// Whether to go where the answer points.
    pub follow: bool,
}

#[derive(Clone, PartialEq, Debug)]
pub struct Answered {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: Bytes,
}

#[derive(Default)]
pub struct Outside {
    thread: Mutex<Option<Thread>>,
    /// By plugin; as many as there are plugins.
    in_flight: Mutex<FxHashMap<String, Arc<Semaphore>>>,
    /// What a test says that the outside answers; none in production.
    pub instead: OnceLock<Arc<Network>>,
}

struct Thread {
    runtime: Runtime,
    pools: Pools,
}

/// Apart, so that who may not reach private addresses finds no open connection to one.
#[derive(Clone)]
struct Pools {
    public: Pool,
    private: Pool,
}

impl Outside {
    /// The thread, which begins when it is first needed.
    pub fn thread(&self) -> Result<Handle, String> {
        self.begin().map(|(handle, _)| handle)
    }

    fn begin(&self) -> Result<(Handle, Pools), String> {
        let mut thread = self.thread.lock();
        if let Some(thread) = &*thread {
            return Ok((thread.runtime.handle().clone(), thread.pools.clone()));
        }
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .max_blocking_threads(8)
            .thread_name("lua-http")
            .enable_all()
            .build()
            .map_err(|error| format!("there is no thread for it: {error}"))?;
        let tls = connect::trust();
        let pool = |private| {
            Client::builder(TokioExecutor::new())
                .pool_timer(TokioTimer::new())
                .pool_idle_timeout(IDLE.1)
                .pool_max_idle_per_host(IDLE.0)
                .build(Connector { private, tls: tls.clone() })
        };
        let pools = Pools { public: pool(false), private: pool(true) };
        let begun = (runtime.handle().clone(), pools.clone());
        *thread = Some(Thread { runtime, pools });
        Ok(begun)
    }

    /// Asks for `plugin`. Whoever drops the answer ends the request.
    pub async fn ask(&self, plugin: &str, allow: Arc<Allow>, asked: Asked) -> Result<Answered, String> {
        if let Some(network) = self.instead.get() {
            return network.answer(plugin, asked).await;
        }
        let (thread, pools) = self.begin()?;
        let gate = self
            .in_flight
            .lock()
            .entry(plugin.to_owned())
            .or_insert_with(|| Arc::new(Semaphore::new(IN_FLIGHT)))
            .clone();
        let (host, timeout) = (asked.uri.host().unwrap_or_default().to_owned(), asked.timeout);
        let request = async move {
            let asking = async {
                let Ok(_place) = gate.acquire().await else { return Err("the hub stops".to_owned()) };
                let pending = send(&pools, &allow, asked);
                pending.await
            };
            match tokio::time::timeout(timeout, asking).await {
                Ok(answered) => answered,
                Err(_) if gate.available_permits() == 0 => Err(format!(
                    "{IN_FLIGHT} requests of this plugin are under way already, and none ended within {timeout:?}"
                )),
                Err(_) => Err(format!("{host} did not answer within {timeout:?}")),
            }
        };
        AbortOnDropHandle::new(thread.spawn(request)).await.unwrap_or_else(|_| Err("the hub stops".into()))
    }

    pub fn close(&self) {
        if let Some(thread) = self.thread.lock().take() {
            thread.runtime.shutdown_background();
        }
    }
}

/// A runtime must not be dropped where one runs, and whoever lets go last may be anybody.
impl Drop for Outside {
    fn drop(&mut self) {
        self.close();
    }
}

async fn send(pools: &Pools, allow: &Allow, mut asked: Asked) -> Result<Answered, String> {
    for _ in 0..=REDIRECTS {
        let pool = match allow.reach(&asked.uri)? {
            Reach::Public => &pools.public,
            Reach::Private => &pools.private,
        };
        let mut request = Request::builder().method(asked.method.clone()).uri(asked.uri.clone());
        if let Some(headers) = request.headers_mut() {
            headers.clone_from(&asked.headers);
        }
        let request = request.body(Full::new(asked.body.clone())).map_err(|error| error.to_string())?;
        let answer = pool.request(request).await.map_err(|error| explain(&error))?;
        let (head, body) = answer.into_parts();
        if asked.follow
            && head.status.is_redirection()
            && let Some(place) = head.headers.get(LOCATION)
        {
            asked = redirect(asked, head.status, place.to_str().map_err(|_| "the redirect's location is no text")?)?;
            continue;
        }
        let limit = asked.max_body;
        let body = Limited::new(body, limit).collect().await.map_err(|error| {
            if error.is::<http_body_util::LengthLimitError>() {
                format!("the answer is larger than {limit} bytes (max_body)")
            } else {
                format!("the answer broke off: {error}")
            }
        })?;
        return Ok(Answered { status: head.status.as_u16(), headers: head.headers, body: body.to_bytes() });
    }
    Err(format!("it was redirected more than {REDIRECTS} times"))
}

fn redirect(mut asked: Asked, status: StatusCode, place: &str) -> Result<Asked, String> {
    let wrong = || format!("the redirect to {place:?} makes no sense");
    let target = if place.starts_with('/') && !place.starts_with("//") {
        let mut parts = asked.uri.clone().into_parts();
        parts.path_and_query = Some(place.parse().map_err(|_| wrong())?);
        Uri::from_parts(parts).map_err(|_| wrong())?
    } else {
        place.parse::<Uri>().map_err(|_| wrong())?
    };
    // A credential is for who it was sent to.
    if (target.scheme(), target.authority()) != (asked.uri.scheme(), asked.uri.authority()) {
        asked.headers.remove(AUTHORIZATION);
        asked.headers.remove(COOKIE);
    }
    if status == StatusCode::SEE_OTHER {
        asked.method = Method::GET;
        asked.body = Bytes::new();
    }
    asked.uri = target;
    Ok(asked)
}

/// The innermost cause says most.
fn explain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut cause = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    cause.to_string()
}
