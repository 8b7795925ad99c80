//! No more files may be open: accepting rests, who is connected goes on, and the log says it once.
//!
//! The last ones are kept for the hub itself: its store, its rules and their requests must not stand still because strangers
//! have come.

use std::io;
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use super::door::Door;

/// How long accepting rests.
const REST: Duration = Duration::from_millis(100);
/// It is over when nothing of it has been seen for so long.
const OVER: Duration = Duration::from_secs(5);
/// Files that no connection gets; of a small limit an eighth.
const KEPT: u64 = 64;

#[derive(Default)]
pub struct Exhaustion {
    since: Option<Instant>,
    seen: Option<Instant>,
}

impl Exhaustion {
    /// A connection could not be accepted.
    pub async fn rest(&mut self, error: &io::Error, door: &Door) {
        door.rests();
        if self.since.is_none() {
            self.since = Some(Instant::now());
            tracing::error!(
                %error,
                "no connection can be accepted: those that are open go on, and accepting does when some have closed; raise the limit of open files (ulimit -n) if this is not enough"
            );
        }
        self.seen = Some(Instant::now());
        tokio::time::sleep(REST).await;
    }

    /// A connection could be accepted.
    pub fn look(&mut self) {
        if self.seen.is_some_and(|seen| seen.elapsed() > OVER) {
            self.seen = None;
            if let Some(since) = self.since.take() {
                tracing::warn!(seconds = since.elapsed().as_secs(), "connections are accepted again");
            }
        }
    }
}

/// How many files may still be opened.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Files {
    Many,
    /// As many as are the hub's own; a word to a stranger may still take one of them for a second.
    Few,
    Last,
}

/// What is left beside a file that was just opened: it has the lowest number that was free, so as many are open.
pub fn beside(newest: &impl AsRawFd) -> Files {
    let Some(limit) = rustix::process::getrlimit(rustix::process::Resource::Nofile).current else { return Files::Many };
    let kept = KEPT.min(limit / 8);
    let left = limit.saturating_sub(u64::try_from(newest.as_raw_fd()).unwrap_or(0));
    match left {
        left if left > kept => Files::Many,
        left if left > kept / 2 => Files::Few,
        _ => Files::Last,
    }
}
