//! Who has the floor in a VM: the hook that runs, and whether it may wait.
//!
//! A function that waits is plain Lua around a Rust function: that one gives a value at once, or a [`Wait`] which the
//! wrapper yields to whoever resumed the hook (`waiting`). So nothing of it runs in hooks that do not wait.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;

use mlua::{FromLuaMulti, Function, Lua, MultiValue, Thread, UserData, Value};

use super::value::{caller, raise};
use crate::plugins::api::Seat;
use crate::plugins::source::generation::{Event, Registration};
use crate::plugins::waiting::errand::Errand;

/// What a function gives when it has waited.
pub type Outcome = Box<dyn FnOnce(&Lua) -> mlua::Result<MultiValue>>;

/// A function that may wait has its answer, or says what it waits for.
pub enum Started {
    Ready(MultiValue),
    Waits(Pin<Box<dyn Future<Output = Outcome>>>),
}

/// What a hook waits for.
pub struct Wait {
    /// `rules.lua:7: aether.http.get`.
    pub what: String,
    pub outcome: Pin<Box<dyn Future<Output = Outcome>>>,
}

/// A `Wait` on its way through the hook's coroutine.
pub struct Token(pub RefCell<Option<Wait>>);

impl UserData for Token {}

#[derive(Default)]
pub struct Floor {
    hook: Cell<Option<usize>>,
    /// The coroutine of a hook that may wait, while it runs.
    coroutine: RefCell<Option<Thread>>,
    hooks: RefCell<Vec<(Event, String)>>,
    /// Calls that go on by themselves beside the hook that asked for them.
    pub errands: RefCell<Vec<Errand>>,
}

impl Floor {
    pub fn of(lua: &Lua) -> Option<Rc<Floor>> {
        lua.app_data_ref::<Rc<Floor>>().map(|floor| floor.clone())
    }

    /// The hooks that may have it, when all are registered.
    pub fn opens_for(&self, hooks: &[Registration]) {
        *self.hooks.borrow_mut() = hooks.iter().map(|hook| (hook.event, hook.to_string())).collect();
    }

    /// A hook that must not wait runs.
    pub fn give(&self, hook: usize) {
        self.hook.set(Some(hook));
    }

    /// A hook that may wait runs, until `take`.
    pub fn give_to(&self, hook: usize, coroutine: &Thread) {
        self.hook.set(Some(hook));
        *self.coroutine.borrow_mut() = Some(coroutine.clone());
    }

    pub fn take(&self) {
        *self.coroutine.borrow_mut() = None;
    }

    /// An error that names the fix, unless the code that runs may wait.
    fn may_wait(&self, lua: &Lua, name: &str) -> mlua::Result<()> {
        let Some(hook) = self.hook.get() else {
            return Err(raise(
                lua,
                format!("{name} waits, and a file that loads must not: call it in on.load, or in a hook"),
            ));
        };
        match &*self.coroutine.borrow() {
            Some(coroutine) if *coroutine == lua.current_thread() => return Ok(()),
            Some(_) => {
                let why = "waits, and must not inside a coroutine of the script's own: call it outside of it";
                return Err(raise(lua, format!("{name} {why}")));
            }
            None => {}
        }
        let hooks = self.hooks.borrow();
        let (event, hook) = hooks.get(hook).map_or((Event::Publish, "this hook"), |(event, hook)| (*event, hook));
        let fix = match event {
			Event::Publish => "register it with {async = true} between pattern and function, or keep what it needs in aether.shared or aether.kv".to_owned(),
			event if event.may_wait() => {
				format!("nothing said that this one does: write `{name}` in its file, or register it with {{async = true}}")
			}
			_ => "let a timer or a hook that may wait bring what it needs into aether.shared".to_owned(),
		};
        Err(raise(lua, format!("{name} waits, and {hook} must not: {fix}")))
    }
}

/// `start` is the Rust function; its first result says whether there is something to wait for.
const WRAP: &str = "
local start, yield, error = ...
local function back(ok, ...)
	if ok then return ... end
	error(..., 0)
end
local function pass(token, ...)
	if token then return back(yield(token)) end
	return ...
end
return function(...) return pass(start(...)) end
";

/// A function of the library that may wait.
pub fn waiting<A: FromLuaMulti + 'static>(
    lua: &Lua,
    seat: &Rc<Seat>,
    name: &str,
    body: impl Fn(&Lua, &Rc<Seat>, A) -> mlua::Result<Started> + 'static,
) -> mlua::Result<Function> {
    let (seat, name, used) = (seat.clone(), name.to_owned(), seat.used());
    let start = lua.create_function(move |lua, args: A| {
        used.now();
        if let Some(floor) = Floor::of(lua) {
            floor.may_wait(lua, &name)?;
        }
        Ok(match body(lua, &seat, args)? {
            Started::Ready(mut values) => {
                values.push_front(Value::Nil);
                values
            }
            Started::Waits(outcome) => {
                let wait = Wait { what: format!("{}: {name}", caller(lua)), outcome };
                MultiValue::from_iter([Value::UserData(lua.create_userdata(Token(RefCell::new(Some(wait))))?)])
            }
        })
    })?;
    let globals = lua.globals();
    let yields: Function = globals.get::<mlua::Table>("coroutine")?.get("yield")?;
    let error: Function = globals.get("error")?;
    lua.load(WRAP).set_name("=aether").call((start, yields, error))
}
