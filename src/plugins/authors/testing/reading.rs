//! What the verbs of `aether.test` are given: requests, messages and farewells as tables.

use std::net::SocketAddr;

use bytes::Bytes;
use mlua::{Table, Value};

use super::people::{TRANSPORTS, one_of};
use crate::kernel::hooks::{ConnectRequest, Farewell};
use crate::kernel::message::{ChannelName, Draft, Media, Message};
use crate::plugins::source::schema::{hint, read_duration};
use crate::plugins::vm::value::{describe, lua_to_json, to_number};

pub fn fields(table: Option<&Table>) -> Result<Vec<(String, Value)>, String> {
    let read = |pair: mlua::Result<(Value, Value)>| {
        let (key, value) = pair.map_err(|e| e.to_string())?;
        Ok((key.as_string().map(|key| key.to_string_lossy()).unwrap_or_else(|| describe(&key)), value))
    };
    table.into_iter().flat_map(Table::pairs::<Value, Value>).map(read).collect()
}

fn text(key: &str, value: &Value) -> Result<String, String> {
    let text = value.as_string().map(|text| text.to_string_lossy());
    text.ok_or_else(|| format!("{key}: expected a string, got {}", describe(value)))
}

/// Names and values, in the order of their names.
fn pairs(key: &str, value: &Value) -> Result<Vec<(String, String)>, String> {
    let table = value.as_table().ok_or_else(|| format!("{key}: expected a table, got {}", describe(value)))?;
    let read = |(name, value): (String, Value)| text(&format!("{key}.{name}"), &value).map(|value| (name, value));
    let mut pairs = fields(Some(table))?.into_iter().map(read).collect::<Result<Vec<_>, _>>()?;
    pairs.sort();
    Ok(pairs)
}

pub fn read_request(options: Option<&Table>) -> Result<ConnectRequest, String> {
    let mut request = ConnectRequest {
        dialect: "native",
        transport: "ws",
        method: "GET".into(),
        path: "/ws".into(),
        ip: Some([127, 0, 0, 1].into()),
        ..ConnectRequest::default()
    };
    for (key, value) in fields(options)? {
        match key.as_str() {
            "bearer" => request.bearer = Some(text(&key, &value)?),
            "method" => request.method = text(&key, &value)?,
            "path" => request.path = text(&key, &value)?,
            "transport" => request.transport = one_of(&text(&key, &value)?, &TRANSPORTS)?,
            "ip" => request.ip = Some(text(&key, &value)?.parse().map_err(|_| format!("ip: {}", describe(&value)))?),
            "query" => request.query = pairs(&key, &value)?,
            "headers" => {
                let lower = pairs(&key, &value)?.into_iter().map(|(name, value)| (name.to_ascii_lowercase(), value));
                request.headers.extend(lower);
            }
            "cookie" => {
                let all: Vec<_> = pairs(&key, &value)?.iter().map(|(name, value)| format!("{name}={value}")).collect();
                request.headers.push(("cookie".into(), all.join("; ")));
            }
            _ => {
                let known = ["bearer", "headers", "query", "cookie", "ip", "path", "method", "transport"];
                return Err(format!("{key} is not known here{}", hint(&key, known)));
            }
        }
    }
    // Where the protocol lets a credential stand.
    if request.bearer.is_none() {
        let header = request.header("authorization").and_then(|all| all.split_once(' '));
        let bearer = header.filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer")).map(|(_, token)| token.trim());
        request.bearer = bearer.or(request.param("token")).map(str::to_owned);
    }
    Ok(request)
}

pub fn read_draft(channel: ChannelName, payload: &Value, options: Option<&Table>) -> Result<Draft, String> {
    let (bytes, mut media) = match payload {
        Value::String(text) => {
            let bytes = Bytes::copy_from_slice(&text.as_bytes());
            let is_json = serde_json::from_slice::<serde::de::IgnoredAny>(&bytes).is_ok();
            (bytes, if is_json { Media::Json } else { Media::Text })
        }
        Value::Buffer(buffer) => (Bytes::from(buffer.to_vec()), Media::Binary),
        value => {
            let json = lua_to_json(value).map_err(|why| format!("payload: {why}"))?;
            (Bytes::from(json.to_string()), Media::Json)
        }
    };
    let mut draft = Draft::new(channel, Message::default());
    for (key, value) in fields(options)? {
        match key.as_str() {
            "event" => draft.message.event = Some(text(&key, &value)?.into()),
            "id" => draft.idempotency_key = Some(text(&key, &value)?.into()),
            "media" => {
                media = match one_of(&text(&key, &value)?, &["json", "text", "binary"])? {
                    "json" => Media::Json,
                    "text" => Media::Text,
                    _ => Media::Binary,
                }
            }
            "ttl" => {
                let ttl = lua_to_json(&value).ok().and_then(|json| read_duration(&json));
                draft.ttl = Some(ttl.ok_or_else(|| format!("ttl: expected a duration, got {}", describe(&value)))?);
            }
            _ => return Err(format!("{key} is not known here{}", hint(&key, ["event", "id", "media", "ttl"]))),
        }
    }
    (draft.message.payload, draft.message.media) = (bytes, media);
    Ok(draft)
}

/// A listener that dialects or routes have for themselves; none: the hub's.
pub fn read_listener(options: Option<&Table>) -> Result<Option<SocketAddr>, String> {
    let value = options.map_or(Ok(Value::Nil), |options| options.raw_get::<Value>("listen"));
    match value.map_err(|error| error.to_string())? {
        Value::Nil => Ok(None),
        value => {
            let address = text("listen", &value)?.parse();
            address.map(Some).map_err(|_| format!("listen: expected an address, got {}", describe(&value)))
        }
    }
}

pub fn read_farewell(options: Option<&Table>) -> Result<Farewell, String> {
    let mut farewell = Farewell { cause: "client", code: Some(1000), reason: String::new() };
    for (key, value) in fields(options)? {
        match key.as_str() {
            "cause" => {
                let causes = ["client", "server", "shutdown", "lag", "error", "timeout"];
                farewell.cause = one_of(&text(&key, &value)?, &causes)?;
                if matches!(farewell.cause, "error" | "timeout") {
                    farewell.code = None;
                }
            }
            "code" => {
                let code = to_number(&value).filter(|code| (1000.0..5000.0).contains(code));
                farewell.code =
                    Some(code.ok_or_else(|| format!("code: expected a close code, got {}", describe(&value)))? as u16);
            }
            "reason" => farewell.reason = text(&key, &value)?,
            _ => return Err(format!("{key} is not known here{}", hint(&key, ["cause", "code", "reason"]))),
        }
    }
    Ok(farewell)
}
