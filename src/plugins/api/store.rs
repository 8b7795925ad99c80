//! What `shared` and `kv` take alike: options, values and stretches of keys.

use mlua::{FromLua, Lua, Table, Value};
use serde_json::Value as Json;

use crate::plugins::kept::shared::Put;
use crate::plugins::source::schema::{hint, read_duration};
use crate::plugins::vm::keys::read_key;
use crate::plugins::vm::value::{describe, lua_to_json, raise, to_number};

const LISTED: usize = 100;
const MAX_LISTED: usize = 1000;

/// `{ttl =, if_absent =}`, or nothing.
pub struct Options(pub Put);

impl FromLua for Options {
    fn from_lua(value: Value, lua: &Lua) -> mlua::Result<Self> {
        read_options(&value).map(Options).map_err(|why| raise(lua, why))
    }
}

fn read_options(value: &Value) -> Result<Put, String> {
    let mut put = Put::default();
    let options = match value {
        Value::Nil => return Ok(put),
        Value::Table(options) => options,
        other => return Err(format!("options: expected a table, got {}", describe(other))),
    };
    for (key, value) in fields(options)? {
        match key.as_str() {
            "ttl" => {
                let ttl = lua_to_json(&value).ok().and_then(|json| read_duration(&json));
                put.ttl =
                    Some(ttl.ok_or_else(|| format!("ttl: expected a duration like \"5m\", got {}", describe(&value)))?);
            }
            "if_absent" => {
                let given = value.as_boolean();
                put.if_absent =
                    given.ok_or_else(|| format!("if_absent: expected true or false, got {}", describe(&value)))?;
            }
            _ => return Err(format!("{key} is not known here{}", hint(&key, ["ttl", "if_absent"]))),
        }
    }
    Ok(put)
}

/// Nil is none.
pub fn read_value(value: &Value) -> Result<Option<Json>, String> {
    if value.is_nil() { Ok(None) } else { lua_to_json(value).map(Some) }
}

pub fn read_number(value: &Value, default: f64) -> Result<f64, String> {
    match value {
        Value::Nil => Ok(default),
        value => to_number(value)
            .filter(|number| number.is_finite())
            .ok_or_else(|| format!("expected a number, got {}", describe(value))),
    }
}

/// Which keys: what they begin with, how many, and after which one.
pub struct Listing {
    pub prefix: Vec<u8>,
    pub count: usize,
    pub after: Option<Vec<u8>>,
}

pub fn read_listing(prefix: &Value, options: Option<&Table>, known: &[&str]) -> Result<Listing, String> {
    let prefix = if prefix.is_nil() { Vec::new() } else { read_key(prefix)? };
    let (mut count, mut after) = (LISTED, None);
    for (key, value) in options.map(fields).transpose()?.unwrap_or_default() {
        match key.as_str() {
            "limit" => {
                let limit = to_number(&value).filter(|n| (1.0..=MAX_LISTED as f64).contains(n));
                count = limit.ok_or_else(|| format!("limit: expected 1 to {MAX_LISTED}, got {}", describe(&value)))?
                    as usize;
            }
            "after" if known.contains(&"after") => after = Some(read_key(&value)?),
            _ => return Err(format!("{key} is not known here{}", hint(&key, known))),
        }
    }
    Ok(Listing { prefix, count, after })
}

fn fields(options: &Table) -> Result<Vec<(String, Value)>, String> {
    let read = |pair: mlua::Result<(Value, Value)>| {
        let (key, value) = pair.map_err(|e| e.to_string())?;
        let key = key.as_string().map(|key| key.to_string_lossy()).unwrap_or_else(|| describe(&key));
        Ok((key, value))
    };
    options.pairs::<Value, Value>().map(read).collect()
}

/// An error of the module `whose`, with its place.
pub fn fail(lua: &Lua, whose: &str, why: String) -> mlua::Error {
    raise(lua, format!("{whose}: {why}"))
}
