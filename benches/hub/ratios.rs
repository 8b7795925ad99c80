//! Ratios of two sides that took turns: each turn's own, so that what disturbs the machine disturbs both.

#[derive(Default)]
pub struct Ratios(Vec<(f64, f64)>);

impl Ratios {
    pub fn add(&mut self, by: f64, value: f64) {
        self.0.push((by, value));
    }

    /// The median of both sides, of their ratio, and how far half of the turns lie from that at most, in percent of it.
    pub fn cells(&self) -> String {
        let by = median(self.0.iter().map(|(by, _)| *by));
        let value = median(self.0.iter().map(|(_, value)| *value));
        let ratio = median(self.ratios());
        let spread = median(self.ratios().map(|one| (one / ratio - 1.0).abs() * 100.0));
        format!("{by:.2} | {value:.2} | {ratio:.2} | +-{spread:.0} %")
    }

    fn ratios(&self) -> impl Iterator<Item = f64> {
        self.0.iter().map(|(by, value)| value / by)
    }
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}
