//! HTTP: publish, history, health; and where WebSockets and event streams begin.

use std::borrow::Cow;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bytes::{Buf, Bytes};
use futures_util::{Stream, StreamExt};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::value::RawValue;
use warp::http::header::{self, HeaderMap, HeaderValue};
use warp::http::{Method, Response, StatusCode};
use warp::{Filter, Rejection, Reply};

use super::cursor::Cursor;
use super::listen::Peer;
use super::metrics;
use super::native::{self, Limits, RESERVED_EVENTS, SseDialect, SseFormat, WsFormat, timestamp};
use super::origin::Origins;
use super::session;
use super::sse::Events;
use super::upgrade;
use super::wire::{ErrorBody, Fault};
use crate::kernel::format::Format;
use crate::kernel::hooks::{Client, ConnectRequest};
use crate::kernel::hub::{HistoryFrom, Hub, Receipt};
use crate::kernel::message::{ChannelName, Draft, Media, Message, Offset};
use crate::kernel::policy::Ack;
use crate::kernel::session::{Session, Start};

/// What the operator has set.
#[derive(Clone, Debug)]
pub struct Settings {
    pub max_payload: usize,
    pub max_batch_bytes: usize,
    pub max_batch: usize,
    pub max_message: usize,
    /// How long a request's body may take.
    pub body_timeout: Duration,
    pub limits: Limits,
    pub origins: Origins,
    pub sse_retry: Duration,
}

/// What all requests share.
pub struct Edge {
    pub hub: Arc<Hub>,
    pub settings: Settings,
    pub ws: session::Shared,
    pub sse: session::Shared,
    /// Where connections live once they are more than a request.
    pub delivery: tokio::runtime::Handle,
    pub ready: AtomicBool,
    pub others: metrics::Others,
    pub formats: Formats,
    sessions: AtomicU64,
    /// Tells the sessions of this run from those of another.
    run: u64,
}

/// One of each, so that all its readers share its bytes.
pub struct Formats {
    pub ws: Arc<dyn Format>,
    /// Indexed by several channels, then by bare payloads.
    sse: [[Arc<dyn Format>; 2]; 2],
}

impl Formats {
    fn new() -> Formats {
        let sse = |several, bare| -> Arc<dyn Format> { Arc::new(SseFormat { several, bare }) };
        Formats {
            ws: Arc::new(WsFormat),
            sse: [[sse(false, false), sse(false, true)], [sse(true, false), sse(true, true)]],
        }
    }
}

impl Edge {
    pub fn new(
        hub: Arc<Hub>,
        settings: Settings,
        ws: session::Shared,
        sse: session::Shared,
        delivery: tokio::runtime::Handle,
        others: metrics::Others,
    ) -> Arc<Edge> {
        Arc::new(Edge {
            run: hub.now(),
            hub,
            settings,
            ws,
            sse,
            delivery,
            ready: AtomicBool::new(false),
            others,
            formats: Formats::new(),
            sessions: AtomicU64::new(0),
        })
    }

    /// Asks the rules who this is.
    pub async fn connect(&self, caller: &Caller) -> Result<Client, Fault> {
        let request = &caller.request;
        let api = request.transport == "http";
        let identity = self.hub.hooks().connect(request).await;
        let identity = identity.map_err(|refusal| Fault::Unauthorized { refusal, api })?;
        let number = self.sessions.fetch_add(1, Ordering::Relaxed);
        Ok(Client {
            id: format!("{:x}-{number:x}", self.run),
            identity,
            ip: request.ip,
            dialect: "native",
            transport: request.transport,
            credential: request.bearer.is_some(),
            connected: self.hub.now(),
        })
    }

    async fn admin(&self, caller: &Caller) -> Result<Client, Fault> {
        let client = self.connect(caller).await?;
        if client.identity.grants.admin { Ok(client) } else { Err(Fault::NotAdmin) }
    }
}

/// A request's head, in our words.
pub struct Caller {
    pub request: ConnectRequest,
    pub headers: HeaderMap,
    pub peer: Option<Peer>,
}

impl Caller {
    fn from_loopback(&self) -> bool {
        self.request.ip.is_some_and(|ip| ip.to_canonical().is_loopback())
    }

    fn param(&self, name: &str) -> Option<&str> {
        self.request.param(name)
    }

    pub fn check_origin(&self, origins: &Origins) -> Result<(), Fault> {
        let origin = self.request.header("origin");
        if origins.allows(origin, self.request.header("host")) {
            return Ok(());
        }
        Err(Fault::Origin(origin.unwrap_or_default().to_owned()))
    }
}

fn caller(transport: &'static str) -> impl Filter<Extract = (Caller,), Error = std::convert::Infallible> + Clone {
    let query = warp::query::raw().or(warp::any().map(String::new)).unify();
    warp::method()
        .and(warp::path::full())
        .and(query)
        .and(warp::header::headers_cloned())
        .and(warp::ext::optional::<Peer>())
        .map(move |method: Method, path: warp::path::FullPath, query: String, headers: HeaderMap, peer: Option<Peer>| {
            let ip = peer.as_ref().map(|peer| peer.address.ip());
            let request = request_of(transport, method, path.as_str(), &query, &headers, ip);
            Caller { request, headers, peer }
        })
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
    let mut request =
        ConnectRequest { transport, method: method.to_string(), path: path.to_owned(), query, headers, ip, bearer: None };
    let of_header = request.header("authorization").and_then(bearer_of);
    // Where a browser can send no header, the credential comes as a subprotocol or in the query.
    let of_protocol =
        || request.header("sec-websocket-protocol").and_then(|all| all.split(',').find_map(|p| p.trim().strip_prefix("bearer.")));
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

/// All that the hub answers to.
pub fn routes(edge: Arc<Edge>) -> impl Filter<Extract = (impl Reply,), Error = Rejection> + Clone {
    let with = {
        let edge = edge.clone();
        warp::any().map(move || edge.clone())
    };
    let api = || with.clone().and(caller("http"));

    let publish = warp::path!("api" / "v1" / "publish").and(warp::post()).and(api()).and(warp::body::stream());
    let publish = publish.then(|edge, caller, body| answer(publish(edge, caller, body)));

    let batch_path = warp::path!("api" / "v1" / "publish" / "batch").or(warp::path!("api" / "v2" / "publish" / "batch")).unify();
    let batch = batch_path.and(warp::post()).and(api()).and(warp::body::stream());
    let batch = batch.then(|edge, caller, body| answer(publish_batch(edge, caller, body)));

    let history_path = || warp::path!("api" / "v1" / "history");
    let history = history_path().and(warp::get()).and(api()).then(|edge, caller| answer(history(edge, caller)));
    let forget = history_path().and(warp::delete()).and(api()).then(|edge, caller| answer(forget(edge, caller)));

    let ws = warp::path!("ws").and(warp::get()).and(with.clone()).and(caller("ws")).and(warp::ext::optional());
    let ws = ws.then(|edge, caller, upgrade| answer(upgrade::upgrade(edge, caller, upgrade)));

    let sse = warp::path!("sse").and(warp::get()).and(with.clone()).and(caller("sse"));
    let sse = sse.then(|edge, caller| answer(event_stream(edge, caller)));

    let page = warp::path::end().and(warp::get()).map(|| page(include_str!("console.html")));
    let health = warp::path!("healthz").and(warp::get()).map(|| json(StatusCode::OK, &Status { status: "ok" }));
    let ready = warp::path!("readyz").and(warp::get()).and(with.clone()).map(|edge: Arc<Edge>| {
        if edge.ready.load(Ordering::Acquire) {
            json(StatusCode::OK, &Status { status: "ok" })
        } else {
            json(StatusCode::SERVICE_UNAVAILABLE, &Status { status: "not ready" })
        }
    });
    let metrics = warp::path!("metricsz").or(warp::path!("metrics")).unify().and(warp::get()).and(api());
    let metrics = metrics.then(|edge, caller| answer(metrics_page(edge, caller)));
    let status = warp::path!("status").and(warp::get()).and(api()).then(|edge, caller| answer(status(edge, caller)));

    // Boxed by halves: the compiler's time, and its error messages, grow with the depth of the type.
    let publishing = publish.or(batch).unify().or(history).unify().or(forget).unify().boxed();
    let listening = ws.or(sse).unify().boxed();
    let operating = page.or(health).unify().or(ready).unify().or(metrics).unify().or(status).unify().boxed();
    publishing.or(listening).unify().or(operating).unify().recover(unrouted)
}

type Answer = Response<warp::reply::Response>;

async fn answer(
    outcome: impl Future<Output = Result<warp::reply::Response, Fault>>,
) -> warp::reply::Response {
    outcome.await.unwrap_or_else(|fault| refuse(&fault))
}

async fn unrouted(rejection: Rejection) -> Result<warp::reply::Response, std::convert::Infallible> {
    let method = rejection.find::<warp::reject::MethodNotAllowed>().is_some();
    Ok(refuse(if method { &Fault::Method } else { &Fault::NoRoute }))
}

#[derive(Serialize)]
struct Status {
    status: &'static str,
}

fn page(html: &'static str) -> warp::reply::Response {
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

fn json(status: StatusCode, value: &impl Serialize) -> warp::reply::Response {
    let mut body = serde_json::to_vec(value).unwrap_or_default();
    body.push(b'\n');
    json_bytes(status, body)
}

fn json_bytes(status: StatusCode, body: Vec<u8>) -> warp::reply::Response {
    let mut response = warp::reply::Response::new(Bytes::from(body).into());
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

fn refuse(fault: &Fault) -> warp::reply::Response {
    #[derive(Serialize)]
    struct Refused<'a> {
        ok: bool,
        error: ErrorBody<'a>,
    }
    let status = StatusCode::from_u16(fault.numbers().0).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = json(status, &Refused { ok: false, error: fault.body() });
    let extra = match status {
        StatusCode::UNAUTHORIZED => Some((header::WWW_AUTHENTICATE, "Bearer")),
        StatusCode::UPGRADE_REQUIRED => Some((header::UPGRADE, "websocket")),
        StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS => Some((header::RETRY_AFTER, "1")),
        // What is left of the body would be taken for the next request.
        StatusCode::PAYLOAD_TOO_LARGE | StatusCode::REQUEST_TIMEOUT => Some((header::CONNECTION, "close")),
        _ => None,
    };
    if let Some((name, value)) = extra {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}

/// Reads a body that has an end, in size and in time.
async fn read_body<B: Buf>(
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
        let mut bytes = Vec::with_capacity(announced.unwrap_or(0) as usize);
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

/// A message as publishers write it in JSON.
#[derive(Deserialize)]
struct Written<'a> {
    #[serde(default, borrow)]
    channel: Option<Cow<'a, str>>,
    /// `null` is a payload; only its absence is none.
    #[serde(default, borrow, deserialize_with = "present")]
    payload: Option<&'a RawValue>,
    #[serde(default, borrow)]
    event: Option<Cow<'a, str>>,
    #[serde(default, borrow)]
    meta: Option<&'a RawValue>,
    #[serde(default, borrow)]
    idempotency_key: Option<Cow<'a, str>>,
    /// Seconds.
    #[serde(default)]
    ttl: Option<f64>,
}

fn present<'de: 'a, 'a, D: Deserializer<'de>>(from: D) -> Result<Option<&'a RawValue>, D::Error> {
    <&RawValue>::deserialize(from).map(Some)
}

fn not_empty<'a>(text: Option<Cow<'a, str>>) -> Option<Cow<'a, str>> {
    text.filter(|text| !text.is_empty())
}

impl Written<'_> {
    fn draft(self) -> Result<Draft, Fault> {
        let channel = not_empty(self.channel).ok_or(Fault::Missing("channel"))?;
        let payload = self.payload.ok_or(Fault::Missing("payload"))?;
        Ok(Draft {
            channel: ChannelName::new(&channel).map_err(Fault::ChannelName)?,
            message: Message {
                payload: Bytes::copy_from_slice(payload.get().as_bytes()),
                media: Media::Json,
                content_type: None,
                event: not_empty(self.event).map(event_name).transpose()?,
                meta: self.meta.map(|meta| Bytes::copy_from_slice(meta.get().as_bytes())),
            },
            idempotency_key: not_empty(self.idempotency_key).map(idempotency_key).transpose()?,
            ttl: self.ttl.map(seconds).transpose()?,
        })
    }
}

fn event_name(name: Cow<'_, str>) -> Result<Box<str>, Fault> {
    if name.len() > 128 || name.chars().any(char::is_control) {
        return Err(Fault::Parameter("event: at most 128 bytes, no line breaks or other control characters".into()));
    }
    if RESERVED_EVENTS.contains(&&*name) {
        return Err(Fault::Parameter(format!("event: {name} is a name that the stream itself uses; choose another")));
    }
    Ok(name.into())
}

fn idempotency_key(key: Cow<'_, str>) -> Result<Box<str>, Fault> {
    if key.len() > 256 {
        return Err(Fault::Parameter("idempotency_key: at most 256 bytes".into()));
    }
    Ok(key.into())
}

fn seconds(ttl: f64) -> Result<Duration, Fault> {
    let wrong = || Fault::Parameter("ttl: a positive number of seconds, at most ten years".into());
    if !(ttl > 0.0 && ttl <= 315_360_000.0) {
        return Err(wrong());
    }
    Duration::try_from_secs_f64(ttl).map_err(|_| wrong())
}

#[derive(Serialize)]
struct Published<'a> {
    ok: bool,
    channel: &'a str,
    seq_id: Offset,
    epoch: String,
    timestamp: String,
    ack: &'static str,
    duplicate: bool,
}

impl<'a> From<&'a Receipt> for Published<'a> {
    fn from(receipt: &'a Receipt) -> Self {
        Published {
            ok: true,
            channel: receipt.channel.as_str(),
            seq_id: receipt.offset,
            epoch: receipt.epoch.to_string(),
            timestamp: timestamp(receipt.time),
            ack: match receipt.ack {
                Ack::Memory => "memory",
                Ack::Written => "written",
                Ack::Synced => "synced",
            },
            duplicate: receipt.duplicate,
        }
    }
}

async fn publish<B: Buf>(
    edge: Arc<Edge>,
    caller: Caller,
    body: impl Stream<Item = Result<B, warp::Error>> + Send,
) -> Result<warp::reply::Response, Fault> {
    if edge.hub.is_stopping() {
        return Err(Fault::Stopping);
    }
    let client = edge.connect(&caller).await?;
    let body = read_body(&caller, body, edge.settings.max_payload, edge.settings.body_timeout).await?;
    let draft = match caller.param("channel") {
        Some(channel) => raw_draft(&caller, channel, body)?,
        None => parse::<Written<'_>>(&body)?.draft()?,
    };
    let channel = draft.channel.clone();
    let receipt = edge.hub.publish(&client, draft).await;
    let receipt = receipt.map_err(|error| Fault::publish(error, client.credential, channel.as_str()))?;
    Ok(json(StatusCode::OK, &Published::from(&receipt)))
}

fn parse<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Result<T, Fault> {
    serde_json::from_slice(body).map_err(|error| Fault::Json(error.to_string()))
}

/// The body is the payload, any bytes; what else there is to say stands in the query.
fn raw_draft(caller: &Caller, channel: &str, payload: Bytes) -> Result<Draft, Fault> {
    let channel = ChannelName::new(channel).map_err(Fault::ChannelName)?;
    let named = caller.request.header("content-type").unwrap_or("").split(';').next().unwrap_or("").trim();
    let is_json = || serde_json::from_slice::<&RawValue>(&payload).map(|_| ());
    let is_text = || std::str::from_utf8(&payload).is_ok();
    let media = match named {
        "application/json" => {
            is_json().map_err(|error| Fault::Json(error.to_string()))?;
            Media::Json
        }
        // What curl says when it was told nothing.
        "" | "application/x-www-form-urlencoded" => match () {
            () if is_json().is_ok() => Media::Json,
            () if is_text() => Media::Text,
            () => Media::Binary,
        },
        other if other.starts_with("text/") && is_text() => Media::Text,
        other if other.ends_with("+json") && is_json().is_ok() => Media::Json,
        _ => Media::Binary,
    };
    let worth_saying = !matches!(named, "" | "application/json" | "application/x-www-form-urlencoded");
    let text = |name| caller.param(name).filter(|text| !text.is_empty()).map(Cow::Borrowed);
    let ttl = caller.param("ttl").map(|ttl| ttl.parse().unwrap_or(f64::NAN));
    Ok(Draft {
        channel,
        message: Message {
            payload,
            media,
            content_type: worth_saying.then(|| named.into()),
            event: text("event").map(event_name).transpose()?,
            meta: None,
        },
        idempotency_key: text("idempotency_key").map(idempotency_key).transpose()?,
        ttl: ttl.map(seconds).transpose()?,
    })
}

#[derive(Serialize)]
#[serde(untagged)]
enum Item<'a> {
    Done {
        index: usize,
        status: &'static str,
        #[serde(flatten)]
        published: Published<'a>,
    },
    Failed {
        index: usize,
        status: &'static str,
        error: ErrorBody<'a>,
    },
}

async fn publish_batch<B: Buf>(
    edge: Arc<Edge>,
    caller: Caller,
    body: impl Stream<Item = Result<B, warp::Error>> + Send,
) -> Result<warp::reply::Response, Fault> {
    #[derive(Deserialize)]
    struct Many<'a> {
        #[serde(borrow)]
        messages: Vec<&'a RawValue>,
    }
    if edge.hub.is_stopping() {
        return Err(Fault::Stopping);
    }
    let client = edge.connect(&caller).await?;
    let body = read_body(&caller, body, edge.settings.max_batch_bytes, edge.settings.body_timeout).await?;
    let Many { messages } = parse(&body)?;
    if messages.is_empty() {
        return Err(Fault::EmptyBatch);
    }
    if messages.len() > edge.settings.max_batch {
        return Err(Fault::LongBatch(edge.settings.max_batch));
    }
    let max = edge.settings.max_payload;
    let drafts = messages.iter().map(|raw| {
        if raw.get().len() > max {
            return Err(Fault::TooLarge { max });
        }
        parse::<Written<'_>>(raw.get().as_bytes())?.draft()
    });
    // Those that are well formed go together; the others keep their place in the answer.
    let (mut good, mut faults) = (Vec::new(), Vec::new());
    for draft in drafts {
        faults.push(draft.map(|draft| good.push(draft)).err());
    }
    let names: Vec<_> = good.iter().map(|draft| draft.channel.clone()).collect();
    let results = edge.hub.publish_batch(&client, good).await;
    let mut results = results.into_iter().zip(names).map(|(result, channel)| {
        result.map_err(|error| Fault::publish(error, client.credential, channel.as_str()))
    });
    let outcomes: Vec<Result<Receipt, Fault>> = faults
        .into_iter()
        .map(|fault| fault.map_or_else(|| results.next().unwrap_or(Err(Fault::Busy)), Err))
        .collect();
    #[derive(Serialize)]
    struct Results<'a> {
        ok: bool,
        results: Vec<Item<'a>>,
    }
    let results = outcomes.iter().enumerate().map(|(index, outcome)| match outcome {
        Ok(receipt) => Item::Done { index, status: "success", published: receipt.into() },
        Err(fault) => Item::Failed { index, status: "error", error: fault.body() },
    });
    Ok(json(StatusCode::OK, &Results { ok: true, results: results.collect() }))
}

/// A page of history: at most so many messages, and about so many bytes.
const HISTORY_DEFAULT: usize = 100;
const HISTORY_MAX: usize = 1000;
const HISTORY_BYTES: usize = 4 << 20;

async fn history(edge: Arc<Edge>, caller: Caller) -> Result<warp::reply::Response, Fault> {
    let client = edge.connect(&caller).await?;
    let channel = channel_param(&caller)?;
    let number = |name: &str| caller.param(name).filter(|text| !text.is_empty()).map(|text| text.parse::<u64>());
    let wrong = |what: &str| Fault::Parameter(what.to_owned());
    let after = number("after_seq").transpose().map_err(|_| wrong("after_seq must be a non-negative integer"))?;
    let before = number("before_seq").transpose().map_err(|_| wrong("before_seq must be a non-negative integer"))?;
    let limit = number("limit").transpose().ok().filter(|limit| *limit != Some(0));
    let limit = limit.ok_or_else(|| wrong("limit must be a positive integer"))?;
    let from = match (after, before) {
        (Some(_), Some(_)) => return Err(wrong("give after_seq or before_seq, not both")),
        (after, None) => HistoryFrom::After(after.unwrap_or(0)),
        (None, Some(before)) => HistoryFrom::Before(before),
    };
    let count = limit.map_or(HISTORY_DEFAULT, |limit| limit.min(HISTORY_MAX as u64) as usize);
    let page = edge.hub.history(&client, &channel, from, count, HISTORY_BYTES).await;
    let (page, epoch) = page.map_err(|error| Fault::read(error, client.credential, channel.as_str()))?;

    let mut out = format!("{{\"ok\":true,\"channel\":\"{channel}\",\"messages\":[").into_bytes();
    for (i, publication) in page.publications.iter().enumerate() {
        let comma = if i > 0 { "," } else { "" };
        let (offset, time) = (publication.offset, timestamp(publication.time));
        out.extend_from_slice(format!("{comma}{{\"seq_id\":{offset},\"timestamp\":\"{time}\",").as_bytes());
        native::put_payload(publication, &mut out);
        out.push(b'}');
    }
    let (first, last, more) = (page.extent.first, page.extent.last, page.more);
    let end = format!("],\"has_more\":{more},\"first_seq\":{first},\"last_seq\":{last},\"epoch\":\"{epoch}\"}}\n");
    out.extend_from_slice(end.as_bytes());
    Ok(json_bytes(StatusCode::OK, out))
}

fn channel_param(caller: &Caller) -> Result<ChannelName, Fault> {
    let name = caller.param("channel").filter(|name| !name.is_empty()).ok_or(Fault::Missing("channel"))?;
    ChannelName::new(name).map_err(Fault::ChannelName)
}

async fn forget(edge: Arc<Edge>, caller: Caller) -> Result<warp::reply::Response, Fault> {
    edge.admin(&caller).await?;
    let channel = channel_param(&caller)?;
    edge.hub.forget(&channel).await.map_err(|_| Fault::Store { doing: "delete history" })?;
    #[derive(Serialize)]
    struct Forgotten<'a> {
        ok: bool,
        channel: &'a str,
    }
    Ok(json(StatusCode::OK, &Forgotten { ok: true, channel: channel.as_str() }))
}

/// `GET /sse`: subscribes first, so that a refusal is an answer and not an event, then the body is the stream.
async fn event_stream(edge: Arc<Edge>, caller: Caller) -> Result<warp::reply::Response, Fault> {
    if edge.hub.is_stopping() {
        return Err(Fault::Stopping);
    }
    caller.check_origin(&edge.settings.origins)?;
    let mut names = Vec::new();
    for (_, name) in caller.request.query.iter().filter(|(key, _)| key == "channel") {
        let name = ChannelName::new(name).map_err(Fault::ChannelName)?;
        if !names.contains(&name) {
            names.push(name);
        }
    }
    let max = edge.settings.limits.channels_per_request;
    match names.len() {
        0 => return Err(Fault::Missing("channel")),
        asked if asked > max => return Err(Fault::TooManyInRequest { asked, max }),
        _ => {}
    }
    let cursor = caller.request.header("last-event-id").or(caller.param("cursor")).filter(|text| !text.is_empty());
    let cursor = cursor.map(|text| Cursor::parse(text).ok_or_else(|| Fault::Parameter("cursor: not one of ours".into())));
    let cursor = cursor.transpose()?.unwrap_or_default();
    let after = caller.param("after_seq").map(str::parse::<u64>).transpose();
    let after = after.map_err(|_| Fault::Parameter("after_seq must be a non-negative integer".into()))?;
    let bare = match caller.param("data") {
        None | Some("" | "frame") => false,
        Some("payload") => true,
        Some(_) => return Err(Fault::Parameter("data: payload or frame".into())),
    };

    let client = Arc::new(edge.connect(&caller).await?);
    let format = edge.formats.sse[usize::from(names.len() > 1)][usize::from(bare)].clone();
    let mut session = Session::new(edge.hub.clone(), client.clone(), format);
    for name in names {
        let start = match (cursor.position(&name), after) {
            (Some(position), _) => Start::After(position.offset, Some(position.epoch)),
            (None, Some(after)) => Start::After(after, None),
            (None, None) => Start::Now,
        };
        let outcome = session.subscribe(name.clone(), start).await;
        outcome.map_err(|error| match Fault::subscribe(error, name.as_str()) {
            Fault::Forbidden { refusal, .. } => Fault::refused(refusal, client.credential, Some(name.as_str())),
            other => other,
        })?;
    }
    let mut hello = Vec::new();
    SseDialect::hello(&session, edge.settings.sse_retry, &mut hello);
    let shared = edge.sse.clone();
    let permit = caller.peer.as_ref().map(|peer| peer.permit.clone());
    let events = Events::new(hello, |socket| async move {
        let _permit = permit;
        session::run(socket, SseDialect, session, shared).await
    });
    let mut response = warp::reply::stream(events).into_response();
    for (name, value) in [
        (header::CONTENT_TYPE, "text/event-stream"),
        (header::CACHE_CONTROL, "no-cache"),
        // Proxies of nginx's kind would hold events back otherwise.
        (header::HeaderName::from_static("x-accel-buffering"), "no"),
    ] {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    allow_origin(&edge, &caller, &mut response);
    Ok(response)
}

/// A page from another origin that the operator lists may read the answer.
fn allow_origin(edge: &Edge, caller: &Caller, response: &mut warp::reply::Response) {
    let listed = caller.headers.get(header::ORIGIN).filter(|o| o.to_str().is_ok_and(|o| edge.settings.origins.lists(o)));
    if let Some(origin) = listed {
        response.headers_mut().insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
        response.headers_mut().insert(header::VARY, HeaderValue::from_static("origin"));
    }
}

/// Metrics and status are for the operator: on the machine itself, or with an admin key.
async fn operator(edge: &Edge, caller: &Caller) -> Result<(), Fault> {
    if caller.from_loopback() && caller.request.bearer.is_none() {
        return Ok(());
    }
    edge.admin(caller).await.map(drop)
}

async fn metrics_page(edge: Arc<Edge>, caller: Caller) -> Result<warp::reply::Response, Fault> {
    operator(&edge, &caller).await?;
    let mut response = warp::reply::Response::new(Bytes::from(metrics::render(&edge.hub, &edge.others)).into());
    let kind = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    Ok(response)
}

async fn status(edge: Arc<Edge>, caller: Caller) -> Result<warp::reply::Response, Fault> {
    operator(&edge, &caller).await?;
    let counters = edge.hub.counters();
    Ok(json(
        StatusCode::OK,
        &serde_json::json!({
            "ok": true,
            "version": env!("CARGO_PKG_VERSION"),
            "ready": edge.ready.load(Ordering::Acquire),
            "uptime_seconds": (edge.hub.now() - edge.run) / 1_000_000,
            "connections": counters.sessions.get(),
            "subscriptions": counters.subscriptions.get(),
            "channels": edge.hub.channels_in_memory(),
            "published": counters.published.get(),
            "pushed": counters.pushed.get(),
        }),
    ))
}
