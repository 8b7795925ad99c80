//! HTTP: which request is answered by whom; and where WebSockets and event streams begin.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use hyper::upgrade::OnUpgrade;
use serde::Serialize;
use warp::filters::BoxedFilter;
use warp::http::{Method, StatusCode};
use warp::reply::Response;
use warp::{Filter, Rejection};

use super::answers::{json, refuse};
use super::caller::{Caller, caller};
use super::edge::Edge;
use super::wire::Fault;
use super::{admin, foreign, history, operator, pages, poll, publish, routes, sse, tail, upgrade};
use crate::kernel::dialect::{Mount, Transport};
use crate::kernel::hooks::ConnectRequest;

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

    let console = warp::path::end().and(get_or_head()).map(|| pages::page(include_str!("console.html")));
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
    let metrics = metrics.then(|edge, caller| answer(edge, |edge| pages::metrics(edge, caller)));
    let cache = warp::path!("debug" / "cache").and(get_or_head()).and(api());
    let cache = cache.then(|edge, caller| answer(edge, |edge| pages::cache(edge, caller)));
    let status = warp::path!("status")
        .and(get_or_head())
        .and(api())
        .then(|edge, caller| answer(edge, |edge| pages::status(edge, caller)));

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
