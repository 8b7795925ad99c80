//! The port of the dialects that are not ours: what a client of one says, what is done about it, and what it is told.
//!
//! A dialect is a name. The rules that speak it change with every reload; connections that speak it stay.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::format::Notice;
use super::hooks::{Answer, Client, ConnectRequest, Farewell, Refusal};
use super::hub::Receipt;
use super::message::{ChannelName, Draft, Epoch, Position, Publication};
use super::session::{Pace, Start};

/// The dialects that the rules in charge know.
pub trait Dialects: Send + Sync + 'static {
    /// Where a path leads: on the hub's own listeners, or on one that dialects have for themselves.
    fn mount(&self, listener: Option<SocketAddr>, path: &str) -> Option<Mount>;
    /// The first bytes of requests that begin an event stream.
    fn streams(&self) -> Vec<Vec<u8>>;
}

/// A place where a dialect is spoken.
pub struct Mount {
    pub tongue: Arc<dyn Tongue>,
    pub transport: Transport,
    pub manners: Arc<Manners>,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Transport {
    WebSocket,
    EventStream,
}

impl Transport {
    pub fn name(self) -> &'static str {
        match self {
            Transport::WebSocket => "ws",
            Transport::EventStream => "sse",
        }
    }
}

/// How something is said.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Way {
    pub transport: Transport,
    /// One of the dialect's styles, if the connection has chosen one.
    pub style: Option<&'static str>,
}

/// How a dialect keeps its connections, where it does not do as the settings say.
#[derive(Clone, PartialEq, Default, Debug)]
pub struct Manners {
    /// What a client's message may weigh; in place of what the settings say.
    pub max_frame: Option<usize>,
    /// How often a client is asked for a sign of life, and how long it may stay silent then.
    pub beat: Option<Duration>,
    pub patience: Option<Duration>,
    /// How long its socket may take nothing while something is owed.
    pub write_timeout: Option<Duration>,
    /// How long the rules may take to say who somebody is.
    pub handshake: Option<Duration>,
    /// How many may be connected at once.
    pub connections: Option<usize>,
    /// Pages that may connect, without cookies, beside those that the settings list. An entry is an origin, a glob of them,
    /// `same-host` (on whatever port) or `*`.
    pub origins: Vec<String>,
    /// Of the answer that begins the connection.
    pub headers: Vec<(String, String)>,
    /// Event streams name in each event where the connection stands, so that it can come back there.
    pub resume: bool,
    /// Other ways of saying the same, of which a connection may choose one.
    pub styles: Vec<&'static str>,
}

/// What a dialect keeps with a connection; opaque here.
pub type Memory = Option<Box<str>>;

/// A dialect, by its name.
pub trait Tongue: Send + Sync + 'static {
    fn name(&self) -> &'static str;
    /// Whether the rules in charge still know it.
    fn is_spoken(&self) -> bool;
    /// What is to be done about what a client did, in this order.
    fn hear<'a>(&'a self, client: &'a Arc<Client>, heard: Heard, memory: &'a mut Memory) -> Answer<'a, Vec<Act>>;
    /// It has gone. Told after the fact; must not block.
    fn gone(&self, client: &Arc<Client>, memory: Memory, why: &Farewell);
    /// How it says something. The same for each of its listeners, so publications are put into words once.
    fn say(&self, way: Way, event: &Event<'_>) -> Result<Option<Speech>, Broken>;
    /// What it answers over HTTP to somebody who is not let in, in place of what the hub would.
    fn refuse(&self, request: &ConnectRequest, no: &NoEntry<'_>) -> Option<Instead>;
}

/// The dialect's own code broke, which was written down.
#[derive(Debug)]
pub struct Broken;

/// What a client did.
#[derive(Debug)]
pub enum Heard {
    Came(ConnectRequest),
    Said(Speech),
}

/// Something said in the dialect, without the transport's framing.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Speech {
    pub bytes: Bytes,
    pub binary: bool,
}

/// What a dialect wants done for its client. The rules are asked about all of it, as for anybody.
#[derive(Debug)]
pub enum Act {
    Reply(Speech),
    Subscribe {
        channel: ChannelName,
        start: Start,
        /// The id of the event that its stream ended with, if it comes back; opaque here.
        last_id: Option<Box<str>>,
        pace: Option<Pace>,
        tag: Tag,
    },
    Unsubscribe {
        channel: ChannelName,
        tag: Tag,
    },
    Publish {
        draft: Draft,
        tag: Tag,
    },
    /// Once more what its channels have said of late, the oldest first.
    Replay {
        age: Duration,
        tag: Tag,
    },
    /// It wants to hear things said in another of the dialect's styles from now on.
    Speak {
        style: String,
    },
    /// It shows a new credential.
    Authenticate {
        token: String,
        tag: Tag,
    },
    /// What it asked for makes no sense.
    Fail {
        code: String,
        why: String,
        tag: Tag,
    },
    Close {
        code: u16,
        reason: String,
    },
}

/// What the dialect wants to see again in the answer: JSON, opaque here.
pub type Tag = Option<Box<str>>;

/// What a client is told.
pub enum Event<'a> {
    Message {
        channel: &'a ChannelName,
        epoch: Epoch,
        publication: &'a Publication,
    },
    Notice {
        channel: &'a ChannelName,
        at: Position,
        notice: &'a Notice,
    },
    Subscribed {
        channel: &'a ChannelName,
        at: Position,
        tag: &'a Tag,
    },
    Unsubscribed {
        channel: &'a ChannelName,
        tag: &'a Tag,
    },
    Published {
        receipt: &'a Receipt,
        tag: &'a Tag,
    },
    Authenticated {
        tag: &'a Tag,
    },
    /// The rules say no.
    Denied {
        what: &'static str,
        channel: Option<&'a ChannelName>,
        refusal: &'a Refusal,
        tag: &'a Tag,
    },
    /// What was asked for cannot be done, or makes no sense.
    Error {
        what: &'static str,
        code: &'a str,
        why: &'a str,
        decision: &'a str,
        /// When it can be done, where that is known.
        retry_ms: Option<u64>,
        tag: &'a Tag,
    },
    Ping,
    Expiring {
        left: Duration,
    },
    Closing {
        code: u16,
        reason: &'a str,
        /// When it may come back, where that is known.
        retry_ms: Option<u64>,
    },
}

/// Why somebody is not let in.
pub struct NoEntry<'a> {
    pub status: u16,
    pub code: u32,
    pub reason: &'a str,
    pub why: &'a str,
    pub decision: Option<&'a str>,
    /// When it may come back, where that is known.
    pub retry_ms: Option<u64>,
}

/// An answer over HTTP.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Instead {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Bytes,
}
