//! What a generation leaves to the next: load and unload hooks.

use std::collections::BTreeMap;
use std::sync::Arc;

use mlua::{Lua, Value};
use serde_json::Value as Json;

use super::generation::{Event, Generation};
use crate::plugins::LoadError;
use crate::plugins::vm::Failure;
use crate::plugins::vm::resident::with_vm;
use crate::plugins::vm::value::{json_to_lua, lua_to_json};
use crate::plugins::waiting::lanes::Unheard;

/// What one unit may leave.
const MAX_LEFT: usize = 1 << 20;

/// By the unit's name.
pub type Left = BTreeMap<String, Json>;

/// Asks the unload hooks what the next generation is to have of them.
pub fn leave(generation: &Arc<Generation>) -> Result<Left, LoadError> {
    let mut left = Left::new();
    each(
        generation,
        Event::Unload,
        |_| Json::Null,
        |unit, state| {
            if state != Json::Null {
                left.insert(unit.to_owned(), state);
            }
        },
    )?;
    Ok(left)
}

/// Runs the load hooks; each gets what the unit of its name has left, or nil.
pub fn take(generation: &Arc<Generation>, left: &Left) -> Result<(), LoadError> {
    each(generation, Event::Load, |unit| left.get(unit).cloned().unwrap_or_default(), |_, _| {})
}

fn each(
    generation: &Arc<Generation>,
    event: Event,
    given: impl Fn(&str) -> Json,
    mut taken: impl FnMut(&str, Json),
) -> Result<(), LoadError> {
    if !generation.registrations.iter().any(|hook| hook.event == event) {
        return Ok(());
    }
    for (at, hook) in generation.registrations.iter().enumerate().filter(|(_, hook)| hook.event == event) {
        let unit = &generation.program.units[hook.unit].name;
        let state = one(generation, at, given(unit)).map_err(|Failure { why, .. }| LoadError(vec![why]))?;
        taken(unit, state);
    }
    Ok(())
}

/// Runs one of them, wherever it runs.
fn one(generation: &Arc<Generation>, hook: usize, given: Json) -> Result<Json, Failure> {
    let args = move |lua: &Lua| if given.is_null() { Ok(Value::Nil) } else { json_to_lua(lua, &given) };
    let read = |state: &Value, _: &Value| {
        let state = lua_to_json(state)?;
        let size = state.to_string().len();
        if size > MAX_LEFT {
            return Err(format!("it leaves {size} bytes as JSON, at most {MAX_LEFT} are handed over"));
        }
        Ok(state)
    };
    if !generation.waits(hook) {
        return with_vm(generation, |vm| vm.call(hook, generation.program.limits.load, args, read));
    }
    let lanes = &generation.program.commons.lanes;
    let ran = lanes.run_here(generation, hook, move |vm| async move { vm.call_waiting(hook, args, read).await });
    ran.map_err(Unheard::into_failure)
}
