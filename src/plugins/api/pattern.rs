//! `aether.pattern` and `aether.patterns`: patterns as values, so that data cannot become a wildcard by accident.

use mlua::{FromLua, Lua, MetaMethod, UserData, UserDataMethods, Value, Variadic};

use super::{Entry, function};
use crate::kernel::pattern::{Pattern, Patterns};
use crate::plugins::vm::value::{describe, raise};

pub const ENTRIES: &[Entry] = &[
    Entry {
        name: "pattern",
        args: "format, ...",
        gives: "pattern",
        doc: "A pattern whose {} are filled with values; a value is never a wildcard and may hold no separator.",
        kind: "(format: string, ...any) -> Pattern",
        may_wait: false,
        since: "0.1.0",
        example: r#"local own = aether.pattern("user.{}.*", "alice")
assert(own:matches("user.alice.inbox") and not own:matches("user.bob.inbox"))
assert(own:example() == "user.alice.x" and not aether.pattern("a..b"):example())"#,
        make: |lua, seat| {
            function(lua, seat, |lua, _, (format, values): (String, Variadic<Value>)| {
                let values = values.iter().map(|value| text(lua, value)).collect::<mlua::Result<Vec<_>>>()?;
                let values: Vec<&str> = values.iter().map(String::as_str).collect();
                let pattern = Pattern::with(&format, &values).map_err(|error| raise(lua, error))?;
                Ok(LuaPatterns(Patterns::from_iter([pattern])))
            })
        },
    },
    Entry {
        name: "patterns",
        args: "list",
        gives: "patterns",
        doc: "Strings as patterns, for lists of a trusted issuer. What is no pattern or begins with $ grants nothing.",
        kind: "(list: any) -> Pattern",
        may_wait: false,
        since: "0.1.0",
        example: r#"local granted = aether.patterns({ "room.*", "news" })
assert(granted:matches("room.42"))"#,
        make: |lua, seat| {
            function(lua, seat, |lua, _, list: Value| read_list(&list).map(LuaPatterns).map_err(|why| raise(lua, why)))
        },
    },
];

#[derive(Clone)]
pub struct LuaPatterns(pub Patterns);

impl UserData for LuaPatterns {
    fn add_methods<M: UserDataMethods<Self>>(methods: &mut M) {
        methods.add_method("matches", |_, patterns, name: String| Ok(patterns.0.matches(&name)));
        // A name that it matches; none if no channel can have one.
        methods.add_method("example", |_, patterns, ()| {
            Ok(patterns.0.iter().find_map(Pattern::example).map(|name| name.to_string()))
        });
        methods.add_meta_method(MetaMethod::ToString, |_, patterns, ()| {
            Ok(patterns.0.iter().map(Pattern::to_string).collect::<Vec<_>>().join(" "))
        });
    }
}

fn text(lua: &Lua, value: &Value) -> mlua::Result<String> {
    match value {
        Value::String(_) | Value::Number(_) | Value::Integer(_) => String::from_lua(value.clone(), lua),
        other => Err(raise(lua, format!("a value for {{}} is a string or a number, got {}", describe(other)))),
    }
}

fn read_list(list: &Value) -> Result<Patterns, String> {
    let mut patterns = Patterns::default();
    match list {
        Value::Nil => {}
        Value::String(one) => patterns.extend(read_granted(&one.to_string_lossy())),
        Value::Table(items) => {
            for item in items.sequence_values::<Value>() {
                match item.map_err(|e| e.to_string())? {
                    Value::String(one) => patterns.extend(read_granted(&one.to_string_lossy())),
                    Value::UserData(data) if data.is::<LuaPatterns>() => {
                        patterns.extend(data.borrow::<LuaPatterns>().map_err(|e| e.to_string())?.0.iter().cloned());
                    }
                    other => return Err(format!("expected a list of strings, got {} in it", describe(&other))),
                }
            }
        }
        Value::UserData(data) if data.is::<LuaPatterns>() => {
            return Ok(data.borrow::<LuaPatterns>().map_err(|e| e.to_string())?.0.clone());
        }
        other => return Err(format!("expected a list of strings, got {}", describe(other))),
    }
    Ok(patterns)
}

/// Tokens and keys never reach reserved names, whoever signed them.
fn read_granted(text: &str) -> Option<Pattern> {
    match Pattern::parse(text) {
        Ok(pattern) if !pattern.is_reserved() => Some(pattern),
        Ok(pattern) => {
            tracing::debug!(%pattern, "a granted pattern is left out: it is reserved for plugins");
            None
        }
        Err(error) => {
            tracing::debug!(%error, "a granted pattern is left out");
            None
        }
    }
}

/// The pattern of a hook: a string, or one made by `aether.pattern` or the configuration.
pub fn read_pattern(value: &Value) -> Result<Pattern, String> {
    match value {
        Value::String(text) => Pattern::parse(&text.to_string_lossy()).map_err(|error| error.to_string()),
        Value::UserData(data) if data.is::<LuaPatterns>() => {
            let patterns = data.borrow::<LuaPatterns>().map_err(|e| e.to_string())?;
            let mut all = patterns.0.iter();
            all.next()
                .filter(|_| all.next().is_none())
                .cloned()
                .ok_or_else(|| "expected one pattern, got several or none".into())
        }
        other => Err(format!("expected a pattern, got {}", describe(other))),
    }
}

/// What a grant covers: plain strings are literals here, because data ends up in them.
pub fn read_grant(value: &Value) -> Result<Patterns, String> {
    match value {
        Value::Nil => Ok(Patterns::default()),
        Value::String(text) => {
            let text = text.to_string_lossy();
            if text.contains(['*', '{', '}']) {
                return Err(format!(
                    "{text:?} is a literal here and can never match; for wildcards write aether.patterns({{{text:?}}})"
                ));
            }
            Ok(Patterns::from_iter([Pattern::literal(&text)]))
        }
        Value::UserData(data) if data.is::<LuaPatterns>() => {
            Ok(data.borrow::<LuaPatterns>().map_err(|e| e.to_string())?.0.clone())
        }
        Value::Table(items) => {
            let mut patterns = Patterns::default();
            for pair in items.pairs::<Value, Value>() {
                let (key, item) = pair.map_err(|e| e.to_string())?;
                if !key.is_integer() && !key.is_number() {
                    return Err(format!("expected a list of names and patterns, got the key {}", describe(&key)));
                }
                if item.is_table() {
                    return Err("expected a list of names and patterns, got a list in a list".into());
                }
                patterns.extend(read_grant(&item)?.iter().cloned());
            }
            Ok(patterns)
        }
        other => Err(format!("expected names or patterns, got {}", describe(other))),
    }
}
