//! A store that cannot sync for a moment: what it has taken in by then is nobody's before it is safe, and deleted with the rest.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use aether::kernel::TailLimit;
use aether::kernel::hub::{HistoryFrom, Hub, Parts, PublishError, Receipt};
use aether::kernel::log::{Appended, Entry, Extent, Log, LogError, Page, Policies, Range, Reply};
use aether::kernel::message::{ChannelName, Micros};
use aether::kernel::policy::{Ack, Policy, Retention};
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

struct Place {
    store: Arc<Stubborn>,
    hub: Arc<Hub>,
}

impl Place {
    fn start(rules: Rules) -> Place {
        let store = Arc::new(Stubborn { log: MemoryLog::new(DEADLINE), fails: AtomicBool::new(false) });
        let hub = Hub::start(Parts {
            hooks: Arc::new(rules),
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
        Place { store, hub: hub.unwrap() }
    }

    fn syncs(&self, does: bool) {
        self.store.fails.store(!does, Ordering::SeqCst);
    }

    fn session(&self) -> Session {
        Session::new(self.hub.clone(), client("ann"), Arc::new(Lines))
    }

    async fn publish(&self, payload: &str) -> Result<Receipt, PublishError> {
        self.hub.publish(&client("publisher"), draft("a", payload)).await
    }
}

/// Found by the simulation: seed 1032.
#[tokio::test]
async fn what_could_not_be_synced_does_not_come_back_after_its_channel_was_deleted() {
    let place = Place::start(Rules::default());
    let mut session = place.session();
    listen(&mut session, "a", Start::Now).await;
    place.syncs(false);
    let refused = place.publish("in doubt").await;
    assert!(matches!(refused, Err(PublishError::Store(_))), "{refused:?}");
    assert!(place.hub.forget(&channel("a")).await.is_err());
    place.syncs(true);
    place.hub.forget(&channel("a")).await.unwrap();
    assert_eq!(place.publish("after").await.unwrap().offset, 2);
    let herald = tokio::spawn({
        let hub = place.hub.clone();
        async move { hub.herald().await }
    });
    assert_eq!(read(&mut session).await, ["G a evicted 1 1", "P a 2 after"]);
    herald.abort();
}

/// Found by the simulation: seed 6089. Coming back to such a place, it was told of another life of the log.
#[tokio::test]
async fn who_comes_while_the_oldest_have_made_room_for_what_is_not_shown_yet_stands_at_the_head() {
    let rules = Rules::default();
    let two = Retention { count: Some(2), age: None, bytes: None };
    rules.policy("a", Policy { history: Some(two), ..Policy::default() });
    let place = Place::start(rules);
    for payload in ["one", "two", "three"] {
        place.publish(payload).await.unwrap();
    }
    place.syncs(false);
    let drafts = (0..5).map(|_| draft("a", "in doubt")).collect();
    let refused = place.hub.publish_batch(&client("publisher"), drafts).await;
    assert!(refused.iter().all(Result::is_err), "{refused:?}");
    let mut session = place.session();
    let at = session.subscribe(channel("a"), Start::After(1, None)).await.unwrap();
    assert_eq!(at.offset, 3, "where readers are");
    assert_eq!(read(&mut session).await, ["G a evicted 2 3", "L a 3"]);
    let past = place.hub.history(&client("ann"), &channel("a"), HistoryFrom::After(0), 9, 9).await.unwrap();
    assert_eq!((past.page.extent.first, past.page.extent.last), (4, 3), "an empty one");
    let mut again = place.session();
    listen(&mut again, "a", Start::After(3, Some(at.epoch))).await;
    assert_eq!(read(&mut again).await, ["L a 3"]);
}
