//! The schedule: one thread, and the dice say which of the tasks that could go on does.
//!
//! Time stands still while anybody can go on, and jumps to the next timer when nobody can.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::future::{Future, poll_fn};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use futures_util::task::AtomicWaker;
use parking_lot::Mutex;
use tokio::time::Instant;

use super::dice::Dice;

/// Steps at one moment of time; beyond, somebody spins.
const STEPS: u64 = 100_000;

/// Whose task it is: a crash ends those of the hub.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// Readers and whatever else is outside.
    World,
    Hub,
    Connection,
}

type Task = Pin<Box<dyn Future<Output = ()>>>;

/// Tasks, and who has been woken. Clones are the same.
#[derive(Clone)]
pub struct Schedule(Rc<Inner>);

struct Inner {
    dice: Dice,
    tasks: RefCell<BTreeMap<u64, Place>>,
    next: Cell<u64>,
    woken: Arc<Woken>,
}

struct Place {
    kind: Kind,
    /// Taken out while it goes on.
    task: Option<Task>,
    bell: Arc<Bell>,
}

#[derive(Default)]
struct Woken {
    /// In the order of their numbers: who woke them first must not depend on where in memory they are.
    queue: Mutex<BTreeSet<u64>>,
    anybody: AtomicWaker,
    /// A planted bug: one in so many wake-ups of connections is swallowed. 0: none.
    swallows: AtomicU64,
    count: AtomicU64,
}

/// Wakes one task.
struct Bell {
    id: u64,
    kind: Kind,
    queued: AtomicBool,
    woken: Arc<Woken>,
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        let swallows = self.woken.swallows.load(Ordering::Relaxed);
        if swallows > 0 && self.kind == Kind::Connection {
            let count = self.woken.count.fetch_add(1, Ordering::Relaxed);
            if count % swallows == swallows - 1 {
                return;
            }
        }
        if !self.queued.swap(true, Ordering::Relaxed) {
            self.woken.queue.lock().insert(self.id);
            self.woken.anybody.wake();
        }
    }
}

impl Schedule {
    pub fn new(dice: Dice) -> Schedule {
        let woken = Arc::default();
        Schedule(Rc::new(Inner { dice, tasks: RefCell::default(), next: Cell::new(1), woken }))
    }

    /// Plants a bug: one in `every` wake-ups of a connection does not arrive.
    pub fn swallow_wakes(&self, every: u64) {
        self.0.woken.swallows.store(every, Ordering::Relaxed);
    }

    pub fn spawn(&self, kind: Kind, task: impl Future<Output = ()> + 'static) -> u64 {
        let id = self.0.next.replace(self.0.next.get() + 1);
        let bell = Arc::new(Bell { id, kind, queued: AtomicBool::new(true), woken: self.0.woken.clone() });
        let task: Task = Box::pin(task);
        self.0.tasks.borrow_mut().insert(id, Place { kind, task: Some(task), bell });
        self.0.woken.queue.lock().insert(id);
        self.0.woken.anybody.wake();
        id
    }

    pub fn is_over(&self, id: u64) -> bool {
        !self.0.tasks.borrow().contains_key(&id)
    }

    pub fn end(&self, id: u64) {
        let task = self.0.tasks.borrow_mut().remove(&id);
        drop(task);
    }

    /// Ends all tasks of a kind, in the middle of whatever they do.
    pub fn end_all(&self, kind: Kind) {
        let ids: Vec<_> =
            self.0.tasks.borrow().iter().filter(|(_, place)| place.kind == kind).map(|(id, _)| *id).collect();
        ids.into_iter().for_each(|id| self.end(id));
    }

    /// Runs `root` and all tasks until it is over, or until `stop` says why not.
    pub fn run<T>(&self, root: impl Future<Output = T>, stop: impl Fn() -> Option<String>) -> Result<T, String> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
        let runtime = runtime.expect("a runtime");
        let bell =
            Arc::new(Bell { id: 0, kind: Kind::World, queued: AtomicBool::new(true), woken: self.0.woken.clone() });
        self.0.woken.queue.lock().insert(0);
        let (mut moment, mut steps) = (None, 0);
        runtime.block_on(async {
            let mut root = pin!(root);
            let turn = |cx: &mut Context<'_>| {
                self.0.woken.anybody.register(cx.waker());
                let Some(id) = self.pick() else { return Poll::Pending };
                let now = Instant::now();
                steps = if moment == Some(now) { steps + 1 } else { 0 };
                moment = Some(now);
                if steps > STEPS {
                    return Poll::Ready(Err("somebody spins: time stands still and nothing is done".to_owned()));
                }
                if id == 0 {
                    bell.queued.store(false, Ordering::Relaxed);
                    let waker = Waker::from(bell.clone());
                    let step = || root.as_mut().poll(&mut Context::from_waker(&waker));
                    match catch_unwind(AssertUnwindSafe(step)) {
                        Ok(Poll::Ready(result)) => return Poll::Ready(Ok(result)),
                        Ok(Poll::Pending) => {}
                        Err(panic) => return Poll::Ready(Err(said(&*panic))),
                    }
                } else if let Err(panic) = catch_unwind(AssertUnwindSafe(|| self.step(id))) {
                    return Poll::Ready(Err(said(&*panic)));
                }
                if let Some(why) = stop() {
                    return Poll::Ready(Err(why));
                }
                // Each step has a budget of its own, and who has yielded waits outside until we come back.
                cx.waker().wake_by_ref();
                Poll::Pending
            };
            let outcome = poll_fn(turn).await;
            // Timers of tasks may only be dropped where time is.
            self.end_all(Kind::World);
            self.end_all(Kind::Connection);
            self.end_all(Kind::Hub);
            outcome
        })
    }

    fn pick(&self) -> Option<u64> {
        let mut queue = self.0.woken.queue.lock();
        if queue.is_empty() {
            return None;
        }
        let picked = *queue.iter().nth(self.0.dice.below(queue.len() as u64) as usize)?;
        queue.take(&picked)
    }

    fn step(&self, id: u64) {
        let found =
            self.0.tasks.borrow_mut().get_mut(&id).and_then(|place| Some((place.task.take()?, place.bell.clone())));
        let Some((mut task, bell)) = found else { return };
        bell.queued.store(false, Ordering::Relaxed);
        let waker = Waker::from(bell);
        let outcome = task.as_mut().poll(&mut Context::from_waker(&waker));
        let mut tasks = self.0.tasks.borrow_mut();
        match outcome {
            Poll::Pending => {
                if let Some(place) = tasks.get_mut(&id) {
                    place.task = Some(task);
                    return;
                }
            }
            Poll::Ready(()) => drop(tasks.remove(&id)),
        }
        drop(tasks);
        drop(task);
    }
}

fn said(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str).or(panic.downcast_ref::<&str>().copied());
    format!("a panic: {}", text.unwrap_or("without a word"))
}
