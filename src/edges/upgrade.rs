//! From a `GET /ws` to a connection of our own: the handshake, and the way of its socket out of hyper.

use std::sync::Arc;

use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tungstenite::handshake::derive_accept_key;
use warp::http::StatusCode;
use warp::http::header::{self, HeaderValue};
use warp::reply::Response;

use super::caller::Caller;
use super::deadline::{Deadline, TryWrite};
use super::deflate::Agreement;
use super::door::Permit;
use super::edge::Edge;
use super::line::Dialect;
use super::listen::at_home_here;
use super::native::WsDialect;
use super::session::{self, Shared};
use super::tls::TlsStream;
use super::wire::Fault;
use super::ws::{Parser, WsSocket};
use crate::kernel::session::Session;

/// The subprotocol that names our frames.
const SUBPROTOCOL: &str = "aether.v1";

pub async fn upgrade(edge: Arc<Edge>, caller: Caller, on_upgrade: Option<OnUpgrade>) -> Result<Response, Fault> {
    if edge.hub.is_stopping() {
        return Err(Fault::Stopping);
    }
    caller.check_origin(&edge.settings.origins)?;
    let key = handshake_key(&caller)?.to_owned();
    let heartbeat = caller.flag("heartbeat")?;
    let client = edge.connect(&caller).await?;
    let offers = caller.request.header("sec-websocket-protocol").unwrap_or("");
    let speaks_ours = offers.split(',').any(|offer| offer.trim() == SUBPROTOCOL);
    let dialect = WsDialect::new(edge.settings.limits, heartbeat).under(edge.load.clone());
    let (dialect, format) = match edge.settings.first_aether && !speaks_ours {
        true => (dialect.like_the_first(), edge.formats.first.clone()),
        false => (dialect, edge.formats.ws.clone()),
    };
    let deflate = edge.compression.agree(&caller.headers);
    let voice = Voice {
        dialect,
        session: Session::new(edge.hub.clone(), Arc::new(client), edge.agreed(format, deflate)),
        shared: edge.ws.clone(),
        max_message: edge.settings.max_message,
        deflate,
        hello: Vec::new(),
        permit: caller.peer.as_ref().map(|peer| peer.permit.clone()),
    };
    let mut response = switch(&edge, &key, on_upgrade, voice)?;
    if speaks_ours {
        response.headers_mut().insert(header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(SUBPROTOCOL));
    }
    Ok(response)
}

/// Whether a request wants to become a WebSocket, be it a proper one or not.
pub fn is_asked_for(caller: &Caller) -> bool {
    let asked = caller.headers.get(header::UPGRADE);
    asked.is_some_and(|to| to.as_bytes().eq_ignore_ascii_case(b"websocket"))
}

/// Answers the handshake whose key this is; `voice` speaks as soon as the answer is out.
pub fn switch<D: Dialect + 'static>(
    edge: &Edge,
    key: &str,
    on_upgrade: Option<OnUpgrade>,
    voice: Voice<D>,
) -> Result<Response, Fault> {
    let on_upgrade = on_upgrade.ok_or(Fault::Upgrade("this connection cannot be upgraded"))?;
    let deflate = voice.deflate;
    edge.delivery.spawn(async move {
        // The peer may be gone before it has read our answer.
        let Ok(upgraded) = on_upgrade.await else { return };
        match upgraded.downcast::<TokioIo<Deadline<TcpStream>>>() {
            Ok(parts) => {
                let Ok(stream) = at_home_here(parts.io.into_inner().into_inner()) else { return };
                voice.begin(stream, &parts.read_buf);
            }
            Err(upgraded) => {
                let Ok(parts) = upgraded.downcast::<TokioIo<Deadline<TlsStream>>>() else {
                    return tracing::error!("an upgraded connection is not of the kind that was accepted");
                };
                let Ok(stream) = parts.io.into_inner().into_inner().at_home_here() else { return };
                voice.begin(stream, &parts.read_buf);
            }
        }
    });

    let mut response = Response::default();
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    if let Ok(accept) = HeaderValue::from_str(&derive_accept_key(key.as_bytes())) {
        headers.insert(header::SEC_WEBSOCKET_ACCEPT, accept);
    }
    if let Some(agreement) = deflate {
        headers.insert(header::SEC_WEBSOCKET_EXTENSIONS, agreement.header());
    }
    Ok(response)
}

/// What a connection is served with.
pub struct Voice<D> {
    pub dialect: D,
    pub session: Session,
    pub shared: Arc<Shared>,
    pub max_message: usize,
    pub deflate: Option<Agreement>,
    /// Said first.
    pub hello: Vec<u8>,
    pub permit: Option<Arc<Permit>>,
}

impl<D: Dialect + 'static> Voice<D> {
    fn begin<S: TryWrite>(self, stream: S, early: &[u8]) {
        let Voice { dialect, session, shared, max_message, deflate, hello, permit } = self;
        let socket = WsSocket::new(stream, permit, Parser::new(max_message, deflate.is_some()), early);
        // A task of its own: the one before is as large as the handshake needs, and that would stay for the connection's life.
        // Nothing around it either: an `async` block would hold what it awaits twice.
        tokio::spawn(session::run(socket, dialect, session, shared, hello));
    }
}

/// The request's key, if it is a WebSocket handshake (RFC 6455, 4.2.1).
pub fn handshake_key(caller: &Caller) -> Result<&str, Fault> {
    let lists = |name: &str, word: &str| {
        let value = caller.request.header(name).unwrap_or("");
        value.split(',').any(|part| part.trim().eq_ignore_ascii_case(word))
    };
    if !lists("connection", "upgrade") || !lists("upgrade", "websocket") {
        return Err(Fault::Upgrade("this path speaks WebSocket: connect with a WebSocket client"));
    }
    if caller.request.header("sec-websocket-version") != Some("13") {
        return Err(Fault::Upgrade("WebSocket version 13 is spoken here"));
    }
    let key = caller.request.header("sec-websocket-key").filter(|key| !key.is_empty());
    key.ok_or(Fault::Upgrade("the handshake has no Sec-WebSocket-Key"))
}
