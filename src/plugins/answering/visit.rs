//! `req` of the routes, and what a route answers.

use bytes::Bytes;
use mlua::{Table, UserData, UserDataFields, UserDataMethods, Value};

use crate::kernel::hooks::{Client, ConnectRequest};
use crate::plugins::Facts;
use crate::plugins::asking::decision::{Deny, Vote};
use crate::plugins::source::schema::hint;
use crate::plugins::vm::handles::{add_request_fields, add_request_methods};
use crate::plugins::vm::value::{describe, frozen, json_to_lua, lua_to_json, raise, to_number};

/// A request, whole.
pub struct Visit {
    pub request: ConnectRequest,
    pub body: Bytes,
    /// Who makes it, if the route asks for that.
    pub client: Option<Client>,
}

/// The same, and what its path's captures stand for.
pub struct Visitor {
    pub visit: Visit,
    pub params: Vec<(String, String)>,
}

/// What is sent back.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RouteAnswer {
    pub status: u16,
    /// Lower-case names; they and the values are fit for a head.
    pub headers: Vec<(String, String)>,
    pub body: Bytes,
}

impl AsRef<ConnectRequest> for Visitor {
    fn as_ref(&self) -> &ConnectRequest {
        &self.visit.request
    }
}

impl UserData for Visitor {
    fn add_fields<F: UserDataFields<Self>>(fields: &mut F) {
        add_request_fields(fields);
        fields.add_field_method_get("params", |lua, req| {
            let table = lua.create_table()?;
            for (name, value) in &req.params {
                table.raw_set(name.as_str(), value.as_str())?;
            }
            Ok(frozen(table))
        });
        fields.add_field_method_get("headers", |lua, req| {
            let table = lua.create_table()?;
            for (name, value) in req.visit.request.headers.iter().rev() {
                table.raw_set(name.as_str(), value.as_str())?;
            }
            Ok(frozen(table))
        });
        fields.add_field_method_get("size", |_, req| Ok(req.visit.body.len() as f64));
        fields.add_field_method_get("user", |_, req| {
            Ok(req.visit.client.as_ref().and_then(|client| client.identity.user.clone()))
        });
        fields.add_field_method_get("tenant", |_, req| {
            Ok(req.visit.client.as_ref().and_then(|client| client.identity.tenant.clone()))
        });
        fields.add_field_method_get("attrs", |lua, req| {
            let identity = req.visit.client.as_ref().map(|client| &client.identity);
            let facts = identity.and_then(|identity| identity.attrs.as_ref()?.downcast_ref::<Facts>());
            match facts.map(|facts| json_to_lua(lua, &facts.attrs)).transpose()? {
                Some(Value::Table(attrs)) => Ok(Value::Table(attrs)),
                _ => Ok(frozen(lua.create_table()?)),
            }
        });
    }

    fn add_methods<M: UserDataMethods<Self>>(methods: &mut M) {
        add_request_methods(methods);
        // By its grants: no hook is asked.
        methods.add_method("may", |lua, req, (what, channel): (String, String)| {
            let grants = req.visit.client.as_ref().map(|client| &client.identity.grants);
            let granted = match what.as_str() {
                "subscribe" => grants.map(|grants| &grants.subscribe),
                "publish" => grants.map(|grants| &grants.publish),
                "history" => grants.map(|grants| &grants.history),
                _ => return Err(raise(lua, format!("req:may: subscribe, publish or history, not {what:?}"))),
            };
            Ok(granted.is_some_and(|patterns| patterns.matches(&channel)))
        });
        methods.add_method("text", |lua, req, ()| lua.create_string(&req.visit.body));
        methods.add_method("buffer", |lua, req, ()| lua.create_buffer(&req.visit.body));
        methods.add_method("json", |lua, req, ()| match serde_json::from_slice(&req.visit.body) {
            Ok(json) => json_to_lua(lua, &json),
            Err(_) => Ok(Value::Nil),
        });
    }
}

const KEYS: [&str; 4] = ["status", "headers", "body", "json"];
/// Who writes these is the server.
const OF_THE_SERVER: [&str; 6] =
    ["connection", "content-length", "keep-alive", "transfer-encoding", "upgrade", "trailer"];
const MAX_HEADERS: usize = 64;
const MAX_VALUE: usize = 8 * 1024;

/// What a route returned: a table, nothing for 204, or an `aether.deny` for 403.
pub fn read_answer(value: &Value, place: &str) -> Result<Result<RouteAnswer, Deny>, String> {
    match value {
        Value::Nil => Ok(Ok(RouteAnswer { status: 204, headers: Vec::new(), body: Bytes::new() })),
        Value::Table(table) => read_table(table).map(Ok),
        Value::UserData(_) => read_deny(value, place).map(Err),
        other => Err(unexpected(other)),
    }
}

fn unexpected(value: &Value) -> String {
    format!("expected {{status, headers, body or json}}, aether.deny or nil, got {}", describe(value))
}

fn read_deny(value: &Value, place: &str) -> Result<Deny, String> {
    match Vote::read(value, &Value::Nil, &[]) {
        Ok(Vote::Deny(deny)) if deny.place.is_empty() => Ok(Deny { place: place.to_owned(), ..deny }),
        Ok(Vote::Deny(deny)) => Ok(deny),
        _ => Err(unexpected(value)),
    }
}

fn read_table(table: &Table) -> Result<RouteAnswer, String> {
    let mut answer = RouteAnswer { status: 200, headers: Vec::new(), body: Bytes::new() };
    let (mut kind, mut bodies) = (None, 0);
    for pair in table.pairs::<Value, Value>() {
        let (key, value) = pair.map_err(|error| error.to_string())?;
        let key = key.as_string().map(|key| key.to_string_lossy()).unwrap_or_else(|| describe(&key));
        let wrong = |what: &str| format!("{key}: expected {what}, got {}", describe(&value));
        match (key.as_str(), &value) {
            ("status", value) => {
                let status = to_number(value).filter(|n| n.fract() == 0.0 && (200.0..=599.0).contains(n));
                answer.status = status.ok_or_else(|| wrong("a number from 200 to 599"))? as u16;
            }
            ("headers", Value::Table(headers)) => answer.headers = read_headers(headers)?,
            ("headers", _) => return Err(wrong("a table")),
            ("json", value) => {
                let json = lua_to_json(value).map_err(|why| format!("json: {why}"))?;
                answer.body = format!("{json}\n").into();
                (kind, bodies) = (Some("application/json"), bodies + 1);
            }
            ("body", Value::String(text)) => {
                answer.body = Bytes::copy_from_slice(&text.as_bytes());
                (kind, bodies) = (Some("text/plain; charset=utf-8"), bodies + 1);
            }
            ("body", Value::Buffer(bytes)) => {
                answer.body = bytes.to_vec().into();
                (kind, bodies) = (Some("application/octet-stream"), bodies + 1);
            }
            ("body", _) => return Err(wrong("a string or a buffer")),
            _ => return Err(format!("{key} is not known here{}", hint(&key, KEYS))),
        }
    }
    if bodies > 1 {
        return Err("body and json are one too many".into());
    }
    if let Some(kind) = kind
        && !answer.headers.iter().any(|(name, _)| name == "content-type")
    {
        answer.headers.push(("content-type".into(), kind.into()));
    }
    Ok(answer)
}

/// Names with a value, or with a list of them.
pub fn read_headers(table: &Table) -> Result<Vec<(String, String)>, String> {
    let mut headers = Vec::new();
    for pair in table.pairs::<Value, Value>() {
        let (key, value) = pair.map_err(|error| error.to_string())?;
        let name = key.as_string().map(|name| name.to_string_lossy().to_ascii_lowercase());
        let is_name =
            |name: &String| !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b));
        let name = name.filter(is_name).ok_or_else(|| format!("headers: {} is no header's name", describe(&key)))?;
        if OF_THE_SERVER.contains(&name.as_str()) {
            return Err(format!("headers: {name} is written by the server"));
        }
        let values = match &value {
            Value::Table(list) => list.sequence_values::<Value>().collect::<mlua::Result<Vec<_>>>(),
            one => Ok(vec![one.clone()]),
        };
        for value in values.map_err(|error| error.to_string())? {
            let text = match &value {
                Value::String(text) => text.to_str().ok().map(|text| text.to_owned()),
                number => to_number(number).map(|n| n.to_string()),
            };
            // A line break in a value would begin a header of its own.
            let fits = |text: &String| text.len() <= MAX_VALUE && !text.chars().any(char::is_control);
            let text = text.filter(fits);
            let text = text.ok_or_else(|| format!("headers: {name}: {} is no header's value", describe(&value)))?;
            headers.push((name.clone(), text));
        }
    }
    if headers.len() > MAX_HEADERS {
        return Err(format!("headers: at most {MAX_HEADERS}"));
    }
    Ok(headers)
}
