//! **What waited for the rules keeps its order**: a draft's turn ends when it stands in its lane, and no batch waits for itself.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use aether::kernel::hooks::{Admission, Answer, Client, ConnectRequest, Farewell, Hooks, Identity, Sight};
use aether::kernel::message::{ChannelName, Draft};
use aether::kernel::policy::Policy;
use aether::kernel::session::Start;
use parking_lot::Mutex;
use tokio::sync::Mutex as Queue;

use crate::common::kernel::{Kernel, Rules, client, draft, listen, read};
use crate::common::{DEADLINE, within};

/// Every draft waits for its turn in its channel, and then for a back end.
#[derive(Default)]
struct Waiting {
    rules: Rules,
    turns: Mutex<HashMap<String, Arc<Queue<()>>>>,
}

impl Hooks for Waiting {
    fn connect<'a>(&'a self, request: &'a ConnectRequest) -> Answer<'a, Identity> {
        self.rules.connect(request)
    }
    fn subscribe<'a>(&'a self, client: &'a Client, channel: &'a ChannelName) -> Answer<'a, Sight> {
        self.rules.subscribe(client, channel)
    }
    fn publish<'a>(&'a self, _: &'a Client, mut draft: Draft) -> Answer<'a, Admission> {
        let queue = self.turns.lock().entry(draft.channel.to_string()).or_default().clone();
        Box::pin(async move {
            let turn = queue.lock_owned().await;
            let pause = draft.message.payload.len() as u64 % 3;
            tokio::time::sleep(Duration::from_millis(pause)).await;
            draft.message.payload = [&draft.message.payload[..], b"!"].concat().into();
            Ok(Admission { draft, turn: Some(Box::new(turn)) })
        })
    }
    fn history<'a>(&'a self, client: &'a Client, channel: &'a ChannelName, resume: bool) -> Answer<'a, Sight> {
        self.rules.history(client, channel, resume)
    }
    fn disconnected(&self, _: &Arc<Client>, _: &Farewell) {}
    fn policy(&self, channel: &ChannelName) -> Policy {
        Hooks::policy(&self.rules, channel)
    }
}

#[tokio::test]
async fn what_the_rules_made_of_a_draft_is_what_is_said_and_kept() {
    let kernel = Kernel::start(Arc::new(Waiting::default()));
    let mut ann = kernel.session("ann");
    listen(&mut ann, "a", Start::Now).await;
    kernel.say("a", &["hello"]).await;
    assert_eq!(read(&mut ann).await, ["P a 1 hello!"]);
}

#[tokio::test]
async fn drafts_stand_in_their_channel_in_the_order_in_which_they_came_to_the_rules() {
    let kernel = Kernel::start(Arc::new(Waiting::default()));
    let (hub, ann) = (&kernel.hub, client("ann"));
    let payloads: Vec<String> = (1..=30).map(|n| "x".repeat(n)).collect();
    let publishes = payloads.iter().map(|payload| hub.publish(&ann, draft("a", payload)));
    // Polled in this order, so they come to the rules in this order.
    let receipts = within(DEADLINE, "publishes", futures_util::future::join_all(publishes)).await;
    let offsets: Vec<_> = receipts.into_iter().map(|receipt| receipt.unwrap().offset).collect();
    assert_eq!(offsets, (1..=30).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread")]
async fn batches_that_ask_for_several_turns_wait_neither_for_themselves_nor_for_each_other() {
    let kernel = Kernel::start(Arc::new(Waiting::default()));
    let batch = |names: [&str; 2]| -> Vec<Draft> {
        (0..40).map(|n| draft(names[n % 2], &format!("{}{n:02}", names[0]))).collect()
    };
    let (hub, ann) = (&kernel.hub, client("ann"));
    let (there, back) = (batch(["a", "b"]), batch(["b", "a"]));
    let both = async { tokio::join!(hub.publish_batch(&ann, there), hub.publish_batch(&ann, back)) };
    let (there, back) = within(DEADLINE, "both batches", both).await;
    for (result, (first, channel)) in [(there, ("a", "a")), (back, ("b", "a"))] {
        let offsets: Vec<_> = result.into_iter().map(|receipt| receipt.unwrap()).collect();
        let of_one: Vec<_> = offsets.iter().filter(|r| r.channel.as_str() == channel).map(|r| r.offset).collect();
        assert_eq!(of_one.len(), 20, "of the batch that begins with {first}");
        assert!(of_one.is_sorted_by(|a, b| a < b), "a batch keeps its order: {of_one:?}");
    }
}
