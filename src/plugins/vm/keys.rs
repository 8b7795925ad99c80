//! Keys of what rules keep: a string, a number, or a list of them, as bytes that sort alike and cannot collide.
//!
//! A part says what it is, and a string says where it ends, so `{"a", "b"}` and `{"ab"}` and `{"a.b"}` are three keys.

use mlua::{Lua, Value};
use serde_json::Value as Json;

use super::value::{describe, number, to_number};

const STRING: u8 = 2;
const NUMBER: u8 = 3;
const MAX_BYTES: usize = 512;

/// The key that a script gave: a part, or a list of parts.
pub fn read_key(value: &Value) -> Result<Vec<u8>, String> {
    let mut key = Vec::new();
    match value {
        Value::Table(parts) => {
            let count = parts.raw_len();
            if count == 0 || parts.pairs::<Value, Value>().count() != count {
                return Err("a key is a string, a number or a list of them, got a table that is no list".into());
            }
            for at in 1..=count {
                let part: Value = parts.raw_get(at).map_err(|e| e.to_string())?;
                push(&mut key, &part)?;
            }
        }
        part => push(&mut key, part)?,
    }
    if key.len() > MAX_BYTES {
        return Err(format!("a key has at most {MAX_BYTES} bytes"));
    }
    Ok(key)
}

/// The same of several arguments: `get("a", 1)` is `get({"a", 1})`.
pub fn read_parts(parts: &[Value]) -> Result<Vec<u8>, String> {
    match parts {
        [] => Err("a key is missing".into()),
        [one] => read_key(one),
        several => {
            let keys = several.iter().map(|part| if part.is_table() { Err(strange(part)) } else { read_key(part) });
            Ok(keys.collect::<Result<Vec<_>, _>>()?.concat())
        }
    }
}

fn push(key: &mut Vec<u8>, part: &Value) -> Result<(), String> {
    match part {
        Value::String(text) => push_text(key, &text.as_bytes()),
        other => match to_number(other) {
            Some(number) if !number.is_nan() => {
                key.push(NUMBER);
                // Negative numbers sort before the others: theirs are turned over, the sign of the others is set. The sum
                // makes one zero of both.
                let bits = (number + 0.0).to_bits();
                let sorted = if bits >> 63 == 1 { !bits } else { bits | 1 << 63 };
                key.extend(sorted.to_be_bytes());
            }
            _ => return Err(strange(other)),
        },
    }
    Ok(())
}

/// Appends a part that is a text.
pub fn push_text(key: &mut Vec<u8>, text: &[u8]) {
    key.push(STRING);
    for byte in text {
        key.push(*byte);
        if *byte == 0 {
            key.push(0xff);
        }
    }
    key.extend([0, 0]);
}

fn strange(part: &Value) -> String {
    format!("a key is a string, a number or a list of them, got {}", describe(part))
}

/// One part of a key.
enum Part {
    Text(Vec<u8>),
    Number(f64),
}

/// The key as a script would write it; None if it is none of ours.
pub fn write_key(lua: &Lua, key: &[u8]) -> mlua::Result<Option<Value>> {
    let Some(parts) = parts(key) else { return Ok(None) };
    let written = parts.into_iter().map(|part| match part {
        Part::Text(text) => lua.create_string(text).map(Value::String),
        Part::Number(number) => Ok(Value::Number(number)),
    });
    let mut written = written.collect::<mlua::Result<Vec<Value>>>()?;
    Ok(match written.len() {
        0 => None,
        1 => written.pop(),
        _ => Some(Value::Table(lua.create_sequence_from(written)?)),
    })
}

/// The key for people.
pub fn show_key(key: &[u8]) -> Json {
    let shown = |part| match part {
        Part::Text(text) => Json::String(String::from_utf8_lossy(&text).into_owned()),
        Part::Number(n) => number(n).unwrap_or(Json::Null),
    };
    let mut parts: Vec<Json> = parts(key).unwrap_or_default().into_iter().map(shown).collect();
    if parts.len() == 1 { parts.remove(0) } else { Json::Array(parts) }
}

fn parts(key: &[u8]) -> Option<Vec<Part>> {
    let (mut parts, mut rest) = (Vec::new(), key);
    while let Some((kind, body)) = rest.split_first() {
        match *kind {
            STRING => {
                let mut text = Vec::new();
                let mut at = 0;
                loop {
                    match (body.get(at), body.get(at + 1)) {
                        (Some(0), Some(0xff)) => {
                            text.push(0);
                            at += 2;
                        }
                        (Some(0), Some(0)) => break,
                        (Some(byte), _) => {
                            text.push(*byte);
                            at += 1;
                        }
                        (None, _) => return None,
                    }
                }
                parts.push(Part::Text(text));
                rest = &body[at + 2..];
            }
            NUMBER => {
                let (bits, after) = body.split_first_chunk::<8>()?;
                let sorted = u64::from_be_bytes(*bits);
                let bits = if sorted >> 63 == 1 { sorted & !(1 << 63) } else { !sorted };
                parts.push(Part::Number(f64::from_bits(bits)));
                rest = after;
            }
            _ => return None,
        }
    }
    Some(parts)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(lua: &Lua, code: &str) -> Vec<u8> {
        read_key(&lua.load(code).eval::<Value>().unwrap()).unwrap()
    }

    #[test]
    fn keys_that_differ_never_meet_and_come_back_as_they_were() {
        let lua = Lua::new();
        let all = [
            "'a'",
            "''",
            "'ab'",
            "'a.b'",
            "'a\\0b'",
            "'a\\0'",
            "'\\0'",
            "'a\\255'",
            "'1'",
            "1",
            "1.5",
            "-1",
            "{'a', 'b'}",
            "{'a', ''}",
            "{'', 'a'}",
            "{'a', 1}",
            "{'a', '1'}",
            "{'a\\0', 'b'}",
            "{'a', '\\0b'}",
            "{1, 'a'}",
            "{1, 1}",
            "11",
            "{'', ''}",
            "{'', '', ''}",
        ];
        let keys: Vec<Vec<u8>> = all.iter().map(|code| key(&lua, code)).collect();
        for (at, one) in keys.iter().enumerate() {
            assert!(keys[..at].iter().all(|other| other != one), "{}", all[at]);
            let back = write_key(&lua, one).unwrap().unwrap();
            assert_eq!(&read_key(&back).unwrap(), one, "{}", all[at]);
        }
        assert_eq!(key(&lua, "{'a'}"), key(&lua, "'a'"));
        assert_eq!(key(&lua, "0"), key(&lua, "-0"));
        for bad in ["nil", "true", "{}", "{{'a'}}", "{a = 1}", "{'a', x = 1}", "0/0", "{'a', 0/0}", "print"] {
            assert!(read_key(&lua.load(bad).eval::<Value>().unwrap()).is_err(), "{bad}");
        }
    }

    #[test]
    fn keys_sort_as_their_parts_do_and_a_list_is_a_prefix_of_longer_ones() {
        let lua = Lua::new();
        let sorted = [
            "''",
            "'a'",
            "{'a', 'b'}",
            "{'a', -1/0}",
            "{'a', -2}",
            "{'a', -1}",
            "{'a', 0}",
            "{'a', 0.5}",
            "{'a', 10}",
            "'a\\0'",
            "'aa'",
            "'b'",
            "2",
            "10",
        ];
        let keys: Vec<Vec<u8>> = sorted.iter().map(|code| key(&lua, code)).collect();
        assert!(keys.is_sorted(), "{keys:?}");
        assert!(
            key(&lua, "{'a', 1}").starts_with(&key(&lua, "'a'")) && !key(&lua, "'ab'").starts_with(&key(&lua, "'a'"))
        );
    }
}
