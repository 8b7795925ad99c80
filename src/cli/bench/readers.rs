//! Many subscribers on one thread, each counted by itself.

use std::cell::{Cell, RefCell};
use std::io::ErrorKind;
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::net::TcpStream;

use super::dial::Line;
use super::frames::Frames;
use super::histogram::Histogram;
use super::mark::{self, Tally};
use super::publisher::Sent;
use super::target::{self, PONG, SIGN_OF_LIFE, Transport};

/// How long a duplicate may be behind the last message.
const AFTERMATH: Duration = Duration::from_millis(50);
const BUFFER: usize = 64 * 1024;
/// How many subscribers that went wrong are told of.
const TOLD: usize = 5;

/// What all subscribers saw.
pub struct Seen {
    pub latency: Histogram,
    /// When the last message came.
    pub last: Instant,
    pub deliveries: u64,
    /// Messages that a subscriber should have and has not.
    pub lost: u64,
    /// Messages that a subscriber has beyond those.
    pub doubled: u64,
    /// Subscribers that have not exactly what was published.
    pub inexact: usize,
    /// Some of these, in words.
    pub faults: Vec<String>,
}

/// A subscriber's place in the counting.
#[derive(Default)]
struct Place {
    tally: Tally,
    /// Half a mark, from one read to the next.
    rest: Vec<u8>,
    frames: Frames,
    closed: bool,
}

struct Counting {
    places: Vec<Place>,
    /// Then there are no marks to be seen.
    compressed: bool,
    deliveries: u64,
    latency: Histogram,
    last: Instant,
    /// Shared by all, who never read at once.
    buffer: Vec<u8>,
}

impl Counting {
    fn take(
        &mut self,
        number: usize,
        read: impl FnOnce(&mut [u8]) -> std::io::Result<usize>,
    ) -> std::io::Result<usize> {
        let place = &mut self.places[number];
        let kept = place.rest.len();
        self.buffer[..kept].copy_from_slice(&place.rest);
        let count = read(&mut self.buffer[kept..])?;
        let bytes = &self.buffer[..kept + count];
        let before = place.tally.count;
        let done = if self.compressed {
            place.tally.count += place.frames.count(bytes);
            bytes.len()
        } else {
            let now = mark::now();
            mark::times(bytes, |at| {
                place.tally.add(at);
                self.latency.record(now.saturating_sub(at) / 1000);
            })
        };
        place.rest.clear();
        place.rest.extend_from_slice(&bytes[done..]);
        if place.tally.count > before {
            self.deliveries += place.tally.count - before;
            self.last = Instant::now();
        }
        Ok(count)
    }
}

/// Reads until every subscriber has what was sent to its channel, or until nothing has come for `patience`. The nth line
/// is a subscriber of the (n modulo channels)th channel. `so_far` shows deliveries to whoever looks.
pub fn read(
    lines: Vec<Line>,
    transport: Transport,
    channels: usize,
    sent: &Sent,
    so_far: &AtomicU64,
    patience: Duration,
) -> anyhow::Result<Seen> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let tasks = tokio::task::LocalSet::new();
    tasks.block_on(&runtime, async {
        let mut streams = Vec::with_capacity(lines.len());
        let mut counting = Counting {
            places: Vec::with_capacity(lines.len()),
            compressed: transport == Transport::WsDeflate,
            deliveries: 0,
            latency: Histogram::default(),
            last: Instant::now(),
            buffer: vec![0; BUFFER],
        };
        for (number, line) in lines.into_iter().enumerate() {
            line.stream.set_nonblocking(true)?;
            streams.push(Rc::new(TcpStream::from_std(line.stream)?));
            counting.places.push(Place::default());
            counting.take(number, |buffer| {
                buffer[..line.rest.len()].copy_from_slice(&line.rest);
                Ok(line.rest.len())
            })?;
        }
        let counting = Rc::new(RefCell::new(counting));
        for (number, stream) in streams.iter().enumerate() {
            tokio::task::spawn_local(follow(number, stream.clone(), counting.clone()));
        }
        let pace = Cell::new(Instant::now());
        let wanted = loop {
            tokio::time::sleep(Duration::from_millis(2)).await;
            let counting = counting.borrow();
            so_far.store(counting.deliveries, Ordering::Relaxed);
            if transport != Transport::Sse && pace.get().elapsed() > SIGN_OF_LIFE {
                pace.set(Instant::now());
                streams.iter().for_each(|stream| drop(stream.try_write(&target::frame(PONG, b""))));
            }
            let Some(wanted) = sent.tallies() else { continue };
            let owed = |(n, place): (usize, &Place)| !place.closed && place.tally.count < wanted[n % channels].count;
            if !counting.places.iter().enumerate().any(owed) || counting.last.elapsed() > patience {
                break wanted;
            }
        };
        tokio::time::sleep(AFTERMATH).await;
        Ok(verdict(&counting.borrow(), &wanted))
    })
}

async fn follow(number: usize, stream: Rc<TcpStream>, counting: Rc<RefCell<Counting>>) {
    loop {
        let ready = stream.readable().await;
        let mut counting = counting.borrow_mut();
        match ready.and_then(|()| counting.take(number, |buffer| stream.try_read(buffer))) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Ok(count) if count > 0 => {}
            Ok(_) | Err(_) => return counting.places[number].closed = true,
        }
    }
}

fn verdict(counting: &Counting, wanted: &[Tally]) -> Seen {
    let (latency, last) = (counting.latency.clone(), counting.last);
    let mut seen =
        Seen { deliveries: counting.deliveries, latency, last, lost: 0, doubled: 0, inexact: 0, faults: Vec::new() };
    for (number, place) in counting.places.iter().enumerate() {
        let (wanted, has) = (wanted[number % wanted.len()], place.tally);
        if has == wanted || (counting.compressed && has.count == wanted.count) {
            continue;
        }
        seen.inexact += 1;
        // A lost one beside a doubled one leaves the count as it was.
        let both = u64::from(has.count == wanted.count);
        seen.lost += wanted.count.saturating_sub(has.count) + both;
        seen.doubled += has.count.saturating_sub(wanted.count) + both;
        if seen.faults.len() < TOLD {
            let closed = if place.closed { "; its connection was closed" } else { "" };
            let what = if both > 0 { ", but not those: one is lost and another doubled" } else { "" };
            seen.faults.push(format!(
                "subscriber {} has {} of {} messages{what}{closed}",
                number + 1,
                has.count,
                wanted.count
            ));
        }
    }
    seen
}
