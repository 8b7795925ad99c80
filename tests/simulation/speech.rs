//! What is spoken on the sockets of the simulation: a line an event, so that any cut shows.
//!
//! ```text
//! P channel epoch offset payload                    a publication
//! G channel epoch requested available from to why   a gap
//! L channel epoch offset                            the replay is over
//! S channel epoch offset|...                        where the session stands, behind each of the above (sealed readers)
//! B channel epoch offset   E channel   U channel   D channel    began, not let in, left, ended by the rules
//! ```

use std::collections::BTreeSet;
use std::future::ready;
use std::sync::{Arc, Weak};
use std::time::Duration;

use aether::edges::line::{Dialect, Frame};
use aether::edges::wire::Ending;
use aether::kernel::format::{Foreseeing, Format, Notice, View};
use aether::kernel::hooks::{Admission, Answer, Client, ConnectRequest, Farewell, Hooks, Identity, Refusal, Sight};
use aether::kernel::message::{ChannelName, Draft, Epoch, Message, Position, Publication};
use aether::kernel::policy::{Lag, Policy};
use aether::kernel::session::{Pace, Session, Start};
use parking_lot::Mutex;

use super::book::Book;
use super::weather::Weather;
use super::world::policy;
use crate::common::kernel::refusal;

/// What makes one reader different from another.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Taste {
    Plain,
    /// Its format says after each event where the session stands.
    Sealed,
    /// Its format has no word for the end of a replay.
    Silent,
    /// It sees through a view.
    Viewer,
    /// Through one that takes its time.
    SlowViewer,
    /// It gets nothing of what was said before.
    WithoutPast,
}

pub const TASTES: [Taste; 6] =
    [Taste::Plain, Taste::Sealed, Taste::Silent, Taste::Viewer, Taste::SlowViewer, Taste::WithoutPast];

pub struct Lines {
    pub book: Book,
    pub taste: Taste,
}

impl Format for Lines {
    fn publication(&self, channel: &ChannelName, epoch: Epoch, p: &Publication, out: &mut Vec<u8>) {
        self.book.shown(channel.as_str(), epoch, p);
        let payload = String::from_utf8_lossy(&p.message.payload);
        out.extend_from_slice(format!("P {channel} {epoch} {} {payload}\n", p.offset).as_bytes());
    }

    fn notice(&self, channel: &ChannelName, at: Position, notice: &Notice, out: &mut Vec<u8>) {
        let (epoch, offset) = (at.epoch, at.offset);
        let line = match notice {
            Notice::Live if self.taste == Taste::Silent => return,
            Notice::Live => format!("L {channel} {epoch} {offset}\n"),
            Notice::Gap(gap) => {
                let (from, to) = gap.missing.unwrap_or((0, 0));
                let why = gap.cause.as_str();
                format!("G {channel} {epoch} {} {} {from} {to} {why}\n", gap.requested, gap.available)
            }
        };
        out.extend_from_slice(line.as_bytes());
    }

    fn sealed(&self) -> bool {
        self.taste == Taste::Sealed
    }

    fn seal(&self, positions: &mut dyn Iterator<Item = (&ChannelName, Position)>, out: &mut Vec<u8>) {
        let all: Vec<_> = positions.map(|(name, at)| format!("{name} {} {}", at.epoch, at.offset)).collect();
        out.extend_from_slice(format!("S {}\n", all.join("|")).as_bytes());
    }
}

/// Shouts, and withholds every third message.
pub struct Third {
    me: Weak<Third>,
    is_slow: bool,
    weather: Weather,
}

impl Third {
    pub fn new(is_slow: bool, weather: &Weather) -> Arc<Third> {
        Arc::new_cyclic(|me| Third { me: me.clone(), is_slow, weather: weather.clone() })
    }

    fn see(&self, publication: &Publication) -> Option<Message> {
        let payload = String::from_utf8_lossy(&publication.message.payload);
        let seen = Message { payload: payload.to_uppercase().into(), ..Message::default() };
        (!is_withheld(&payload)).then_some(seen)
    }
}

pub fn is_withheld(payload: &str) -> bool {
    payload.get(1..).and_then(|number| number.parse::<u64>().ok()).is_some_and(|number| number % 3 == 0)
}

impl View for Third {
    fn name(&self) -> &str {
        "third"
    }

    fn render(&self, _: &ChannelName, publication: &Publication) -> Option<Message> {
        self.see(publication)
    }

    fn is_slow(&self) -> bool {
        self.is_slow
    }

    fn foresee<'a>(&'a self, _: &'a ChannelName, page: &'a mut [Publication]) -> Foreseeing<'a> {
        Box::pin(async move {
            self.weather.delay(60).await;
            let Some(me) = self.me.upgrade() else { return };
            for publication in page {
                if publication.message.foreseen.through(self).is_none() {
                    let seen = self.see(publication);
                    publication.message.foreseen.add(me.clone(), seen);
                }
            }
        })
    }
}

/// The rules: who sees what, and who may not listen for now.
pub struct Rules {
    pub weather: Weather,
    pub view: Arc<Third>,
    pub slow_view: Arc<Third>,
    /// Reader and channel.
    pub closed: Mutex<BTreeSet<(String, String)>>,
    /// Of the channel whose policy changes.
    pub lag: Mutex<Lag>,
}

impl Rules {
    fn sight(&self, client: &Client) -> Sight {
        match taste(client) {
            Taste::Viewer => Some(self.view.clone()),
            Taste::SlowViewer => Some(self.slow_view.clone()),
            _ => None,
        }
    }
}

fn taste(client: &Client) -> Taste {
    client.id.parse::<usize>().map_or(Taste::Plain, |number| TASTES[number % TASTES.len()])
}

impl Hooks for Rules {
    fn connect<'a>(&'a self, _: &'a ConnectRequest) -> Answer<'a, Identity> {
        Box::pin(ready(Ok(Identity::default())))
    }

    fn subscribe<'a>(&'a self, client: &'a Client, channel: &'a ChannelName) -> Answer<'a, Sight> {
        Box::pin(async move {
            self.weather.delay(self.weather.chances.rules_are_slow).await;
            let place = (client.id.clone(), channel.as_str().to_owned());
            if self.closed.lock().contains(&place) { Err(refusal()) } else { Ok(self.sight(client)) }
        })
    }

    fn publish<'a>(&'a self, _: &'a Client, draft: Draft) -> Answer<'a, Admission> {
        Box::pin(async move {
            self.weather.delay(self.weather.chances.rules_are_slow).await;
            Ok(draft.into())
        })
    }

    fn history<'a>(&'a self, client: &'a Client, _: &'a ChannelName, _: bool) -> Answer<'a, Sight> {
        let answer = if taste(client) == Taste::WithoutPast { Err(refusal()) } else { Ok(None) };
        Box::pin(ready(answer))
    }

    fn disconnected(&self, _: &Arc<Client>, _: &Farewell) {}

    fn policy(&self, channel: &ChannelName) -> Policy {
        policy(channel.as_str(), *self.lag.lock())
    }
}

/// `sub channel` begins now, `sub channel offset epoch|-` where it was, `unsub channel`, `pace channel ms [newest]`.
pub struct Commands;

impl Commands {
    async fn obey(&self, session: &mut Session, words: &[&str]) -> Option<String> {
        let name = ChannelName::new(words.get(1)?).ok()?;
        match (words[0], &words[2..]) {
            ("sub", start) => {
                let start = match start {
                    [offset, epoch] => Start::After(offset.parse().ok()?, epoch.parse().ok()),
                    _ => Start::Now,
                };
                if session.holds(name.as_str()) {
                    return Some(format!("E {name}\n"));
                }
                Some(match session.subscribe(name.clone(), start).await {
                    Ok(at) => format!("B {name} {} {}\n", at.epoch, at.offset),
                    Err(_) => format!("E {name}\n"),
                })
            }
            ("unsub", _) => {
                session.unsubscribe(name.as_str());
                Some(format!("U {name}\n"))
            }
            ("pace", [millis, newest @ ..]) => {
                let every = Duration::from_millis(millis.parse().ok()?);
                session.set_pace(name.as_str(), Pace { every, conflate: !newest.is_empty() });
                None
            }
            _ => None,
        }
    }
}

impl Dialect for Commands {
    async fn on_frame(&mut self, session: &mut Session, frame: Frame, out: &mut Vec<u8>) -> Result<(), Ending> {
        let Frame::Text(text) = frame else { return Ok(()) };
        let text = String::from_utf8_lossy(&text).into_owned();
        let words: Vec<&str> = text.split(' ').collect();
        if let Some(reply) = self.obey(session, &words).await {
            out.extend_from_slice(reply.as_bytes());
        }
        Ok(())
    }

    fn beat(&mut self, _: &Session, _: &mut Vec<u8>) {}
    fn expiring(&mut self, _: Duration, _: &mut Vec<u8>) {}
    fn unsubscribed(&mut self, channel: &ChannelName, out: &mut Vec<u8>) {
        out.extend_from_slice(format!("D {channel}\n").as_bytes());
    }
    fn denied(&mut self, channel: ChannelName, _: Refusal, out: &mut Vec<u8>) {
        out.extend_from_slice(format!("D {channel}\n").as_bytes());
    }
    fn bye(&mut self, _: Ending, _: Option<u64>, _: &mut Vec<u8>) {}
}
