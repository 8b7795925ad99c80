//! `aether.http`: asking other servers. It waits, so hooks that must not wait have no use for it.

use std::hash::BuildHasher;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use mlua::{Lua, MultiValue, Table, UserData, UserDataFields, UserDataMethods, Value};

use super::{Entry, Seat};
use crate::plugins::source::schema::{hint, read_duration};
use crate::plugins::vm::floor::{Outcome, Started, waiting};
use crate::plugins::vm::value::{describe, frozen, json_to_lua, lua_to_json, raise, to_number};
use crate::plugins::waiting::http::{Answered, Asked};
use crate::plugins::why::trace::{self, Key, Read, Told};

pub const ENTRIES: &[Entry] = &[
    Entry {
        name: "http.get",
        args: "url, {headers, timeout = \"3s\", max_body = 1048576, follow = false}?",
        gives: "res, or nil and why",
        doc: "Waits. res has status, headers (lower-case names), body and res:json().",
        kind: "(url: string, options: HttpOptions?) -> (HttpAnswer?, string?)",
        may_wait: true,
        since: "0.1.0",
        example: r#"aether.on.subscribe("team.{team}", function(s, ch)
	local res, why = aether.http.get("https://auth.internal/teams/" .. ch.team, { timeout = "1s" })
	if not res then return aether.deny("unavailable", why, { private = true }) end
	return res.status == 200
end)"#,
        make: |lua, seat| entry(lua, seat, "aether.http.get", Some(Method::GET)),
    },
    Entry {
        name: "http.post",
        args: "url, {json or body, headers, timeout = \"3s\", max_body = 1048576, follow = false}?",
        gives: "res, or nil and why",
        doc: "Waits. json is a value that is sent as JSON, body the bytes themselves.",
        kind: "(url: string, options: HttpOptions) -> (HttpAnswer?, string?)",
        may_wait: true,
        since: "0.1.0",
        example: r#"aether.on.publish("order.*", { async = true }, function(s, ch, msg)
	local res = aether.http.post("https://auth.internal/orders", { json = { user = s.user, order = msg:json() } })
	return res ~= nil and res.status == 200
end)"#,
        make: |lua, seat| entry(lua, seat, "aether.http.post", Some(Method::POST)),
    },
    Entry {
        name: "http.request",
        args: "url, {method, json or body, headers, timeout = \"3s\", max_body = 1048576, follow = false}?",
        gives: "res, or nil and why",
        doc: "Waits. Any method; GET if none is named.",
        kind: "(url: string, options: HttpOptions?) -> (HttpAnswer?, string?)",
        may_wait: true,
        since: "0.1.0",
        example: r#"aether.on.disconnect(function(s)
	aether.http.request("https://auth.internal/online/" .. s.id, { method = "DELETE" })
end)"#,
        make: |lua, seat| entry(lua, seat, "aether.http.request", None),
    },
];

/// Shorter than a hook may take (3 s unless it is set), so that it can still say what it thinks of a server that is silent.
const TIMEOUT: Duration = Duration::from_millis(2500);
const MAX_TIMEOUT: Duration = Duration::from_secs(30);
const MAX_BODY: usize = 1 << 20;
const MAX_HEADERS: usize = 64;
const OPTIONS: [&str; 7] = ["method", "headers", "body", "json", "timeout", "max_body", "follow"];

fn entry(lua: &Lua, seat: &Rc<Seat>, name: &'static str, method: Option<Method>) -> mlua::Result<Value> {
    if seat.unit().http.is_none() {
        return Ok(Value::Nil); // no permission: not there
    }
    let function = waiting(lua, seat, name, move |lua, seat, (url, options): (Value, Option<Table>)| {
        let asked =
            read(seat, &url, options.as_ref(), method.clone()).map_err(|why| raise(lua, format!("{name}: {why}")))?;
        Ok(ask(seat, asked))
    })?;
    Ok(Value::Function(function))
}

fn ask(seat: &Rc<Seat>, asked: Asked) -> Started {
    let (seat, url) = (seat.clone(), asked.uri.clone());
    Started::Waits(Box::pin(async move {
        let allow = seat.unit().http.clone().unwrap_or_default();
        let read = read_of(&asked);
        let answered = match trace::asks(&read) {
            trace::Asks::World => seat.program.commons.outside.ask(&seat.unit().name, allow, asked).await.map(Arc::new),
            trace::Asks::Known(Told::Http(answered)) => Ok(answered),
            trace::Asks::Known(_) => Err("it was not reached".to_owned()),
            trace::Asks::Nobody => Err("it is not asked, because nothing of this is real".to_owned()),
        };
        let told = answered.as_ref().map_or(Told::Nothing, |answered| Told::Http(answered.clone()));
        trace::noted(|| Read { told, ..read });
        let outcome: Outcome = Box::new(move |lua| {
            Ok(match answered {
                Ok(answered) => MultiValue::from_iter([Value::UserData(lua.create_userdata(Response(answered))?)]),
                // The address without its query, which may hold what is nobody's business.
                Err(why) => {
                    let place = format!(
                        "{}://{}{}",
                        url.scheme_str().unwrap_or_default(),
                        url.authority().map_or("", |a| a.as_str()),
                        url.path()
                    );
                    MultiValue::from_iter([Value::Nil, Value::String(lua.create_string(format!("{place}: {why}"))?)])
                }
            })
        });
        outcome
    }))
}

/// The question as it is written down: without the address's query, which may hold what is nobody's business.
fn read_of(asked: &Asked) -> Read {
    let (method, uri) = (&asked.method, &asked.uri);
    let (scheme, host) = (uri.scheme_str().unwrap_or_default(), uri.authority().map_or("", |a| a.as_str()));
    let mark = rustc_hash::FxBuildHasher.hash_one((uri.to_string(), &asked.body[..]));
    let key = Key::Text(format!("{method} {scheme}://{host}{}", uri.path()));
    Read { call: "http", of: "".into(), key, with: Told::Mark(mark), told: Told::Nothing }
}

fn read(seat: &Seat, url: &Value, options: Option<&Table>, method: Option<Method>) -> Result<Asked, String> {
    let Value::String(url) = url else { return Err(format!("expected a URL, got {}", describe(url))) };
    let allow = seat.unit().http.clone().unwrap_or_default();
    let uri = allow.check(&url.to_string_lossy())?;
    let mut asked = Asked {
        method: method.clone().unwrap_or(Method::GET),
        uri,
        headers: HeaderMap::new(),
        body: Bytes::new(),
        timeout: TIMEOUT.min(seat.program.limits.waiting_time * 5 / 6),
        max_body: MAX_BODY,
        follow: false,
    };
    let mut json = false;
    for pair in options.into_iter().flat_map(Table::pairs::<Value, Value>) {
        let (key, value) = pair.map_err(|e| e.to_string())?;
        let key = key.as_string().map(|key| key.to_string_lossy()).unwrap_or_else(|| describe(&key));
        let wrong = |what: &str| format!("{key}: expected {what}, got {}", describe(&value));
        match key.as_str() {
            "method" if method.is_none() => {
                let name = value.as_string().ok_or_else(|| wrong("a method like \"PUT\""))?;
                asked.method = Method::from_bytes(&name.as_bytes()).map_err(|_| wrong("a method like \"PUT\""))?;
            }
            "headers" => read_headers(&value, &mut asked.headers)?,
            "body" => {
                asked.body = match &value {
                    Value::String(body) => Bytes::copy_from_slice(&body.as_bytes()),
                    Value::Buffer(body) => Bytes::from(body.to_vec()),
                    _ => return Err(wrong("a string or a buffer")),
                }
            }
            "json" => {
                json = true;
                asked.body = lua_to_json(&value).map_err(|why| format!("json: {why}"))?.to_string().into();
            }
            "timeout" => {
                let timeout = lua_to_json(&value).ok().and_then(|json| read_duration(&json));
                let timeout = timeout.filter(|timeout| !timeout.is_zero() && *timeout <= MAX_TIMEOUT);
                asked.timeout = timeout.ok_or_else(|| wrong("a duration like \"500ms\", at most 30s"))?;
            }
            "max_body" => {
                let size = to_number(&value).filter(|size| (0.0..=MAX_BODY as f64).contains(size));
                asked.max_body = size.ok_or_else(|| wrong(&format!("at most {MAX_BODY} bytes")))? as usize;
            }
            "follow" => asked.follow = value.as_boolean().ok_or_else(|| wrong("true or false"))?,
            _ => return Err(format!("{key} is not known here{}", hint(&key, OPTIONS))),
        }
    }
    if json && !asked.headers.contains_key(CONTENT_TYPE) {
        asked.headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    }
    Ok(asked)
}

fn read_headers(value: &Value, headers: &mut HeaderMap) -> Result<(), String> {
    let Value::Table(given) = value else { return Err(format!("headers: expected a table, got {}", describe(value))) };
    for pair in given.pairs::<Value, Value>() {
        let (name, value) = pair.map_err(|e| e.to_string())?;
        let Value::String(name) = &name else {
            return Err(format!("headers: expected a name, got {}", describe(&name)));
        };
        let shown = name.to_string_lossy();
        let name =
            HeaderName::from_bytes(&name.as_bytes()).map_err(|_| format!("headers: {shown:?} is no header's name"))?;
        // These say where a message ends and whom it is for, and that is not the script's to say.
        if ["host", "content-length", "transfer-encoding", "connection", "upgrade", "te", "trailer"]
            .contains(&name.as_str())
        {
            return Err(format!("headers: {name} is set by the hub"));
        }
        // The value is not shown: it may be a credential.
        let value = match &value {
            Value::String(text) => HeaderValue::from_bytes(&text.as_bytes()).ok(),
            Value::UserData(secret) => {
                secret.borrow::<super::secret::Secret>().ok().and_then(|secret| HeaderValue::from_bytes(&secret.0).ok())
            }
            number => to_number(number).and_then(|n| HeaderValue::from_str(&n.to_string()).ok()),
        };
        headers.append(name, value.ok_or_else(|| format!("headers: what {shown} is set to is no header's value"))?);
        if headers.len() > MAX_HEADERS {
            return Err(format!("headers: there are more than {MAX_HEADERS}"));
        }
    }
    Ok(())
}

struct Response(Arc<Answered>);

impl UserData for Response {
    fn add_fields<F: UserDataFields<Self>>(fields: &mut F) {
        fields.add_field_method_get("status", |_, res| Ok(f64::from(res.0.status)));
        fields.add_field_method_get("body", |lua, res| lua.create_string(&res.0.body));
        fields.add_field_method_get("headers", |lua, res| {
            let table = lua.create_table()?;
            for (name, value) in &res.0.headers {
                let (name, value) = (name.as_str(), value.as_bytes());
                let all = match table.raw_get::<Option<mlua::LuaString>>(name)? {
                    Some(before) => [&before.as_bytes(), b", ".as_slice(), value].concat(),
                    None => value.to_vec(),
                };
                table.raw_set(name, lua.create_string(all)?)?;
            }
            Ok(frozen(table))
        });
    }

    fn add_methods<M: UserDataMethods<Self>>(methods: &mut M) {
        methods.add_method("json", |lua, res, ()| match serde_json::from_slice(&res.0.body) {
            Ok(json) => Ok(MultiValue::from_iter([json_to_lua(lua, &json)?])),
            Err(error) => {
                let why = lua.create_string(format!("the body is not JSON: {error}"))?;
                Ok(MultiValue::from_iter([Value::Nil, Value::String(why)]))
            }
        });
    }
}
