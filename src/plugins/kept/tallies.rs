//! What plugins count and measure: kept for all VMs and beyond a reload, shown on the page of metrics.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

/// Metrics of all plugins; the next one is refused.
const MAX_TALLIES: usize = 1000;
/// Series of one metric. What comes beyond is counted together, each of its labels `other`.
const MAX_SERIES: usize = 100;
/// Bytes of a label's value; the rest is cut off.
const MAX_VALUE: usize = 128;
const OTHER: &str = "other";

#[derive(Clone, PartialEq, Debug)]
pub enum Kind {
    Counter,
    Gauge,
    /// Upper bounds, growing.
    Histogram(Vec<f64>),
}

#[derive(Default)]
pub struct Tallies {
    all: Mutex<BTreeMap<String, Arc<Tally>>>,
    /// Values that found no series of their own.
    folded: Arc<AtomicU64>,
}

pub struct Tally {
    pub kind: Kind,
    pub labels: Vec<String>,
    help: Mutex<String>,
    series: Mutex<BTreeMap<Vec<String>, Series>>,
    folded: Arc<AtomicU64>,
}

#[derive(Default)]
struct Series {
    /// What was counted, set last, or the sum of what was observed.
    value: f64,
    /// Observations by bound, the last ones beyond all bounds.
    buckets: Vec<u64>,
}

impl Tallies {
    /// The metric of this name: the same one for everybody who asks.
    pub fn open(&self, name: &str, kind: Kind, labels: Vec<String>, help: &str) -> Result<Arc<Tally>, String> {
        let mut all = self.all.lock();
        if let Some(tally) = all.get(name) {
            if tally.kind != kind || tally.labels != labels {
                let is = format!("{} with {}", tally.kind.word(), tally.shape());
                return Err(format!("{name} is a {is} already; give this one another name, or restart the hub"));
            }
            help.clone_into(&mut tally.help.lock());
            return Ok(tally.clone());
        }
        if all.len() >= MAX_TALLIES {
            return Err(format!("there are {MAX_TALLIES} metrics of plugins already"));
        }
        let (help, series) = (Mutex::new(help.to_owned()), Mutex::default());
        let tally = Arc::new(Tally { kind, labels, help, series, folded: self.folded.clone() });
        all.insert(name.to_owned(), tally.clone());
        Ok(tally)
    }

    pub fn folded(&self) -> u64 {
        self.folded.load(Ordering::Relaxed)
    }

    /// In the Prometheus text format.
    pub fn render(&self) -> String {
        let mut page = String::new();
        let all: Vec<_> = self.all.lock().iter().map(|(name, tally)| (name.clone(), tally.clone())).collect();
        for (name, tally) in all {
            // Writing to memory does not fail.
            let _ = tally.render(&name, &mut page);
        }
        page
    }
}

impl Kind {
    pub fn word(&self) -> &'static str {
        match self {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram(_) => "histogram",
        }
    }
}

impl Tally {
    pub fn add(&self, labels: Vec<String>, n: f64) {
        self.change(labels, |series| series.value += n);
    }

    pub fn set(&self, labels: Vec<String>, value: f64) {
        self.change(labels, |series| series.value = value);
    }

    pub fn observe(&self, labels: Vec<String>, value: f64) {
        let Kind::Histogram(bounds) = &self.kind else { return };
        let at = bounds.iter().position(|bound| value <= *bound).unwrap_or(bounds.len());
        self.change(labels, |series| {
            series.value += value;
            series.buckets.resize(bounds.len() + 1, 0);
            series.buckets[at] += 1;
        });
    }

    fn change(&self, mut labels: Vec<String>, change: impl FnOnce(&mut Series)) {
        labels.iter_mut().for_each(cut);
        let mut all = self.series.lock();
        let other = || vec![OTHER.to_owned(); self.labels.len()];
        if all.len() >= MAX_SERIES && !all.contains_key(&labels) {
            self.folded.fetch_add(1, Ordering::Relaxed);
            labels = other();
        }
        change(all.entry(labels).or_default());
    }

    fn shape(&self) -> String {
        let labels =
            if self.labels.is_empty() { "no labels".into() } else { format!("labels {}", self.labels.join(", ")) };
        match &self.kind {
            Kind::Histogram(bounds) => format!("{labels} and buckets {bounds:?}"),
            _ => labels,
        }
    }

    fn render(&self, name: &str, page: &mut String) -> std::fmt::Result {
        let help = self.help.lock().replace('\\', "\\\\").replace('\n', "\\n");
        writeln!(page, "# HELP {name} {help}\n# TYPE {name} {}", self.kind.word())?;
        for (values, series) in &*self.series.lock() {
            let labels = |more: Option<&str>| {
                let own =
                    self.labels.iter().zip(values).map(|(label, value)| format!("{label}=\"{}\"", escaped(value)));
                let all: Vec<_> = own.chain(more.map(|bound| format!("le=\"{bound}\""))).collect();
                if all.is_empty() { String::new() } else { format!("{{{}}}", all.join(",")) }
            };
            let Kind::Histogram(bounds) = &self.kind else {
                writeln!(page, "{name}{} {}", labels(None), series.value)?;
                continue;
            };
            let bounds = bounds.iter().map(f64::to_string).chain(["+Inf".to_owned()]);
            let mut total = 0;
            for (count, bound) in series.buckets.iter().zip(bounds) {
                total += count;
                writeln!(page, "{name}_bucket{} {total}", labels(Some(&bound)))?;
            }
            let labels = labels(None);
            writeln!(page, "{name}_sum{labels} {}\n{name}_count{labels} {total}", series.value)?;
        }
        Ok(())
    }
}

fn cut(value: &mut String) {
    let mut end = value.len().min(MAX_VALUE);
    while !value.is_char_boundary(end) {
        end -= 1;
    }
    value.truncate(end);
}

fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}
