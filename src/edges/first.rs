//! The first Aether's manner on a WebSocket, for clients that were written for it and take nothing else.
//!
//! `subscribed` comes after the replay, gaps have its fields only, and what it did not know is not said: `live`, `expiring`, `bye`.

use std::borrow::Cow;

use serde::Serialize;
use serde_json::value::RawValue;

use super::frames::{WsFormat, put_ws};
use super::wire::Fault;
use crate::kernel::format::{Format, Gap, GapCause, Notice};
use crate::kernel::message::{ChannelName, Epoch, Offset, Position, Publication};
use crate::kernel::session::Session;

/// Answers to subscribes that wait for the end of a replay. Each waits for at least one channel that is replayed, and for a
/// channel only one does: there are no more of them than channels on a connection.
#[derive(Default)]
pub struct Held(Vec<Subscribed>);

#[derive(Serialize)]
struct Subscribed {
    #[serde(rename = "type")]
    kind: &'static str,
    channels: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<Box<RawValue>>,
}

impl Held {
    pub fn hold(&mut self, channels: &[&str], id: Option<&RawValue>) {
        let channels = channels.iter().map(|name| (*name).to_owned()).collect();
        self.0.push(Subscribed { kind: "subscribed", channels, id: id.map(ToOwned::to_owned) });
    }

    /// Says what has been waited for.
    pub fn say(&mut self, session: &Session, out: &mut Vec<u8>) {
        self.0.retain(|answer| {
            let waits = answer.channels.iter().any(|channel| session.is_replaying(channel));
            if !waits {
                put_ws(|json| drop(serde_json::to_writer(json, answer)), out);
            }
            waits
        });
    }
}

/// Says no in its words. Two of its codes meant something else over HTTP, so nowhere but here are they given.
pub fn put_error(fault: &Fault, asked: &str, out: &mut Vec<u8>) {
    #[derive(Serialize)]
    struct Refused<'a> {
        #[serde(rename = "type")]
        kind: &'static str,
        code: u32,
        message: Cow<'a, str>,
    }
    let (code, message) = match fault {
        Fault::TooManyInRequest { .. } => (40005, fault.message()),
        Fault::TooManyOnConnection { .. } => (40006, fault.message()),
        Fault::Json(_) if asked.is_empty() => (40003, "invalid json".into()),
        Fault::Json(_) => (40003, format!("invalid {asked} frame").into()),
        Fault::UnknownFrame(_) => (40004, "unknown frame type".into()),
        Fault::Forbidden { what: Some(channel), .. } => (40301, format!("unauthorized channel: {channel}").into()),
        other => (other.numbers().1, other.message()),
    };
    put_ws(|json| drop(serde_json::to_writer(json, &Refused { kind: "error", code, message })), out);
}

/// Its frames for what happens in a channel.
pub struct FirstFormat;

#[derive(Serialize)]
struct Told<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    channel: &'a str,
    available_from_seq: Offset,
    requested_from_seq: Offset,
    message: String,
}

impl Format for FirstFormat {
    fn publication(&self, channel: &ChannelName, epoch: Epoch, publication: &Publication, out: &mut Vec<u8>) {
        WsFormat.publication(channel, epoch, publication, out);
    }

    fn notice(&self, channel: &ChannelName, _at: Position, notice: &Notice, out: &mut Vec<u8>) {
        let gap = match notice {
            Notice::Gap(gap) => gap,
            Notice::Live => return,
        };
        // Of this nothing is missing: it came in another channel.
        if gap.cause == GapCause::Once {
            return;
        }
        let Gap { requested, available, .. } = *gap;
        let message = format!("gap: requested seq {requested} but earliest available is {available}");
        let told = Told {
            kind: "gap",
            channel: channel.as_str(),
            available_from_seq: available,
            requested_from_seq: requested,
            message,
        };
        put_ws(|json| drop(serde_json::to_writer(json, &told)), out);
    }
}
