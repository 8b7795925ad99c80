//! **A policy that changes is in force at once**, for channels in memory too.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use aether::kernel::hooks::{Admission, Answer, Client, ConnectRequest, Farewell, Hooks, Identity, Sight};
use aether::kernel::hub::HistoryFrom;
use aether::kernel::message::{ChannelName, Draft};
use aether::kernel::policy::{Ack, Lag, Policy, Retention};
use aether::kernel::session::{Batch, Close, Start};

use crate::common::kernel::{Kernel, Rules, channel, client, draft, listen, read};
use crate::common::until;

fn keep(count: u64) -> Option<Retention> {
    Some(Retention { count: Some(count), age: None, bytes: None })
}

async fn kept(kernel: &Kernel, name: &str) -> Vec<u64> {
    let ann = client("ann");
    let past = kernel.hub.history(&ann, &channel(name), HistoryFrom::After(0), 100, 1 << 20).await.unwrap();
    past.page.publications.iter().map(|p| p.offset).collect()
}

#[tokio::test]
async fn a_channel_in_memory_takes_over_what_it_keeps_and_promises() {
    let rules = Arc::new(Rules::default());
    rules.policy("a", Policy { history: keep(10), ..Policy::default() });
    let kernel = Kernel::start(rules.clone());
    kernel.say("a", &["1", "2", "3", "4", "5"]).await;
    assert_eq!(kept(&kernel, "a").await, [1, 2, 3, 4, 5]);

    rules.policy("a", Policy { history: keep(2), ack: Ack::Memory, ..Policy::default() });
    assert_eq!(kernel.hub.resolve_again(|name| name == "other").await.unwrap(), 0);
    assert_eq!(kernel.publish(draft("a", "6")).await.ack, Ack::Synced, "nobody asked for this one");
    assert_eq!(kernel.hub.resolve_again(|_| true).await.unwrap(), 1);
    assert_eq!(kernel.publish(draft("a", "7")).await.ack, Ack::Memory);
    assert_eq!(kept(&kernel, "a").await, [6, 7]);

    rules.policy("a", Policy { history: keep(10), ..Policy::default() });
    kernel.hub.resolve_again(|_| true).await.unwrap();
    assert_eq!(kernel.publish(draft("a", "8")).await.ack, Ack::Synced);
    assert_eq!(kept(&kernel, "a").await, [6, 7, 8], "what was gone does not come back");
    assert_eq!(kernel.hub.resolve_again(|_| true).await.unwrap(), 0, "nothing has changed");
}

/// Rules that change between the first answer and whatever is done with it.
#[derive(Default)]
struct Fickle {
    rules: Rules,
    number: AtomicU64,
}

impl Hooks for Fickle {
    fn connect<'a>(&'a self, request: &'a ConnectRequest) -> Answer<'a, Identity> {
        self.rules.connect(request)
    }
    fn subscribe<'a>(&'a self, client: &'a Client, channel: &'a ChannelName) -> Answer<'a, Sight> {
        self.rules.subscribe(client, channel)
    }
    fn publish<'a>(&'a self, client: &'a Client, draft: Draft) -> Answer<'a, Admission> {
        self.rules.publish(client, draft)
    }
    fn history<'a>(&'a self, client: &'a Client, channel: &'a ChannelName, resume: bool) -> Answer<'a, Sight> {
        self.rules.history(client, channel, resume)
    }
    fn disconnected(&self, _: &Arc<Client>, _: &Farewell) {}
    fn policy(&self, _: &ChannelName) -> Policy {
        let is_first = self.number.fetch_add(1, Ordering::SeqCst) == 0;
        Policy { ack: if is_first { Ack::Synced } else { Ack::Memory }, ..Policy::default() }
    }
    fn in_charge(&self) -> u64 {
        self.number.load(Ordering::SeqCst)
    }
}

#[tokio::test]
async fn a_channel_that_is_opened_while_the_rules_change_has_the_policy_of_the_new_ones() {
    let kernel = Kernel::start(Arc::new(Fickle::default()));
    assert_eq!(kernel.publish(draft("a", "1")).await.ack, Ack::Memory);
}

#[tokio::test]
async fn a_bound_in_bytes_that_comes_later_counts_what_is_there() {
    let rules = Arc::new(Rules::default());
    rules.policy("a", Policy { history: keep(1000), ..Policy::default() });
    let kernel = Kernel::start(rules.clone());
    let large = "x".repeat(1000);
    for _ in 0..20 {
        kernel.say("a", &[&large]).await;
    }
    let bytes = Some(Retention { count: None, age: None, bytes: Some(5_000) });
    rules.policy("a", Policy { history: bytes, ..Policy::default() });
    kernel.hub.resolve_again(|_| true).await.unwrap();
    until("the sweep has made room", async || kept(&kernel, "a").await.len() <= 5).await;
    assert!(kept(&kernel, "a").await.contains(&20));
}

#[tokio::test]
async fn a_reader_that_lags_meets_the_policy_of_now() {
    let rules = Arc::new(Rules::default());
    let kernel = Kernel::start(rules.clone());
    let mut slow = kernel.session("slow");
    listen(&mut slow, "a", Start::Now).await;
    kernel.say("a", &["1", "2", "3"]).await;
    let mut batch = Batch::default();
    let mut turn = async || {
        // The herald runs, the session proposes, the socket takes nothing.
        tokio::time::sleep(Duration::from_millis(1)).await;
        let outcome = slow.fill(&mut batch, 1 << 20);
        if outcome.is_ok() {
            slow.commit(&batch, 0, &mut Vec::new());
        }
        outcome
    };
    for _ in 0..5 {
        assert_eq!(turn().await, Ok(()));
    }
    rules.policy("a", Policy { lag: Lag::Close, max_lag: Some(2), ..Policy::default() });
    kernel.hub.resolve_again(|_| true).await.unwrap();
    until("the policy strikes", async || turn().await == Err(Close::Lagged)).await;
}

#[tokio::test]
async fn whether_a_channel_is_kept_is_decided_when_it_is_next_opened() {
    let rules = Arc::new(Rules::default());
    rules.policy("a", Policy { history: keep(10), ..Policy::default() });
    let kernel = Kernel::start(rules.clone());
    kernel.say("a", &["1", "2"]).await;
    rules.policy("a", Policy { history: None, lag: Lag::Skip, ..Policy::default() });
    kernel.hub.resolve_again(|_| true).await.unwrap();
    let mut ann = kernel.session("ann");
    listen(&mut ann, "a", Start::After(0, None)).await;
    assert_eq!(read(&mut ann).await, ["P a 1 1", "P a 2 2", "L a 2"]);
    assert_eq!(kernel.publish(draft("a", "3")).await.ack, Ack::Memory, "the new policy promises no more");
    assert_eq!(kept(&kernel, "a").await, [1, 2, 3]);
}
