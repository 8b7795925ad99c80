//! What the hub shows of itself: metrics, status, and pages.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use serde::Serialize;
use warp::Reply;
use warp::http::StatusCode;
use warp::http::header::{self, HeaderValue};
use warp::reply::Response;

use super::answers::json;
use super::caller::Caller;
use super::edge::Edge;
use super::metrics as figures;
use super::wire::Fault;

pub fn page(html: &'static str) -> Response {
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

/// Metrics and status are for the operator: on the machine itself, or with an admin key.
async fn operator(edge: &Edge, caller: &Caller) -> Result<(), Fault> {
    if caller.is_local() && caller.request.bearer.is_none() {
        return Ok(());
    }
    edge.admin(caller).await.map(drop)
}

pub async fn metrics(edge: Arc<Edge>, caller: Caller) -> Result<Response, Fault> {
    operator(&edge, &caller).await?;
    let mut response = Response::new(
        Bytes::from(figures::render(
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
pub async fn cache(edge: Arc<Edge>, caller: Caller) -> Result<Response, Fault> {
    operator(&edge, &caller).await?;
    #[derive(Serialize)]
    struct Cache {
        ok: bool,
        cache_hits: u64,
        cache_misses: u64,
        hit_rate_pct: f64,
    }
    let (hits, misses) = figures::credentials(&edge.beside.counters);
    let hit_rate_pct = hits as f64 * 100.0 / (hits + misses).max(1) as f64;
    Ok(json(StatusCode::OK, &Cache { ok: true, cache_hits: hits, cache_misses: misses, hit_rate_pct }))
}

pub async fn status(edge: Arc<Edge>, caller: Caller) -> Result<Response, Fault> {
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
