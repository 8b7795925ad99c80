//! A clock that jumps: nothing is deleted for it, nothing runs backwards, and nothing stays for ever.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use aether::kernel::hub::HistoryFrom;
use aether::kernel::policy::{Policy, Retention};
use aether::kernel::session::Start;

use crate::common::kernel::{Kernel, Rules, channel, client, draft, listen, now, read};
use crate::common::*;

static AHEAD: AtomicI64 = AtomicI64::new(0);

const DAY: i64 = 24 * 3600 * 1_000_000;

fn jumpy() -> u64 {
    now().saturating_add_signed(AHEAD.load(Ordering::Relaxed))
}

async fn past(kernel: &Kernel, name: &str) -> Vec<(u64, u64)> {
    let past = kernel.hub.history(&client("reader"), &channel(name), HistoryFrom::After(0), 100, usize::MAX).await;
    past.unwrap().page.publications.iter().map(|publication| (publication.offset, publication.time)).collect()
}

#[tokio::test]
async fn a_clock_that_jumps_a_day_and_back_deletes_nothing_and_turns_nothing_round() {
    let rules = Arc::new(Rules::default());
    let an_hour = Retention { count: None, age: Some(Duration::from_secs(3600)), bytes: None };
    rules.policy("aged", Policy { history: Some(an_hour), ..Policy::default() });
    let kernel = Kernel::start_by(jumpy, TempDir::new(), rules, 8);
    let mut reader = kernel.session("reader");
    listen(&mut reader, "aged", Start::Now).await;
    kernel.say("aged", &["1", "2", "3"]).await;

    AHEAD.store(DAY, Ordering::Relaxed);
    assert!(past(&kernel, "aged").await.is_empty(), "by this clock it is a day old");
    kernel.say("aged", &["4"]).await;
    // The lane sweeps every 20 ms.
    tokio::time::sleep(Duration::from_millis(400)).await;

    AHEAD.store(0, Ordering::Relaxed);
    kernel.say("aged", &["5"]).await;
    let short = Duration::from_millis(300);
    kernel.publish(aether::kernel::message::Draft { ttl: Some(short), ..draft("aged", "6") }).await;
    let there = past(&kernel, "aged").await;
    assert_eq!(there.iter().map(|(offset, _)| *offset).collect::<Vec<_>>(), [1, 2, 3, 4, 5, 6]);
    assert!(there.is_sorted_by_key(|(_, time)| *time), "{there:?}");
    let heard = read(&mut reader).await;
    let said = heard.iter().filter(|line| line.starts_with('P')).count();
    assert_eq!(said, 6, "{heard:?}");
    until("what was to live for 300 ms is gone, though the channel's own time is a day ahead", async || {
        past(&kernel, "aged").await.len() == 5
    })
    .await;

    AHEAD.store(-DAY, Ordering::Relaxed);
    kernel.say("aged", &["7"]).await;
    assert!(past(&kernel, "aged").await.is_sorted_by_key(|(_, time)| *time));
    AHEAD.store(0, Ordering::Relaxed);
    drop(reader);
    kernel.stop().await;
}
