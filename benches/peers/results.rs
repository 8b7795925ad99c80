//! What was measured, as it is kept: figures by row and by who, the median of all turns, and every turn.

use std::collections::BTreeMap;

use aether::cli::bench::fan_out::{FanOut, Published};
use aether::cli::bench::histogram::Histogram;
use aether::cli::bench::idle::Idle;
use aether::cli::bench::storm::Storm;
use serde::{Deserialize, Serialize};

/// Figures by their names, which have their units.
pub type Figures = BTreeMap<String, f64>;

#[derive(Serialize, Deserialize)]
pub struct Results {
    pub machine: String,
    /// Of everybody.
    pub versions: Vec<String>,
    /// Seconds since 1970.
    pub when: u64,
    /// Too small to be of worth.
    pub quick: bool,
    pub program_bytes: u64,
    pub rows: Vec<Measured>,
}

#[derive(Serialize, Deserialize)]
pub struct Measured {
    pub name: String,
    pub title: String,
    /// Seconds since 1970.
    #[serde(default)]
    pub when: u64,
    pub cells: Vec<Cell>,
}

#[derive(Serialize, Deserialize)]
pub struct Cell {
    pub who: String,
    pub durability: String,
    /// Nothing if a turn failed.
    pub median: Figures,
    pub turns: Vec<Figures>,
    /// Why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failed: Option<String>,
}

impl Cell {
    pub fn new(who: String, durability: String, turns: Vec<Figures>, failed: Option<String>) -> Cell {
        if failed.is_some() {
            return Cell { who, durability, median: Figures::new(), turns, failed };
        }
        let mut by_name: BTreeMap<&String, Vec<f64>> = BTreeMap::new();
        for (name, value) in turns.iter().flatten() {
            by_name.entry(name).or_default().push(*value);
        }
        let median = by_name.into_iter().map(|(name, mut values)| {
            values.sort_by(f64::total_cmp);
            (name.clone(), values[values.len() / 2])
        });
        Cell { who, durability, median: median.collect(), turns, failed }
    }
}

impl Results {
    pub fn row(&self, name: &str) -> Option<&Measured> {
        self.rows.iter().find(|row| row.name == name)
    }

    /// A figure, if it was measured.
    pub fn figure(&self, row: &str, who: &str, name: &str) -> Option<f64> {
        self.row(row)?.figure(who, name)
    }

    /// One's figure by another's; nothing by nothing.
    pub fn ratio(&self, row: &str, name: &str, who: &str, by: &str) -> Option<f64> {
        let ratio = self.figure(row, who, name)? / self.figure(row, by, name)?;
        ratio.is_finite().then_some(ratio)
    }
}

impl Measured {
    /// Those who have no figures, and why.
    pub fn failures(&self) -> impl Iterator<Item = (&str, &str)> {
        self.cells.iter().filter_map(|cell| Some((cell.who.as_str(), cell.failed.as_deref()?)))
    }

    pub fn figure(&self, who: &str, name: &str) -> Option<f64> {
        self.cells.iter().find(|cell| cell.who == who)?.median.get(name).copied()
    }
}

/// Keeps what there is.
fn figures(all: &[(&str, Option<f64>)]) -> Figures {
    all.iter().filter_map(|(name, value)| Some(((*name).to_owned(), (*value)?))).collect()
}

pub fn of_fan_out(ran: &FanOut) -> Figures {
    // What is compressed cannot be asked when it was sent.
    let latency = |share| (ran.latency.count() > 0).then(|| ran.latency.at_ms(share));
    figures(&[
        ("deliveries_per_s", Some(ran.deliveries_per_s)),
        ("publishes_per_s", Some(ran.publishes_per_s)),
        ("p50_ms", latency(0.5)),
        ("p99_ms", latency(0.99)),
        ("p99_9_ms", latency(0.999)),
        ("cpu_us_per_delivery", ran.cpu_us_per_delivery),
        ("lost_share", Some(ran.lost_share())),
        ("doubled", Some(ran.doubled as f64)),
    ])
}

pub fn of_published(ran: &Published) -> Figures {
    figures(&[
        ("publishes_per_s", Some(ran.publishes_per_s)),
        ("p50_ms", Some(ran.answer.at_ms(0.5))),
        ("p99_ms", Some(ran.answer.at_ms(0.99))),
        ("cpu_us_per_publish", ran.cpu_us_per_publish),
    ])
}

pub fn of_idle(ran: &Idle) -> Figures {
    let held = ran.held.as_ref();
    figures(&[
        ("connections", Some(ran.connections as f64)),
        ("memory_kib_per_connection", ran.memory_kib_per_connection),
        ("cpu_share_of_a_core", held.and_then(|held| held.cpu_share)),
        ("heartbeats", held.map(|held| held.heartbeats as f64)),
    ])
}

pub fn of_storm(ran: &Storm) -> Figures {
    let p99 = |all: &Histogram| Some(all.at_ms(0.99));
    figures(&[
        ("clients", Some(ran.clients as f64)),
        ("slowest_round_s", Some(ran.seconds)),
        ("recovered_p99_ms", p99(&ran.recovered)),
        ("connections_made_again", Some(ran.again as f64)),
        ("neighbour_quiet_p99_ms", p99(&ran.quiet)),
        ("neighbour_beside_p99_ms", p99(&ran.beside)),
        ("neighbour_p99_ratio", Some(ran.ratio())),
    ])
}
