//! `aether.json`: between text and tables.

use std::fmt;

use mlua::{MultiValue, Table, Value};
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::Value as Json;
use serde_json::value::RawValue;

use super::secret::Bytes;
use super::{Entry, function};
use crate::plugins::source::schema::hint;
use crate::plugins::vm::value::{array_mark, describe, json_to_open_lua, json_to_whole_lua, lua_to_json, raise};

const MAX_TEXT: usize = 1 << 20;

pub const ENTRIES: &[Entry] = &[
    Entry {
        name: "json.decode",
        args: "text, {null}?",
        gives: "value, why?",
        doc: "The value, or nil and why. Integers beyond 2^53 arrive as strings; null is an absent key, in a list json.null; with null = true it is json.null everywhere.",
        kind: "(text: string, options: { null: boolean? }?) -> (any, string?)",
        may_wait: false,
        since: "0.1.0",
        example: r#"local order, why = aether.json.decode('{"items":[1,2]}')
assert(order.items[2] == 2 and why == nil)"#,
        make: |lua, seat| {
            function(lua, seat, |lua, _, (text, options): (Bytes, Option<Table>)| {
                let json = match text.0.len() {
                    0..=MAX_TEXT => serde_json::from_slice::<Json>(&text.0).map_err(|error| error.to_string()),
                    _ => Err("the text is larger than 1 MiB".into()),
                };
                Ok(match json {
                    Ok(json) if keeps_null(options.as_ref()).map_err(|why| raise(lua, why))? => {
                        let whole = if json.is_null() { Value::NULL } else { json_to_whole_lua(lua, &json)? };
                        MultiValue::from_iter([whole])
                    }
                    Ok(json) => MultiValue::from_iter([json_to_open_lua(lua, &json)?]),
                    Err(why) => MultiValue::from_iter([Value::Nil, Value::String(lua.create_string(why)?)]),
                })
            })
        },
    },
    Entry {
        name: "json.members",
        args: "text",
        gives: "{name = text}, or nil and why",
        doc: "The members of a JSON object, each as the text that stands there, byte for byte; of members that come twice the last.",
        kind: "(text: string) -> ({ [string]: string }?, string?)",
        may_wait: false,
        since: "0.1.0",
        example: r#"assert(aether.json.members('{"id":9007199254740993, "f":1.0}').id == "9007199254740993")"#,
        make: |lua, seat| {
            function(lua, seat, |lua, _, text: Bytes| {
                Ok(match members(&text.0) {
                    Ok(members) => {
                        let table = lua.create_table_with_capacity(0, members.len())?;
                        for (name, value) in members {
                            table.raw_set(name, value.get())?;
                        }
                        MultiValue::from_iter([Value::Table(table)])
                    }
                    Err(why) => MultiValue::from_iter([Value::Nil, Value::String(lua.create_string(why)?)]),
                })
            })
        },
    },
    Entry {
        name: "json.encode",
        args: "value",
        gives: "string",
        doc: "The text of a value of at most 1 MiB; what JSON does not know is an error.",
        kind: "(value: any) -> string",
        may_wait: false,
        since: "0.1.0",
        example: r#"assert(aether.json.encode({ ok = true }) == '{"ok":true}')"#,
        make: |lua, seat| {
            function(lua, seat, |lua, _, value: Value| {
                let json = lua_to_json(&value).map_err(|why| raise(lua, format!("json.encode: {why}")))?;
                Ok(json.to_string())
            })
        },
    },
    Entry {
        name: "json.array",
        args: "list?",
        gives: "list",
        doc: "Marks a table as a list, so that it is [] and not {} when it is empty.",
        kind: "(list: { any }?) -> { any }",
        may_wait: false,
        since: "0.1.0",
        example: r#"assert(aether.json.encode({ items = aether.json.array({}) }) == '{"items":[]}')"#,
        make: |lua, seat| {
            function(lua, seat, |lua, _, list: Option<Table>| {
                let list = list.map_or_else(|| lua.create_table(), Ok)?;
                let mark = array_mark(lua)?;
                match list.metatable() {
                    Some(own) if own == mark => {}
                    None if !list.is_readonly() => list.set_metatable(Some(mark))?,
                    _ => return Err(raise(lua, "json.array: this table cannot be marked; copy it with table.clone")),
                }
                Ok(list)
            })
        },
    },
    Entry {
        name: "json.null",
        args: "",
        gives: "null",
        doc: "A null, where an absent key is not the same.",
        kind: "any",
        may_wait: false,
        since: "0.1.0",
        example: r#"assert(aether.json.encode({ note = aether.json.null }) == '{"note":null}')"#,
        make: |_, _| Ok(Value::NULL),
    },
];

/// The members of an object, in their order.
struct Members<'a>(Vec<(String, &'a RawValue)>);

impl<'de> Deserialize<'de> for Members<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Object;
        impl<'de> Visitor<'de> for Object {
            type Value = Members<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Members<'de>, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry::<String, &'de RawValue>()? {
                    members.push(member);
                }
                Ok(Members(members))
            }
        }
        deserializer.deserialize_map(Object)
    }
}

fn members(text: &[u8]) -> Result<Vec<(String, &RawValue)>, String> {
    if text.len() > MAX_TEXT {
        return Err("the text is larger than 1 MiB".into());
    }
    serde_json::from_slice::<Members<'_>>(text).map(|members| members.0).map_err(|error| error.to_string())
}

fn keeps_null(options: Option<&Table>) -> Result<bool, String> {
    let mut keeps = false;
    for pair in options.into_iter().flat_map(Table::pairs::<Value, Value>) {
        let (key, value) = pair.map_err(|error| error.to_string())?;
        let key = key.as_string().map(|key| key.to_string_lossy()).unwrap_or_else(|| describe(&key));
        keeps = match (key.as_str(), value.as_boolean()) {
            ("null", Some(keeps)) => keeps,
            ("null", None) => {
                return Err(format!("json.decode: null: expected true or false, got {}", describe(&value)));
            }
            _ => return Err(format!("json.decode: {key} is not known here{}", hint(&key, ["null"]))),
        };
    }
    Ok(keeps)
}
