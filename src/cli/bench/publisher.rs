//! One connection that publishes and waits for each answer, on a thread of its own: on the readers' thread it would be paced
//! by the reading.

use std::io::Write;
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::bail;

use super::dial;
use super::histogram::Histogram;
use super::mark::{self, Tally};
use super::target::{Answer, Target};

pub struct Publisher<'a> {
    target: &'a dyn Target,
    stream: TcpStream,
    request: Vec<u8>,
    buffer: Vec<u8>,
    filled: usize,
}

impl<'a> Publisher<'a> {
    pub fn connect(target: &'a dyn Target) -> anyhow::Result<Publisher<'a>> {
        let line = dial::open(target.publishers_at(), None, &target.greet())?;
        Ok(Publisher { target, stream: line.stream, request: Vec::new(), buffer: vec![0; 64 * 1024], filled: 0 })
    }

    /// Publishes, and waits for the yes.
    pub fn publish(&mut self, channel: &str, payloads: &[String]) -> anyhow::Result<()> {
        if self.ask(channel, payloads)? {
            return Ok(());
        }
        bail!("a publisher is refused{}", dial::last_words(self.answer()))
    }

    /// Publishes, and waits for any answer; whether it was a yes.
    pub fn ask(&mut self, channel: &str, payloads: &[String]) -> anyhow::Result<bool> {
        let target = self.target;
        self.request(|request| target.publish(channel, payloads, request))
    }

    /// The same with any request.
    pub fn request(&mut self, write: impl FnOnce(&mut Vec<u8>)) -> anyhow::Result<bool> {
        self.request.clear();
        write(&mut self.request);
        self.stream.write_all(&self.request)?;
        self.filled = 0;
        loop {
            if self.filled == self.buffer.len() {
                self.buffer.resize(self.filled * 2, 0);
            }
            let count = dial::read(&mut self.stream, &mut self.buffer[self.filled..], "a publisher")?;
            if count == 0 {
                bail!("a publisher was closed instead of answered{}", dial::last_words(self.answer()));
            }
            self.filled += count;
            match self.target.answer(self.answer()) {
                Answer::More => {}
                Answer::Yes => return Ok(true),
                Answer::No => return Ok(false),
            }
        }
    }

    /// The last answer.
    pub fn answer(&self) -> &[u8] {
        &self.buffer[..self.filled]
    }
}

/// What publishers do.
#[derive(Clone)]
pub struct Load {
    pub publishers: usize,
    /// Messages a second of all of them; nothing: as fast as answers come.
    pub rate: Option<f64>,
    /// Messages in one request.
    pub batch: usize,
    /// Bytes.
    pub payload: usize,
    pub time: Duration,
}

/// What has been published, by channel.
pub struct Sent {
    channels: Vec<(AtomicU64, AtomicU64)>,
    total: AtomicU64,
    finished: AtomicBool,
}

impl Sent {
    pub fn new(channels: usize) -> Sent {
        let channels = (0..channels).map(|_| Default::default()).collect();
        Sent { channels, total: AtomicU64::new(0), finished: AtomicBool::new(false) }
    }

    fn add(&self, channel: usize, tally: Tally) {
        let (count, sum) = &self.channels[channel];
        count.fetch_add(tally.count, Ordering::Relaxed);
        sum.fetch_add(tally.sum, Ordering::Relaxed);
        self.total.fetch_add(tally.count, Ordering::Relaxed);
    }

    pub fn total(&self) -> u64 {
        self.total.load(Ordering::Relaxed)
    }

    /// By channel, once no more will come.
    pub fn tallies(&self) -> Option<Vec<Tally>> {
        let tally = |(count, sum): &(AtomicU64, AtomicU64)| Tally {
            count: count.load(Ordering::Relaxed),
            sum: sum.load(Ordering::Relaxed),
        };
        self.finished.load(Ordering::Acquire).then(|| self.channels.iter().map(tally).collect())
    }

    pub fn finish(&self) {
        self.finished.store(true, Ordering::Release);
    }
}

/// Publishes to each of the channels in turn, until the time is over or somebody says `stop`. How long the answers took.
pub fn run(
    target: &dyn Target,
    channels: &[String],
    load: &Load,
    sent: &Sent,
    stop: &AtomicBool,
) -> anyhow::Result<Histogram> {
    let publishers: Vec<_> = (0..load.publishers).map(|_| Publisher::connect(target)).collect::<anyhow::Result<_>>()?;
    let began = Instant::now();
    std::thread::scope(|scope| {
        let threads: Vec<_> = publishers
            .into_iter()
            .enumerate()
            .map(|(number, publisher)| scope.spawn(move || one(publisher, number, channels, load, sent, stop, began)))
            .collect();
        let mut took = Histogram::default();
        for thread in threads {
            match thread.join() {
                Ok(one) => took.merge(&one?),
                Err(_) => bail!("a publisher panicked"),
            }
        }
        Ok(took)
    })
}

fn one(
    mut publisher: Publisher<'_>,
    number: usize,
    channels: &[String],
    load: &Load,
    sent: &Sent,
    stop: &AtomicBool,
    began: Instant,
) -> anyhow::Result<Histogram> {
    let every = load.rate.map(|rate| Duration::from_secs_f64(load.publishers as f64 * load.batch as f64 / rate));
    // They take turns, or all of them would send at once.
    let mut next = began + every.unwrap_or_default().mul_f64(number as f64 / load.publishers as f64);
    let (mut took, mut turn, mut payloads) = (Histogram::default(), number, Vec::new());
    loop {
        if let Some(every) = every {
            std::thread::sleep(next.min(began + load.time).saturating_duration_since(Instant::now()));
            next += every;
        }
        if began.elapsed() >= load.time || stop.load(Ordering::Relaxed) {
            return Ok(took);
        }
        let channel = turn % channels.len();
        let (at, mut tally) = (mark::now(), Tally::default());
        payloads.clear();
        for place in 0..load.batch as u64 {
            // Those of one batch have times of their own too.
            tally.add(at + place);
            payloads.push(mark::payload(at + place, load.payload));
        }
        publisher.publish(&channels[channel], &payloads)?;
        took.record((mark::now() - at) / 1000);
        sent.add(channel, tally);
        turn += load.publishers;
    }
}
