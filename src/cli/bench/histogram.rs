//! How long things took: a histogram whose steps grow with the value, so that each is within one part in 128.

use serde_json::{Value as Json, json};

/// Steps per doubling.
const STEPS: u64 = 128;
const STEP_BITS: u32 = STEPS.trailing_zeros();
/// Longer than this (more than an hour) counts as this.
const LONGEST: u64 = u32::MAX as u64;
const SLOTS: usize = ((32 - STEP_BITS + 1) as u64 * STEPS) as usize;

/// Microseconds, counted.
#[derive(Clone)]
pub struct Histogram {
    slots: Vec<u64>,
    count: u64,
    max: u64,
}

impl Default for Histogram {
    fn default() -> Histogram {
        Histogram { slots: vec![0; SLOTS], count: 0, max: 0 }
    }
}

fn slot(micros: u64) -> usize {
    let doublings = (u64::BITS - micros.leading_zeros()).saturating_sub(STEP_BITS + 1);
    (u64::from(doublings) * STEPS + (micros >> doublings)) as usize
}

/// The largest value of a slot.
fn most(slot: usize) -> u64 {
    let slot = slot as u64;
    if slot < 2 * STEPS {
        return slot;
    }
    let doublings = slot / STEPS - 1;
    ((slot - doublings * STEPS + 1) << doublings) - 1
}

impl Histogram {
    pub fn record(&mut self, micros: u64) {
        let micros = micros.min(LONGEST);
        self.slots[slot(micros)] += 1;
        self.count += 1;
        self.max = self.max.max(micros);
    }

    pub fn merge(&mut self, other: &Histogram) {
        for (mine, theirs) in self.slots.iter_mut().zip(&other.slots) {
            *mine += theirs;
        }
        self.count += other.count;
        self.max = self.max.max(other.max);
    }

    pub fn count(&self) -> u64 {
        self.count
    }

    /// Milliseconds that this share of all did not take longer than; 0 if there are none.
    pub fn at_ms(&self, share: f64) -> f64 {
        let wanted = ((self.count as f64 * share).ceil() as u64).max(1);
        let mut seen = 0;
        let found = self.slots.iter().position(|count| {
            seen += count;
            seen >= wanted
        });
        found.map_or(0, |slot| most(slot).min(self.max)) as f64 / 1000.0
    }

    pub fn max_ms(&self) -> f64 {
        self.max as f64 / 1000.0
    }

    pub fn json(&self) -> Json {
        json!({
            "p50_ms": self.at_ms(0.5),
            "p99_ms": self.at_ms(0.99),
            "p99_9_ms": self.at_ms(0.999),
            "max_ms": self.max_ms(),
            "count": self.count,
        })
    }

    /// For people.
    pub fn text(&self) -> String {
        let (p50, p99, p999, max) = (self.at_ms(0.5), self.at_ms(0.99), self.at_ms(0.999), self.max_ms());
        format!("p50 {p50:.2}   p99 {p99:.2}   p99.9 {p999:.2}   max {max:.2} ms")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_is_within_its_slot_and_a_part_in_128() {
        let mut before = 0;
        for micros in (0..5000).chain((5000..LONGEST).step_by(999_983)).chain([LONGEST]) {
            let here = slot(micros);
            assert!(here >= before && here < SLOTS, "{micros}");
            assert!(most(here) >= micros && most(here) - micros <= micros / STEPS, "{micros} in {}", most(here));
            before = here;
        }
    }

    #[test]
    fn shares_are_those_of_the_sorted_values() {
        let mut histogram = Histogram::default();
        (1..=1000u64).for_each(|n| histogram.record(n * 10));
        let near = |share: f64, ms: f64| (histogram.at_ms(share) / ms - 1.0).abs() < 0.01;
        assert!(near(0.5, 5.0) && near(0.99, 9.9) && near(0.999, 9.99), "{}", histogram.text());
        assert_eq!((histogram.max_ms(), histogram.count()), (10.0, 1000));
        let mut twice = histogram.clone();
        twice.merge(&histogram);
        assert_eq!((twice.count(), twice.at_ms(0.5)), (2000, histogram.at_ms(0.5)));
        assert_eq!(Histogram::default().at_ms(0.99), 0.0);
    }
}
