//! `aether.errand`: something that is done beside a hook, which does not wait for it.

use std::cell::Cell;
use std::rc::Rc;

use mlua::{Function, Lua, MultiValue, Value};

use super::{Entry, Seat};
use crate::plugins::errand::Errand;
use crate::plugins::floor::{Floor, Started, waiting};
use crate::plugins::trace;
use crate::plugins::value::{caller, describe, raise};

pub const ENTRIES: &[Entry] = &[Entry {
    name: "errand",
    args: "fn, ..",
    gives: "boolean",
    doc: "Runs fn(..) beside the hook, which goes on and answers; it may wait as long as the hook itself may. What breaks is logged. False if 1,000 of a plugin's are under way on this thread.",
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
    make: |lua, seat| {
        let under_way = Rc::new(Cell::new(0));
        waiting(lua, seat, "aether.errand", move |lua, seat, args: MultiValue| send(lua, seat, &under_way, args))
            .map(Value::Function)
    },
}];

/// Of one plugin on one thread; whoever sends more hears so.
const MAX_UNDER_WAY: usize = 1000;

fn send(lua: &Lua, _seat: &Rc<Seat>, under_way: &Rc<Cell<usize>>, mut args: MultiValue) -> mlua::Result<Started> {
    let function: Function = match args.pop_front() {
        Some(Value::Function(function)) => function,
        other => {
            return Err(raise(
                lua,
                format!("errand: expected a function, got {}", describe(&other.unwrap_or(Value::Nil))),
            ));
        }
    };
    let place = caller(lua);
    let sent = if !trace::acts(|| format!("an errand from {place}")) {
        true
    } else if under_way.get() >= MAX_UNDER_WAY {
        false
    } else {
        let mark = Mark::on(under_way);
        let done = Box::new(move |outcome: Result<_, String>| {
            drop(mark);
            if let Err(why) = outcome {
                tracing::error!(target: "aether::plugin", place, why, "an errand broke");
            }
        });
        Floor::of(lua).map(|floor| floor.errands.borrow_mut().push(Errand { function, args, done })).is_some()
    };
    Ok(Started::Ready(MultiValue::from_iter([Value::Boolean(sent)])))
}

/// One that is under way. It may be cut off untold.
struct Mark(Rc<Cell<usize>>);

impl Mark {
    fn on(under_way: &Rc<Cell<usize>>) -> Mark {
        under_way.set(under_way.get() + 1);
        Mark(under_way.clone())
    }
}

impl Drop for Mark {
    fn drop(&mut self) {
        self.0.set(self.0.get().saturating_sub(1));
    }
}
