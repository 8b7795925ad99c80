//! `aether.publish`: a plugin speaks.

use std::rc::Rc;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use mlua::{Lua, MultiValue, Table, Value};

use super::{Entry, Seat, function};
use crate::kernel::hub::{PublishError, Receipt};
use crate::kernel::message::{ChannelName, Draft, Media, Message};
use crate::plugins::source::schema::{hint, read_duration};
use crate::plugins::vm::floor::{Outcome, Started, waiting};
use crate::plugins::vm::value::{describe, frozen, lua_to_json, raise};
use crate::plugins::voice::Voice;
use crate::plugins::why::trace;
use crate::plugins::world;

pub const ENTRIES: &[Entry] = &[PUBLISH, PUBLISH_NOW];

const PUBLISH: Entry = Entry {
    name: "publish",
    args: "channel or {channels}, payload, {event, meta, ttl, idempotency_key, once, fleeting, media, as}?",
    gives: "boolean?, why?",
    doc: "Publishes soon, in the order of the calls: a table as JSON, a string as text, a buffer as bytes. nil and \"busy\" if too much waits, nil and \"loop\" if hooks answer each other's publications without end.",
    kind: "(channel: string | { string }, payload: any, options: { [string]: any }?) -> (boolean?, string?)",
    may_wait: false,
    since: "0.1.0",
    example: r#"aether.on.publish("room.{room}", function(s, ch, msg)
	if msg.event == "alarm" then aether.publish("alarms", { room = ch.room, from = s.user }, { event = "alarm" }) end
	return nil
end)"#,
    make: |lua, seat| {
        if seat.unit().may.as_ref().is_some_and(|may| may.is_empty()) {
            return Ok(Value::Nil); // no permission: not there
        }
        function(lua, seat, publish)
    },
};

const PUBLISH_NOW: Entry = Entry {
    name: "publish_now",
    args: "channel or {channels}, payload, {event, meta, ttl, idempotency_key, once, fleeting, media, as}?",
    gives: "{seq_id, epoch, timestamp, duplicate}, or nil, code, why and retry_ms?",
    doc: "Waits. Publishes and gives what the hub promised, of a list of channels a list; timestamp in milliseconds. The code is a rule's word, \"bad_channel\", \"busy\", \"loop\", \"stopping\" or \"store\"; of a list it is that of the first refusal, and the others may be out. With \"busy\" comes when there will be room, in milliseconds.",
    kind: "(channel: string | { string }, payload: any, options: { [string]: any }?) -> ({ [string]: any }?, string?, string?, number?)",
    may_wait: true,
    since: "0.1.0",
    example: r#"aether.http.route("POST", "/rooms/{room}/say", { auth = "connect" }, function(req)
	local receipt, code, why, retry_ms = aether.publish_now("room." .. req.params.room, req:json(), { as = req.user })
	if not receipt then return aether.deny(code, why, { retry_ms = retry_ms }) end
	return { json = receipt }
end)"#,
    make: |lua, seat| {
        if seat.unit().may.as_ref().is_some_and(|may| may.is_empty()) {
            return Ok(Value::Nil); // no permission: not there
        }
        waiting(lua, seat, "aether.publish_now", publish_now).map(Value::Function)
    },
};

const KEYS: [&str; 8] = ["event", "meta", "ttl", "idempotency_key", "once", "fleeting", "media", "as"];
const MAX_CHANNELS: usize = 4096;
const MAX_PAYLOAD: usize = 1 << 20;
const MAX_NAME: usize = 128;
const MAX_KEY: usize = 256;

type Answer = (Option<bool>, Option<&'static str>);

fn publish(lua: &Lua, seat: &Rc<Seat>, args: (Value, Value, Option<Table>)) -> mlua::Result<Answer> {
    if seat.loading.get() {
        return Err(raise(lua, "publish: nothing is published while a file loads; use aether.on.load"));
    }
    let (channels, payload, options) = args;
    let (drafts, user) =
        read(seat, &channels, &payload, options.as_ref()).map_err(|why| raise(lua, format!("publish: {why}")))?;
    if !trace::acts(|| format!("publish to {}", named(&drafts))) {
        return Ok((Some(true), None));
    }
    let Some(client) = Voice::client(&seat.unit().name, user) else {
        let plugin = &*seat.unit().name;
        tracing::warn!(target: "aether::plugin", plugin, "hooks publish about each other's publications without end");
        return Ok((None, Some("loop")));
    };
    let Some(world) = seat.program.commons.world.get() else { return Ok((None, Some("busy"))) };
    Ok(if world.publish(world::Said { client, drafts }) { (Some(true), None) } else { (None, Some("busy")) })
}

/// Numbers for what is said in several channels. They are kept with the publications, so those of another run must not come
/// again.
static COPIES: LazyLock<AtomicU64> = LazyLock::new(|| {
    let mut start = [0; 8];
    // Without randomness they still differ within a run.
    let _ = getrandom::fill(&mut start);
    AtomicU64::new(u64::from_le_bytes(start))
});

fn read(
    seat: &Seat,
    channels: &Value,
    payload: &Value,
    options: Option<&Table>,
) -> Result<(Vec<Draft>, Option<String>), String> {
    let written = Written::read(seat.program.reserved_events, &KEYS, payload, options)?;
    // A connection gets one copy of all that carry the same number.
    let once = written.once.then(|| COPIES.fetch_add(1, Ordering::Relaxed));
    let names = read_channels(seat, channels)?;
    let drafts = names.into_iter().map(|channel| written.draft(channel, once)).collect();
    Ok((drafts, written.user))
}

/// A payload and its options, read.
pub struct Written {
    message: Message,
    ttl: Option<Duration>,
    key: Option<Box<str>>,
    user: Option<String>,
    once: bool,
    fleeting: bool,
}

impl Written {
    /// `known` are the options that there are.
    pub fn read(
        reserved_events: &[&str],
        known: &[&str],
        payload: &Value,
        options: Option<&Table>,
    ) -> Result<Written, String> {
        let message = read_payload(payload)?;
        let mut written = Written { message, ttl: None, key: None, user: None, once: false, fleeting: false };
        for pair in options.into_iter().flat_map(Table::pairs::<Value, Value>) {
            let (name, value) = pair.map_err(|error| error.to_string())?;
            let name = name.as_string().map(|name| name.to_string_lossy()).unwrap_or_else(|| describe(&name));
            if !known.contains(&name.as_str()) {
                return Err(format!("{name} is not known here{}", hint(&name, known)));
            }
            written.set(reserved_events, &name, &value, payload)?;
        }
        Ok(written)
    }

    fn set(&mut self, reserved_events: &[&str], name: &str, value: &Value, payload: &Value) -> Result<(), String> {
        let wrong = |what: &str| format!("{name}: expected {what}, got {}", describe(value));
        let text = |max: usize| {
            let text = value.as_string().and_then(|text| text.to_str().ok().map(|text| text.to_owned()));
            let fits = |text: &String| !text.is_empty() && text.len() <= max && !text.chars().any(char::is_control);
            text.filter(fits).ok_or_else(|| wrong(&format!("a text of at most {max} bytes")))
        };
        let flag = || value.as_boolean().ok_or_else(|| wrong("true or false"));
        match name {
            "event" => {
                let event = text(MAX_NAME)?;
                if reserved_events.contains(&event.as_str()) {
                    return Err(format!("event: {event} is a name that the stream itself uses; choose another"));
                }
                self.message.event = Some(event.into());
            }
            "meta" => {
                let meta = lua_to_json(value).map_err(|why| format!("meta: {why}"))?;
                self.message.meta = Some(meta.to_string().into());
            }
            "ttl" => self.ttl = Some(read_ttl(value).ok_or_else(|| wrong("a duration like \"5m\""))?),
            "idempotency_key" => self.key = Some(text(MAX_KEY)?.into()),
            "as" => self.user = Some(text(MAX_KEY)?),
            "once" => self.once = flag()?,
            "fleeting" => self.fleeting = flag()?,
            "media" => {
                let word = text(MAX_NAME)?;
                self.message.media = read_media(&word, &self.message.payload, payload)
                    .ok_or_else(|| wrong("\"json\", \"text\" or \"binary\", for a string or a buffer that is such"))?;
            }
            // Read by whoever knows it.
            _ => {}
        }
        Ok(())
    }

    pub fn draft(&self, channel: ChannelName, once: Option<u64>) -> Draft {
        let Written { key, ttl, fleeting, .. } = self;
        let (idempotency_key, ttl, fleeting) = (key.clone(), *ttl, *fleeting);
        Draft { idempotency_key, ttl, fleeting, once, ..Draft::new(channel, self.message.clone()) }
    }
}

/// What a string or a buffer is said to be, if it is.
fn read_media(word: &str, bytes: &[u8], payload: &Value) -> Option<Media> {
    let plain = matches!(payload, Value::String(_) | Value::Buffer(_));
    match word {
        "json" if plain && serde_json::from_slice::<serde::de::IgnoredAny>(bytes).is_ok() => Some(Media::Json),
        "text" if plain && std::str::from_utf8(bytes).is_ok() => Some(Media::Text),
        "binary" if plain => Some(Media::Binary),
        _ => None,
    }
}

fn publish_now(lua: &Lua, seat: &Rc<Seat>, args: (Value, Value, Option<Table>)) -> mlua::Result<Started> {
    let fail = |why: String| raise(lua, format!("publish_now: {why}"));
    let (channel, payload, options) = args;
    if let Value::String(name) = &channel
        && let Err(error) = ChannelName::new(&name.to_string_lossy())
    {
        return no(lua, "bad_channel", &error.to_string()).map(Started::Ready);
    }
    let (drafts, user) = read(seat, &channel, &payload, options.as_ref()).map_err(fail)?;
    if !trace::acts(|| format!("publish to {}", named(&drafts))) {
        return no(lua, "not_real", "it is not published, because nothing of this is real").map(Started::Ready);
    }
    let Some(client) = Voice::client(&seat.unit().name, user) else {
        return no(lua, "loop", "hooks publish about each other's publications without end").map(Started::Ready);
    };
    let Some(world) = seat.program.commons.world.get() else {
        return no(lua, "busy", "the hub is not there yet").map(Started::Ready);
    };
    let several = matches!(channel, Value::Table(_));
    let published = world.publish_now(client, drafts);
    Ok(Started::Waits(Box::pin(async move {
        let published: Result<Vec<_>, _> = published.await.into_iter().collect();
        let outcome: Outcome = Box::new(move |lua| match published {
            Ok(receipts) => promised(lua, &receipts, several),
            Err(PublishError::Refused(refusal)) => no(lua, &refusal.code, &refusal.why),
            Err(PublishError::Stopping) => no(lua, "stopping", "the hub is going down"),
            Err(PublishError::Busy(wait)) => {
                let mut told = no(lua, "busy", "too many publishes are waiting")?;
                told.push_back(Value::Number(wait.as_micros().div_ceil(1000) as f64));
                Ok(told)
            }
            Err(PublishError::Store(_)) => no(lua, "store", "failed to publish message"),
        });
        outcome
    })))
}

fn named(drafts: &[Draft]) -> String {
    drafts.iter().map(|draft| draft.channel.as_str()).collect::<Vec<_>>().join(" ")
}

fn promised(lua: &Lua, receipts: &[Receipt], several: bool) -> mlua::Result<MultiValue> {
    let one = |receipt: &Receipt| {
        let table = lua.create_table()?;
        table.raw_set("seq_id", receipt.offset as f64)?;
        table.raw_set("epoch", receipt.epoch.to_string())?;
        table.raw_set("timestamp", (receipt.time / 1000) as f64)?;
        table.raw_set("duplicate", receipt.duplicate)?;
        Ok(frozen(table))
    };
    let mut all = receipts.iter().map(one).collect::<mlua::Result<Vec<_>>>()?;
    match all.pop() {
        Some(only) if !several => Ok(MultiValue::from_iter([only])),
        last => {
            let list = lua.create_sequence_from(all.into_iter().chain(last))?;
            Ok(MultiValue::from_iter([frozen(list)]))
        }
    }
}

fn no(lua: &Lua, code: &str, why: &str) -> mlua::Result<MultiValue> {
    let text = |text: &str| lua.create_string(text).map(Value::String);
    Ok(MultiValue::from_iter([Value::Nil, text(code)?, text(why)?]))
}

fn read_ttl(value: &Value) -> Option<Duration> {
    read_duration(&lua_to_json(value).ok()?).filter(|ttl| !ttl.is_zero())
}

fn read_channels(seat: &Seat, channels: &Value) -> Result<Vec<ChannelName>, String> {
    match channels {
        Value::Table(list) if list.raw_len() > MAX_CHANNELS => Err(format!("at most {MAX_CHANNELS} channels at once")),
        Value::Table(list) if list.raw_len() > 0 => list
            .sequence_values::<Value>()
            .map(|one| one.map_err(|error| error.to_string()).and_then(|one| read_channel(seat, &one)))
            .collect(),
        one => Ok(vec![read_channel(seat, one)?]),
    }
}

/// A channel that the unit may speak in, or ask about.
pub fn read_channel(seat: &Seat, channel: &Value) -> Result<ChannelName, String> {
    let Value::String(name) = channel else { return Err(format!("expected a channel, got {}", describe(channel))) };
    let name = ChannelName::new(&name.to_string_lossy()).map_err(|error| error.to_string())?;
    let unit = seat.unit();
    if unit.may.as_ref().is_some_and(|may| !may.matches(name.as_str())) {
        return Err(format!("{name} is not within [permissions] channels of {}'s plugin.toml", unit.name));
    }
    if unit.only.as_ref().is_some_and(|only| !only.matches(name.as_str())) {
        return Err(format!("{name} is not within the channels that the operator leaves to {}", unit.name));
    }
    Ok(name)
}

fn read_payload(payload: &Value) -> Result<Message, String> {
    let (payload, media) = match payload {
        Value::String(text) => {
            let bytes = Bytes::copy_from_slice(&text.as_bytes());
            let media = if std::str::from_utf8(&bytes).is_ok() { Media::Text } else { Media::Binary };
            (bytes, media)
        }
        Value::Buffer(bytes) => (bytes.to_vec().into(), Media::Binary),
        Value::Nil => return Err("the payload is missing; json.null is a payload".into()),
        value => {
            let json = lua_to_json(value).map_err(|why| format!("payload: {why}"))?;
            (json.to_string().into(), Media::Json)
        }
    };
    if payload.len() > MAX_PAYLOAD {
        return Err(format!("a payload of {} bytes is larger than 1 MiB", payload.len()));
    }
    Ok(Message { payload, media, ..Message::default() })
}
