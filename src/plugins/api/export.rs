//! `aether.export`: what other plugins and the operator's scripts may use of a plugin.

use std::rc::Rc;

use mlua::{Lua, Table, Value};
use rustc_hash::FxHashSet;

use super::{Entry, Seat, function};
use crate::plugins::source::roster::Roster;
use crate::plugins::vm::value::{describe, raise};

pub const ENTRIES: &[Entry] = &[Entry {
    name: "export",
    args: "{name = function or value, ..}",
    gives: "",
    doc: "What others get from require(\"@plugin\"): the table, frozen with all that is in it. Its functions run with this plugin's permissions and within the budget of the hook that calls them. Once per plugin.",
    kind: "(exports: { [string]: any }) -> ()",
    may_wait: false,
    since: "0.1.0",
    example: r#"aether.export({ is_member = function(room, user) return user == "alice" end })"#,
    make: |lua, seat| function(lua, seat, export),
}];

/// Tables in what one plugin exports.
const MAX_TABLES: usize = 10_000;

fn export(lua: &Lua, seat: &Rc<Seat>, exports: Value) -> mlua::Result<()> {
    let wrong = |why: String| Err(raise(lua, format!("export: {why}")));
    if !seat.loading.get() {
        return wrong("what a plugin exports is said while its file loads".into());
    }
    if !seat.unit().is_plugin() {
        return wrong("scripts share by require(\"./file\"); only what a plugin exports has a name for others".into());
    }
    let Value::Table(exports) = exports else {
        return wrong(format!("expected a table of functions and values, got {}", describe(&exports)));
    };
    if exports.is_empty() {
        return wrong("the table is empty".into());
    }
    for pair in exports.pairs::<Value, Value>() {
        let (key, _) = pair?;
        if !key.is_string() {
            return wrong(format!("expected names of functions and values, got {}", describe(&key)));
        }
    }
    if let Err(why) = freeze_all(exports.clone()) {
        return wrong(why);
    }
    let kept = Roster::of(lua).is_some_and(|roster| roster.export(seat.at, exports));
    if kept { Ok(()) } else { wrong("a plugin exports one table, once".into()) }
}

/// Whoever is given a table could change it for everybody; through its metatable too.
fn freeze_all(first: Table) -> Result<(), String> {
    let (mut left, mut seen) = (vec![first], FxHashSet::default());
    while let Some(table) = left.pop() {
        if !seen.insert(table.to_pointer()) {
            continue;
        }
        if seen.len() > MAX_TABLES {
            return Err(format!("more than {MAX_TABLES} tables"));
        }
        table.set_readonly(true);
        left.extend(table.metatable());
        for pair in table.pairs::<Value, Value>() {
            let (key, value) = pair.map_err(|error| error.to_string())?;
            left.extend([key, value].into_iter().filter_map(|value| value.as_table().cloned()));
        }
    }
    Ok(())
}
