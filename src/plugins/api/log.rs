//! `aether.log`: a plugin's words in the hub's log, with its name and the line that spoke.

use std::rc::Rc;

use mlua::{Function, Lua, Value, Variadic};

use super::{Entry, Seat, function};
use crate::plugins::authors::testing::Said;
use crate::plugins::vm::running::running;
use crate::plugins::vm::value::{caller, describe, lua_to_json};
use crate::plugins::why::trace;

pub const ENTRIES: &[Entry] = &[
    Entry {
        name: "log.debug",
        args: "message, fields?",
        gives: "",
        doc: "Logs for whoever looks closely.",
        kind: "(message: any, fields: { [string]: any }?) -> ()",
        may_wait: false,
        since: "0.1.0",
        example: r#"aether.log.debug("looked", { room = "42" })"#,
        make: |lua, seat| function(lua, seat, |lua, seat, args| say(lua, seat, tracing::Level::DEBUG, args)),
    },
    Entry {
        name: "log.info",
        args: "message, fields?",
        gives: "",
        doc: "Logs what happened.",
        kind: "(message: any, fields: { [string]: any }?) -> ()",
        may_wait: false,
        since: "0.1.0",
        example: r#"aether.log.info("came", { room = "42" })"#,
        make: |lua, seat| function(lua, seat, |lua, seat, args| say(lua, seat, tracing::Level::INFO, args)),
    },
    Entry {
        name: "log.warn",
        args: "message, fields?",
        gives: "",
        doc: "Logs what somebody should look at.",
        kind: "(message: any, fields: { [string]: any }?) -> ()",
        may_wait: false,
        since: "0.1.0",
        example: r#"aether.log.warn("strange", { room = "42" })"#,
        make: |lua, seat| function(lua, seat, |lua, seat, args| say(lua, seat, tracing::Level::WARN, args)),
    },
    Entry {
        name: "log.error",
        args: "message, fields?",
        gives: "",
        doc: "Logs what went wrong.",
        kind: "(message: any, fields: { [string]: any }?) -> ()",
        may_wait: false,
        since: "0.1.0",
        example: r#"aether.log.error("broken", { room = "42" })"#,
        make: |lua, seat| function(lua, seat, |lua, seat, args| say(lua, seat, tracing::Level::ERROR, args)),
    },
];

const MAX_MESSAGE: usize = 4096;

fn say(lua: &Lua, seat: &Rc<Seat>, level: tracing::Level, (message, fields): (Value, Value)) -> mlua::Result<()> {
    let fields = match &fields {
        Value::Nil => String::new(),
        fields => lua_to_json(fields).map_or_else(|why| why, |json| json.to_string()),
    };
    write(lua, seat, level, &show(&message), &fields);
    Ok(())
}

fn write(lua: &Lua, seat: &Seat, level: tracing::Level, message: &str, fields: &str) {
    // What a script logs may come from anybody: it must not begin a line of its own.
    let message: String = message.chars().take(MAX_MESSAGE).map(|c| if c.is_control() { ' ' } else { c }).collect();
    let (plugin, place) = (&*seat.unit().name, caller(lua));
    if !trace::logs(|| format!("{place}: {message} {fields}").trim_end().to_owned()) {
        return;
    }
    if let Some(witness) = &seat.program.commons.witness {
        witness.heard(Said {
            level: level.as_str(),
            plugin: plugin.to_owned(),
            place,
            message,
            fields: fields.to_owned(),
        });
        return;
    }
    // Which kind of hook speaks; nothing while a file loads.
    let hook = running().map(|event| event.to_string()).unwrap_or_default();
    match level {
        tracing::Level::DEBUG => tracing::debug!(target: "aether::plugin", plugin, hook, place, fields, "{message}"),
        tracing::Level::INFO => tracing::info!(target: "aether::plugin", plugin, hook, place, fields, "{message}"),
        tracing::Level::WARN => tracing::warn!(target: "aether::plugin", plugin, hook, place, fields, "{message}"),
        _ => tracing::error!(target: "aether::plugin", plugin, hook, place, fields, "{message}"),
    }
}

/// The global `print`, which would otherwise write past the log.
pub fn print(lua: &Lua, seat: &Rc<Seat>) -> mlua::Result<Function> {
    let seat = seat.clone();
    lua.create_function(move |lua, values: Variadic<Value>| {
        let line = values.iter().map(show).collect::<Vec<_>>().join("\t");
        write(lua, &seat, tracing::Level::INFO, &line, "");
        Ok(())
    })
}

fn show(value: &Value) -> String {
    match value {
        Value::String(text) => text.to_string_lossy(),
        Value::Nil => "nil".into(),
        Value::Boolean(_) | Value::Integer(_) | Value::Number(_) => value.to_string().unwrap_or_default(),
        other => lua_to_json(other).map_or_else(|_| describe(other), |json| json.to_string()),
    }
}
