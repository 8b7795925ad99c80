//! Accepting connections, and bringing each to where it belongs.
//!
//! Publishing must not wait behind delivering, so the two run on runtimes of their own: a look at a connection's first
//! bytes tells a subscriber's `GET /ws`, `/sse` or `/poll` from everything else.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use hyper::body::{Body, Incoming};
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper::{Request, Response};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::deadline::Deadline;

/// The other side of a connection.
#[derive(Clone)]
pub struct Peer {
    pub address: SocketAddr,
    /// The connection's share of `limits.connections`; whoever holds the socket holds it.
    pub permit: Arc<OwnedSemaphorePermit>,
}

#[derive(Clone, Copy, Debug)]
pub struct Settings {
    pub max_connections: usize,
    pub header_timeout: Duration,
    pub write_timeout: Duration,
}

/// hyper's smallest read buffer, for connections that will only listen; it stays with them for life.
const LISTENER_BUFFER: usize = 8 * 1024;
/// For the others: most publishes fit in one read.
const PUBLISHER_BUFFER: usize = 64 * 1024;

/// The first bytes of a subscriber's request.
const LISTENERS: [&[u8]; 3] = [b"GET /ws", b"GET /sse", b"GET /poll"];

/// What accepting and serving need to know.
#[derive(Clone)]
pub struct Acceptor<S> {
    pub service: S,
    pub settings: Settings,
    /// Where connections that listen are served.
    pub delivery: Handle,
    /// Takes no new connection from here on; those that are there finish the request at hand.
    pub stop: CancellationToken,
    /// The connections that are being served.
    pub tasks: TaskTracker,
}

impl<S, B> Acceptor<S>
where
    S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible> + Clone + Send + Sync + 'static,
    S::Future: Send,
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    /// Accepts until it is stopped.
    pub async fn run(self, listener: TcpListener) {
        let room = Arc::new(Semaphore::new(self.settings.max_connections));
        let (mut turned_away, mut last_said) = (0, Instant::now());
        loop {
            let accepted = tokio::select! {
                () = self.stop.cancelled() => return,
                accepted = listener.accept() => accepted,
            };
            let (stream, address) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    // Out of file descriptors, most likely: those that are open go on, and some will close.
                    tracing::warn!(%error, "a connection could not be accepted");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            };
            let Ok(permit) = room.clone().try_acquire_owned() else {
                turned_away += 1;
                if last_said.elapsed() > Duration::from_secs(1) {
                    let max = self.settings.max_connections;
                    tracing::warn!(%address, max, turned_away, "too many connections (limits.connections)");
                    last_said = Instant::now();
                }
                continue;
            };
            let peer = Peer { address, permit: Arc::new(permit) };
            let acceptor = self.clone();
            self.tasks.spawn(async move { acceptor.place(stream, peer).await });
        }
    }

    /// Looks at what the connection wants and serves it where that belongs.
    async fn place(self, stream: TcpStream, peer: Peer) {
        let _ = stream.set_nodelay(true);
        let look = tokio::time::timeout(self.settings.header_timeout, will_listen(&stream));
        let listens = tokio::select! {
            () = self.stop.cancelled() => return,
            looked = look => match looked {
                Ok(Ok(listens)) => listens,
                _ => return,
            },
        };
        if listens {
            let Ok(stream) = stream.into_std() else { return };
            let delivery = self.delivery.clone();
            let tasks = self.tasks.clone();
            tasks.spawn_on(
                async move {
                    if let Ok(stream) = TcpStream::from_std(stream) {
                        self.serve(stream, peer, LISTENER_BUFFER).await;
                    }
                },
                &delivery,
            );
        } else {
            self.serve(stream, peer, PUBLISHER_BUFFER).await;
        }
    }

    async fn serve(self, stream: TcpStream, peer: Peer, buffer: usize) {
        let Acceptor { service, settings, stop, .. } = self;
        let service = service_fn(move |mut request: Request<Incoming>| {
            request.extensions_mut().insert(peer.clone());
            service.call(request)
        });
        let io = TokioIo::new(Deadline::new(stream, settings.write_timeout));
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(settings.header_timeout)
            .max_buf_size(buffer)
            .serve_connection(io, service)
            .with_upgrades();
        let mut connection = std::pin::pin!(connection);
        tokio::select! {
            // Peers that break off are everyday life, and requests that were served are none of this.
            _ = connection.as_mut() => return,
            () = stop.cancelled() => connection.as_mut().graceful_shutdown(),
        }
        let _ = connection.await;
    }
}

/// Whether a connection's first request is a subscriber's. Waits until enough bytes are there to tell.
async fn will_listen(stream: &TcpStream) -> io::Result<bool> {
    let mut first = [0; 10];
    let mut pause = Duration::from_millis(5);
    loop {
        let seen = stream.peek(&mut first).await?;
        let seen = &first[..seen];
        if seen.is_empty() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if LISTENERS.iter().any(|begin| seen.starts_with(begin)) {
            return Ok(true);
        }
        if !LISTENERS.iter().any(|begin| begin.starts_with(seen)) {
            return Ok(false);
        }
        // A few bytes that may become either; peeking does not wait for more. Who dawdles is looked at ever more seldom.
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(Duration::from_secs(1));
    }
}
