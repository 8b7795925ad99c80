//! Bugs that are planted at the ports, one of each class: the simulation is worth something only if it finds them.
//!
//! Bugs planted in the kernel itself are found too: `tests/planted.sh`.

use super::book::Class;
use super::world;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Planted {
    Nothing,
    /// The store answers two numbers the wrong way round.
    NumbersAreExchanged,
    /// The network does so with two publications.
    LinesAreExchanged,
    LineIsDropped,
    LineComesTwice,
    /// The store leaves one out of a page.
    PageHasAHole,
    /// The store takes a repeat for a message.
    KeyIsForgotten,
    /// One in so many wake-ups of a connection does not arrive.
    WakeIsSwallowed,
    /// The store says that it has synced, and has not.
    SyncIsForgotten,
}

/// Seeds that one of them may hide in.
const SEEDS: u64 = 60;

/// The first seed that finds it, and as what.
fn found(planted: Planted) -> (u64, Class) {
    let mut seeds = 1..=SEEDS;
    let found = seeds.find_map(|seed| world::run(seed, planted).err().map(|broken| (seed, broken)));
    let (seed, broken) = found.unwrap_or_else(|| panic!("{planted:?} is not found in {SEEDS} seeds"));
    println!("{planted:?}: seed {seed} finds it as {:?}: {}", broken.class, broken.what);
    (seed, broken.class)
}

#[test]
fn an_order_that_is_inverted_is_found() {
    assert_eq!(found(Planted::NumbersAreExchanged).1, Class::Order);
    assert_eq!(found(Planted::LinesAreExchanged).1, Class::Order);
}

#[test]
fn a_hole_is_found() {
    assert_eq!(found(Planted::LineIsDropped).1, Class::Hole);
    assert_eq!(found(Planted::PageHasAHole).1, Class::Hole);
}

#[test]
fn a_duplicate_is_found() {
    assert_eq!(found(Planted::LineComesTwice).1, Class::Duplicate);
    assert_eq!(found(Planted::KeyIsForgotten).1, Class::Duplicate);
}

#[test]
fn a_lost_wake_up_is_found() {
    assert_eq!(found(Planted::WakeIsSwallowed).1, Class::LostWakeUp);
}

#[test]
fn what_is_seen_before_it_is_safe_is_found() {
    assert_eq!(found(Planted::SyncIsForgotten).1, Class::Unsafe);
}
