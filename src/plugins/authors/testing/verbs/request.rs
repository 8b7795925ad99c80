//! `aether.test`: makes requests over HTTP that the plugin answers.

use std::sync::Arc;

use bytes::Bytes;
use mlua::{Lua, Table, Value};

use super::{host, known, stage, wait};
use crate::kernel::hooks::Hooks;
use crate::plugins::api::function;
use crate::plugins::authors::testing::reading::{fields, read_listener, read_request};
use crate::plugins::authors::testing::{Stage, answers};
use crate::plugins::source::schema::hint;
use crate::plugins::vm::value::{lua_to_json, raise};
use crate::plugins::{Auth, Entry, Routed, Visit};

pub const ENTRIES: &[Entry] = &[Entry {
    name: "test.route",
    args: "method, path, {who, headers, query, body, json, ip, listen}?",
    gives: "{allowed, status, headers, body, json} or refusal",
    doc: "Makes a request over HTTP that the plugin answers. who is whom the route sees; without it the connect hooks are asked, where the route wants to know. listen is the listener of its own that the route has.",
    kind: "(method: string, path: string, options: { [string]: any }?) -> Answer",
    may_wait: false,
    since: "0.1.0",
    example: r#"t.equal(t.route("GET", "/rooms/42").json.room, "42")"#,
    make: |lua, seat| {
        function(lua, seat, |lua, seat, (method, path, options): (String, String, Option<Table>)| {
            let stage = stage(lua, seat)?;
            request(lua, stage, &method, &path, options.as_ref())
        })
    },
}];

fn request(lua: &Lua, stage: &Stage, method: &str, path: &str, options: Option<&Table>) -> mlua::Result<Value> {
    let host = host(lua, stage)?;
    let wrong = |why: String| raise(lua, format!("t.route: {why}"));
    let (mut who, mut listener) = (None, None);
    let (mut body, asks) = (Bytes::new(), lua.create_table()?);
    for (key, value) in fields(options).map_err(wrong)? {
        match (key.as_str(), &value) {
            ("who", who_asks) => who = Some(stage.people.who(who_asks, stage.now()).map_err(wrong)?),
            ("body", Value::String(text)) => body = Bytes::copy_from_slice(&text.as_bytes()),
            ("json", value) => body = lua_to_json(value).map_err(wrong)?.to_string().into(),
            ("listen", _) => listener = read_listener(options).map_err(wrong)?,
            ("headers" | "query" | "ip" | "bearer", _) => asks.raw_set(key, value)?,
            _ => {
                let known = ["who", "headers", "query", "body", "json", "ip", "bearer", "listen"];
                return Err(wrong(format!("{key} is not known here{}", hint(&key, known))));
            }
        }
    }
    asks.raw_set("method", method)?;
    asks.raw_set("path", path)?;
    asks.raw_set("transport", "http")?;
    let request = read_request(Some(&asks)).map_err(wrong)?;
    let call = match host.route(listener, method, path) {
        Routed::Route(call) => call,
        Routed::Methods(methods) => return Err(wrong(format!("{path} answers only to {}", methods.join(" ")))),
        Routed::Nothing => return Err(wrong(format!("no route of the plugin is for {path}"))),
    };
    let client = match (call.auth(), who) {
        (Auth::None, _) => None,
        (_, Some(who)) => Some(who.with(who.identity.clone())),
        (_, None) => match wait(lua, stage, host.connect(&request))? {
            Ok(identity) => Some(Arc::new(known(stage, &request, identity))),
            Err(refusal) => return answers::no(lua, &host, &refusal),
        },
    };
    if call.auth() == Auth::Admin && !client.as_ref().is_some_and(|client| client.identity.grants.admin) {
        return Err(wrong(format!(
            "{path} is for admins: give it a who with grants = {{ admin = true }}, or the route auth = \"none\" or \"connect\""
        )));
    }
    let client = client.and_then(Arc::into_inner);
    match stage.wait(call.answer(Visit { request, body, client })).map_err(wrong)? {
        Ok(answer) => answers::routed(lua, &answer),
        Err(refusal) => answers::no(lua, &host, &refusal),
    }
}
