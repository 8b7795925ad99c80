//! `aether.announce`: those who listen to a channel are told who came and who left.

use std::rc::Rc;

use mlua::{Lua, Table, Value};
use serde_json::json;

use super::publish::read_channel;
use super::{Entry, Seat, function};
use crate::kernel::message::{ChannelName, Draft, Media, Message};
use crate::plugins::source::schema::hint;
use crate::plugins::vm::value::{describe, raise};
use crate::plugins::voice::Voice;
use crate::plugins::world::Said;

pub const ENTRIES: &[Entry] = &[Entry {
    name: "announce",
    args: "channel, {joined?, left?}",
    gives: "boolean?, why?",
    doc: "Tells those who listen to a channel who came and who left, as frames join and leave: lists of sessions or of users, 1,000 at most. Nothing of it is stored. As publish, nil and \"busy\" or \"loop\".",
    kind: "(channel: string, who: { joined: { any }?, left: { any }? }) -> (boolean?, string?)",
    may_wait: false,
    since: "0.1.0",
    example: r#"aether.on.join("room.*", { debounce = "5s" }, function(ch, sessions)
	aether.announce(ch.name, { joined = sessions })
end)"#,
    make: |lua, seat| {
        let may = seat.unit().sessions.as_ref().is_none_or(|may| may.iter().any(|one| one == "announce"));
        if may { function(lua, seat, announce) } else { Ok(Value::Nil) } // no permission: not there
    },
}];

const KEYS: [&str; 2] = ["joined", "left"];
const MAX_LISTED: usize = 1000;
const MAX_USER: usize = 256;

type Answer = (Option<bool>, Option<&'static str>);

fn announce(lua: &Lua, seat: &Rc<Seat>, (channel, what): (Value, Table)) -> mlua::Result<Answer> {
    let wrong = |why: String| raise(lua, format!("announce: {why}"));
    if seat.loading.get() {
        return Err(wrong("nobody listens while a file loads".into()));
    }
    let channel = read_channel(seat, &channel).map_err(wrong)?;
    let drafts = read(&channel, &what).map_err(wrong)?;
    if drafts.is_empty() {
        return Ok((Some(true), None));
    }
    let Some(client) = Voice::announcer(&seat.unit().name) else { return Ok((None, Some("loop"))) };
    let Some(world) = seat.program.commons.world.get() else { return Ok((None, Some("busy"))) };
    Ok(if world.publish(Said { client, drafts }) { (Some(true), None) } else { (None, Some("busy")) })
}

/// Those who left first: somebody who is back is there in the end.
fn read(channel: &ChannelName, what: &Table) -> Result<Vec<Draft>, String> {
    let (mut joined, mut left) = (None, None);
    for pair in what.pairs::<Value, Value>() {
        let (key, value) = pair.map_err(|error| error.to_string())?;
        let key = key.as_string().map(|key| key.to_string_lossy()).unwrap_or_else(|| describe(&key));
        let list = || people(&value).map_err(|why| format!("{key}: {why}"));
        match key.as_str() {
            "joined" => joined = list()?,
            "left" => left = list()?,
            _ => return Err(format!("{key} is not known here{}", hint(&key, KEYS))),
        }
    }
    let draft = |(event, payload): (&'static str, Option<serde_json::Value>)| {
        let payload = payload?.to_string().into();
        let message = Message { payload, media: Media::Json, event: Some(event.into()), ..Message::default() };
        Some(Draft { fleeting: true, ..Draft::new(channel.clone(), message) })
    };
    Ok([("leave", left), ("join", joined)].into_iter().filter_map(draft).collect())
}

/// The users of a list, each once, and how many it names; none if it is empty.
fn people(list: &Value) -> Result<Option<serde_json::Value>, String> {
    let Value::Table(list) = list else { return Err(format!("expected a list, got {}", describe(list))) };
    if list.raw_len() > MAX_LISTED {
        return Err(format!("at most {MAX_LISTED} at once"));
    }
    let mut users: Vec<String> = Vec::new();
    for one in list.sequence_values::<Value>() {
        let user = match one.map_err(|error| error.to_string())? {
            Value::Table(session) => session.raw_get::<Value>("user").map_err(|error| error.to_string())?,
            other => other,
        };
        match &user {
            Value::String(user) if user.as_bytes().len() <= MAX_USER => users.push(user.to_string_lossy()),
            Value::Nil => {} // without a user, but it counts
            other => return Err(format!("expected sessions or users, got {}", describe(other))),
        }
    }
    let mut seen = rustc_hash::FxHashSet::default();
    users.retain(|user| seen.insert(user.clone()));
    Ok((list.raw_len() > 0).then(|| json!({ "users": users, "sessions": list.raw_len() })))
}
