//! `ev`: what a dialect puts into words.

use mlua::{Lua, Table, Value};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::line::speech;
use crate::kernel::dialect::{Event, NoEntry, Speech, Tag, Transport};
use crate::kernel::format::{Gap, Notice};
use crate::kernel::hooks::Refusal;
use crate::kernel::message::{ChannelName, Epoch, Media, Position, Publication};
use crate::plugins::asking::view::announced;
use crate::plugins::vm::value::{describe, json_to_lua};

/// What `encode` returned: nothing to say, or the bytes and their kind.
pub fn read_speech(value: &Value, kind: &Value) -> Result<Option<Speech>, String> {
    let kind = match kind {
        Value::Nil => None,
        Value::String(kind) => Some(kind.to_string_lossy()),
        other => return Err(format!("a frame is \"text\" or \"binary\", got {}", describe(other))),
    };
    match value {
        Value::Nil => Ok(None),
        bytes => speech(bytes, kind.as_deref()).map(Some),
    }
}

pub fn channel_of<'a>(event: &Event<'a>) -> Option<&'a ChannelName> {
    match event {
        Event::Message { channel, .. }
        | Event::Notice { channel, .. }
        | Event::Subscribed { channel, .. }
        | Event::Unsubscribed { channel, .. } => Some(channel),
        Event::Denied { channel, .. } => *channel,
        Event::Published { .. }
        | Event::Authenticated { .. }
        | Event::Error { .. }
        | Event::Ping
        | Event::Expiring { .. }
        | Event::Closing { .. } => None,
    }
}

pub fn table(lua: &Lua, transport: Transport, event: &Event<'_>) -> mlua::Result<Table> {
    let ev = lua.create_table_with_capacity(0, 10)?;
    ev.raw_set("transport", transport.name())?;
    if let Some(channel) = channel_of(event) {
        ev.raw_set("channel", channel.as_str())?;
    }
    match event {
        Event::Message { epoch, publication, .. } => message(lua, &ev, *epoch, publication)?,
        Event::Notice { at, notice: Notice::Live, .. } => {
            ev.raw_set("kind", "live")?;
            position(&ev, *at)?;
        }
        Event::Notice { at, notice: Notice::Gap(Gap { requested, available, cause, missing }), .. } => {
            ev.raw_set("kind", "gap")?;
            position(&ev, *at)?;
            ev.raw_set("requested", *requested as f64)?;
            ev.raw_set("available", *available as f64)?;
            ev.raw_set("cause", cause.as_str())?;
            if let Some((first, last)) = missing {
                ev.raw_set("first", *first as f64)?;
                ev.raw_set("last", *last as f64)?;
            }
        }
        Event::Subscribed { at, tag, .. } => {
            ev.raw_set("kind", "subscribed")?;
            position(&ev, *at)?;
            put_tag(lua, &ev, tag)?;
        }
        Event::Unsubscribed { tag, .. } => {
            ev.raw_set("kind", "unsubscribed")?;
            put_tag(lua, &ev, tag)?;
        }
        Event::Published { receipt, tag } => {
            ev.raw_set("kind", "published")?;
            ev.raw_set("channel", receipt.channel.as_str())?;
            position(&ev, Position { epoch: receipt.epoch, offset: receipt.offset })?;
            ev.raw_set("duplicate", receipt.duplicate)?;
            put_tag(lua, &ev, tag)?;
        }
        Event::Authenticated { tag } => {
            ev.raw_set("kind", "authenticated")?;
            put_tag(lua, &ev, tag)?;
        }
        Event::Denied { what, refusal, tag, .. } => {
            let Refusal { code, why, decision, retry_ms, .. } = refusal;
            ev.raw_set("kind", "denied")?;
            ev.raw_set("what", *what)?;
            ev.raw_set("code", code.as_str())?;
            ev.raw_set("why", why.as_str())?;
            ev.raw_set("decision", decision.as_str())?;
            ev.raw_set("retry_ms", retry_ms.map(|ms| ms as f64))?;
            put_tag(lua, &ev, tag)?;
        }
        Event::Error { what, code, why, decision, retry_ms, tag } => {
            ev.raw_set("kind", "error")?;
            ev.raw_set("what", *what)?;
            ev.raw_set("code", *code)?;
            ev.raw_set("why", *why)?;
            if !decision.is_empty() {
                ev.raw_set("decision", *decision)?;
            }
            ev.raw_set("retry_ms", retry_ms.map(|ms| ms as f64))?;
            put_tag(lua, &ev, tag)?;
        }
        Event::Ping => ev.raw_set("kind", "ping")?,
        Event::Expiring { left } => {
            ev.raw_set("kind", "expiring")?;
            ev.raw_set("in_ms", left.as_millis() as f64)?;
        }
        Event::Closing { code, reason, retry_ms } => {
            ev.raw_set("kind", "closing")?;
            ev.raw_set("code", *code)?;
            ev.raw_set("reason", *reason)?;
            ev.raw_set("retry_ms", retry_ms.map(|ms| ms as f64))?;
        }
    }
    Ok(ev)
}

fn message(lua: &Lua, ev: &Table, epoch: Epoch, publication: &Publication) -> mlua::Result<()> {
    let said = &publication.message;
    position(ev, Position { epoch, offset: publication.offset })?;
    ev.raw_set("time_ms", (publication.time / 1000) as f64)?;
    ev.raw_set("time", timestamp(publication.time))?;
    if let Some((kind, who)) = announced(said) {
        ev.raw_set("kind", kind)?;
        let who = serde_json::to_value(&who).unwrap_or_default();
        return ev.raw_set("who", json_to_lua(lua, &who)?);
    }
    ev.raw_set("kind", "message")?;
    ev.raw_set("payload", lua.create_string(&said.payload)?)?;
    ev.raw_set(
        "media",
        match said.media {
            Media::Json => "json",
            Media::Text => "text",
            Media::Binary => "binary",
        },
    )?;
    if let Some(event) = &said.event {
        ev.raw_set("event", lua.create_string(event.as_bytes())?)?;
    }
    if let Some(meta) = &said.meta {
        ev.raw_set("meta", lua.create_string(meta)?)?;
    }
    Ok(())
}

fn timestamp(micros: u64) -> String {
    let at = OffsetDateTime::from_unix_timestamp_nanos(i128::from(micros) * 1000).ok();
    at.and_then(|at| at.format(&Rfc3339).ok()).unwrap_or_default()
}

fn position(ev: &Table, at: Position) -> mlua::Result<()> {
    ev.raw_set("offset", at.offset as f64)?;
    ev.raw_set("epoch", at.epoch.to_string())
}

fn put_tag(lua: &Lua, ev: &Table, tag: &Tag) -> mlua::Result<()> {
    let Some(json) = tag.as_deref().and_then(|text| serde_json::from_str(text).ok()) else { return Ok(()) };
    ev.raw_set("tag", json_to_lua(lua, &json)?)
}

/// Why somebody is not let in, for `refuse`.
pub fn no_entry(lua: &Lua, no: &NoEntry<'_>) -> mlua::Result<Table> {
    let table = lua.create_table_with_capacity(0, 6)?;
    table.raw_set("status", no.status)?;
    table.raw_set("number", no.code)?;
    table.raw_set("code", no.reason)?;
    table.raw_set("why", no.why)?;
    table.raw_set("decision", no.decision)?;
    table.raw_set("retry_ms", no.retry_ms.map(|ms| ms as f64))?;
    Ok(table)
}
