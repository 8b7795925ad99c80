//! **A publisher does not outrun the readers**: where the hub cannot deliver as fast, the answer waits.

use std::sync::Arc;

use aether::kernel::session::Start;

use crate::common::kernel::{Kernel, Rules, client, draft, listen, read};
use crate::common::until;

#[tokio::test]
async fn an_answer_waits_while_readers_are_woken_too_late_and_not_for_ever() {
    let kernel = Kernel::start(Arc::new(Rules::default()));
    let held = || kernel.hub.counters().held.get();
    let say = async |name: &str, payloads: &[&str]| {
        let drafts = payloads.iter().map(|payload| draft(name, payload)).collect();
        let receipts = kernel.hub.publish_batch(&client("publisher"), drafts).await;
        kernel.hub.let_readers_follow(receipts.iter().flatten()).await;
    };
    let mut ann = kernel.session("ann");
    listen(&mut ann, "a", Start::Now).await;
    kernel.hush();
    say("b", &["1", "2", "3", "4", "5", "6", "7", "8", "9"]).await;
    assert_eq!(held(), 0, "nobody reads this channel");
    // The tail has room for eight.
    say("a", &["1", "2", "3", "4"]).await;
    assert_eq!(held(), 0, "half of it is for a burst");
    say("a", &["5"]).await;
    say("a", &["6"]).await;
    assert_eq!(held(), 2, "each answer came all the same");

    let hub = kernel.hub.clone();
    let herald = tokio::spawn(async move { hub.herald(tokio::task::yield_now).await });
    until("the readers have caught up", async || {
        let before = held();
        say("a", &["more"]).await;
        held() == before
    })
    .await;
    // She has read nothing all the while: a reader that takes no turn keeps nobody waiting, and misses nothing.
    let head = kernel.publish(draft("a", "last")).await.offset;
    assert_eq!(read(&mut ann).await.len() as u64, head);
    herald.abort();
}
