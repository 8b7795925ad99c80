//! A store that cannot sync for a moment: what it has taken in by then is nobody's before it is safe, and deleted with the rest.

use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;

use aether::edges::load::{self, Load};
use aether::edges::native::{Limits, WsDialect};
use aether::edges::pulse::Pulse;
use aether::edges::session::{self, Shared};
use aether::edges::wire::Ending;
use aether::kernel::hub::{HistoryFrom, Hub, PublishError, Receipt};
use aether::kernel::log::Log;
use aether::kernel::message::Draft;
use aether::kernel::policy::{Ack, Lag, Policy, Retention};
use aether::kernel::session::{Batch, Session, Start};
use futures_util::poll;
use tokio::sync::SemaphorePermit;

use crate::common::kernel::{Lines, Rules, channel, client, draft, listen, read};
use crate::common::line::Line;
use crate::common::moody::Moody;
use crate::common::{DEADLINE, until, within};

struct Place {
    store: Arc<Moody>,
    hub: Arc<Hub>,
}

impl Place {
    fn start(rules: impl Into<Arc<Rules>>) -> Place {
        let (store, hub) = Moody::hub(rules, 64);
        Place { store, hub }
    }

    fn session(&self) -> Session {
        Session::new(self.hub.clone(), client("ann"), Arc::new(Lines))
    }

    async fn publish(&self, payload: &str) -> Result<Receipt, PublishError> {
        self.publish_to("a", payload).await
    }

    /// Lets the group pass that waits at the gate; then nothing can be synced.
    async fn fails_after(&self, gate: SemaphorePermit<'_>, group: impl Future<Output = Result<Receipt, PublishError>>) {
        let mut next = pin!(self.store.shut_gate());
        assert!(poll!(next.as_mut()).is_pending());
        drop(gate);
        group.await.unwrap();
        let gate = next.await;
        self.store.syncs(false);
        drop(gate);
    }

    async fn publish_to(&self, name: &str, payload: &str) -> Result<Receipt, PublishError> {
        self.hub.publish(&client("publisher"), draft(name, payload)).await
    }
}

/// Found by the simulation: seed 1032.
#[tokio::test]
async fn what_could_not_be_synced_does_not_come_back_after_its_channel_was_deleted() {
    let place = Place::start(Rules::default());
    let mut session = place.session();
    listen(&mut session, "a", Start::Now).await;
    place.store.syncs(false);
    let refused = place.publish("in doubt").await;
    assert!(matches!(refused, Err(PublishError::Store(_))), "{refused:?}");
    assert!(place.hub.forget(&channel("a")).await.is_err());
    place.store.syncs(true);
    place.hub.forget(&channel("a")).await.unwrap();
    assert_eq!(place.publish("after").await.unwrap().offset, 2);
    let herald = tokio::spawn({
        let hub = place.hub.clone();
        async move { hub.herald(tokio::task::yield_now).await }
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
    place.store.syncs(false);
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

/// Found by the simulation: seed 16387.
#[tokio::test]
async fn nothing_is_acknowledged_before_a_mended_store_has_said_how_far_its_channels_reach() {
    let place = Place::start(Rules::default());
    place.publish("one").await.unwrap();
    place.store.syncs(false);
    let publisher = client("publisher");
    let again = || Draft { idempotency_key: Some("k".into()), ..draft("a", "two") };
    assert!(place.hub.publish(&publisher, again()).await.is_err());
    place.store.syncs(true);
    place.store.breaks_and_does_not_open();
    until("it is mended", async || place.store.failure().is_none()).await;
    let refused = place.hub.publish(&publisher, again()).await;
    assert!(matches!(refused, Err(PublishError::Store(_))), "no reader can see it: {refused:?}");
    place.store.opens();
    let receipt = place.hub.publish(&publisher, again()).await.unwrap();
    assert_eq!((receipt.offset, receipt.duplicate), (2, true));
    assert_eq!(place.hub.channels(|_| true)[0].head().offset, 2, "readers see it");
}

fn in_memory() -> Policy {
    Policy { ack: Ack::Memory, ..Policy::default() }
}

#[tokio::test]
async fn what_is_promised_less_is_not_shown_before_what_its_channel_promised_more_of() {
    let rules = Arc::new(Rules::default());
    let place = Place::start(rules.clone());
    let mut session = place.session();
    listen(&mut session, "a", Start::Now).await;
    // A group that waits, so that the next two are one.
    let gate = place.store.shut_gate().await;
    let mut first = Box::pin(place.publish("one"));
    assert!(poll!(first.as_mut()).is_pending());
    until("it waits", async || place.store.came() == 1).await;
    let mut synced = pin!(place.publish("two"));
    assert!(poll!(synced.as_mut()).is_pending());
    rules.policy("a", in_memory());
    assert_eq!(place.hub.resolve_again(|_| true).await.unwrap(), 1);
    let mut fast = pin!(place.publish("three"));
    assert!(poll!(fast.as_mut()).is_pending());
    place.fails_after(gate, first).await;
    assert!(synced.await.is_err());
    assert!(fast.await.is_err(), "it is behind one that is not safe");
    assert_eq!(place.hub.channels(|_| true)[0].head().offset, 1, "and nobody sees it");
    place.store.syncs(true);
    place.publish("four").await.unwrap();
    let herald = tokio::spawn({
        let hub = place.hub.clone();
        async move { hub.herald(tokio::task::yield_now).await }
    });
    assert_eq!(read(&mut session).await, ["P a 1 one", "P a 2 two", "P a 3 three", "P a 4 four"]);
    herald.abort();
}

#[tokio::test]
async fn who_is_promised_memory_hears_nothing_of_a_disk_that_fails_another() {
    let rules = Rules::default();
    rules.policy("fast", in_memory());
    let place = Place::start(rules);
    place.publish("one").await.unwrap();
    place.publish_to("fast", "one").await.unwrap();
    let gate = place.store.shut_gate().await;
    let mut first = Box::pin(place.publish("two"));
    assert!(poll!(first.as_mut()).is_pending());
    until("it waits", async || place.store.came() == 3).await;
    let mut synced = pin!(place.publish("three"));
    let mut fast = pin!(place.publish_to("fast", "two"));
    assert!(poll!(synced.as_mut()).is_pending() && poll!(fast.as_mut()).is_pending());
    place.fails_after(gate, first).await;
    assert!(synced.await.is_err());
    assert_eq!(fast.await.unwrap().offset, 2, "it is shown, and said so");
}

#[tokio::test]
async fn a_lane_that_has_fallen_is_a_failure_of_the_store_and_no_hub_that_is_going_down() {
    let place = Place::start(Rules::default());
    place.publish("one").await.unwrap();
    place.store.panics();
    for name in ["a", "a", "new"] {
        match place.publish_to(name, "two").await {
            Err(PublishError::Store(why)) => assert!(why.to_string().contains("restart the hub"), "{why}"),
            other => panic!("{other:?}"),
        }
    }
    assert!(place.hub.store_failure().is_some_and(|why| why.contains("restart the hub")));
    let past = place.hub.history(&client("ann"), &channel("a"), HistoryFrom::After(0), 9, 99).await.unwrap();
    assert_eq!(past.page.publications.len(), 1, "who reads goes on");
}

#[tokio::test]
async fn what_waits_for_a_store_has_a_bound_in_bytes() {
    let place = Place::start(Rules::default());
    place.publish("one").await.unwrap();
    let gate = place.store.shut_gate().await;
    let large = "x".repeat(20 << 20);
    let mut waiting: Vec<_> = (0..4).map(|_| Box::pin(place.publish(&large))).collect();
    let mut heard = Vec::new();
    for publish in &mut waiting {
        heard.push(poll!(publish.as_mut()));
    }
    let busy = heard.iter().filter(|heard| matches!(heard, Poll::Ready(Err(PublishError::Busy(_))))).count();
    assert_eq!((heard.iter().filter(|heard| heard.is_pending()).count(), busy), (3, 1));
    drop(gate);
    for publish in waiting.into_iter().take(3) {
        publish.await.unwrap();
    }
    place.publish(&large).await.unwrap();
}

#[tokio::test]
async fn a_reader_whose_missed_messages_cannot_be_read_is_told_and_when_to_come_back() {
    let place = Place::start(Rules::default());
    for number in 0..20 {
        place.publish(&number.to_string()).await.unwrap();
    }
    let mut session = place.session();
    listen(&mut session, "a", Start::After(1, None)).await;
    place.store.reads(false);
    let pulse = Pulse { interval: DEADLINE, timeout: None, write_timeout: DEADLINE, drain: DEADLINE };
    let shared = Shared { pulse, roster: Arc::default(), load: Load::new(load::Limits::default()) };
    let limits = Limits { channels_per_request: 10, channels_per_connection: 10, refusals_per_minute: 10 };
    let (line, dialect) = (Line::default(), WsDialect::new(limits, false));
    let ending = session::run(line.clone(), dialect, session, Arc::new(shared), Vec::new());
    assert_eq!(within(DEADLINE, "its end", ending).await, Ending::Store);
    let said = line.text();
    assert!(said.contains(r#""type":"bye","code":1011"#) && said.contains("retry_ms"), "{said}");
}

#[tokio::test]
async fn a_gap_is_counted_when_it_is_told_and_not_when_it_is_proposed() {
    let rules = Rules::default();
    rules.policy("a", Policy { lag: Lag::Skip, max_lag: Some(2), ..Policy::default() });
    let place = Place::start(rules);
    let mut slow = place.session();
    listen(&mut slow, "a", Start::Now).await;
    place.publish("0").await.unwrap();
    let herald = tokio::spawn({
        let hub = place.hub.clone();
        async move { hub.herald(tokio::task::yield_now).await }
    });
    let counters = || {
        let counters = place.hub.counters();
        (counters.gaps.get(), counters.lagged.get(), counters.skipped.get())
    };
    let mut batch = Batch::default();
    for number in 1..6 {
        place.publish(&number.to_string()).await.unwrap();
        until("it has something to say", async || {
            slow.fill(&mut batch, 4096).unwrap();
            slow.commit(&batch, 0, &mut Vec::new());
            !batch.is_empty()
        })
        .await;
    }
    assert_eq!(counters(), (0, 0, 0), "its socket has taken nothing");
    slow.fill(&mut batch, 4096).unwrap();
    slow.commit(&batch, batch.bytes.len(), &mut Vec::new());
    assert_eq!(counters(), (1, 1, 5));
    herald.abort();
}
