//! The threads of the hooks that wait: each has a VM per generation and runs many calls at once, one step at a time.
//!
//! A hook that waits costs the hop to one of them and back; those that do not wait never come here.

use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot};

use crate::plugins::source::generation::{Generation, Program};
use crate::plugins::vm::resident::vm_of;
use crate::plugins::vm::{Failure, Vm};

/// Calls that a thread has not begun. When it is full, the next one hears `busy`.
const QUEUE: usize = 4096;
/// How long calls may go on when the host stops; then they are dropped.
const GRACE: Duration = Duration::from_millis(500);

pub type Job = Box<dyn FnOnce() -> Pin<Box<dyn Future<Output = ()>>> + Send>;

/// Why nothing came back.
pub enum Unheard {
    /// Too many calls of this plugin wait already.
    Busy(String),
    Failed(Failure),
}

impl Unheard {
    pub fn into_failure(self) -> Failure {
        match self {
            Unheard::Busy(why) => Failure { why, rests: false },
            Unheard::Failed(failure) => failure,
        }
    }
}

#[derive(Default)]
pub struct Lanes {
    lanes: Mutex<Vec<Lane>>,
    next: AtomicUsize,
}

struct Lane {
    jobs: mpsc::Sender<Job>,
    thread: JoinHandle<()>,
}

impl Lanes {
    /// Runs `ask` with the VM of one of the threads, for the hook `hook`. If nobody waits for the answer any more, it ends.
    pub async fn run<R: Send + 'static, F>(
        &self,
        generation: &Arc<Generation>,
        hook: usize,
        ask: impl FnOnce(Rc<Vm>) -> F + Send + 'static,
    ) -> Result<R, Unheard>
    where
        F: Future<Output = Result<R, Failure>> + 'static,
    {
        let answer = self.send(generation, hook, ask)?;
        let gone = |_| Unheard::Failed(Failure { why: "the hub stops, and the call with it".into(), rests: false });
        answer.await.map_err(gone)?.map_err(Unheard::Failed)
    }

    /// The same for a thread that may stand still meanwhile.
    pub fn run_here<R: Send + 'static, F>(
        &self,
        generation: &Arc<Generation>,
        hook: usize,
        ask: impl FnOnce(Rc<Vm>) -> F + Send + 'static,
    ) -> Result<R, Unheard>
    where
        F: Future<Output = Result<R, Failure>> + 'static,
    {
        let (tell, told) = std::sync::mpsc::sync_channel(1);
        let mut answer = self.send(generation, hook, move |vm| {
            let asked = ask(vm);
            async move {
                // Whoever asked stands still and listens.
                let _ = tell.send(asked.await);
                Ok(())
            }
        })?;
        match told.recv() {
            Ok(heard) => heard.map_err(Unheard::Failed),
            // It was not begun, or cut off.
            Err(_) => Err(Unheard::Failed(match answer.try_recv() {
                Ok(Err(failure)) => failure,
                _ => Failure { why: "the hub stops, and the call with it".into(), rests: false },
            })),
        }
    }

    /// Runs `ask` and tells nobody but the log if it fails; whether there was room.
    pub fn tell<F>(
        &self,
        generation: &Arc<Generation>,
        hook: usize,
        ask: impl FnOnce(Rc<Vm>) -> F + Send + 'static,
    ) -> bool
    where
        F: Future<Output = Result<(), Failure>> + 'static,
    {
        let place = generation.registrations[hook].to_string();
        let unit = generation.registrations[hook].unit;
        let Some(ticket) = Ticket::take(&generation.program, unit) else { return false };
        let generation = generation.clone();
        self.push(Box::new(move || {
            Box::pin(async move {
                let _ticket = ticket;
                let told = match vm_of(&generation) {
                    Ok(vm) => ask(vm).await,
                    Err(failure) => Err(failure),
                };
                if let Err(failure) = told
                    && !failure.rests
                {
                    tracing::error!(target: "aether::plugin", hook = place, why = failure.why, "a hook broke");
                }
            })
        }))
    }

    fn send<R: Send + 'static, F>(
        &self,
        generation: &Arc<Generation>,
        hook: usize,
        ask: impl FnOnce(Rc<Vm>) -> F + Send + 'static,
    ) -> Result<oneshot::Receiver<Result<R, Failure>>, Unheard>
    where
        F: Future<Output = Result<R, Failure>> + 'static,
    {
        let limit = generation.program.limits.waiting_calls;
        let busy = || {
            let plugin = &generation.unit_of(hook).name;
            Unheard::Busy(format!("{limit} calls of {plugin} wait already (plugins.waiting_calls)"))
        };
        let ticket = Ticket::take(&generation.program, generation.registrations[hook].unit).ok_or_else(busy)?;
        let (mut tell, answer) = oneshot::channel();
        let generation = generation.clone();
        let pushed = self.push(Box::new(move || {
            Box::pin(async move {
                let _ticket = ticket;
                let vm = match vm_of(&generation) {
                    Ok(vm) => vm,
                    Err(failure) => {
                        // Nobody listens any more if this fails.
                        let _ = tell.send(Err(failure));
                        return;
                    }
                };
                tokio::select! {
                    asked = ask(vm) => {
                        let _ = tell.send(asked);
                    }
                    () = tell.closed() => {}
                }
            })
        }));
        if pushed { Ok(answer) } else { Err(Unheard::Busy("the threads of hooks that wait have no room".into())) }
    }

    /// Gives the first thread something of its own to do; whether it took it.
    pub fn own(&self, job: Job) -> bool {
        self.lanes.lock().first().is_some_and(|lane| lane.jobs.try_send(job).is_ok())
    }

    fn push(&self, job: Job) -> bool {
        let lanes = self.lanes.lock();
        let Some(count) = std::num::NonZero::new(lanes.len()) else { return false };
        lanes[self.next.fetch_add(1, Ordering::Relaxed) % count].jobs.try_send(job).is_ok()
    }

    /// Begins, once: `threads` of them.
    pub fn open(&self, threads: usize) -> std::io::Result<()> {
        let mut lanes = self.lanes.lock();
        while lanes.len() < threads {
            let (jobs, waiting) = mpsc::channel(QUEUE);
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            let name = format!("lua-wait-{}", lanes.len() + 1);
            let thread = std::thread::Builder::new().name(name).spawn(move || serve(&runtime, waiting))?;
            lanes.push(Lane { jobs, thread });
        }
        Ok(())
    }

    /// Ends them, in bounded time: what waits is dropped, and a step that runs is under the watchdog.
    pub fn close(&self) {
        let lanes = std::mem::take(&mut *self.lanes.lock());
        for Lane { jobs, thread } in lanes {
            drop(jobs);
            // Whether it panicked is in the log already.
            let _ = thread.join();
        }
    }
}

fn serve(runtime: &tokio::runtime::Runtime, mut jobs: mpsc::Receiver<Job>) {
    let calls = tokio::task::LocalSet::new();
    runtime.block_on(calls.run_until(async {
        while let Some(job) = jobs.recv().await {
            tokio::task::spawn_local(job());
        }
    }));
    // Calls that are not done by then are dropped with the set.
    runtime.block_on(async {
        let _ = tokio::time::timeout(GRACE, calls).await;
    });
}

/// A place among the waiting calls of a unit.
pub struct Ticket {
    program: Arc<Program>,
    unit: usize,
}

impl Ticket {
    pub fn take(program: &Arc<Program>, unit: usize) -> Option<Ticket> {
        let ticket = Ticket { program: program.clone(), unit };
        // Given back by `Drop` if there were too many.
        let before = program.waiting[unit].fetch_add(1, Ordering::AcqRel);
        (before < program.limits.waiting_calls).then_some(ticket)
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.program.waiting[self.unit].fetch_sub(1, Ordering::AcqRel);
    }
}
