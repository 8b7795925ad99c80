//! The thread of the disconnect hooks: told after the fact, with a VM of its own.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::generation::{Event, Generation};
use super::handles::farewell;
use super::resident::with_vm;
use super::vm::Failure;
use crate::kernel::hooks::{Client, Farewell};

type Departure = (Arc<Client>, Farewell);

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
        generation.registrations.iter().find(|hook| hook.event == Event::Disconnect)?;
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
    pub fn tell(&self, client: &Arc<Client>, why: &Farewell) -> bool {
        let Some(queue) = &self.queue else { return false };
        !matches!(queue.try_send((client.clone(), why.clone())), Err(TrySendError::Full(_)))
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

fn run(generation: &Arc<Generation>, waiting: &Receiver<Departure>, closing: &AtomicBool) {
    let mut end = None;
    while let Ok((client, why)) = waiting.recv() {
        if closing.load(Ordering::Acquire) && Instant::now() > *end.get_or_insert_with(|| Instant::now() + LAST) {
            break;
        }
        for failure in tell(generation, &client, &why).into_iter().filter(|failure| !failure.rests) {
            tracing::error!(target: "aether::plugin", why = failure.why, "a disconnect hook broke");
        }
    }
}

/// Tells every disconnect hook; the failures of those that broke.
pub fn tell(generation: &Arc<Generation>, client: &Client, why: &Farewell) -> Vec<Failure> {
    let hooks = generation.registrations.iter().enumerate().filter(|(_, hook)| hook.event == Event::Disconnect);
    let told = with_vm(generation, |vm| {
        let answers = hooks.map(|(hook, _)| {
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
