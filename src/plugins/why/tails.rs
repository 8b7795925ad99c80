//! Operators who look on: each is told the decisions that concern a channel or a user, as they are made.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use parking_lot::Mutex;
use serde_json::{Value as Json, json};
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::mpsc::{Receiver, Sender, channel};

use super::asked::Asked;
use super::mask::Masked;
use super::record::Record;
use crate::kernel::format::View;
use crate::kernel::hooks::Sight;
use crate::kernel::message::ChannelName;
use crate::kernel::pattern::Pattern;
use crate::plugins::source::about::About;
use crate::plugins::source::generation::Event;
use crate::plugins::{Host, Trouble};

/// Tails at once; the next one is refused.
const TAILS: usize = 16;
/// Decisions that one may not have read yet. When it is full the newest is dropped and counted.
const QUEUE: usize = 1024;
/// Of a rule's words.
const WORDS: usize = 500;

/// What an operator wants to see, and how.
#[derive(Clone, Debug, Default)]
pub struct Wanted {
    pub channel: Option<Pattern>,
    pub user: Option<String>,
    /// A view of the rules to see messages through.
    pub view: Option<String>,
    /// Everything as it is.
    pub full: bool,
}

/// What it is given.
pub struct Tail {
    /// JSON, a text each.
    pub decisions: Receiver<Vec<u8>>,
    /// Decisions that found its queue full.
    pub lost: Arc<AtomicU64>,
}

pub struct Tails {
    /// Whether there is one: the hot path looks at nothing else.
    any: AtomicBool,
    open: Mutex<Vec<Open>>,
    /// One for all, so that they share its bytes.
    mask: Arc<dyn View>,
}

struct Open {
    wanted: Wanted,
    queue: Sender<Vec<u8>>,
    lost: Arc<AtomicU64>,
}

impl Default for Tails {
    fn default() -> Tails {
        Tails { any: AtomicBool::new(false), open: Mutex::default(), mask: Arc::new(Masked) }
    }
}

impl Tails {
    pub fn are_open(&self) -> bool {
        self.any.load(Relaxed)
    }

    /// Whose reader is gone is forgotten.
    pub fn tell(&self, asked: Asked<'_>, record: &Record, again: bool) {
        let mut open = self.open.lock();
        open.retain(|tail| {
            if !tail.wanted.fits(record) {
                return !tail.queue.is_closed();
            }
            let line = shown(asked, record, again, tail.wanted.full).to_string();
            match tail.queue.try_send(line.into_bytes()) {
                Ok(()) => true,
                Err(TrySendError::Full(_)) => {
                    tail.lost.fetch_add(1, Relaxed);
                    true
                }
                Err(TrySendError::Closed(_)) => false,
            }
        });
        self.any.store(!open.is_empty(), Relaxed);
    }

    fn open(&self, wanted: Wanted) -> Result<Tail, Trouble> {
        let mut open = self.open.lock();
        open.retain(|tail| !tail.queue.is_closed());
        if open.len() >= TAILS {
            return Err(Trouble::Failed(vec![format!("{TAILS} tails run already; end one of them")]));
        }
        let (queue, decisions) = channel(QUEUE);
        let lost = Arc::new(AtomicU64::new(0));
        open.push(Open { wanted, queue, lost: lost.clone() });
        self.any.store(true, Relaxed);
        Ok(Tail { decisions, lost })
    }
}

impl Wanted {
    fn fits(&self, record: &Record) -> bool {
        self.channel.as_ref().is_none_or(|pattern| !record.channel.is_empty() && pattern.matches(&record.channel))
            && self.user.as_ref().is_none_or(|user| *user == record.user)
    }
}

/// A decision without any credential. What a rule says of a message may repeat the message.
fn shown(asked: Asked<'_>, record: &Record, again: bool, full: bool) -> Json {
    let Record { id, time, allowed, hook, plugin, place, code, why, channel, user, ip, transport } = record;
    let message = match asked {
        Asked::Publish(_, draft) => Some(&draft.message),
        _ => None,
    };
    let repeats = message.is_some() && !place.is_empty() && !full;
    let why = match why.char_indices().nth(WORDS) {
        _ if repeats && !why.is_empty() => format!("<{} characters>", why.chars().count()),
        Some((at, _)) => format!("{}..", &why[..at]),
        None => why.clone(),
    };
    let is_word =
        |code: &str| code.len() <= 64 && code.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-.".contains(&b));
    let code = if repeats && !is_word(code) { "<code>" } else { code };
    let mut line = json!({
        "decision": id, "time_ms": time / 1000, "event": asked.kind(), "allowed": allowed, "hook": hook, "plugin": plugin,
        "place": place, "code": code, "why": why, "channel": channel, "user": user, "ip": ip, "transport": transport,
    });
    if again {
        line["again"] = true.into();
    }
    if let Some(message) = message {
        line["size"] = message.payload.len().into();
    }
    line
}

impl Host {
    /// Opens a tail; it ends when what is given is dropped.
    pub fn tail(&self, wanted: Wanted) -> Result<Tail, Trouble> {
        if wanted.channel.is_none() && wanted.user.is_none() {
            return Err(Trouble::Question("say whose: channel or user".into()));
        }
        if let Some(name) = &wanted.view {
            if wanted.full {
                return Err(Trouble::Question("either through a view or in full".into()));
            }
            let known = self.view_names();
            if !known.contains(name) {
                let known = if known.is_empty() { "none".into() } else { known.join(", ") };
                return Err(Trouble::Failed(vec![format!("no rule makes a view {name:?}; there is {known}")]));
            }
        }
        self.tails.open(wanted)
    }

    fn view_names(&self) -> Vec<String> {
        let rules = self.rules();
        let mut names: Vec<String> = rules
            .hooks_of(Event::View)
            .filter_map(|hook| match &rules.generation.registrations[hook].about {
                About::View { name, .. } => Some(name.clone()),
                _ => None,
            })
            .collect();
        names.sort();
        names.dedup();
        names
    }

    /// The view that shows no value.
    pub fn mask(&self) -> Arc<dyn View> {
        self.tails.mask.clone()
    }

    /// How a tail sees a channel now. A channel that has not the view is masked, not shown.
    pub fn seen_by_tail(&self, wanted: &Wanted, channel: &ChannelName) -> Sight {
        if wanted.full {
            return None;
        }
        let rules = self.rules();
        let named = wanted.view.as_deref().and_then(|name| {
            let concern = rules.concern(channel);
            let mut found = concern.views.iter().rev().filter_map(|hook| rules.views[*hook].as_ref());
            found.find(|view| view.name() == name).cloned()
        });
        Some(named.unwrap_or_else(|| self.tails.mask.clone()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plugins::why::effect::anybody;

    fn decided(channel: &str, user: &str) -> (ChannelName, Record) {
        let record = Record {
            id: "d".into(),
            time: 0,
            allowed: true,
            hook: String::new(),
            plugin: String::new(),
            place: String::new(),
            code: String::new(),
            why: String::new(),
            channel: channel.into(),
            user: user.into(),
            ip: None,
            transport: "ws",
        };
        (ChannelName::new(channel).unwrap(), record)
    }

    fn of(pattern: &str) -> Wanted {
        Wanted { channel: Some(Pattern::parse(pattern).unwrap()), ..Wanted::default() }
    }

    #[test]
    fn a_tail_that_is_not_read_loses_the_newest_and_knows_how_many() {
        let (tails, client) = (Tails::default(), anybody(0));
        let mut tail = tails.open(of("room.*")).unwrap();
        let (channel, record) = decided("room.1", "bob");
        for _ in 0..QUEUE + 7 {
            tails.tell(Asked::Subscribe(&client, &channel), &record, false);
        }
        let (other, elsewhere) = decided("hall", "bob");
        tails.tell(Asked::Subscribe(&client, &other), &elsewhere, false);
        assert_eq!(tail.lost.load(Relaxed), 7);
        let mut told = 0;
        while tail.decisions.try_recv().is_ok() {
            told += 1;
        }
        assert_eq!(told, QUEUE);
    }

    #[test]
    fn there_is_a_last_tail_and_one_that_ended_makes_room() {
        let tails = Tails::default();
        let mut open: Vec<_> = (0..TAILS).map(|_| tails.open(of("*")).unwrap()).collect();
        assert!(matches!(tails.open(of("*")), Err(Trouble::Failed(_))));
        open.pop();
        drop(tails.open(of("*")).unwrap());
        drop(open);
        let (channel, record) = decided("room.1", "bob");
        assert!(tails.are_open());
        tails.tell(Asked::Subscribe(&anybody(0), &channel), &record, false);
        assert!(!tails.are_open(), "the hot path is as before");
    }
}
