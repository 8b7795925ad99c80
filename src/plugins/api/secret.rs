//! `aether.secret`: a value that can be used and not be seen.

use mlua::{FromLua, Lua, MetaMethod, UserData, UserDataMethods, Value};

use super::{Entry, function};
use crate::plugins::vm::value::{describe, raise};
use crate::plugins::why::trace::{self, Told};

pub const ENTRIES: &[Entry] = &[Entry {
    name: "secret",
    args: "name",
    gives: "secret?",
    doc: "A secret that the operator set, nil if it is not set. It can be a key and go into crypto; it prints as <secret>.",
    kind: "(name: string) -> Secret?",
    may_wait: false,
    since: "0.1.0",
    example: r#"local key = aether.secret("signing_key")
assert(tostring(key) == "<secret>")"#,
    make: |lua, seat| {
        if seat.unit().secrets.as_ref().is_some_and(Vec::is_empty) {
            return Ok(Value::Nil); // no permission: not there
        }
        function(lua, seat, |lua, seat, name: String| {
            seat.permitted(lua, "secrets", seat.unit().secrets.as_deref(), &name)?;
            let secret = (seat.program.secrets)(&name).map(|value| Secret(value.into_bytes()));
            trace::saw("secret", &name, if secret.is_some() { Told::Secret } else { Told::Nothing });
            Ok(secret)
        })
    },
}];

pub struct Secret(pub Vec<u8>);

impl UserData for Secret {
    fn add_methods<M: UserDataMethods<Self>>(methods: &mut M) {
        methods.add_meta_method(MetaMethod::ToString, |_, _, ()| Ok("<secret>"));
    }
}

/// Bytes from wherever a script has them: a string, a buffer or a secret.
pub struct Bytes(pub Vec<u8>);

impl FromLua for Bytes {
    fn from_lua(value: Value, lua: &Lua) -> mlua::Result<Self> {
        match &value {
            Value::String(text) => Ok(Bytes(text.as_bytes().to_vec())),
            Value::Buffer(buffer) => Ok(Bytes(buffer.to_vec())),
            Value::UserData(data) if data.is::<Secret>() => Ok(Bytes(data.borrow::<Secret>()?.0.clone())),
            other => Err(raise(lua, format!("expected a string, a buffer or a secret, got {}", describe(other)))),
        }
    }
}
