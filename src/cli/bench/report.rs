//! What a measurement says: lines for people, or one JSON object for programs.

use serde_json::{Map, Value as Json, json};

use super::machine::Machine;
use super::target::Target;

pub struct Report {
    title: String,
    lines: Vec<(&'static str, String)>,
    json: Map<String, Json>,
}

impl Report {
    /// `shape` is what was asked for.
    pub fn new(bench: &str, title: String, target: &dyn Target, shape: Json, measured: Json) -> Report {
        let machine = Machine::here();
        let mut json = Map::new();
        json.insert("bench".into(), bench.into());
        json.insert("target".into(), target.name().into());
        json.insert("durability".into(), target.durability().into());
        json.insert("aether_version".into(), env!("CARGO_PKG_VERSION").into());
        json.insert("machine".into(), machine.json());
        json.insert("shape".into(), shape);
        json.insert("measured".into(), measured);
        let lines = vec![("machine", machine.text()), ("durability", target.durability())];
        Report { title, lines, json }
    }

    pub fn line(mut self, name: &'static str, value: impl Into<String>) -> Report {
        self.lines.push((name, value.into()));
        self
    }

    /// A line, if there is something to say.
    pub fn some(self, name: &'static str, value: Option<String>) -> Report {
        match value {
            Some(value) => self.line(name, value),
            None => self,
        }
    }

    /// Prints it, with whether it was exact, and fails if it was not.
    pub fn end(mut self, json: bool, exact: anyhow::Result<()>, all_good: &str) -> anyhow::Result<()> {
        let text = if json {
            self.json.insert("exact".into(), json!(exact.is_ok()));
            if let Err(error) = &exact {
                self.json.insert("fault".into(), json!(error.to_string()));
            }
            format!("{}\n", Json::Object(self.json))
        } else {
            if exact.is_ok() {
                self = self.line("exact", all_good);
            }
            let width = self.lines.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
            let lines = self.lines.iter().map(|(name, value)| format!("  {name:width$}  {value}\n"));
            format!("{}\n{}", self.title, lines.collect::<String>())
        };
        super::super::print(text.as_bytes())?;
        exact
    }
}

/// 1234567 as 1,234,567.
pub fn thousands(number: f64) -> String {
    let digits = format!("{number:.0}");
    let mut out = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place) % 3 == 0 {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// 1 publisher, 4 publishers.
pub fn many(count: usize, what: &str) -> String {
    let plural = if count == 1 { "" } else { "s" };
    format!("{} {what}{plural}", thousands(count as f64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_numbers_can_be_read() {
        for (number, text) in [(0.0, "0"), (999.0, "999"), (1000.4, "1,000"), (1_234_567.0, "1,234,567")] {
            assert_eq!(thousands(number), text);
        }
        assert_eq!((many(1, "channel"), many(2000, "channel")), ("1 channel".into(), "2,000 channels".into()));
    }
}
