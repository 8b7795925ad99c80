//! A call of a Lua function that goes on by itself: nobody's hook ends with it.

use mlua::{Function, MultiValue, Value};
use serde_json::Value as Json;

use crate::plugins::vm::value::lua_to_json;

/// A few results are more than functions have.
const RESULTS: usize = 4;

pub struct Errand {
    pub function: Function,
    pub args: MultiValue,
    /// Told once; dropped untold if the call is cut off.
    pub done: Box<dyn FnOnce(Result<Vec<Json>, String>)>,
}

/// What a function returned, as all VMs can have it.
pub fn results(values: &MultiValue) -> Result<Vec<Json>, String> {
    values.iter().take(RESULTS).map(|value: &Value| lua_to_json(value)).collect()
}
