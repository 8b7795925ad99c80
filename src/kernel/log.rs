//! The port of the stores: what must be kept, and what may be asked of it.
//!
//! One lane writes to a log; any number of sessions read it meanwhile. Offsets are given by the log, so that several nodes
//! may one day share one. Every store passes `tests/log_contract.rs`.

use std::fmt;
use std::future::Future;
use std::pin::Pin;

use super::message::{ChannelName, Epoch, Message, Micros, Offset, Publication};
use super::policy::{Ack, Policy};

pub type Reply<'a, T> = Pin<Box<dyn Future<Output = Result<T, LogError>> + Send + 'a>>;

/// Resolves a channel's policy: housekeeping meets channels that nobody has opened.
pub type Policies<'a> = &'a (dyn Fn(&ChannelName) -> Policy + Send + Sync);

/// What a store must do.
pub trait Log: Send + Sync + 'static {
    /// Makes a channel ready for appending and reading, and says how far it reaches. An open channel takes over what the
    /// policy keeps.
    fn open<'a>(&'a self, channel: &'a ChannelName, policy: &'a Policy) -> Reply<'a, Extent>;

    /// Looks up idempotency keys, numbers what is new, and takes it in: all of the batch or, on an error, nothing.
    /// Channels must be open. What is taken in can be read at once; how safe it is, `settle` says.
    fn append<'a>(&'a self, batch: &'a [Entry]) -> Reply<'a, Vec<Appended>>;

    /// Returns when all that was appended is as safe as `ack` promises.
    fn settle(&self, ack: Ack) -> Reply<'_, ()>;

    /// Publications in ascending order. The channel must be open.
    fn read<'a>(&'a self, channel: &'a ChannelName, range: Range) -> Reply<'a, Page>;

    /// Deletes a channel's publications. Its numbers go on.
    fn forget<'a>(&'a self, channel: &'a ChannelName) -> Reply<'a, Extent>;

    /// A slice of housekeeping, short enough to be done between two groups: retention, idempotency keys that are too old.
    fn sweep<'a>(&'a self, now: Micros, policies: Policies<'a>) -> Reply<'a, ()>;

    /// Lets a channel that nobody uses leave memory.
    fn close(&self, channel: &ChannelName);

    /// Why nothing is taken in, if so, and what to do about it.
    fn failure(&self) -> Option<String> {
        None
    }

    /// Called again and again while there is a failure. True if the log goes on from what it has found to be kept: of what was
    /// appended and not settled nobody knew, and open channels are to be asked how far they reach.
    fn mend(&self) -> Reply<'_, bool> {
        Box::pin(std::future::ready(Ok(false)))
    }

    /// The last call: everything is on disk when it returns, and the next start knows that nothing is missing.
    fn shut(&self) -> Reply<'_, ()>;
}

/// A message on its way into a log.
#[derive(Clone, Debug)]
pub struct Entry {
    pub channel: ChannelName,
    pub message: Message,
    pub key: Option<Box<str>>,
    pub time: Micros,
    pub expires: Option<Micros>,
    pub once: Option<u64>,
}

/// What became of an entry.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Appended {
    New {
        offset: Offset,
        time: Micros,
    },
    /// Its idempotency key was known: this is the first one's place, and nothing was taken in.
    Repeat {
        offset: Offset,
        time: Micros,
    },
}

/// How far a log reaches. Empty: `first` is `last + 1`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Extent {
    pub epoch: Epoch,
    pub first: Offset,
    pub last: Offset,
}

/// What to read: at most `count` publications or about `bytes`, at least one if there is one.
#[derive(Clone, Copy, Debug)]
pub struct Range {
    pub from: From,
    pub count: usize,
    pub bytes: usize,
    pub now: Micros,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum From {
    /// The oldest ones above an offset, none above `upto`.
    After { after: Offset, upto: Offset },
    /// The newest ones below an offset.
    Before { before: Offset },
}

#[derive(Clone, Debug)]
pub struct Page {
    pub publications: Vec<Publication>,
    /// There is more in the direction that was asked for.
    pub more: bool,
    pub extent: Extent,
    /// Stretches that crashes took.
    pub lost: Vec<(Offset, Offset)>,
}

/// What went wrong in a store, in words for the operator. Clients hear only that it did.
#[derive(Clone, Debug)]
pub struct LogError(pub String);

impl fmt::Display for LogError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for LogError {}
