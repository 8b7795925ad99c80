//! The results as tables, and the page of the documentation that has them.

use std::fmt::Write;
use std::path::Path;

use aether::cli::bench::report::thousands;
use anyhow::Context;

use super::plot;
use super::results::{Measured, Results};
use super::targets::{Check, Found, checks};

const BEGIN: &str = "<!-- measured: begin (cargo bench --bench peers -- --write) -->";
const END: &str = "<!-- measured: end -->";

/// Seconds that a run may take; rows that lie further apart are of several.
const ONE_RUN: u64 = 3600;

/// Puts tables, pictures and results into the documentation.
pub fn write(results: &Results, docs: &Path) -> anyhow::Result<()> {
    let page = docs.join("performance.md");
    let text = std::fs::read_to_string(&page).with_context(|| format!("{}", page.display()))?;
    let (before, rest) = text.split_once(BEGIN).with_context(|| format!("{}: {BEGIN} is gone", page.display()))?;
    let (_, after) = rest.split_once(END).with_context(|| format!("{}: {END} is gone", page.display()))?;
    let pictures = docs.join("performance");
    std::fs::create_dir_all(&pictures)?;
    std::fs::write(pictures.join("results.json"), serde_json::to_string_pretty(results)? + "\n")?;
    let mut shown = String::new();
    for (name, title, picture) in plot::all(results) {
        std::fs::write(pictures.join(format!("{name}.svg")), picture)?;
        let _ = writeln!(shown, "![{title}](performance/{name}.svg)\n");
    }
    std::fs::write(&page, format!("{before}{BEGIN}\n\n{shown}{}\n{END}{after}", tables(results)))?;
    Ok(())
}

/// Markdown.
pub fn tables(results: &Results) -> String {
    let mut out = String::new();
    let day = |when: u64| time::OffsetDateTime::from_unix_timestamp(when as i64).map(|at| at.date().to_string());
    let _ = writeln!(out, "Measured on {}: {}.", day(results.when).unwrap_or_default(), results.machine);
    let times = || results.rows.iter().map(|row| row.when);
    if let (Some(first), Some(last)) = (times().min(), times().max())
        && last - first > ONE_RUN
    {
        let _ = writeln!(out, "Some rows were measured later than others; each row in one go, everybody in turn.");
    }
    let _ = writeln!(out, "{}.", results.versions.join(", "));
    if results.quick {
        let _ =
            writeln!(out, "\n**This was `--quick`: it shows that all of it works, and the figures are of no worth.**");
    }
    out.push_str(&targets(&checks(results)));
    for (begins, head) in [
        ("fan-out", "### Fan-out, as fast as publishers are answered"),
        ("many", "### Many channels"),
        ("offered", "### The same offered load"),
        ("compressed", "### Compression"),
        ("publish", "### Publishing, nobody listens"),
        ("idle", "### Idle subscribers"),
        ("held", "### Held connections"),
        ("storm", "### A resume storm"),
        ("start", "### A start"),
    ] {
        let rows: Vec<_> = results.rows.iter().filter(|row| row.name.starts_with(begins)).collect();
        if !rows.is_empty() {
            let _ = write!(out, "\n{head}\n{}", table(&rows));
        }
    }
    out
}

fn targets(checks: &[Check]) -> String {
    let mut out = "\n### What was aimed at\n\n| | wanted | found | |\n|---|---|---|---|\n".to_owned();
    for Check { what, wanted, found } in checks {
        let (found, met) = match found {
            Found::Met(found) => (found.as_str(), "met"),
            Found::Missed(found) => (found.as_str(), "**missed**"),
            Found::Fewer(found) => (found.as_str(), "not so many here"),
            Found::Failed => ("-", "**failed**"),
            Found::Nothing => ("-", "not measured"),
        };
        let _ = writeln!(out, "| {what} | {wanted} | {found} | {met} |");
    }
    out
}

type Show = fn(f64) -> String;

/// A figure's name, its heading, and how it is written.
const COLUMNS: [(&str, &str, Show); 21] = [
    ("deliveries_per_s", "deliveries/s", thousands),
    ("publishes_per_s", "messages/s", thousands),
    ("p50_ms", "p50 ms", |ms| format!("{ms:.2}")),
    ("p99_ms", "p99 ms", |ms| format!("{ms:.2}")),
    ("p99_9_ms", "p99.9 ms", |ms| format!("{ms:.2}")),
    ("cpu_us_per_delivery", "CPU us per delivery", |us| format!("{us:.2}")),
    ("cpu_us_per_publish", "CPU us per message", |us| format!("{us:.1}")),
    ("lost_share", "lost", |share| if share == 0.0 { "0".into() } else { format!("{:.2} %", share * 100.0) }),
    ("doubled", "doubled", thousands),
    ("connections", "connections", thousands),
    ("memory_kib_per_connection", "KiB per connection (PSS)", |kib| format!("{kib:.2}")),
    ("heartbeats", "heartbeats", thousands),
    ("cpu_share_of_a_core", "of a core", |share| format!("{:.1} %", share * 100.0)),
    ("clients", "clients", thousands),
    ("slowest_round_s", "until the last has everything, s", |s| format!("{s:.2}")),
    ("connections_made_again", "connections made again", thousands),
    ("neighbour_quiet_p99_ms", "neighbour's p99 ms, quiet", |ms| format!("{ms:.2}")),
    ("neighbour_beside_p99_ms", "beside the storm", |ms| format!("{ms:.2}")),
    ("neighbour_p99_ratio", "beside : quiet", |ratio| format!("{ratio:.2}x")),
    ("stored_messages", "stored messages", thousands),
    ("ready_s", "ready after s", |s| format!("{s:.2}")),
];

fn table(rows: &[&Measured]) -> String {
    let has = |name: &str| rows.iter().flat_map(|row| &row.cells).any(|cell| cell.median.contains_key(name));
    let columns: Vec<_> = COLUMNS.iter().filter(|(name, ..)| has(name)).collect();
    let compared = rows.iter().find(|row| row.figure("nchan", main_figure(row)).is_some());
    let by = compared.and_then(|row| columns.iter().find(|(name, ..)| *name == main_figure(row)));
    let mut out = "\n| | |".to_owned();
    for (_, heading, _) in &columns {
        let _ = write!(out, " {heading} |");
    }
    if let Some((_, heading, _)) = by {
        let _ = write!(out, " {heading} : nchan's |");
    }
    let _ = writeln!(out, "\n|---|---|{}", "---|".repeat(columns.len() + usize::from(by.is_some())));
    for row in rows {
        for (place, cell) in row.cells.iter().enumerate() {
            let title = if place == 0 { row.title.as_str() } else { "" };
            let _ = write!(out, "| {title} | {} |", cell.who);
            if let Some(why) = &cell.failed {
                let rest = columns.len() + usize::from(by.is_some());
                let _ = writeln!(out, " **failed: {}** |{}", in_a_cell(why), " |".repeat(rest.saturating_sub(1)));
                continue;
            }
            for (name, _, show) in &columns {
                let _ = write!(out, " {} |", cell.median.get(*name).map_or("-".into(), |value| show(*value)));
            }
            if by.is_some() {
                let figure = main_figure(row);
                let ratio = cell.median.get(figure).zip(row.figure("nchan", figure)).map(|(one, other)| one / other);
                let _ = write!(
                    out,
                    " {} |",
                    ratio.filter(|ratio| ratio.is_finite()).map_or("-".into(), |ratio| format!("{ratio:.2}x"))
                );
            }
            out.push('\n');
        }
    }
    let kept = rows.iter().flat_map(|row| &row.cells).filter(|cell| !cell.durability.is_empty());
    let mut promises: Vec<_> = kept.map(|cell| format!("{}: {}", cell.who, cell.durability)).collect();
    promises.sort();
    promises.dedup();
    if !promises.is_empty() {
        let _ = writeln!(out, "\nWhat is kept: {}.", promises.join("; "));
    }
    if rows.iter().flat_map(|row| &row.cells).any(|cell| cell.who.ends_with("compressed")) {
        let _ = writeln!(out, "When a compressed message was sent cannot be seen in it: its latency is not measured.");
    }
    out
}

/// What lies in a table is one line and has no bars.
fn in_a_cell(text: &str) -> String {
    text.replace('|', "/").split_whitespace().collect::<Vec<_>>().join(" ")
}

/// By which a row's cells are compared with nchan's.
fn main_figure(row: &Measured) -> &'static str {
    match row.name.split('-').next() {
        Some("offered") => "p99_ms",
        Some("publish") => "publishes_per_s",
        Some("idle") => "memory_kib_per_connection",
        _ => "deliveries_per_s",
    }
}
