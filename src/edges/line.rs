//! What a connection is made of: a socket that moves bytes, and a dialect that gives them their meaning. `session` runs both.

use std::future::Future;
use std::io;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use super::wire::Ending;
use crate::kernel::hooks::{Farewell, Refusal};
use crate::kernel::message::ChannelName;
use crate::kernel::session::Session;

/// What a client sends.
#[derive(Debug)]
pub enum Frame {
    Text(Bytes),
    Binary(Bytes),
    /// To be answered with the same bytes.
    Ping(Bytes),
    Pong,
}

/// Moves bytes; knows nothing of their meaning beyond its own framing.
pub trait Socket: Send {
    fn try_write(&mut self, bytes: &[u8]) -> io::Result<usize>;
    /// About how many bytes one turn may carry: enough for hundreds of publications, few enough that a thousand readers take
    /// turns quickly.
    fn room(&self) -> usize;
    /// Whether it has taken what only its task can send.
    fn has_unsent(&self) -> bool {
        false
    }
    fn poll_writable(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>>;
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Result<Frame, Ending>>;
    /// Whether bytes that were accepted and not yet sent would be lost by ending now.
    fn finish(&mut self, deadline: Instant) -> impl Future<Output = ()> + Send;
}

/// Gives bytes their meaning.
pub trait Dialect: Send {
    /// Answers a client's frame. What it appends to `out` is sent before anything else.
    fn on_frame(
        &mut self,
        session: &mut Session,
        frame: Frame,
        out: &mut Vec<u8>,
    ) -> impl Future<Output = Result<(), Ending>> + Send;
    /// Asks for a sign of life, or gives one.
    fn beat(&mut self, session: &Session, out: &mut Vec<u8>);
    /// Says that the credential ends soon, and the connection with it.
    fn expiring(&mut self, left: Duration, out: &mut Vec<u8>);
    /// Says that the operator has ended a subscription.
    fn unsubscribed(&mut self, channel: &ChannelName, out: &mut Vec<u8>);
    /// Says that the rules have ended a subscription, and why.
    fn denied(&mut self, channel: ChannelName, refusal: Refusal, out: &mut Vec<u8>);
    /// The last words, with the time to come back if it may.
    fn bye(&mut self, why: Ending, retry_ms: Option<u64>, out: &mut Vec<u8>);
    /// A turn has been written. What it appends to `out` comes next.
    fn turned(&mut self, _session: &Session, _out: &mut Vec<u8>) {}
    /// Whether it is still spoken here, now that the rules have changed.
    fn still(&self) -> Result<(), Ending> {
        Ok(())
    }
    /// The connection has ended, however it did.
    fn ended(&mut self, _session: &Session, _why: &Farewell) {}
}
