//! `aether.export`: what a plugin lends to those that are loaded after it, and `require("@name")`, by which they get it.
//!
//! A function that is lent stays what it is: it has the permissions and the settings of the plugin that wrote it.

use mlua::{Lua, Table, Value};

use super::{Entry, Seat, freeze, function};
use crate::plugins::schema::hint;
use crate::plugins::value::{describe, raise};

pub const ENTRIES: &[Entry] = &[Entry {
    name: "export",
    args: "{name = function or value, ..}",
    gives: "",
    doc: "Lends a table of functions to the plugins and scripts that are loaded later, as require(\"@name\"). Once, while the file loads.",
    make: |lua, seat| {
        function(lua, seat, |lua, seat, value: Value| {
            if !seat.loading.get() {
                return Err(raise(lua, "export: a plugin exports while it loads"));
            }
            match &value {
                Value::Table(table) => freeze(table)?,
                other => {
                    return Err(raise(lua, format!("export: expected a table of functions, got {}", describe(other))));
                }
            }
            let (lent, name) = (lent(lua)?, &*seat.unit().name);
            if lent.contains_key(name)? {
                return Err(raise(lua, "export: this plugin has exported already; put all of it into one table"));
            }
            lent.raw_set(name, value)
        })
    },
}];

const LENT: &str = "aether.exports";

/// What the units of this VM lend, by their names.
fn lent(lua: &Lua) -> mlua::Result<Table> {
    if let Some(lent) = lua.named_registry_value::<Option<Table>>(LENT)? {
        return Ok(lent);
    }
    let lent = lua.create_table()?;
    lua.set_named_registry_value(LENT, &lent)?;
    Ok(lent)
}

/// What the plugin `name` exports to `seat`.
pub fn borrow(lua: &Lua, seat: &Seat, name: &str) -> mlua::Result<Value> {
    match lent(lua)?.raw_get(name)? {
        Value::Nil => {}
        value => return Ok(value),
    }
    let before = || seat.program.units[..seat.at].iter().map(|unit| unit.name.as_str());
    let why = if before().any(|known| known == name) {
        format!("{name} exports nothing")
    } else {
        let hint = hint(name, before());
        format!("no plugin {name} is loaded before this{hint}: in aether.toml, [[plugin]] use = \"{name}\" comes first")
    };
    Err(raise(lua, format!("require(\"@{name}\"): {why}")))
}
