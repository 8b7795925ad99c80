//! Stops a Lua call that uses up its budget. The one file with `unsafe`.
//!
//! A running call pays two atomic stores and no clock. One thread looks at every VM once a millisecond; a call that
//! it meets again has its processor time measured, and past the budget the VM's interrupt is armed. Luau runs the
//! interrupt at loop ends, calls, returns and inside `string.find`, and it stays armed until the call has ended, so a
//! `pcall` that swallows it is stopped again. A long call into C is stopped only when it returns; the memory limit
//! bounds what it can do.
//!
//! While nobody calls, it rests: a hub with nothing to do does nothing. The first call after that pays for waking it.
//!
//! Short of its budget, a call that it meets gives way once a tick: Linux looks for a thread that waits for the
//! processor only every 4 ms (CONFIG_HZ=250), whatever the priorities, and a neighbour's messages would wait as long.

use std::cell::Cell;
use std::ffi::c_int;
use std::path::PathBuf;
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, Weak};
use std::time::{Duration, Instant};

use mlua::{Lua, ffi};
use parking_lot::{Condvar, Mutex};

/// How often it looks.
pub const TICK: Duration = Duration::from_millis(1);
/// It rests when nobody has called for so many ticks.
const REST_AFTER: u32 = 50;
/// Should processor time be read and stand still, a call is stopped after so many budgets of wall time all the same.
const WALL_FACTOR: u32 = 200;

/// One VM, as the watchdog sees it.
struct Slot {
    /// Counts up at the start and at the end of every call, so it is odd while one runs.
    call: AtomicU64,
    budget_micros: AtomicU32,
    /// The call to stop.
    doomed: AtomicU64,
    /// The latest call that was met twice.
    long: AtomicU64,
    /// Where Linux says how long the VM's thread has run.
    schedstat: Option<PathBuf>,
    /// Taken away before the VM closes; held while arming.
    callbacks: Mutex<Option<Callbacks>>,
}

struct Callbacks(*mut ffi::lua_Callbacks);

// SAFETY: the pointer is only used by `Slot::set_interrupt`, which says why any thread may do so.
unsafe impl Send for Callbacks {}

impl Slot {
    /// Arms or disarms. Luau documents its interrupt field, alone among the callbacks, as safe to set from any thread.
    fn set_interrupt(&self, handler: *mut ()) {
        if let Some(Callbacks(callbacks)) = &*self.callbacks.lock() {
            // SAFETY: `callbacks` points into the VM's global state, which lives as long as the VM; `Watched::drop`
            // empties this option, under the same lock, while it still holds the VM. The field is pointer-sized and
            // aligned (an `Option` of a function pointer has a pointer's layout), and every write of it from Rust is
            // this atomic one.
            unsafe { AtomicPtr::from_ptr((&raw mut (**callbacks).interrupt).cast::<*mut ()>()) }
                .store(handler, Ordering::Release);
        }
    }

    fn runs_doomed_call(&self) -> bool {
        self.doomed.load(Ordering::Acquire) == self.call.load(Ordering::Relaxed)
    }

    fn thread_time(&self) -> Option<Duration> {
        let text = std::fs::read_to_string(self.schedstat.as_ref()?).ok()?;
        text.split(' ').next()?.parse().ok().map(Duration::from_nanos)
    }
}

thread_local! {
    /// The slot of the VM that runs on this thread, for the handler; null between calls.
    static RUNNING: Cell<*const Slot> = const { Cell::new(ptr::null()) };
}

/// Luau calls this at safe points of a VM whose interrupt is armed.
unsafe extern "C-unwind" fn stop_or_give_way(state: *mut ffi::lua_State, gc: c_int) {
    if gc >= 0 {
        return; // the collector's own safe points cannot survive an error
    }
    let slot = RUNNING.get();
    // SAFETY: `Watched::run` keeps the slot alive for as long as its address is in RUNNING, and we are on that thread.
    if slot.is_null() || !unsafe { (*slot).runs_doomed_call() } {
        // Armed so that this call gives way, or for one that has ended. Should the watchdog arm again at this very
        // moment, its next tick repeats it.
        if !slot.is_null() {
            // SAFETY: as above.
            unsafe { (*slot).set_interrupt(ptr::null_mut()) };
        }
        std::thread::yield_now();
        return;
    }
    // SAFETY: these raise a Lua error as any C function may. It unwinds through this frame, which is why the ABI is
    // "C-unwind" and why nothing with a destructor is alive here. Three stack slots are fewer than Luau keeps free
    // (EXTRA_STACK is 5).
    unsafe {
        ffi::luaL_where(state, 0);
        ffi::lua_pushstring(state, c"the time budget of this call is used up".as_ptr());
        ffi::lua_concat(state, 2);
        ffi::lua_error(state)
    }
}

/// A VM under watch. Dropped before the VM closes, because it holds it.
pub struct Watched {
    lua: Lua,
    slot: Arc<Slot>,
}

impl Watched {
    /// For the thread that will run the VM.
    pub fn new(lua: &Lua) -> Watched {
        // SAFETY: `state` is this VM's live state; the address of the callbacks never changes while it lives.
        let callbacks = lua.exec_raw_lua(|raw| unsafe { ffi::lua_callbacks(raw.state()) });
        let thread = std::fs::read_link("/proc/thread-self").ok();
        let slot = Arc::new(Slot {
            call: AtomicU64::new(0),
            budget_micros: AtomicU32::new(0),
            doomed: AtomicU64::new(0),
            long: AtomicU64::new(0),
            schedstat: thread.map(|own| PathBuf::from("/proc").join(own).join("schedstat")),
            callbacks: Mutex::new(Some(Callbacks(callbacks))),
        });
        WATCHDOG.watch(&slot);
        Watched { lua: lua.clone(), slot }
    }

    pub fn lua(&self) -> &Lua {
        &self.lua
    }

    /// How long the VM's thread has run, where the system says so.
    pub fn thread_time(&self) -> Option<Duration> {
        self.slot.thread_time()
    }

    /// Whether the latest call ran for at least a tick, as far as the watchdog has seen.
    pub fn ran_long(&self) -> bool {
        self.slot.long.load(Ordering::Relaxed) + 1 == self.slot.call.load(Ordering::Relaxed)
    }

    /// Runs `call`; says beside its answer whether it was stopped for using up `budget`.
    pub fn run<R>(&self, budget: Duration, call: impl FnOnce(&Lua) -> R) -> (R, bool) {
        let running = Running::begin(&self.slot, budget);
        let answer = call(&self.lua);
        (answer, running.end())
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        *self.slot.callbacks.lock() = None;
    }
}

struct Running<'a> {
    slot: &'a Slot,
    before: *const Slot,
}

impl<'a> Running<'a> {
    fn begin(slot: &'a Slot, budget: Duration) -> Self {
        slot.budget_micros.store(budget.as_micros().try_into().unwrap_or(u32::MAX), Ordering::Relaxed);
        slot.call.fetch_add(1, Ordering::SeqCst);
        // Either we see that it rests, or it has seen our count.
        if WATCHDOG.rests.load(Ordering::SeqCst) {
            WATCHDOG.wake();
        }
        Running { slot, before: RUNNING.replace(slot) }
    }

    fn end(self) -> bool {
        let doomed = self.slot.runs_doomed_call();
        drop(self);
        doomed
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        let doomed = self.slot.runs_doomed_call();
        self.slot.call.fetch_add(1, Ordering::Release);
        RUNNING.set(self.before);
        if doomed {
            self.slot.set_interrupt(ptr::null_mut());
        }
    }
}

/// A call that was running when the watchdog looked.
struct Sighting {
    call: u64,
    since: Instant,
    thread_time: Option<Duration>,
}

#[derive(Default)]
struct Watchdog {
    slots: Mutex<Vec<(Weak<Slot>, Option<Sighting>)>>,
    work: Condvar,
    rests: AtomicBool,
}

static WATCHDOG: LazyLock<&'static Watchdog> = LazyLock::new(|| {
    let watchdog: &'static Watchdog = Box::leak(Box::default());
    // Lives as long as the process: VMs of any host may come at any time, and it rests while there are none.
    std::thread::Builder::new()
        .name("lua-watchdog".into())
        .spawn(move || watchdog.run())
        .expect("a thread for the watchdog");
    watchdog
});

impl Watchdog {
    fn watch(&self, slot: &Arc<Slot>) {
        self.slots.lock().push((Arc::downgrade(slot), None));
        self.work.notify_one();
    }

    fn wake(&self) {
        // Held from when it says that it rests until it does.
        drop(self.slots.lock());
        self.work.notify_one();
    }

    fn run(&self) {
        let (mut calls_before, mut quiet_ticks) = (0, 0);
        loop {
            let mut slots = self.slots.lock();
            slots.retain_mut(|(slot, sighting)| slot.upgrade().map(|slot| look(&slot, sighting)).is_some());
            let calls = counted(&slots);
            let is_quiet = calls == calls_before && slots.iter().all(|(_, sighting)| sighting.is_none());
            (calls_before, quiet_ticks) = (calls, if is_quiet { quiet_ticks + 1 } else { 0 });
            if quiet_ticks >= REST_AFTER {
                quiet_ticks = 0;
                self.rests.store(true, Ordering::SeqCst);
                if counted(&slots) == calls {
                    self.work.wait(&mut slots);
                }
                self.rests.store(false, Ordering::SeqCst);
            }
            drop(slots);
            std::thread::sleep(TICK);
        }
    }
}

/// Beginnings and ends of calls, of all VMs.
fn counted(slots: &[(Weak<Slot>, Option<Sighting>)]) -> u64 {
    let calls = slots.iter().filter_map(|(slot, _)| Some(slot.upgrade()?.call.load(Ordering::SeqCst)));
    calls.fold(0, u64::wrapping_add)
}

fn look(slot: &Slot, sighting: &mut Option<Sighting>) {
    let call = slot.call.load(Ordering::Acquire);
    if call.is_multiple_of(2) {
        *sighting = None;
        return;
    }
    match sighting {
        Some(seen) if seen.call == call => {
            slot.long.store(call, Ordering::Relaxed);
            let wall = seen.since.elapsed();
            let now = slot.thread_time();
            let used = match (now, seen.thread_time) {
                // Linux brings its numbers up to date by the tick, so they may lump in what ran before the call.
                (Some(now), Some(then)) => now.saturating_sub(then).min(wall),
                (Some(_), None) => Duration::ZERO, // measured from the second sighting on
                (None, _) => wall,
            };
            seen.thread_time = seen.thread_time.or(now);
            let budget = Duration::from_micros(slot.budget_micros.load(Ordering::Relaxed).into());
            if used >= budget || wall >= budget * WALL_FACTOR {
                slot.doomed.store(call, Ordering::Release);
            }
        }
        _ => *sighting = Some(Sighting { call, since: Instant::now(), thread_time: None }),
    }
    slot.set_interrupt(stop_or_give_way as *mut ());
}

#[cfg(test)]
mod tests {
    use super::*;
    use mlua::{LuaOptions, StdLib};

    const BUDGET: Duration = Duration::from_millis(5);

    const HOSTILE: [&str; 9] = [
        "while true do end",
        "while true do pcall(function() while true do end end) end",
        "while true do pcall(error, {}) end",
        "local s = string.rep('a', 60) return string.find(s, string.rep('a?', 60) .. string.rep('a', 60) .. 'b')",
        "local t = {} while true do t[#t + 1] = string.rep('x', 1000) .. #t end",
        "while true do pcall(function() local t = {} while true do t[#t + 1] = {t} end end) end",
        "while true do xpcall(function() while true do end end, function() while true do end end) end",
        "local function f() return f() end pcall(f) while true do coroutine.wrap(function() while true do end end)() end",
        "return setmetatable({}, {__index = function(t, k) while true do end end}).x",
    ];

    fn vm() -> Lua {
        let lua = Lua::new_with(StdLib::ALL_SAFE, LuaOptions::default()).unwrap();
        lua.sandbox(true).unwrap();
        lua.set_memory_limit(32 << 20).unwrap();
        lua
    }

    #[test]
    fn a_hostile_program_is_stopped_and_its_vm_serves_the_next_call() {
        let lua = vm();
        let watched = Watched::new(&lua);
        let good = lua.load("local n = 0 for i = 1, 1000 do n += i end return n").into_function().unwrap();
        for program in HOSTILE {
            let bad = lua.load(program).into_function().unwrap();
            let started = Instant::now();
            let (answer, stopped) = watched.run(BUDGET, |_| bad.call::<mlua::Value>(()));
            assert!(answer.is_err(), "{program}: {answer:?}");
            assert!(stopped || matches!(answer, Err(mlua::Error::MemoryError(_))), "{program}: {answer:?}");
            assert!(started.elapsed() < Duration::from_secs(5), "{program}: {:?}", started.elapsed());
            lua.gc_collect().unwrap();
            let (answer, stopped) = watched.run(BUDGET, |_| good.call::<u64>(()));
            assert_eq!((answer.unwrap(), stopped), (500_500, false), "after {program}");
        }
    }

    #[test]
    fn short_calls_beside_hostile_ones_are_never_stopped() {
        let hammer = |hostile: bool| {
            let lua = vm();
            let watched = Watched::new(&lua);
            let code = if hostile { HOSTILE[1] } else { "return 1" };
            let call = lua.load(code).into_function().unwrap();
            let until = Instant::now() + Duration::from_millis(400);
            while Instant::now() < until {
                let (answer, stopped) = watched.run(BUDGET, |_| call.call::<u32>(()));
                assert_eq!((answer.is_err(), stopped), (hostile, hostile));
            }
        };
        std::thread::scope(|threads| {
            [true, false, true, false].map(|h| threads.spawn(move || hammer(h))).map(|t| t.join().unwrap())
        });
    }

    /// Other tests call as well, so that it may have to be waited for.
    #[test]
    fn what_is_called_while_it_rests_is_watched_all_the_same() {
        let lua = vm();
        let watched = Watched::new(&lua);
        let spin = lua.load("while true do end").into_function().unwrap();
        for _ in 0..3 {
            let until = Instant::now() + Duration::from_secs(3);
            while !WATCHDOG.rests.load(Ordering::SeqCst) && Instant::now() < until {
                std::thread::sleep(TICK);
            }
            assert!(watched.run(BUDGET, |_| spin.call::<()>(())).1);
        }
    }

    #[test]
    fn vms_may_come_and_go_while_they_are_watched() {
        for _ in 0..50 {
            let lua = vm();
            let watched = Watched::new(&lua);
            let spin = lua.load("while true do end").into_function().unwrap();
            assert!(watched.run(Duration::from_millis(1), |_| spin.call::<()>(())).1);
        }
    }
}
