//! A store that cannot sync for a moment: what it has taken in by then is nobody's before it is safe, and deleted with the rest.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use aether::kernel::TailLimit;
use aether::kernel::hub::{Hub, Parts, PublishError};
use aether::kernel::log::{Appended, Entry, Extent, Log, LogError, Page, Policies, Range, Reply};
use aether::kernel::message::{ChannelName, Micros};
use aether::kernel::policy::{Ack, Policy};
use aether::kernel::session::{Session, Start};
use aether::stores::memory::MemoryLog;

use crate::common::DEADLINE;
use crate::common::kernel::{Lines, Rules, channel, client, draft, listen, now, read};

/// Keeps what it is given, and cannot sync as long as it is told so.
struct Stubborn {
    log: MemoryLog,
    fails: AtomicBool,
}

impl Log for Stubborn {
    fn open<'a>(&'a self, channel: &'a ChannelName, policy: &'a Policy) -> Reply<'a, Extent> {
        self.log.open(channel, policy)
    }
    fn append<'a>(&'a self, batch: &'a [Entry]) -> Reply<'a, Vec<Appended>> {
        self.log.append(batch)
    }
    fn settle(&self, ack: Ack) -> Reply<'_, ()> {
        if self.fails.load(Ordering::SeqCst) {
            return Box::pin(std::future::ready(Err(LogError("not now".into()))));
        }
        self.log.settle(ack)
    }
    fn read<'a>(&'a self, channel: &'a ChannelName, range: Range) -> Reply<'a, Page> {
        self.log.read(channel, range)
    }
    fn forget<'a>(&'a self, channel: &'a ChannelName) -> Reply<'a, Extent> {
        self.log.forget(channel)
    }
    fn sweep<'a>(&'a self, now: Micros, policies: Policies<'a>) -> Reply<'a, ()> {
        self.log.sweep(now, policies)
    }
    fn close(&self, channel: &ChannelName) {
        self.log.close(channel)
    }
    fn shut(&self) -> Reply<'_, ()> {
        self.log.shut()
    }
}

/// Found by the simulation: seed 1032.
#[tokio::test]
async fn what_could_not_be_synced_does_not_come_back_after_its_channel_was_deleted() {
    let store = Arc::new(Stubborn { log: MemoryLog::new(DEADLINE), fails: AtomicBool::new(false) });
    let hub = Hub::start(Parts {
        hooks: Arc::new(Rules::default()),
        kept: store.clone(),
        fleeting: Arc::new(MemoryLog::new(DEADLINE)),
        clock: now,
        tail: TailLimit { count: 8, bytes: 1 << 20 },
        idle_after: DEADLINE,
        flush_interval: Duration::from_millis(50),
        sweep_interval: DEADLINE,
        lag_patience: Duration::ZERO,
        queue: 64,
    });
    let hub = hub.unwrap();
    let mut session = Session::new(hub.clone(), client("ann"), Arc::new(Lines));
    listen(&mut session, "a", Start::Now).await;
    store.fails.store(true, Ordering::SeqCst);
    let publisher = client("publisher");
    let refused = hub.publish(&publisher, draft("a", "in doubt")).await;
    assert!(matches!(refused, Err(PublishError::Store(_))), "{refused:?}");
    assert!(hub.forget(&channel("a")).await.is_err());
    store.fails.store(false, Ordering::SeqCst);
    hub.forget(&channel("a")).await.unwrap();
    assert_eq!(hub.publish(&publisher, draft("a", "after")).await.unwrap().offset, 2);
    let herald = tokio::spawn({
        let hub = hub.clone();
        async move { hub.herald().await }
    });
    assert_eq!(read(&mut session).await, ["G a evicted 1 1", "P a 2 after"]);
    herald.abort();
}
