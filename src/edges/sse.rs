//! Server-sent events: the response body is the connection loop itself.
//!
//! hyper asks the body for bytes when its own buffer has room; the body then runs the loop until that has something to
//! write. So an event stream is one task with its connection, and the loop is the same as for a WebSocket.

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::Stream;
use parking_lot::Mutex;
use tokio::time::Instant;

use warp::Reply;
use warp::http::header::{self, HeaderName, HeaderValue};
use warp::reply::Response;

use super::caller::Caller;
use super::door::Permit;
use super::edge::Edge;
use super::line::{Frame, Socket};
use super::listening::Asked;
use super::native::SseDialect;
use super::origin::Origins;
use super::session;
use super::wire::{Ending, Fault};

/// Bytes on their way to hyper, at most one turn's.
#[derive(Clone, Default)]
struct Slot(Arc<Mutex<Option<Bytes>>>);

/// One turn's bytes: a reader that takes nothing costs no more than this.
const TURN: usize = 32 * 1024;

pub struct SseSocket(Slot);

impl Socket for SseSocket {
    fn try_write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut slot = self.0.0.lock();
        if slot.is_some() {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        *slot = Some(Bytes::copy_from_slice(bytes));
        Ok(bytes.len())
    }

    fn room(&self) -> usize {
        TURN
    }

    /// hyper's task is the one that sends.
    fn has_unsent(&self) -> bool {
        true
    }

    /// No waker is needed: whoever empties the slot polls the loop next.
    fn poll_writable(&mut self, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.0.0.lock().is_some() { Poll::Pending } else { Poll::Ready(Ok(())) }
    }

    fn poll_frame(&mut self, _cx: &mut Context<'_>) -> Poll<Result<Frame, Ending>> {
        Poll::Pending
    }

    async fn finish(&mut self, _deadline: Instant) {}
}

/// The loop, as a stream of what it writes.
pub struct Events {
    slot: Slot,
    /// hyper wants a body that may be shared between threads; it is only ever used through `&mut`.
    looping: Mutex<Option<Pin<Box<dyn Future<Output = Ending> + Send>>>>,
    _permit: Option<Arc<Permit>>,
}

impl Events {
    /// `serve` is given the socket and runs the loop.
    pub fn new<F>(hello: Vec<u8>, permit: Option<Arc<Permit>>, serve: impl FnOnce(SseSocket) -> F) -> Events
    where
        F: Future<Output = Ending> + Send + 'static,
    {
        let slot = Slot::default();
        *slot.0.lock() = Some(hello.into());
        let looping = serve(SseSocket(slot.clone()));
        Events { slot, looping: Mutex::new(Some(Box::pin(looping))), _permit: permit }
    }
}

impl Stream for Events {
    type Item = Result<Bytes, Infallible>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let Events { slot, looping, .. } = &mut *self;
        if let Some(bytes) = slot.0.lock().take() {
            return Poll::Ready(Some(Ok(bytes)));
        }
        let running = looping.get_mut();
        if let Some(future) = running
            && future.as_mut().poll(cx).is_ready()
        {
            *running = None;
        }
        match slot.0.lock().take() {
            Some(bytes) => Poll::Ready(Some(Ok(bytes))),
            None if running.is_none() => Poll::Ready(None),
            None => Poll::Pending,
        }
    }
}

/// `GET /sse`: subscribes first, so that a refusal is an answer and not an event, then the body is the stream.
pub async fn open(edge: Arc<Edge>, caller: Caller) -> Result<Response, Fault> {
    if edge.hub.is_stopping() {
        return Err(Fault::Stopping);
    }
    caller.check_origin(&edge.settings.origins)?;
    let asked = Asked::of(&edge, &caller)?;
    let bare = match caller.param("data") {
        None | Some("" | "frame") => false,
        Some("payload") => true,
        Some(_) => return Err(Fault::Parameter("data: payload or frame".into())),
    };

    let format = edge.formats.sse[usize::from(asked.channels.len() > 1)][usize::from(bare)].clone();
    let session = asked.subscribe(&edge, &caller, format).await?;
    let mut hello = Vec::new();
    let (least, spread) = edge.settings.sse_retry;
    let others = edge.hub.counters().sessions.get().saturating_sub(1);
    let retry = edge.load.governor.unasked(others, least, spread);
    SseDialect::hello(&session, retry, &mut hello);
    let heartbeat = caller.flag("heartbeat")?;
    let shared = edge.sse.clone();
    let permit = caller.peer.as_ref().map(|peer| peer.permit.clone());
    let events = Events::new(hello, permit, |socket| {
        session::run(socket, SseDialect { heartbeat }, session, shared, Vec::new())
    });
    let mut response = stream(events);
    allow_origin(&edge.settings.origins, &caller, &mut response);
    Ok(response)
}

/// The answer whose body is the stream.
pub fn stream(events: Events) -> Response {
    let mut response = warp::reply::stream(events).into_response();
    for (name, value) in [
        (header::CONTENT_TYPE, "text/event-stream"),
        (header::CACHE_CONTROL, "no-cache"),
        // Proxies of nginx's kind would hold events back otherwise.
        (HeaderName::from_static("x-accel-buffering"), "no"),
    ] {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}

/// A page from another origin that the operator lists may read the answer.
pub fn allow_origin(origins: &Origins, caller: &Caller, response: &mut Response) {
    let listed = caller.headers.get(header::ORIGIN).filter(|o| o.to_str().is_ok_and(|o| origins.lists(o)));
    if let Some(origin) = listed {
        response.headers_mut().insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
        response.headers_mut().insert(header::VARY, HeaderValue::from_static("origin"));
    }
}
