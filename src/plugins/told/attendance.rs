//! The join and leave hooks: told after the fact, in batches, on a thread of their own with its own VM.
//!
//! The queue belongs to the host and not to a generation: what happens while one takes over from another waits for the next.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use mlua::{Lua, Table};
use parking_lot::Mutex;

use super::crowd::{Batch, Crowd, Listener, Move};
use crate::kernel::hooks::Client;
use crate::kernel::message::{ChannelName, Micros};
use crate::plugins::source::about::About;
use crate::plugins::source::generation::{Event, Generation};
use crate::plugins::vm::resident::with_vm;
use crate::plugins::vm::{Failure, Vm};
use crate::plugins::waiting::lanes::Unheard;

/// Moves that may wait. When it is full the newest is counted and dropped: nobody waits for these hooks.
const QUEUE: usize = 16_384;
/// How long the hooks may take altogether to hear what still waits at the end.
const LAST: Duration = Duration::from_secs(1);
/// A clock may be moved by hand, so it is looked at this often.
const LOOK: Duration = Duration::from_millis(50);

pub struct Attendance {
    queue: SyncSender<Option<Move>>,
    /// Held by the thread of the generation in charge.
    work: Mutex<Work>,
}

struct Work {
    /// None wakes the thread, to see that it is to end.
    moves: Receiver<Option<Move>>,
    crowd: Crowd,
    /// The generation whose hooks it counts for.
    heeded: u64,
}

impl Default for Attendance {
    fn default() -> Attendance {
        let (queue, moves) = sync_channel(QUEUE);
        Attendance { queue, work: Mutex::new(Work { moves, crowd: Crowd::default(), heeded: 0 }) }
    }
}

impl Attendance {
    /// Whether there was room.
    pub fn tell(&self, client: &Arc<Client>, channel: &ChannelName, came: bool) -> bool {
        let told = Move { client: client.clone(), channel: channel.clone(), came };
        !matches!(self.queue.try_send(Some(told)), Err(TrySendError::Full(_)))
    }

    /// Tells at once what a thread would tell in a moment; the failures of hooks that broke.
    pub fn settle(&self, generation: &Arc<Generation>) -> Vec<Failure> {
        let (mut work, now) = (self.work.lock(), generation.program.commons.now());
        let Work { moves, crowd, heeded } = &mut *work;
        if *heeded != generation.id {
            *heeded = generation.id;
            crowd.heed(now, |channel| listeners(generation, channel));
        }
        for moved in moves.try_iter().flatten() {
            crowd.take_for(generation, moved, now);
        }
        let batches: Vec<_> = crowd.due(now).into_iter().chain(crowd.gathered()).collect();
        drop(work);
        batches.into_iter().filter_map(|batch| tell(generation, batch).err()).collect()
    }

    /// Keeps the threads of all generations from it, as the next one's does that was quicker.
    #[cfg(test)]
    pub fn taken(&self) -> impl Sized + '_ {
        self.work.lock()
    }

    /// When somebody's going is to be told next.
    pub fn next(&self) -> Option<Micros> {
        self.work.lock().crowd.next()
    }
}

/// The thread of one generation.
pub struct Usher {
    generation: Arc<Generation>,
    closing: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Usher {
    /// None if no hook listens.
    pub fn start(generation: &Arc<Generation>) -> Option<Usher> {
        generation.registrations.iter().find(|hook| is_attended(hook.event))?;
        let closing = Arc::new(AtomicBool::new(false));
        let (own, flag) = (generation.clone(), closing.clone());
        let run = move || run(&own, &flag);
        match std::thread::Builder::new().name("lua-attendance".into()).spawn(run) {
            Ok(thread) => Some(Usher { generation: generation.clone(), closing, thread: Some(thread) }),
            Err(error) => {
                tracing::error!(%error, "join and leave hooks have no thread and do not run");
                None
            }
        }
    }
}

impl Drop for Usher {
    fn drop(&mut self) {
        self.closing.store(true, Ordering::Release);
        // Full is as good: then it does not sleep.
        let _ = self.generation.program.commons.attendance.queue.try_send(None);
        if let Some(thread) = self.thread.take() {
            // It ends by itself; whether it panicked is in the log already.
            let _ = thread.join();
        }
    }
}

pub fn is_attended(event: Event) -> bool {
    matches!(event, Event::Join | Event::Leave)
}

fn run(generation: &Arc<Generation>, closing: &AtomicBool) {
    let commons = &generation.program.commons;
    // A reload may come before we do: then the next one has it, and whoever closes us waits for our end.
    let mut work = loop {
        match commons.attendance.work.try_lock_for(LOOK) {
            Some(work) => break work,
            None if closing.load(Ordering::Acquire) => return,
            None => {}
        }
    };
    let Work { moves, crowd, heeded } = &mut *work;
    *heeded = generation.id;
    crowd.heed(commons.now(), |channel| listeners(generation, channel));
    while !closing.load(Ordering::Acquire) {
        let received = match crowd.next() {
            None => moves.recv().map_err(|_| RecvTimeoutError::Disconnected),
            Some(next) => moves.recv_timeout(Duration::from_micros(next.saturating_sub(commons.now())).min(LOOK)),
        };
        match received {
            Ok(Some(moved)) => crowd.take_for(generation, moved, commons.now()),
            Ok(None) | Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => break,
        }
        crowd.due(commons.now()).into_iter().for_each(|batch| tell_or_log(generation, batch));
    }
    // What has happened is told by those who were there; those who may come back are left to the next.
    let last = moves.try_iter().flatten().take(QUEUE).collect::<Vec<_>>();
    last.into_iter().for_each(|moved| crowd.take_for(generation, moved, commons.now()));
    let end = Instant::now() + LAST;
    crowd.gathered().into_iter().take_while(|_| Instant::now() < end).for_each(|batch| tell_or_log(generation, batch));
}

impl Crowd {
    fn take_for(&mut self, generation: &Generation, moved: Move, now: Micros) {
        let listeners = listeners(generation, &moved.channel);
        if !listeners.is_empty() {
            self.take(moved, &listeners, now);
        }
    }
}

fn listeners(generation: &Generation, channel: &ChannelName) -> Vec<Listener> {
    let hooks = generation.registrations.iter().enumerate();
    let concerned =
        hooks.filter(|(at, hook)| is_attended(hook.event) && generation.is_concerned(*at, channel.as_str()));
    concerned
        .map(|(hook, registration)| Listener {
            hook,
            joins: registration.event == Event::Join,
            debounce: match registration.about {
                About::Attendance { debounce, .. } => debounce.as_micros() as Micros,
                _ => 0,
            },
        })
        .collect()
}

fn tell_or_log(generation: &Arc<Generation>, batch: Batch) {
    let (hook, channel) = (batch.hook, batch.channel.clone());
    if let Err(failure) = tell(generation, batch)
        && !failure.rests
    {
        let (registration, plugin) = (&generation.registrations[hook], &generation.unit_of(hook).name);
        tracing::error!(target: "aether::plugin", hook = %registration, plugin, place = registration.place, why = failure.why, %channel, "a join or leave hook broke");
    }
}

/// The thread stands still meanwhile, even for one that waits: who came and left is told in this order.
fn tell(generation: &Arc<Generation>, batch: Batch) -> Result<(), Failure> {
    let hook = batch.hook;
    if !generation.waits(hook) {
        let budget = generation.program.limits.connect;
        return with_vm(generation, |vm| vm.ask(hook, budget, &[], |lua| told(vm, lua, &batch)).map(drop));
    }
    let asked = generation.program.commons.lanes.run_here(generation, hook, move |vm| async move {
        vm.ask_waiting(hook, &[], |lua| told(&vm, lua, &batch)).await.map(drop)
    });
    asked.map_err(Unheard::into_failure)
}

fn told(vm: &Vm, lua: &Lua, batch: &Batch) -> mlua::Result<(Table, Table)> {
    let pattern = vm.registrations()[batch.hook].pattern.as_ref();
    let sessions = lua.create_table_with_capacity(batch.sessions.len(), 0)?;
    for client in &batch.sessions {
        sessions.raw_push(vm.handles.session(lua, client)?)?;
    }
    sessions.set_readonly(true);
    Ok((vm.handles.channel_of(lua, batch.hook, pattern, &batch.channel)?, sessions))
}
