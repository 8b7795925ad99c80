//! One side of a row: whoever is measured there, its turns, and why it has no figures if one of them failed.

use std::path::Path;
use std::time::Duration;

use aether::cli::bench::fan_out::{self, Shape};
use aether::cli::bench::floor::{Floor, FloorProcess};
use aether::cli::bench::hub::{Hub, Start};
use aether::cli::bench::progress::Progress;
use aether::cli::bench::publisher::{Load, Publisher};
use aether::cli::bench::target::{Target, Transport};
use aether::cli::bench::{idle, mark, storm};
use anyhow::{Context, bail};

use super::nats::Nats;
use super::nchan::Nchan;
use super::results::{self, Cell, Figures};
use super::rows::{What, Who};

const HUB: &str = env!("CARGO_BIN_EXE_aether");
/// How long a hub may owe a message, and how long we wait for a peer's.
const PATIENCE: Duration = Duration::from_secs(10);
const PEERS_PATIENCE: Duration = Duration::from_secs(3);

pub fn program_bytes() -> anyhow::Result<u64> {
    Ok(std::fs::metadata(HUB).with_context(|| HUB.to_owned())?.len())
}

pub struct Side {
    who: Who,
    /// While it takes turns.
    target: Option<Box<dyn Target>>,
    durability: String,
    turns: Vec<Figures>,
    failed: Option<String>,
}

impl Side {
    pub fn new(who: Who) -> Side {
        Side { who, target: None, durability: String::new(), turns: Vec::new(), failed: None }
    }

    /// It runs from here on, and takes turns with the others.
    pub fn start(&mut self) {
        self.attempt(|side| {
            side.target = Some(start(side.who)?);
            Ok(())
        });
    }

    /// Who has failed once takes no further part.
    fn attempt(&mut self, what: impl FnOnce(&mut Side) -> anyhow::Result<()>) {
        if self.failed.is_none()
            && let Err(error) = what(self)
        {
            let why = format!("{error:#}");
            eprintln!("  {} failed: {why}", self.who.name());
            (self.failed, self.target) = (Some(why), None);
        }
    }

    /// Its nth turn; the first one only warms.
    pub fn turn(&mut self, what: &What, turn: usize) {
        self.attempt(|side| {
            let target = side.target.as_deref().context("it does not run")?;
            side.durability = target.durability();
            let figures = one_turn(side.who, target, what, turn)?;
            if turn > 0 {
                side.turns.push(figures);
            }
            Ok(())
        });
    }

    /// What has no turns; it is started for that.
    pub fn once(&mut self, what: &What) {
        self.attempt(|side| {
            let (durability, figures) = alone(side.who, what)?;
            side.durability = durability;
            side.turns.push(figures);
            Ok(())
        });
    }

    pub fn cell(self) -> Cell {
        Cell::new(self.who.name().into(), self.durability, self.turns, self.failed)
    }
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

/// What its yes to a publisher promises, and its figures.
fn alone(who: Who, what: &What) -> anyhow::Result<(String, Figures)> {
    match what {
        What::Idle { transport, connections, hold } => {
            let target = start(who)?;
            let ran = idle::run(&*target, *transport, *connections, *hold, 0, &Progress::new())?;
            ran.exact()?;
            Ok((target.durability(), results::of_idle(&ran)))
        }
        What::Storm { transport, clients } => {
            let hub = Hub::start(Path::new(HUB), &Start::default())?;
            let (quiet, payload) = (Duration::from_secs(5), 128);
            let shape =
                storm::Shape { transport: *transport, clients: *clients, messages: 100, rounds: 3, payload, quiet };
            let ran = storm::run(&hub, &shape, 0, &Progress::new())?;
            ran.exact()?;
            Ok((hub.durability(), results::of_storm(&ran)))
        }
        What::Start { messages } => {
            let how = Start { env: &[("AETHER_PUBLISH_MAX_BATCH", "1000")], config: None };
            let mut hub = Hub::start(Path::new(HUB), &how)?;
            store(&hub, *messages)?;
            let ready = hub.restart(Path::new(HUB), &how)?;
            let figures = [("ready_s", ready.as_secs_f64()), ("stored_messages", *messages as f64)];
            let figures = figures.map(|(name, value)| (name.to_owned(), value));
            Ok((hub.durability(), figures.into_iter().collect()))
        }
        What::FanOut { .. } | What::Publish { .. } => bail!("these have turns"),
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
