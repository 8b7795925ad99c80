//! The global `aether`: one registry declares each function, and yields it, what editors know of it, its page in the
//! reference and whether hooks that must not wait may call it.

pub mod absent;
mod announce;
mod channel;
mod config;
mod crypto;
mod dialect;
mod errand;
mod export;
mod forget;
mod form;
mod http;
mod json;
mod jwt;
mod kv;
mod log;
mod memo;
mod metrics;
mod on;
pub mod pattern;
pub mod publish;
mod retention;
mod route;
pub mod secret;
mod sessions;
mod shared;
mod sse;
mod store;
mod timers;
pub mod types;
mod used;
pub mod verdict;
mod view;

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;

pub use used::Used;

use mlua::{FromLuaMulti, Function, IntoLuaMulti, Lua, MultiValue, Table, Value};
use rustc_hash::FxHashMap;

use crate::plugins::authors::testing::{self, Coverage, Stage};
use crate::plugins::source::generation::{Program, Registration, Unit};
use crate::plugins::source::schema::hint;
use crate::plugins::vm::value::{frozen, raise, unfit};
use crate::plugins::why::trace::{self, Told};

/// One name below `aether`.
pub struct Entry {
    /// With its modules: `crypto.base64.encode`.
    pub name: &'static str,
    pub args: &'static str,
    pub gives: &'static str,
    pub doc: &'static str,
    /// Its type, in Luau's words; `types` has those that it names.
    pub kind: &'static str,
    /// Only hooks that may wait may call it.
    pub may_wait: bool,
    /// The version of the hub that brought it.
    pub since: &'static str,
    /// Luau that a test runs.
    pub example: &'static str,
    pub make: fn(&Lua, &Rc<Seat>) -> mlua::Result<Value>,
}

/// Everything that `aether` has, in the order of the reference.
pub fn registry() -> impl Iterator<Item = &'static Entry> {
    [
        on::ENTRIES,
        verdict::ENTRIES,
        forget::ENTRIES,
        route::ENTRIES,
        dialect::ENTRIES,
        publish::ENTRIES,
        sessions::ENTRIES,
        announce::ENTRIES,
        pattern::ENTRIES,
        channel::ENTRIES,
        sse::ENTRIES,
        jwt::ENTRIES,
        crypto::ENTRIES,
        json::ENTRIES,
        form::ENTRIES,
        shared::ENTRIES,
        kv::ENTRIES,
        http::ENTRIES,
        memo::ENTRIES,
        errand::ENTRIES,
        timers::ENTRIES,
        retention::ENTRIES,
        log::ENTRIES,
        metrics::ENTRIES,
        config::ENTRIES,
        export::ENTRIES,
        secret::ENTRIES,
        OWN,
    ]
    .into_iter()
    .flatten()
}

const OWN: &[Entry] = &[Entry {
    name: "now_ms",
    args: "",
    gives: "number",
    doc: "Milliseconds since the Unix epoch.",
    kind: "() -> number",
    may_wait: false,
    since: "0.1.0",
    example: "assert(aether.now_ms() > 1.7e12)",
    make: |lua, seat| {
        let nothing: Arc<str> = "".into();
        let (used, seat) = (seat.used(), seat.clone());
        let now = lua.create_function(move |lua, ()| {
            used.now();
            let ask = || Ok((seat.program.commons.now() / 1000) as f64);
            trace::read("now_ms", &nothing, &[], Told::Nothing, ask).map_err(|why| raise(lua, why))
        });
        now.map(Value::Function)
    },
}];

/// One unit in one VM.
pub struct Seat {
    program: Arc<Program>,
    at: usize,
    /// Hooks are registered while the file loads, then frozen.
    pub loading: Cell<bool>,
    pub registered: RefCell<Vec<(Registration, Function)>>,
    /// Faults of registrations; the file goes on, so that all of them are told at once.
    pub errors: RefCell<Vec<String>>,
    /// Limiters that were made, by place.
    limiters: RefCell<FxHashMap<String, usize>>,
    /// The entry that is being made.
    making: Cell<Option<&'static Entry>>,
    /// What a test plays on; none in production.
    pub stage: Option<Rc<Stage>>,
}

impl Seat {
    pub fn new(program: Arc<Program>, at: usize) -> Seat {
        Seat {
            program,
            at,
            loading: Cell::new(true),
            registered: RefCell::default(),
            errors: RefCell::default(),
            limiters: RefCell::default(),
            making: Cell::default(),
            stage: None,
        }
    }

    /// Of a file of tests: it has `aether.test` beside the rest.
    pub fn on(stage: &Rc<Stage>, program: Arc<Program>) -> Seat {
        Seat { stage: Some(stage.clone()), ..Seat::new(program, 0) }
    }

    /// How many limiters were made at this place before.
    fn count_limiter(&self, place: &str) -> usize {
        let mut limiters = self.limiters.borrow_mut();
        let count = limiters.entry(place.to_owned()).or_default();
        *count += 1;
        *count - 1
    }

    /// An error unless `may` has `name`; who needs no permission has no list.
    fn permitted(&self, lua: &Lua, kind: &str, may: Option<&[String]>, name: &str) -> mlua::Result<()> {
        if may.is_none_or(|may| may.iter().any(|one| one == name)) {
            return Ok(());
        }
        let (plugin, thing) = (&self.unit().name, if kind == "secrets" { "secret" } else { kind });
        Err(raise(lua, format!("{thing} {name:?} is not in [permissions] {kind} of {plugin}'s plugin.toml")))
    }

    /// Where it is counted what of the library is used, if somebody wants to know.
    pub fn coverage(&self) -> Option<&Arc<Coverage>> {
        self.program.commons.witness.as_ref()?.coverage.as_ref()
    }

    /// By which the entry that is being made tells that it was used.
    pub fn used(&self) -> Used {
        Used(self.coverage().cloned().map(|coverage| (coverage, self.making.get().map_or("", |entry| entry.name))))
    }

    pub fn unit(&self) -> &Unit {
        &self.program.units[self.at]
    }
}

/// Puts `aether` and `print` into a unit's globals.
pub fn install(lua: &Lua, seat: &Rc<Seat>, env: &Table) -> mlua::Result<()> {
    let aether = module(lua, seat, "")?;
    let tests = seat.stage.is_some().then(testing::registry).into_iter().flatten();
    for entry in registry().chain(tests) {
        let mut path: Vec<&str> = entry.name.split('.').collect();
        let Some(name) = path.pop() else { continue };
        seat.making.set(Some(entry));
        let value = (entry.make)(lua, seat)?;
        if value.is_nil() {
            continue; // no permission: not there, nor its module
        }
        let (mut home, mut end) = (aether.clone(), 0);
        for part in path {
            end += part.len() + 1;
            home = match home.raw_get(part)? {
                Value::Table(inner) => inner,
                _ => {
                    let inner = module(lua, seat, &entry.name[..end - 1])?;
                    home.raw_set(part, &inner)?;
                    inner
                }
            };
        }
        match seat.coverage() {
            Some(_) if !value.is_function() => used::when_read(lua, &home, name, value, seat.used())?,
            _ => home.raw_set(name, value)?,
        }
    }
    seat.making.set(None);
    freeze(&aether)?;
    env.raw_set("aether", aether)?;
    env.raw_set("print", log::print(lua, seat)?)
}

/// A table of functions. A name that it never has is a slip of the pen, and is told where it is read; what is only not
/// permitted is nil, so that a script may look, and told where it is used.
fn module(lua: &Lua, seat: &Rc<Seat>, path: &'static str) -> mlua::Result<Table> {
    let seat = seat.clone();
    let lookup = lua.create_function(move |lua, (_, name): (Value, Value)| {
        let Value::String(name) = name else { return Ok(()) };
        let name = name.to_string_lossy();
        let known = || registry().chain(testing::registry()).filter_map(|entry| below(path, entry.name));
        let dot = if path.is_empty() { "" } else { "." };
        if known().any(|known| known == name) {
            absent::read(lua, &seat, format!("{path}{dot}{name}"));
            return Ok(());
        }
        Err(raise(lua, format!("aether{dot}{path} has no {name}{}", hint(&name, known()))))
    })?;
    let meta = lua.create_table()?;
    meta.raw_set("__index", lookup)?;
    meta.raw_set("__metatable", false)?;
    let table = lua.create_table()?;
    table.set_metatable(Some(meta))?;
    Ok(table)
}

/// The name that stands directly below a path, if an entry lies there.
fn below(path: &str, entry: &'static str) -> Option<&'static str> {
    let rest = if path.is_empty() { entry } else { entry.strip_prefix(path)?.strip_prefix('.')? };
    rest.split('.').next()
}

fn freeze(table: &Table) -> mlua::Result<()> {
    table.for_each(|_: Value, value: Value| match value {
        Value::Table(inner) if !inner.is_readonly() => freeze(&inner),
        _ => Ok(()),
    })?;
    frozen(table.clone());
    Ok(())
}

pub(super) fn function<A, R>(
    lua: &Lua,
    seat: &Rc<Seat>,
    body: fn(&Lua, &Rc<Seat>, A) -> mlua::Result<R>,
) -> mlua::Result<Value>
where
    A: FromLuaMulti + 'static,
    R: IntoLuaMulti + 'static,
{
    let (used, entry, seat) = (seat.used(), seat.making.get(), seat.clone());
    lua.create_function(move |lua, args: MultiValue| {
        used.now();
        let args = A::from_lua_multi(args, lua).map_err(|error| match (unfit(&error), entry) {
            (Some(why), Some(entry)) => raise(lua, format!("aether.{}({}): {why}", entry.name, entry.args)),
            _ => error,
        })?;
        body(lua, &seat, args)
    })
    .map(Value::Function)
}
