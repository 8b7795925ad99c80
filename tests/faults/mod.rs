//! Faults on purpose: something breaks, the hub is watched meanwhile, and afterwards it is whole again without a restart.
//!
//! `AETHER_SEED=7 cargo test --test main faults::disk_full` plays one in a schedule of its own. docs/faults.md lists them all,
//! those that live elsewhere too.

mod clock;
mod descriptors;
mod disk;
mod disk_full;
mod failed_sync;
mod read_only;
mod slow_loris;
mod storm;

use crate::common::Dice;

/// The schedule: the same in every run, unless `AETHER_SEED` says another. Said aloud, for whom the test fails.
fn dice() -> Dice {
    let seed = std::env::var("AETHER_SEED").map_or(1, |text| text.parse().expect("AETHER_SEED is a number"));
    eprintln!("AETHER_SEED={seed}");
    Dice::new(seed)
}
