//! Words below, numbers above: the one table of HTTP statuses, error codes, reasons and close codes.
//!
//! Ranges tell a client what to do: 400xx mend the request, 401xx show another credential, 403xx do not come back with
//! this, 429xx and 503xx come back later.

use std::borrow::Cow;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::load::pressure::Cause;
use super::words::Words;
use crate::kernel::hooks::{Farewell, Refusal, RefusalKind};
use crate::kernel::hub::{PublishError, ReadError};
use crate::kernel::message::NameError;
use crate::kernel::session::{Close, SubscribeError};

/// Everything that an edge answers instead of what was asked for.
#[derive(Debug)]
pub enum Fault {
    ChannelName(NameError),
    Missing(&'static str),
    /// Not JSON, or not of the form that was expected; the text says what and where.
    Json(String),
    Parameter(String),
    UnknownFrame(String),
    EmptyBatch,
    LongBatch(usize),
    TooManyInRequest {
        asked: usize,
        max: usize,
    },
    TooManyOnConnection {
        max: usize,
    },
    /// A credential that is not accepted, or none where one is needed. `api`: over HTTP an API key is meant.
    Unauthorized {
        refusal: Refusal,
        api: bool,
    },
    Forbidden {
        refusal: Refusal,
        what: Option<String>,
    },
    /// A plugin's route broke, or its dialect.
    Broken(Refusal),
    /// A plugin's dialect says no, in its own words.
    OfDialect {
        code: String,
        why: String,
    },
    NotAdmin,
    /// Nothing was shown where an admin key is needed.
    NoCredential,
    Origin(String),
    Upgrade(&'static str),
    NoRoute,
    Method,
    TooLarge {
        max: usize,
    },
    SlowBody,
    /// The rules took longer to say who somebody is than the dialect waits.
    SlowRules,
    /// What the operator asked of the rules cannot be done; a line per problem.
    Rules(Vec<String>),
    TooManyConnections,
    /// Of one tenant.
    TenantFull,
    /// What was asked for gives way just now.
    Pressed(Cause),
    /// On one connection.
    TooManyRefusals,
    /// Too many publishes wait; when there is room for this one.
    Busy(Duration),
    Stopping,
    Store {
        doing: &'static str,
    },
}

#[derive(Serialize)]
pub struct ErrorBody<'a> {
    pub code: u32,
    pub message: Cow<'a, str>,
    pub reason: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub decision: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub channel: Option<&'a str>,
    /// After which time it makes sense to ask again.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retry_ms: Option<u64>,
}

impl Fault {
    /// HTTP status and error code.
    pub fn numbers(&self) -> (u16, u32) {
        match self {
            Fault::ChannelName(_) => (400, 40001),
            Fault::Missing(_) => (400, 40002),
            Fault::Json(_) | Fault::Parameter(_) => (400, 40003),
            Fault::UnknownFrame(_) => (400, 40004),
            Fault::EmptyBatch => (400, 40006),
            Fault::LongBatch(_) => (400, 40002),
            Fault::TooManyInRequest { .. } => (400, 40011),
            Fault::TooManyOnConnection { .. } => (400, 40012),
            Fault::Upgrade(_) => (426, 42601),
            Fault::Unauthorized { refusal, .. } | Fault::Forbidden { refusal, .. }
                if refusal.kind == RefusalKind::Busy =>
            {
                (429, 42901)
            }
            Fault::Unauthorized { api: true, .. } => (401, 40101),
            Fault::Unauthorized { api: false, .. } => (401, 40102),
            Fault::Forbidden { .. } => (403, 40301),
            Fault::Broken(_) => (500, 50001),
            Fault::OfDialect { .. } => (400, 40005),
            Fault::NotAdmin => (403, 40302),
            Fault::NoCredential => (401, 40101),
            Fault::Origin(_) => (403, 40303),
            Fault::NoRoute => (404, 40400),
            Fault::Method => (405, 40500),
            Fault::SlowBody => (408, 40801),
            Fault::SlowRules => (504, 50401),
            Fault::Rules(_) => (422, 42201),
            Fault::TooLarge { .. } => (413, 41301),
            Fault::TooManyRefusals => (429, 42901),
            Fault::TenantFull => (429, 42902),
            Fault::TooManyConnections => (503, 50303),
            Fault::Pressed(_) => (503, 50304),
            Fault::Busy(_) => (503, 50302),
            Fault::Stopping => (503, 50300),
            Fault::Store { .. } => (503, 50301),
        }
    }

    /// A stable word for programs.
    pub fn reason(&self) -> &str {
        match self {
            Fault::ChannelName(_) => "bad_channel",
            Fault::OfDialect { code, .. } => code,
            Fault::Missing(_) => "missing_field",
            Fault::Json(_) => "bad_json",
            Fault::Parameter(_) => "bad_parameter",
            Fault::UnknownFrame(_) => "unknown_frame",
            Fault::EmptyBatch => "empty_batch",
            Fault::LongBatch(_) => "long_batch",
            Fault::TooManyInRequest { .. } => "too_many_in_request",
            Fault::TooManyOnConnection { .. } => "too_many_on_connection",
            Fault::Unauthorized { refusal, .. } | Fault::Forbidden { refusal, .. } | Fault::Broken(refusal) => {
                &refusal.code
            }
            Fault::NotAdmin => "not_admin",
            Fault::NoCredential => "no_credential",
            Fault::Origin(_) => "origin",
            Fault::Upgrade(_) => "upgrade_required",
            Fault::NoRoute => "not_found",
            Fault::Method => "method",
            Fault::TooLarge { .. } => "too_large",
            Fault::SlowBody => "slow_body",
            Fault::SlowRules => "slow_rules",
            Fault::Rules(_) => "rules",
            Fault::TooManyRefusals => "too_many_refusals",
            Fault::TooManyConnections => "too_many_connections",
            Fault::TenantFull => "too_many_of_tenant",
            Fault::Pressed(cause) => cause.word(),
            Fault::Busy(_) => "busy",
            Fault::Stopping => "stopping",
            Fault::Store { .. } => "store",
        }
    }

    /// A sentence for people, that says what to do where there is something to do.
    pub fn message(&self) -> Cow<'_, str> {
        match self {
            Fault::ChannelName(error) => error.to_string().into(),
            Fault::Missing(field) => format!("{field} is required").into(),
            Fault::Json(what) => format!("invalid json: {what}").into(),
            Fault::Parameter(what) => what.as_str().into(),
            Fault::OfDialect { why, .. } => why.as_str().into(),
            Fault::UnknownFrame(kind) => format!("unknown frame type: {kind}").into(),
            Fault::EmptyBatch => "messages array must not be empty".into(),
            Fault::LongBatch(max) => format!("too many messages in batch (max {max})").into(),
            Fault::TooManyInRequest { asked, max } => {
                format!("too many channels per request: {asked} (max {max})").into()
            }
            Fault::TooManyOnConnection { max } => format!("total channels would exceed {max}").into(),
            Fault::Unauthorized { refusal, .. } => refusal.why.as_str().into(),
            Fault::Broken(_) => "the plugin that answers here failed".into(),
            Fault::Forbidden { refusal, what: None } => refusal.why.as_str().into(),
            Fault::Forbidden { refusal, .. } if refusal.kind == RefusalKind::Busy => refusal.why.as_str().into(),
            Fault::Forbidden { refusal, what: Some(channel) } => {
                format!("unauthorized channel: {channel}: {}", refusal.why).into()
            }
            Fault::NotAdmin => "admin access required".into(),
            Fault::NoCredential => "invalid or missing api key: admin access required".into(),
            Fault::Origin(origin) => {
                format!("origin not allowed: {origin} (the operator lists origins in websocket.allowed_origins)").into()
            }
            Fault::Upgrade(what) => (*what).into(),
            Fault::NoRoute => "there is nothing at this path".into(),
            Fault::Method => "this path does not answer to that method".into(),
            Fault::TooLarge { max } => format!("payload exceeds maximum size of {max} bytes").into(),
            Fault::SlowBody => "the request's body did not arrive in time".into(),
            Fault::SlowRules => "nobody said in time who you are: come back in a moment".into(),
            Fault::Rules(problems) => problems.join("\n").into(),
            Fault::TooManyRefusals => {
                "too many of your requests had to be refused: come back later, and ask for what is yours".into()
            }
            Fault::TooManyConnections => "too many connections: come back later".into(),
            Fault::TenantFull => "your tenant has as many connections as it may have: come back later".into(),
            Fault::Pressed(cause) => format!("the hub is at its limit ({}): come back later", cause.setting()).into(),
            Fault::Busy(_) => "too many publishes are waiting: come back later".into(),
            Fault::Stopping => "the hub is going down: come back in a moment".into(),
            Fault::Store { doing } => format!(
                "failed to {doing}: the store is in trouble, so come back in a while; the operator reads at /status why, and what to do"
            )
            .into(),
        }
    }

    pub fn body(&self) -> ErrorBody<'_> {
        let (decision, channel) = match self {
            Fault::Unauthorized { refusal, .. } | Fault::Broken(refusal) => (Some(refusal.decision.as_str()), None),
            Fault::Forbidden { refusal, what } => (Some(refusal.decision.as_str()), what.as_deref()),
            _ => (None, None),
        };
        ErrorBody {
            code: self.numbers().1,
            message: self.message(),
            reason: self.reason(),
            decision,
            channel,
            retry_ms: self.retry_ms(),
        }
    }

    /// Whether many hear it at once who all want back in: each is told a time of its own.
    pub fn waits_its_turn(&self) -> bool {
        matches!(self, Fault::Stopping | Fault::TooManyConnections | Fault::TenantFull | Fault::Pressed(_))
    }

    /// When to come back, where somebody knows.
    pub fn retry_ms(&self) -> Option<u64> {
        match self {
            Fault::Unauthorized { refusal, .. } | Fault::Forbidden { refusal, .. } => refusal.retry_ms,
            Fault::Busy(wait) => Some(wait.as_micros().div_ceil(1000) as u64),
            _ => None,
        }
    }

    /// A refusal of somebody who may not do this here: one who showed no credential at all may still show one.
    pub fn refused(refusal: Refusal, credential: bool, api: bool, channel: &str) -> Fault {
        if credential || refusal.kind == RefusalKind::Busy {
            Fault::Forbidden { refusal, what: Some(channel.to_owned()) }
        } else if api {
            let why = format!("invalid or missing api key: {}", refusal.why);
            Fault::Unauthorized { refusal: Refusal { why, ..refusal }, api }
        } else {
            Fault::Unauthorized { refusal, api }
        }
    }

    pub fn publish(error: PublishError, credential: bool, channel: &str) -> Fault {
        match error {
            PublishError::Refused(refusal) => Fault::refused(refusal, credential, true, channel),
            PublishError::Stopping => Fault::Stopping,
            PublishError::Busy(wait) => Fault::Busy(wait),
            PublishError::Store(_) => Fault::Store { doing: "publish message" },
        }
    }

    pub fn read(error: ReadError, credential: bool, channel: &str) -> Fault {
        match error {
            ReadError::Refused(refusal) => Fault::refused(refusal, credential, true, channel),
            ReadError::Store(_) => Fault::Store { doing: "read history" },
        }
    }

    pub fn subscribe(error: SubscribeError, channel: &str) -> Fault {
        match error {
            SubscribeError::Refused(refusal) => Fault::Forbidden { refusal, what: Some(channel.to_owned()) },
            SubscribeError::Store(_) => Fault::Store { doing: "subscribe" },
        }
    }
}

/// Reads a JSON object. serde takes an array for one too, its items for the fields in their order; nobody meant that.
pub fn object<'a, T: Deserialize<'a>>(json: &'a [u8]) -> Result<T, Fault> {
    match json.trim_ascii_start().first() {
        Some(b'[') => return Err(Fault::Json("expected an object, not an array".into())),
        Some(b'"' | b'0'..=b'9' | b'-' | b't' | b'f' | b'n') => {
            return Err(Fault::Json("expected an object, not a bare value".into()));
        }
        _ => {}
    }
    serde_json::from_slice(json).map_err(|error| Fault::Json(error.to_string()))
}

/// Why a connection ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ending {
    /// The client closed it, or its socket broke.
    Gone,
    /// The client said goodbye with a close frame; it is answered in kind.
    Closed {
        code: u16,
        reason: Words,
    },
    Draining,
    /// The operator sent it away.
    Kicked,
    /// A rule did, and says why.
    SentAway(Words),
    Lagged,
    Expired,
    /// Its dialect closes it.
    OfDialect(u16, Words),
    /// It takes too little, and memory is short.
    Squeezed,
    /// What it missed cannot be read.
    Store,
    /// It asked in vain too often.
    Refused,
    /// It broke the rules of its transport.
    Protocol(&'static str),
    /// Text that is no UTF-8.
    Utf8,
    /// A compressed message that is none.
    Damaged,
    TooLarge,
    /// It took nothing, or did not answer a ping, for too long.
    Dead,
}

impl From<Close> for Ending {
    fn from(close: Close) -> Ending {
        match close {
            Close::Lagged => Ending::Lagged,
        }
    }
}

impl Ending {
    /// Close code; none where nobody is there to read it.
    pub fn code(self) -> Option<u16> {
        match self {
            Ending::Gone | Ending::Dead => None,
            Ending::Closed { .. } => Some(1000),
            Ending::Draining => Some(1001),
            Ending::Protocol(_) => Some(1002),
            Ending::Utf8 | Ending::Damaged => Some(1007),
            Ending::TooLarge => Some(1009),
            Ending::Store => Some(1011),
            Ending::Lagged | Ending::Squeezed => Some(1012),
            Ending::Expired => Some(4401),
            Ending::Kicked | Ending::SentAway(_) => Some(4403),
            Ending::Refused => Some(4429),
            Ending::OfDialect(code, _) => Some(code),
        }
    }

    pub fn reason(&self) -> &str {
        match self {
            Ending::Gone => "gone",
            Ending::Closed { .. } => "",
            Ending::Draining => "server shutting down",
            Ending::Kicked => "disconnected by the operator",
            Ending::SentAway(why) | Ending::OfDialect(_, why) => why.as_str(),
            Ending::Protocol(what) => what,
            Ending::Utf8 => "text is not UTF-8",
            Ending::Damaged => "a compressed message cannot be inflated",
            Ending::TooLarge => "frame too large",
            Ending::Lagged => "lagged: resume from your last position",
            Ending::Squeezed => "memory is short: resume from your last position",
            Ending::Store => "the store cannot be read: resume from your last position",
            Ending::Expired => "credential expired",
            Ending::Refused => "too many refused requests",
            Ending::Dead => "no answer",
        }
    }

    /// What rules hear of it afterwards: of a goodbye, the client's own words.
    pub fn farewell(self) -> Farewell {
        let (code, reason) = match &self {
            Ending::Closed { code, reason } => (Some(*code), reason.as_str()),
            other => (other.code(), other.reason()),
        };
        Farewell { cause: self.cause(), code, reason: reason.to_owned() }
    }

    /// The cause as rules hear it.
    pub fn cause(self) -> &'static str {
        match self {
            Ending::Gone | Ending::Closed { .. } => "client",
            Ending::Draining => "shutdown",
            Ending::Lagged | Ending::Squeezed => "lag",
            Ending::Expired | Ending::Kicked | Ending::SentAway(_) | Ending::OfDialect(..) => "server",
            Ending::Protocol(_)
            | Ending::Utf8
            | Ending::Damaged
            | Ending::TooLarge
            | Ending::Refused
            | Ending::Store => "error",
            Ending::Dead => "timeout",
        }
    }
}
