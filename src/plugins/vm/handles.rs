//! What hooks are called with. Built once and kept, because a fresh table per call costs more than the hook.

use std::any::Any;
use std::cell::RefCell;
use std::net::IpAddr;
use std::sync::Arc;

use mlua::{Lua, Table, UserData, UserDataFields, UserDataMethods, Value};
use rustc_hash::FxHashMap;

use super::msg::Desk;
use super::value::{frozen, json_to_lua};
use crate::kernel::hooks::{Client, ConnectRequest, Farewell};
use crate::kernel::message::ChannelName;
use crate::kernel::pattern::Pattern;
use crate::plugins::Facts;

const MAX_SESSIONS: usize = 2048;
const MAX_CHANNELS: usize = 8192;

pub struct Handles {
    sessions: RefCell<FxHashMap<String, Known>>,
    /// By the id of the channel's concern and the hook.
    channels: RefCell<FxHashMap<(u64, usize), Table>>,
    /// The same, by the hook and the name.
    by_name: RefCell<FxHashMap<(usize, ChannelName), Table>>,
    pub desk: Desk,
    /// The `req` of history hooks, without and with `resume`.
    reads: [Value; 2],
    subscribes: [Value; 2],
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
    pub fn new(lua: &Lua, reserved_events: &'static [&'static str]) -> mlua::Result<Handles> {
        let saying = |word: &str| -> mlua::Result<[Value; 2]> {
            let say = |yes: bool| lua.create_table().and_then(|table| table.raw_set(word, yes).map(|()| frozen(table)));
            Ok([say(false)?, say(true)?])
        };
        Ok(Handles {
            sessions: RefCell::default(),
            channels: RefCell::default(),
            by_name: RefCell::default(),
            desk: Desk::new(lua, reserved_events)?,
            reads: saying("resume")?,
            subscribes: saying("again")?,
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
        let table = channel_table(lua, pattern, name)?;
        let mut channels = self.channels.borrow_mut();
        if channels.len() >= MAX_CHANNELS {
            channels.clear();
        }
        channels.insert((concern, hook), table.clone());
        Ok(table)
    }

    /// `req` of a history hook: whether it resumes.
    pub fn read_request(&self, resume: bool) -> Value {
        self.reads[usize::from(resume)].clone()
    }

    /// `req` of a subscribe hook: whether it listens already, and is asked about again.
    pub fn subscribe_request(&self, again: bool) -> Value {
        self.subscribes[usize::from(again)].clone()
    }

    /// `{name, <captures>}` for a hook that is known by the name alone.
    pub fn channel_of(
        &self,
        lua: &Lua,
        hook: usize,
        pattern: Option<&Pattern>,
        name: &ChannelName,
    ) -> mlua::Result<Table> {
        let key = (hook, name.clone());
        if let Some(table) = self.by_name.borrow().get(&key) {
            return Ok(table.clone());
        }
        let table = channel_table(lua, pattern, name.as_str())?;
        let mut channels = self.by_name.borrow_mut();
        if channels.len() >= MAX_CHANNELS {
            channels.clear();
        }
        channels.insert(key, table.clone());
        Ok(table)
    }
}

fn channel_table(lua: &Lua, pattern: Option<&Pattern>, name: &str) -> mlua::Result<Table> {
    let table = lua.create_table_with_capacity(0, 2)?;
    table.raw_set("name", name)?;
    for (key, value) in pattern.and_then(|pattern| pattern.captures(name)).unwrap_or_default() {
        table.raw_set(key, value)?;
    }
    table.set_readonly(true);
    Ok(table)
}

/// `req` of the connect hooks.
pub struct Request(pub ConnectRequest);

impl AsRef<ConnectRequest> for Request {
    fn as_ref(&self) -> &ConnectRequest {
        &self.0
    }
}

impl UserData for Request {
    fn add_fields<F: UserDataFields<Self>>(fields: &mut F) {
        add_request_fields(fields);
    }

    fn add_methods<M: UserDataMethods<Self>>(methods: &mut M) {
        add_request_methods(methods);
    }
}

/// What every `req` has.
pub fn add_request_fields<R: AsRef<ConnectRequest>, F: UserDataFields<R>>(fields: &mut F) {
    fields.add_field_method_get("ip", |_, req| Ok(req.as_ref().ip.map(|ip| ip.to_string())));
    fields.add_field_method_get("path", |lua, req| lua.create_string(&req.as_ref().path));
    fields.add_field_method_get("method", |lua, req| lua.create_string(&req.as_ref().method));
    fields.add_field_method_get("transport", |_, req| Ok(req.as_ref().transport));
    fields.add_field_method_get("dialect", |_, req| Ok(req.as_ref().dialect));
    fields.add_field_method_get("query", |lua, req| {
        let table = lua.create_table()?;
        // The first of several counts, as it does for the hub itself.
        for (key, value) in req.as_ref().query.iter().rev() {
            table.raw_set(key.as_str(), value.as_str())?;
        }
        Ok(frozen(table))
    });
}

pub fn add_request_methods<R: AsRef<ConnectRequest>, M: UserDataMethods<R>>(methods: &mut M) {
    methods.add_method("bearer", |_, req, ()| Ok(req.as_ref().bearer.clone()));
    methods.add_method("header", |_, req, name: String| {
        Ok(req.as_ref().header(&name.to_ascii_lowercase()).map(str::to_owned))
    });
    methods.add_method("cookie", |_, req, name: String| {
        let headers = req.as_ref().headers.iter();
        let cookies = headers.filter(|(header, _)| header == "cookie").flat_map(|(_, all)| all.split(';'));
        let mut pairs = cookies.filter_map(|pair| pair.trim().split_once('='));
        Ok(pairs.find(|(key, _)| *key == name).map(|(_, value)| value.trim_matches('"').to_owned()))
    });
}

/// `why` of the disconnect hooks.
pub fn farewell(lua: &Lua, why: &Farewell) -> mlua::Result<Value> {
    let table = lua.create_table()?;
    table.raw_set("cause", why.cause)?;
    table.raw_set("code", why.code)?;
    table.raw_set("reason", why.reason.as_str())?;
    // A proper close by either side; not a connection that broke off, fell behind or misbehaved.
    table.raw_set("expected", matches!(why.cause, "client" | "server" | "shutdown") && why.code.is_some())?;
    Ok(frozen(table))
}
