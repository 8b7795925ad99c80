//! The native dialect: what a client may ask, and what it is answered.

use std::collections::HashMap;
use std::io::Write;
use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::time::Instant;
use tungstenite::protocol::frame::coding::{Control, OpCode};

use super::cursor;
use super::first::{self, Held};
use super::frames::{Place, Positions, Published, Said, positions, put_event, put_said, put_ws, timestamp};
use super::history::{self, Ask};
use super::line::{Dialect, Frame};
use super::load::Load;
use super::patience::Patience;
use super::publish::Written;
use super::wire::{Ending, Fault, object};
use super::ws;
use crate::kernel::hooks::Refusal;
use crate::kernel::message::{ChannelName, Epoch, Offset, Position};
use crate::kernel::session::{Pace, Session, Start};

/// What a connection may ask for.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    pub channels_per_request: usize,
    pub channels_per_connection: usize,
    /// What it may hear no to in a minute; 0: no bound.
    pub refusals_per_minute: usize,
}

/// Any frame of a client: its kind, and what to call the answer. Unknown fields are ignored. Go's structs are called with
/// capitals where nobody tagged them.
#[derive(Deserialize)]
struct Asked<'a> {
    #[serde(rename = "type", alias = "Type", default)]
    kind: String,
    #[serde(default, borrow)]
    id: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Subscribe {
    #[serde(default, alias = "Channels")]
    channels: Option<Vec<String>>,
    #[serde(default)]
    after_seq: Option<HashMap<String, i64>>,
    #[serde(default)]
    epoch: Option<HashMap<String, String>>,
    #[serde(default)]
    pace: Option<AskedPace>,
    /// Only say what would happen.
    #[serde(default)]
    dry_run: bool,
}

/// How fast the channels of a subscribe are wanted.
#[derive(Clone, Copy, Deserialize)]
pub struct AskedPace {
    /// Messages a second.
    pub max_rate: f64,
    #[serde(default)]
    pub conflate: bool,
}

impl AskedPace {
    pub fn pace(self) -> Result<Pace, Fault> {
        let sane = self.max_rate.is_finite() && (0.001..=1000.0).contains(&self.max_rate);
        if !sane {
            return Err(Fault::Parameter("max_rate: messages a second, 0.001 to 1000".into()));
        }
        Ok(Pace { every: Duration::from_secs_f64(1.0 / self.max_rate), conflate: self.conflate })
    }
}

#[derive(Deserialize)]
struct Refresh {
    #[serde(default)]
    token: Option<String>,
}

#[derive(Deserialize)]
struct Unsubscribe {
    #[serde(default, alias = "Channels")]
    channels: Option<Vec<String>>,
}

/// An `id` that is echoed is no place to store things.
const MAX_ID: usize = 256;
/// What one history frame may carry.
const HISTORY_BYTES: usize = 256 * 1024;

/// Users that one presence frame names; `sessions` counts them all.
const MAX_PRESENT: usize = 1000;

/// The native dialect on a WebSocket.
pub struct WsDialect {
    pub limits: Limits,
    /// Whether each beat says where the channels stand.
    pub heartbeat: bool,
    patience: Patience,
    /// Whether history may be read just now; always, if nobody says.
    load: Option<Arc<Load>>,
    /// With one it speaks in the first Aether's manner.
    first: Option<Held>,
}

impl Dialect for WsDialect {
    async fn on_frame(&mut self, session: &mut Session, frame: Frame, out: &mut Vec<u8>) -> Result<(), Ending> {
        match frame {
            Frame::Text(text) => self.on_text(session, &text, out).await?,
            Frame::Binary(_) if self.first.is_some() => {}
            Frame::Binary(_) => self.refuse(&Fault::Json("send JSON as text frames".into()), "", None, out)?,
            Frame::Ping(payload) => ws::put_frame(OpCode::Control(Control::Pong), &payload, out),
            Frame::Pong => {}
        }
        Ok(())
    }

    fn beat(&mut self, session: &Session, out: &mut Vec<u8>) {
        if self.heartbeat {
            put_said(&Said::Heartbeat { positions: positions(session.heads()) }, out);
        }
        ws::put_frame(OpCode::Control(Control::Ping), b"", out);
    }

    fn turned(&mut self, session: &Session, out: &mut Vec<u8>) {
        if let Some(held) = &mut self.first {
            held.say(session, out);
        }
    }

    fn expiring(&mut self, left: Duration, out: &mut Vec<u8>) {
        if self.first.is_none() {
            put_said(&Said::Expiring { in_ms: left.as_millis() as u64 }, out);
        }
    }

    fn unsubscribed(&mut self, channel: &ChannelName, out: &mut Vec<u8>) {
        put_said(&Said::Unsubscribed { channels: vec![channel.as_str()], id: None }, out);
    }

    fn denied(&mut self, channel: ChannelName, refusal: Refusal, out: &mut Vec<u8>) {
        deny(&channel, refusal, out);
    }

    fn bye(&mut self, why: Ending, retry_ms: Option<u64>, out: &mut Vec<u8>) {
        let Some(code) = why.code() else { return };
        let comes_back = matches!(why, Ending::Draining | Ending::Lagged | Ending::Squeezed | Ending::Store);
        let is_sent_away = matches!(why, Ending::Expired | Ending::Refused | Ending::Kicked | Ending::SentAway(_));
        let told = comes_back || is_sent_away;
        if told && self.first.is_none() {
            put_said(&Said::Bye { code, reason: why.reason(), retry_ms }, out);
        }
        ws::put_close(code, why.reason(), out);
    }
}

fn deny(channel: &ChannelName, refusal: Refusal, out: &mut Vec<u8>) {
    refuse(&Fault::Forbidden { refusal, what: Some(channel.to_string()) }, None, out);
    put_said(&Said::Unsubscribed { channels: vec![channel.as_str()], id: None }, out);
}

fn refuse(fault: &Fault, id: Option<&RawValue>, out: &mut Vec<u8>) {
    put_said(&Said::Error { error: fault.body(), id }, out);
}

/// Why a frame is not answered with what it asked for.
enum No {
    Fault(Fault),
    /// One too many.
    Ending(Ending),
}

impl From<Fault> for No {
    fn from(fault: Fault) -> No {
        No::Fault(fault)
    }
}

impl WsDialect {
    pub fn new(limits: Limits, heartbeat: bool) -> WsDialect {
        let patience = Patience::new(limits.refusals_per_minute);
        WsDialect { limits, heartbeat, patience, load: None, first: None }
    }

    /// On a hub that may be pressed.
    pub fn under(self, load: Arc<Load>) -> WsDialect {
        WsDialect { load: Some(load), ..self }
    }

    /// In the first Aether's manner.
    pub fn like_the_first(self) -> WsDialect {
        WsDialect { first: Some(Held::default()), ..self }
    }

    /// Says no to what was `asked`, as long as there is patience for it.
    fn refuse(&mut self, fault: &Fault, asked: &str, id: Option<&RawValue>, out: &mut Vec<u8>) -> Result<(), Ending> {
        if self.patience.take(Instant::now()) {
            match self.first {
                Some(_) => first::put_error(fault, asked, out),
                None => refuse(fault, id, out),
            }
            return Ok(());
        }
        refuse(&Fault::TooManyRefusals, id, out);
        Err(Ending::Refused)
    }

    async fn on_text(&mut self, session: &mut Session, text: &[u8], out: &mut Vec<u8>) -> Result<(), Ending> {
        let asked: Asked<'_> = match object(text) {
            Ok(asked) => asked,
            Err(fault) => return self.refuse(&fault, "", None, out),
        };
        let id = asked.id.filter(|id| id.get().len() <= MAX_ID);
        let answered = match asked.kind.as_str() {
            "subscribe" => match self.subscribe(session, text, id, out).await {
                Err(No::Ending(ending)) => return Err(ending),
                Err(No::Fault(fault)) => Err(fault),
                Ok(()) => Ok(()),
            },
            "unsubscribe" => unsubscribe(session, text, id, out),
            "publish" => publish(session, text, id, out).await,
            "presence" => presence(session, text, id, out),
            "refresh" => refresh(session, text, id, out).await,
            "history" => match self.load.as_ref().map_or(Ok(()), |load| load.pressure.admits_reads()) {
                Ok(()) => read_history(session, text, id, out).await,
                pressed => pressed,
            },
            "ping" => {
                put_said(&Said::Pong { id }, out);
                Ok(())
            }
            other => Err(Fault::UnknownFrame(other.chars().take(64).collect())),
        };
        answered.or_else(|fault| self.refuse(&fault, &asked.kind, id, out))
    }

    async fn subscribe(
        &mut self,
        session: &mut Session,
        text: &[u8],
        id: Option<&RawValue>,
        out: &mut Vec<u8>,
    ) -> Result<(), No> {
        let asked: Subscribe = object(text)?;
        let pace = asked.pace.map(AskedPace::pace).transpose()?;
        let mut names = asked.channels.unwrap_or_default();
        let Limits { channels_per_request: per_request, channels_per_connection: per_connection, .. } = self.limits;
        if names.len() > per_request {
            return Err(Fault::TooManyInRequest { asked: names.len(), max: per_request }.into());
        }
        let mut seen = std::collections::HashSet::new();
        names.retain(|name| !session.holds(name) && seen.insert(name.clone()));
        if session.len() + names.len() > per_connection {
            return Err(Fault::TooManyOnConnection { max: per_connection }.into());
        }
        if asked.dry_run {
            return self.rehearse(session, &names, id, out).await;
        }
        let mut positions = Vec::new();
        for name in &names {
            let after = asked.after_seq.as_ref().and_then(|after| after.get(name));
            let epoch = asked.epoch.as_ref().and_then(|epochs| epochs.get(name));
            match subscribe_one(session, name, after.copied(), epoch).await {
                Ok(position) => {
                    if let Some(pace) = pace {
                        session.set_pace(name, pace);
                    }
                    positions.push((name.as_str(), position));
                }
                Err(fault) => self.refuse(&fault, "subscribe", id, out).map_err(No::Ending)?,
            }
        }
        let channels: Vec<_> = positions.iter().map(|(name, _)| *name).collect();
        if let Some(held) = &mut self.first {
            held.hold(&channels, id);
            held.say(session, out);
            return Ok(());
        }
        let positions: Positions<'_> =
            positions.iter().map(|(name, position)| (*name, Place::from(*position))).collect();
        put_said(&Said::Subscribed { channels, positions, id }, out);
        Ok(())
    }

    /// Whether each of the channels could be subscribed to. It costs the rules what a subscribe does, and counts like one.
    async fn rehearse(
        &mut self,
        session: &Session,
        names: &[String],
        id: Option<&RawValue>,
        out: &mut Vec<u8>,
    ) -> Result<(), No> {
        let (mut channels, mut faults) = (Vec::new(), Vec::new());
        for name in names {
            let verdict = match ChannelName::new(name) {
                Ok(channel) => {
                    let vote = session.hub().hooks().subscribe(session.client(), &channel).await;
                    vote.map_err(|refusal| Fault::Forbidden { refusal, what: Some(name.clone()) })
                }
                Err(error) => Err(Fault::ChannelName(error)),
            };
            match verdict {
                Ok(_) => channels.push(name.as_str()),
                Err(_) if !self.patience.take(Instant::now()) => {
                    refuse(&Fault::TooManyRefusals, id, out);
                    return Err(No::Ending(Ending::Refused));
                }
                Err(fault) => faults.push(fault),
            }
        }
        let refused = faults.iter().map(Fault::body).collect();
        put_said(&Said::DryRun { channels, refused, id }, out);
        Ok(())
    }
}

async fn subscribe_one(
    session: &mut Session,
    name: &str,
    after: Option<i64>,
    epoch: Option<&String>,
) -> Result<Position, Fault> {
    let channel = ChannelName::new(name).map_err(Fault::ChannelName)?;
    let epoch = epoch.map(|text| text.parse().unwrap_or(Epoch::UNKNOWN));
    let start = match after {
        Some(after) => Start::After(after.max(0) as Offset, epoch),
        None => Start::Now,
    };
    session.subscribe(channel, start).await.map_err(|error| Fault::subscribe(error, name))
}

fn unsubscribe(session: &mut Session, text: &[u8], id: Option<&RawValue>, out: &mut Vec<u8>) -> Result<(), Fault> {
    let names = object::<Unsubscribe>(text)?.channels.unwrap_or_default();
    let channels: Vec<_> = names.iter().map(String::as_str).filter(|name| session.unsubscribe(name)).collect();
    if !channels.is_empty() || id.is_some() {
        put_said(&Said::Unsubscribed { channels, id }, out);
    }
    Ok(())
}

/// A client publishes where the rules let it, and hears of it as a back end does.
async fn publish(session: &mut Session, text: &[u8], id: Option<&RawValue>, out: &mut Vec<u8>) -> Result<(), Fault> {
    let draft = object::<Written<'_>>(text)?.draft()?;
    let channel = draft.channel.clone();
    let receipt = session.hub().publish(session.client(), draft).await;
    let receipt = receipt.map_err(|error| Fault::publish(error, true, channel.as_str()))?;
    session.hub().let_readers_follow(std::iter::once(&receipt)).await;
    put_said(&Said::Published { published: Published::from(&receipt), id }, out);
    Ok(())
}

#[derive(Deserialize)]
struct AskPresence {
    #[serde(default)]
    channel: Option<String>,
}

/// Who listens to a channel, for those who listen to it themselves.
fn presence(session: &Session, text: &[u8], id: Option<&RawValue>, out: &mut Vec<u8>) -> Result<(), Fault> {
    let name = object::<AskPresence>(text)?.channel.filter(|name| !name.is_empty()).ok_or(Fault::Missing("channel"))?;
    let channel = ChannelName::new(&name).map_err(Fault::ChannelName)?;
    if !session.holds(&name) {
        return Err(Fault::Parameter(format!("presence: subscribe to {name} first")));
    }
    let (users, sessions) = session.hub().users(&channel, MAX_PRESENT);
    let users = users.iter().map(String::as_str).collect();
    put_said(&Said::Presence { channel: &name, users, sessions, id }, out);
    Ok(())
}

/// A new credential for the same connection. Subscriptions that it does not cover end, each with a word.
async fn refresh(session: &mut Session, text: &[u8], id: Option<&RawValue>, out: &mut Vec<u8>) -> Result<(), Fault> {
    let token = object::<Refresh>(text)?.token.filter(|token| !token.is_empty()).ok_or(Fault::Missing("token"))?;
    let hub = session.hub().clone();
    let identity = hub.hooks().refresh(session.client(), &token).await;
    let identity = identity.map_err(|refusal| Fault::Unauthorized { refusal, api: false })?;
    let expires = identity.expires.map(timestamp);
    let client = session.client().with(identity);
    for (channel, refusal) in session.becomes(client).await {
        deny(&channel, refusal, out);
    }
    put_said(&Said::Refreshed { expires, id }, out);
    Ok(())
}

async fn read_history(session: &Session, text: &[u8], id: Option<&RawValue>, out: &mut Vec<u8>) -> Result<(), Fault> {
    let ask: Ask = object(text)?;
    let read = history::page(session.hub(), session.client(), true, &ask, HISTORY_BYTES).await?;
    put_ws(
        |json| {
            let _ = write!(json, "{{\"type\":\"history\",");
            if let Some(id) = id {
                let _ = write!(json, "\"id\":{id},");
            }
            json.extend_from_slice(&read);
            json.push(b'}');
        },
        out,
    );
    Ok(())
}

/// The native dialect on an event stream: nothing is asked, so it has only first and last words.
pub struct SseDialect {
    /// Whether each beat says where the channels stand.
    pub heartbeat: bool,
}

impl SseDialect {
    /// The first event: where the stream begins, and how soon to come back when it breaks.
    pub fn hello(session: &Session, retry: Duration, out: &mut Vec<u8>) {
        let positions = positions(session.positions());
        let said = Said::Subscribed { channels: positions.keys().copied().collect(), positions, id: None };
        let _ = writeln!(out, "retry: {}", retry.as_millis());
        put_event("subscribed", &said, out);
        out.extend_from_slice(b"id: ");
        cursor::write(session.positions(), out);
        out.extend_from_slice(b"\n\n");
    }
}

impl Dialect for SseDialect {
    async fn on_frame(&mut self, _session: &mut Session, _frame: Frame, _out: &mut Vec<u8>) -> Result<(), Ending> {
        Ok(())
    }

    fn beat(&mut self, session: &Session, out: &mut Vec<u8>) {
        if self.heartbeat {
            put_event("heartbeat", &Said::Heartbeat { positions: positions(session.heads()) }, out);
            out.push(b'\n');
        } else {
            out.extend_from_slice(b":\n\n");
        }
    }

    fn expiring(&mut self, left: Duration, out: &mut Vec<u8>) {
        put_event("expiring", &Said::Expiring { in_ms: left.as_millis() as u64 }, out);
        out.push(b'\n');
    }

    fn unsubscribed(&mut self, channel: &ChannelName, out: &mut Vec<u8>) {
        put_event("unsubscribed", &Said::Unsubscribed { channels: vec![channel.as_str()], id: None }, out);
        out.push(b'\n');
    }

    fn denied(&mut self, channel: ChannelName, refusal: Refusal, out: &mut Vec<u8>) {
        let fault = Fault::Forbidden { refusal, what: Some(channel.to_string()) };
        put_event("error", &Said::Error { error: fault.body(), id: None }, out);
        out.push(b'\n');
        self.unsubscribed(&channel, out);
    }

    fn bye(&mut self, why: Ending, retry_ms: Option<u64>, out: &mut Vec<u8>) {
        let Some(code) = why.code() else { return };
        if let Some(retry_ms) = retry_ms {
            let _ = writeln!(out, "retry: {retry_ms}");
        }
        put_event("bye", &Said::Bye { code, reason: why.reason(), retry_ms }, out);
        out.push(b'\n');
    }
}
