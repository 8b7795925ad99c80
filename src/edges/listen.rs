//! Accepting connections, and bringing each to where it belongs.
//!
//! Publishing must not wait behind delivering, so the two run on runtimes of their own: a look at a connection's first
//! bytes tells a subscriber's `GET /ws`, `/sse` or `/poll` from everything else. Of a TLS connection that look is taken at the
//! first bytes that were decrypted: handshakes cost a publisher's time, and never a reader's. Accepting and looking have a
//! runtime of their own: ten thousand connections that come at once stand there, and before nobody's answer.

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Body, Incoming};
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper::{HeaderMap, Request, Response, Uri};
use hyper_util::rt::{TokioIo, TokioTimer};
use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::arrivals::{Arrivals, Turn};
use super::certificates::Certificates;
use super::deadline::Deadline;
use super::door::{Door, Full, Permit};
use super::exhaustion::{self, Exhaustion, Files};
use super::forwarded::{self, Trusted};
use super::load::Load;
use super::tls::TlsStream;
use super::vanished;
use super::wire::{ErrorBody, Fault};

/// The other side of a connection.
#[derive(Clone)]
pub struct Peer {
    /// Its address; behind a trusted proxy the one that the proxy names.
    pub ip: IpAddr,
    /// It is not the machine at the other end of the socket.
    pub proxied: bool,
    /// Its place inside; whoever holds the socket holds it.
    pub permit: Arc<Permit>,
    /// Why a request with this head is not served; health is.
    pub unwelcome: Option<Unwelcome>,
}

#[derive(Clone, Copy, Debug)]
pub enum Unwelcome {
    Full,
    Contradiction,
}

impl From<Unwelcome> for Fault {
    fn from(why: Unwelcome) -> Fault {
        match why {
            Unwelcome::Full => Fault::TooManyConnections,
            Unwelcome::Contradiction => {
                Fault::Parameter("Forwarded and X-Forwarded-For name different clients: send neither".into())
            }
        }
    }
}

#[derive(Clone, Copy, Debug)]
pub struct Settings {
    pub header_timeout: Duration,
    pub write_timeout: Duration,
    pub peer_timeout: Duration,
}

/// hyper's smallest read buffer, for connections that will only listen; it stays with them for life.
const LISTENER_BUFFER: usize = 8 * 1024;
/// For the others: most publishes fit in one read.
const PUBLISHER_BUFFER: usize = 64 * 1024;

/// Who finds no place is told so, as long as no more than this many are being told; beyond, the connection is closed.
const COURTESIES: usize = 64;
/// How long that may take, and how much of what they had sent is read meanwhile.
const COURTESY_TIME: Duration = Duration::from_secs(1);
const COURTESY_READ: u64 = 64 * 1024;

/// The first bytes of a subscriber's request.
const LISTENERS: [&[u8]; 3] = [b"GET /ws", b"GET /sse", b"GET /poll"];
/// As much of them is looked at; the shortest request line there is has more.
const LOOK: usize = 14;

/// Connections that may wait to be accepted, as far as the system lets them (`net.core.somaxconn`). What finds no room there
/// is tried again by the client's system after 1, 3, 7 seconds: ten thousand that come at once would still be coming in after
/// half a minute.
const BACKLOG: u32 = 4096;
/// Accepted at a stretch; then those have a turn who are there.
const STRETCH: usize = 8;

/// Opens a listener; within a runtime.
pub fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    // A hub that is started again finds its port in the state that its last connections have left.
    #[cfg(not(windows))]
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// How the requests begin that others than the hub answer with streams.
pub type Streams = Arc<dyn Fn() -> Vec<Vec<u8>> + Send + Sync>;

/// What accepting and serving need to know.
#[derive(Clone)]
pub struct Acceptor<S> {
    pub service: S,
    pub settings: Settings,
    pub door: Arc<Door>,
    pub load: Arc<Load>,
    pub trusted: Trusted,
    /// Speaks TLS, and nothing else.
    pub certificates: Option<Arc<Certificates>>,
    /// Where connections that listen are served.
    pub delivery: Handle,
    /// Where the others are.
    pub front: Handle,
    pub arrivals: Arrivals,
    pub streams: Streams,
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
        let courtesies = Arc::new(Semaphore::new(COURTESIES));
        let mut exhaustion = Exhaustion::default();
        for number in 1usize.. {
            if number.is_multiple_of(STRETCH) {
                tokio::task::yield_now().await;
            }
            let accepted = tokio::select! {
                () = self.stop.cancelled() => return,
                accepted = listener.accept() => accepted,
            };
            let (stream, address) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    exhaustion.rest(&error, &self.door).await;
                    continue;
                }
            };
            exhaustion.look();
            let ip = address.ip();
            let permit = match self.admit(&stream, ip) {
                Ok(permit) => Arc::new(permit),
                Err(_) => {
                    // Over TLS a word would cost us a handshake.
                    let speaks_plain = self.certificates.is_none();
                    let can_speak = speaks_plain && exhaustion::beside(&stream) != Files::Last;
                    if can_speak && let Ok(courtesy) = courtesies.clone().try_acquire_owned() {
                        let retry = self.load.governor.place();
                        self.tasks.spawn(async move {
                            let _ = tokio::time::timeout(COURTESY_TIME, turn_away(stream, retry)).await;
                            drop(courtesy);
                        });
                    }
                    continue;
                }
            };
            let peer = Peer { ip, proxied: false, permit, unwelcome: None };
            let acceptor = self.clone();
            self.tasks.spawn(async move { acceptor.place(stream, peer).await });
        }
    }

    fn admit(&self, stream: &TcpStream, ip: IpAddr) -> Result<Permit, Full> {
        let files = exhaustion::beside(stream);
        if files == Files::Last || (files == Files::Few && !self.door.is_operators) {
            return Err(self.door.turns_away(Full::Files, ip));
        }
        self.door.admit(ip, (self.trusted)(ip.to_canonical()))
    }

    /// Looks at what the connection wants and serves it where that belongs.
    async fn place(self, stream: TcpStream, peer: Peer) {
        let _ = stream.set_nodelay(true);
        let _ = vanished::watch(&stream, self.settings.peer_timeout);
        if let Some(certificates) = &self.certificates {
            let (config, front, tasks) = (certificates.current(), self.front.clone(), self.tasks.clone());
            tasks.spawn_on(self.place_encrypted(stream, peer, config), &front);
            return;
        }
        let looked = self.in_time(self.settings.header_timeout, will_listen(&stream, &self.streams)).await;
        let Some(Ok(listens)) = looked else { return };
        self.serve_at_home(stream, peer, listens, at_home_here).await;
    }

    async fn place_encrypted(self, stream: TcpStream, peer: Peer, config: Arc<ServerConfig>) {
        let Ok(stream) = at_home_here(stream) else { return };
        let timeout = self.settings.header_timeout;
        let Some(Ok(mut stream)) = self.in_time(timeout, TlsStream::accept(stream, config)).await else { return };
        let looked = self.in_time(timeout, stream.peek()).await;
        let Some(Ok(listens)) =
            looked.map(|first| first.map(|first| begins_as_listener(first, &(self.streams)()) == Some(true)))
        else {
            return;
        };
        self.serve_at_home(stream, peer, listens, TlsStream::at_home_here).await;
    }

    /// None if it takes longer, or the hub stops.
    async fn in_time<T>(&self, timeout: Duration, what: impl Future<Output = T>) -> Option<T> {
        let in_time = tokio::time::timeout(timeout, what);
        self.stop.run_until_cancelled(in_time).await?.ok()
    }

    async fn serve_at_home<I>(self, stream: I, peer: Peer, listens: bool, at_home: fn(I) -> io::Result<I>)
    where
        I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        // Who has waited as long as it may take to say something comes in beside the line.
        let turn = match listens {
            true => self.in_time(self.settings.header_timeout, self.arrivals.turn()).await.map(Arc::new),
            false => None,
        };
        let (home, buffer) = match listens {
            true => (self.delivery.clone(), LISTENER_BUFFER),
            false => (self.front.clone(), PUBLISHER_BUFFER),
        };
        let tasks = self.tasks.clone();
        let there = async move {
            if let Ok(stream) = at_home(stream) {
                self.serve(stream, peer, buffer, turn).await;
            }
        };
        tasks.spawn_on(there, &home);
    }

    /// Its turn to arrive, if it has one, is over with its first answer.
    async fn serve<I>(self, stream: I, peer: Peer, buffer: usize, turn: Option<Arc<Turn>>)
    where
        I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let Acceptor { service, settings, stop, door, trusted, .. } = self;
        let arrives = turn.clone();
        let service = service_fn(move |mut request: Request<Incoming>| {
            let peer = peer.behind(request.headers(), &trusted, &door);
            request.extensions_mut().insert(peer);
            if request.uri().path_and_query().is_none() {
                // `CONNECT host:port` has no path (RFC 9112, 3.2.3), and warp panics for want of one.
                *request.uri_mut() = Uri::from_static("*");
            }
            let (answer, arrives) = (service.call(request), arrives.clone());
            async move {
                let answer = answer.await;
                arrives.inspect(|turn| turn.over());
                answer
            }
        });
        let io = TokioIo::new(Deadline::new(stream, settings.write_timeout));
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(settings.header_timeout)
            .max_buf_size(buffer)
            .serve_connection(io, service)
            .with_upgrades();
        let mut connection = std::pin::pin!(connection);
        if let Some(turn) = turn {
            // Boxed: a stream lasts for hours, and this is over in a moment.
            tokio::select! {
                _ = connection.as_mut() => return,
                () = Box::pin(async move { turn.runs_out().await }) => {}
            }
        }
        tokio::select! {
            // Peers that break off are everyday life, and requests that were served are none of this.
            _ = connection.as_mut() => return,
            () = stop.cancelled() => connection.as_mut().graceful_shutdown(),
        }
        let _ = connection.await;
    }
}

impl Peer {
    /// Who sends this head over the connection.
    fn behind(&self, headers: &HeaderMap, trusted: &Trusted, door: &Arc<Door>) -> Peer {
        let origin = match forwarded::origin(self.ip, headers, trusted) {
            Ok(origin) => origin,
            Err(forwarded::Contradiction) => {
                return Peer { proxied: true, unwelcome: Some(Unwelcome::Contradiction), ..self.clone() };
            }
        };
        let mut peer = Peer { ip: origin.ip, proxied: origin.proxied, ..self.clone() };
        if origin.ip != self.ip {
            match door.admit_behind(origin.ip, &self.permit) {
                Ok(permit) => peer.permit = Arc::new(permit),
                Err(_) => peer.unwelcome = Some(Unwelcome::Full),
            }
        }
        peer
    }
}

/// Brings a socket to the runtime that we are on; it may have been accepted on another.
pub fn at_home_here(stream: TcpStream) -> io::Result<TcpStream> {
    TcpStream::from_std(stream.into_std()?)
}

/// The whole answer to a connection that finds no place; its request is not looked at.
fn no_place(retry: Duration) -> String {
    let (fault, retry_ms) = (Fault::TooManyConnections, retry.as_millis() as u64);
    let error = ErrorBody { retry_ms: Some(retry_ms), ..fault.body() };
    let body = format!("{}\n", serde_json::json!({ "ok": false, "error": error }));
    format!(
        "HTTP/1.1 {} Service Unavailable\r\ncontent-type: application/json\r\ncontent-length: {}\r\nretry-after: {}\r\n\
         connection: close\r\n\r\n{body}",
        fault.numbers().0,
        body.len(),
        retry_ms.div_ceil(1000),
    )
}

/// Says no and closes. What the client has sent is read first, as far as it goes: closing on unread bytes resets the
/// connection, and the answer would be lost with it.
async fn turn_away(mut stream: TcpStream, retry: Duration) -> io::Result<()> {
    stream.write_all(no_place(retry).as_bytes()).await?;
    stream.shutdown().await?;
    tokio::io::copy(&mut stream.take(COURTESY_READ), &mut tokio::io::sink()).await.map(drop)
}

/// Whether a connection's first request is a subscriber's. Waits until enough bytes are there to tell.
async fn will_listen(stream: &TcpStream, streams: &Streams) -> io::Result<bool> {
    let mut first = [0; LOOK];
    let streams = streams();
    let mut pause = Duration::from_millis(5);
    loop {
        let seen = stream.peek(&mut first).await?;
        let seen = &first[..seen];
        if seen.is_empty() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if let Some(listens) = begins_as_listener(seen, &streams) {
            return Ok(listens);
        }
        // A few bytes that may become either; peeking does not wait for more. Who dawdles is looked at ever more seldom.
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(Duration::from_secs(1));
    }
}

/// None if these bytes may become either.
fn begins_as_listener(seen: &[u8], streams: &[Vec<u8>]) -> Option<bool> {
    let mut all = LISTENERS.into_iter().chain(streams.iter().map(|begin| &begin[..begin.len().min(LOOK)]));
    let mut may_become = false;
    if all.any(|begin| {
        may_become |= begin.starts_with(seen);
        seen.starts_with(begin)
    }) {
        return Some(true);
    }
    (!may_become).then_some(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn those_who_come_at_once_find_room_before_any_is_accepted() {
        let allowed = std::fs::read_to_string("/proc/sys/net/core/somaxconn");
        let allowed: usize = allowed.ok().and_then(|text| text.trim().parse().ok()).unwrap_or(128);
        let listener = bind(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
        let address = listener.local_addr().unwrap();
        let mut waiting = Vec::new();
        for number in 0..allowed.min(1000) {
            // Whoever finds no room tries again after a second.
            let connected = tokio::time::timeout(Duration::from_millis(900), TcpStream::connect(address)).await;
            waiting.push(connected.unwrap_or_else(|_| panic!("{number} found room, and one more did not")).unwrap());
        }
    }
}
