//! Answers that hooks gave for a while: who a credential is, and who may listen where.
//!
//! Kept in Rust, so that a known one runs no Lua. An answer is kept only because its hook said so, with `ttl`.

use std::sync::Arc;
use std::time::Duration;

use sha2::{Digest, Sha256};

use crate::kernel::hooks::{Client, Identity};
use crate::kernel::message::{ChannelName, Micros};
use crate::kernel::pattern::Patterns;
use crate::plugins::Facts;
use crate::plugins::kept::bounded::{Bounded, Entry};
use crate::plugins::why::trace::is_rehearsal;

const MAX_CREDENTIALS: usize = 10_000;
const MAX_VOTES: usize = 100_000;
/// About how much both may hold; an identity's attributes come from outside.
const MAX_BYTES: usize = 64 << 20;

/// A moment, as credentials and votes count it.
pub type Mark = (u64, u64);

pub struct Remembered {
    /// Random per process: what lies in memory, or in a core dump, tells no credential and cannot be looked up.
    salt: [u8; 32],
    credentials: Bounded<[u8; 32], Identity>,
    votes: Bounded<Vote, Yes>,
}

/// One hook's yes to one listener.
#[derive(PartialEq, Eq, Hash)]
pub struct Vote {
    /// Of a generation: another one's hooks are others.
    hook: (u64, usize),
    who: Who,
    channel: ChannelName,
}

/// What it said beside yes.
struct Yes {
    tags: Vec<String>,
    view: Option<Arc<str>>,
}

#[derive(PartialEq, Eq, Hash)]
enum Who {
    User { tenant: Option<String>, user: String },
    Session(String),
}

impl Who {
    fn of(client: &Client) -> Who {
        match &client.identity.user {
            Some(user) => Who::User { tenant: client.identity.tenant.clone(), user: user.clone() },
            None => Who::Session(client.id.clone()),
        }
    }
}

/// What is to be forgotten: everything that fits all that is given. Nothing given fits nothing.
#[derive(Clone, Debug, Default)]
pub struct Forget {
    pub user: Option<String>,
    pub channel: Option<Patterns>,
    pub tag: Option<String>,
    /// Of a session without a user.
    pub session: Option<String>,
}

impl Forget {
    fn is_empty(&self) -> bool {
        self.user.is_none() && self.channel.is_none() && self.tag.is_none() && self.session.is_none()
    }

    fn fits_vote(&self, vote: &Vote, tags: &[String]) -> bool {
        let (user, session) = match &vote.who {
            Who::User { user, .. } => (Some(user), None),
            Who::Session(id) => (None, Some(id)),
        };
        self.user.as_ref().is_none_or(|wanted| Some(wanted) == user)
            && self.session.as_ref().is_none_or(|wanted| Some(wanted) == session)
            && self.channel.as_ref().is_none_or(|channels| channels.matches(vote.channel.as_str()))
            && self.tag.as_ref().is_none_or(|tag| tags.contains(tag))
    }

    /// A credential has no channel, no tag and no session: only its user can name it.
    fn fits_credential(&self, identity: &Identity) -> bool {
        self.user.is_some()
            && self.user == identity.user
            && self.channel.is_none()
            && self.tag.is_none()
            && self.session.is_none()
    }
}

impl Remembered {
    pub fn new() -> Result<Remembered, getrandom::Error> {
        let mut salt = [0; 32];
        getrandom::fill(&mut salt)?;
        Ok(Remembered {
            salt,
            credentials: Bounded::new(MAX_CREDENTIALS, MAX_BYTES),
            votes: Bounded::new(MAX_VOTES, MAX_BYTES),
        })
    }

    /// What a generation knows a credential by.
    pub fn name(&self, generation: u64, credential: &str) -> [u8; 32] {
        let salted = Sha256::new().chain_update(self.salt).chain_update(generation.to_le_bytes());
        salted.chain_update(credential).finalize().into()
    }

    pub fn identity(&self, name: &[u8; 32], now: Micros) -> Option<Identity> {
        self.credentials.read(name, now, Identity::clone)
    }

    /// A moment before a hook is asked: what is forgotten from here on is not kept.
    pub fn mark(&self) -> Mark {
        (self.credentials.mark(), self.votes.mark())
    }

    pub fn keep_identity(&self, mark: Mark, name: [u8; 32], identity: &Identity, ttl: Duration, now: Micros) {
        let until = ends(now, ttl).min(identity.expires.unwrap_or(Micros::MAX));
        if until > now && !is_rehearsal() {
            let entry = Entry { value: identity.clone(), until, weight: weigh(identity) };
            self.credentials.insert_since(mark.0, name, entry, now);
        }
    }

    /// Whether the hook's yes is known, and the view that it named.
    pub fn vote(
        &self,
        hook: (u64, usize),
        client: &Client,
        channel: &ChannelName,
        now: Micros,
    ) -> Option<Option<Arc<str>>> {
        let vote = Vote { hook, who: Who::of(client), channel: channel.clone() };
        self.votes.read(&vote, now, |yes| yes.view.clone())
    }

    pub fn keep_vote(
        &self,
        mark: Mark,
        (hook, client, channel): ((u64, usize), &Client, &ChannelName),
        (tags, view): (Vec<String>, Option<Arc<str>>),
        ttl: Duration,
        now: Micros,
    ) {
        if is_rehearsal() {
            return;
        }
        let until = ends(now, ttl).min(client.identity.expires.unwrap_or(Micros::MAX));
        let vote = Vote { hook, who: Who::of(client), channel: channel.clone() };
        let weight = 64 + channel.as_str().len() + tags.iter().map(|tag| tag.len() + 24).sum::<usize>();
        self.votes.insert_since(mark.1, vote, Entry { value: Yes { tags, view }, until, weight }, now);
    }

    /// How many answers went.
    pub fn forget(&self, what: &Forget) -> usize {
        if what.is_empty() {
            return 0;
        }
        self.credentials.forget(|_, identity| what.fits_credential(identity))
            + self.votes.forget(|vote, yes| what.fits_vote(vote, &yes.tags))
    }

    /// Everything: other rules are in charge.
    pub fn clear(&self) {
        self.credentials.forget(|_, _| true);
        self.votes.forget(|_, _| true);
    }

    /// The votes that `client` got, because it is somebody else now.
    pub fn forget_votes_of(&self, client: &Client) {
        if is_rehearsal() {
            return;
        }
        let who = Who::of(client);
        self.votes.forget(|vote, _| vote.who == who);
    }
}

/// About what an identity takes up: its attributes and grants come from outside.
fn weigh(identity: &Identity) -> usize {
    let facts = identity.attrs.as_ref().and_then(|attrs| attrs.downcast_ref::<Facts>());
    let grants = &identity.grants;
    let patterns = [&grants.subscribe, &grants.publish, &grants.history].map(|patterns| patterns.iter().count());
    256 + facts.map_or(0, |facts| facts.attrs.to_string().len() * 2) + patterns.iter().sum::<usize>() * 128
}

fn ends(now: Micros, ttl: Duration) -> Micros {
    now.saturating_add(ttl.as_micros().try_into().unwrap_or(Micros::MAX))
}
