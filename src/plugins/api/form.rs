//! `aether.form`: what a form of a page or a back end holds.

use mlua::{Lua, MultiValue, Table, Value};

use super::secret::Bytes;
use super::{Entry, function};

/// Far beyond any form; what has more is no form but an attack on whoever reads it.
const MAX_FIELDS: usize = 1000;

pub const ENTRIES: &[Entry] = &[Entry {
    name: "form.decode",
    args: "text",
    gives: "{name = value}, or nil and why",
    doc: "The fields of application/x-www-form-urlencoded text, without escapes; the first of several of one name.",
    kind: "(text: string) -> ({ [string]: string }?, string?)",
    may_wait: false,
    since: "0.1.0",
    example: r#"assert(aether.form.decode("to=user_1&text=a+b%26c").text == "a b&c")"#,
    make: |lua, seat| {
        function(lua, seat, |lua, _, text: Bytes| {
            Ok(match decode(lua, &text.0)? {
                Ok(fields) => MultiValue::from_iter([Value::Table(fields)]),
                Err(why) => MultiValue::from_iter([Value::Nil, Value::String(lua.create_string(why)?)]),
            })
        })
    },
}];

fn decode(lua: &Lua, text: &[u8]) -> mlua::Result<Result<Table, String>> {
    let fields = lua.create_table()?;
    for (at, pair) in text.split(|byte| *byte == b'&').filter(|pair| !pair.is_empty()).enumerate() {
        if at >= MAX_FIELDS {
            return Ok(Err(format!("a form has at most {MAX_FIELDS} fields")));
        }
        let equals = pair.iter().position(|byte| *byte == b'=');
        let (name, value) = equals.map_or((pair, &b""[..]), |at| (&pair[..at], &pair[at + 1..]));
        let (Some(name), Some(value)) = (plain(name), plain(value)) else {
            return Ok(Err(format!("field {}: an escape is two hex digits after a %", at + 1)));
        };
        let name = lua.create_string(name)?;
        if fields.raw_get::<Value>(&name)?.is_nil() {
            fields.raw_set(name, lua.create_string(value)?)?;
        }
    }
    Ok(Ok(fields))
}

/// Without its escapes; none if one is broken.
fn plain(text: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.iter();
    let digit = |byte: Option<&u8>| char::from(*byte?).to_digit(16);
    while let Some(byte) = rest.next() {
        out.push(match byte {
            b'+' => b' ',
            b'%' => (digit(rest.next())? * 16 + digit(rest.next())?) as u8,
            other => *other,
        });
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(text: &str) -> Result<Vec<(String, String)>, String> {
        let lua = Lua::new();
        let table = decode(&lua, text.as_bytes()).unwrap()?;
        let mut all: Vec<_> = table.pairs::<String, String>().map(Result::unwrap).collect();
        all.sort();
        Ok(all)
    }

    #[test]
    fn a_form_is_read_as_browsers_write_it() {
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        assert_eq!(fields("a=1&b=x+y%2Bz%3D&a=2&&c").unwrap(), [pair("a", "1"), pair("b", "x y+z="), pair("c", "")]);
        assert_eq!(fields("%E4%BD%A0=%e5%a5%bd=").unwrap(), [pair("你", "好=")]);
        assert_eq!(fields("").unwrap(), []);
        for broken in ["a=%", "a=%4", "a=%zz", "%=1"] {
            assert!(fields(broken).unwrap_err().contains("field 1"), "{broken}");
        }
        assert!(fields(&"a=1&".repeat(1001)).unwrap_err().contains("at most 1000"));
    }
}
