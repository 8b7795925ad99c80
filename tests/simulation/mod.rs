//! **Whatever goes wrong**, and whoever is served first: a deterministic simulation of the kernel and its connection loop.
//!
//! One thread, a clock that stands still while there is something to do, and dice that say who goes on. The hub, its lanes,
//! its herald and the connections are the real ones; the store, the sockets, the readers and the publishers are made of
//! faults. A seed repeats everything: `AETHER_SIM_SEED=17 cargo test --test main simulation::`, `AETHER_SIM_TRACE=1` tells
//! what happens, `AETHER_SIM_SECONDS=60` goes on for longer, from a seed on with `AETHER_SIM_SEED=1000..`.
//! docs/simulation.md says what holds and what was found.

mod book;
mod dice;
mod disk;
mod planted;
mod publisher;
mod reader;
mod schedule;
mod socket;
mod speech;
mod weather;
mod world;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use planted::Planted;

/// How long, unless `AETHER_SIM_SECONDS` says otherwise.
const SECONDS: u64 = 10;

/// The seeds to play: one, or from one on.
fn seeds() -> Box<dyn Iterator<Item = u64>> {
    let text = std::env::var("AETHER_SIM_SEED").unwrap_or_else(|_| "1..".into());
    let number = |text: &str| text.parse::<u64>().expect("AETHER_SIM_SEED is a number, or a number and `..`");
    match text.strip_suffix("..") {
        Some(first) => Box::new(number(first)..),
        None => Box::new(std::iter::once(number(&text))),
    }
}

#[test]
fn whatever_goes_wrong_each_reader_gets_everything_once_in_order_or_a_gap_that_is_right() {
    let seconds =
        std::env::var("AETHER_SIM_SECONDS").map_or(SECONDS, |text| text.parse().expect("a number of seconds"));
    let (began, mut played, mut tally) = (Instant::now(), 0, BTreeMap::<&str, u64>::new());
    for seed in seeds().take_while(|_| began.elapsed() < Duration::from_secs(seconds)) {
        match world::run(seed, Planted::Nothing) {
            Ok(run) => run.tally.into_iter().for_each(|(what, count)| *tally.entry(what).or_default() += count),
            Err(broken) => panic!(
                "seed {seed}: {:?}: {}\n{}\nagain: AETHER_SIM_SEED={seed} cargo test --test main simulation::whatever\n",
                broken.class,
                broken.what,
                broken.events.join("\n")
            ),
        }
        played += 1;
    }
    println!("{played} seeds in {:.1?}", began.elapsed());
    tally.iter().for_each(|(what, count)| println!("{count:>9} {what}"));
}

#[test]
fn a_seed_repeats_everything() {
    for seed in 1..=5 {
        let digest =
            || world::run(seed, Planted::Nothing).map(|run| run.digest).unwrap_or_else(|broken| panic!("{broken:?}"));
        assert_eq!(digest(), digest(), "seed {seed} has two stories");
    }
}

/// A storm in which nothing happens proves nothing.
#[test]
fn everything_that_can_go_wrong_does() {
    let mut tally = BTreeMap::<&str, u64>::new();
    for seed in 1..=150 {
        let run = world::run(seed, Planted::Nothing).unwrap_or_else(|broken| panic!("seed {seed}: {broken:?}"));
        run.tally.into_iter().for_each(|(what, count)| *tally.entry(what).or_default() += count);
    }
    for what in [
        "a calm in which everybody arrived",
        "a channel does not open",
        "a channel left memory",
        "a channel was deleted",
        "a connection ended: the hub went down",
        "a connection ended: the reader lagged",
        "a connection ended: the reader went",
        "a connection ended: the socket took nothing, or the store gave nothing",
        "a gap: another life",
        "a gap: evicted",
        "a gap: heard in another channel",
        "a gap: lost",
        "a gap: no past",
        "a gap: skipped",
        "a gap: withheld",
        "a kill",
        "a pace left some out",
        "a page was read",
        "a power failure",
        "a publisher was told of the store",
        "a publisher was told to come back",
        "a read fails",
        "a reader hung up",
        "a reader stalled",
        "a repeat was recognised",
        "a restart",
        "a socket took few bytes",
        "a sweep fails",
        "a sync fails",
        "an append fails",
        "memory was short",
        "the clock jumped",
        "the last sync fails",
        "the rules changed",
        "the store broke",
        "the store was mended",
    ] {
        assert!(tally.contains_key(what), "it never happens: {what}");
    }
}
