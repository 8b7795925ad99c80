//! The kernel: channels as logs, subscribers as cursors.
//!
//! ```text
//!   Draft ──hooks──▶ Admitted ──lane──▶ Entry ──log──▶ Publication ──▶ tail ──▶ sessions ──▶ bytes
//!         may they?            order           append              newest   cursors   format
//!                                              settle               part
//! ```
//!
//! A channel is a log; a subscriber is a cursor. Publishing appends; delivering reads forward from a cursor. Live
//! delivery, resume, replay and a slow reader are the same act from different positions.
//!
//! # What holds
//!
//! * **Order.** A channel's offsets go 1, 2, 3 ..., each given once for as long as the log lives; every reader sees them in
//!   that order. (`tests/order.rs`)
//! * **Nothing is skipped in silence.** From its cursor on a reader gets every publication exactly once, or a gap that names
//!   what is missing and why. (`tests/resume.rs`)
//! * **Safe before seen.** Nobody sees a publication before it is as safe as its channel's `ack` promises. (`tests/crash.rs`)
//! * **Once.** A repeat under a known idempotency key changes nothing and reaches nobody. (`tests/idempotency.rs`)
//! * **Hidden stays hidden.** Who sees through a view gets nothing else, live, resumed or as history. (`tests/views.rs`)
//! * **Who sleeps is written to.** A reader's task is woken only for what it alone can do. (`tests/asleep.rs`)
//! * **Nobody waits for a reader that takes nothing.** A session holds cursors and at most one half-written publication.
//!   (`tests/slow_readers.rs`) Where all are late, a publisher's answer waits a tenth of a second at most. (`tests/rounds.rs`)
//! * **Once encoded.** The tail's publications are rendered once per view and encoded once per view and format, not per reader. (`tests/fan_out.rs`)
//!
//! # Who is who
//!
//! `message` the three stages · `policy` what a channel promises · `pattern` naming channels · `hooks`, `log`, `kv`, `format`,
//! `dialect` the ports: rules, stores, what rules keep, bytes for readers, other protocols · `lane` the one owner of order,
//! `inbox` the way to it, `returns` when those it has no room for come back, `steady` its doubts about the clock · `tail` the
//! newest part, shared, `rendering` what a view leaves of it, `foreseen` what a slow view has made of it before · `channel` one
//! log in memory and who reads it, `herald` tells them that it has grown, `rounds` whether publishers outrun them · `session`
//! one client, `subscription` one of its cursors, `once` what it has had in another of its channels, `turn` what it writes
//! next · `hub` the verbs, `counters` what they count.
//!
//! The kernel parses nothing and names no store, no language, no protocol: `tests/layers.rs` holds that.

mod channel;
mod counters;
pub mod dialect;
mod foreseen;
pub mod format;
mod herald;
pub mod hooks;
pub mod hub;
mod inbox;
pub mod kv;
mod lane;
pub mod log;
pub mod message;
mod once;
pub mod pattern;
pub mod policy;
mod rendering;
mod returns;
mod rounds;
pub mod session;
mod steady;
mod subscription;
mod tail;
mod turn;

pub use channel::Channel;
pub use counters::{BUCKETS, Counter, Counters, Histogram};
pub use inbox::Work;
pub use tail::TailLimit;
