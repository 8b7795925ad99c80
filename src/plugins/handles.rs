//! What hooks are called with. Built once and kept, because a fresh table per call costs more than the hook.

use std::any::Any;
use std::cell::RefCell;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;

use mlua::{AnyUserData, Lua, Table, UserData, UserDataFields, UserDataMethods, Value};
use rustc_hash::FxHashMap;
use serde_json::Value as Json;

use super::Facts;
use super::value::{frozen, json_to_lua, raise};
use crate::kernel::hooks::{Client, ConnectRequest, Farewell};
use crate::kernel::message::{Draft, Media};
use crate::kernel::pattern::Pattern;

const MAX_SESSIONS: usize = 2048;
const MAX_CHANNELS: usize = 8192;

pub struct Handles {
    sessions: RefCell<FxHashMap<String, Known>>,
    /// By the id of the channel's concern and the hook.
    channels: RefCell<FxHashMap<(u64, usize), Table>>,
    message: AnyUserData,
    current: Rc<RefCell<Option<Current>>>,
    /// The `req` of history hooks, without and with `resume`.
    reads: [Value; 2],
}

/// A session's table, and everything it was made from: an id that comes again for somebody else must not find it.
struct Known {
    table: Table,
    user: Option<String>,
    tenant: Option<String>,
    /// Held, so that its address is nobody else's.
    attrs: Option<Arc<dyn Any + Send + Sync>>,
    ip: Option<IpAddr>,
    dialect: &'static str,
    transport: &'static str,
    connected: u64,
}

impl Known {
    fn is(&self, client: &Client) -> bool {
        let identity = &client.identity;
        let same_attrs = match (&self.attrs, &identity.attrs) {
            (Some(a), Some(b)) => Arc::ptr_eq(a, b),
            (None, None) => true,
            _ => false,
        };
        same_attrs
            && (&self.user, &self.tenant) == (&identity.user, &identity.tenant)
            && (self.ip, self.dialect, self.transport, self.connected)
                == (client.ip, client.dialect, client.transport, client.connected)
    }
}

impl Handles {
    pub fn new(lua: &Lua) -> mlua::Result<Handles> {
        let current = Rc::new(RefCell::new(None));
        let read = |resume: bool| -> mlua::Result<Value> {
            let table = lua.create_table()?;
            table.raw_set("resume", resume)?;
            Ok(frozen(table))
        };
        Ok(Handles {
            sessions: RefCell::default(),
            channels: RefCell::default(),
            message: lua.create_userdata(MessageHandle(current.clone()))?,
            current,
            reads: [read(false)?, read(true)?],
        })
    }

    pub fn session(&self, lua: &Lua, client: &Client) -> mlua::Result<Table> {
        if let Some(known) = self.sessions.borrow().get(&client.id)
            && known.is(client)
        {
            return Ok(known.table.clone());
        }
        let identity = &client.identity;
        let table = lua.create_table_with_capacity(0, 10)?;
        table.raw_set("id", client.id.as_str())?;
        table.raw_set("user", identity.user.as_deref())?;
        table.raw_set("tenant", identity.tenant.as_deref())?;
        table.raw_set("ip", client.ip.map(|ip| ip.to_string()))?;
        table.raw_set("dialect", client.dialect)?;
        table.raw_set("transport", client.transport)?;
        table.raw_set("connected_ms", (client.connected / 1000) as f64)?;
        let facts = identity.attrs.as_ref().and_then(|attrs| attrs.downcast_ref::<Facts>());
        table.raw_set("view", facts.and_then(|facts| facts.view.as_deref()))?;
        let attrs = facts.map(|facts| json_to_lua(lua, &facts.attrs)).transpose()?;
        table.raw_set(
            "attrs",
            match attrs {
                Some(Value::Table(attrs)) => Value::Table(attrs),
                _ => frozen(lua.create_table()?),
            },
        )?;
        table.set_readonly(true);
        let known = Known {
            table: table.clone(),
            user: identity.user.clone(),
            tenant: identity.tenant.clone(),
            attrs: identity.attrs.clone(),
            ip: client.ip,
            dialect: client.dialect,
            transport: client.transport,
            connected: client.connected,
        };
        let mut sessions = self.sessions.borrow_mut();
        if sessions.len() >= MAX_SESSIONS {
            sessions.clear();
        }
        sessions.insert(client.id.clone(), known);
        Ok(table)
    }

    pub fn forget_session(&self, client: &Client) {
        self.sessions.borrow_mut().remove(&client.id);
    }

    /// `{name, <captures>}`. `concern` stands for the name, which is cheaper to look up than to compare.
    pub fn channel(
        &self,
        lua: &Lua,
        concern: u64,
        hook: usize,
        pattern: Option<&Pattern>,
        name: &str,
    ) -> mlua::Result<Table> {
        if let Some(table) = self.channels.borrow().get(&(concern, hook)) {
            return Ok(table.clone());
        }
        let table = lua.create_table_with_capacity(0, 2)?;
        table.raw_set("name", name)?;
        for (key, value) in pattern.and_then(|pattern| pattern.captures(name)).unwrap_or_default() {
            table.raw_set(key, value)?;
        }
        table.set_readonly(true);
        let mut channels = self.channels.borrow_mut();
        if channels.len() >= MAX_CHANNELS {
            channels.clear();
        }
        channels.insert((concern, hook), table.clone());
        Ok(table)
    }

    pub fn read_request(&self, resume: bool) -> Value {
        self.reads[usize::from(resume)].clone()
    }

    /// Shows `draft` as `msg` for as long as the returned lease lives.
    pub fn lend(&self, draft: &Draft, sender: Option<&str>) -> Lease<'_> {
        let current = Current { draft: draft.clone(), sender: sender.map(str::to_owned), json: None };
        *self.current.borrow_mut() = Some(current);
        Lease(self)
    }
}

/// A message that is shown to one call alone, because many calls are under way at once.
pub struct Own(Rc<RefCell<Option<Current>>>, AnyUserData);

impl Own {
    pub fn new(lua: &Lua, draft: &Draft, sender: Option<&str>) -> mlua::Result<Own> {
        let current = Current { draft: draft.clone(), sender: sender.map(str::to_owned), json: None };
        let current = Rc::new(RefCell::new(Some(current)));
        let handle = lua.create_userdata(MessageHandle(current.clone()))?;
        Ok(Own(current, handle))
    }

    pub fn handle(&self) -> AnyUserData {
        self.1.clone()
    }
}

impl Drop for Own {
    fn drop(&mut self) {
        *self.0.borrow_mut() = None;
    }
}

pub struct Lease<'a>(&'a Handles);

impl Lease<'_> {
    pub fn handle(&self) -> AnyUserData {
        self.0.message.clone()
    }
}

impl Drop for Lease<'_> {
    fn drop(&mut self) {
        *self.0.current.borrow_mut() = None;
    }
}

/// The message that the running hook is asked about.
struct Current {
    draft: Draft,
    sender: Option<String>,
    /// Parsed when first asked for.
    json: Option<Option<Json>>,
}

impl Current {
    fn json(&mut self) -> Option<&Json> {
        let payload = &self.draft.message.payload;
        self.json.get_or_insert_with(|| serde_json::from_slice(payload).ok()).as_ref()
    }
}

/// `msg`: one object per VM, empty between hooks.
struct MessageHandle(Rc<RefCell<Option<Current>>>);

impl MessageHandle {
    fn with<R>(&self, lua: &Lua, read: impl FnOnce(&mut Current) -> mlua::Result<R>) -> mlua::Result<R> {
        match &mut *self.0.borrow_mut() {
            Some(current) => read(current),
            None => {
                Err(raise(lua, "msg is valid only during the hook it was given to; keep what you need of it instead"))
            }
        }
    }
}

impl UserData for MessageHandle {
    fn add_fields<F: UserDataFields<Self>>(fields: &mut F) {
        fields.add_field_method_get("size", |lua, msg| msg.with(lua, |now| Ok(now.draft.message.payload.len() as f64)));
        fields.add_field_method_get("event", |lua, msg| {
            msg.with(lua, |now| now.draft.message.event.as_deref().map(|event| lua.create_string(event)).transpose())
        });
        fields.add_field_method_get("sender", |lua, msg| {
            msg.with(lua, |now| now.sender.as_deref().map(|sender| lua.create_string(sender)).transpose())
        });
        // It has no place in the log yet; what names it is the publisher's own key.
        fields.add_field_method_get("id", |lua, msg| {
            msg.with(lua, |now| now.draft.idempotency_key.as_deref().map(|key| lua.create_string(key)).transpose())
        });
        fields.add_field_method_get("media", |lua, msg| {
            msg.with(lua, |now| {
                Ok(match now.draft.message.media {
                    Media::Json => "json",
                    Media::Text => "text",
                    Media::Binary => "binary",
                })
            })
        });
    }

    fn add_methods<M: UserDataMethods<Self>>(methods: &mut M) {
        methods.add_method("text", |lua, msg, ()| msg.with(lua, |now| lua.create_string(&now.draft.message.payload)));
        methods.add_method("buffer", |lua, msg, ()| msg.with(lua, |now| lua.create_buffer(&now.draft.message.payload)));
        methods.add_method("json", |lua, msg, ()| {
            msg.with(lua, |now| now.json().map_or(Ok(Value::Nil), |json| json_to_lua(lua, json)))
        });
        methods.add_method("get", |lua, msg, path: String| {
            msg.with(lua, |now| {
                let found = path.split('.').try_fold(now.json(), |at, key| match at {
                    Some(Json::Object(map)) => Some(map.get(key)),
                    Some(Json::Array(items)) => {
                        Some(key.parse::<usize>().ok().and_then(|place| items.get(place.checked_sub(1)?)))
                    }
                    _ => None,
                });
                found.flatten().map_or(Ok(Value::Nil), |json| json_to_lua(lua, json))
            })
        });
    }
}

/// `req` of the connect hooks.
pub struct Request(pub ConnectRequest);

impl UserData for Request {
    fn add_fields<F: UserDataFields<Self>>(fields: &mut F) {
        fields.add_field_method_get("ip", |_, req| Ok(req.0.ip.map(|ip| ip.to_string())));
        fields.add_field_method_get("path", |lua, req| lua.create_string(&req.0.path));
        fields.add_field_method_get("method", |lua, req| lua.create_string(&req.0.method));
        fields.add_field_method_get("transport", |_, req| Ok(req.0.transport));
        fields.add_field_method_get("query", |lua, req| {
            let table = lua.create_table()?;
            // The first of several counts, as it does for the hub itself.
            for (key, value) in req.0.query.iter().rev() {
                table.raw_set(key.as_str(), value.as_str())?;
            }
            Ok(frozen(table))
        });
    }

    fn add_methods<M: UserDataMethods<Self>>(methods: &mut M) {
        methods.add_method("bearer", |_, req, ()| Ok(req.0.bearer.clone()));
        methods.add_method("header", |_, req, name: String| {
            Ok(req.0.header(&name.to_ascii_lowercase()).map(str::to_owned))
        });
        methods.add_method("cookie", |_, req, name: String| {
            let cookies =
                req.0.headers.iter().filter(|(header, _)| header == "cookie").flat_map(|(_, all)| all.split(';'));
            let mut pairs = cookies.filter_map(|pair| pair.trim().split_once('='));
            Ok(pairs.find(|(key, _)| *key == name).map(|(_, value)| value.trim_matches('"').to_owned()))
        });
    }
}

/// `why` of the disconnect hooks.
pub fn farewell(lua: &Lua, why: &Farewell) -> mlua::Result<Value> {
    let table = lua.create_table()?;
    table.raw_set("cause", why.cause)?;
    table.raw_set("code", why.code)?;
    // A proper close by either side; not a connection that broke off, fell behind or misbehaved.
    table.raw_set("expected", matches!(why.cause, "client" | "server" | "shutdown") && why.code.is_some())?;
    Ok(frozen(table))
}
