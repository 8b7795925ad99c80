//! `msg`: the message that the running hook is about. One object per VM, empty between hooks.

use std::cell::RefCell;
use std::rc::Rc;

use bytes::Bytes;
use mlua::{AnyUserData, Lua, UserData, UserDataFields, UserDataMethods, Value};
use serde_json::Value as Json;

use super::scan;
use super::value::{describe, json_to_lua, lua_to_json, raise};
use crate::kernel::hooks::Client;
use crate::kernel::message::{Draft, Media, Message};

/// What a hook may make of a message, unless it was larger already.
const MAX_PAYLOAD: usize = 1 << 20;
const MAX_EVENT: usize = 128;

/// The message and what is known beside it.
#[derive(Default)]
pub struct Lent {
    pub message: Message,
    pub sender: Option<String>,
    /// The publisher's own key: a draft has no place in the log yet.
    pub id: Option<Box<str>>,
    /// The hook at hand may change the message.
    pub open: bool,
    /// Parsed when first asked for.
    pub json: Option<Option<Json>>,
}

/// Where `msg` looks.
pub struct Desk {
    handle: AnyUserData,
    at_hand: Rc<RefCell<Option<Lent>>>,
}

impl Desk {
    pub fn new(lua: &Lua, reserved_events: &'static [&'static str]) -> mlua::Result<Desk> {
        let at_hand = Rc::new(RefCell::new(None));
        let handle = lua.create_userdata(Handle { at_hand: at_hand.clone(), reserved_events })?;
        Ok(Desk { handle, at_hand })
    }

    /// Shows a message for as long as the returned lease lives.
    pub fn lend(&self, lent: Lent) -> Lease<'_> {
        *self.at_hand.borrow_mut() = Some(lent);
        Lease(self)
    }
}

pub struct Lease<'a>(&'a Desk);

impl Lease<'_> {
    pub fn handle(&self) -> Value {
        Value::UserData(self.0.handle.clone())
    }

    /// Whether a hook returned this message.
    pub fn is(&self, value: &Value) -> bool {
        matches!(value, Value::UserData(data) if *data == self.0.handle)
    }

    /// From here on the message is only read.
    pub fn close(&self) {
        if let Some(lent) = &mut *self.0.at_hand.borrow_mut() {
            lent.open = false;
        }
    }

    /// The message as the hooks have left it.
    pub fn back(self) -> Lent {
        self.0.at_hand.borrow_mut().take().unwrap_or_default()
    }
}

impl Drop for Lease<'_> {
    fn drop(&mut self) {
        *self.0.at_hand.borrow_mut() = None;
    }
}

/// A message that is shown to one call alone, because many calls are under way at once.
pub struct Own(Desk);

impl Own {
    pub fn new(lua: &Lua, reserved_events: &'static [&'static str], lent: Lent) -> mlua::Result<Own> {
        let desk = Desk::new(lua, reserved_events)?;
        *desk.at_hand.borrow_mut() = Some(lent);
        Ok(Own(desk))
    }

    pub fn handle(&self) -> Value {
        Value::UserData(self.0.handle.clone())
    }
}

impl Drop for Own {
    fn drop(&mut self) {
        *self.0.at_hand.borrow_mut() = None;
    }
}

struct Handle {
    at_hand: Rc<RefCell<Option<Lent>>>,
    reserved_events: &'static [&'static str],
}

impl Handle {
    fn with<R>(&self, lua: &Lua, read: impl FnOnce(&mut Lent) -> mlua::Result<R>) -> mlua::Result<R> {
        match &mut *self.at_hand.borrow_mut() {
            Some(lent) => read(lent),
            None => {
                Err(raise(lua, "msg is valid only during the hook it was given to; keep what you need of it instead"))
            }
        }
    }

    fn change(&self, lua: &Lua, change: impl FnOnce(&mut Lent) -> Result<(), String>) -> mlua::Result<()> {
        self.with(lua, |lent| match lent.open {
            true => change(lent).map_err(|why| raise(lua, why)),
            false => Err(raise(lua, "msg can be changed in on.transform and on.view only")),
        })
    }
}

impl Lent {
    /// A draft, to be read.
    pub fn of(draft: &Draft, client: &Client) -> Lent {
        let (message, id) = (draft.message.clone(), draft.idempotency_key.clone());
        Lent { message, sender: client.identity.user.clone(), id, ..Lent::default() }
    }

    fn says(&mut self, payload: Bytes, media: Media) -> Result<(), String> {
        let max = MAX_PAYLOAD.max(self.message.payload.len());
        if payload.len() > max {
            return Err(format!("a payload of {} bytes is too large, at most {max}", payload.len()));
        }
        self.message.payload = payload;
        self.message.media = media;
        self.message.content_type = None;
        self.json = None;
        Ok(())
    }

    fn get(&self, lua: &Lua, path: &str) -> mlua::Result<Value> {
        let payload = &self.message.payload;
        let Some(found) = scan::find(payload, path) else { return Ok(Value::Nil) };
        let value = &payload[found];
        match value {
            b"null" => Ok(Value::Nil),
            b"true" => Ok(Value::Boolean(true)),
            b"false" => Ok(Value::Boolean(false)),
            [b'"', text @ .., b'"'] if !text.contains(&b'\\') => lua.create_string(text).map(Value::String),
            _ => serde_json::from_slice(value).map_or(Ok(Value::Nil), |json| json_to_lua(lua, &json)),
        }
    }
}

impl UserData for Handle {
    fn add_fields<F: UserDataFields<Self>>(fields: &mut F) {
        fields.add_field_method_get("size", |lua, msg| msg.with(lua, |lent| Ok(lent.message.payload.len() as f64)));
        fields.add_field_method_get("event", |lua, msg| {
            msg.with(lua, |lent| lent.message.event.as_deref().map(|event| lua.create_string(event)).transpose())
        });
        fields.add_field_method_get("sender", |lua, msg| {
            msg.with(lua, |lent| lent.sender.as_deref().map(|sender| lua.create_string(sender)).transpose())
        });
        fields.add_field_method_get("id", |lua, msg| {
            msg.with(lua, |lent| lent.id.as_deref().map(|key| lua.create_string(key)).transpose())
        });
        fields.add_field_method_get("media", |lua, msg| {
            msg.with(lua, |lent| {
                Ok(match lent.message.media {
                    Media::Json => "json",
                    Media::Text => "text",
                    Media::Binary => "binary",
                })
            })
        });
    }

    fn add_methods<M: UserDataMethods<Self>>(methods: &mut M) {
        methods.add_method("text", |lua, msg, ()| msg.with(lua, |lent| lua.create_string(&lent.message.payload)));
        methods.add_method("buffer", |lua, msg, ()| msg.with(lua, |lent| lua.create_buffer(&lent.message.payload)));
        methods.add_method("json", |lua, msg, ()| {
            msg.with(lua, |lent| {
                let payload = &lent.message.payload;
                let json = lent.json.get_or_insert_with(|| serde_json::from_slice(payload).ok());
                json.as_ref().map_or(Ok(Value::Nil), |json| json_to_lua(lua, json))
            })
        });
        methods.add_method("meta", |lua, msg, ()| {
            msg.with(lua, |lent| {
                let meta = lent.message.meta.as_ref().and_then(|meta| serde_json::from_slice(meta).ok());
                meta.map_or(Ok(Value::Nil), |meta| json_to_lua(lua, &meta))
            })
        });
        methods.add_method("get", |lua, msg, path: mlua::LuaString| {
            let path = path.to_str()?;
            msg.with(lua, |lent| lent.get(lua, &path))
        });
        changing(methods, "with_json", |lent, value| {
            let text = lua_to_json(value)?.to_string();
            lent.says(text.into(), Media::Json)
        });
        changing(methods, "with_text", |lent, value| match value {
            Value::String(text) if text.to_str().is_ok() => {
                lent.says(Bytes::copy_from_slice(&text.as_bytes()), Media::Text)
            }
            other => Err(format!("with_text takes a text, got {}", describe(other))),
        });
        changing(methods, "with_meta", |lent, value| {
            lent.message.meta = match value {
                Value::Nil => None,
                Value::Table(_) => Some(lua_to_json(value)?.to_string().into()),
                other => return Err(format!("with_meta takes a table or nil, got {}", describe(other))),
            };
            Ok(())
        });
        methods.add_function("with_event", |lua, (msg, name): (AnyUserData, Value)| {
            let handle = msg.borrow::<Handle>()?;
            handle.change(lua, |lent| {
                lent.message.event = match &name {
                    Value::Nil => None,
                    Value::String(name) => Some(event(&name.to_string_lossy(), handle.reserved_events)?.into()),
                    other => return Err(format!("with_event takes a name or nil, got {}", describe(other))),
                };
                Ok(())
            })?;
            Ok(msg.clone())
        });
    }
}

/// A method that changes the message and gives it back.
fn changing<M: UserDataMethods<Handle>>(
    methods: &mut M,
    name: &str,
    change: impl Fn(&mut Lent, &Value) -> Result<(), String> + 'static,
) {
    methods.add_function(name, move |lua, (msg, value): (AnyUserData, Value)| {
        msg.borrow::<Handle>()?.change(lua, |lent| change(lent, &value))?;
        Ok(msg)
    });
}

/// It becomes a line of a stream: what would end the line, or is the stream's own word, does not pass.
fn event<'a>(name: &'a str, reserved: &[&str]) -> Result<&'a str, String> {
    if name.is_empty() || name.len() > MAX_EVENT || name.contains(char::is_control) {
        return Err(format!("an event's name is one line of 1-{MAX_EVENT} bytes"));
    }
    if reserved.contains(&name) {
        return Err(format!("event: {name} is a name that the stream itself uses; choose another"));
    }
    Ok(name)
}
