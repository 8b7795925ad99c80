//! What a channel keeps and promises. Asked for when it comes into memory and when the rules change, and kept with it.

use std::time::Duration;

/// When a publisher hears its 200.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub enum Ack {
    /// Numbered and in the tail; the store writes it with the next flush. A crash of the process may take it.
    Memory,
    /// Handed to the operating system. A crash of the process does not take it, a power failure may.
    Written,
    /// On disk, by `fdatasync`.
    #[default]
    Synced,
}

/// What happens to a reader that the log can no longer serve, or that is further behind than `max_lag`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Lag {
    /// It reads on from the store; what has left the store is announced as a gap.
    #[default]
    CatchUp,
    /// It goes on with the newest publications that it may be behind, with a gap that says which older ones were left out.
    DropOldest,
    /// It gets the oldest publications that it may be behind, and then what comes from there on, with a gap between them.
    DropNewest,
    /// It jumps to the newest publication, with a gap that says what was skipped.
    Skip,
    /// Its connection is closed.
    Close,
}

/// How much of a channel stays. An absent bound does not bind.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Retention {
    pub count: Option<u64>,
    pub age: Option<Duration>,
    pub bytes: Option<u64>,
}

impl Default for Retention {
    fn default() -> Self {
        Retention { count: Some(10_000), age: Some(Duration::from_secs(30 * 24 * 3600)), bytes: None }
    }
}

/// A channel's promises.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Policy {
    /// `None`: lives in memory only and never touches the disk; resumable as far as the tail reaches.
    pub history: Option<Retention>,
    pub ack: Ack,
    pub lag: Lag,
    /// Publications that a reader may be behind before `lag` strikes; none: as far as the tail reaches.
    pub max_lag: Option<u64>,
}

impl Default for Policy {
    fn default() -> Self {
        Policy { history: Some(Retention::default()), ack: Ack::Synced, lag: Lag::CatchUp, max_lag: None }
    }
}
