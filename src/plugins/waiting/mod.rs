//! A hook that waits: a coroutine per call, resumed when what it waits for is there.
//!
//! Each resume runs under the watchdog with what is left of the call's processor time; a call that is dropped, because
//! nobody wants its answer or its time is over, is not resumed any more and its coroutine is garbage.

pub mod beside;
pub mod errand;
pub mod http;
pub mod keysets;
pub mod lanes;
pub mod memo;
pub mod schedule;
pub mod timers;

use std::rc::Rc;
use std::time::{Duration, Instant};

use mlua::thread::ThreadStatus;
use mlua::{Function, IntoLuaMulti, Lua, MultiValue, Thread, Value};

use crate::plugins::api::absent;
use crate::plugins::asking::decision::Vote;
use crate::plugins::vm::floor::{Token, Wait};
use crate::plugins::vm::running::during;
use crate::plugins::vm::value::{first_line, located};
use crate::plugins::vm::{Failure, Vm};
use crate::plugins::waiting::errand::{Errand, results};

/// A call that was not stopped by the watchdog in the middle of a step is stopped between two.
const LEAST: Duration = Duration::from_micros(100);

/// Why a call has no answer.
pub enum Cut {
    /// It raised an error.
    Error(mlua::Error),
    /// It used up its processor time.
    Stopped(Option<mlua::Error>),
    /// It did what it must not, or not in time.
    Wrong(String),
}

impl Vm {
    /// As `ask`, of a hook that may wait.
    pub async fn ask_waiting<A: IntoLuaMulti>(
        self: &Rc<Self>,
        hook: usize,
        known: &[&str],
        args: impl FnOnce(&Lua) -> mlua::Result<A>,
    ) -> Result<Vote, Failure> {
        let mut vote = self.call_waiting(hook, args, |value, reason| self.vote(hook, value, reason, known)).await?;
        self.place_deny(hook, &mut vote);
        Ok(vote)
    }

    /// As `call`, of a hook that may wait.
    pub async fn call_waiting<A: IntoLuaMulti, R>(
        self: &Rc<Self>,
        hook: usize,
        args: impl FnOnce(&Lua) -> mlua::Result<A>,
        read: impl FnOnce(&Value, &Value) -> Result<R, String>,
    ) -> Result<R, Failure> {
        self.admit(hook)?;
        let function = self.hooks[hook].clone();
        let budget = self.program.limits.waiting_budget;
        let args = |lua: &Lua| args(lua)?.into_lua_multi(lua);
        let mut stopped = false;
        let answer = match self.run(hook, &function, budget, args).await {
            Ok(values) => {
                let mut values = values.into_iter();
                let (value, more) = (values.next().unwrap_or(Value::Nil), values.next().unwrap_or(Value::Nil));
                Ok((value, more))
            }
            Err(cut) => {
                stopped = matches!(cut, Cut::Stopped(_));
                Err(self.explain(hook, cut, budget))
            }
        };
        self.settle(
            hook,
            stopped,
            answer.and_then(|(value, more)| {
                let registration = &self.registrations()[hook];
                read(&value, &more).map_err(|why| format!("{}: {registration}: {why}", registration.place))
            }),
        )
    }

    /// Runs `function` for the hook `hook` to its end.
    async fn run(
        self: &Rc<Self>,
        hook: usize,
        function: &Function,
        mut budget: Duration,
        args: impl FnOnce(&Lua) -> mlua::Result<MultiValue>,
    ) -> Result<MultiValue, Cut> {
        let time = self.program.limits.waiting_time;
        let deadline = tokio::time::Instant::now() + time;
        let coroutine = self.watched.lua().create_thread(function.clone()).map_err(Cut::Error)?;
        let mut values = self.step(hook, &coroutine, &mut budget, args)?;
        while coroutine.status() == ThreadStatus::Resumable {
            let Wait { what, outcome } = self.read_token(hook, &values)?;
            let Ok(outcome) = tokio::time::timeout_at(deadline, outcome).await else {
                return Err(Cut::Wrong(format!(
                    "{what} waited too long ({} may take {time:?})",
                    self.registrations()[hook]
                )));
            };
            values = self.step(hook, &coroutine, &mut budget, |lua| {
                // What went wrong is raised in the script, by the wrapper.
                match outcome(lua) {
                    Ok(mut values) => {
                        values.push_front(Value::Boolean(true));
                        Ok(values)
                    }
                    Err(error) => {
                        let why = Value::String(lua.create_string(first_line(&error))?);
                        Ok(MultiValue::from_iter([Value::Boolean(false), why]))
                    }
                }
            })?;
        }
        Ok(values)
    }

    /// One resume, paid from `budget`.
    fn step(
        self: &Rc<Self>,
        hook: usize,
        coroutine: &Thread,
        budget: &mut Duration,
        args: impl FnOnce(&Lua) -> mlua::Result<MultiValue>,
    ) -> Result<MultiValue, Cut> {
        if *budget < LEAST {
            return Err(Cut::Stopped(None));
        }
        self.floor.give_to(hook, coroutine);
        let (before, began) = (self.watched.thread_time(), Instant::now());
        let event = self.registrations()[hook].event;
        let resume = || self.watched.run(*budget, |lua| coroutine.resume::<MultiValue>(args(lua)?));
        let (answer, stopped) = during(event, resume);
        self.count();
        let mut used = began.elapsed();
        // The wall's time is enough of a short step; a longer one may have been waiting for a processor.
        if used > Duration::from_millis(1)
            && let (Some(before), Some(after)) = (before, self.watched.thread_time())
        {
            used = used.min(after.saturating_sub(before));
        }
        *budget = budget.saturating_sub(used);
        self.floor.take();
        self.look_at_memory(stopped);
        self.send_out(hook);
        match answer {
            answer if stopped => Err(Cut::Stopped(answer.err())),
            Err(error) => Err(Cut::Error(error)),
            Ok(values) => Ok(values),
        }
    }

    fn read_token(&self, hook: usize, values: &MultiValue) -> Result<Wait, Cut> {
        let token = values.front().and_then(Value::as_userdata).and_then(|data| data.borrow::<Token>().ok());
        token.and_then(|token| token.0.take()).ok_or_else(|| {
            let registration = &self.registrations()[hook];
            let why = "it yields by itself, and only functions of aether that wait may do that";
            Cut::Wrong(format!("{}: {registration}: {why}", registration.place))
        })
    }

    pub fn explain(&self, hook: usize, cut: Cut, budget: Duration) -> String {
        let registration = &self.registrations()[hook];
        let place = &registration.place;
        match cut {
            Cut::Wrong(why) => why,
            Cut::Error(error) => absent::explained(self.lua(), located(&error, place)),
            Cut::Stopped(error) => {
                self.killed();
                let used_up = || format!("{place}: the time budget of this call is used up");
                let stop = error.map_or_else(used_up, |error| located(&error, place));
                format!("{stop} ({registration} may take {budget:?} of processor time)")
            }
        }
    }

    /// The errands of the hook that has just run go their own way on this thread.
    fn send_out(self: &Rc<Self>, hook: usize) {
        for errand in self.floor.errands.take() {
            let vm = self.clone();
            tokio::task::spawn_local(async move {
                let Errand { function, args, done } = errand;
                let budget = vm.program.limits.waiting_budget;
                // Boxed, because an errand may send out others.
                let run: std::pin::Pin<Box<dyn Future<Output = _>>> =
                    Box::pin(vm.run(hook, &function, budget, |_| Ok(args)));
                done(match run.await {
                    Ok(values) => results(&values),
                    Err(cut) => Err(vm.explain(hook, cut, budget)),
                });
            });
        }
    }
}
