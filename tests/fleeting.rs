//! **What is only for now is kept nowhere**: those who listen see it, the log has its number and nothing of what it says.

use std::path::Path;
use std::sync::Arc;

use aether::kernel::hub::HistoryFrom;
use aether::kernel::message::{Draft, Message};
use aether::kernel::session::Start;

use crate::common::kernel::{Kernel, Rules, channel, client, draft, listen, read};

const SAID: &str = "typing-7f3a9c";

fn fleeting(payload: &str) -> Draft {
    let said = draft("a", payload);
    let message = Message { meta: Some(SAID.into()), event: Some(SAID.into()), ..said.message };
    Draft { fleeting: true, message, ..said }
}

/// Whether a text stands in any file below a directory.
fn stands_in(dir: &Path, text: &str) -> bool {
    std::fs::read_dir(dir).unwrap().any(|entry| {
        let path = entry.unwrap().path();
        if path.is_dir() {
            return stands_in(&path, text);
        }
        std::fs::read(&path).unwrap().windows(text.len()).any(|bytes| bytes == text.as_bytes())
    })
}

#[tokio::test]
async fn listeners_see_it_and_later_it_is_a_gap_and_on_no_disk() {
    let kernel = Kernel::start(Arc::new(Rules::default()));
    let mut ann = kernel.session("ann");
    listen(&mut ann, "a", Start::Now).await;
    kernel.say("a", &["kept-51c2"]).await;
    assert_eq!(kernel.publish(fleeting(SAID)).await.offset, 2);
    kernel.say("a", &["kept-51c3"]).await;
    kernel.publish(fleeting(SAID)).await;
    let seen =
        ["P a 1 kept-51c2".to_owned(), format!("P a 2 {SAID}"), "P a 3 kept-51c3".into(), format!("P a 4 {SAID}")];
    assert_eq!(read(&mut ann).await, seen);
    let past = kernel.hub.history(&client("ann"), &channel("a"), HistoryFrom::After(0), 10, 1 << 20).await.unwrap();
    assert_eq!(past.page.publications.iter().map(|p| p.offset).collect::<Vec<_>>(), [1, 3]);
    assert_eq!((past.page.extent.last, past.page.more), (4, false));
    drop(ann);

    let dir = kernel.stop().await;
    assert!(stands_in(dir.path(), "kept-51c2"), "or this test sees nothing");
    assert!(!stands_in(dir.path(), SAID));
    let kernel = Kernel::start_in(dir, Arc::new(Rules::default()), 8);
    let mut back = kernel.session("ann");
    listen(&mut back, "a", Start::After(0, None)).await;
    let told = ["P a 1 kept-51c2", "G a evicted 2 2", "P a 3 kept-51c3", "G a evicted 4 4", "L a 4"];
    assert_eq!(read(&mut back).await, told);
    assert_eq!(kernel.publish(draft("a", "next")).await.offset, 5, "the number of the last one is not given again");
}

#[tokio::test]
async fn a_repeat_of_its_key_has_its_place() {
    let kernel = Kernel::start(Arc::new(Rules::default()));
    let keyed = || Draft { idempotency_key: Some("k".into()), ..fleeting("once") };
    let (first, again) = (kernel.publish(keyed()).await, kernel.publish(keyed()).await);
    assert_eq!((first.offset, again.offset, again.duplicate), (1, 1, true));
}
