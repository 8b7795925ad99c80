//! What the native dialect says: the JSON frames of `docs/protocol.md`, and how they lie on a WebSocket and in an event stream.

use std::cell::RefCell;
use std::io::Write;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Serialize;
use serde_json::value::RawValue;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::cursor;
use super::wire::ErrorBody;
use super::ws;
use crate::kernel::format::{Format, Gap, Notice};
use crate::kernel::hub::Receipt;
use crate::kernel::message::{ChannelName, Epoch, Media, Micros, Offset, Position, Publication};
use crate::kernel::policy::Ack;

thread_local! {
    static JSON: RefCell<Vec<u8>> = RefCell::default();
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
    let kind = announced(publication).unwrap_or("message");
    let _ =
        write!(out, "{{\"type\":\"{kind}\",\"channel\":\"{channel}\",\"seq_id\":{offset},\"timestamp\":\"{time}\",");
    if kind == "message" {
        put_payload(publication, out);
        out.push(b'}');
    } else {
        out.extend_from_slice(&publication.message.payload[1..]);
    }
}

/// `join` or `leave`, if it says who came or went. Only rules that may announce have these names for their events.
fn announced(publication: &Publication) -> Option<&'static str> {
    let message = &publication.message;
    let kind = ["join", "leave"].into_iter().find(|kind| message.event.as_deref() == Some(kind))?;
    let says_who = message.media == Media::Json && message.payload.starts_with(b"{\"");
    says_who.then_some(kind)
}

#[derive(Serialize)]
#[serde(tag = "type", rename_all = "lowercase")]
pub enum Said<'a> {
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
    Published {
        #[serde(flatten)]
        published: Published<'a>,
        #[serde(skip_serializing_if = "Option::is_none")]
        id: Option<&'a RawValue>,
    },
    /// Where the channels of the connection stand: a client that is behind has lost something.
    Heartbeat {
        positions: Positions<'a>,
    },
    /// The credential ends soon; `refresh` it, or the connection ends with it.
    Expiring {
        in_ms: u64,
    },
    #[serde(rename = "dry_run")]
    DryRun {
        /// Those that could be subscribed to.
        channels: Vec<&'a str>,
        refused: Vec<ErrorBody<'a>>,
        #[serde(skip_serializing_if = "Option::is_none")]
        id: Option<&'a RawValue>,
    },
    Presence {
        channel: &'a str,
        /// Each once, however many connections it has.
        users: Vec<&'a str>,
        /// Connections, those without a user too.
        sessions: usize,
        #[serde(skip_serializing_if = "Option::is_none")]
        id: Option<&'a RawValue>,
    },
    Refreshed {
        /// When the new credential ends.
        #[serde(skip_serializing_if = "Option::is_none")]
        expires: Option<String>,
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

/// What a publisher is told, over HTTP and on a connection alike.
#[derive(Serialize)]
pub struct Published<'a> {
    channel: &'a str,
    seq_id: Offset,
    epoch: String,
    timestamp: String,
    ack: &'static str,
    duplicate: bool,
}

impl<'a> From<&'a Receipt> for Published<'a> {
    fn from(receipt: &'a Receipt) -> Self {
        Published {
            channel: receipt.channel.as_str(),
            seq_id: receipt.offset,
            epoch: receipt.epoch.to_string(),
            timestamp: timestamp(receipt.time),
            ack: ack_word(receipt.ack),
            duplicate: receipt.duplicate,
        }
    }
}

pub fn ack_word(ack: Ack) -> &'static str {
    match ack {
        Ack::Memory => "memory",
        Ack::Written => "written",
        Ack::Synced => "synced",
    }
}

/// Messages of a channel, as history lists them.
pub fn put_messages(publications: &[Publication], out: &mut Vec<u8>) {
    out.push(b'[');
    for (i, publication) in publications.iter().enumerate() {
        let comma = if i > 0 { "," } else { "" };
        let (offset, time) = (publication.offset, timestamp(publication.time));
        let _ = write!(out, "{comma}{{\"seq_id\":{offset},\"timestamp\":\"{time}\",");
        put_payload(publication, out);
        out.push(b'}');
    }
    out.push(b']');
}

#[derive(Serialize)]
pub struct Place {
    pub seq_id: Offset,
    pub epoch: String,
}

pub type Positions<'a> = std::collections::BTreeMap<&'a str, Place>;

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

pub fn positions<'a>(all: impl Iterator<Item = (&'a ChannelName, Position)>) -> Positions<'a> {
    all.map(|(channel, position)| (channel.as_str(), Place::from(position))).collect()
}

/// A publication or a notice as a bare JSON frame.
pub fn put_json_event(channel: &ChannelName, event: Result<&Publication, (Position, &Notice)>, out: &mut Vec<u8>) {
    match event {
        Ok(publication) => put_message(channel, publication, out),
        Err((at, notice)) => drop(serde_json::to_writer(out, &said_of(channel, at, notice))),
    }
}

/// A JSON text as a WebSocket frame; like the first Aether's, it ends in a newline.
pub fn put_ws(write: impl FnOnce(&mut Vec<u8>), out: &mut Vec<u8>) {
    JSON.with_borrow_mut(|json| {
        json.clear();
        write(json);
        json.push(b'\n');
        ws::put_text(json, out);
        json.shrink_to(64 * 1024);
    });
}

pub fn put_said(said: &Said<'_>, out: &mut Vec<u8>) {
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

/// An event that carries no message.
pub fn put_event(name: &str, said: &Said<'_>, out: &mut Vec<u8>) {
    put_event_name(name, out);
    put_data(&serde_json::to_vec(said).unwrap_or_default(), out);
}

/// Events of the stream itself: a publication that was named like one could pass for it.
pub const RESERVED_EVENTS: [&str; 11] =
    ["gap", "live", "subscribed", "bye", "error", "open", "join", "leave", "heartbeat", "expiring", "unsubscribed"];

pub fn put_event_name(name: &str, out: &mut Vec<u8>) {
    out.extend_from_slice(b"event: ");
    out.extend_from_slice(name.as_bytes());
    out.push(b'\n');
}

/// One `data:` line per line: whatever is in the text, it cannot begin a field of its own. CR and CRLF become LF, which an
/// event stream cannot tell apart.
pub fn put_data(text: &[u8], out: &mut Vec<u8>) {
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
