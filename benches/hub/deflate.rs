//! Compressed subscribers beside plain ones, in turns on one hub: what a delivery costs must not depend on who inflates it.
//!
//! Messages are JSON whose values differ from one to the next. A few subscribers inflate what they get and hold it to the
//! exact text and order; of the others, frames are counted.

use std::io::Write;
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use flate2::{Decompress, FlushDecompress};

use super::process::{HubProcess, Publisher};
use super::{Outcome, RUN, STUCK, SUBSCRIBERS, read_until};

const TURNS: usize = 3;
/// Every so many subscribers, one inflates.
const SAMPLE: usize = 50;

pub fn deflate() -> Outcome {
    println!("\npermessage-deflate beside plain frames, in turns: 1 channel, {SUBSCRIBERS} WebSocket subscribers");
    println!(
        "| payload | publishers | plain, CPU us per delivery | compressed | ratio | bytes per delivery, plain | compressed | deliveries/s, plain | compressed |"
    );
    println!("|---|---|---|---|---|---|---|---|---|");
    for (size, publishers) in [(128, 1), (128, 4), (1024, 1), (1024, 4)] {
        // At 128 B frames would go as they are by default; here they are compressed to see what that costs.
        let hub = HubProcess::start_with(&[("AETHER_WEBSOCKET_COMPRESS_FROM", "1")])?;
        let mut sums = [Turn::default(), Turn::default()];
        for turn in 0..=TURNS {
            for (sum, compressed) in sums.iter_mut().zip([false, true]) {
                let run = measure(&hub, compressed, size, publishers)?;
                if turn > 0 {
                    // The first turn only warms.
                    sum.cpu_us += run.cpu_us / TURNS as f64;
                    sum.bytes += run.bytes / TURNS as f64;
                    sum.rate += run.rate / TURNS as f64;
                }
            }
        }
        let [plain, packed] = sums;
        println!(
            "| {size} B | {publishers} | {:.2} | {:.2} | {:.2} | {:.0} | {:.0} | {:.0} | {:.0} |",
            plain.cpu_us,
            packed.cpu_us,
            packed.cpu_us / plain.cpu_us,
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

fn connect(hub: &HubProcess, compressed: bool) -> Outcome<TcpStream> {
    let mut stream = hub.connect()?;
    let offer =
        if compressed { "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n" } else { "" };
    let head = format!(
        "GET /ws?token={} HTTP/1.1\r\nHost: hub\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n{offer}Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
        hub.token
    );
    stream.write_all(head.as_bytes())?;
    read_until(&mut stream, b"\r\n\r\n")?;
    let frame = r#"{"type":"subscribe","channels":["demo.bench"]}"#;
    let mut bytes = vec![0x81, 0x80 | frame.len() as u8, 0, 0, 0, 0];
    bytes.extend_from_slice(frame.as_bytes());
    stream.write_all(&bytes)?;
    read_until(&mut stream, b"}}}\n")?;
    Ok(stream)
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

fn measure(hub: &HubProcess, compressed: bool, size: usize, publishers: usize) -> Outcome<Turn> {
    let streams: Vec<_> = (0..SUBSCRIBERS).map(|_| connect(hub, compressed)).collect::<Outcome<_>>()?;
    let total = Arc::new(AtomicU64::new(u64::MAX));
    let (before, began) = (hub.cpu_seconds()?, Instant::now());
    let readers = {
        let total = total.clone();
        std::thread::spawn(move || read_all(streams, compressed, size, &total))
    };
    let senders: Vec<_> = (0..publishers as u64)
        .map(|publisher| {
            let mut to = Publisher::connect(hub)?;
            Ok(std::thread::spawn(move || -> Outcome<u64> {
                let (mut count, until) = (0, Instant::now() + RUN / 2);
                while Instant::now() < until {
                    to.publish_text("demo.bench", &payload(size, publisher << 32 | count))?;
                    count += 1;
                }
                Ok(count)
            }))
        })
        .collect::<Outcome<_>>()?;
    let mut published = 0;
    for sender in senders {
        published += sender.join().map_err(|_| "a publisher panicked")??;
    }
    total.store(published, Ordering::Release);
    let bytes = readers.join().map_err(|_| "the readers panicked")??;
    let elapsed = began.elapsed().as_secs_f64();
    let deliveries = published as f64 * SUBSCRIBERS as f64;
    let cpu_us = (hub.cpu_seconds()? - before) * 1e6 / deliveries;
    Ok(Turn { cpu_us, bytes: bytes as f64 / deliveries, rate: deliveries / elapsed })
}

/// Reads until every subscriber has exactly what was published; answers the bytes of all.
fn read_all(streams: Vec<TcpStream>, compressed: bool, size: usize, total: &AtomicU64) -> Outcome<u64> {
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
) -> Outcome<u64> {
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
                (false, _) => Err(format!("a subscriber saw {} of {wanted}", frames.seen).into()),
                (true, false) => Err(format!("{} of {wanted} frames were compressed", frames.packed).into()),
            };
        }
        match tokio::time::timeout(Duration::from_millis(20), stream.readable()).await {
            Ok(ready) => ready?,
            Err(_) if progress.elapsed() > STUCK => {
                return Err(format!("a subscriber is stuck at {} of {wanted}", frames.seen).into());
            }
            Err(_) => continue,
        }
        progress = Instant::now();
        match stream.try_read(&mut buffer) {
            Ok(0) => return Err(format!("closed after {}", frames.seen).into()),
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
    fn push(&mut self, bytes: &[u8]) -> Outcome {
        self.rest.extend_from_slice(bytes);
        let mut at = 0;
        while let Some((first, start, end)) = frame(&self.rest[at..]) {
            if first & 0x0f == 1 {
                self.seen += 1;
                self.packed += u64::from(first & 0x40 != 0);
                if self.inflates {
                    let seq = check(&self.rest[at + start..at + end], first & 0x40 != 0, self.size)?;
                    if self.last.is_some_and(|last| seq != last + 1) {
                        return Err(format!("message {seq} after {:?}", self.last).into());
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
fn check(payload: &[u8], compressed: bool, size: usize) -> Outcome<u64> {
    let mut text = Vec::with_capacity(64 * 1024);
    match compressed {
        true => drop(Decompress::new(false).decompress_vec(payload, &mut text, FlushDecompress::Sync)?),
        false => text.extend_from_slice(payload),
    }
    let frame: serde_json::Value = serde_json::from_slice(&text)?;
    let number = frame["payload"]["n"].as_u64().ok_or("a message without its number")?;
    let said = format!("\"payload\":{}}}\n", self::payload(size, number));
    match text.ends_with(said.as_bytes()) {
        true => frame["seq_id"].as_u64().ok_or_else(|| "a message without a seq_id".into()),
        false => Err(format!("not what was said: {}", String::from_utf8_lossy(&text)).into()),
    }
}
