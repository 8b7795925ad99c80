//! Where two Lua values differ, path by path.

use std::collections::BTreeSet;

use mlua::{Table, Value};

/// Differences that are shown.
const MOST: usize = 10;
const MAX_DEPTH: usize = 32;
/// Of one value in a message.
const MAX_SHOWN: usize = 200;

/// A line per difference, none if there is none.
pub fn differences(got: &Value, expected: &Value) -> Vec<String> {
    let mut found = Vec::new();
    compare(got, expected, "", MAX_DEPTH, &mut found);
    if found.len() > MOST {
        let more = found.len() - MOST;
        found.truncate(MOST);
        found.push(format!("and {more} more"));
    }
    found
}

fn compare(got: &Value, expected: &Value, path: &str, depth: usize, found: &mut Vec<String>) {
    if same(got, expected) {
        return;
    }
    match (got, expected) {
        (Value::Table(a), Value::Table(b)) if depth > 0 => {
            for key in keys(a).union(&keys(b)) {
                let at = |table: &Table| key.look_up(table);
                compare(&at(a), &at(b), &format!("{path}{}", key.shown()), depth - 1, found);
            }
        }
        _ => {
            let path = if path.is_empty() { String::new() } else { format!("{path}: ") };
            found.push(format!("{path}got {}, expected {}", show(got), show(expected)));
        }
    }
}

fn same(a: &Value, b: &Value) -> bool {
    match (a, b) {
        // One kind of number for Luau, two for mlua.
        (Value::Integer(n), Value::Number(x)) | (Value::Number(x), Value::Integer(n)) => *n as f64 == *x,
        (Value::UserData(_), Value::UserData(_)) => a == b || show(a) == show(b),
        _ => a == b,
    }
}

/// A table's key, in an order that people expect.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Key {
    Index(i64),
    Name(String),
    /// Found by how it looks.
    Other(String),
}

impl Key {
    fn of(value: &Value) -> Key {
        match value {
            Value::Integer(n) => Key::Index(*n),
            Value::Number(n) if n.fract() == 0.0 => Key::Index(*n as i64),
            Value::String(text) => {
                text.to_str().map_or_else(|_| Key::Other(show(value)), |text| Key::Name(text.to_owned()))
            }
            other => Key::Other(show(other)),
        }
    }

    fn look_up(&self, table: &Table) -> Value {
        match self {
            Key::Index(n) => table.raw_get(*n).unwrap_or(Value::Nil),
            Key::Name(name) => table.raw_get(name.as_str()).unwrap_or(Value::Nil),
            Key::Other(_) => {
                let mut pairs = table.pairs::<Value, Value>().flatten();
                pairs.find(|(key, _)| Key::of(key) == *self).map_or(Value::Nil, |(_, value)| value)
            }
        }
    }

    fn shown(&self) -> String {
        match self {
            Key::Index(n) => format!("[{n}]"),
            Key::Name(name) => format!(".{name}"),
            Key::Other(shown) => format!("[{shown}]"),
        }
    }
}

fn keys(table: &Table) -> BTreeSet<Key> {
    table.pairs::<Value, Value>().flatten().map(|(key, _)| Key::of(&key)).collect()
}

/// A value as one would write it, cut to what fits in a message.
pub fn show(value: &Value) -> String {
    let mut text = String::new();
    write(value, 4, &mut text);
    if text.chars().count() > MAX_SHOWN {
        text = text.chars().take(MAX_SHOWN).chain("..".chars()).collect();
    }
    text
}

fn write(value: &Value, depth: usize, text: &mut String) {
    if text.len() > MAX_SHOWN * 4 {
        return;
    }
    match value {
        Value::Nil => text.push_str("nil"),
        value if value.is_null() => text.push_str("aether.json.null"),
        Value::String(string) => text.push_str(&format!("{:?}", string.to_string_lossy())),
        Value::Table(_) if depth == 0 => text.push_str("{..}"),
        Value::Table(table) => {
            let all = keys(table);
            text.push('{');
            for (at, key) in all.iter().enumerate() {
                text.push_str(if at > 0 { ", " } else { "" });
                match key {
                    Key::Index(n) if *n == at as i64 + 1 => {}
                    Key::Name(name) => text.push_str(&format!("{name} = ")),
                    other => text.push_str(&format!("{} = ", other.shown())),
                }
                write(&key.look_up(table), depth - 1, text);
            }
            text.push('}');
        }
        other => text.push_str(&other.to_string().unwrap_or_else(|_| other.type_name().to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mlua::Lua;

    fn diff(code: &str) -> Vec<String> {
        let lua = Lua::new();
        let (got, expected): (Value, Value) = lua.load(code).eval().unwrap();
        differences(&got, &expected)
    }

    #[test]
    fn what_is_the_same_has_no_difference() {
        for code in ["1, 1.0", "{a = {1, 2}}, {a = {1, 2}}", "nil, nil", "{}, {}", "'x', 'x'"] {
            assert_eq!(diff(code), [""; 0], "{code}");
        }
    }

    #[test]
    fn each_difference_has_its_path() {
        assert_eq!(diff("1, '1'"), [r#"got 1, expected "1""#]);
        assert_eq!(
            diff("{items = {{n = 1}, {n = 2}}, x = true}, {items = {{n = 1}, {n = 3}}, y = {1, k = 2}}"),
            [".items[2].n: got 2, expected 3", ".x: got true, expected nil", ".y: got nil, expected {1, k = 2}"]
        );
        assert_eq!(diff("{[true] = 1}, {[true] = 2}"), ["[true]: got 1, expected 2"]);
    }

    #[test]
    fn a_table_that_holds_itself_and_a_table_without_end_are_shown_short() {
        let cyclic = "(function() local t = {} t.t = t return t end)()";
        assert!(!diff(&format!("{cyclic}, {cyclic}")).is_empty());
        let long = "(function() local t = {} for i = 1, 1e5 do t[i] = i end return t end)()";
        let found = diff(&format!("{long}, nil"));
        assert!(found.len() == 1 && found[0].len() < 300, "{found:?}");
        assert_eq!(diff(&format!("{long}, {{}}")).len(), MOST + 1);
    }
}
