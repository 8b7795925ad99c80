//! The thread of the disconnect hooks: told after the fact, with a VM of its own.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use mlua::Lua;

use crate::kernel::dialect::Memory;
use crate::kernel::hooks::{Client, Farewell};
use crate::plugins::dialect;
use crate::plugins::source::generation::{Event, Generation};
use crate::plugins::vm::Failure;
use crate::plugins::vm::handles::farewell;
use crate::plugins::vm::resident::with_vm;
use crate::plugins::waiting::lanes::Unheard;

/// Who has gone, and the hook of its dialect that is to hear of it, with what that keeps.
pub struct Departure {
    pub client: Arc<Client>,
    pub why: Farewell,
    pub of_dialect: Option<(usize, Memory)>,
}

/// Farewells that may wait. When it is full the newest is counted and dropped: nobody waits for a disconnect hook.
const QUEUE: usize = 1024;
/// How long farewells that still wait at the end may take altogether.
const LAST: Duration = Duration::from_secs(1);

pub struct Departures {
    queue: Option<SyncSender<Departure>>,
    closing: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Departures {
    /// None if no hook listens.
    pub fn start(generation: &Arc<Generation>) -> Option<Departures> {
        let listens = |event: Event| matches!(event, Event::Disconnect | Event::DialectClose);
        generation.registrations.iter().find(|hook| listens(hook.event))?;
        let (queue, waiting) = sync_channel(QUEUE);
        let closing = Arc::new(AtomicBool::new(false));
        let (generation, flag) = (generation.clone(), closing.clone());
        let run = move || run(&generation, &waiting, &flag);
        match std::thread::Builder::new().name("lua-departures".into()).spawn(run) {
            Ok(thread) => Some(Departures { queue: Some(queue), closing, thread: Some(thread) }),
            Err(error) => {
                tracing::error!(%error, "disconnect hooks have no thread and do not run");
                None
            }
        }
    }

    /// Whether there was room.
    pub fn tell(&self, departure: Departure) -> bool {
        let Some(queue) = &self.queue else { return false };
        !matches!(queue.try_send(departure), Err(TrySendError::Full(_)))
    }
}

impl Drop for Departures {
    fn drop(&mut self) {
        self.closing.store(true, Ordering::Release);
        self.queue = None;
        if let Some(thread) = self.thread.take() {
            // It ends by itself; whether it panicked is in the log already.
            let _ = thread.join();
        }
    }
}

fn run(generation: &Arc<Generation>, farewells: &Receiver<Departure>, closing: &AtomicBool) {
    let (waiting, hot) = hooks(generation);
    let mut end = None;
    while let Ok(Departure { client, why, of_dialect }) = farewells.recv() {
        if closing.load(Ordering::Acquire) && Instant::now() > *end.get_or_insert_with(|| Instant::now() + LAST) {
            break;
        }
        if let Some((hook, memory)) = of_dialect {
            if let Err(failure) = dialect::tell_gone(generation, hook, &client, memory, &why)
                && !failure.rests
            {
                tracing::error!(target: "aether::plugin", why = failure.why, "a dialect's on_close broke");
            }
            continue;
        }
        for &hook in &waiting {
            tell_waiting(generation, hook, &client, &why);
        }
        for failure in tell_now(generation, &hot, &client, &why).into_iter().filter(|failure| !failure.rests) {
            tracing::error!(target: "aether::plugin", why = failure.why, "a disconnect hook broke");
        }
    }
}

/// Those that wait, and those that do not.
fn hooks(generation: &Generation) -> (Vec<usize>, Vec<usize>) {
    let all = generation.registrations.iter().enumerate().filter(|(_, hook)| hook.event == Event::Disconnect);
    all.map(|(hook, _)| hook).partition(|hook| generation.waits(*hook))
}

fn tell_now(generation: &Arc<Generation>, hooks: &[usize], client: &Client, why: &Farewell) -> Vec<Failure> {
    if hooks.is_empty() {
        return Vec::new();
    }
    let told = with_vm(generation, |vm| {
        let answers = hooks.iter().map(|&hook| {
            vm.ask(hook, generation.program.limits.connect, &[], |lua| {
                Ok((vm.handles.session(lua, client)?, farewell(lua, why)?))
            })
        });
        let broke = answers.filter_map(Result::err).collect();
        vm.handles.forget_session(client);
        Ok(broke)
    });
    told.unwrap_or_else(|failure| vec![failure])
}

/// It goes on by itself: a slow back end must not hold up the farewells of others.
fn tell_waiting(generation: &Arc<Generation>, hook: usize, client: &Arc<Client>, why: &Farewell) {
    let (client, why) = (client.clone(), why.clone());
    let program = &generation.program;
    let told = program.commons.lanes.tell(generation, hook, move |vm| async move {
        let answer = vm.ask_waiting(hook, &[], |lua| Ok((vm.handles.session(lua, &client)?, farewell(lua, &why)?)));
        answer.await.map(drop)
    });
    if !told {
        let dropped = program.counters.farewells_dropped.fetch_add(1, Ordering::Relaxed) + 1;
        if dropped.is_power_of_two() {
            tracing::warn!(dropped, "too many disconnect hooks wait, farewells are dropped");
        }
    }
}

/// Tells every disconnect hook and waits until all have heard; the failures of those that broke.
pub fn tell(generation: &Arc<Generation>, client: &Arc<Client>, why: &Farewell) -> Vec<Failure> {
    let (waiting, hot) = hooks(generation);
    let mut broke = tell_now(generation, &hot, client, why);
    for hook in waiting {
        let (client, why) = (client.clone(), why.clone());
        let told = generation.program.commons.lanes.run_here(generation, hook, move |vm| async move {
            let args = |lua: &Lua| Ok((vm.handles.session(lua, &client)?, farewell(lua, &why)?));
            vm.ask_waiting(hook, &[], args).await.map(drop)
        });
        broke.extend(told.err().map(Unheard::into_failure));
    }
    broke
}
