//! A plugin's own tests: each case in a fresh VM, on a stage of its own with a clock in hand.
//!
//! ```text
//!  tests/*.lua -- Troupe: one thread and one VM per case, killed and named if it hangs
//!                   |  aether.test (verbs, assert) asks
//!                   v
//!                 Stage: the settings, the people, the clock, and a real host of the plugin under test
//!                   |
//!                 Witness: sees in place of the world what the plugin says and does
//! ```

mod air;
mod answers;
mod assert;
pub mod coverage;
mod diff;
mod guest;
mod network;
mod os;
mod people;
mod reading;
mod stage;
mod troupe;
mod verbs;
mod witness;

use std::path::PathBuf;
use std::time::Duration;

pub use coverage::Coverage;
pub use network::Network;
pub use os::follow_clock;
pub use stage::Stage;
pub use troupe::Troupe;
pub use witness::{Said, Witness};

use crate::plugins::Entry;

/// Everything that `aether.test` has.
pub fn registry() -> impl Iterator<Item = &'static Entry> {
    verbs::entries().chain(assert::ENTRIES)
}

/// Everything that `aether` has, in plugins and in their tests.
pub fn whole_library() -> impl Iterator<Item = &'static Entry> {
    crate::plugins::registry().chain(registry())
}

/// What is tested.
#[derive(Clone, Debug)]
pub struct Suite {
    /// The directory of a plugin, or of the operator's scripts; the tests lie below it in `tests/`.
    pub dir: PathBuf,
    pub is_plugin: bool,
    /// Where `t.use` finds other plugins.
    pub plugins: PathBuf,
}

/// One case that was played.
#[derive(Clone, Debug)]
pub struct Played {
    pub file: String,
    pub case: String,
    pub took: Duration,
    pub failed: Option<Failed>,
}

#[derive(Clone, Debug)]
pub struct Failed {
    /// `file:line` of what failed, empty if nobody knows.
    pub place: String,
    /// May have several lines.
    pub why: String,
    /// Where that was called from, the innermost first.
    pub called_at: Vec<String>,
    /// What the plugins logged in this case, the latest last.
    pub log: Vec<String>,
}
