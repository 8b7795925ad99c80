//! HTTP: publish, history, health; and where WebSockets and event streams begin.

use std::borrow::Cow;
use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bytes::{Buf, Bytes};
use futures_util::{Stream, StreamExt};
use hyper::upgrade::OnUpgrade;
use serde::Serialize;
use warp::filters::BoxedFilter;
use warp::http::header::{self, HeaderMap, HeaderValue};
use warp::http::{Method, StatusCode};
use warp::reply::Response;
use warp::{Filter, Rejection, Reply};

use super::deflate::{Agreement, Compression};
use super::first::FirstFormat;
use super::frames::{SseFormat, WsFormat};
use super::listen::Peer;
use super::load::Load;
use super::native::Limits;
use super::operator::{self, Operator};
use super::origin::Origins;
use super::poll::PollFormat;
use super::routes::{self, Routes};
use super::session;
use super::tail::{self, TailFormat};
use super::wire::{ErrorBody, Fault};
use super::{admin, foreign, history, metrics, poll, publish, sse, upgrade};
use crate::kernel::dialect::{Dialects, Mount, Transport};
use crate::kernel::format::Format;
use crate::kernel::hooks::{Client, ConnectRequest};
use crate::kernel::hub::Hub;

/// What the operator has set.
#[derive(Clone, Debug)]
pub struct Settings {
    pub max_payload: usize,
    pub max_batch_bytes: usize,
    pub max_batch: usize,
    pub max_message: usize,
    /// Whether messages are compressed for those who offer it, and from which size on.
    pub compression: bool,
    pub compress_from: usize,
    /// How long a request's body may take.
    pub body_timeout: Duration,
    pub limits: Limits,
    pub origins: Origins,
    /// WebSockets that do not offer our subprotocol are spoken to as the first Aether did.
    pub first_aether: bool,
    /// When a stream that is lost comes back at the earliest, and over how long these are spread.
    pub sse_retry: (Duration, Duration),
}

/// What others than the edges answer.
pub struct Beside {
    pub counters: metrics::Others,
    pub plugins_metrics: metrics::Page,
    pub operator: Arc<dyn Operator>,
    pub routes: Arc<dyn Routes>,
    pub dialects: Arc<dyn Dialects>,
}

/// What all requests share.
pub struct Edge {
    pub hub: Arc<Hub>,
    pub settings: Settings,
    pub ws: Arc<session::Shared>,
    pub sse: Arc<session::Shared>,
    /// Where connections live once they are more than a request.
    pub delivery: tokio::runtime::Handle,
    pub ready: AtomicBool,
    pub load: Arc<Load>,
    pub beside: Beside,
    pub formats: Formats,
    pub foreign: foreign::Formats,
    pub compression: Compression,
    sessions: AtomicU64,
    /// Tells the sessions of this run from those of another.
    run: u64,
}

/// One of each, so that all its readers share its bytes.
pub struct Formats {
    pub ws: Arc<dyn Format>,
    pub first: Arc<dyn Format>,
    /// Indexed by several channels, then by bare payloads.
    pub sse: [[Arc<dyn Format>; 2]; 2],
    pub poll: Arc<dyn Format>,
    pub tail: Arc<dyn Format>,
}

impl Formats {
    fn new() -> Formats {
        let sse = |several, bare| -> Arc<dyn Format> { Arc::new(SseFormat { several, bare }) };
        Formats {
            ws: Arc::new(WsFormat),
            first: Arc::new(FirstFormat),
            poll: Arc::new(PollFormat),
            tail: Arc::new(TailFormat),
            sse: [[sse(false, false), sse(false, true)], [sse(true, false), sse(true, true)]],
        }
    }
}

impl Edge {
    pub fn new(
        hub: Arc<Hub>,
        settings: Settings,
        ws: Arc<session::Shared>,
        sse: Arc<session::Shared>,
        delivery: tokio::runtime::Handle,
        beside: Beside,
    ) -> Arc<Edge> {
        Arc::new(Edge {
            run: hub.now(),
            load: ws.load.clone(),
            hub,
            compression: Compression::new(settings.compression, settings.compress_from),
            settings,
            ws,
            sse,
            delivery,
            ready: AtomicBool::new(false),
            beside,
            formats: Formats::new(),
            foreign: foreign::Formats::default(),
            sessions: AtomicU64::new(0),
        })
    }

    /// A WebSocket's format, as it was agreed with the client.
    pub fn agreed(&self, format: Arc<dyn Format>, deflate: Option<Agreement>) -> Arc<dyn Format> {
        if deflate.is_some() { self.compression.of(format) } else { format }
    }

    /// Asks the rules who this is.
    pub async fn connect(&self, caller: &Caller) -> Result<Client, Fault> {
        if let Some(why) = caller.peer.as_ref().and_then(|peer| peer.unwelcome) {
            return Err(why.into());
        }
        let request = caller.with_meant_cookies(&self.settings.origins)?;
        let api = request.transport == "http";
        let identity = if api {
            self.hub.hooks().connect(&request).await
        } else {
            // Before the rules are asked: that is what costs.
            self.load.pressure.admits_newcomers()?;
            let _arrival = self.load.governor.arrival();
            self.hub.hooks().connect(&request).await
        };
        let identity = identity.map_err(|refusal| Fault::Unauthorized { refusal, api })?;
        if let (false, Some(peer)) = (api, &caller.peer) {
            peer.permit.sit(&self.load.tenants, identity.tenant.as_deref().unwrap_or_default())?;
        }
        let number = self.sessions.fetch_add(1, Ordering::Relaxed);
        Ok(Client {
            id: format!("{:x}-{number:x}", self.run),
            ip: request.ip,
            dialect: request.dialect,
            transport: request.transport,
            // A cookie may be anything; it was a credential if the rules knew somebody by it.
            credential: request.bearer.is_some() || identity.user.is_some(),
            identity,
            connected: self.hub.now(),
        })
    }

    /// Says no, and when to come back if everybody else wants to as well.
    pub fn refuse(&self, fault: &Fault) -> Response {
        let turn = fault.waits_its_turn().then(|| self.load.governor.place().as_millis() as u64);
        refuse_until(fault, turn.or(fault.retry_ms()))
    }

    pub async fn admin(&self, caller: &Caller) -> Result<Client, Fault> {
        let client = self.connect(caller).await?;
        match client.identity.grants.admin {
            true => Ok(client),
            false if client.credential => Err(Fault::NotAdmin),
            false => Err(Fault::NoCredential),
        }
    }
}

/// A request's head, in our words.
pub struct Caller {
    pub request: ConnectRequest,
    pub headers: HeaderMap,
    pub peer: Option<Peer>,
}

impl Caller {
    /// Whether it comes from this machine and from no proxy on it.
    fn is_local(&self) -> bool {
        self.peer.as_ref().is_some_and(|peer| !peer.proxied && peer.ip.to_canonical().is_loopback())
    }

    pub fn param(&self, name: &str) -> Option<&str> {
        self.request.param(name)
    }

    /// The request as the rules may see it. A browser sends a site's cookies for whatever page asks, so a page from
    /// elsewhere would act in the name of whoever looks at it (CSRF): it is refused, and where `*` lets it in all the same,
    /// it comes without them.
    pub fn with_meant_cookies(&self, origins: &Origins) -> Result<Cow<'_, ConnectRequest>, Fault> {
        let request = &self.request;
        let host = request.header("host");
        if request.header("cookie").is_none() || origins.trusts(request.header("origin"), host) {
            return Ok(Cow::Borrowed(request));
        }
        self.check_origin(origins)?;
        let mut request = request.clone();
        request.headers.retain(|(name, _)| name != "cookie");
        Ok(Cow::Owned(request))
    }

    pub fn check_origin(&self, origins: &Origins) -> Result<(), Fault> {
        let origin = self.request.header("origin");
        if origins.allows(origin, self.request.header("host")) {
            return Ok(());
        }
        Err(Fault::Origin(origin.unwrap_or_default().to_owned()))
    }
}

/// `?heartbeat=1`: each beat says where the channels stand.
pub fn wants_heartbeat(caller: &Caller) -> Result<bool, Fault> {
    match caller.param("heartbeat") {
        None | Some("" | "0") => Ok(false),
        Some("1") => Ok(true),
        Some(_) => Err(Fault::Parameter("heartbeat: 0 or 1".into())),
    }
}

fn caller(transport: &'static str) -> impl Filter<Extract = (Caller,), Error = std::convert::Infallible> + Clone {
    let query = warp::query::raw().or(warp::any().map(String::new)).unify();
    warp::method()
        .and(warp::path::full())
        .and(query)
        .and(warp::header::headers_cloned())
        .and(warp::ext::optional::<Peer>())
        .map(
            move |method: Method, path: warp::path::FullPath, query: String, headers: HeaderMap, peer: Option<Peer>| {
                let ip = peer.as_ref().map(|peer| peer.ip.to_canonical());
                let request = request_of(transport, method, path.as_str(), &query, &headers, ip);
                Caller { request, headers, peer }
            },
        )
}

fn request_of(
    transport: &'static str,
    method: Method,
    path: &str,
    query: &str,
    headers: &HeaderMap,
    ip: Option<IpAddr>,
) -> ConnectRequest {
    let query: Vec<_> = form_urlencoded::parse(query.as_bytes()).into_owned().collect();
    let text = |value: &HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    let headers: Vec<_> = headers.iter().map(|(name, value)| (name.as_str().to_owned(), text(value))).collect();
    let mut request = ConnectRequest {
        dialect: NATIVE,
        transport,
        method: method.to_string(),
        path: path.to_owned(),
        query,
        headers,
        ip,
        bearer: None,
    };
    let of_header = request.header("authorization").and_then(bearer_of);
    // Where a browser can send no header, the credential comes as a subprotocol or in the query.
    let of_protocol = || {
        request
            .header("sec-websocket-protocol")
            .and_then(|all| all.split(',').find_map(|p| p.trim().strip_prefix("bearer.")))
    };
    let of_query = || request.param("token");
    let found = match transport {
        "http" => of_header,
        _ => of_header.or_else(of_protocol).or_else(of_query),
    };
    let bearer = found.filter(|token| !token.is_empty()).map(str::to_owned);
    request.bearer = bearer;
    request
}

fn bearer_of(authorization: &str) -> Option<&str> {
    let (scheme, token) = authorization.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

/// Who asks with HEAD gets the same head and no body, which hyper leaves out; probes like to.
fn get_or_head() -> impl Filter<Extract = (), Error = Rejection> + Clone {
    warp::get().or(warp::head()).unify()
}

/// What a listener answers to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Surface {
    Whole,
    /// All but the operator's part, which is on a listener of its own.
    Public,
    /// Only what plugins have on a listener of their own.
    OfPlugins(SocketAddr),
}

/// The dialect of this hub itself.
const NATIVE: &str = "native";

/// All that the hub answers to.
pub fn routes(edge: Arc<Edge>, surface: Surface) -> BoxedFilter<(Response,)> {
    let with = {
        let edge = edge.clone();
        warp::any().map(move || edge.clone())
    };
    let api = || with.clone().and(caller("http"));

    let publishing = warp::path!("api" / "v1" / "publish").and(warp::post()).and(api()).and(warp::body::stream());
    let one = publishing.then(|edge, caller, body| answer(edge, |edge| publish::one(edge, caller, body)));

    let batch_path =
        warp::path!("api" / "v1" / "publish" / "batch").or(warp::path!("api" / "v2" / "publish" / "batch")).unify();
    let batch = batch_path.and(warp::post()).and(api()).and(warp::body::stream());
    let batch = batch.then(|edge, caller, body| answer(edge, |edge| publish::batch(edge, caller, body)));

    let history_path = || warp::path!("api" / "v1" / "history");
    let read = history_path()
        .and(get_or_head())
        .and(api())
        .then(|edge, caller| answer(edge, |edge| history::read(edge, caller)));
    let forget = history_path()
        .and(warp::delete())
        .and(api())
        .then(|edge, caller| answer(edge, |edge| history::forget(edge, caller)));

    let ws = warp::path!("ws").and(warp::get()).and(with.clone()).and(caller("ws")).and(warp::ext::optional());
    let ws = ws.then(|edge, caller, upgrade| answer(edge, |edge| upgrade::upgrade(edge, caller, upgrade)));

    let events = warp::path!("sse").and(warp::get()).and(with.clone()).and(caller("sse"));
    let events = events.then(|edge, caller| answer(edge, |edge| sse::open(edge, caller)));

    let polled = warp::path!("poll").and(warp::get()).and(with.clone()).and(caller("poll"));
    let polled = polled.then(|edge, caller| answer(edge, |edge| poll::poll(edge, caller)));

    let channels = warp::path!("api" / "v1" / "channels").and(get_or_head()).and(api());
    let channels = channels.then(|edge, caller| answer(edge, |edge| admin::channels(edge, caller)));
    let sessions = warp::path!("api" / "v1" / "sessions").and(get_or_head()).and(api());
    let sessions = sessions.then(|edge, caller| answer(edge, |edge| admin::sessions(edge, caller)));
    let presence = warp::path!("api" / "v1" / "presence").and(get_or_head()).and(api());
    let presence = presence.then(|edge, caller| answer(edge, |edge| admin::presence(edge, caller)));
    let disconnect = warp::path!("api" / "v1" / "disconnect").and(warp::post()).and(api()).and(warp::body::stream());
    let disconnect = disconnect.then(|edge, caller, body| answer(edge, |edge| admin::disconnect(edge, caller, body)));
    let unsubscribe = warp::path!("api" / "v1" / "unsubscribe").and(warp::post()).and(api()).and(warp::body::stream());
    let unsubscribe =
        unsubscribe.then(|edge, caller, body| answer(edge, |edge| admin::unsubscribe(edge, caller, body)));

    let asked = warp::path!("api" / "v1" / "rules" / String).and(warp::post());
    let asked = asked.and(with.clone()).and(caller("http")).and(warp::body::stream());
    let asked = asked.then(|verb, edge, caller, body| answer_freely(operator::ask(edge, verb, caller, body)));
    let tail = warp::path!("api" / "v1" / "rules" / "tail").and(warp::get()).and(with.clone()).and(caller("http"));
    let tail = tail.then(|edge, caller| answer_freely(tail::open(edge, caller)));
    let rules = warp::path!("api" / "v1" / "rules").and(get_or_head()).and(api());
    let rules = rules.then(|edge, caller| answer(edge, |edge| operator::status(edge, caller)));

    let console = warp::path::end().and(get_or_head()).map(|| page(include_str!("console.html")));
    // Whoever restarts what is not healthy would send all subscribers away, and mend no disk by it.
    let health = warp::path!("healthz").and(get_or_head()).map(|| json(StatusCode::OK, &Status { status: "ok" }));
    let ready = warp::path!("readyz").and(get_or_head()).and(with.clone()).map(|edge: Arc<Edge>| {
        if edge.ready.load(Ordering::Acquire) && edge.hub.store_failure().is_none() {
            json(StatusCode::OK, &Status { status: "ok" })
        } else {
            json(StatusCode::SERVICE_UNAVAILABLE, &Status { status: "not ready" })
        }
    });
    let metrics = warp::path!("metricsz").or(warp::path!("metrics")).unify().and(get_or_head()).and(api());
    let metrics = metrics.then(|edge, caller| answer(edge, |edge| metrics_page(edge, caller)));
    let cache = warp::path!("debug" / "cache").and(get_or_head()).and(api());
    let cache = cache.then(|edge, caller| answer(edge, |edge| cache_page(edge, caller)));
    let status = warp::path!("status")
        .and(get_or_head())
        .and(api())
        .then(|edge, caller| answer(edge, |edge| status_page(edge, caller)));

    // Boxed by halves: the compiler's time, and its error messages, grow with the depth of the type.
    let publishing = one.or(batch).unify().or(read).unify().or(forget).unify().boxed();
    let listening = ws.or(events).unify().or(polled).unify().boxed();
    let administering =
        channels.or(sessions).unify().or(presence).unify().or(disconnect).unify().or(unsubscribe).unify();
    let ruling = tail.or(asked).unify().or(rules).unify().boxed();
    let operating = console
        .or(metrics)
        .unify()
        .or(status)
        .unify()
        .or(cache)
        .unify()
        .or(administering)
        .unify()
        .or(ruling)
        .unify()
        .boxed();
    let taken = api().and(warp::method()).and_then(move |edge: Arc<Edge>, caller: Caller, method: Method| {
        let taken = routes::find(&edge, &method, &caller.request.path, surface);
        std::future::ready(taken.map(|taken| (edge, caller, taken)).ok_or_else(warp::reject::not_found))
    });
    let of_plugins = taken.untuple_one().and(warp::body::stream());
    let of_plugins =
        of_plugins.then(|edge, caller, taken, body| answer(edge, |edge| routes::serve(edge, caller, taken, body)));
    let of_plugins = of_plugins.boxed();

    let spoken = warp::any().and(with.clone()).and(caller("ws")).and(warp::ext::optional::<OnUpgrade>());
    let spoken = spoken.and_then(move |edge: Arc<Edge>, caller: Caller, upgrade: Option<OnUpgrade>| {
        let mount = mounted(&edge, &caller, surface);
        std::future::ready(mount.map(|mount| (edge, caller, mount, upgrade)).ok_or_else(warp::reject::not_found))
    });
    let spoken = spoken
        .untuple_one()
        .then(|edge, caller, mount, upgrade| answer(edge, |edge| foreign::open(edge, caller, mount, upgrade)));
    let of_plugins = spoken.or(of_plugins).unify().boxed();

    let public = publishing.or(listening).unify().or(health).unify().or(ready).unify().boxed();
    match surface {
        Surface::Whole => public.or(operating).unify().or(of_plugins).unify().recover(unrouted).unify().boxed(),
        Surface::Public => public.or(of_plugins).unify().recover(unrouted).unify().boxed(),
        Surface::OfPlugins(_) => of_plugins.recover(unrouted).unify().boxed(),
    }
}

/// The dialect that is spoken where a request goes. Where a route answers to its method, that does.
fn mounted(edge: &Edge, caller: &Caller, surface: Surface) -> Option<Mount> {
    let ConnectRequest { method, path, .. } = &caller.request;
    let listener = match surface {
        Surface::Whole | Surface::Public => None,
        Surface::OfPlugins(address) => Some(address),
    };
    let mount = edge.beside.dialects.mount(listener, path)?;
    let routed = || matches!(edge.beside.routes.find(listener, method, path), routes::Found::Route(_));
    // A socket's path may be a page too, for those that ask for no socket.
    let meant = method == "GET" && (mount.transport == Transport::EventStream || upgrade::is_asked_for(caller));
    (meant || !routed()).then_some(mount)
}

/// A request is judged by the rules of one moment, from its first question to its last.
async fn answer<F>(edge: Arc<Edge>, serve: impl FnOnce(Arc<Edge>) -> F) -> Response
where
    F: Future<Output = Result<Response, Fault>> + Send,
{
    let mut outcome = Err(Fault::Stopping);
    let serving = Box::pin(serve(edge.clone()));
    edge.hub.hooks().as_one(Box::pin(async { outcome = serving.await })).await;
    outcome.unwrap_or_else(|fault| edge.refuse(&fault))
}

/// What may change the rules is not bound to those of the moment at which it began.
async fn answer_freely(outcome: impl Future<Output = Result<Response, Fault>>) -> Response {
    outcome.await.unwrap_or_else(|fault| refuse(&fault))
}

async fn unrouted(rejection: Rejection) -> Result<Response, Rejection> {
    let method = rejection.find::<warp::reject::MethodNotAllowed>().is_some();
    Ok(refuse(if method { &Fault::Method } else { &Fault::NoRoute }))
}

#[derive(Serialize)]
struct Status {
    status: &'static str,
}

fn page(html: &'static str) -> Response {
    let mut response = warp::reply::html(html).into_response();
    let policy = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";
    for (name, value) in [
        (header::CONTENT_SECURITY_POLICY, policy),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::CACHE_CONTROL, "no-cache"),
    ] {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}

pub fn json(status: StatusCode, value: &impl Serialize) -> Response {
    let mut body = serde_json::to_vec(value).unwrap_or_default();
    body.push(b'\n');
    json_bytes(status, body)
}

pub fn json_bytes(status: StatusCode, body: Vec<u8>) -> Response {
    let mut response = Response::new(Bytes::from(body).into());
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

pub fn refuse(fault: &Fault) -> Response {
    refuse_until(fault, fault.retry_ms())
}

fn refuse_until(fault: &Fault, retry_ms: Option<u64>) -> Response {
    #[derive(Serialize)]
    struct Refused<'a> {
        ok: bool,
        error: ErrorBody<'a>,
    }
    let status = StatusCode::from_u16(fault.numbers().0).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let error = ErrorBody { retry_ms, ..fault.body() };
    let mut response = json(status, &Refused { ok: false, error });
    let extra = match status {
        StatusCode::UNAUTHORIZED => Some((header::WWW_AUTHENTICATE, "Bearer")),
        StatusCode::UPGRADE_REQUIRED => Some((header::UPGRADE, "websocket")),
        // What is left of the body would be taken for the next request.
        StatusCode::PAYLOAD_TOO_LARGE | StatusCode::REQUEST_TIMEOUT => Some((header::CONNECTION, "close")),
        _ => None,
    };
    if let Some((name, value)) = extra {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    if matches!(status, StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS) {
        let seconds = retry_ms.unwrap_or(1000).div_ceil(1000).max(1);
        response.headers_mut().insert(header::RETRY_AFTER, seconds.into());
    }
    response
}

/// Reads a body that has an end, in size and in time.
pub async fn read_body<B: Buf>(
    caller: &Caller,
    body: impl Stream<Item = Result<B, warp::Error>> + Send,
    max: usize,
    timeout: Duration,
) -> Result<Bytes, Fault> {
    let announced = caller.headers.get(header::CONTENT_LENGTH).and_then(|v| v.to_str().ok()?.parse::<u64>().ok());
    if announced.is_some_and(|length| length > max as u64) {
        return Err(Fault::TooLarge { max });
    }
    let read = async {
        // What was announced need not come: memory follows what does.
        let mut bytes = Vec::with_capacity((announced.unwrap_or(0) as usize).min(64 * 1024));
        let mut body = std::pin::pin!(body);
        while let Some(chunk) = body.next().await {
            let mut chunk = chunk.map_err(|_| Fault::Json("the request's body broke off".into()))?;
            if bytes.len() + chunk.remaining() > max {
                return Err(Fault::TooLarge { max });
            }
            while chunk.has_remaining() {
                let part = chunk.chunk();
                bytes.extend_from_slice(part);
                let length = part.len();
                chunk.advance(length);
            }
        }
        Ok(Bytes::from(bytes))
    };
    tokio::time::timeout(timeout, read).await.unwrap_or(Err(Fault::SlowBody))
}

/// Metrics and status are for the operator: on the machine itself, or with an admin key.
async fn operator(edge: &Edge, caller: &Caller) -> Result<(), Fault> {
    if caller.is_local() && caller.request.bearer.is_none() {
        return Ok(());
    }
    edge.admin(caller).await.map(drop)
}

async fn metrics_page(edge: Arc<Edge>, caller: Caller) -> Result<Response, Fault> {
    operator(&edge, &caller).await?;
    let mut response = Response::new(
        Bytes::from(metrics::render(
            &edge.hub,
            &edge.load,
            edge.compression.tally(),
            &edge.beside.counters,
            &edge.beside.plugins_metrics,
        ))
        .into(),
    );
    let kind = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    Ok(response)
}

/// How often a credential was known, under the first Aether's names.
async fn cache_page(edge: Arc<Edge>, caller: Caller) -> Result<Response, Fault> {
    operator(&edge, &caller).await?;
    #[derive(Serialize)]
    struct Cache {
        ok: bool,
        cache_hits: u64,
        cache_misses: u64,
        hit_rate_pct: f64,
    }
    let (hits, misses) = metrics::credentials(&edge.beside.counters);
    let hit_rate_pct = hits as f64 * 100.0 / (hits + misses).max(1) as f64;
    Ok(json(StatusCode::OK, &Cache { ok: true, cache_hits: hits, cache_misses: misses, hit_rate_pct }))
}

async fn status_page(edge: Arc<Edge>, caller: Caller) -> Result<Response, Fault> {
    operator(&edge, &caller).await?;
    let counters = edge.hub.counters();
    Ok(json(
        StatusCode::OK,
        &serde_json::json!({
            "ok": true,
            "version": env!("CARGO_PKG_VERSION"),
            "ready": edge.ready.load(Ordering::Acquire),
            "store_failure": edge.hub.store_failure(),
            "uptime_seconds": (edge.hub.now() - edge.run) / 1_000_000,
            "connections": counters.sessions.get(),
            "subscriptions": counters.subscriptions.get(),
            "channels": edge.hub.channels_in_memory(),
            "published": counters.published.get(),
            "pushed": counters.pushed.get(),
            "pressure": edge.load.pressure.status(),
            "returns_per_second": edge.load.governor.rate().round(),
            "tenants": edge.load.tenants.status(),
        }),
    ))
}
