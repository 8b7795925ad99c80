//! A store in memory that does not take anything in, or cannot sync, as long as a test says so.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use aether::kernel::TailLimit;
use aether::kernel::hub::{Hub, Parts};
use aether::kernel::log::{Appended, Entry, Extent, Log, LogError, Page, Policies, Range, Reply};
use aether::kernel::message::{ChannelName, Micros};
use aether::kernel::policy::{Ack, Policy};
use aether::stores::memory::MemoryLog;
use tokio::sync::{Semaphore, SemaphorePermit};

use super::DEADLINE;
use super::kernel::{Rules, now};

pub struct Moody {
    log: MemoryLog,
    gate: Semaphore,
    /// Groups that have come to the gate.
    came: AtomicUsize,
    syncs: AtomicBool,
    opens: AtomicBool,
    panics: AtomicBool,
    reads: AtomicBool,
    /// Until it is mended, which is when it is first asked to be.
    is_broken: AtomicBool,
}

impl Moody {
    /// A hub that keeps everything in it.
    pub fn hub(rules: impl Into<Arc<Rules>>, queue: usize) -> (Arc<Moody>, Arc<Hub>) {
        let store = Arc::new(Moody {
            log: MemoryLog::new(DEADLINE),
            gate: Semaphore::new(1),
            came: AtomicUsize::new(0),
            syncs: AtomicBool::new(true),
            opens: AtomicBool::new(true),
            panics: AtomicBool::new(false),
            reads: AtomicBool::new(true),
            is_broken: AtomicBool::new(false),
        });
        let hub = Hub::start(Parts {
            hooks: rules.into(),
            kept: store.clone(),
            fleeting: Arc::new(MemoryLog::new(DEADLINE)),
            clock: now,
            tail: TailLimit { count: 8, bytes: 1 << 20 },
            idle_after: DEADLINE,
            flush_interval: Duration::from_millis(50),
            sweep_interval: DEADLINE,
            lag_patience: Duration::ZERO,
            queue,
        });
        (store, hub.unwrap())
    }

    /// Takes nothing in until what this returns is dropped.
    pub async fn shut_gate(&self) -> SemaphorePermit<'_> {
        self.gate.acquire().await.unwrap()
    }

    pub fn came(&self) -> usize {
        self.came.load(Ordering::SeqCst)
    }

    pub fn syncs(&self, does: bool) {
        self.syncs.store(does, Ordering::SeqCst);
    }

    /// It is mended soon, and then no channel opens.
    pub fn breaks_and_does_not_open(&self) {
        self.opens.store(false, Ordering::SeqCst);
        self.is_broken.store(true, Ordering::SeqCst);
    }

    pub fn reads(&self, does: bool) {
        self.reads.store(does, Ordering::SeqCst);
    }

    /// Its lane does not live through what comes next.
    pub fn panics(&self) {
        self.panics.store(true, Ordering::SeqCst);
    }

    pub fn opens(&self) {
        self.opens.store(true, Ordering::SeqCst);
    }
}

impl Log for Moody {
    fn open<'a>(&'a self, channel: &'a ChannelName, policy: &'a Policy) -> Reply<'a, Extent> {
        if !self.opens.load(Ordering::SeqCst) {
            return Box::pin(std::future::ready(Err(LogError("not now".into()))));
        }
        self.log.open(channel, policy)
    }
    fn append<'a>(&'a self, batch: &'a [Entry]) -> Reply<'a, Vec<Appended>> {
        Box::pin(async move {
            self.came.fetch_add(1, Ordering::SeqCst);
            let _turn = self.gate.acquire().await.expect("it is never closed");
            assert!(!self.panics.load(Ordering::SeqCst), "on purpose");
            self.log.append(batch).await
        })
    }
    fn settle(&self, ack: Ack) -> Reply<'_, ()> {
        if !self.syncs.load(Ordering::SeqCst) {
            return Box::pin(std::future::ready(Err(LogError("not now".into()))));
        }
        self.log.settle(ack)
    }
    fn read<'a>(&'a self, channel: &'a ChannelName, range: Range) -> Reply<'a, Page> {
        if !self.reads.load(Ordering::SeqCst) {
            return Box::pin(std::future::ready(Err(LogError("not now".into()))));
        }
        self.log.read(channel, range)
    }
    fn forget<'a>(&'a self, channel: &'a ChannelName) -> Reply<'a, Extent> {
        self.log.forget(channel)
    }
    fn sweep<'a>(&'a self, now: Micros, policies: Policies<'a>) -> Reply<'a, ()> {
        self.log.sweep(now, policies)
    }
    fn close(&self, channel: &ChannelName) {
        self.log.close(channel);
    }
    fn failure(&self) -> Option<String> {
        self.is_broken.load(Ordering::SeqCst).then(|| "broken".into())
    }
    fn mend(&self) -> Reply<'_, bool> {
        Box::pin(std::future::ready(Ok(self.is_broken.swap(false, Ordering::SeqCst))))
    }
    fn shut(&self) -> Reply<'_, ()> {
        self.log.shut()
    }
}
