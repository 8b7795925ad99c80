//! `aether.config` and `aether.plugin`: what the operator set, checked, and who the plugin is.

use std::rc::Rc;

use mlua::{Lua, Value};

use super::pattern::LuaPatterns;
use super::secret::Secret;
use super::{Entry, Seat};
use crate::kernel::pattern::Patterns;
use crate::plugins::source::schema::Setting;
use crate::plugins::vm::value::{frozen, json_to_lua};

pub const ENTRIES: &[Entry] = &[
    Entry {
        name: "config",
        args: "",
        gives: "table",
        doc: "The plugin's settings, checked against plugin.toml, with its defaults. Durations are seconds, sizes bytes.",
        kind: "{ [string]: any }",
        may_wait: false,
        since: "0.1.0",
        example: "assert(aether.config.most == 5)",
        make: |lua, seat| {
            let table = lua.create_table()?;
            for (key, setting) in &seat.unit().config {
                table.raw_set(key.as_str(), to_lua(lua, seat, setting)?)?;
            }
            Ok(Value::Table(table))
        },
    },
    Entry {
        name: "plugin",
        args: "",
        gives: "{name, version}",
        doc: "Who is running.",
        kind: "{ name: string, version: string }",
        may_wait: false,
        since: "0.1.0",
        example: r#"aether.log.info(aether.plugin.name .. " " .. aether.plugin.version)"#,
        make: |lua, seat| {
            let table = lua.create_table()?;
            table.raw_set("name", seat.unit().name.as_str())?;
            table.raw_set("version", seat.unit().version.as_str())?;
            Ok(Value::Table(table))
        },
    },
];

fn to_lua(lua: &Lua, seat: &Rc<Seat>, setting: &Setting) -> mlua::Result<Value> {
    match setting {
        Setting::Plain(json) => json_to_lua(lua, json),
        Setting::Pattern(pattern) => {
            lua.create_userdata(LuaPatterns(Patterns::from_iter([pattern.clone()]))).map(Value::UserData)
        }
        // The operator named it in the settings, so it needs no permission of the manifest.
        Setting::Secret(name) => match (seat.program.secrets)(name) {
            Some(value) => lua.create_userdata(Secret(value.into_bytes())).map(Value::UserData),
            None => Ok(Value::Nil),
        },
        Setting::List(items) => {
            let table = lua.create_table()?;
            for item in items {
                table.raw_push(to_lua(lua, seat, item)?)?;
            }
            Ok(frozen(table))
        }
        Setting::Map(map) => {
            let table = lua.create_table()?;
            for (key, value) in map {
                table.raw_set(key.as_str(), to_lua(lua, seat, value)?)?;
            }
            Ok(frozen(table))
        }
    }
}
