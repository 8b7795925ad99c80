//! `aether.channel`: names of channels made of whatever clients call things.

use mlua::{Lua, MultiValue, Value};

use super::{Entry, function};
use crate::kernel::message::ChannelName;
use crate::plugins::vm::value::{describe, raise};

pub const ENTRIES: &[Entry] = &[NAME, PARTS];

const NAME: Entry = Entry {
    name: "channel.name",
    args: "part, ..",
    gives: "string, or nil and why",
    doc: "A channel's name made of texts of any kind, joined by dots: what a name must not hold is written %XX, so no two lists of parts share a name. nil and \"too_long\" beyond 128 bytes.",
    kind: "(...string) -> (string?, string?)",
    may_wait: false,
    since: "0.1.0",
    example: r#"assert(aether.channel.name("chat", "a/b c") == "chat.a%2Fb%20c")"#,
    make: |lua, seat| function(lua, seat, |lua, _, parts: MultiValue| name(lua, &parts)),
};

const PARTS: Entry = Entry {
    name: "channel.parts",
    args: "name",
    gives: "{string}",
    doc: "The texts that a name from channel.name was made of.",
    kind: "(name: string) -> { string }",
    may_wait: false,
    since: "0.1.0",
    example: r#"assert(aether.channel.parts("chat.a%2Fb%20c")[2] == "a/b c")"#,
    make: |lua, seat| {
        function(lua, seat, |lua, _, name: mlua::LuaString| {
            let parts = name.as_bytes().split(|byte| *byte == b'.').map(unescaped).collect::<Vec<_>>();
            lua.create_sequence_from(
                parts.iter().map(|part| lua.create_string(part)).collect::<mlua::Result<Vec<_>>>()?,
            )
        })
    },
};

fn name(lua: &Lua, parts: &MultiValue) -> mlua::Result<MultiValue> {
    let mut name = String::new();
    for (at, part) in parts.iter().enumerate() {
        let Value::String(part) = part else {
            let got = describe(part);
            return Err(raise(lua, format!("channel.name: part {}: expected a string, got {got}", at + 1)));
        };
        if at > 0 {
            name.push('.');
        }
        escape(&part.as_bytes(), &mut name);
    }
    Ok(match ChannelName::new(&name) {
        Ok(_) => MultiValue::from_iter([Value::String(lua.create_string(&name)?)]),
        Err(_) if parts.is_empty() => return Err(raise(lua, "channel.name: expected at least one part")),
        Err(_) => MultiValue::from_iter([Value::Nil, Value::String(lua.create_string("too_long")?)]),
    })
}

fn escape(part: &[u8], out: &mut String) {
    if part.is_empty() {
        out.push('%'); // nothing else is written so
    }
    for byte in part {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-' => out.push(char::from(*byte)),
            other => out.push_str(&format!("%{other:02X}")),
        }
    }
}

fn unescaped(part: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(part.len());
    let mut rest = part;
    while let Some((byte, after)) = rest.split_first() {
        let digits = after.get(..2).and_then(|two| std::str::from_utf8(two).ok());
        let escaped = digits.filter(|_| *byte == b'%').and_then(|two| u8::from_str_radix(two, 16).ok());
        match escaped {
            Some(escaped) => {
                out.push(escaped);
                rest = &after[2..];
            }
            None => {
                out.extend((*byte != b'%').then_some(*byte));
                rest = after;
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_text_comes_back_and_no_two_share_a_name() {
        let escaped = |part: &str| {
            let mut out = String::new();
            escape(part.as_bytes(), &mut out);
            out
        };
        for part in ["", "a", "a.b", "%", "%41", "a b", "é", "\0", "users/123/notifications", "日本"] {
            let name = escaped(part);
            assert!(ChannelName::new(&name).is_ok(), "{name}");
            assert_eq!(unescaped(name.as_bytes()), part.as_bytes(), "{name}");
        }
        assert_ne!(escaped(""), escaped("\0"));
    }
}
