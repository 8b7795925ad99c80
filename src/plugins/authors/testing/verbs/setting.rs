//! `aether.test`: what is tested, and with which settings.

use mlua::{Function, Lua, MultiValue, Value};
use serde_json::{Map, Value as Json};

use super::{host, stage};
use crate::plugins::api::function;
use crate::plugins::vm::value::{describe, lua_to_json, raise};
use crate::plugins::{Entry, LoadError};

pub const ENTRIES: &[Entry] = &[
    Entry {
        name: "test.case",
        args: "name, fn()",
        gives: "",
        doc: "Tells one case. Each runs in a fresh VM, with a fresh plugin, empty stores and the clock at its beginning.",
        kind: "(name: string, case: () -> ()) -> ()",
        may_wait: false,
        since: "0.1.0",
        example: r#"t.case("a stranger is told why", function()
	t.denied(t.subscribe("bob", "room.42"), "not_member")
end)"#,
        make: |lua, seat| {
            function(lua, seat, |lua, seat, (name, case): (String, Function)| {
                let stage = stage(lua, seat)?;
                let mut cases = stage.cases.borrow_mut();
                if !stage.loading.get() {
                    return Err(raise(lua, "t.case: cases are told while the file loads"));
                }
                if cases.iter().any(|(known, _)| *known == name) {
                    return Err(raise(lua, format!("t.case: there are two cases {name:?}")));
                }
                cases.push((name, case));
                Ok(())
            })
        },
    },
    Entry {
        name: "test.config",
        args: "settings",
        gives: "",
        doc: "The plugin's settings, as [plugin.config] in aether.toml would have them. At the top of a file they hold for all its cases.",
        kind: "(settings: { [string]: any }) -> ()",
        may_wait: false,
        since: "0.1.0",
        example: "t.config({ most = 1 })",
        make: |lua, seat| {
            function(lua, seat, |lua, seat, settings: Value| {
                stage(lua, seat)?.configure(object(lua, "t.config", &settings)?);
                Ok(())
            })
        },
    },
    Entry {
        name: "test.secret",
        args: "name, value",
        gives: "",
        doc: "Sets a secret that the plugin may read.",
        kind: "(name: string, value: string) -> ()",
        may_wait: false,
        since: "0.1.0",
        example: r#"t.secret("signing_key", string.rep("k", 32))"#,
        make: |lua, seat| {
            function(lua, seat, |lua, seat, (name, value): (String, String)| {
                stage(lua, seat)?.set_secret(name, value);
                Ok(())
            })
        },
    },
    Entry {
        name: "test.use",
        args: "plugin, settings?",
        gives: "",
        doc: "Loads another plugin of the plugins' directory before the one under test.",
        kind: "(plugin: string, settings: { [string]: any }?) -> ()",
        may_wait: false,
        since: "0.1.0",
        example: r#"t.use("lender", {})"#,
        make: |lua, seat| {
            function(lua, seat, |lua, seat, (name, settings): (String, Value)| {
                stage(lua, seat)?.load_beside(name, object(lua, "t.use", &settings)?);
                Ok(())
            })
        },
    },
    Entry {
        name: "test.load",
        args: "",
        gives: "boolean, string?",
        doc: "Loads the plugin now: true, or false and everything that is wrong. Other verbs load it when they need it.",
        kind: "() -> (boolean, string?)",
        may_wait: false,
        since: "0.1.0",
        example: "assert(t.load())",
        make: |lua, seat| function(lua, seat, |lua, seat, ()| loaded(lua, stage(lua, seat)?.host().map(drop))),
    },
    Entry {
        name: "test.reload",
        args: "settings?",
        gives: "boolean, string?",
        doc: "Reloads the plugin as a running hub does, with other settings if they are given: true, or false and what is wrong.",
        kind: "(settings: { [string]: any }?) -> (boolean, string?)",
        may_wait: false,
        since: "0.1.0",
        example: r#"local ok, why = t.reload({ most = "many" })
assert(not ok and why)"#,
        make: |lua, seat| {
            function(lua, seat, |lua, seat, settings: Value| {
                let stage = stage(lua, seat)?;
                let host = host(lua, stage)?;
                if !settings.is_nil() {
                    stage.prepare(object(lua, "t.reload", &settings)?);
                }
                loaded(lua, stage.aside(|| host.reload().map(drop)))
            })
        },
    },
];

fn loaded(lua: &Lua, outcome: Result<(), LoadError>) -> mlua::Result<MultiValue> {
    Ok(match outcome {
        Ok(()) => MultiValue::from_iter([Value::Boolean(true)]),
        Err(error) => {
            MultiValue::from_iter([Value::Boolean(false), Value::String(lua.create_string(error.to_string())?)])
        }
    })
}

/// A table of settings; nil and an empty one have none.
fn object(lua: &Lua, whose: &str, value: &Value) -> mlua::Result<Map<String, Json>> {
    match lua_to_json(value) {
        Ok(Json::Object(settings)) => Ok(settings),
        Ok(Json::Null) => Ok(Map::new()),
        Ok(_) => Err(raise(lua, format!("{whose}: expected a table of settings, got {}", describe(value)))),
        Err(why) => Err(raise(lua, format!("{whose}: {why}"))),
    }
}
