//! `aether.allow` and `aether.deny`. Their options are checked where they are written, so the error has the line.

use mlua::{Lua, Table, Value};
use serde_json::Value as Json;

use super::pattern::read_grant;
use super::{Entry, function};
use crate::kernel::hooks::Grants;
use crate::plugins::asking::decision::{Allow, Deny, Verdict, sentence};
use crate::plugins::source::schema::{hint, read_duration};
use crate::plugins::vm::value::{caller, describe, lua_to_json, raise, to_number};

pub const ENTRIES: &[Entry] = &[
    Entry {
        name: "allow",
        args: "{user, tenant, expires, attrs, view, ttl, tags, grants = {subscribe, publish, history, admin}}?",
        gives: "verdict",
        doc: "Yes. Connect hooks say with the options who it is and what it may do without asking a rule again; with ttl an answer is remembered.",
        kind: "(options: { [string]: any }?) -> Verdict",
        may_wait: false,
        since: "0.1.0",
        example: r#"aether.on.connect(function(req)
	return aether.allow({ user = "alice", attrs = { role = "mod" }, grants = { publish = { "chat" } }, ttl = "1m" })
end)"#,
        make: |lua, seat| {
            let used = seat.used();
            // Most rules say just yes, so that one is made once.
            let plain = lua.create_userdata(Verdict::Allow(Box::default()))?;
            lua.create_function(move |lua, options: Value| {
                used.now();
                match options {
                    Value::Nil => Ok(plain.clone()),
                    Value::Table(options) => {
                        let allow = read_allow(&options).map_err(|why| raise(lua, why))?;
                        lua.create_userdata(Verdict::Allow(Box::new(allow)))
                    }
                    other => Err(raise(lua, format!("allow: expected a table of options, got {}", describe(&other)))),
                }
            })
            .map(Value::Function)
        },
    },
    Entry {
        name: "deny",
        args: "code, why?, {private, retry_ms}?",
        gives: "verdict",
        doc: "No, with a stable word for programs and a sentence for people; private keeps the sentence in the log; with retry_ms it is a matter of time, and the client is told of how much.",
        kind: "(code: string, why: string?, options: { private: boolean? }?) -> Verdict",
        may_wait: false,
        since: "0.1.0",
        example: r#"aether.on.publish("room.{room}", function(s, ch)
	return aether.deny("too_fast", "wait a moment", { retry_ms = 500 })
end)"#,
        make: |lua, seat| {
            function(lua, seat, |lua, _, args: (Value, Value, Option<Table>)| read_deny(lua, args).map(Verdict::Deny))
        },
    },
];

const ALLOW: [&str; 8] = ["user", "tenant", "expires", "attrs", "view", "ttl", "tags", "grants"];
const MAX_TAGS: usize = 16;
const MAX_TAG: usize = 128;
const MAX_RETRY_MS: f64 = 86_400_000.0;
const GRANTS: [&str; 4] = ["subscribe", "publish", "history", "admin"];

fn read_allow(options: &Table) -> Result<Allow, String> {
    let mut allow = Allow::default();
    for pair in options.pairs::<Value, Value>() {
        let (key, value) = pair.map_err(|e| e.to_string())?;
        let key = known_key(&key, &ALLOW, "aether.allow")?;
        let wrong = |what: &str| format!("aether.allow: {key}: expected {what}, got {}", describe(&value));
        match key.as_str() {
            "user" => allow.user = Some(text(&value).ok_or_else(|| wrong("a string"))?),
            "tenant" => allow.tenant = Some(text(&value).ok_or_else(|| wrong("a string"))?),
            "view" => allow.view = Some(text(&value).ok_or_else(|| wrong("a view's name"))?),
            "expires" => {
                let seconds = to_number(&value).filter(|seconds| seconds.is_finite() && *seconds >= 0.0);
                allow.expires = Some(seconds.ok_or_else(|| wrong("Unix time in seconds"))?);
            }
            "ttl" => {
                let ttl = lua_to_json(&value).ok().and_then(|json| read_duration(&json));
                allow.ttl = Some(ttl.ok_or_else(|| wrong("a duration like \"5m\""))?);
            }
            "tags" => {
                allow.tags = read_tags(&value).ok_or_else(|| wrong("a list of at most 16 short strings"))?;
            }
            "attrs" => match lua_to_json(&value).map_err(|why| format!("aether.allow: attrs: {why}"))? {
                Json::Object(attrs) => allow.attrs = Some(Json::Object(attrs)),
                _ => return Err(wrong("a table with names")),
            },
            _ => {
                let Value::Table(grants) = &value else { return Err(wrong("a table")) };
                allow.grants = read_grants(grants)?;
            }
        }
        allow.given.push(key);
    }
    if allow.ttl.is_none() && !allow.tags.is_empty() {
        return Err("aether.allow: tags name what is remembered, and without ttl nothing is".into());
    }
    Ok(allow)
}

fn read_tags(value: &Value) -> Option<Vec<String>> {
    let list = value.as_table().filter(|list| list.raw_len() <= MAX_TAGS)?;
    list.sequence_values::<Value>().map(|tag| text(&tag.ok()?).filter(|tag| tag.len() <= MAX_TAG)).collect()
}

pub fn read_grants(table: &Table) -> Result<Grants, String> {
    let mut grants = Grants::default();
    for pair in table.pairs::<Value, Value>() {
        let (key, value) = pair.map_err(|e| e.to_string())?;
        let key = known_key(&key, &GRANTS, "aether.allow: grants")?;
        let patterns = || read_grant(&value).map_err(|why| format!("aether.allow: grants.{key}: {why}"));
        match (key.as_str(), &value) {
            ("subscribe", _) => grants.subscribe = patterns()?,
            ("publish", _) => grants.publish = patterns()?,
            ("history", _) => grants.history = patterns()?,
            (_, Value::Boolean(admin)) => grants.admin = *admin,
            _ => return Err(format!("aether.allow: grants.admin: expected true or false, got {}", describe(&value))),
        }
    }
    Ok(grants)
}

fn read_deny(lua: &Lua, (code, why, options): (Value, Value, Option<Table>)) -> mlua::Result<Deny> {
    let fail = |text: String| raise(lua, format!("aether.deny: {text}"));
    let word = |code: &String| {
        !code.is_empty() && code.len() <= 64 && code.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-.".contains(&b))
    };
    let code = text(&code)
        .filter(word)
        .ok_or_else(|| fail(format!("the code is one word, like \"not_member\", got {}", describe(&code))))?;
    let why = match &why {
        Value::Nil => None,
        Value::String(why) => Some(sentence(&why.to_string_lossy())),
        other => return Err(fail(format!("the reason is a sentence, got {}", describe(other)))),
    };
    let (mut private, mut retry_ms) = (false, None);
    for pair in options.iter().flat_map(Table::pairs::<Value, Value>) {
        let (key, value) = pair?;
        let wrong = |what: &str| fail(format!("expected {what}, got {}", describe(&value)));
        match known_key(&key, &["private", "retry_ms"], "aether.deny").map_err(|why| raise(lua, why))?.as_str() {
            "private" => private = value.as_boolean().ok_or_else(|| wrong("private to be true or false"))?,
            _ => {
                let ms = to_number(&value).filter(|ms| (0.0..=MAX_RETRY_MS).contains(ms));
                retry_ms = Some(ms.ok_or_else(|| wrong("retry_ms to be milliseconds, at most a day"))?.ceil() as u64);
            }
        }
    }
    Ok(Deny { code, why, private, retry_ms, place: caller(lua) })
}

fn known_key(key: &Value, known: &[&str], whose: &str) -> Result<String, String> {
    match text(key) {
        Some(key) if known.contains(&key.as_str()) => Ok(key),
        Some(key) => Err(format!("{whose}: {key} is not known here{}", hint(&key, known))),
        None => Err(format!("{whose}: expected names like {}, got {}", known[0], describe(key))),
    }
}

fn text(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => text.to_str().ok().map(|text| text.to_owned()),
        _ => None,
    }
}
