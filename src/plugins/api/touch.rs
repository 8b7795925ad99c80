//! Values of the library that tell when they are read, for tests that ask what of it was used.

use std::sync::Arc;

use mlua::{Lua, Table, Value};

use crate::plugins::testing::Coverage;

/// Puts `value` into `module` so that reading it counts as use of `entry`.
pub fn when_read(
    lua: &Lua,
    module: &Table,
    name: &str,
    value: Value,
    coverage: Arc<Coverage>,
    entry: &'static str,
) -> mlua::Result<()> {
    let next = module.metatable().map_or(Ok(Value::Nil), |meta| meta.raw_get::<Value>("__index"))?;
    let own = lua.create_string(name)?;
    let index = lua.create_function(move |_, (table, key): (Value, Value)| {
        if key.as_string().is_some_and(|key| *key == own) {
            coverage.touch(entry);
            return Ok(value.clone());
        }
        match &next {
            Value::Function(next) => next.call((table, key)),
            _ => Ok(Value::Nil),
        }
    })?;
    let meta = lua.create_table()?;
    meta.raw_set("__index", index)?;
    module.set_metatable(Some(meta))
}
