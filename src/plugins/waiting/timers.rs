//! The timers of a generation: they begin when it takes charge and end before the next one's begin.
//!
//! One thread of the hooks that wait owns them all. A timer that is still running when it is due again leaves that turn
//! out. They follow the host's clock, which is looked at often enough for one that is moved by hand.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::schedule::Schedule;
use crate::kernel::message::Micros;
use crate::plugins::source::about::About;
use crate::plugins::source::generation::Generation;
use crate::plugins::vm::Failure;
use crate::plugins::vm::resident::vm_of;

/// How often the clock is looked at.
const LOOK: Duration = Duration::from_millis(100);
/// How long timers that run may go on when they are to end.
const GRACE: Duration = Duration::from_millis(500);

/// Which timers are due when.
pub struct Agenda {
    timers: Vec<Timer>,
}

struct Timer {
    hook: usize,
    schedule: Schedule,
    /// None: never again.
    due: Option<Micros>,
}

impl Agenda {
    pub fn new(generation: &Generation, now: Micros) -> Agenda {
        let timer = |(hook, registration): (usize, &crate::plugins::source::generation::Registration)| {
            match &registration.about {
                About::Timer(schedule) => Some(Timer { hook, schedule: schedule.clone(), due: schedule.first(now) }),
                _ => None,
            }
        };
        Agenda { timers: generation.registrations.iter().enumerate().filter_map(timer).collect() }
    }

    pub fn is_empty(&self) -> bool {
        self.timers.is_empty()
    }

    /// When the next one is due.
    pub fn next(&self) -> Option<Micros> {
        self.timers.iter().filter_map(|timer| timer.due).min()
    }

    /// Those that are due now, each once, the one that is longest due first.
    pub fn due(&mut self, now: Micros) -> Vec<usize> {
        let mut due: Vec<(Micros, usize)> = Vec::new();
        for timer in &mut self.timers {
            if let Some(at) = timer.due.filter(|at| *at <= now) {
                due.push((at, timer.hook));
                timer.due = timer.schedule.next(at, now);
            }
        }
        due.sort_unstable();
        due.into_iter().map(|(_, hook)| hook).collect()
    }
}

pub struct Timers {
    stop: CancellationToken,
    /// In a lock only because a thread that shares a host may let go of it.
    stopped: Mutex<Receiver<()>>,
}

impl Timers {
    /// None if there are no timers.
    pub fn begin(generation: &Arc<Generation>) -> Option<Timers> {
        let agenda = Agenda::new(generation, generation.program.commons.now());
        if agenda.is_empty() {
            return None;
        }
        let stop = CancellationToken::new();
        let (tell, stopped) = sync_channel(1);
        let (until, program) = (stop.clone(), generation.clone());
        let begun = generation.program.commons.lanes.own(Box::new(move || {
            Box::pin(async move {
                run(&program, agenda, &until).await;
                // Nobody listens any more if the host is gone.
                let _ = tell.send(());
            })
        }));
        if !begun {
            tracing::error!("timers have no thread and do not run");
        }
        Some(Timers { stop, stopped: Mutex::new(stopped) })
    }
}

impl Drop for Timers {
    fn drop(&mut self) {
        self.stop.cancel();
        // A step that runs is under the watchdog. Should its thread be busy beyond all measure, nobody waits for it.
        let _ = self.stopped.get_mut().recv_timeout(GRACE * 4);
    }
}

async fn run(generation: &Arc<Generation>, mut agenda: Agenda, stop: &CancellationToken) {
    let commons = &generation.program.commons;
    let running: Vec<Rc<Cell<bool>>> = generation.registrations.iter().map(|_| Rc::default()).collect();
    let mut calls = JoinSet::new();
    while !stop.is_cancelled() {
        for hook in agenda.due(commons.now()) {
            if running[hook].replace(true) {
                let timer = &generation.registrations[hook];
                tracing::warn!(target: "aether::plugin", hook = %timer, place = timer.place, "a timer is due and still running: this turn is left out");
                continue;
            }
            let (generation, running) = (generation.clone(), running[hook].clone());
            calls.spawn_local(async move {
                if let Err(failure) = ring(&generation, hook).await
                    && !failure.rests
                {
                    let timer = generation.registrations[hook].to_string();
                    tracing::error!(target: "aether::plugin", hook = timer, why = failure.why, "a timer broke");
                }
                running.set(false);
            });
        }
        while calls.try_join_next().is_some() {}
        let Some(next) = agenda.next() else {
            stop.cancelled().await;
            break;
        };
        let wait = Duration::from_micros(next.saturating_sub(commons.now())).min(LOOK);
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            () = stop.cancelled() => {}
        }
    }
    let all = async { while calls.join_next().await.is_some() {} };
    // What is not done by then is cut off: the next generation's timers wait for this.
    let _ = tokio::time::timeout(GRACE, all).await;
    calls.shutdown().await;
}

/// Runs one timer.
async fn ring(generation: &Arc<Generation>, hook: usize) -> Result<(), Failure> {
    let vm = vm_of(generation)?;
    vm.call_waiting(hook, |_| Ok(()), |_, _| Ok(())).await
}

/// Runs the timer `hook` now and waits for its end: for tests with a clock in hand.
pub fn ring_here(generation: &Arc<Generation>, hook: usize) -> Result<(), Failure> {
    let rung =
        generation.program.commons.lanes.run_here(generation, hook, move |vm| async move {
            vm.call_waiting(hook, |_| Ok(()), |_, _| Ok(())).await
        });
    rung.map_err(super::lanes::Unheard::into_failure)
}
