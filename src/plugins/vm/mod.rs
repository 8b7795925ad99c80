//! One Lua VM: built by one thread, used by that thread, sandboxed, bounded in memory and watched.

pub mod floor;
pub mod handles;
pub mod keys;
pub mod msg;
pub mod resident;
pub mod running;
pub mod scan;
pub mod value;
pub mod watchdog;

use std::cell::Cell;
use std::rc::Rc;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use mlua::chunk::ChunkMode;
use mlua::{Function, IntoLuaMulti, Lua, LuaOptions, StdLib, Table, Value};

use crate::plugins::api::{self, Seat, absent};
use crate::plugins::asking::breaker::{Breaker, KILL_WEIGHT, Turn};
use crate::plugins::asking::decision::Vote;
use crate::plugins::asking::pace::{Move, Pace};
use crate::plugins::authors::testing::{self, coverage};
use crate::plugins::source::generation::{Program, Registration, Unit};
use crate::plugins::source::roster::Roster;
use crate::plugins::vm::floor::Floor;
use crate::plugins::vm::handles::Handles;
use crate::plugins::vm::running::during;
use crate::plugins::vm::value::{first_line, located, raise};
use crate::plugins::vm::watchdog::{TICK, Watched};
use crate::plugins::why::trace;

pub struct Vm {
    pub(super) watched: Watched,
    pub handles: Handles,
    pub(super) floor: Rc<Floor>,
    pub(super) hooks: Vec<Function>,
    registrations: Vec<Registration>,
    pub(super) program: Arc<Program>,
    /// Its memory stays full even after a collection: somebody keeps everything. It serves no further call.
    exhausted: Cell<bool>,
    /// Which of its lines run is counted.
    counted: bool,
}

/// A hook that broke, or was not run because it breaks all the time.
#[derive(Debug)]
pub struct Failure {
    /// `file:line: what`, for the log.
    pub why: String,
    /// It was not run.
    pub rests: bool,
}

/// As Luau says it.
const NO_MEMORY: &str = "not enough memory";

/// A closer look at memory after a call that left this share of the limit in use.
const FULL: (usize, usize) = (3, 4);

impl Vm {
    /// Runs every unit's file once, to register its hooks. All faults that can be found are told.
    pub fn build(program: &Arc<Program>) -> Result<Vm, Vec<String>> {
        let wrong = |e: mlua::Error| vec![format!("a Lua VM cannot be built: {}", first_line(&e))];
        let (lua, base) = sandbox(program.limits.memory).map_err(wrong)?;
        if program.commons.witness.is_some() {
            testing::follow_clock(&lua, &base, program.commons.clone()).map_err(wrong)?;
        }
        let watched = Watched::new(&lua);
        let floor = Rc::new(Floor::default());
        lua.set_app_data(floor.clone());
        let counted = coverage::begin(&lua, program);
        let roster = Rc::new(Roster::new(program, base));
        lua.set_app_data(roster.clone());
        for (at, seat) in roster.seats().iter().enumerate() {
            let (loaded, stopped) = watched.run(program.limits.load, |lua| roster.load(lua, at));
            if stopped || loaded.is_err() {
                // What it has left must not fail the next one; if it cannot be collected, that one says so.
                let _ = lua.gc_collect();
            }
            if let Err(error) = loaded {
                let lua = watched.lua();
                let budget =
                    if stopped { format!(" (loading may take {:?})", program.limits.load) } else { String::new() };
                let unit = seat.unit();
                seat.errors
                    .borrow_mut()
                    .push(format!("{}{budget}", absent::explained(lua, located(&error, &unit.shown(&unit.entry)))));
            }
        }
        let errors = roster.errors();
        let (registrations, hooks) = roster.registered();
        if counted {
            coverage::read(&lua);
        }
        if !errors.is_empty() {
            return Err(errors);
        }
        let handles = Handles::new(&lua, program.reserved_events).map_err(wrong)?;
        floor.opens_for(&registrations);
        let (program, exhausted) = (program.clone(), Cell::new(false));
        Ok(Vm { watched, handles, floor, hooks, registrations, program, exhausted, counted })
    }

    /// Where each hook's function begins: the file as messages show it, and the line.
    pub fn origins(&self) -> Vec<(String, usize)> {
        let origin = |hook: &Function| {
            let info = hook.info();
            let source = info.source.unwrap_or_default();
            (source.trim_start_matches('=').to_owned(), info.line_defined.unwrap_or_default())
        };
        self.hooks.iter().map(origin).collect()
    }

    pub fn lua(&self) -> &Lua {
        self.watched.lua()
    }

    pub fn registrations(&self) -> &[Registration] {
        &self.registrations
    }

    pub fn is_exhausted(&self) -> bool {
        self.exhausted.get()
    }

    /// Asks one hook for its vote. `args` are made under the same budget; `known` are the options of `allow` that mean
    /// something to it.
    pub fn ask<A: IntoLuaMulti>(
        &self,
        hook: usize,
        budget: Duration,
        known: &[&str],
        args: impl FnOnce(&Lua) -> mlua::Result<A>,
    ) -> Result<Vote, Failure> {
        let mut vote = self.call(hook, budget, args, |value, reason| self.vote(hook, value, reason, known))?;
        self.place_deny(hook, &mut vote);
        Ok(vote)
    }

    /// Nothing, of a hook whose answer nobody waits for.
    pub(super) fn vote(&self, hook: usize, value: &Value, reason: &Value, known: &[&str]) -> Result<Vote, String> {
        if self.registrations[hook].event.is_only_told() {
            return Ok(Vote::None);
        }
        Vote::read(value, reason, known)
    }

    pub(super) fn place_deny(&self, hook: usize, vote: &mut Vote) {
        if let Vote::Deny(deny) = vote
            && deny.place.is_empty()
        {
            deny.place.clone_from(&self.registrations[hook].place);
        }
        trace::voted(hook, vote);
    }

    /// Runs one hook, and reads what it returned.
    pub fn call<A: IntoLuaMulti, R>(
        &self,
        hook: usize,
        budget: Duration,
        args: impl FnOnce(&Lua) -> mlua::Result<A>,
        read: impl FnOnce(&Value, &Value) -> Result<R, String>,
    ) -> Result<R, Failure> {
        self.admit(hook)?;
        let (function, registration) = (&self.hooks[hook], &self.registrations[hook]);
        let pace = self.program.pace(hook);
        let stopwatch = pace.and_then(Pace::begin);
        self.floor.give(hook);
        let (answer, stopped) =
            during(registration.event, || self.watched.run(budget, |lua| function.call::<(Value, Value)>(args(lua)?)));
        let place = &registration.place;
        let outcome = match answer {
            answer if stopped => {
                self.killed();
                let stop =
                    answer.map_or_else(|error| located(&error, place), |_| format!("{place}: it swallowed its stop"));
                Err(format!("{stop} ({registration} may take {budget:?})"))
            }
            Ok((value, more)) => read(&value, &more).map_err(|why| format!("{place}: {registration}: {why}")),
            Err(error) => Err(absent::explained(self.lua(), located(&error, place))),
        };
        let long = self.watched.ran_long().then_some(TICK);
        self.count();
        self.look_at_memory(stopped);
        // What it has left to be collected counts too.
        if let Some(pace) = pace
            && let Some(time) = stopwatch.map(|stopwatch| stopwatch.read()).or(long)
            && let Some(turn) = pace.took(time, self.program.limits.slow)
        {
            self.tell_move(registration, turn);
        }
        self.settle(hook, stopped, outcome)
    }

    pub(super) fn count(&self) {
        if self.counted {
            coverage::read(self.watched.lua());
        }
    }

    pub(super) fn killed(&self) {
        if !trace::is_rehearsal() {
            self.program.counters.killed_over_budget.fetch_add(1, Relaxed);
        }
    }

    /// Whether the hook's breaker lets it run.
    pub(super) fn admit(&self, hook: usize) -> Result<(), Failure> {
        let registration = &self.registrations[hook];
        let Program { counters, limits, commons, .. } = &*self.program;
        let (breaker, rehearsal) = (self.breaker(hook), trace::is_rehearsal());
        trace::begins(hook);
        // A rehearsal is no try, and nothing to count.
        let runs = if rehearsal { !breaker.is_open() } else { breaker.admits(&limits.breaker, || commons.now()) };
        let counter = if runs { &counters.lua_entries } else { &counters.broken_off };
        if !rehearsal {
            counter.fetch_add(1, Relaxed);
        }
        if !runs {
            let why = format!("{}: it broke too often of late, and rests", registration.place);
            return Err(trace::broke(hook, Failure { why, rests: true }));
        }
        Ok(())
    }

    /// Tells the hook's breaker how it went.
    pub(super) fn settle<R>(&self, hook: usize, stopped: bool, outcome: Result<R, String>) -> Result<R, Failure> {
        if self.counted
            && let Some(coverage) = self.program.commons.witness.as_ref().and_then(|witness| witness.coverage.as_ref())
        {
            coverage.hook_ran(self.registrations[hook].event);
        }
        if trace::is_rehearsal() {
            return outcome.map_err(|why| trace::broke(hook, Failure { why, rests: false }));
        }
        let registration = &self.registrations[hook];
        let Program { counters, limits, commons, .. } = &*self.program;
        let breaker = self.breaker(hook);
        let turn = match &outcome {
            Ok(_) => breaker.succeeded(),
            // What one client says must not silence a dialect for the others; what it costs them does.
            Err(why) if registration.event.is_of_dialect() && !stopped && !why.contains(NO_MEMORY) => {
                breaker.succeeded()
            }
            Err(_) => breaker.failed(&limits.breaker, commons.now(), stopped),
        };
        if let Some(turn) = turn {
            self.tell_turn(registration, turn);
        }
        outcome.map_err(|why| {
            counters.errors.fetch_add(1, Relaxed);
            trace::broke(hook, Failure { why, rests: false })
        })
    }

    fn breaker(&self, hook: usize) -> &Breaker {
        self.program.breaker(hook, self.registrations.len())
    }

    fn tell_turn(&self, registration: &Registration, turn: Turn) {
        let (open, event) = (&self.program.counters.breakers_open, registration.event.to_string());
        let (plugin, place) = (&*self.program.units[registration.unit].name, &*registration.place);
        match turn {
            Turn::Opened => {
                open.fetch_add(1, Relaxed);
                let limits = self.program.limits.breaker;
                tracing::error!(target: "aether::plugin", plugin, hook = event, place, "breaker opened: {} failures in {:?} (one that was stopped counts as {KILL_WEIGHT}); refused for {:?} without being run", limits.failures, limits.within, limits.rest);
            }
            Turn::Closed => {
                open.fetch_sub(1, Relaxed);
                tracing::warn!(target: "aether::plugin", plugin, hook = event, place, "breaker closed: it works again");
            }
        }
    }

    fn tell_move(&self, registration: &Registration, turn: Move) {
        let (plugin, place) = (&*self.program.units[registration.unit].name, &*registration.place);
        match turn {
            Move::Beside(time, true) => {
                let time = time.as_secs_f64() * 1000.0;
                tracing::warn!(target: "aether::plugin", plugin, hook = %registration, place, "takes {time:.1} ms of processor time on average; runs beside the others from now on, and hears `busy` sooner");
            }
            // It may go to and fro.
            Move::Beside(_, false) | Move::Back => {
                tracing::debug!(target: "aether::plugin", plugin, hook = %registration, place, ?turn, "changes its thread");
            }
        }
    }

    /// Luau refuses memory without collecting first, so garbage left behind would fail the next call; and what a stopped
    /// call has left is collected here, because the next call would pay for it with its own time.
    pub(super) fn look_at_memory(&self, stopped: bool) {
        let lua = self.watched.lua();
        let is_full = || lua.used_memory() > self.program.limits.memory / FULL.1 * FULL.0;
        if stopped || is_full() {
            self.exhausted.set(lua.gc_collect().is_err() || is_full());
        }
    }
}

/// A VM without what would let a script out, and the table of what all scripts share.
pub fn sandbox(memory: usize) -> mlua::Result<(Lua, Table)> {
    // Without it `table.move({}, 1, 2^31 - 2, 2, {})` copies nothing for 30 seconds, out of the watchdog's reach.
    static MOVE: LazyLock<Result<(), ()>> = LazyLock::new(|| Lua::set_fflag("LuauTableMoveTimeoutFix", true));
    MOVE.map_err(|()| mlua::Error::runtime("this Luau does not know LuauTableMoveTimeoutFix any more"))?;
    let lua = Lua::new_with(StdLib::ALL_SAFE, LuaOptions::default())?;
    lua.set_memory_limit(memory)?;
    let base = lua.globals();
    // They would undo `safeenv`, or reach files or bytecode; `require` and `print` come back for each unit.
    for name in ["loadstring", "getfenv", "setfenv", "require", "print"] {
        base.raw_set(name, Value::Nil)?;
    }
    lua.set_app_data(absent::Readings::default());
    lua.sandbox(true)?; // freezes `base` and every library
    Ok((lua, base))
}

/// A unit's own globals, over what all share. Without `safeenv` library calls are five times slower.
pub fn environment(lua: &Lua, base: &Table, seat: &Rc<Seat>) -> mlua::Result<Table> {
    let env = lua.create_table()?;
    let meta = lua.create_table()?;
    meta.raw_set("__index", base)?;
    meta.raw_set("__metatable", false)?;
    meta.set_readonly(true);
    env.set_metatable(Some(meta))?;
    api::install(lua, seat, &env)?;
    env.raw_set("require", require(lua, seat, &env)?)?;
    env.set_safeenv(true);
    Ok(env)
}

pub fn load(lua: &Lua, env: &Table, unit: &Unit, path: &str) -> mlua::Result<Function> {
    let source = unit.sources.get(path).map_or("", String::as_str);
    // Text always: mlua would accept bytecode, which Luau does not check.
    let chunk = lua.load(source).set_name(format!("={}", unit.shown(path))).set_mode(ChunkMode::Text);
    let function = chunk.set_environment(env.clone()).into_function()?;
    coverage::keep(lua, || unit.shown(path), &function);
    Ok(function)
}

fn require(lua: &Lua, seat: &Rc<Seat>, env: &Table) -> mlua::Result<Function> {
    let (seat, env) = (seat.clone(), env.clone());
    let loaded = lua.create_table()?;
    lua.create_function(move |lua, wanted: String| {
        let unit = seat.unit();
        if let Some(name) = wanted.strip_prefix('@') {
            return match Roster::of(lua) {
                Some(roster) => roster.require(lua, &seat, name),
                None => Err(raise(lua, "a file of tests requires only its own files")),
            };
        }
        let from = lua
            .inspect_stack(1, |frame| frame.source().source.map(|name| name.into_owned()))
            .flatten()
            .unwrap_or_default();
        let from =
            from.trim_start_matches('=').strip_prefix(&format!("{}/", unit.root)).unwrap_or(&unit.entry).to_owned();
        let path = unit.resolve(&from, &wanted).map_err(|why| raise(lua, why))?;
        match loaded.raw_get::<Value>(path)? {
            Value::Nil => {}
            Value::Boolean(false) => return Err(raise(lua, format!("{wanted} requires itself"))),
            module => return Ok(module),
        }
        loaded.raw_set(path, false)?;
        let module = load(lua, &env, unit, path).and_then(|chunk| chunk.call::<Value>(()));
        // A failed one may be tried again; a file that returns nothing counts as loaded all the same.
        loaded.raw_set(
            path,
            module
                .as_ref()
                .map_or(Value::Nil, |module| if module.is_nil() { Value::Boolean(true) } else { module.clone() }),
        )?;
        module
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plugins::commons::Commons;
    use crate::plugins::source::generation::Generation;
    use crate::plugins::{Counters, HostConfig};

    #[test]
    fn a_vm_closes_when_it_is_dropped_although_its_functions_know_each_other() {
        let dir = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts");
        let config = HostConfig { scripts: Some(dir), ..HostConfig::default() };
        let commons = Arc::new(Commons::new(config.clock.clone()).unwrap());
        let generation = Generation::load(&config, commons, Arc::new(Counters::default())).unwrap();
        let vm = generation.build_vm().unwrap();
        let weak = vm.watched.lua().weak();
        assert!(weak.try_upgrade().is_some());
        drop(vm);
        assert!(weak.try_upgrade().is_none());
    }
}
