//! What goes wrong in a run, how often, and what time it is there. Each seed has a weather of its own: some faults never
//! happen in it, so that others meet a hub that has gone far.

use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::time::Instant;

use super::dice::Dice;

/// In percent of the occasions.
#[derive(Debug)]
pub struct Chances {
    pub append_fails: u64,
    pub settle_fails: u64,
    pub read_fails: u64,
    pub open_fails: u64,
    pub sweep_fails: u64,
    /// Of the writes that fail.
    pub store_breaks: u64,
    pub log_is_slow: u64,
    pub rules_are_slow: u64,
    /// A socket takes few bytes.
    pub few_bytes: u64,
    /// Of what a reader does next.
    pub reader_stalls: u64,
    pub reader_hangs_up: u64,
    pub reader_asks: u64,
    /// Of what happens to the hub next.
    pub crash: u64,
    pub restart: u64,
    pub forget: u64,
    pub rules_change: u64,
    pub clock_jumps: u64,
    pub memory_is_short: u64,
}

#[derive(Clone)]
pub struct Weather {
    pub chances: Arc<Chances>,
    /// Faults happen only while there is a storm.
    storm: Arc<AtomicBool>,
    dice: Dice,
}

impl Weather {
    pub fn of(dice: &Dice) -> Weather {
        let upto = |most: u64| if dice.percent(50) { 0 } else { dice.between(1, most) };
        let chances = Chances {
            append_fails: upto(30),
            settle_fails: upto(30),
            read_fails: upto(30),
            open_fails: upto(20),
            sweep_fails: upto(50),
            store_breaks: upto(60),
            log_is_slow: upto(60),
            rules_are_slow: upto(40),
            few_bytes: upto(90),
            reader_stalls: upto(30),
            reader_hangs_up: upto(30),
            reader_asks: dice.between(5, 40),
            crash: upto(15),
            restart: upto(8),
            forget: upto(8),
            rules_change: upto(20),
            clock_jumps: upto(15),
            memory_is_short: upto(30),
        };
        Weather { chances: Arc::new(chances), storm: Arc::default(), dice: dice.clone() }
    }

    pub fn storms(&self, now: bool) {
        self.storm.store(now, Ordering::Relaxed);
    }

    pub fn is_stormy(&self) -> bool {
        self.storm.load(Ordering::Relaxed)
    }

    pub fn strikes(&self, chance: u64) -> bool {
        self.is_stormy() && self.dice.percent(chance)
    }

    /// Takes a while, if it strikes: mostly little, at times longer than anybody has patience.
    pub async fn delay(&self, chance: u64) {
        if self.strikes(chance) {
            let most = *self.dice.one_of(&[2, 2, 2, 20, 20, 300, 300, 20_000]);
            tokio::time::sleep(Duration::from_millis(self.dice.between(1, most))).await;
        }
    }
}

const BEGINNING: u64 = 1_800_000_000_000_000;

thread_local! {
    static BEGAN: Cell<Option<Instant>> = const { Cell::new(None) };
    static SKEW: Cell<i64> = const { Cell::new(0) };
    static LATEST: Cell<u64> = const { Cell::new(0) };
}

/// The clock on the wall, which jumps.
pub fn clock() -> u64 {
    let passed = BEGAN.get().map_or(Duration::ZERO, |began| began.elapsed());
    let now = (BEGINNING + passed.as_micros() as u64).saturating_add_signed(SKEW.get());
    LATEST.set(LATEST.get().max(now));
    now
}

/// The latest time that the clock has ever shown in this run.
pub fn latest() -> u64 {
    LATEST.get()
}

pub fn begin() {
    BEGAN.set(Some(Instant::now()));
    SKEW.set(0);
    LATEST.set(BEGINNING);
}

pub fn jump(by: i64) {
    SKEW.set(SKEW.get() + by);
}
