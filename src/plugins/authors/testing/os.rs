//! Luau's `os` by the clock in hand.

use std::sync::Arc;

use mlua::{Function, Lua, MultiValue, Table, Value};

use crate::plugins::commons::Commons;
use crate::plugins::vm::value::frozen;

/// From now on `os.time()` and `os.date(format)` mean now by the test's clock; of other moments they say what they did.
///
/// It takes the place of `os` in what all scripts share: Luau looks `os.time` up there when a file is loaded.
pub fn follow_clock(lua: &Lua, base: &Table, commons: Arc<Commons>) -> mlua::Result<()> {
    let (whole, own): (Table, Table) = (base.get("os")?, lua.create_table()?);
    for pair in whole.pairs::<Value, Value>() {
        let (name, value) = pair?;
        own.raw_set(name, value)?;
    }
    let (time, date): (Function, Function) = (whole.get("time")?, whole.get("date")?);
    let now = move || (commons.now() / 1_000_000) as f64;
    own.raw_set(
        "time",
        lua.create_function({
            let now = now.clone();
            move |_, moment: Value| if moment.is_nil() { Ok(now()) } else { time.call(moment) }
        })?,
    )?;
    own.raw_set(
        "date",
        lua.create_function(move |_, (format, moment): (Value, Value)| {
            let moment = if moment.is_nil() { Value::Number(now()) } else { moment };
            date.call::<MultiValue>((format, moment))
        })?,
    )?;
    base.set_readonly(false);
    let set = base.raw_set("os", frozen(own));
    base.set_readonly(true);
    set
}
