//! `aether.test`: clients of the plugin's dialect.

use std::rc::Rc;

use bytes::Bytes;
use mlua::{AnyUserData, Lua, Table, UserData, UserDataFields, UserDataMethods, Value};
use serde_json::{Value as Json, json};

use super::{host, known, stage};
use crate::kernel::dialect::{Dialects, Event, Speech};
use crate::kernel::format::{Gap, GapCause, Notice};
use crate::kernel::message::{ChannelName, Draft, Media, Message, Position};
use crate::plugins::api::function;
use crate::plugins::authors::testing::air::EPOCH;
use crate::plugins::authors::testing::guest::{Guest, Refused};
use crate::plugins::authors::testing::reading::{fields, read_draft, read_farewell, read_listener, read_request};
use crate::plugins::authors::testing::{Stage, answers};
use crate::plugins::dialect::Place;
use crate::plugins::source::schema::hint;
use crate::plugins::vm::value::{describe, frozen, json_to_lua, lua_to_json, raise, to_number};
use crate::plugins::{Entry, Host, Spoken};

pub const ENTRIES: &[Entry] = &[Entry {
    name: "test.dialect",
    args: "name, {path, query, headers, cookie, bearer, ip, transport, listen}?",
    gives: "client",
    doc: "A client of a dialect: let in by the connect hooks and on_open, or client.refused. client:frame(bytes, kind?) says something, client:take() and client:texts() are what it was sent since, client:hears{channel, payload} lets something be said in a channel, client:leave() ends it.",
    kind: "(name: string, request: { [string]: any }?) -> Guest",
    may_wait: false,
    since: "0.1.0",
    example: r#"local ann = t.dialect("lines", { query = { name = "ann" } })
ann:frame("SUB news")
t.equal(ann:texts(), { "HELLO ann", "OK subscribed news" })"#,
    make: |lua, seat| {
        function(lua, seat, |lua, seat, (name, options): (String, Option<Table>)| {
            let stage = stage(lua, seat)?;
            come(lua, stage, &name, options.as_ref())
        })
    },
}];

fn come(lua: &Lua, stage: &Rc<Stage>, name: &str, options: Option<&Table>) -> mlua::Result<AnyUserData> {
    let wrong = |why: String| raise(lua, format!("t.dialect: {why}"));
    let host = host(lua, stage)?;
    let (asks, mut listen) = (lua.create_table()?, None);
    let (mut path, mut transport) = (None, None);
    for (key, value) in fields(options).map_err(wrong)? {
        match key.as_str() {
            "listen" => listen = read_listener(options).map_err(wrong)?,
            "path" => path = value.as_string().map(|path| path.to_string_lossy()),
            "transport" => transport = value.as_string().map(|word| word.to_string_lossy()),
            _ => asks.raw_set(key, value)?,
        }
    }
    let rules = host.rules();
    let Some(hooks) = rules.dialects.named(name) else {
        return Err(wrong(format!("no plugin speaks {name}")));
    };
    // Without a path, the first place there is: for a WebSocket, if there is one.
    let first = ["ws", "sse"].into_iter().filter(|word| transport.as_ref().is_none_or(|wanted| wanted == word));
    let first = first.flat_map(|word| {
        let here = |place: &&Place| listen.is_none_or(|listen| place.listen == Some(listen));
        hooks.spec.places.iter().filter(here).find(|place| place.transport.name() == word)
    });
    let first = first.into_iter().next();
    let path = match (path, first) {
        (Some(path), _) => path,
        (None, Some(place)) => {
            listen = place.listen;
            transport.get_or_insert(place.transport.name().to_owned());
            place.path.literal().to_owned()
        }
        (None, None) => return Err(wrong(format!("{name} is not spoken so; its mount says where it is"))),
    };
    let mount = Spoken(host.clone()).mount(listen, &path).filter(|mount| {
        let fits = |word: &String| word == mount.transport.name();
        mount.tongue.name() == name && transport.as_ref().is_none_or(fits)
    });
    let mount = mount.ok_or_else(|| wrong(format!("{name} is not spoken at {path}; its mount says where it is")))?;
    asks.raw_set("path", path)?;
    asks.raw_set("transport", mount.transport.name())?;
    let mut request = read_request(Some(&asks)).map_err(wrong)?;
    request.dialect = mount.tongue.name();
    let guest = Guest::comes(stage, &host, mount, request, |request, identity| known(stage, request, identity));
    let guest = guest.map_err(wrong)?;
    told(lua, &guest)?;
    lua.create_userdata(Handle { stage: stage.clone(), guest })
}

/// A hook that breaks fails the case.
fn told(lua: &Lua, guest: &Guest) -> mlua::Result<()> {
    let broke = guest.broke();
    if broke.is_empty() { Ok(()) } else { Err(raise(lua, format!("the dialect broke: {}", broke.join("; ")))) }
}

/// What a case holds of a guest.
struct Handle {
    stage: Rc<Stage>,
    guest: Rc<Guest>,
}

impl Handle {
    /// Does something after everything that the plugins have done.
    fn with<R>(&self, lua: &Lua, act: impl FnOnce(&std::sync::Arc<Host>) -> Result<R, String>) -> mlua::Result<R> {
        let host = host(lua, &self.stage)?;
        let done = self.stage.guests_hear(&host).and_then(|()| act(&host));
        told(lua, &self.guest)?;
        done.map_err(|why| raise(lua, why))
    }
}

impl UserData for Handle {
    fn add_fields<F: UserDataFields<Self>>(fields: &mut F) {
        fields.add_field_method_get("sent", |lua, client| {
            let sent = client.with(lua, |_| Ok(client.guest.sent()))?;
            shown(lua, &sent)
        });
        fields.add_field_method_get("closed", |lua, client| {
            let Some((code, reason)) = client.with(lua, |_| Ok(client.guest.closed()))? else { return Ok(Value::Nil) };
            let table = lua.create_table()?;
            table.raw_set("code", code)?;
            table.raw_set("reason", reason)?;
            Ok(frozen(table))
        });
        fields.add_field_method_get("refused", |lua, client| match client.guest.refused() {
            None => Ok(Value::Nil),
            Some(refused) => refusal(lua, &refused),
        });
        fields.add_field_method_get("state", |lua, client| {
            let state = client.guest.memory().and_then(|text| serde_json::from_str::<Json>(&text).ok());
            json_to_lua(lua, &state.unwrap_or_else(|| json!({})))
        });
        fields.add_field_method_get("transport", |_, client| Ok(client.guest.transport.name()));
        fields.add_field_method_get("who", |lua, client| answers::somebody(lua, &client.stage, client.guest.client()));
    }

    fn add_methods<M: UserDataMethods<Self>>(methods: &mut M) {
        methods.add_method("frame", |lua, client, (bytes, kind): (Value, Option<String>)| {
            let said = crate::plugins::dialect::speech(&bytes, kind.as_deref());
            let said = said.map_err(|why| raise(lua, format!("client:frame: {why}")))?;
            client.with(lua, |host| client.guest.says(&client.stage, host, said))
        });
        methods.add_method("take", |lua, client, ()| {
            let sent = client.with(lua, |_| Ok(client.guest.take()))?;
            shown(lua, &sent)
        });
        methods.add_method("texts", |lua, client, ()| {
            let sent = client.with(lua, |_| Ok(client.guest.take()))?;
            let texts = sent.iter().map(|speech| lua.create_string(&speech.bytes)).collect::<mlua::Result<Vec<_>>>()?;
            lua.create_sequence_from(texts).map(frozen)
        });
        methods.add_method("hears", |lua, client, event: Table| {
            let before = client.guest.sent().len();
            client.with(lua, |host| happens(client, host, &event).map_err(|why| format!("client:hears: {why}")))?;
            match client.guest.sent().get(before) {
                Some(speech) => one(lua, speech),
                None => Ok(Value::Nil),
            }
        });
        methods.add_method("leave", |lua, client, why: Option<Table>| {
            let why = read_farewell(why.as_ref()).map_err(|why| raise(lua, format!("client:leave: {why}")))?;
            client.with(lua, |host| client.guest.ends(&client.stage, host, why.cause, why.code, ""))
        });
    }
}

fn one(lua: &Lua, speech: &Speech) -> mlua::Result<Value> {
    let table = lua.create_table()?;
    table.raw_set("bytes", lua.create_string(&speech.bytes)?)?;
    table.raw_set("kind", if speech.binary { "binary" } else { "text" })?;
    Ok(frozen(table))
}

fn shown(lua: &Lua, sent: &[Speech]) -> mlua::Result<Value> {
    let list = sent.iter().map(|speech| one(lua, speech)).collect::<mlua::Result<Vec<_>>>()?;
    lua.create_sequence_from(list).map(frozen)
}

fn refusal(lua: &Lua, Refused { no, instead }: &Refused) -> mlua::Result<Value> {
    let table = lua.create_table()?;
    table.raw_set("status", no.status)?;
    table.raw_set("number", no.number)?;
    table.raw_set("code", no.code.as_str())?;
    table.raw_set("why", no.why.as_str())?;
    table.raw_set("decision", no.decision.as_deref())?;
    table.raw_set("retry_ms", no.retry_ms)?;
    if let Some(instead) = instead {
        table.raw_set("status", instead.status)?;
        let headers = lua.create_table()?;
        for (name, value) in instead.headers.iter().rev() {
            headers.raw_set(name.as_str(), value.as_str())?;
        }
        table.raw_set("headers", frozen(headers))?;
        table.raw_set("body", lua.create_string(&instead.body)?)?;
        if let Ok(json) = serde_json::from_slice(&instead.body) {
            table.raw_set("json", json_to_lua(lua, &json)?)?;
        }
    }
    Ok(frozen(table))
}

const KINDS: [&str; 7] = ["message", "join", "leave", "gap", "live", "ping", "expiring"];

/// Lets something happen that the dialect may put into words.
fn happens(Handle { stage, guest }: &Handle, host: &Host, event: &Table) -> Result<(), String> {
    let (mut kind, mut channel, mut payload, mut meta) = ("message".to_owned(), None, Value::Nil, None);
    let (mut who, mut cause, mut missing, mut left) = (Json::Array(Vec::new()), "evicted".to_owned(), [1, 1], 0);
    let asked = fields(Some(event))?;
    let mut media = Vec::new();
    for (key, value) in asked {
        let text = || value.as_string().map(|text| text.to_string_lossy()).ok_or(format!("{key}: expected a text"));
        let number = || to_number(&value).filter(|n| *n >= 0.0).ok_or(format!("{key}: got {}", describe(&value)));
        match key.as_str() {
            "kind" => kind = text()?,
            "channel" => channel = Some(ChannelName::new(&text()?).map_err(|error| error.to_string())?),
            "payload" => payload = value,
            "event" | "media" => media.push((key, value)),
            "meta" => meta = Some(lua_to_json(&value)?),
            "who" => who = lua_to_json(&value)?,
            "cause" => cause = text()?,
            "first" => missing[0] = number()? as u64,
            "last" => missing[1] = number()? as u64,
            "in_ms" => left = number()? as u64,
            _ => {
                let known = ["kind", "channel", "payload", "event", "media", "meta", "who", "cause", "first"];
                return Err(format!("{key} is not known here{}", hint(&key, known)));
            }
        }
    }
    let named = |channel: Option<ChannelName>| channel.ok_or_else(|| "channel is missing".to_owned());
    let draft = match kind.as_str() {
        "message" => {
            let mut draft = draft(named(channel)?, &payload, media)?;
            draft.message.meta = meta.map(|meta| Bytes::from(meta.to_string()));
            draft
        }
        "join" | "leave" => {
            let sessions = who.as_array().map_or(0, Vec::len);
            let payload = Bytes::from(json!({ "users": who, "sessions": sessions }).to_string());
            let message = Message { payload, media: Media::Json, event: Some(kind.into()), ..Message::default() };
            Draft::new(named(channel)?, message)
        }
        "gap" | "live" => {
            let channel = named(channel)?;
            let cause = match cause.as_str() {
                "evicted" => GapCause::Evicted,
                "skipped" => GapCause::Skipped,
                "epoch" => GapCause::Epoch,
                "denied" => GapCause::Denied,
                "once" => GapCause::Once,
                "lost" => GapCause::Lost,
                _ => return Err(format!("cause: {cause:?} is none")),
            };
            let [first, last] = missing;
            let gap = Gap::between(first.saturating_sub(1), last.saturating_add(1), cause);
            let notice = if kind == "gap" { Notice::Gap(gap) } else { Notice::Live };
            let at = Position { epoch: EPOCH, offset: stage.air.borrow().head(&channel) };
            if guest.is_there() && guest.listens_to(&channel) {
                guest.told(host, &Event::Notice { channel: &channel, at, notice: &notice });
            }
            return Ok(());
        }
        "ping" | "expiring" => {
            let left = std::time::Duration::from_millis(left);
            let event = if kind == "ping" { Event::Ping } else { Event::Expiring { left } };
            if guest.is_there() {
                guest.told(host, &event);
            }
            return Ok(());
        }
        _ => return Err(format!("kind: {kind:?} is none of {}{}", KINDS.join(", "), hint(&kind, KINDS))),
    };
    let receipt = stage.air.borrow_mut().say(draft, stage.now())?;
    stage.spread(host, &receipt);
    Ok(())
}

fn draft(channel: ChannelName, payload: &Value, options: Vec<(String, Value)>) -> Result<Draft, String> {
    let mut draft = read_draft(channel, payload, None)?;
    for (key, value) in options {
        let text = || value.as_string().map(|text| text.to_string_lossy()).ok_or(format!("{key}: expected a text"));
        match (key.as_str(), text()?) {
            ("event", event) => draft.message.event = Some(event.into()),
            ("media", media) => {
                draft.message.media = match media.as_str() {
                    "json" => Media::Json,
                    "text" => Media::Text,
                    "binary" => Media::Binary,
                    _ => return Err(format!("media: {media:?} is none of json, text, binary")),
                }
            }
            _ => return Err(format!("{key} is not known here")),
        }
    }
    Ok(draft)
}
