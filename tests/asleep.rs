//! **Who sleeps is written to**: the herald writes what is new, and wakes a connection's task only for what it alone can do.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use aether::edges::line::{Frame, Socket};
use aether::edges::load::{self, Load};
use aether::edges::native::{Limits, WsDialect};
use aether::edges::pulse::Pulse;
use aether::edges::roster::{Order, Roster};
use aether::edges::session::{self, Shared};
use aether::edges::wire::Ending;
use aether::kernel::session::{Session, Start};

use crate::common::kernel::{Kernel, Rules, listen};
use crate::common::line::Line;
use crate::common::{DEADLINE, until, within};

fn shared() -> Arc<Shared> {
    let pulse = Pulse { interval: DEADLINE * 10, timeout: None, write_timeout: DEADLINE * 10, drain: Duration::ZERO };
    Arc::new(Shared { pulse, roster: Arc::new(Roster::default()), load: Load::new(load::Limits::default()) })
}

fn dialect() -> WsDialect {
    WsDialect::new(Limits { channels_per_request: 1, channels_per_connection: 1, refusals_per_minute: 0 }, false)
}

async fn listening(kernel: &Kernel, id: &str) -> Session {
    let mut session = kernel.session(id);
    listen(&mut session, "a", Start::Now).await;
    session
}

/// A connection whose task runs when the test says so.
struct Asleep {
    task: Pin<Box<dyn Future<Output = Ending>>>,
    woken: Arc<Count>,
}

#[derive(Default)]
struct Count(AtomicUsize);

impl Wake for Count {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

impl Asleep {
    fn new(session: Session, socket: impl Socket + 'static, shared: &Arc<Shared>) -> Asleep {
        let task = Box::pin(session::run(socket, dialect(), session, shared.clone(), Vec::new()));
        let mut asleep = Asleep { task, woken: Arc::default() };
        assert!(asleep.runs().is_pending());
        assert_eq!(asleep.wakes(), 0);
        asleep
    }

    fn runs(&mut self) -> Poll<Ending> {
        self.task.as_mut().poll(&mut Context::from_waker(&Waker::from(self.woken.clone())))
    }

    fn wakes(&self) -> usize {
        self.woken.0.load(Ordering::SeqCst)
    }
}

#[tokio::test]
async fn who_sleeps_is_written_to_and_goes_on_sleeping() {
    let kernel = Kernel::start(Arc::new(Rules::default()));
    let line = Line::default();
    let ann = Asleep::new(listening(&kernel, "ann").await, line.clone(), &shared());
    for word in ["one", "two", "three"] {
        kernel.say("a", &[word]).await;
        until("it is written", async || line.text().contains(word)).await;
    }
    assert_eq!(line.text().matches('\n').count(), 3, "each once: {}", line.text());
    assert_eq!(ann.wakes(), 0);
}

#[tokio::test]
async fn who_has_been_ordered_something_is_woken_to_obey_first() {
    let kernel = Kernel::start(Arc::new(Rules::default()));
    let (line, bobs, mine) = (Line::default(), Line::default(), shared());
    let mut ann = Asleep::new(listening(&kernel, "ann").await, line.clone(), &mine);
    let _bob = Asleep::new(listening(&kernel, "bob").await, bobs.clone(), &shared());
    mine.roster.order(|_| true, &Order::Leave);
    kernel.say("a", &["too late"]).await;
    until("bob, who comes after her, has it", async || bobs.text().contains("too late")).await;
    assert!(ann.wakes() > 0);
    assert_eq!(line.text(), "", "she was sent away before");
    assert!(matches!(ann.runs(), Poll::Ready(Ending::Kicked)));
}

/// Takes nothing until it is open.
#[derive(Clone)]
struct Gate {
    line: Line,
    is_open: Arc<AtomicBool>,
}

impl Socket for Gate {
    fn try_write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self.is_open.load(Ordering::SeqCst) {
            true => self.line.try_write(bytes),
            false => Err(io::ErrorKind::WouldBlock.into()),
        }
    }
    fn room(&self) -> usize {
        4096
    }
    fn poll_writable(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.is_open.load(Ordering::SeqCst) { Poll::Ready(Ok(())) } else { Poll::Pending }
    }
    fn poll_frame(&mut self, _: &mut Context<'_>) -> Poll<Result<Frame, Ending>> {
        Poll::Pending
    }
    async fn finish(&mut self, _: tokio::time::Instant) {}
}

#[tokio::test]
async fn whose_socket_is_full_is_woken_to_wait_for_it() {
    let kernel = Kernel::start(Arc::new(Rules::default()));
    let socket = Gate { line: Line::default(), is_open: Arc::default() };
    let mut ann = Asleep::new(listening(&kernel, "ann").await, socket.clone(), &shared());
    kernel.say("a", &["one"]).await;
    until("she is woken", async || ann.wakes() > 0).await;
    assert!(ann.runs().is_pending());
    kernel.say("a", &["two"]).await;
    socket.is_open.store(true, Ordering::SeqCst);
    until("both are there, in order", async || {
        assert!(ann.runs().is_pending());
        let text = socket.line.text();
        text.find("one").zip(text.find("two")).is_some_and(|(one, two)| one < two)
    })
    .await;
}

/// Takes everything, and sends it when it is polled, as TLS does.
struct Hoard {
    line: Line,
    taken: Vec<u8>,
}

impl Socket for Hoard {
    fn try_write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.taken.extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn has_unsent(&self) -> bool {
        !self.taken.is_empty()
    }
    fn room(&self) -> usize {
        4096
    }
    fn poll_writable(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
    fn poll_frame(&mut self, _: &mut Context<'_>) -> Poll<Result<Frame, Ending>> {
        let taken = std::mem::take(&mut self.taken);
        assert!(self.line.try_write(&taken).is_ok());
        Poll::Pending
    }
    async fn finish(&mut self, _: tokio::time::Instant) {}
}

#[tokio::test]
async fn whose_socket_has_taken_what_it_has_yet_to_send_is_woken_to_send_it() {
    let kernel = Kernel::start(Arc::new(Rules::default()));
    let line = Line::default();
    let socket = Hoard { line: line.clone(), taken: Vec::new() };
    let mut ann = Asleep::new(listening(&kernel, "ann").await, socket, &shared());
    kernel.say("a", &["one"]).await;
    until("she is woken", async || ann.wakes() > 0).await;
    assert!(ann.runs().is_pending());
    assert!(line.text().contains("one"));
}

/// Breaks whoever writes to it.
struct Rotten;

impl Socket for Rotten {
    fn try_write(&mut self, _: &[u8]) -> io::Result<usize> {
        panic!("this socket is rotten")
    }
    fn room(&self) -> usize {
        4096
    }
    fn poll_writable(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Pending
    }
    fn poll_frame(&mut self, _: &mut Context<'_>) -> Poll<Result<Frame, Ending>> {
        Poll::Pending
    }
    async fn finish(&mut self, _: tokio::time::Instant) {}
}

#[tokio::test]
async fn what_breaks_while_one_is_written_to_ends_that_one_alone() {
    let kernel = Kernel::start(Arc::new(Rules::default()));
    let (line, shared) = (Line::default(), shared());
    let broken = session::run(Rotten, dialect(), listening(&kernel, "bob").await, shared.clone(), Vec::new());
    let broken = tokio::spawn(broken);
    let ann = Asleep::new(listening(&kernel, "ann").await, line.clone(), &shared);
    until("he sleeps too", async || shared.roster.len() == 2).await;
    kernel.say("a", &["one"]).await;
    until("she has it", async || line.text().contains("one")).await;
    let ending = within(DEADLINE, "his end", broken).await;
    assert!(ending.is_ok_and(|ending| ending == Ending::Dead));
    kernel.say("a", &["two"]).await;
    until("she has that too", async || line.text().contains("two")).await;
    assert_eq!(ann.wakes(), 0);
}
