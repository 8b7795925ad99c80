//! The three stages of a message: a draft before the rules, admitted after them, a publication once it has its offset.
//!
//! Each stage is a type of its own and each step eats one and yields the next, so wrong wiring does not compile.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::foreseen::Foreseen;

/// Place in a channel's log: the first publication has 1, the next one more. 0 is the place before everything.
pub type Offset = u64;

/// Microseconds since the Unix epoch.
pub type Micros = u64;

/// Which life of a log: a store that lost its data begins a new one. Random, below 2^53 so that any JSON reader keeps it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Epoch(pub u64);

impl Epoch {
    /// No log's life: what a text that names none of ours stands for.
    pub const UNKNOWN: Epoch = Epoch(0);
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:014x}", self.0)
    }
}

impl std::str::FromStr for Epoch {
    type Err = std::num::ParseIntError;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        u64::from_str_radix(text, 16).map(Epoch)
    }
}

/// A place in one life of a channel's log.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Position {
    pub epoch: Epoch,
    pub offset: Offset,
}

/// A channel's name, checked: 1-128 bytes of `A-Z a-z 0-9 _ - . / : @ ~ % = + ,`, with `$` first for plugins only.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ChannelName(Arc<str>);

/// Why a text is not a channel's name.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum NameError {
    Length,
    Syntax(String),
}

impl fmt::Display for NameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NameError::Length => f.write_str("channel name must be 1-128 characters"),
            NameError::Syntax(name) => write!(f, "invalid channel name: {name:?}"),
        }
    }
}

impl std::error::Error for NameError {}

impl ChannelName {
    pub const MAX_BYTES: usize = 128;

    /// Checks a name that came from outside. Names with `$` first are well formed; only grants and hooks of plugins reach them.
    pub fn new(text: &str) -> Result<Self, NameError> {
        if text.is_empty() || text.len() > Self::MAX_BYTES {
            return Err(NameError::Length);
        }
        let body = text.strip_prefix('$').unwrap_or(text).as_bytes();
        let dots_ok = body.first().is_some_and(|b| *b != b'.')
            && body.last() != Some(&b'.')
            && !body.windows(2).any(|pair| pair == b"..");
        if dots_ok && body.iter().all(|b| Self::allows(*b)) {
            Ok(ChannelName(text.into()))
        } else {
            Err(NameError::Syntax(text.to_owned()))
        }
    }

    fn allows(byte: u8) -> bool {
        byte.is_ascii_alphanumeric() || b"_-./:@~%=+,".contains(&byte)
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Names that begin with `$` belong to plugins: no ordinary grant covers them.
    pub fn is_reserved(&self) -> bool {
        self.0.starts_with('$')
    }
}

impl fmt::Display for ChannelName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for ChannelName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl std::borrow::Borrow<str> for ChannelName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

/// What the payload's bytes are, as the publisher's edge found out. The kernel only hands it on.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Media {
    #[default]
    Json,
    Text,
    Binary,
}

/// What a publisher said, byte for byte.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Message {
    pub payload: Bytes,
    pub media: Media,
    /// The publisher's `Content-Type`, where it named one beside JSON.
    pub content_type: Option<Box<str>>,
    /// A name for the kind of message; never holds CR, LF or NUL.
    pub event: Option<Box<str>>,
    /// Raw JSON, opaque here.
    pub meta: Option<Bytes>,
    /// Not kept on disk.
    pub foreseen: Foreseen,
}

impl Message {
    /// What it weighs in a tail or a page.
    pub fn weight(&self) -> usize {
        let texts = [&self.event, &self.content_type].into_iter().flatten().map(|text| text.len());
        64 + self.foreseen.weight()
            + self.payload.len()
            + texts.sum::<usize>()
            + self.meta.as_ref().map_or(0, |meta| meta.len())
    }
}

/// A message before the rules have seen it.
#[derive(Clone, Debug)]
pub struct Draft {
    pub channel: ChannelName,
    pub message: Message,
    /// Publishing again under the same key answers the first result and delivers nothing.
    pub idempotency_key: Option<Box<str>>,
    /// Kept no longer than this, whatever the channel's policy allows.
    pub ttl: Option<Duration>,
    /// For those who listen now; the log keeps its number and nothing of what it says.
    pub fleeting: bool,
    /// Several channels got the same: a connection gets one copy of all that carry the same number. Logs keep it, so let it
    /// be random.
    pub once: Option<u64>,
}

impl Draft {
    pub fn new(channel: ChannelName, message: Message) -> Draft {
        Draft { channel, message, idempotency_key: None, ttl: None, fleeting: false, once: None }
    }
}

/// A message that the rules let in. Only `Hub` makes one, from a draft, after asking the hooks.
#[derive(Debug)]
pub struct Admitted(pub(super) Draft);

impl Admitted {
    pub fn draft(&self) -> &Draft {
        &self.0
    }
}

/// A message with its place in the log.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Publication {
    pub offset: Offset,
    pub time: Micros,
    /// When it must be gone from the log, if earlier than the channel's policy says.
    pub expires: Option<Micros>,
    /// Carried by its copies in other channels too.
    pub once: Option<u64>,
    pub message: Message,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_the_published_rule() {
        for good in ["a", "a/b", "/", "-", &"x".repeat(128), "order.1", "a:b@c~d%e=f+g,h", "$user.t.1"] {
            assert!(ChannelName::new(good).is_ok(), "{good}");
        }
        for bad in [".a", "a.", "a..b", "a*", "a b", "é", "$", "a$b", "$.a"] {
            assert!(matches!(ChannelName::new(bad), Err(NameError::Syntax(_))), "{bad}");
        }
        assert_eq!(ChannelName::new(""), Err(NameError::Length));
        assert_eq!(ChannelName::new(&"x".repeat(129)), Err(NameError::Length));
    }

    #[test]
    fn an_epoch_reads_back_as_it_was_written() {
        let epoch = Epoch((1 << 53) - 1);
        assert_eq!(epoch.to_string().parse(), Ok(epoch));
    }
}
