//! Connections that speak a dialect of a plugin: heard and answered in the plugin's words.
//!
//! The plugin says what is to be done, this does it, and the plugin says how the outcome is told. What it says is framed
//! here, for the transport at hand.

mod entrance;
mod format;

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tungstenite::protocol::frame::coding::{Control, OpCode};

pub use entrance::open;
pub use format::Formats;

use super::cursor::Cursor;
use super::deflate::Agreement;
use super::edge::Edge;
use super::line::{Dialect, Frame};
use super::native::Limits;
use super::patience::Patience;
use super::wire::{Ending, Fault};
use super::words::Words;
use super::ws;
use crate::kernel::dialect::{Act, Event, Heard, Manners, Memory, Speech, Tag, Tongue, Transport, Way};
use crate::kernel::hooks::{Farewell, Refusal};
use crate::kernel::hub::HistoryFrom;
use crate::kernel::message::{ChannelName, Epoch, Position, Publication};
use crate::kernel::session::{Session, Start};
use format::put;

/// What one replay carries: the newest, if there is more.
const REPLAYED: usize = 4096;
const REPLAYED_BYTES: usize = 4 << 20;

/// The rules that spoke it are gone.
const NO_LONGER: &str = "this dialect is spoken here no longer";

/// Why something that a client wanted was not done; it has heard so.
enum No {
    Fault(Fault),
    /// And it is sent away.
    Ending(Ending),
}

impl No {
    /// The connection goes on, unless it has to end.
    fn told(self) -> Result<(), Ending> {
        match self {
            No::Fault(_) => Ok(()),
            No::Ending(ending) => Err(ending),
        }
    }
}

/// A plugin's dialect on one connection.
pub struct ForeignDialect {
    edge: Arc<Edge>,
    tongue: Arc<dyn Tongue>,
    manners: Arc<Manners>,
    way: Way,
    sealed: bool,
    deflate: Option<Agreement>,
    memory: Memory,
    limits: Limits,
    patience: Patience,
    _seat: Arc<()>,
}

impl Dialect for ForeignDialect {
    async fn on_frame(&mut self, session: &mut Session, frame: Frame, out: &mut Vec<u8>) -> Result<(), Ending> {
        let (bytes, binary) = match frame {
            Frame::Text(bytes) => (bytes, false),
            Frame::Binary(bytes) => (bytes, true),
            Frame::Ping(payload) => {
                ws::put_frame(OpCode::Control(Control::Pong), &payload, out);
                return Ok(());
            }
            Frame::Pong => return Ok(()),
        };
        let heard = Heard::Said(Speech { bytes, binary });
        match self.tongue.hear(session.client(), heard, &mut self.memory).await {
            Ok(acts) => {
                for act in acts {
                    self.perform(session, act, out).await.or_else(|no| no.told())?;
                }
                Ok(())
            }
            Err(refusal) => {
                self.still()?;
                self.fail("frame", Fault::Broken(refusal), &None, out).told()
            }
        }
    }

    fn beat(&mut self, _session: &Session, out: &mut Vec<u8>) {
        let before = out.len();
        self.say(&Event::Ping, out);
        match self.way.transport {
            Transport::WebSocket => ws::put_frame(OpCode::Control(Control::Ping), b"", out),
            Transport::EventStream if out.len() == before => out.extend_from_slice(b":\n\n"),
            Transport::EventStream => {}
        }
    }

    fn expiring(&mut self, left: Duration, out: &mut Vec<u8>) {
        self.say(&Event::Expiring { left }, out);
    }

    fn unsubscribed(&mut self, channel: &ChannelName, out: &mut Vec<u8>) {
        self.say(&Event::Unsubscribed { channel, tag: &None }, out);
    }

    fn denied(&mut self, channel: ChannelName, refusal: Refusal, out: &mut Vec<u8>) {
        self.say(&Event::Denied { what: "subscribe", channel: Some(&channel), refusal: &refusal, tag: &None }, out);
        self.unsubscribed(&channel, out);
    }

    fn still(&self) -> Result<(), Ending> {
        if self.tongue.is_spoken() { Ok(()) } else { Err(Ending::OfDialect(1012, Words::new(NO_LONGER))) }
    }

    fn bye(&mut self, why: Ending, retry_ms: Option<u64>, out: &mut Vec<u8>) {
        let Some(code) = why.code() else { return };
        self.say(&Event::Closing { code, reason: why.reason(), retry_ms }, out);
        match (self.way.transport, retry_ms) {
            (Transport::WebSocket, _) => ws::put_close(code, why.reason(), out),
            // Whatever the dialect: it is a word of the transport, and no event.
            (Transport::EventStream, Some(retry_ms)) => {
                out.extend_from_slice(format!("retry: {retry_ms}\n\n").as_bytes())
            }
            (Transport::EventStream, None) => {}
        }
    }

    fn ended(&mut self, session: &Session, why: &Farewell) {
        self.tongue.gone(session.client(), self.memory.take(), why);
    }
}

impl ForeignDialect {
    fn say(&self, event: &Event<'_>, out: &mut Vec<u8>) {
        // What broke is in the log, and this is no publication that would be missed.
        if let Ok(speech) = self.tongue.say(self.way, event) {
            put(self.way.transport, speech, out);
        }
    }

    /// Says no, as long as there is patience for it.
    fn fail(&mut self, what: &'static str, fault: Fault, tag: &Tag, out: &mut Vec<u8>) -> No {
        let patient = self.patience.take(Instant::now());
        let fault = if patient { fault } else { Fault::TooManyRefusals };
        match &fault {
            Fault::Forbidden { refusal, what: channel } => {
                let channel = channel.as_deref().and_then(|channel| ChannelName::new(channel).ok());
                self.say(&Event::Denied { what, channel: channel.as_ref(), refusal, tag }, out);
            }
            Fault::Unauthorized { refusal, .. } => {
                self.say(&Event::Denied { what, channel: None, refusal, tag }, out);
            }
            fault => {
                let body = fault.body();
                let decision = body.decision.unwrap_or_default();
                let (code, why, retry_ms) = (body.reason, &*body.message, body.retry_ms);
                self.say(&Event::Error { what, code, why, decision, retry_ms, tag }, out);
            }
        }
        if patient { No::Fault(fault) } else { No::Ending(Ending::Refused) }
    }

    async fn perform(&mut self, session: &mut Session, act: Act, out: &mut Vec<u8>) -> Result<(), No> {
        match act {
            Act::Reply(speech) => put(self.way.transport, Some(speech), out),
            Act::Subscribe { channel, start, last_id, pace, tag } => {
                let left = last_id.and_then(|id| Cursor::parse(&id)?.position(&channel));
                let start = left.map_or(start, |left| Start::After(left.offset, Some(left.epoch)));
                let max = self.limits.channels_per_connection;
                if session.len() >= max && !session.holds(channel.as_str()) {
                    return Err(self.fail("subscribe", Fault::TooManyOnConnection { max }, &tag, out));
                }
                // Whoever listens already listens on from where it stands, unless it names another place.
                if session.holds(channel.as_str()) {
                    if start == Start::Now {
                        let at = place(session, &channel);
                        self.say(&Event::Subscribed { channel: &channel, at, tag: &tag }, out);
                        return Ok(());
                    }
                    session.unsubscribe(channel.as_str());
                }
                match session.subscribe(channel.clone(), start).await {
                    Ok(at) => {
                        if let Some(pace) = pace {
                            session.set_pace(channel.as_str(), pace);
                        }
                        self.say(&Event::Subscribed { channel: &channel, at, tag: &tag }, out);
                    }
                    Err(error) => {
                        return Err(self.fail("subscribe", Fault::subscribe(error, channel.as_str()), &tag, out));
                    }
                }
            }
            Act::Unsubscribe { channel, tag } => {
                session.unsubscribe(channel.as_str());
                self.say(&Event::Unsubscribed { channel: &channel, tag: &tag }, out);
            }
            Act::Publish { draft, tag } => {
                let channel = draft.channel.clone();
                let published = session.hub().publish(session.client(), draft).await;
                match published {
                    Ok(receipt) => {
                        session.hub().let_readers_follow(std::iter::once(&receipt)).await;
                        self.say(&Event::Published { receipt: &receipt, tag: &tag }, out);
                    }
                    Err(error) => {
                        return Err(self.fail("publish", Fault::publish(error, true, channel.as_str()), &tag, out));
                    }
                }
            }
            Act::Replay { age, tag } => self.replay(session, age, &tag, out).await?,
            Act::Speak { style } => match self.manners.styles.iter().find(|known| **known == style) {
                Some(known) => {
                    self.way.style = Some(known);
                    let format = self.edge.foreign.of(&self.tongue, self.way, self.sealed);
                    session.speaks(self.edge.agreed(format, self.deflate));
                }
                None => {
                    let why = format!("this dialect has no style {style:?}");
                    return Err(self.fail("frame", Fault::OfDialect { code: "no_style".into(), why }, &None, out));
                }
            },
            Act::Authenticate { token, tag } => {
                let hub = session.hub().clone();
                match hub.hooks().refresh(session.client(), &token).await {
                    Ok(identity) => {
                        let client = session.client().with(identity);
                        for (channel, refusal) in session.becomes(client).await {
                            self.denied(channel, refusal, out);
                        }
                        self.say(&Event::Authenticated { tag: &tag }, out);
                    }
                    Err(refusal) => {
                        return Err(self.fail("authenticate", Fault::Unauthorized { refusal, api: false }, &tag, out));
                    }
                }
            }
            Act::Fail { code, why, tag } => {
                return Err(self.fail("frame", Fault::OfDialect { code, why }, &tag, out));
            }
            Act::Close { code, reason } => return Err(No::Ending(Ending::OfDialect(code, Words::new(&reason)))),
        }
        Ok(())
    }

    /// Says once more what the session's channels have said of late; what it says is not the cursors' business.
    async fn replay(&mut self, session: &Session, age: Duration, tag: &Tag, out: &mut Vec<u8>) -> Result<(), No> {
        if let Err(pressed) = self.edge.load.pressure.admits_reads() {
            return Err(self.fail("replay", pressed, tag, out));
        }
        let hub = session.hub().clone();
        let since = hub.now().saturating_sub(age.as_micros() as u64);
        let mut said: Vec<(ChannelName, Epoch, Publication)> = Vec::new();
        let names: Vec<_> = session.positions().map(|(name, _)| name.clone()).collect();
        let mut left = REPLAYED_BYTES;
        for name in names {
            let all = HistoryFrom::Before(u64::MAX);
            let past = match hub.history(session.client(), &name, all, REPLAYED, left).await {
                Ok(past) => past,
                Err(error) => return Err(self.fail("replay", Fault::read(error, true, name.as_str()), tag, out)),
            };
            for publication in past.page.publications.into_iter().filter(|publication| publication.time >= since) {
                left = left.saturating_sub(publication.message.weight());
                said.push((name.clone(), past.epoch, publication));
            }
        }
        said.sort_by_key(|(_, _, publication)| publication.time);
        let mut copies = std::collections::HashSet::new();
        said.retain(|(_, _, publication)| publication.once.is_none_or(|number| copies.insert(number)));
        let from = said.len().saturating_sub(REPLAYED);
        for (channel, epoch, publication) in &said[from..] {
            self.say(&Event::Message { channel, epoch: *epoch, publication }, out);
        }
        Ok(())
    }
}

/// Where a session stands in a channel that it listens to.
fn place(session: &Session, channel: &ChannelName) -> Position {
    let found = session.positions().find(|(name, _)| *name == channel).map(|(_, at)| at);
    found.unwrap_or(Position { epoch: Epoch::UNKNOWN, offset: 0 })
}
