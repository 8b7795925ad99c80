//! **What goes to several channels at once comes once** to a connection that listens to several of them.

use std::sync::Arc;

use aether::kernel::format::{Format, Notice};
use aether::kernel::message::{ChannelName, Draft, Epoch, Position, Publication};
use aether::kernel::session::{Batch, Session, Start};

use crate::common::kernel::{Kernel, Lines, Rules, client, draft, listen, read};

fn copy(channel: &str, payload: &str, number: u64) -> Draft {
    Draft { once: Some(number), ..draft(channel, payload) }
}

async fn to_both(kernel: &Kernel, payload: &str, number: u64) {
    for channel in ["a", "b"] {
        kernel.publish(copy(channel, payload, number)).await;
    }
}

/// How often a payload came.
fn count(said: &[String], payload: &str) -> usize {
    said.iter().filter(|line| line.starts_with('P') && line.ends_with(&format!(" {payload}"))).count()
}

#[tokio::test]
async fn who_listens_to_both_gets_one_copy_and_a_word_about_the_other() {
    let kernel = Kernel::start(Arc::new(Rules::default()));
    let (mut both, mut one) = (kernel.session("both"), kernel.session("one"));
    listen(&mut both, "a", Start::Now).await;
    listen(&mut both, "b", Start::Now).await;
    listen(&mut one, "b", Start::Now).await;
    kernel.say("a", &["x"]).await;
    to_both(&kernel, "news", 77).await;
    kernel.say("b", &["y"]).await;
    let mut said = read(&mut both).await;
    said.sort();
    let first = ["G b once 1 1", "P a 1 x", "P a 2 news", "P b 2 y"];
    let other = ["G a once 2 2", "P a 1 x", "P b 1 news", "P b 2 y"];
    assert!(said == first || said == other, "{said:?}");
    assert_eq!(read(&mut one).await, ["P b 1 news", "P b 2 y"]);
}

#[tokio::test]
async fn a_copy_that_the_socket_did_not_take_has_not_been_heard() {
    let kernel = Kernel::start(Arc::new(Rules::default()));
    let mut session = kernel.session("ann");
    listen(&mut session, "a", Start::Now).await;
    listen(&mut session, "b", Start::Now).await;
    to_both(&kernel, "news", 1).await;
    let mut batch = Batch::default();
    while batch.is_empty() {
        tokio::task::yield_now().await;
        session.fill(&mut batch, 4096).unwrap();
        session.commit(&batch, 0, &mut Vec::new());
    }
    session.unsubscribe("a");
    assert_eq!(read(&mut session).await, ["P b 1 news"]);
}

#[tokio::test]
async fn a_copy_is_known_in_what_is_read_back_from_the_store() {
    let kernel = Kernel::start(Arc::new(Rules::default()));
    for number in 1..=30 {
        to_both(&kernel, &format!("n{number}"), number).await;
    }
    let dir = kernel.stop().await;
    let kernel = Kernel::start_in(dir, Arc::new(Rules::default()), 8);
    let mut back = kernel.session("ann");
    listen(&mut back, "a", Start::After(0, None)).await;
    listen(&mut back, "b", Start::After(0, None)).await;
    to_both(&kernel, "n31", 31).await;
    let said = read(&mut back).await;
    for number in 1..=31 {
        assert_eq!(count(&said, &format!("n{number}")), 1, "n{number} in {said:?}");
    }
    let gaps = said.iter().filter(|line| line.starts_with('G')).count();
    assert_eq!(gaps, 31, "{said:?}");
}

#[tokio::test]
async fn more_copies_than_are_remembered_come_again_and_none_is_lost() {
    let kernel = Kernel::start_in(crate::common::TempDir::new(), Arc::new(Rules::default()), 1000);
    let mut session = kernel.session("ann");
    listen(&mut session, "a", Start::Now).await;
    listen(&mut session, "b", Start::Now).await;
    // All of one channel first: when the other's turn comes, only the newest are known.
    for channel in ["a", "b"] {
        for number in 1..=100 {
            kernel.publish(copy(channel, &format!("n{number}"), number)).await;
        }
    }
    let said = read(&mut session).await;
    assert_eq!(said.len(), 200);
    for number in 1..=100 {
        assert!(count(&said, &format!("n{number}")) >= 1, "n{number}");
    }
}

/// Says nothing of gaps, as a dialect may that has no word for them.
struct Taciturn;

impl Format for Taciturn {
    fn publication(&self, channel: &ChannelName, epoch: Epoch, publication: &Publication, out: &mut Vec<u8>) {
        Lines.publication(channel, epoch, publication, out);
    }
    fn notice(&self, _: &ChannelName, _: Position, _: &Notice, _: &mut Vec<u8>) {}
}

#[tokio::test]
async fn what_is_passed_over_without_a_word_is_passed_over_for_good() {
    let kernel = Kernel::start(Arc::new(Rules::default()));
    let mut session = Session::new(kernel.hub.clone(), client("ann"), Arc::new(Taciturn));
    listen(&mut session, "a", Start::Now).await;
    listen(&mut session, "b", Start::Now).await;
    to_both(&kernel, "news", 1).await;
    let said = read(&mut session).await;
    assert_eq!(count(&said, "news"), 1, "{said:?}");
    let stands: Vec<_> = session.positions().map(|(_, at)| at.offset).collect();
    assert_eq!(stands, [1, 1], "it is through with both");
    kernel.say("b", &["more"]).await;
    assert_eq!(count(&read(&mut session).await, "more"), 1);
}

/// Found by the simulation: seed 38.
#[tokio::test]
async fn a_copy_that_has_left_memory_is_known_as_one_though_others_had_it_encoded() {
    let kernel = Kernel::start(Arc::new(Rules::default()));
    let (mut both, mut other) = (kernel.session("both"), kernel.session("other"));
    listen(&mut both, "a", Start::Now).await;
    listen(&mut other, "b", Start::Now).await;
    to_both(&kernel, "news", 5).await;
    assert_eq!(read(&mut both).await, ["P a 1 news"]);
    assert_eq!(read(&mut other).await, ["P b 1 news"]);
    listen(&mut both, "b", Start::After(0, None)).await;
    // The tail keeps eight of them.
    kernel.say("b", &["x"; 20]).await;
    let said = read(&mut both).await;
    assert_eq!((&*said[0], count(&said, "x")), ("G b once 1 1", 20), "{said:?}");
}

/// Found by the simulation: seed 3.
#[tokio::test]
async fn who_has_left_the_channel_of_a_copy_goes_on() {
    let kernel = Kernel::start(Arc::new(Rules::default()));
    let mut session = kernel.session("ann");
    listen(&mut session, "a", Start::Now).await;
    listen(&mut session, "b", Start::Now).await;
    kernel.publish(copy("a", "news", 1)).await;
    assert_eq!(read(&mut session).await, ["P a 1 news"]);
    session.unsubscribe("a");
    kernel.publish(copy("b", "more", 2)).await;
    assert_eq!(read(&mut session).await, ["P b 1 more"]);
}
