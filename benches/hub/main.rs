//! What the hub does per second, per core and per connection: `cargo bench --bench hub [-- NAME ...]`, and what
//! ten million messages leave behind: `cargo bench --bench hub -- soak`.
//!
//! The hub runs as a process of its own with its defaults, history on disk. Publishers have threads of their own, or the
//! readers would pace them. Every subscriber is counted by itself: totals hide a lost message beside a doubled one.
//! Machines are noisy; compare the ratios of one run. Traffic goes to loopback only.

mod deflate;
mod neighbour;
mod process;
mod soak;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use process::{HubProcess, Publisher, nanos};

type Outcome<T = ()> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

type Bench = fn() -> Outcome;

const SUBSCRIBERS: usize = 1000;
const PAYLOAD: usize = 128;
/// How long a subscriber may see nothing.
const STUCK: Duration = Duration::from_secs(10);
const RUN: Duration = Duration::from_secs(5);

fn main() -> Outcome {
    let wanted: Vec<String> = std::env::args().skip(1).filter(|arg| !arg.starts_with('-')).collect();
    let runs: [(&str, Bench); 9] = [
        ("fan-out-ws", fan_out_ws),
        ("fan-out-dialect", fan_out_dialect),
        ("fan-out-sse", fan_out_sse),
        ("quiet", quiet),
        ("publish", publish),
        ("idle", idle),
        ("neighbour", neighbour::neighbour),
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

fn fan_out_ws() -> Outcome {
    fan_out("WebSocket", Transport::Ws)
}

fn fan_out_sse() -> Outcome {
    fan_out("SSE", Transport::Sse)
}

fn fan_out(name: &str, transport: Transport) -> Outcome {
    println!("\nfan-out, {name}: 1 channel, {SUBSCRIBERS} subscribers, {PAYLOAD} B, history on disk, ack synced");
    println!("| publishers | deliveries/s | publishes/s | p50 ms | p99 ms | hub CPU us per delivery |");
    println!("|---|---|---|---|---|---|");
    for publishers in [1, 4] {
        let hub = HubProcess::start()?;
        // Warm: one round that is not counted.
        measure(&hub, transport, publishers, Duration::from_millis(500), None)?;
        let run = measure(&hub, transport, publishers, RUN, None)?;
        println!("| {publishers} | {}", run.row());
    }
    Ok(())
}

/// A plugin's dialect beside the native one, in turns on one hub: what a delivery costs must not depend on who words it.
fn fan_out_dialect() -> Outcome {
    const TURNS: usize = 3;
    println!("\nfan-out, a plugin's dialect beside the native one: 1 channel, {SUBSCRIBERS} subscribers, {PAYLOAD} B");
    println!("| publishers | native, CPU us per delivery | dialect, CPU us per delivery | ratio |");
    println!("|---|---|---|---|");
    let scripts = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/hub/scripts");
    for publishers in [1, 4] {
        let hub = HubProcess::start_with(&[("AETHER_PLUGINS_SCRIPTS", scripts)])?;
        let mut cost = [0.0; 2];
        for turn in 0..=TURNS {
            for (sum, transport) in cost.iter_mut().zip([Transport::Ws, Transport::Dialect]) {
                let run = measure(&hub, transport, publishers, RUN / 2, None)?;
                // The first turn only warms.
                *sum += if turn > 0 { run.cpu_us / TURNS as f64 } else { 0.0 };
            }
        }
        let [native, dialect] = cost;
        println!("| {publishers} | {native:.2} | {dialect:.2} | {:.2} |", dialect / native);
    }
    Ok(())
}

/// Fifty messages a second: nothing can be coalesced.
fn quiet() -> Outcome {
    println!("\n50 messages/s to {SUBSCRIBERS} WebSocket subscribers");
    println!("| publishers | deliveries/s | publishes/s | p50 ms | p99 ms | hub CPU us per delivery |");
    println!("|---|---|---|---|---|---|");
    let hub = HubProcess::start()?;
    let run = measure(&hub, Transport::Ws, 1, RUN, Some(Duration::from_millis(20)))?;
    println!("| 1 | {}", run.row());
    Ok(())
}

fn publish() -> Outcome {
    println!("\npublish over HTTP, {PAYLOAD} B, ack synced, no subscribers");
    println!("| connections | channels | publishes/s | p50 ms | p99 ms | hub CPU us per publish |");
    println!("|---|---|---|---|---|---|");
    for (connections, channels) in [(1, 1), (8, 1), (64, 1), (64, 1000)] {
        let hub = HubProcess::start()?;
        let stop = Arc::new(AtomicBool::new(false));
        let before = hub.cpu_seconds()?;
        let began = Instant::now();
        let workers: Vec<_> = (0..connections)
            .map(|worker| {
                let (mut publisher, stop) = (Publisher::connect(&hub), stop.clone());
                std::thread::spawn(move || -> Outcome<Vec<u32>> {
                    let publisher = publisher.as_mut().map_err(|error| error.to_string())?;
                    let mut took = Vec::new();
                    let mut turn = worker;
                    while !stop.load(Ordering::Relaxed) {
                        let sent = Instant::now();
                        publisher.publish(&format!("demo.bench{}", turn % channels))?;
                        took.push(sent.elapsed().as_micros() as u32);
                        turn += connections;
                    }
                    Ok(took)
                })
            })
            .collect();
        std::thread::sleep(RUN);
        stop.store(true, Ordering::Relaxed);
        let mut took = Vec::new();
        for worker in workers {
            took.extend(worker.join().map_err(|_| "a publisher panicked")??);
        }
        let elapsed = began.elapsed().as_secs_f64();
        let cpu = (hub.cpu_seconds()? - before) * 1e6 / took.len() as f64;
        took.sort_unstable();
        let at = |share: f64| f64::from(took[((took.len() - 1) as f64 * share) as usize]) / 1000.0;
        let rate = took.len() as f64 / elapsed;
        println!("| {connections} | {channels} | {rate:.0} | {:.2} | {:.2} | {cpu:.1} |", at(0.5), at(0.99));
    }
    Ok(())
}

fn idle() -> Outcome {
    const CONNECTIONS: usize = 4000;
    println!("\nidle subscribers, {CONNECTIONS} connections, each subscribed to one channel");
    println!("| transport | KiB per connection (PSS of the hub) |");
    println!("|---|---|");
    for (name, transport) in [("WebSocket", Transport::Ws), ("SSE", Transport::Sse)] {
        let hub = HubProcess::start()?;
        // The first ones pay for VMs, threads and allocator arenas.
        let warm: Vec<_> = (0..200).map(|_| transport.connect(&hub)).collect::<Outcome<_>>()?;
        let before = hub.pss_kib()?;
        let held: Vec<_> = (0..CONNECTIONS).map(|_| transport.connect(&hub)).collect::<Outcome<_>>()?;
        let after = hub.pss_kib()?;
        println!("| {name} | {:.1} |", (after - before) / CONNECTIONS as f64);
        drop((warm, held));
    }
    Ok(())
}

#[derive(Clone, Copy)]
enum Transport {
    Ws,
    Sse,
    /// A WebSocket that speaks the dialect of `scripts/lines.lua`.
    Dialect,
}

impl Transport {
    /// A subscriber of `demo.bench` whose subscription has been confirmed.
    fn connect(self, hub: &HubProcess) -> Outcome<TcpStream> {
        self.connect_to(hub, "demo.bench")
    }

    fn connect_to(self, hub: &HubProcess, channel: &str) -> Outcome<TcpStream> {
        let mut stream = hub.connect()?;
        let token = &hub.token;
        match self {
            Transport::Ws => {
                let head = format!(
                    "GET /ws?token={token} HTTP/1.1\r\nHost: hub\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
                );
                stream.write_all(head.as_bytes())?;
                read_until(&mut stream, b"\r\n\r\n")?;
                let frame = format!(r#"{{"type":"subscribe","channels":["{channel}"]}}"#);
                // Masked with zeros: the mask is for proxies, not for us.
                let mut bytes = vec![0x81, 0x80 | frame.len() as u8, 0, 0, 0, 0];
                bytes.extend_from_slice(frame.as_bytes());
                stream.write_all(&bytes)?;
                read_until(&mut stream, b"}}}\n")?;
            }
            Transport::Dialect => {
                let head = format!(
                    "GET /lines?channel={channel}&token={token} HTTP/1.1\r\nHost: hub\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
                );
                stream.write_all(head.as_bytes())?;
                read_until(&mut stream, b"listening\n")?;
            }
            Transport::Sse => {
                let head = format!("GET /sse?channel={channel}&token={token} HTTP/1.1\r\nHost: hub\r\n\r\n");
                stream.write_all(head.as_bytes())?;
                read_until(&mut stream, b"id: ")?;
                read_until(&mut stream, b"\n\n\r\n")?;
            }
        }
        Ok(stream)
    }
}

fn read_until(stream: &mut TcpStream, end: &[u8]) -> Outcome {
    let mut seen = Vec::new();
    let mut byte = [0];
    while !seen.ends_with(end) {
        if stream.read(&mut byte)? == 0 {
            return Err(format!("closed after {}", String::from_utf8_lossy(&seen)).into());
        }
        seen.push(byte[0]);
    }
    Ok(())
}

/// Counts the messages in a subscriber's bytes by their mark, which no payload holds.
struct Counter {
    seen: u64,
    /// The last bytes of the piece before: a mark may lie across.
    rest: Vec<u8>,
    latencies: Vec<u32>,
    sampled: bool,
}

const MARK: &[u8] = b"\"payload\":{\"t\":";
const SPAN: usize = MARK.len() + 19;

impl Counter {
    fn push(&mut self, bytes: &[u8]) {
        let mut joined = std::mem::take(&mut self.rest);
        joined.extend_from_slice(bytes);
        let mut from = 0;
        while let Some(at) = memchr(&joined[from..]) {
            let start = from + at;
            if joined.len() < start + SPAN {
                break;
            }
            self.seen += 1;
            if self.sampled {
                let digits = &joined[start + MARK.len()..start + SPAN];
                let sent: u64 = std::str::from_utf8(digits).ok().and_then(|text| text.parse().ok()).unwrap_or(0);
                self.latencies.push((nanos().saturating_sub(sent) / 1000) as u32);
            }
            from = start + SPAN;
        }
        let keep = from.max(joined.len().saturating_sub(SPAN - 1));
        self.rest = joined[keep..].to_vec();
    }
}

fn memchr(bytes: &[u8]) -> Option<usize> {
    // The mark's second byte is rare enough to look for.
    let mut from = 0;
    while let Some(at) = bytes[from..].windows(2).position(|pair| pair == b":{") {
        let colon = from + at;
        if colon >= 9 && bytes[colon - 9..].starts_with(&MARK[..MARK.len().min(bytes.len() + 9 - colon)]) {
            return Some(colon - 9);
        }
        from = colon + 1;
    }
    None
}

struct Measured {
    deliveries: f64,
    publishes: f64,
    p50: f64,
    p99: f64,
    cpu_us: f64,
}

impl Measured {
    fn row(&self) -> String {
        let Measured { deliveries, publishes, p50, p99, cpu_us } = self;
        format!("{deliveries:.0} | {publishes:.0} | {p50:.1} | {p99:.1} | {cpu_us:.2} |")
    }
}

/// Runs publishers against `SUBSCRIBERS` readers and holds every reader to the exact count.
fn measure(
    hub: &HubProcess,
    transport: Transport,
    publishers: usize,
    run: Duration,
    pace: Option<Duration>,
) -> Outcome<Measured> {
    let streams: Vec<_> = (0..SUBSCRIBERS).map(|_| transport.connect(hub)).collect::<Outcome<_>>()?;
    let published = Arc::new(AtomicU64::new(u64::MAX));
    let before = hub.cpu_seconds()?;
    let began = Instant::now();
    let readers = {
        let published = published.clone();
        std::thread::spawn(move || read_all(streams, &published))
    };
    let senders: Vec<_> = (0..publishers)
        .map(|_| {
            let mut publisher = Publisher::connect(hub)?;
            Ok(std::thread::spawn(move || -> Outcome<u64> {
                let (mut count, until) = (0, Instant::now() + run);
                while Instant::now() < until {
                    publisher.publish("demo.bench")?;
                    count += 1;
                    if let Some(pace) = pace {
                        std::thread::sleep(pace);
                    }
                }
                Ok(count)
            }))
        })
        .collect::<Outcome<_>>()?;
    let mut total = 0;
    for sender in senders {
        total += sender.join().map_err(|_| "a publisher panicked")??;
    }
    published.store(total, Ordering::Release);
    let mut latencies = readers.join().map_err(|_| "the readers panicked")??;
    let elapsed = began.elapsed().as_secs_f64();
    let deliveries = total as f64 * SUBSCRIBERS as f64;
    let cpu_us = (hub.cpu_seconds()? - before) * 1e6 / deliveries;
    latencies.sort_unstable();
    let at = |share: f64| f64::from(latencies[((latencies.len() - 1) as f64 * share) as usize]) / 1000.0;
    Ok(Measured {
        deliveries: deliveries / elapsed,
        publishes: total as f64 / elapsed,
        p50: at(0.5),
        p99: at(0.99),
        cpu_us,
    })
}

/// Reads until every subscriber has exactly what was published; answers the latencies of some of them.
fn read_all(streams: Vec<TcpStream>, published: &AtomicU64) -> Outcome<Vec<u32>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let done = Arc::new(AtomicU64::new(u64::MAX));
        let tasks: Vec<_> = streams
            .into_iter()
            .enumerate()
            .map(|(i, stream)| {
                let done = done.clone();
                tokio::spawn(read_one(stream, i % 100 == 0, done))
            })
            .collect();
        while published.load(Ordering::Acquire) == u64::MAX {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        done.store(published.load(Ordering::Acquire), Ordering::Release);
        let mut latencies = Vec::new();
        for task in tasks {
            latencies.extend(tokio::time::timeout(Duration::from_secs(30), task).await???);
        }
        Ok(latencies)
    })
}

async fn read_one(stream: TcpStream, sampled: bool, done: Arc<AtomicU64>) -> Outcome<Vec<u32>> {
    stream.set_nonblocking(true)?;
    let stream = tokio::net::TcpStream::from_std(stream)?;
    let mut counter = Counter { seen: 0, rest: Vec::new(), latencies: Vec::new(), sampled };
    let mut buffer = vec![0; 64 * 1024];
    let mut progress = Instant::now();
    loop {
        let wanted = done.load(Ordering::Acquire);
        if counter.seen >= wanted {
            // One more look: a duplicate would follow at once.
            tokio::time::sleep(Duration::from_millis(50)).await;
            if let Ok(count) = stream.try_read(&mut buffer) {
                counter.push(&buffer[..count]);
            }
            return if counter.seen == wanted {
                Ok(counter.latencies)
            } else {
                Err(format!("a subscriber saw {} of {wanted}", counter.seen).into())
            };
        }
        match tokio::time::timeout(Duration::from_millis(20), stream.readable()).await {
            Ok(ready) => ready?,
            Err(_) if progress.elapsed() > STUCK => {
                let rest = String::from_utf8_lossy(&counter.rest).into_owned();
                return Err(format!("a subscriber is stuck at {} of {wanted}, after: {rest}", counter.seen).into());
            }
            Err(_) => continue,
        }
        progress = Instant::now();
        match stream.try_read(&mut buffer) {
            Ok(0) => return Err(format!("closed after {}", counter.seen).into()),
            Ok(count) => counter.push(&buffer[..count]),
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error.into()),
        }
    }
}
