//! The port of the rules: what they may decide, in the kernel's words.
//!
//! The kernel asks and obeys; how the answers come about (grants, Lua, a table) is the host's business.

use std::any::Any;
use std::fmt;
use std::future::Future;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;

use super::format::View;
use super::message::{ChannelName, Draft, Micros};
use super::pattern::Patterns;
use super::policy::Policy;

/// An answer that may have to wait: most are ready at once, a rule that asks a back end is not.
pub type Answer<'a, T> = Pin<Box<dyn Future<Output = Result<T, Refusal>> + Send + 'a>>;

/// What the rules may decide.
pub trait Hooks: Send + Sync + 'static {
    /// Who is this? Asked per connection, and per credential over HTTP.
    fn connect<'a>(&'a self, request: &'a ConnectRequest) -> Answer<'a, Identity>;
    /// Who is it from now on? It shows a new credential on an open connection.
    fn refresh<'a>(&'a self, client: &'a Client, token: &'a str) -> Answer<'a, Identity> {
        Box::pin(async move { self.connect(&ConnectRequest::renewal(client, token)).await })
    }
    /// May it listen, and what does it see? Any deny wins, else any allow, else no.
    fn subscribe<'a>(&'a self, client: &'a Client, channel: &'a ChannelName) -> Answer<'a, Sight>;
    /// The same of somebody who was let in and listens: now under other rules, or as somebody else.
    fn still<'a>(&'a self, client: &'a Client, channel: &'a ChannelName) -> Answer<'a, Sight> {
        self.subscribe(client, channel)
    }
    /// May it say this here, and how is it said?
    fn publish<'a>(&'a self, client: &'a Client, draft: Draft) -> Answer<'a, Admission>;
    /// May it read what was said before, and what does it see? `resume`: a subscriber asks for what it missed; being allowed
    /// to listen is then enough unless a rule denies, and it sees what it sees live.
    fn history<'a>(&'a self, client: &'a Client, channel: &'a ChannelName, resume: bool) -> Answer<'a, Sight>;
    /// It listens to a channel from now on. Told after the fact; must not block.
    fn joined(&self, _client: &Arc<Client>, _channel: &ChannelName) {}
    /// It listens no more.
    fn left(&self, _client: &Arc<Client>, _channel: &ChannelName) {}
    /// It has gone. Told after the fact; must not block.
    fn disconnected(&self, client: &Arc<Client>, why: &Farewell);
    /// What does this channel keep and promise? Asked when it is first touched, and again when the rules say so.
    fn policy(&self, channel: &ChannelName) -> Policy;
    /// The number of the rules that judge the request at hand.
    fn at_hand(&self) -> u64 {
        self.in_charge()
    }
    /// The number of those that judge who comes now.
    fn in_charge(&self) -> u64 {
        0
    }
    /// Runs what belongs to one request: all of it is judged by the rules of one moment, whatever is reloaded meanwhile.
    fn as_one<'a>(&'a self, request: Request<'a>) -> Request<'a> {
        request
    }
}

/// What a request does, from its first question to the rules to its last.
pub type Request<'a> = Pin<Box<dyn Future<Output = ()> + Send + 'a>>;

/// What somebody sees of a channel: everything as it is, or what a view leaves of it.
pub type Sight = Option<Arc<dyn View>>;

/// A draft as the rules let it in; they may have changed what it says.
pub struct Admission {
    pub draft: Draft,
    /// Its place among the channel's drafts that waited for the rules. Dropped when it stands in its lane: the next one
    /// must not overtake it.
    pub turn: Option<Turn>,
}

/// Opaque here; the next one's turn begins when it is dropped.
pub type Turn = Box<dyn Any + Send>;

impl From<Draft> for Admission {
    fn from(draft: Draft) -> Admission {
        Admission { draft, turn: None }
    }
}

/// What somebody who wants in has shown.
#[derive(Clone, Debug, Default)]
pub struct ConnectRequest {
    /// `native`, or the name of a plugin's dialect.
    pub dialect: &'static str,
    /// `ws`, `sse`, `poll` or `http`.
    pub transport: &'static str,
    pub method: String,
    pub path: String,
    pub query: Vec<(String, String)>,
    /// Lower-case names.
    pub headers: Vec<(String, String)>,
    pub ip: Option<IpAddr>,
    /// The credential, from wherever it was carried: the `Authorization` header's bearer, a subprotocol, `?token=`.
    pub bearer: Option<String>,
}

impl ConnectRequest {
    /// What a connected client asks with when it shows a new credential.
    pub fn renewal(client: &Client, token: &str) -> ConnectRequest {
        let bearer = Some(token.to_owned());
        let Client { dialect, transport, ip, .. } = *client;
        ConnectRequest { dialect, transport, ip, bearer, ..ConnectRequest::default() }
    }
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str())
    }
    pub fn param(&self, name: &str) -> Option<&str> {
        self.query.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str())
    }
}

/// What a session may do without asking any rule again.
#[derive(Clone, Debug, Default)]
pub struct Grants {
    pub subscribe: Patterns,
    pub publish: Patterns,
    pub history: Patterns,
    pub admin: bool,
}

/// Who somebody is, as the connect hooks said.
#[derive(Clone, Default)]
pub struct Identity {
    pub user: Option<String>,
    pub tenant: Option<String>,
    /// Unix time at which the credential ends.
    pub expires: Option<Micros>,
    pub grants: Grants,
    /// The host's own view of the session's attributes, opaque here.
    pub attrs: Option<Arc<dyn Any + Send + Sync>>,
}

/// One connected client, or one caller over HTTP.
#[derive(Clone)]
pub struct Client {
    pub id: String,
    pub identity: Identity,
    pub ip: Option<IpAddr>,
    /// `native`, or the name of a plugin's dialect.
    pub dialect: &'static str,
    pub transport: &'static str,
    /// Whether it showed a credential at all: one that did is forbidden, one that did not is unauthorized.
    pub credential: bool,
    pub connected: Micros,
}

impl Client {
    /// The same connection, as somebody else or with other rights.
    pub fn with(&self, identity: Identity) -> Arc<Client> {
        let Client { ip, dialect, transport, connected, .. } = *self;
        Arc::new(Client { id: self.id.clone(), identity, ip, dialect, transport, credential: true, connected })
    }
}

/// What a refusal is about; the edges turn it into numbers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RefusalKind {
    /// A rule, or the default, said no.
    Denied,
    /// A rule broke; its kind's refusal stands in.
    Broken,
    /// Too many, come back later.
    Busy,
}

/// A no, with what a program and a person need to know.
#[derive(Clone, Debug)]
pub struct Refusal {
    pub kind: RefusalKind,
    /// A stable word for programs: `not_member`.
    pub code: String,
    /// A sentence for people.
    pub why: String,
    /// Finds the decision in the log.
    pub decision: String,
    /// When it makes sense to ask again, if the rules know.
    pub retry_ms: Option<u64>,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({}, decision {})", self.why, self.code, self.decision)
    }
}

/// Why a session ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Farewell {
    /// `client`, `server`, `shutdown`, `lag`, `error` or `timeout`.
    pub cause: &'static str,
    /// The close code, where the transport has one.
    pub code: Option<u16>,
    /// What was said with it.
    pub reason: String,
}
