//! `aether.errand`: something that is done beside a hook, which does not wait for it.

use std::rc::Rc;

use mlua::{Lua, MultiValue, Value};

use super::{Entry, Seat};
use crate::plugins::vm::floor::{Floor, Started, waiting};
use crate::plugins::vm::value::{caller, describe, raise};
use crate::plugins::waiting::errand::Errand;
use crate::plugins::waiting::lanes::Ticket;
use crate::plugins::why::trace;

pub const ENTRIES: &[Entry] = &[Entry {
    name: "errand",
    args: "fn, ..",
    gives: "boolean",
    doc: "Runs fn(..) beside the hook, which goes on and answers; it may wait as long as the hook itself may. What breaks is logged. False if as many of the plugin's calls wait as may (plugins.waiting_calls).",
    kind: "(fn: (...any) -> (), ...any) -> boolean",
    may_wait: true,
    since: "0.1.0",
    example: r#"local function tell(room)
	aether.http.post("https://auth.internal/rooms", { json = { room = room } })
end

aether.http.route("PUT", "/rooms/{room}", function(req)
	aether.errand(tell, req.params.room)
	return nil
end)"#,
    make: |lua, seat| waiting(lua, seat, "aether.errand", send).map(Value::Function),
}];

fn send(lua: &Lua, seat: &Rc<Seat>, mut args: MultiValue) -> mlua::Result<Started> {
    let function = match args.pop_front().unwrap_or(Value::Nil) {
        Value::Function(function) => function,
        other => return Err(raise(lua, format!("errand: expected a function, got {}", describe(&other)))),
    };
    let place = caller(lua);
    let sent = !trace::acts(|| format!("an errand from {place}"))
        || match (Ticket::take(&seat.program, seat.at), Floor::of(lua)) {
            (Some(ticket), Some(floor)) => {
                let done = Box::new(move |outcome: Result<_, String>| {
                    drop(ticket);
                    if let Err(why) = outcome {
                        tracing::error!(target: "aether::plugin", place, why, "an errand broke");
                    }
                });
                floor.errands.borrow_mut().push(Errand { function, args, done });
                true
            }
            _ => false,
        };
    Ok(Started::Ready(MultiValue::from_iter([Value::Boolean(sent)])))
}
