//! `aether.test`: what other servers answer, and what they were asked.

use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderName, HeaderValue};
use mlua::{Lua, Table, Value};

use super::stage;
use crate::plugins::Entry;
use crate::plugins::api::function;
use crate::plugins::authors::testing::network::{Call, Reply};
use crate::plugins::authors::testing::reading::fields;
use crate::plugins::source::schema::hint;
use crate::plugins::vm::value::{describe, first_line, frozen, json_to_lua, lua_to_json, raise, to_number};
use crate::plugins::waiting::http::Answered;
use crate::plugins::waiting::http::allow::UrlPattern;

pub const ENTRIES: &[Entry] = &[
    Entry {
        name: "test.http.stub",
        args: "method, url, {status = 200, headers, body or json}, fn(req) or why",
        gives: "",
        doc: "Says what a server answers to the plugins: a table, a function that is given {method, url, headers, body, json, plugin}, or a sentence, with which the call fails. url is a pattern as in [permissions] http, method \"*\" any. The latest stub that fits counts; a call that none fits fails the case.",
        kind: "(method: string, url: string, answer: any) -> ()",
        may_wait: false,
        since: "0.1.0",
        example: r#"t.http.stub("GET", "https://auth.internal/teams/*", { status = 404 })
t.denied(t.subscribe("bob", "team.blue"), "not_member")"#,
        make: |lua, seat| {
            function(lua, seat, |lua, seat, (method, url, answer): (String, String, Value)| {
                let wrong = |why: String| raise(lua, format!("t.http.stub: {why}"));
                let stage = stage(lua, seat)?;
                let url = UrlPattern::parse(&url).map_err(wrong)?;
                let reply = match &answer {
                    Value::Function(body) => {
                        let (body, lua) = (body.clone(), lua.weak());
                        Reply::Asks(stage.answer_by(Rc::new(move |call: &Call| {
                            let lua = lua.try_upgrade().ok_or("the case is over")?;
                            let answer = show(&lua, call).and_then(|call| body.call::<Value>(call));
                            match answer.map_err(|error| first_line(&error))? {
                                Value::String(why) => Err(why.to_string_lossy()),
                                answer => read(&answer),
                            }
                        })))
                    }
                    Value::String(why) => Reply::Fails(why.to_string_lossy()),
                    answer => Reply::Says(Arc::new(read(answer).map_err(wrong)?)),
                };
                stage.network.stub(&method, url, reply);
                Ok(())
            })
        },
    },
    Entry {
        name: "test.http.calls",
        args: "",
        gives: "{ {method, url, headers, body, json, plugin} }",
        doc: "What the plugins have asked of other servers in this case.",
        kind: "() -> { any }",
        may_wait: false,
        since: "0.1.0",
        example: r#"t.http.stub("GET", "https://auth.internal/teams/*", function(req)
	return { json = { team = req.url:match("[^/]+$") } }
end)
t.allowed(t.subscribe("bob", "team.blue"))
local calls = t.http.calls()
t.equal(calls[#calls].url, "https://auth.internal/teams/blue")"#,
        make: |lua, seat| {
            function(lua, seat, |lua, seat, ()| {
                let list = lua.create_table()?;
                for call in stage(lua, seat)?.network.calls() {
                    list.raw_push(show(lua, &call)?)?;
                }
                Ok(frozen(list))
            })
        },
    },
];

fn show(lua: &Lua, call: &Call) -> mlua::Result<Value> {
    let (table, headers) = (lua.create_table()?, lua.create_table()?);
    for (name, value) in &call.headers {
        headers.raw_set(name.as_str(), lua.create_string(value.as_bytes())?)?;
    }
    table.raw_set("plugin", call.plugin.as_str())?;
    table.raw_set("method", call.method.as_str())?;
    table.raw_set("url", call.url.as_str())?;
    table.raw_set("headers", frozen(headers))?;
    table.raw_set("body", lua.create_string(&call.body)?)?;
    if let Ok(json) = serde_json::from_slice(&call.body) {
        table.raw_set("json", json_to_lua(lua, &json)?)?;
    }
    Ok(frozen(table))
}

fn read(answer: &Value) -> Result<Answered, String> {
    let Value::Table(answer) = answer else {
        return Err(format!("expected a table such as {{ status = 200 }}, got {}", describe(answer)));
    };
    let mut answered = Answered { status: 200, headers: HeaderMap::new(), body: Bytes::new() };
    for (key, value) in fields(Some(answer))? {
        match (key.as_str(), &value) {
            ("status", status) => {
                let status = to_number(status).filter(|status| (100.0..1000.0).contains(status));
                answered.status = status.ok_or_else(|| format!("status: got {}", describe(&value)))? as u16;
            }
            ("body", Value::String(body)) => answered.body = Bytes::copy_from_slice(&body.as_bytes()),
            ("json", json) => {
                answered.body = lua_to_json(json)?.to_string().into();
                answered.headers.entry(CONTENT_TYPE).or_insert(HeaderValue::from_static("application/json"));
            }
            ("headers", Value::Table(headers)) => read_headers(headers, &mut answered.headers)?,
            _ => return Err(format!("{key} is not known here{}", hint(&key, ["status", "headers", "body", "json"]))),
        }
    }
    Ok(answered)
}

fn read_headers(given: &Table, headers: &mut HeaderMap) -> Result<(), String> {
    for (name, value) in fields(Some(given))? {
        let value = value.as_string().and_then(|text| HeaderValue::from_bytes(&text.as_bytes()).ok());
        let name = name.parse::<HeaderName>().map_err(|_| format!("headers: {name:?} is no header's name"))?;
        headers.insert(name, value.ok_or("headers: expected texts")?);
    }
    Ok(())
}
