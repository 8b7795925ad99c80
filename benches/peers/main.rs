//! The hub beside its peers and beside what sockets allow, in one run with one generator: `cargo bench --bench peers`.
//!
//! ```text
//! cargo bench --bench peers                      measure everything, print the tables
//! cargo bench --bench peers -- fan-out publish   only the rows whose names begin so
//! cargo bench --bench peers -- --write           the same, and write docs/performance.md with its pictures and results.json
//! cargo bench --bench peers -- --quick           see that all of it works: a minute, figures of no worth (--write puts them aside)
//! cargo bench --bench peers -- --json FILE       keep the results
//! cargo bench --bench peers -- --from FILE       do not measure: print (or --write) what was kept
//! cargo bench --bench peers -- --no-peers        ours and the floors alone
//! ```
//!
//! nginx with nchan and nats-server are what Debian has; who is root gets them installed. Each runs in a directory of its own,
//! on loopback, as whoever runs this. In each row everybody has a turn, then everybody has the next one, and the median of
//! three counts: what disturbs the machine meanwhile disturbs all. A peer that loses messages is shown with the share that it
//! lost; the hub and the floors must not lose any.

mod nats;
mod nchan;
mod page;
mod place;
mod plot;
mod results;
mod rows;
mod targets;

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aether::cli::bench::fan_out::{self, Shape};
use aether::cli::bench::floor::{Floor, FloorProcess};
use aether::cli::bench::hub::{Hub, Start};
use aether::cli::bench::machine::Machine;
use aether::cli::bench::progress::Progress;
use aether::cli::bench::publisher::{Load, Publisher};
use aether::cli::bench::target::{Target, Transport};
use aether::cli::bench::{dial, idle, mark, storm};
use anyhow::{Context, bail, ensure};

use nats::Nats;
use nchan::Nchan;
use place::{install, version};
use results::{Cell, Figures, Measured, Results};
use rows::{Row, Size, What, Who};

const HUB: &str = env!("CARGO_BIN_EXE_aether");
/// Files that are open beside the connections.
const SPARE: usize = 500;
/// How long a hub may owe a message, and how long we wait for a peer's.
const PATIENCE: Duration = Duration::from_secs(10);
const PEERS_PATIENCE: Duration = Duration::from_secs(3);

struct Asked {
    rows: Vec<String>,
    quick: bool,
    write: bool,
    no_peers: bool,
    json: Option<PathBuf>,
    from: Option<PathBuf>,
}

impl Asked {
    fn read() -> anyhow::Result<Asked> {
        let mut asked = Asked { rows: Vec::new(), quick: false, write: false, no_peers: false, json: None, from: None };
        let mut words = std::env::args().skip(1);
        while let Some(word) = words.next() {
            let mut file = || words.next().map(PathBuf::from).with_context(|| format!("{word} which FILE?"));
            match word.as_str() {
                // cargo says it.
                "--bench" => {}
                "--quick" => asked.quick = true,
                "--write" => asked.write = true,
                "--no-peers" => asked.no_peers = true,
                "--json" => asked.json = Some(file()?),
                "--from" => asked.from = Some(file()?),
                flag if flag.starts_with('-') => bail!("{flag} is not known; benches/peers/main.rs says what is"),
                row => asked.rows.push(row.to_owned()),
            }
        }
        Ok(asked)
    }
}

fn main() -> anyhow::Result<()> {
    let asked = Asked::read()?;
    ensure!(asked.rows.is_empty() || !asked.write, "--write wants all rows: a page of one run");
    let results = match &asked.from {
        Some(file) => serde_json::from_slice(&std::fs::read(file).with_context(|| format!("{}", file.display()))?)?,
        None => measure(&asked)?,
    };
    if let Some(file) = &asked.json {
        std::fs::write(file, serde_json::to_vec_pretty(&results)?)?;
    }
    println!("{}", page::tables(&results));
    if asked.write {
        let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs");
        page::write(&results, &if results.quick { aside(&docs)? } else { docs })?;
    }
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

fn measure(asked: &Asked) -> anyhow::Result<Results> {
    if !asked.no_peers {
        install()?;
    }
    let mut size = if asked.quick { Size::quick() } else { Size::whole() };
    // The hub and the peers have the limit of open files that we have when we start them.
    let room = dial::room(size.held.max(size.clients) + SPARE).saturating_sub(SPARE);
    if room < size.held {
        eprintln!("{} connections are not to be had here: no more than {room} files (ulimit -Hn)", size.held);
    }
    (size.held, size.clients) = (size.held.min(room), size.clients.min(room));
    let mut rows = rows::all(&size);
    rows.retain(|row| asked.rows.is_empty() || asked.rows.iter().any(|name| row.name.starts_with(name)));
    ensure!(!rows.is_empty(), "no row's name begins so");
    for row in &mut rows {
        row.who.retain(|who| !(asked.no_peers && matches!(who, Who::Nchan | Who::Nats)));
    }
    let mut measured = Vec::new();
    for row in &rows {
        eprintln!("{}: {}", row.name, row.title);
        measured.push(measure_row(row).with_context(|| row.name.clone())?);
    }
    let mut versions = vec![format!("Aether {}", env!("CARGO_PKG_VERSION"))];
    if !asked.no_peers {
        versions.push(nchan::version());
        versions.push(version("nats-server", &["-v"]));
    }
    Ok(Results {
        machine: Machine::here().text(),
        versions,
        when: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()),
        quick: asked.quick,
        program_bytes: std::fs::metadata(HUB)?.len(),
        rows: measured,
    })
}

fn start(who: Who) -> anyhow::Result<Box<dyn Target>> {
    let program = Path::new(HUB);
    Ok(match who {
        Who::Aether | Who::Compressed => Box::new(Hub::start(program, &Start::default())?),
        Who::Nchan => Box::new(Nchan::start()?),
        Who::Nats => Box::new(Nats::start()?),
        Who::OneWrite => Box::new(FloorProcess::start(program, Floor::OneWrite)?),
        Who::SharedTail => Box::new(FloorProcess::start(program, Floor::SharedTail)?),
    })
}

/// Everybody has a turn that only warms, then everybody has the first that counts, and so on.
fn measure_row(row: &Row) -> anyhow::Result<Measured> {
    let cells = match &row.what {
        What::FanOut { .. } | What::Publish { .. } => {
            let targets: Vec<_> = row.who.iter().map(|who| Ok((*who, start(*who)?))).collect::<anyhow::Result<_>>()?;
            let mut turns: Vec<Vec<Figures>> = vec![Vec::new(); targets.len()];
            for turn in 0..=row.turns {
                for ((who, target), turns) in targets.iter().zip(&mut turns) {
                    let figures = one_turn(*who, &**target, &row.what, turn).with_context(|| target.name())?;
                    if turn > 0 {
                        turns.push(figures);
                    }
                }
            }
            let cell = |((who, target), turns): (&(Who, Box<dyn Target>), _)| {
                let compressed = if *who == Who::Compressed { ", compressed" } else { "" };
                Cell::new(target.name() + compressed, target.durability(), turns)
            };
            targets.iter().zip(turns).map(cell).collect()
        }
        What::Idle { transport, connections, hold } => {
            let mut cells = Vec::new();
            for who in &row.who {
                let target = start(*who)?;
                let ran = idle::run(&*target, *transport, *connections, *hold, 0, &Progress::new())?;
                ran.exact().with_context(|| target.name())?;
                cells.push(Cell::new(target.name(), target.durability(), vec![results::of_idle(&ran)]));
            }
            cells
        }
        What::Storm { transport, clients } => {
            let hub = Hub::start(Path::new(HUB), &Start::default())?;
            let (quiet, payload) = (Duration::from_secs(5), 128);
            let shape =
                storm::Shape { transport: *transport, clients: *clients, messages: 100, rounds: 3, payload, quiet };
            let ran = storm::run(&hub, &shape, 0, &Progress::new())?;
            ran.exact()?;
            vec![Cell::new(hub.name(), hub.durability(), vec![results::of_storm(&ran)])]
        }
        What::Start { messages } => {
            let how = Start { env: &[("AETHER_PUBLISH_MAX_BATCH", "1000")], config: None };
            let mut hub = Hub::start(Path::new(HUB), &how)?;
            store(&hub, *messages)?;
            let ready = hub.restart(Path::new(HUB), &how)?;
            let figures = [("ready_s", ready.as_secs_f64()), ("stored_messages", *messages as f64)];
            let figures = figures.map(|(name, value)| (name.to_owned(), value));
            vec![Cell::new(hub.name(), hub.durability(), vec![figures.into_iter().collect()])]
        }
    };
    Ok(Measured { name: row.name.clone(), title: row.title.clone(), cells })
}

fn one_turn(who: Who, target: &dyn Target, what: &What, turn: usize) -> anyhow::Result<Figures> {
    let peer = matches!(who, Who::Nchan | Who::Nats);
    let warm = |load: &Load| Load { time: if turn == 0 { load.time / 10 } else { load.time }, ..load.clone() };
    let progress = Progress::new();
    match what {
        What::FanOut { transport, channels, subscribers, load } => {
            let shape = Shape {
                transport: if who == Who::Compressed { Transport::WsDeflate } else { *transport },
                channels: *channels,
                subscribers: *subscribers,
                load: warm(load),
                patience: if peer { PEERS_PATIENCE } else { PATIENCE },
            };
            let ran = fan_out::run(target, &shape, turn as u64, &progress)?;
            if !peer {
                ran.exact()?;
            }
            Ok(results::of_fan_out(&ran))
        }
        What::Publish { load } => {
            Ok(results::of_published(&fan_out::publish(target, &warm(load), 1, turn as u64, &progress)?))
        }
        What::Idle { .. } | What::Storm { .. } | What::Start { .. } => bail!("these have no turns"),
    }
}

/// Fills a hundred channels alike.
fn store(hub: &Hub, messages: usize) -> anyhow::Result<()> {
    const CHANNELS: usize = 100;
    const BATCH: usize = 1000;
    let (mut publisher, progress) = (Publisher::connect(hub)?, Progress::new());
    for batch in 0..messages / BATCH {
        progress.say(|| format!("{} of {messages} stored", batch * BATCH));
        let payloads: Vec<_> = (0..BATCH as u64).map(|place| mark::payload(mark::now() + place, 128)).collect();
        publisher.publish(&hub.channel(0, batch % CHANNELS), &payloads)?;
    }
    progress.clear();
    Ok(())
}
