//! Telling what of the library is used, for tests that want to know.

use std::sync::Arc;

use mlua::{Lua, Table, Value};

use crate::plugins::authors::testing::Coverage;

/// One entry of it; in production it tells nobody.
pub struct Used(pub Option<(Arc<Coverage>, &'static str)>);

impl Used {
    pub fn now(&self) {
        if let Some((coverage, entry)) = &self.0 {
            coverage.touch(entry);
        }
    }
}

/// Puts `value` into `module` so that reading it counts as use of `entry`.
pub fn when_read(lua: &Lua, module: &Table, name: &str, value: Value, used: Used) -> mlua::Result<()> {
    let next = module.metatable().map_or(Ok(Value::Nil), |meta| meta.raw_get::<Value>("__index"))?;
    let own = lua.create_string(name)?;
    let index = lua.create_function(move |_, (table, key): (Value, Value)| {
        if key.as_string().is_some_and(|key| *key == own) {
            used.now();
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
