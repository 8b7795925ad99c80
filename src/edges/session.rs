//! The one connection loop, for every transport and every dialect.
//!
//! It writes what is owed, reads what is asked, and sleeps on everything at once; while it sleeps the hub's herald writes to it
//! (`parking`). What is owed comes from the cursors in one stretch per turn, straight from a buffer that all sessions of a
//! thread share; a connection itself owns no more than replies and one half-written publication.

use std::cell::RefCell;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Instant, Sleep};

use super::line::{Dialect, Frame, Socket};
use super::load::Load;
use super::load::pressure::Level;
use super::load::tenants::Tenant;
use super::parking::{Parked, Parking};
use super::pulse::Pulse;
use super::roster::{Member, Order, Roster};
use super::wire::Ending;
use super::words::Words;
use crate::kernel::session::{Batch, Session};

/// Replies that may wait for the socket; beyond, the client is not read until it has taken some.
const REPLIES: usize = 64 * 1024;

/// How long before the end of its credential a client is told.
const EXPIRY_NOTICE: Duration = Duration::from_secs(30);
/// How long a page of a replay waits while reads give way.
const REPLAY_PAUSE: Duration = Duration::from_millis(100);
/// How long somebody who takes nothing has to hear why it is closed.
const SQUEEZE: Duration = Duration::from_secs(1);

thread_local! {
    static BATCH: RefCell<Batch> = RefCell::default();
}

/// What all connections of a transport share.
pub struct Shared {
    pub pulse: Pulse,
    pub roster: Arc<Roster>,
    pub load: Arc<Load>,
}

enum Event {
    Frame(Frame),
    Ended(Ending),
    /// The socket takes bytes again, or there are bytes for it.
    Ready,
    Time,
    Stop,
    Orders(Vec<Order>),
}

/// Serves one connection to its end, and tells the rules; `hello` is said first. Not an `async fn`: that would hold the arguments twice for life.
pub fn run<S: Socket + 'static, D: Dialect + 'static>(
    socket: S,
    dialect: D,
    session: Session,
    shared: Arc<Shared>,
    hello: Vec<u8>,
) -> impl Future<Output = Ending> + Send {
    let mut connection = Box::new(Connection::new(socket, dialect, session, shared, hello));
    async move {
        let parking = Arc::new(Parking::default());
        let outlet: Weak<Parking<_>> = Arc::downgrade(&parking);
        connection.session.set_outlet(outlet);
        let ending = loop {
            let waits = match connection.take_turn().await {
                Ok(waits) => waits,
                Err(ending) => break ending,
            };
            let event;
            (connection, event) = parking.wait(connection, |connection, cx| connection.poll_event(waits, cx)).await;
            if let Err(ending) = connection.heed(event).await {
                break ending;
            }
        };
        connection.ending = ending;
        Box::pin(connection.say_bye(ending)).await;
        ending
    }
}

/// When the connection ends with its credential, and when to say so.
fn end_of_credential(session: &Session) -> (Option<Instant>, Option<Instant>) {
    let now = Instant::now();
    let expires = session.client().identity.expires.map(|at| {
        let left = at.saturating_sub(session.hub().now());
        // Far ends need no exact timer; the clock of tokio does not reach them.
        now + Duration::from_micros(left).min(Duration::from_secs(365 * 24 * 3600))
    });
    (expires, expires.map(|at| at.checked_sub(EXPIRY_NOTICE).map_or(now, |warn| warn.max(now))))
}

struct Connection<S, D: Dialect> {
    socket: S,
    dialect: D,
    session: Session,
    shared: Arc<Shared>,
    /// Replies and the rest of a half-written publication, in this order of arrival; always written first.
    owed: Vec<u8>,
    /// Since when the socket has taken nothing.
    blocked: Option<Instant>,
    beat_at: Instant,
    /// Until when a sign of life must come.
    silent_until: Option<Instant>,
    draining: Option<Instant>,
    member: Member,
    tenant: Option<Arc<Tenant>>,
    expires: Option<Instant>,
    /// When to say that the credential ends; taken when it was said.
    warn_at: Option<Instant>,
    timer: Pin<Box<Sleep>>,
    /// What the herald met, for its task to end with.
    fallen: Option<Ending>,
    ending: Ending,
}

/// By the herald's hand, while its task sleeps.
impl<S: Socket, D: Dialect> Parked for Connection<S, D> {
    fn write(&mut self) -> bool {
        if !self.may_be_written_to() {
            return false;
        }
        if let Err(ending) = self.write_turn() {
            self.fallen = Some(ending);
            return false;
        }
        let is_done = self.owed.is_empty() && self.session.is_at_rest() && !self.socket.has_unsent();
        match self.next_turn() {
            None => is_done && self.blocked.is_none(),
            Some(at) => {
                self.wake_by(at);
                false // A timer is heard by whom its task asks.
            }
        }
    }

    fn fail(&mut self) {
        self.fallen = Some(Ending::Dead);
    }
}

/// Told however it ended: the loop of an event stream is dropped when its client goes.
impl<S, D: Dialect> Drop for Connection<S, D> {
    fn drop(&mut self) {
        self.session.end();
        let why = self.ending.farewell();
        self.session.hub().hooks().disconnected(self.session.client(), &why);
        self.dialect.ended(&self.session, &why);
    }
}

impl<S: Socket, D: Dialect> Connection<S, D> {
    fn new(socket: S, dialect: D, session: Session, shared: Arc<Shared>, hello: Vec<u8>) -> Self {
        let now = Instant::now();
        let beat_at = shared.pulse.next_beat(now);
        let member = shared.roster.enter(session.client().clone());
        if session.is_outdated() {
            // The rules changed during its handshake, and everybody was told before it was here.
            member.hear(&Order::Reconsider);
        }
        let tenant = shared.load.tenants.of(session.client().identity.tenant.as_deref());
        let (expires, warn_at) = end_of_credential(&session);
        let first = warn_at.map_or(beat_at, |at| at.min(beat_at));
        Connection {
            socket,
            dialect,
            session,
            owed: hello,
            blocked: None,
            beat_at,
            silent_until: None,
            draining: None,
            member,
            tenant,
            expires,
            warn_at,
            timer: Box::pin(tokio::time::sleep_until(first)),
            fallen: None,
            ending: Ending::Gone,
            shared,
        }
    }

    /// Writes what is owed. Whether everything is done until something happens; the error is a reason to end.
    async fn take_turn(&mut self) -> Result<bool, Ending> {
        if let Some(ending) = self.fallen.take() {
            return Err(ending);
        }
        let more = self.write_turn()?;
        if more {
            // Let the others have their turn first, and more publications arrive.
            match self.pause() {
                None => tokio::task::yield_now().await,
                Some(pause) => Box::pin(tokio::time::sleep(pause)).await,
            }
        }
        if self.blocked.is_none() && self.session.wants_log() && !self.fetch().await {
            return Err(Ending::Store);
        }
        let more = more || (self.blocked.is_none() && self.session.has_stretch());
        let is_sent = self.blocked.is_none() && self.owed.is_empty() && self.session.is_at_rest();
        if !more && self.draining.is_some() && is_sent {
            return Err(Ending::Draining);
        }
        if let Some(at) = self.next_turn() {
            self.wake_by(at);
        }
        // A channel that never rests must not keep its reader from being heard, sent away or timed out.
        Ok(!more)
    }

    /// What takes time is boxed: a connection is idle for most of its life, and would keep the room for it.
    async fn heed(&mut self, event: Event) -> Result<(), Ending> {
        match event {
            Event::Ready => {}
            Event::Frame(frame) => {
                self.silent_until = None;
                Box::pin(self.answer(frame)).await?;
            }
            Event::Ended(ending) => return Err(ending),
            Event::Stop => {
                let until = Instant::now() + self.shared.pulse.drain;
                self.draining = Some(until);
                self.wake_by(until);
            }
            Event::Orders(orders) => Box::pin(self.obey(orders)).await?,
            Event::Time => self.look_at_the_clock().map_or(Ok(()), Err)?,
        }
        Ok(())
    }

    /// Nothing is before the next publication that only its task can do.
    fn may_be_written_to(&self) -> bool {
        let is_free = self.blocked.is_none() && self.owed.is_empty() && !self.socket.has_unsent();
        let is_left_alone = self.draining.is_none() && self.fallen.is_none() && !self.member.is_called();
        is_free && is_left_alone && self.pause().is_none() && self.expires.is_none_or(|at| at > Instant::now())
    }

    /// How long its tenant has to leave the others their turn; none: a moment.
    fn pause(&self) -> Option<Duration> {
        self.tenant.as_ref().and_then(|tenant| tenant.pause())
    }

    /// Writes once. True if something was written, there may be more, and nothing is in the way of it.
    fn write_turn(&mut self) -> Result<bool, Ending> {
        let more = self.write_once()?;
        let owed = self.owed.len();
        self.dialect.turned(&self.session, &mut self.owed);
        Ok(more || (self.owed.len() > owed && self.blocked.is_none()))
    }

    fn write_once(&mut self) -> Result<bool, Ending> {
        if !self.owed.is_empty() {
            let written = match self.socket.try_write(&self.owed) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
                other => other.map_err(|_| Ending::Gone)?,
            };
            self.owed.drain(..written);
            if self.owed.is_empty() {
                self.owed = Vec::new();
            }
            self.note_progress(written, self.owed.is_empty());
            return Ok(self.owed.is_empty());
        }
        let Connection { socket, session, owed, .. } = self;
        let outcome = BATCH.with_borrow_mut(|batch| {
            session.fill(batch, socket.room())?;
            if batch.is_empty() {
                session.commit(batch, 0, owed);
                return Ok(None);
            }
            let written = match socket.try_write(&batch.bytes) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
                other => other.map_err(|_| Ending::Gone)?,
            };
            session.commit(batch, written, owed);
            Ok::<_, Ending>(Some((written, written == batch.bytes.len(), batch.is_single() && session.is_at_rest())))
        })?;
        match outcome {
            None => {
                self.block(None);
                Ok(false)
            }
            Some((written, whole, at_rest)) => {
                self.note_progress(written, whole);
                // Where one publication was all there was, the next one is better waited for than looked for.
                let looks_on = !at_rest || self.draining.is_some() || self.pause().is_some();
                Ok(whole && looks_on)
            }
        }
    }

    fn note_progress(&mut self, written: usize, whole: bool) {
        if let Some(tenant) = &self.tenant {
            tenant.wrote(written);
        }
        if whole {
            self.block(None);
        } else if written > 0 || self.blocked.is_none() {
            let now = Instant::now();
            self.block(Some(now));
            self.wake_by(now + self.shared.pulse.write_timeout);
        }
    }

    fn block(&mut self, since: Option<Instant>) {
        if since.is_some() != self.blocked.is_some() {
            self.member.set_stuck(since.is_some());
        }
        self.blocked = since;
    }

    async fn fetch(&mut self) -> bool {
        if self.shared.load.pressure.yields(Level::Reads).is_some() {
            Box::pin(tokio::time::sleep(REPLAY_PAUSE)).await;
        }
        match Box::pin(self.session.fetch()).await {
            Ok(()) => true,
            Err(error) => {
                tracing::error!(%error, session = %self.session.client().id, "a replay could not read the store");
                false
            }
        }
    }

    /// An ending if it is to leave.
    async fn obey(&mut self, orders: Vec<Order>) -> Result<(), Ending> {
        for order in orders {
            match order {
                Order::Leave => return Err(Ending::Kicked),
                Order::Kick(why) => return Err(Ending::SentAway(Words::new(&why))),
                Order::Reconsider => {
                    self.dialect.still()?;
                    self.reconsider().await;
                }
                Order::Squeeze(least) => {
                    if self.blocked.is_some_and(|since| since.elapsed() >= least) {
                        self.shared.load.pressure.closed_reader();
                        return Err(Ending::Squeezed);
                    }
                }
                Order::Unsubscribe(channel) => {
                    if self.session.unsubscribe(channel.as_str()) {
                        self.dialect.unsubscribed(&channel, &mut self.owed);
                    }
                }
            }
        }
        Ok(())
    }

    /// The rules have changed: what they now deny ends, each with a word, and the rest goes on where it was.
    async fn reconsider(&mut self) {
        let hub = self.session.hub().clone();
        let Connection { session, dialect, owed, .. } = self;
        let vote = async {
            for (channel, refusal) in session.becomes(session.client().clone()).await {
                dialect.denied(channel, refusal, owed);
            }
        };
        hub.hooks().as_one(Box::pin(vote)).await;
    }

    async fn answer(&mut self, frame: Frame) -> Result<(), Ending> {
        if let Frame::Pong = frame {
            return Ok(());
        }
        let before = self.session.client().clone();
        let hub = self.session.hub().clone();
        let mut outcome = Ok(());
        let answer = async { outcome = self.dialect.on_frame(&mut self.session, frame, &mut self.owed).await };
        hub.hooks().as_one(Box::pin(answer)).await;
        if !Arc::ptr_eq(&before, self.session.client()) {
            self.member.set_client(self.session.client().clone());
            (self.expires, self.warn_at) = end_of_credential(&self.session);
            self.wake_by(self.warn_at.unwrap_or(self.beat_at));
        }
        outcome
    }

    /// What happens next; without `waits`, `Ready` if nothing has happened yet.
    fn poll_event(&mut self, waits: bool, cx: &mut Context<'_>) -> Poll<Event> {
        if self.fallen.is_some() {
            return Poll::Ready(Event::Ready);
        }
        if self.member.poll_stop(cx) && self.draining.is_none() {
            return Poll::Ready(Event::Stop);
        }
        let orders = self.member.orders();
        if !orders.is_empty() {
            return Poll::Ready(Event::Orders(orders));
        }
        let is_time = self.timer.as_mut().poll(cx).is_ready();
        // Before the frames: who always has one more ends with its credential too. But a sign of life may be here already.
        if is_time && self.silent_until.is_none_or(|at| at > Instant::now()) {
            return Poll::Ready(Event::Time);
        }
        if self.owed.len() < REPLIES
            && let Poll::Ready(frame) = self.socket.poll_frame(cx)
        {
            return Poll::Ready(frame.map_or_else(Event::Ended, Event::Frame));
        }
        if is_time {
            return Poll::Ready(Event::Time);
        }
        if !waits {
            return Poll::Ready(Event::Ready);
        }
        if self.blocked.is_some() || !self.owed.is_empty() {
            if let Poll::Ready(outcome) = self.socket.poll_writable(cx) {
                return Poll::Ready(outcome.map_or(Event::Ended(Ending::Gone), |()| Event::Ready));
            }
        } else if self.session.poll_ready(cx).is_ready() {
            return Poll::Ready(Event::Ready);
        }
        Poll::Pending
    }

    /// When a channel's rest is over. A socket that takes nothing has no turn to wait for: the moment would be past, again
    /// and again, until it takes something.
    fn next_turn(&self) -> Option<Instant> {
        let is_free = self.blocked.is_none() && self.owed.is_empty();
        if is_free { self.session.next_turn() } else { None }
    }

    fn wake_by(&mut self, at: Instant) {
        if at < self.timer.deadline() {
            self.timer.as_mut().reset(at);
        }
    }

    fn look_at_the_clock(&mut self) -> Option<Ending> {
        let now = Instant::now();
        let pulse = self.shared.pulse;
        if self.expires.is_some_and(|at| at <= now) {
            return Some(Ending::Expired);
        }
        if self.draining.is_some_and(|at| at <= now) || self.silent_until.is_some_and(|at| at <= now) {
            return Some(Ending::Dead);
        }
        let stuck_until = self.blocked.map(|since| since + pulse.write_timeout);
        if stuck_until.is_some_and(|at| at <= now) {
            return Some(Ending::Dead);
        }
        if let (Some(at), Some(_)) = (self.expires, self.warn_at.take_if(|at| *at <= now)) {
            self.dialect.expiring(at - now, &mut self.owed);
        }
        if self.beat_at <= now {
            // Who takes bytes slowly is alive, and what it is sent is beat enough.
            if self.blocked.is_none() {
                self.dialect.beat(&self.session, &mut self.owed);
                self.silent_until = self.silent_until.or(pulse.timeout.map(|timeout| now + timeout));
            }
            self.beat_at = pulse.next_beat(now);
        }
        let deadlines = [
            Some(self.beat_at),
            self.silent_until,
            stuck_until,
            self.draining,
            self.expires,
            self.warn_at,
            self.next_turn(),
        ];
        let next = deadlines.into_iter().flatten().min().unwrap_or(self.beat_at);
        self.timer.as_mut().reset(next);
        None
    }

    /// The last words, if anybody is there to hear them.
    async fn say_bye(&mut self, ending: Ending) {
        if ending.code().is_none() {
            return;
        }
        let retry_ms = self.shared.load.governor.after(ending);
        self.dialect.bye(ending, retry_ms, &mut self.owed);
        let now = Instant::now();
        let patience = if ending == Ending::Squeezed { SQUEEZE } else { self.shared.pulse.write_timeout };
        let deadline = self.draining.unwrap_or(now + patience).max(now);
        let flush = async {
            while !self.owed.is_empty() {
                match self.socket.try_write(&self.owed) {
                    Ok(written) => drop(self.owed.drain(..written)),
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                        std::future::poll_fn(|cx| self.socket.poll_writable(cx)).await?;
                    }
                    Err(error) => return Err(error),
                }
            }
            Ok(())
        };
        if let Ok(Ok(())) = tokio::time::timeout_at(deadline, flush).await {
            self.socket.finish(deadline.min(Instant::now() + Duration::from_secs(1))).await;
        }
    }
}
