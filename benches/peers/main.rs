//! The hub beside its peers and beside what sockets allow, in one run with one generator: `cargo bench --bench peers`.
//!
//! ```text
//! cargo bench --bench peers                      measure everything, print the tables
//! cargo bench --bench peers -- fan-out publish   only the rows whose names begin so
//! cargo bench --bench peers -- --write           the same, and write docs/performance.md with its pictures and results.json
//! cargo bench --bench peers -- --quick           see that all of it works: a minute or two, figures of no worth (--write puts them aside)
//! cargo bench --bench peers -- --json FILE       keep the results there: written after each row
//! cargo bench --bench peers -- --from FILE       do not measure: print (or --write) what was kept
//! cargo bench --bench peers -- --from FILE storm measure these rows anew, and take the others as they were kept
//! cargo bench --bench peers -- --from FILE --missing   the same with the rows that FILE has not, or has as failed
//! cargo bench --bench peers -- --no-peers        ours and the floors alone
//! ```
//!
//! nginx with nchan and nats-server are what Debian has; who is root gets them installed. Each runs in a directory of its own,
//! on loopback, as whoever runs this. In each row everybody has a turn, then everybody has the next one, and the median of
//! three counts: what disturbs the machine meanwhile disturbs all. A peer that loses messages is shown with the share that it
//! lost; the hub and the floors must not lose any.
//!
//! What fails is said in its place in the tables, the others go on, and the exit code says at the end that something failed.

mod nats;
mod nchan;
mod page;
mod place;
mod plot;
mod results;
mod rows;
mod side;
mod targets;

use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use aether::cli::bench::dial;
use aether::cli::bench::machine::Machine;
use aether::cli::bench::ours;
use anyhow::{Context, bail, ensure};

use place::{install, version};
use results::{Measured, Results};
use rows::{Row, Size, What, Who};
use side::Side;

/// Files that are open beside the connections.
const SPARE: usize = 500;

struct Asked {
    rows: Vec<String>,
    quick: bool,
    write: bool,
    missing: bool,
    no_peers: bool,
    json: PathBuf,
    from: Option<PathBuf>,
}

impl Asked {
    fn read() -> anyhow::Result<Asked> {
        let json = std::env::temp_dir().join("aether-peers.json");
        let (quick, write, missing, no_peers) = (false, false, false, false);
        let mut asked = Asked { rows: Vec::new(), quick, write, missing, no_peers, json, from: None };
        let mut words = std::env::args().skip(1);
        while let Some(word) = words.next() {
            let mut file = || words.next().map(PathBuf::from).with_context(|| format!("{word} which FILE?"));
            match word.as_str() {
                // cargo says it.
                "--bench" => {}
                "--quick" => asked.quick = true,
                "--write" => asked.write = true,
                "--missing" => asked.missing = true,
                "--no-peers" => asked.no_peers = true,
                "--json" => asked.json = file()?,
                "--from" => asked.from = Some(file()?),
                flag if flag.starts_with('-') => bail!("{flag} is not known; benches/peers/main.rs says what is"),
                row => asked.rows.push(row.to_owned()),
            }
        }
        ensure!(asked.from.is_some() || !asked.missing, "--missing wants --from FILE: missing in what?");
        ensure!(
            asked.rows.is_empty() || !asked.write || asked.from.is_some(),
            "--write wants all rows: name none, or say --from FILE which has the others"
        );
        Ok(asked)
    }

    /// Whether this row is to be measured.
    fn wants(&self, row: &str, kept: &Results) -> bool {
        let named = self.rows.iter().any(|name| row.starts_with(name));
        let missing = self.missing && kept.row(row).is_none_or(|row| row.failures().next().is_some());
        named || missing || (self.rows.is_empty() && self.from.is_none())
    }
}

fn main() -> anyhow::Result<()> {
    ours::end_with_signals()?;
    let asked = Asked::read()?;
    let mut results = begin(&asked)?;
    if asked.from.is_none() || asked.missing || !asked.rows.is_empty() {
        measure(&asked, &mut results)?;
    }
    println!("{}", page::tables(&results));
    if asked.write {
        let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs");
        page::write(&results, &if results.quick { aside(&docs)? } else { docs })?;
    }
    let failed: Vec<_> = results.rows.iter().filter(|row| row.failures().next().is_some()).collect();
    let names: Vec<_> = failed.iter().map(|row| row.name.as_str()).collect();
    ensure!(failed.is_empty(), "{} of {} rows failed: {}", failed.len(), results.rows.len(), names.join(", "));
    Ok(())
}

/// Where figures of no worth are written, to be looked at.
fn aside(docs: &Path) -> anyhow::Result<PathBuf> {
    let dir = std::env::temp_dir().join("aether-performance");
    std::fs::create_dir_all(&dir)?;
    std::fs::copy(docs.join("performance.md"), dir.join("performance.md"))?;
    eprintln!("these figures are of no worth: written to {}", dir.display());
    Ok(dir)
}

/// What was kept, or nothing yet.
fn begin(asked: &Asked) -> anyhow::Result<Results> {
    let machine = Machine::here().text();
    if let Some(file) = &asked.from {
        let named = || format!("{}", file.display());
        let kept: Results = serde_json::from_slice(&std::fs::read(file).with_context(named)?).with_context(named)?;
        let measures = asked.missing || !asked.rows.is_empty();
        ensure!(
            !measures || (kept.machine == machine && kept.quick == asked.quick),
            "{} is of another machine, or one of both is --quick: their figures do not go together",
            file.display()
        );
        return Ok(kept);
    }
    Ok(Results { machine, versions: Vec::new(), when: now(), quick: asked.quick, program_bytes: 0, rows: Vec::new() })
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// Keeps what there is after each row, so that who is ended in the middle has lost one.
fn measure(asked: &Asked, results: &mut Results) -> anyhow::Result<()> {
    if !asked.no_peers {
        install()?;
    }
    let rows = rows(asked);
    let (all, wanted): (Vec<_>, Vec<_>) = (
        rows.iter().map(|row| row.name.clone()).collect(),
        rows.into_iter().filter(|row| asked.wants(&row.name, results)).collect(),
    );
    ensure!(!wanted.is_empty() || asked.missing, "no row's name begins so; there are {}", all.join(", "));
    results.program_bytes = side::program_bytes()?;
    results.versions = vec![format!("Aether {}", env!("CARGO_PKG_VERSION"))];
    if !asked.no_peers {
        results.versions.extend([nchan::version(), version("nats-server", &["-v"])]);
    }
    eprintln!("kept after each row in {}", asked.json.display());
    for row in &wanted {
        eprintln!("{}: {}", row.name, row.title);
        let measured = measure_row(row);
        results.rows.retain(|kept| kept.name != row.name);
        results.rows.push(measured);
        results.rows.sort_by_key(|row| all.iter().position(|name| *name == row.name));
        std::fs::write(&asked.json, serde_json::to_vec_pretty(results)?)
            .with_context(|| format!("{}", asked.json.display()))?;
    }
    Ok(())
}

fn rows(asked: &Asked) -> Vec<Row> {
    let mut size = if asked.quick { Size::quick() } else { Size::whole() };
    // The hub and the peers have the limit of open files that we have when we start them.
    let room = dial::room(size.held.max(size.clients) + SPARE).saturating_sub(SPARE);
    if room < size.held {
        eprintln!("{} connections are not to be had here: no more than {room} files (ulimit -Hn)", size.held);
    }
    (size.held, size.clients) = (size.held.min(room), size.clients.min(room));
    let mut rows = rows::all(&size);
    for row in &mut rows {
        row.who.retain(|who| !(asked.no_peers && matches!(who, Who::Nchan | Who::Nats)));
    }
    rows
}

/// Everybody has a turn that only warms, then everybody has the first that counts, and so on.
fn measure_row(row: &Row) -> Measured {
    let (when, mut sides): (u64, Vec<Side>) = (now(), row.who.iter().map(|who| Side::new(*who)).collect());
    match &row.what {
        What::FanOut { .. } | What::Publish { .. } => {
            sides.iter_mut().for_each(Side::start);
            for turn in 0..=row.turns {
                sides.iter_mut().for_each(|side| side.turn(&row.what, turn));
            }
        }
        What::Idle { .. } | What::Storm { .. } | What::Start { .. } => {
            sides.iter_mut().for_each(|side| side.once(&row.what));
        }
    }
    let cells = sides.into_iter().map(Side::cell).collect();
    Measured { name: row.name.clone(), title: row.title.clone(), when, cells }
}
