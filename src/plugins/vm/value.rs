//! Values between JSON and Lua, and where in a script something happened.

use mlua::{Error, Lua, Table, Value};
use serde_json::{Map, Number, Value as Json};

/// Beyond this a Lua number no longer holds every integer; such integers arrive as strings.
const MAX_EXACT: u64 = 1 << 53;
const MAX_DEPTH: usize = 64;
/// Of an error's text.
const MAX_LINE: usize = 600;
const ARRAY: &str = "__array";
/// About the bytes of what a script may hand over at once.
const MAX_WEIGHT: usize = 1 << 20;

/// Tables are frozen. A null in an object is an absent key, in a list it is mlua's null, so that the list keeps its
/// length.
pub fn json_to_lua(lua: &Lua, json: &Json) -> mlua::Result<Value> {
    to_lua(lua, json, Shape { frozen: true, nulls: false })
}

/// The same, for a script that may go on and change it.
pub fn json_to_open_lua(lua: &Lua, json: &Json) -> mlua::Result<Value> {
    to_lua(lua, json, Shape { frozen: false, nulls: false })
}

/// The same, with what is null in objects too: as mlua's null.
pub fn json_to_whole_lua(lua: &Lua, json: &Json) -> mlua::Result<Value> {
    to_lua(lua, json, Shape { frozen: false, nulls: true })
}

#[derive(Clone, Copy)]
struct Shape {
    frozen: bool,
    nulls: bool,
}

fn to_lua(lua: &Lua, json: &Json, shape: Shape) -> mlua::Result<Value> {
    let done = |table: Table| if shape.frozen { frozen(table) } else { Value::Table(table) };
    Ok(match json {
        Json::Null => Value::Nil,
        Json::Bool(b) => Value::Boolean(*b),
        Json::String(text) => Value::String(lua.create_string(text)?),
        Json::Number(n) => match n.as_i64().map(i64::unsigned_abs).or(n.as_u64()) {
            Some(size) if size > MAX_EXACT => Value::String(lua.create_string(n.to_string())?),
            _ => Value::Number(n.as_f64().unwrap_or(f64::NAN)),
        },
        Json::Array(items) => {
            let table = lua.create_table_with_capacity(items.len(), 0)?;
            for (at, item) in items.iter().enumerate() {
                let item = if item.is_null() { Value::NULL } else { to_lua(lua, item, shape)? };
                table.raw_set(at + 1, item)?;
            }
            if items.is_empty() {
                table.set_metatable(Some(array_mark(lua)?))?;
            }
            done(table)
        }
        Json::Object(map) => {
            let table = lua.create_table_with_capacity(0, map.len())?;
            for (key, value) in map {
                let value = if value.is_null() && shape.nulls { Value::NULL } else { to_lua(lua, value, shape)? };
                table.raw_set(key.as_str(), value)?;
            }
            done(table)
        }
    })
}

pub fn frozen(table: Table) -> Value {
    table.set_readonly(true);
    Value::Table(table)
}

/// A table with a first element, or one that `json.array` marked, is a list, any other an object; what JSON does not
/// know is an error that names it. Bounded, because a table that holds another twice, and so on, is small in Lua and
/// without end here.
pub fn lua_to_json(value: &Value) -> Result<Json, String> {
    to_json(value, MAX_DEPTH, &mut { MAX_WEIGHT })
}

fn to_json(value: &Value, depth: usize, room: &mut usize) -> Result<Json, String> {
    if depth == 0 {
        return Err(format!("a table is nested deeper than {MAX_DEPTH}"));
    }
    let mut take = |weight: usize| {
        *room = room.checked_sub(weight).ok_or("a value is larger than 1 MiB")?;
        Ok::<(), String>(())
    };
    take(8)?;
    Ok(match value {
        Value::Nil => Json::Null,
        value if value.is_null() => Json::Null,
        Value::Boolean(b) => Json::Bool(*b),
        Value::Integer(n) => number(*n as f64)?,
        Value::Number(n) => number(*n)?,
        Value::String(text) => {
            take(text.as_bytes().len())?;
            Json::String(text.to_str().map_err(|_| "a string is not UTF-8")?.to_owned())
        }
        Value::Table(table) if table.raw_len() > 0 || is_array(table) => {
            let items = (1..=table.raw_len()).map(|at| {
                let item: Value = table.raw_get(at).map_err(|e| first_line(&e))?;
                to_json(&item, depth - 1, room)
            });
            Json::Array(items.collect::<Result<_, String>>()?)
        }
        Value::Table(table) => {
            let mut map = Map::new();
            for pair in table.pairs::<Value, Value>() {
                let (key, value) = pair.map_err(|e| first_line(&e))?;
                let key = match &key {
                    Value::String(key) => key.to_string_lossy(),
                    other => return Err(format!("a table's key is {}, not a string", describe(other))),
                };
                *room = room.saturating_sub(key.len());
                map.insert(key, to_json(&value, depth - 1, room)?);
            }
            Json::Object(map)
        }
        Value::UserData(data) if data.is::<crate::plugins::api::secret::Secret>() => Json::String("<secret>".into()),
        other => return Err(format!("{} has no JSON", describe(other))),
    })
}

/// The metatable that says that a table is a list, even if it is empty.
pub fn array_mark(lua: &Lua) -> mlua::Result<Table> {
    if let Some(mark) = lua.named_registry_value::<Option<Table>>(ARRAY)? {
        return Ok(mark);
    }
    let mark = lua.create_table()?;
    mark.raw_set(ARRAY, true)?;
    mark.raw_set("__metatable", false)?;
    mark.set_readonly(true);
    lua.set_named_registry_value(ARRAY, &mark)?;
    Ok(mark)
}

fn is_array(table: &Table) -> bool {
    table.metatable().is_some_and(|meta| meta.raw_get::<Option<bool>>(ARRAY).is_ok_and(|mark| mark == Some(true)))
}

/// A number as JSON has it: whole ones without a point.
pub fn number(n: f64) -> Result<Json, String> {
    if n.fract() == 0.0 && n.abs() <= MAX_EXACT as f64 {
        return Ok(Json::Number(Number::from(n as i64)));
    }
    Number::from_f64(n).map(Json::Number).ok_or_else(|| format!("{n} has no JSON"))
}

/// A value in a message: short, and never a secret's.
pub fn describe(value: &Value) -> String {
    match value {
        Value::Nil => "nothing".into(),
        Value::Boolean(b) => format!("`{b}`"),
        Value::Integer(n) => format!("the number {n}"),
        Value::Number(n) => format!("the number {n}"),
        Value::String(text) => {
            let text = text.to_string_lossy();
            let short: String = text.chars().take(40).collect();
            format!("the string {short:?}{}", if short.len() < text.len() { ".." } else { "" })
        }
        other => format!("a {}", other.type_name()),
    }
}

/// Luau has one kind of number, mlua shows two.
pub fn to_number(value: &Value) -> Option<f64> {
    match value {
        Value::Integer(n) => Some(*n as f64),
        Value::Number(n) => Some(*n),
        _ => None,
    }
}

/// `file:line` of the Lua code that called the running Rust function.
pub fn caller(lua: &Lua) -> String {
    (1..12)
        .find_map(|level| {
            lua.inspect_stack(level, |frame| place(frame.source().short_src?.as_ref(), frame.current_line()?))?
        })
        .unwrap_or_default()
}

/// The same, of the code that lies below `root`: what it does through a function that another plugin lends it, it does.
pub fn caller_below(lua: &Lua, root: &str) -> String {
    let below =
        |source: &str| source.trim_start_matches('=').strip_prefix(root).is_some_and(|path| path.starts_with('/'));
    let own = (1..12).find_map(|level| {
        lua.inspect_stack(level, |frame| {
            let source = frame.source();
            if below(source.source?.as_ref()) { place(source.short_src?.as_ref(), frame.current_line()?) } else { None }
        })?
    });
    own.unwrap_or_else(|| caller(lua))
}

fn place(file: &str, line: usize) -> Option<String> {
    // Other frames are C, or mlua's own.
    (line > 0 && (file.ends_with(".lua") || file.ends_with(".luau"))).then(|| format!("{file}:{line}"))
}

/// An error for the script that called us, with its place.
pub fn raise(lua: &Lua, message: impl std::fmt::Display) -> Error {
    Error::runtime(format!("{}: {message}", caller(lua)))
}

/// An error's first line, which says `file:line: what`.
pub fn first_line(error: &Error) -> String {
    let (mut root, mut trace) = (error, "");
    while let Error::CallbackError { cause, traceback } = root {
        (root, trace) = (cause, traceback);
    }
    let text = match root {
        Error::RuntimeError(text) | Error::SyntaxError { message: text, .. } | Error::MemoryError(text) => text.clone(),
        other => unfit(other).unwrap_or_else(|| other.to_string()),
    };
    // A script may raise a megabyte; it goes into logs and into memory.
    let line: String = text.lines().next().unwrap_or_default().chars().take(MAX_LINE).collect();
    let line = if is_address(&line) { "error(..) was given no text, so it says nothing".to_owned() } else { line };
    if has_place(&line) {
        return line;
    }
    match trace.lines().map(str::trim).find(|frame| has_place(frame)) {
        Some(frame) => format!("{}: {line}", frame.split(' ').next().unwrap_or_default().trim_end_matches(':')),
        None => line,
    }
}

/// That an argument is not of the type that a function takes, in our words.
pub fn unfit(error: &Error) -> Option<String> {
    let with_article = |kind: &str| match kind {
        "nil" | "missing argument" => "nothing".to_owned(),
        "integer" | "i64" | "u64" | "u32" | "usize" | "f64" => "a number".to_owned(),
        "error" => "an error".to_owned(),
        kind => format!("a {}", kind.to_lowercase()),
    };
    match error {
        Error::FromLuaConversionError { from, to, .. } => {
            Some(format!("expected {}, got {}", with_article(to), with_article(from)))
        }
        Error::BadArgument { to: Some(method), name: Some(name), .. } if name == "self" => {
            let method = method.split('.').next_back().unwrap_or_default();
            Some(format!("{method} is called with a colon: `it:{method}(..)`"))
        }
        Error::BadArgument { to, pos, cause, .. } => {
            // A method's first argument is what it is a method of.
            let at = if to.is_some() { pos.saturating_sub(1) } else { *pos };
            let method = to.as_ref().and_then(|to| to.split('.').next_back());
            let method = method.map_or_else(String::new, |method| format!("{method}: "));
            let why = match &**cause {
                Error::RuntimeError(text) => return Some(text.clone()),
                cause => unfit(cause)?,
            };
            Some(format!("{method}argument {at}: {why}"))
        }
        _ => None,
    }
}

/// What `tostring` makes of a table, a function and the like: a place in memory, which tells people nothing.
fn is_address(line: &str) -> bool {
    let digits = ["table: 0x", "function: 0x", "userdata: 0x", "thread: 0x", "buffer: 0x"]
        .iter()
        .find_map(|kind| line.strip_prefix(kind));
    digits.is_some_and(|digits| digits.bytes().all(|digit| digit.is_ascii_hexdigit()))
}

/// The same, with a place in any case.
pub fn located(error: &Error, place: &str) -> String {
    let line = first_line(error);
    if has_place(&line) { line } else { format!("{place}: {line}") }
}

/// The `file:line` that a line of a traceback begins with.
pub fn caller_in(frame: &str) -> Option<String> {
    let word = frame.split(' ').next()?.trim_end_matches(':');
    has_place(word).then(|| word.to_owned())
}

pub fn has_place(line: &str) -> bool {
    [".lua:", ".luau:"]
        .iter()
        .any(|mark| line.find(mark).is_some_and(|at| line[at + mark.len()..].starts_with(|c: char| c.is_ascii_digit())))
}
