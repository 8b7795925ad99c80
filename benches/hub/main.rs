//! What the hub does per second, per core and per connection: `cargo bench --bench hub [-- NAME ...]`, and what
//! ten million messages leave behind: `cargo bench --bench hub -- soak`.
//!
//! It measures with the parts of `aether bench`; here are the rows that only somebody who changes the hub asks for. The hub
//! runs as a process of its own with its defaults, history on disk. Machines are noisy; compare the ratios of one run.
//! Traffic goes to loopback only.

mod deflate;
mod dialect;
mod neighbour;
mod ratios;
mod soak;
mod stalled;

use std::path::Path;
use std::time::Duration;

use aether::cli::bench::fan_out::{self, Shape};
use aether::cli::bench::hub::{Hub, Start};
use aether::cli::bench::idle;
use aether::cli::bench::ours;
use aether::cli::bench::progress::Progress;
use aether::cli::bench::publisher::Load;
use aether::cli::bench::target::{Target, Transport};

type Bench = fn() -> anyhow::Result<()>;

const SUBSCRIBERS: usize = 1000;
const PAYLOAD: usize = 128;
const RUN: Duration = Duration::from_secs(5);
const WARM: Duration = Duration::from_millis(500);
/// How long a subscriber may see nothing.
const STUCK: Duration = Duration::from_secs(10);

fn main() -> anyhow::Result<()> {
    ours::end_with_signals()?;
    let wanted: Vec<String> = std::env::args().skip(1).filter(|arg| !arg.starts_with('-')).collect();
    let runs: [(&str, Bench); 10] = [
        ("fan-out-ws", || fan_out_over(Transport::Ws)),
        ("fan-out-dialect", dialect::beside_the_native_one),
        ("fan-out-sse", || fan_out_over(Transport::Sse)),
        ("quiet", quiet),
        ("publish", publish),
        ("idle", idle_ones),
        ("neighbour", neighbour::neighbour),
        ("stalled", stalled::stalled),
        ("deflate", deflate::deflate),
        ("soak", soak::soak),
    ];
    for (name, run) in runs {
        // The soak takes minutes: only by its name.
        let all = wanted.is_empty() && name != "soak";
        if all || wanted.iter().any(|w| name.starts_with(w.as_str())) {
            run()?;
        }
    }
    Ok(())
}

/// A hub with its defaults, and these settings.
fn start(env: &[(&str, &str)]) -> anyhow::Result<Hub> {
    Hub::start(Path::new(env!("CARGO_BIN_EXE_aether")), &Start { env, config: None })
}

fn load(publishers: usize, time: Duration) -> Load {
    Load { publishers, rate: None, batch: 1, payload: PAYLOAD, time }
}

fn shape(transport: Transport, load: Load) -> Shape {
    Shape { transport, channels: 1, subscribers: SUBSCRIBERS, load, patience: STUCK }
}

/// One run, in which every subscriber must have everything.
fn exact(target: &dyn Target, shape: &Shape) -> anyhow::Result<fan_out::FanOut> {
    static RUNS: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);
    let number = RUNS.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    let ran = fan_out::run(target, shape, number, &Progress::new())?;
    ran.exact()?;
    Ok(ran)
}

fn row(publishers: usize, ran: &fan_out::FanOut) {
    let (p50, p99) = (ran.latency.at_ms(0.5), ran.latency.at_ms(0.99));
    let cpu = ran.cpu_us_per_delivery.unwrap_or(f64::NAN);
    println!(
        "| {publishers} | {:.0} | {:.0} | {p50:.1} | {p99:.1} | {cpu:.2} |",
        ran.deliveries_per_s, ran.publishes_per_s
    );
}

const HEAD: &str = "| publishers | deliveries/s | publishes/s | p50 ms | p99 ms | hub CPU us per delivery |
|---|---|---|---|---|---|";

fn fan_out_over(transport: Transport) -> anyhow::Result<()> {
    let name = transport.name();
    println!(
        "\nfan-out, {name}: 1 channel, {SUBSCRIBERS} subscribers, {PAYLOAD} B, history on disk, ack synced\n{HEAD}"
    );
    for publishers in [1, 4] {
        let hub = start(&[])?;
        exact(&hub, &shape(transport, load(publishers, WARM)))?;
        row(publishers, &exact(&hub, &shape(transport, load(publishers, RUN)))?);
    }
    Ok(())
}

/// Fifty messages a second: nothing can be coalesced.
fn quiet() -> anyhow::Result<()> {
    println!("\n50 messages/s to {SUBSCRIBERS} WebSocket subscribers\n{HEAD}");
    let load = Load { rate: Some(50.0), ..load(1, RUN) };
    row(1, &exact(&start(&[])?, &shape(Transport::Ws, load))?);
    Ok(())
}

fn publish() -> anyhow::Result<()> {
    println!("\npublish over HTTP, {PAYLOAD} B, ack synced, no subscribers");
    println!("| connections | channels | publishes/s | p50 ms | p99 ms | hub CPU us per publish |");
    println!("|---|---|---|---|---|---|");
    for (connections, channels) in [(1, 1), (8, 1), (64, 1), (64, 1000)] {
        let ran = fan_out::publish(&start(&[])?, &load(connections, RUN), channels, 0, &Progress::new())?;
        let (p50, p99) = (ran.answer.at_ms(0.5), ran.answer.at_ms(0.99));
        let cpu = ran.cpu_us_per_publish.unwrap_or(f64::NAN);
        println!("| {connections} | {channels} | {:.0} | {p50:.2} | {p99:.2} | {cpu:.1} |", ran.publishes_per_s);
    }
    Ok(())
}

fn idle_ones() -> anyhow::Result<()> {
    const CONNECTIONS: usize = 4000;
    println!("\nidle subscribers, {CONNECTIONS} connections, each subscribed to one channel");
    println!("| transport | KiB per connection (PSS of the hub) |");
    println!("|---|---|");
    for transport in [Transport::Ws, Transport::Sse] {
        let ran = idle::run(&start(&[])?, transport, CONNECTIONS, Duration::ZERO, 0, &Progress::new())?;
        println!("| {} | {:.1} |", transport.name(), ran.memory_kib_per_connection.unwrap_or(f64::NAN));
    }
    Ok(())
}
