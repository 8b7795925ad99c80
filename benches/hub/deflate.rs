//! Compressed subscribers beside plain ones, in turns on one hub: what a delivery costs must not depend on who inflates it.
//!
//! Messages are JSON whose values differ from one to the next. A few subscribers inflate what they get and hold it to the
//! exact text and order; of the others, frames are counted.

use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use aether::cli::bench::dial;
use aether::cli::bench::hub::Hub;
use aether::cli::bench::publisher::Publisher;
use aether::cli::bench::target::{Step, TEXT, Target, frame as ask, upgrade};
use anyhow::{Context, bail, ensure};
use flate2::{Decompress, FlushDecompress};

use super::ratios::Ratios;
use super::{RUN, STUCK, SUBSCRIBERS};

const TURNS: usize = 7;
const CHANNEL: &str = "demo.bench";
/// Every so many subscribers, one inflates.
const SAMPLE: usize = 50;

pub fn deflate() -> anyhow::Result<()> {
    println!("\npermessage-deflate beside plain frames, in turns: 1 channel, {SUBSCRIBERS} WebSocket subscribers");
    println!(
        "| payload | publishers | plain, CPU us per delivery | compressed | ratio | spread | bytes per delivery, plain | compressed | deliveries/s, plain | compressed |"
    );
    println!("|---|---|---|---|---|---|---|---|---|---|");
    for (size, publishers) in [(128, 1), (128, 4), (1024, 1), (1024, 4)] {
        // At 128 B frames would go as they are by default; here they are compressed to see what that costs.
        let hub = super::start(&[("AETHER_WEBSOCKET_COMPRESS_FROM", "1")])?;
        let (mut sums, mut ratios) = ([Turn::default(), Turn::default()], Ratios::default());
        for turn in 0..=TURNS {
            let mut cost = [0.0; 2];
            for ((sum, compressed), cost) in sums.iter_mut().zip([false, true]).zip(&mut cost) {
                let run = measure(&hub, compressed, size, publishers)?;
                *cost = run.cpu_us;
                if turn > 0 {
                    // The first turn only warms.
                    sum.bytes += run.bytes / TURNS as f64;
                    sum.rate += run.rate / TURNS as f64;
                }
            }
            if turn > 0 {
                ratios.add(cost[0], cost[1]);
            }
        }
        let [plain, packed] = sums;
        println!(
            "| {size} B | {publishers} | {} | {:.0} | {:.0} | {:.0} | {:.0} |",
            ratios.cells(),
            plain.bytes,
            packed.bytes,
            plain.rate,
            packed.rate
        );
    }
    Ok(())
}

#[derive(Default)]
struct Turn {
    cpu_us: f64,
    bytes: f64,
    rate: f64,
}

fn connect(hub: &Hub, compressed: bool) -> anyhow::Result<TcpStream> {
    let mut head = upgrade(&format!("/ws?token={}", hub.token));
    if compressed {
        let offer = "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n\r\n";
        head.replace_range(head.len() - 2.., offer);
    }
    let asked = format!(r#"{{"type":"subscribe","channels":["{CHANNEL}"]}}"#);
    let steps = [Step::new(head, b"\r\n\r\n"), Step::new(ask(TEXT, asked.as_bytes()), b"}}}\n")];
    Ok(dial::open(hub.subscribers_at(), None, &steps)?.stream)
}

/// About `size` bytes of JSON whose values differ from message to message.
fn payload(size: usize, number: u64) -> String {
    let mut state = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut text = format!(r#"{{"n":{number},"items":["#);
    while text.len() + 60 < size {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        let (id, price) = (state >> 44, state >> 20 & 0xffff);
        text.push_str(&format!(r#"{{"id":{id},"price":{}.{:02},"open":{}}},"#, price / 100, price % 100, id % 3 == 0));
    }
    text.push_str(&format!(r#"{{"last":{}}}]}}"#, state >> 40));
    text
}

fn measure(hub: &Hub, compressed: bool, size: usize, publishers: usize) -> anyhow::Result<Turn> {
    let streams: Vec<_> = (0..SUBSCRIBERS).map(|_| connect(hub, compressed)).collect::<anyhow::Result<_>>()?;
    let total = Arc::new(AtomicU64::new(u64::MAX));
    let processor = || hub.account().cpu_seconds().context("its processor time");
    let (before, began) = (processor()?, Instant::now());
    let readers = {
        let total = total.clone();
        std::thread::spawn(move || read_all(streams, compressed, size, &total))
    };
    let published = std::thread::scope(|scope| {
        let senders: Vec<_> =
            (0..publishers as u64).map(|publisher| scope.spawn(move || publish(hub, publisher, size))).collect();
        let counts = senders.into_iter().map(|sender| sender.join().unwrap_or_else(|_| bail!("a publisher panicked")));
        counts.sum::<anyhow::Result<u64>>()
    })?;
    total.store(published, Ordering::Release);
    let bytes = readers.join().unwrap_or_else(|_| bail!("the readers panicked"))?;
    let elapsed = began.elapsed().as_secs_f64();
    let deliveries = published as f64 * SUBSCRIBERS as f64;
    let cpu_us = (processor()? - before) * 1e6 / deliveries;
    Ok(Turn { cpu_us, bytes: bytes as f64 / deliveries, rate: deliveries / elapsed })
}

/// Publishes for a while; how much it was.
fn publish(hub: &Hub, publisher: u64, size: usize) -> anyhow::Result<u64> {
    let (mut to, path) = (Publisher::connect(hub)?, format!("/api/v1/publish?channel={CHANNEL}"));
    let (mut count, until) = (0, Instant::now() + RUN / 2);
    while Instant::now() < until {
        let text = payload(size, publisher << 32 | count);
        ensure!(to.request(|request| hub.post(&path, text.as_bytes(), request))?, "a publish is refused");
        count += 1;
    }
    Ok(count)
}

/// Reads until every subscriber has exactly what was published; answers the bytes of all.
fn read_all(streams: Vec<TcpStream>, compressed: bool, size: usize, total: &AtomicU64) -> anyhow::Result<u64> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let wanted = Arc::new(AtomicU64::new(u64::MAX));
        let tasks: Vec<_> = streams
            .into_iter()
            .enumerate()
            .map(|(i, stream)| tokio::spawn(read_one(stream, compressed, size, i % SAMPLE == 0, wanted.clone())))
            .collect();
        while total.load(Ordering::Acquire) == u64::MAX {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        wanted.store(total.load(Ordering::Acquire), Ordering::Release);
        let mut bytes = 0;
        for task in tasks {
            bytes += tokio::time::timeout(Duration::from_secs(30), task).await???;
        }
        Ok(bytes)
    })
}

async fn read_one(
    stream: TcpStream,
    compressed: bool,
    size: usize,
    inflates: bool,
    wanted: Arc<AtomicU64>,
) -> anyhow::Result<u64> {
    stream.set_nonblocking(true)?;
    let stream = tokio::net::TcpStream::from_std(stream)?;
    let mut frames = Frames { rest: Vec::new(), seen: 0, packed: 0, inflates, size, last: None };
    let (mut buffer, mut bytes, mut progress) = (vec![0; 64 * 1024], 0, Instant::now());
    loop {
        let wanted = wanted.load(Ordering::Acquire);
        if frames.seen >= wanted {
            // One more look: a duplicate would follow at once.
            tokio::time::sleep(Duration::from_millis(50)).await;
            if let Ok(count) = stream.try_read(&mut buffer) {
                frames.push(&buffer[..count])?;
            }
            return match (frames.seen == wanted, compressed == (frames.packed > 0)) {
                (true, true) => Ok(bytes),
                (false, _) => bail!("a subscriber saw {} of {wanted}", frames.seen),
                (true, false) => bail!("{} of {wanted} frames were compressed", frames.packed),
            };
        }
        match tokio::time::timeout(Duration::from_millis(20), stream.readable()).await {
            Ok(ready) => ready?,
            Err(_) if progress.elapsed() > STUCK => {
                bail!("a subscriber is stuck at {} of {wanted}", frames.seen);
            }
            Err(_) => continue,
        }
        progress = Instant::now();
        match stream.try_read(&mut buffer) {
            Ok(0) => bail!("closed after {}", frames.seen),
            Ok(count) => {
                bytes += count as u64;
                frames.push(&buffer[..count])?;
            }
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Counts the frames in a subscriber's bytes.
struct Frames {
    rest: Vec<u8>,
    seen: u64,
    packed: u64,
    inflates: bool,
    size: usize,
    /// The seq_id of the message before.
    last: Option<u64>,
}

impl Frames {
    fn push(&mut self, bytes: &[u8]) -> anyhow::Result<()> {
        self.rest.extend_from_slice(bytes);
        let mut at = 0;
        while let Some((first, start, end)) = frame(&self.rest[at..]) {
            if first & 0x0f == 1 {
                self.seen += 1;
                self.packed += u64::from(first & 0x40 != 0);
                if self.inflates {
                    let seq = check(&self.rest[at + start..at + end], first & 0x40 != 0, self.size)?;
                    if self.last.is_some_and(|last| seq != last + 1) {
                        bail!("message {seq} after {:?}", self.last);
                    }
                    self.last = Some(seq);
                }
            }
            at += end;
        }
        self.rest.drain(..at);
        Ok(())
    }
}

/// A whole frame's first byte, and where its payload begins and ends.
fn frame(bytes: &[u8]) -> Option<(u8, usize, usize)> {
    let (start, length) = match *bytes.get(1)? {
        126 => (4, usize::from(u16::from_be_bytes(bytes.get(2..4)?.try_into().ok()?))),
        127 => (10, usize::try_from(u64::from_be_bytes(bytes.get(2..10)?.try_into().ok()?)).ok()?),
        short => (2, usize::from(short)),
    };
    (bytes.len() >= start + length).then_some((bytes[0], start, start + length))
}

/// The text of a frame's payload, which must be what somebody published.
fn check(payload: &[u8], compressed: bool, size: usize) -> anyhow::Result<u64> {
    let mut text = Vec::with_capacity(64 * 1024);
    match compressed {
        true => drop(Decompress::new(false).decompress_vec(payload, &mut text, FlushDecompress::Sync)?),
        false => text.extend_from_slice(payload),
    }
    let frame: serde_json::Value = serde_json::from_slice(&text)?;
    let number = frame["payload"]["n"].as_u64().context("a message without its number")?;
    let said = format!("\"payload\":{}}}\n", self::payload(size, number));
    match text.ends_with(said.as_bytes()) {
        true => frame["seq_id"].as_u64().context("a message without a seq_id"),
        false => bail!("not what was said: {}", String::from_utf8_lossy(&text)),
    }
}
