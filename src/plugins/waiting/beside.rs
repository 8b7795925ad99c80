//! The thread of the hooks that are slow without waiting: it runs one call after the other, behind everything else.
//!
//! A plugin has few calls in line; beyond, it is busy. So what it costs the others is a thread that gives way to theirs.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc;
use std::thread::JoinHandle;

use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::lanes::Unheard;
use crate::plugins::asking::pace::yield_to_others;
use crate::plugins::source::generation::{Generation, Program};
use crate::plugins::vm::Failure;
use crate::plugins::why::trace;

/// Calls of one plugin in line, the one that runs among them. The next one hears `busy`.
pub const IN_LINE: usize = 16;
/// Of all plugins.
const QUEUE: usize = 1024;

type Job = Box<dyn FnOnce() + Send>;

#[derive(Default)]
pub struct Beside(Mutex<State>);

#[derive(Default)]
enum State {
    #[default]
    NotYet,
    Open(mpsc::SyncSender<Job>, JoinHandle<()>),
    Closed,
}

impl Beside {
    /// Runs `ask` there, for the hook `hook`, unless nobody waits for the answer any more.
    pub async fn run<R: Send + 'static>(
        &self,
        generation: &Arc<Generation>,
        hook: usize,
        ask: impl FnOnce() -> R + Send + 'static,
    ) -> Result<R, Unheard> {
        let seat = Seat::take(generation, hook).ok_or_else(|| {
            let (registration, plugin) = (&generation.registrations[hook], &generation.unit_of(hook).name);
            let place = &registration.place;
            let why = "is slow, and runs beside the others";
            Unheard::Busy(format!("{place}: {registration} {why}; {IN_LINE} calls of {plugin} are in line already"))
        })?;
        let errand = trace::lend();
        let (tell, answer) = oneshot::channel();
        let pushed = self.push(Box::new(move || {
            // Whoever asked may have gone meanwhile.
            if !tell.is_closed() {
                let answer = errand.run(ask);
                // Before the answer: who asks again at once finds the place free.
                drop(seat);
                let _ = tell.send(answer);
            }
        }));
        if !pushed {
            return Err(Unheard::Busy(format!("{QUEUE} calls of slow hooks are in line already")));
        }
        let gone = |_| Unheard::Failed(Failure { why: "the hub stops, and the call with it".into(), rests: false });
        let (answer, done) = answer.await.map_err(gone)?;
        trace::returned(done);
        Ok(answer)
    }

    /// Gives the thread something to do, and begins it with the first; whether there was room.
    pub fn push(&self, job: Job) -> bool {
        let mut state = self.0.lock();
        if let State::NotYet = *state {
            let (jobs, waiting) = mpsc::sync_channel::<Job>(QUEUE);
            let serve = move || {
                yield_to_others();
                waiting.into_iter().for_each(|job| job());
            };
            match std::thread::Builder::new().name("lua-slow".into()).spawn(serve) {
                Ok(thread) => *state = State::Open(jobs, thread),
                Err(error) => tracing::error!(%error, "slow hooks have no thread"),
            }
        }
        match &*state {
            State::Open(jobs, _) => jobs.try_send(job).is_ok(),
            State::NotYet | State::Closed => false,
        }
    }

    /// Ends it, in bounded time: what is in line runs under the watchdog, or not at all if nobody waits for it.
    pub fn close(&self) {
        let state = std::mem::replace(&mut *self.0.lock(), State::Closed);
        if let State::Open(jobs, thread) = state {
            drop(jobs);
            // Whether it panicked is in the log already.
            let _ = thread.join();
        }
    }
}

/// A place among the calls of a unit that are in line.
struct Seat {
    program: Arc<Program>,
    unit: usize,
}

impl Seat {
    fn take(generation: &Generation, hook: usize) -> Option<Seat> {
        let (program, unit) = (generation.program.clone(), generation.registrations[hook].unit);
        // Given back by `Drop` if there were too many.
        let before = program.in_line[unit].fetch_add(1, Ordering::AcqRel);
        let seat = Seat { program, unit };
        (before < IN_LINE).then_some(seat)
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.program.in_line[self.unit].fetch_sub(1, Ordering::AcqRel);
    }
}
