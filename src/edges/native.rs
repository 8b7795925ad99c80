//! The native dialect: JSON frames, as `docs/protocol.md` has them, over WebSocket and server-sent events.

use std::cell::RefCell;
use std::collections::HashMap;
use std::io::Write;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tungstenite::protocol::frame::coding::{Control, OpCode};

use super::cursor;
use super::session::{Dialect, Frame};
use super::wire::{Ending, ErrorBody, Fault, object};
use super::ws;
use crate::kernel::format::{Format, Gap, Notice};
use crate::kernel::message::{ChannelName, Epoch, Media, Micros, Offset, Position, Publication};
use crate::kernel::session::{Session, Start};

thread_local! {
    static JSON: RefCell<Vec<u8>> = RefCell::default();
}

/// What a connection may ask for.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    pub channels_per_request: usize,
    pub channels_per_connection: usize,
}

/// RFC 3339 with microseconds, UTC.
pub fn timestamp(micros: Micros) -> String {
    OffsetDateTime::from_unix_timestamp_nanos(i128::from(micros) * 1000)
        .ok()
        .and_then(|at| at.format(&Rfc3339).ok())
        .unwrap_or_default()
}

/// Writes a payload as a JSON value and, where it is not JSON itself, how it was carried.
pub fn put_payload(publication: &Publication, out: &mut Vec<u8>) {
    let message = &publication.message;
    out.extend_from_slice(b"\"payload\":");
    match message.media {
        Media::Json => out.extend_from_slice(&message.payload),
        Media::Text => {
            put_string(&String::from_utf8_lossy(&message.payload), out);
            out.extend_from_slice(b",\"encoding\":\"text\"");
        }
        Media::Binary => {
            put_string(&STANDARD.encode(&message.payload), out);
            out.extend_from_slice(b",\"encoding\":\"base64\"");
        }
    }
    if let Some(content_type) = &message.content_type {
        out.extend_from_slice(b",\"content_type\":");
        put_string(content_type, out);
    }
    if let Some(event) = &message.event {
        out.extend_from_slice(b",\"event\":");
        put_string(event, out);
    }
    if let Some(meta) = &message.meta {
        out.extend_from_slice(b",\"meta\":");
        out.extend_from_slice(meta);
    }
}

fn put_string(text: &str, out: &mut Vec<u8>) {
    // Writing to memory does not fail.
    let _ = serde_json::to_writer(out, text);
}

fn put_message(channel: &ChannelName, publication: &Publication, out: &mut Vec<u8>) {
    let time = timestamp(publication.time);
    let offset = publication.offset;
    let _ =
        write!(out, "{{\"type\":\"message\",\"channel\":\"{channel}\",\"seq_id\":{offset},\"timestamp\":\"{time}\",");
    put_payload(publication, out);
    out.push(b'}');
}

#[derive(Serialize)]
#[serde(tag = "type", rename_all = "lowercase")]
enum Said<'a> {
    Subscribed {
        channels: Vec<&'a str>,
        positions: Positions<'a>,
        #[serde(skip_serializing_if = "Option::is_none")]
        id: Option<&'a RawValue>,
    },
    Unsubscribed {
        channels: Vec<&'a str>,
        #[serde(skip_serializing_if = "Option::is_none")]
        id: Option<&'a RawValue>,
    },
    Gap {
        channel: &'a str,
        requested_from_seq: Offset,
        available_from_seq: Offset,
        cause: &'static str,
        epoch: String,
        /// First and last seq that will not come, where that is known.
        #[serde(skip_serializing_if = "Option::is_none")]
        missing: Option<(Offset, Offset)>,
        message: String,
    },
    Live {
        channel: &'a str,
        seq_id: Offset,
        epoch: String,
    },
    Error {
        #[serde(flatten)]
        error: ErrorBody<'a>,
        #[serde(skip_serializing_if = "Option::is_none")]
        id: Option<&'a RawValue>,
    },
    Pong {
        #[serde(skip_serializing_if = "Option::is_none")]
        id: Option<&'a RawValue>,
    },
    Bye {
        code: u16,
        reason: &'a str,
        /// When to come back; absent: not with this.
        #[serde(skip_serializing_if = "Option::is_none")]
        retry_ms: Option<u64>,
    },
}

#[derive(Serialize)]
struct Place {
    seq_id: Offset,
    epoch: String,
}

type Positions<'a> = std::collections::BTreeMap<&'a str, Place>;

impl From<Position> for Place {
    fn from(position: Position) -> Self {
        Place { seq_id: position.offset, epoch: position.epoch.to_string() }
    }
}

fn said_of<'a>(channel: &'a ChannelName, at: Position, notice: &Notice) -> Said<'a> {
    let (channel, epoch) = (channel.as_str(), at.epoch.to_string());
    match notice {
        Notice::Live => Said::Live { channel, seq_id: at.offset, epoch },
        Notice::Gap(Gap { requested, available, cause, missing }) => Said::Gap {
            channel,
            requested_from_seq: *requested,
            available_from_seq: *available,
            cause: cause.as_str(),
            epoch,
            missing: *missing,
            message: format!("gap: requested seq {requested} but earliest available is {available}"),
        },
    }
}

/// A JSON text as a WebSocket frame; like the first Aether's, it ends in a newline.
fn put_ws(write: impl FnOnce(&mut Vec<u8>), out: &mut Vec<u8>) {
    JSON.with_borrow_mut(|json| {
        json.clear();
        write(json);
        json.push(b'\n');
        ws::put_text(json, out);
        json.shrink_to(64 * 1024);
    });
}

fn put_said(said: &Said<'_>, out: &mut Vec<u8>) {
    put_ws(|json| drop(serde_json::to_writer(json, said)), out);
}

/// JSON text frames.
pub struct WsFormat;

impl Format for WsFormat {
    fn publication(&self, channel: &ChannelName, _epoch: Epoch, publication: &Publication, out: &mut Vec<u8>) {
        put_ws(|json| put_message(channel, publication, json), out);
    }

    fn notice(&self, channel: &ChannelName, at: Position, notice: &Notice, out: &mut Vec<u8>) {
        put_said(&said_of(channel, at, notice), out);
    }
}

/// Server-sent events. A stream of one channel has the same bytes for all its readers; in a stream of several, each event
/// ends in a cursor that is the session's own.
pub struct SseFormat {
    pub several: bool,
    /// The bare payload as `data:`, instead of the frame.
    pub bare: bool,
}

impl SseFormat {
    /// `id:` and the empty line that ends the event, unless the session's own seal does that.
    fn end(&self, channel: &ChannelName, at: Position, out: &mut Vec<u8>) {
        if !self.several {
            self.seal(&mut std::iter::once((channel, at)), out);
        }
    }
}

impl Format for SseFormat {
    fn publication(&self, channel: &ChannelName, epoch: Epoch, publication: &Publication, out: &mut Vec<u8>) {
        let message = &publication.message;
        put_event_name(message.event.as_deref().unwrap_or("message"), out);
        JSON.with_borrow_mut(|json| {
            json.clear();
            match (self.bare, message.media) {
                (false, _) => put_message(channel, publication, json),
                (true, Media::Binary) => json.extend_from_slice(STANDARD.encode(&message.payload).as_bytes()),
                (true, _) => json.extend_from_slice(&message.payload),
            }
            put_data(json, out);
            json.shrink_to(64 * 1024);
        });
        self.end(channel, Position { epoch, offset: publication.offset }, out);
    }

    fn notice(&self, channel: &ChannelName, at: Position, notice: &Notice, out: &mut Vec<u8>) {
        put_event_name(if *notice == Notice::Live { "live" } else { "gap" }, out);
        put_data(&serde_json::to_vec(&said_of(channel, at, notice)).unwrap_or_default(), out);
        self.end(channel, at, out);
    }

    fn sealed(&self) -> bool {
        self.several
    }

    fn seal(&self, positions: &mut dyn Iterator<Item = (&ChannelName, Position)>, out: &mut Vec<u8>) {
        out.extend_from_slice(b"id: ");
        cursor::write(positions, out);
        out.extend_from_slice(b"\n\n");
    }
}

/// Events of the stream itself: a publication that was named like one could pass for it.
pub const RESERVED_EVENTS: [&str; 8] = ["gap", "live", "subscribed", "bye", "error", "open", "join", "leave"];

fn put_event_name(name: &str, out: &mut Vec<u8>) {
    out.extend_from_slice(b"event: ");
    out.extend_from_slice(name.as_bytes());
    out.push(b'\n');
}

/// One `data:` line per line: whatever is in the text, it cannot begin a field of its own. CR and CRLF become LF, which an
/// event stream cannot tell apart.
fn put_data(text: &[u8], out: &mut Vec<u8>) {
    let mut rest = text;
    loop {
        let end = rest.iter().position(|byte| matches!(byte, b'\n' | b'\r')).unwrap_or(rest.len());
        out.extend_from_slice(b"data: ");
        out.extend_from_slice(&rest[..end]);
        out.push(b'\n');
        if end == rest.len() {
            return;
        }
        let line_end = if rest[end..].starts_with(b"\r\n") { 2 } else { 1 };
        rest = &rest[end + line_end..];
    }
}

/// When a client that is sent away may come back: each at a time of its own, so that they do not all come at once.
pub fn retry_ms(why: Ending) -> Option<u64> {
    match why {
        Ending::Lagged => Some(0),
        Ending::Draining => {
            let mut spread = [0; 2];
            let _ = getrandom::fill(&mut spread);
            Some(500 + u64::from(u16::from_le_bytes(spread)) * 4500 / 65536)
        }
        _ => None,
    }
}

/// A client's frame. Unknown fields are ignored.
#[derive(Deserialize)]
struct Asked<'a> {
    #[serde(rename = "type", default)]
    kind: String,
    #[serde(default)]
    channels: Option<Vec<String>>,
    #[serde(default)]
    after_seq: Option<HashMap<String, i64>>,
    #[serde(default)]
    epoch: Option<HashMap<String, String>>,
    #[serde(default, borrow)]
    id: Option<&'a RawValue>,
}

/// An `id` that is echoed is no place to store things.
const MAX_ID: usize = 256;

/// The native dialect on a WebSocket.
pub struct WsDialect {
    pub limits: Limits,
}

impl Dialect for WsDialect {
    async fn on_frame(&mut self, session: &mut Session, frame: Frame, out: &mut Vec<u8>) -> Result<(), Ending> {
        match frame {
            Frame::Text(text) => self.on_text(session, &text, out).await,
            Frame::Binary(_) => refuse(&Fault::Json("send JSON as text frames".into()), None, out),
            Frame::Ping(payload) => ws::put_frame(OpCode::Control(Control::Pong), &payload, out),
            Frame::Pong => {}
        }
        Ok(())
    }

    fn beat(&mut self, out: &mut Vec<u8>) {
        ws::put_frame(OpCode::Control(Control::Ping), b"", out);
    }

    fn bye(&mut self, why: Ending, out: &mut Vec<u8>) {
        let Some(code) = why.code() else { return };
        if matches!(why, Ending::Draining | Ending::Lagged | Ending::Expired) {
            put_said(&Said::Bye { code, reason: why.reason(), retry_ms: retry_ms(why) }, out);
        }
        ws::put_close(code, why.reason(), out);
    }
}

fn refuse(fault: &Fault, id: Option<&RawValue>, out: &mut Vec<u8>) {
    put_said(&Said::Error { error: fault.body(), id }, out);
}

impl WsDialect {
    async fn on_text(&mut self, session: &mut Session, text: &[u8], out: &mut Vec<u8>) {
        let asked: Asked<'_> = match object(text) {
            Ok(asked) => asked,
            Err(fault) => return refuse(&fault, None, out),
        };
        let id = asked.id.filter(|id| id.get().len() <= MAX_ID);
        match asked.kind.as_str() {
            "subscribe" => self.subscribe(session, asked, id, out).await,
            "unsubscribe" => unsubscribe(session, &asked.channels.unwrap_or_default(), id, out),
            "ping" => put_said(&Said::Pong { id }, out),
            other => refuse(&Fault::UnknownFrame(other.chars().take(64).collect()), id, out),
        }
    }

    async fn subscribe(&self, session: &mut Session, asked: Asked<'_>, id: Option<&RawValue>, out: &mut Vec<u8>) {
        let mut names = asked.channels.unwrap_or_default();
        let Limits { channels_per_request: per_request, channels_per_connection: per_connection } = self.limits;
        if names.len() > per_request {
            return refuse(&Fault::TooManyInRequest { asked: names.len(), max: per_request }, id, out);
        }
        let mut seen = std::collections::HashSet::new();
        names.retain(|name| !session.holds(name) && seen.insert(name.clone()));
        if session.len() + names.len() > per_connection {
            return refuse(&Fault::TooManyOnConnection { max: per_connection }, id, out);
        }
        let mut positions = Vec::new();
        for name in &names {
            let after = asked.after_seq.as_ref().and_then(|after| after.get(name));
            let epoch = asked.epoch.as_ref().and_then(|epochs| epochs.get(name));
            match subscribe_one(session, name, after.copied(), epoch).await {
                Ok(position) => positions.push((name.as_str(), position)),
                Err(fault) => refuse(&fault, id, out),
            }
        }
        let channels = positions.iter().map(|(name, _)| *name).collect();
        let positions = positions.iter().map(|(name, position)| (*name, Place::from(*position))).collect();
        put_said(&Said::Subscribed { channels, positions, id }, out);
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

fn unsubscribe(session: &mut Session, names: &[String], id: Option<&RawValue>, out: &mut Vec<u8>) {
    let channels: Vec<_> = names.iter().map(String::as_str).filter(|name| session.unsubscribe(name)).collect();
    if !channels.is_empty() || id.is_some() {
        put_said(&Said::Unsubscribed { channels, id }, out);
    }
}

/// The native dialect on an event stream: nothing is asked, so it has only first and last words.
pub struct SseDialect;

impl SseDialect {
    /// The first event: where the stream begins, and how soon to come back when it breaks.
    pub fn hello(session: &Session, retry: std::time::Duration, out: &mut Vec<u8>) {
        let positions: Positions<'_> =
            session.positions().map(|(channel, position)| (channel.as_str(), Place::from(position))).collect();
        let said = Said::Subscribed { channels: positions.keys().copied().collect(), positions, id: None };
        let _ = writeln!(out, "retry: {}", retry.as_millis());
        put_event_name("subscribed", out);
        put_data(&serde_json::to_vec(&said).unwrap_or_default(), out);
        out.extend_from_slice(b"id: ");
        cursor::write(session.positions(), out);
        out.extend_from_slice(b"\n\n");
    }
}

impl Dialect for SseDialect {
    async fn on_frame(&mut self, _session: &mut Session, _frame: Frame, _out: &mut Vec<u8>) -> Result<(), Ending> {
        Ok(())
    }

    fn beat(&mut self, out: &mut Vec<u8>) {
        out.extend_from_slice(b":\n\n");
    }

    fn bye(&mut self, why: Ending, out: &mut Vec<u8>) {
        let Some(code) = why.code() else { return };
        let retry_ms = retry_ms(why);
        if let Some(retry_ms) = retry_ms {
            let _ = writeln!(out, "retry: {retry_ms}");
        }
        put_event_name("bye", out);
        let said = Said::Bye { code, reason: why.reason(), retry_ms };
        put_data(&serde_json::to_vec(&said).unwrap_or_default(), out);
        out.push(b'\n');
    }
}
