//! What can be measured, with its flags.

use std::time::Duration;

use clap::Args;
use clap::builder::RangedU64ValueParser;
use serde_json::json;

use super::aim::Aim;
use super::progress::Progress;
use super::publisher::Load;
use super::report::{Report, many, thousands};
use super::target::{Target, Transport};
use super::{dial, fan_out, floor, idle, mark, storm};
use crate::config::Period;

/// How long a floor may owe a message: then it is lost.
const PATIENCE: Duration = Duration::from_secs(10);
/// A run before the one that counts.
const WARM: Duration = Duration::from_millis(500);

/// From 1 on; the most is what a machine can be asked for without being brought down by it.
fn up_to(most: u64) -> RangedU64ValueParser<usize> {
    RangedU64ValueParser::new().range(1..=most)
}

/// Each has a thread of its own.
const PUBLISHERS: u64 = 1000;
const CONNECTIONS: u64 = 1_000_000;
const CHANNELS: u64 = 100_000;
/// In one request.
const BATCH: u64 = 10_000;
const MESSAGES: u64 = 1_000_000;
const ROUNDS: u64 = 1000;
/// What lasts no longer says nothing.
const SHORTEST: Duration = Duration::from_millis(100);

fn lasting(text: &str) -> Result<Period, String> {
    match text.parse::<Period>()? {
        period if period.0 < SHORTEST => Err(format!("at least {SHORTEST:?}")),
        period => Ok(period),
    }
}

fn payload() -> RangedU64ValueParser<usize> {
    RangedU64ValueParser::new().range(mark::SMALLEST as u64..=mark::LARGEST as u64)
}

fn rate(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(rate) if rate.is_finite() && rate > 0.0 => Ok(rate),
        _ => Err("messages a second, more than 0".into()),
    }
}

/// Flags that say how much is published.
#[derive(Args)]
struct Flow {
    /// Messages a second of all publishers [default: as fast as they are answered]
    #[arg(long, value_name = "M", value_parser = rate)]
    rate: Option<f64>,
    /// Messages in one request
    #[arg(long, value_name = "N", default_value = "1", value_parser = up_to(BATCH))]
    batch: usize,
    /// Bytes of a message
    #[arg(long, value_name = "B", default_value = "128", value_parser = payload())]
    payload: usize,
    /// How long
    #[arg(long, value_name = "PERIOD", default_value = "5s", value_parser = lasting)]
    time: Period,
}

impl Flow {
    fn load(&self, publishers: usize) -> Load {
        let Flow { rate, batch, payload, time } = self;
        Load { publishers, rate: *rate, batch: *batch, payload: *payload, time: time.0 }
    }

    fn warm(&self, publishers: usize) -> Load {
        Load { time: WARM.min(self.time.0 / 5), ..self.load(publishers) }
    }
}

/// Deliveries to many subscribers
#[derive(Args)]
pub struct FanOut {
    /// How subscribers are connected
    #[arg(long, value_enum, default_value = "ws")]
    transport: Transport,
    /// Connections that publish, each waiting for its answer
    #[arg(long, value_name = "N", default_value = "1", value_parser = up_to(PUBLISHERS))]
    publishers: usize,
    /// Subscribers of each channel
    #[arg(long, value_name = "N", default_value = "1000", value_parser = up_to(CONNECTIONS))]
    subscribers: usize,
    /// Channels, published to in turn
    #[arg(long, value_name = "N", default_value = "1", value_parser = up_to(CHANNELS))]
    channels: usize,
    /// A message that has not come when nothing has come for so long is lost
    #[arg(long, value_name = "PERIOD", default_value = "10s")]
    patience: Period,
    #[command(flatten)]
    flow: Flow,
    #[command(flatten)]
    aim: Aim,
}

impl FanOut {
    pub fn run(self) -> anyhow::Result<()> {
        let target = self.aim.hub()?;
        let shape = fan_out::Shape {
            transport: self.transport,
            channels: self.channels,
            subscribers: self.subscribers,
            load: self.flow.load(self.publishers),
            patience: self.patience.0,
        };
        let warm = fan_out::Shape { load: self.flow.warm(self.publishers), ..shape.clone() };
        fan_out(&target, &warm, &shape, self.aim.json)
    }
}

fn fan_out(target: &dyn Target, warm: &fan_out::Shape, shape: &fan_out::Shape, json: bool) -> anyhow::Result<()> {
    let progress = Progress::new();
    let first = fan_out::run(target, warm, 0, &progress)?;
    first.exact()?;
    let mut ran = fan_out::run(target, shape, 1, &progress)?;
    // Later ones live in the memory that the first ones have left.
    ran.memory_kib_per_connection = first.memory_kib_per_connection;
    let fan_out::Shape { transport, channels, subscribers, load, .. } = shape;
    let title = format!(
        "fan-out, {}: {} with {} each over {}, {}, {} B, {:?}",
        target.name(),
        many(*channels, "channel"),
        many(*subscribers, "subscriber"),
        transport.name(),
        many(load.publishers, "publisher"),
        load.payload,
        load.time
    );
    let asked = json!({
        "transport": transport.name(),
        "channels": channels,
        "subscribers_per_channel": subscribers,
        "publishers": load.publishers,
        "offered_messages_per_s": load.rate,
        "messages_per_request": load.batch,
        "payload_bytes": load.payload,
        "time_s": load.time.as_secs_f64(),
    });
    let memory = ran.memory_kib_per_connection;
    let memory_is = target.account().memory_is();
    Report::new("fan-out", title, target, asked, ran.json())
        .line("deliveries/s", thousands(ran.deliveries_per_s))
        .line("publishes/s", thousands(ran.publishes_per_s))
        .some("latency", (ran.latency.count() > 0).then(|| ran.latency.text()))
        .line("answer", ran.answer.text())
        .some("processor", ran.cpu_us_per_delivery.map(|cpu| format!("{cpu:.2} us per delivery")))
        .some("memory", memory.map(|kib| format!("{kib:.1} KiB per connection ({memory_is})")))
        .end(
            json,
            ran.exact(),
            &format!(
                "each of {} subscribers has {}, {} in all",
                thousands(ran.subscribers as f64),
                match transport {
                    Transport::WsDeflate => "as many messages as were published (what is compressed is only counted)",
                    Transport::Ws | Transport::Sse => "each of its messages once",
                },
                thousands(ran.deliveries as f64)
            ),
        )
}

/// Publishes over HTTP, with nobody listening
#[derive(Args)]
pub struct Publish {
    /// Connections, each waiting for its answer before it publishes again
    #[arg(long, value_name = "N", default_value = "8", value_parser = up_to(PUBLISHERS))]
    connections: usize,
    /// Channels, published to in turn
    #[arg(long, value_name = "N", default_value = "1", value_parser = up_to(CHANNELS))]
    channels: usize,
    #[command(flatten)]
    flow: Flow,
    #[command(flatten)]
    aim: Aim,
}

impl Publish {
    pub fn run(self) -> anyhow::Result<()> {
        let Publish { connections, channels, flow, aim } = self;
        let (target, progress, load) = (aim.hub()?, Progress::new(), flow.load(connections));
        fan_out::publish(&target, &flow.warm(connections), channels, 0, &progress)?;
        let ran = fan_out::publish(&target, &load, channels, 1, &progress)?;
        let title = format!(
            "publish: {}, {}, {} in a request, {} B, {:?}",
            many(connections, "connection"),
            many(channels, "channel"),
            many(load.batch, "message"),
            load.payload,
            load.time
        );
        let asked = json!({
            "connections": connections,
            "channels": channels,
            "offered_messages_per_s": load.rate,
            "messages_per_request": load.batch,
            "payload_bytes": load.payload,
            "time_s": load.time.as_secs_f64(),
        });
        Report::new("publish", title, &target, asked, ran.json())
            .line("publishes/s", thousands(ran.publishes_per_s))
            .line("answer", ran.answer.text())
            .some("processor", ran.cpu_us_per_publish.map(|cpu| format!("{cpu:.1} us per publish")))
            .end(
                aim.json,
                Ok(()),
                &format!("each channel has numbered what was answered, {} in all", thousands(ran.published as f64)),
            )
    }
}

/// Subscribers to whom nothing is said
#[derive(Args)]
pub struct Idle {
    /// How subscribers are connected
    #[arg(long, value_enum, default_value = "ws")]
    transport: Transport,
    /// How many
    #[arg(long, value_name = "N", default_value = "4000", value_parser = up_to(CONNECTIONS))]
    connections: usize,
    /// Hold them so long, answer their heartbeats, and see what those cost
    #[arg(long, value_name = "PERIOD", default_value = "0s")]
    hold: Period,
    #[command(flatten)]
    aim: Aim,
}

impl Idle {
    pub fn run(self) -> anyhow::Result<()> {
        let Idle { transport, connections, hold, aim } = self;
        // Our own hub has the limit of open files that we have when it starts.
        dial::make_room(connections + 200)?;
        let target = aim.hub()?;
        let ran = idle::run(&target, transport, connections, hold.0, 0, &Progress::new())?;
        let title = format!("idle: {} {} subscribers", thousands(connections as f64), transport.name());
        let asked = json!({
            "transport": transport.name(),
            "connections": connections,
            "hold_s": hold.0.as_secs_f64(),
        });
        let held = ran.held.as_ref().map(|held| {
            let share = held.cpu_share.map_or("unknown".into(), |share| format!("{:.1} %", share * 100.0));
            format!("{:.0} s, {} heartbeats, {share} of a core", held.seconds, thousands(held.heartbeats as f64))
        });
        let memory = ran.memory_kib_per_connection;
        Report::new("idle", title, &target, asked, ran.json())
            .some("memory", memory.map(|kib| format!("{kib:.2} KiB per connection ({})", ran.memory_is)))
            .line("connected", format!("{} connections/s, one after the other", thousands(ran.connected_per_s)))
            .some("held", held)
            .end(aim.json, ran.exact(), "none was closed")
    }
}

/// Clients that come back at once, each with messages that it missed
#[derive(Args)]
pub struct ResumeStorm {
    /// How they are connected
    #[arg(long, value_enum, default_value = "ws")]
    transport: Transport,
    /// How many [default: 10000, or as many as there may be open files]
    #[arg(long, value_name = "N", value_parser = up_to(CONNECTIONS))]
    clients: Option<usize>,
    /// Messages that each of them missed
    #[arg(long, value_name = "N", default_value = "100", value_parser = up_to(MESSAGES))]
    messages: usize,
    /// How many times
    #[arg(long, value_name = "N", default_value = "3", value_parser = up_to(ROUNDS))]
    rounds: usize,
    /// Bytes of a message
    #[arg(long, value_name = "B", default_value = "128", value_parser = payload())]
    payload: usize,
    /// How long the neighbour is alone first
    #[arg(long, value_name = "PERIOD", default_value = "5s", value_parser = lasting)]
    quiet: Period,
    #[command(flatten)]
    aim: Aim,
}

impl ResumeStorm {
    pub fn run(self) -> anyhow::Result<()> {
        const CLIENTS: usize = 10_000;
        let clients = self.clients.unwrap_or_else(|| dial::room(CLIENTS));
        if self.clients.is_none() && clients < CLIENTS {
            eprintln!("{clients} clients and not {CLIENTS}: there may not be more open files (`ulimit -Hn`)");
        }
        dial::make_room(clients)?;
        let target = self.aim.hub()?;
        let shape = storm::Shape {
            transport: self.transport,
            clients,
            messages: self.messages,
            rounds: self.rounds,
            payload: self.payload,
            quiet: self.quiet.0,
        };
        let ran = storm::run(&target, &shape, 0, &Progress::new())?;
        let title = format!(
            "resume storm: {} {} clients, {} missed messages each, {} times",
            thousands(clients as f64),
            self.transport.name(),
            self.messages,
            self.rounds
        );
        let asked = json!({
            "transport": self.transport.name(),
            "clients": clients,
            "missed_messages_each": self.messages,
            "rounds": self.rounds,
            "payload_bytes": self.payload,
            "quiet_s": self.quiet.0.as_secs_f64(),
        });
        Report::new("resume-storm", title, &target, asked, ran.json())
            .line("slowest", format!("{:.2} s until the last one has everything", ran.seconds))
            .line("recovered", ran.recovered.text())
            .line("again", format!("{} connections were refused or broke, and were made again", ran.again))
            .line("quiet", format!("{} (a neighbour's 200 messages/s, alone)", ran.quiet.text()))
            .line("beside", format!("{} (the same beside the storm)", ran.beside.text()))
            .line("p99 : quiet", format!("{:.1}", ran.ratio()))
            .end(
                self.aim.json,
                ran.exact(),
                "each client has each message that it missed once, and so has the neighbour",
            )
    }
}

/// What sockets allow here: servers that only pass messages on, to compare with
#[derive(Args)]
pub struct Floor {
    /// Which of them [default: one after the other]
    #[arg(long, value_enum)]
    kind: Option<floor::Floor>,
    /// Connections that publish, each waiting for its answer
    #[arg(long, value_name = "N", default_value = "1", value_parser = up_to(PUBLISHERS))]
    publishers: usize,
    /// Subscribers
    #[arg(long, value_name = "N", default_value = "1000", value_parser = up_to(CONNECTIONS))]
    subscribers: usize,
    #[command(flatten)]
    flow: Flow,
    /// One JSON object for each instead of lines
    #[arg(long)]
    json: bool,
    /// Be one
    #[arg(long, value_enum, hide = true)]
    serve: Option<floor::Floor>,
}

impl Floor {
    pub fn run(self) -> anyhow::Result<()> {
        if let Some(floor) = self.serve {
            return floor.serve();
        }
        let shape = fan_out::Shape {
            transport: Transport::Ws,
            channels: 1,
            subscribers: self.subscribers,
            load: self.flow.load(self.publishers),
            patience: PATIENCE,
        };
        let warm = fan_out::Shape { load: self.flow.warm(self.publishers), ..shape.clone() };
        for floor in [floor::Floor::OneWrite, floor::Floor::SharedTail] {
            if self.kind.is_none_or(|kind| kind == floor) {
                dial::make_room(self.subscribers)?;
                let target = floor::FloorProcess::start(&std::env::current_exe()?, floor)?;
                fan_out(&target, &warm, &shape, self.json)?;
            }
        }
        Ok(())
    }
}
