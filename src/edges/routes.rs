//! Requests that plugins answer: let in as their route asks, and bounded as any other.

use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;

use bytes::{Buf, Bytes};
use futures_util::Stream;
use warp::http::header::{self, HeaderName, HeaderValue};
use warp::http::{Method, StatusCode};
use warp::reply::Response;

use super::answers::{read_body, refuse};
use super::caller::Caller;
use super::edge::Edge;
use super::http::Surface;
use super::wire::Fault;
use crate::kernel::hooks::{Client, ConnectRequest, Refusal, RefusalKind, Request};

/// The paths that the hub answers itself, which no plugin's route may take.
pub const OWN_PATHS: &[&str] = &[
    "/",
    "/api/v1/channels",
    "/api/v1/disconnect",
    "/api/v1/history",
    "/api/v1/presence",
    "/api/v1/publish",
    "/api/v1/publish/batch",
    "/api/v1/rules",
    "/api/v1/rules/tail",
    "/api/v1/rules/{verb}",
    "/api/v1/sessions",
    "/api/v1/unsubscribe",
    "/api/v2/publish/batch",
    "/debug/cache",
    "/healthz",
    "/metrics",
    "/metricsz",
    "/poll",
    "/readyz",
    "/sse",
    "/status",
    "/ws",
];

/// What plugins answer to.
pub trait Routes: Send + Sync + 'static {
    /// `listener`: one that plugins have for themselves.
    fn find(&self, listener: Option<SocketAddr>, method: &str, path: &str) -> Found;
}

/// What a request is for.
pub enum Found {
    /// No plugin's.
    Nothing,
    /// A plugin's path, which answers only to these methods.
    Methods(Vec<&'static str>),
    Route(Box<dyn Route>),
}

/// Who may use a route.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Auth {
    /// Who has admin access.
    Admin,
    /// Whoever the rules let in.
    Connect,
    /// Everybody, and nobody is asked.
    Nobody,
}

/// A route that one request has found.
pub trait Route: Send + Sync {
    fn auth(&self) -> Auth;
    /// Runs what belongs to the request: the rules that know the route also judge who asks.
    fn judging<'a>(&self, request: Request<'a>) -> Request<'a>;
    fn answer(self: Box<Self>, visit: Visit) -> Pin<Box<dyn Future<Output = Result<Answer, Refusal>> + Send>>;
}

/// A request, whole.
pub struct Visit {
    pub request: ConnectRequest,
    pub body: Bytes,
    pub client: Option<Client>,
}

pub struct Answer {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Bytes,
}

/// A request that is some plugin's.
pub enum Taken {
    Methods(Vec<&'static str>),
    Route(Box<dyn Route>),
}

/// The plugin's part of a request, if there is one on this listener.
pub fn find(edge: &Edge, method: &Method, path: &str, surface: Surface) -> Option<Taken> {
    let listener = match surface {
        Surface::Whole | Surface::Public => None,
        Surface::OfPlugins(address) => Some(address),
    };
    match edge.beside.routes.find(listener, method.as_str(), path) {
        Found::Nothing => None,
        Found::Methods(methods) => Some(Taken::Methods(methods)),
        // What is the operator's is on the operator's listener.
        Found::Route(route) if route.auth() == Auth::Admin && surface == Surface::Public => None,
        Found::Route(route) => Some(Taken::Route(route)),
    }
}

pub async fn serve<B: Buf>(
    edge: Arc<Edge>,
    caller: Caller,
    taken: Taken,
    body: impl Stream<Item = Result<B, warp::Error>> + Send,
) -> Result<Response, Fault> {
    let route = match taken {
        Taken::Route(route) => route,
        Taken::Methods(methods) => {
            let mut response = refuse(&Fault::Method);
            if let Ok(methods) = HeaderValue::from_str(&methods.join(", ")) {
                response.headers_mut().insert(header::ALLOW, methods);
            }
            return Ok(response);
        }
    };
    if edge.hub.is_stopping() {
        return Err(Fault::Stopping);
    }
    let mut entered = Err(Fault::Stopping);
    route.judging(Box::pin(async { entered = enter(&edge, &caller, route.auth()).await })).await;
    let client = entered?;
    let settings = &edge.settings;
    let body = read_body(&caller, body, settings.max_payload, settings.body_timeout).await?;
    let request = caller.with_meant_cookies(&settings.origins)?.into_owned();
    let visit = Visit { request, body, client };
    let answer = route.answer(visit).await.map_err(|refusal| match refusal.kind {
        RefusalKind::Broken => Fault::Broken(refusal),
        RefusalKind::Denied | RefusalKind::Busy => Fault::Forbidden { refusal, what: None },
    })?;
    Ok(rendered(answer))
}

async fn enter(edge: &Edge, caller: &Caller, auth: Auth) -> Result<Option<Client>, Fault> {
    match auth {
        Auth::Admin => edge.admin(caller).await.map(Some),
        Auth::Connect => edge.connect(caller).await.map(Some),
        Auth::Nobody => caller.peer.as_ref().and_then(|peer| peer.unwelcome).map_or(Ok(None), |why| Err(why.into())),
    }
}

pub fn rendered(answer: Answer) -> Response {
    let mut response = Response::new(answer.body.into());
    *response.status_mut() = StatusCode::from_u16(answer.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    // A browser must not take for a page what was not said to be one.
    response.headers_mut().insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    for (name, value) in answer.headers {
        if let (Ok(name), Ok(value)) = (HeaderName::try_from(name), HeaderValue::try_from(value)) {
            response.headers_mut().append(name, value);
        }
    }
    response
}
