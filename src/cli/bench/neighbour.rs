//! Somebody who is served while something else goes on: one subscriber, two hundred messages a second, each with its time.

use std::io::{ErrorKind, Read, Write};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::bail;

use super::dial::{self, Line};
use super::histogram::Histogram;
use super::mark;
use super::publisher::Publisher;
use super::target::{PONG, SIGN_OF_LIFE, Target, Transport, frame};

/// Between two messages.
const PAUSE: Duration = Duration::from_millis(5);
const STUCK: Duration = Duration::from_secs(10);

pub struct Neighbour<'a> {
    channel: String,
    payload: usize,
    line: Line,
    publisher: Publisher<'a>,
}

/// When each message was sent, and how long it took to the subscriber and to the publisher's yes.
pub struct Heard {
    delivered: Vec<(Instant, u64)>,
    answered: Vec<(Instant, u64)>,
}

impl<'a> Neighbour<'a> {
    pub fn move_in(target: &'a dyn Target, channel: &str, payload: usize) -> anyhow::Result<Neighbour<'a>> {
        let line = dial::open(target.subscribers_at(), None, &target.subscribe(Transport::Ws, channel))?;
        Ok(Neighbour { channel: channel.to_owned(), payload, line, publisher: Publisher::connect(target)? })
    }

    /// Is served until `work` is done. Fails if it does not get every message once.
    pub fn beside<T>(self, work: impl FnOnce() -> anyhow::Result<T>) -> anyhow::Result<(Heard, T)> {
        let Neighbour { channel, payload, line, mut publisher } = self;
        let (stop, sent) = (AtomicBool::new(false), AtomicU64::new(u64::MAX));
        std::thread::scope(|scope| {
            let reading = scope.spawn(|| read(line, &sent));
            let publishing = scope.spawn(|| {
                let mut answered = Vec::new();
                let mut publish = || {
                    while !stop.load(Ordering::Relaxed) {
                        let began = Instant::now();
                        publisher.publish(&channel, &[mark::payload(mark::now(), payload)])?;
                        answered.push((began, began.elapsed().as_micros() as u64));
                        std::thread::sleep(PAUSE);
                    }
                    Ok(())
                };
                let published: anyhow::Result<()> = publish();
                sent.store(answered.len() as u64, Ordering::Release);
                published.map(|()| answered)
            });
            let done = work();
            stop.store(true, Ordering::Relaxed);
            match (publishing.join(), reading.join()) {
                (Ok(answered), Ok(delivered)) => {
                    // Where both have failed, the work knows more of why.
                    let done = done?;
                    Ok((Heard { delivered: delivered?, answered: answered? }, done))
                }
                _ => bail!("the neighbour panicked"),
            }
        })
    }
}

fn read(mut line: Line, sent: &AtomicU64) -> anyhow::Result<Vec<(Instant, u64)>> {
    line.stream.set_read_timeout(Some(Duration::from_millis(200)))?;
    let (mut buffer, mut rest, mut delivered) = ([0; 4096], line.rest, Vec::new());
    let (mut progress, mut spoke) = (Instant::now(), Instant::now());
    while (delivered.len() as u64) < sent.load(Ordering::Acquire) {
        if spoke.elapsed() > SIGN_OF_LIFE {
            line.stream.write_all(&frame(PONG, b""))?;
            spoke = Instant::now();
        }
        match line.stream.read(&mut buffer) {
            Ok(0) => bail!("the neighbour was closed after {} messages{}", delivered.len(), dial::last_words(&rest)),
            Ok(count) => rest.extend_from_slice(&buffer[..count]),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                if progress.elapsed() > STUCK {
                    bail!("the neighbour is stuck at {} messages", delivered.len());
                }
                continue;
            }
            Err(error) => return Err(error.into()),
        }
        progress = Instant::now();
        let now = mark::now();
        let done = mark::times(&rest, |at| {
            let micros = now.saturating_sub(at) / 1000;
            delivered.push((progress - Duration::from_micros(micros), micros));
        });
        rest.drain(..done);
    }
    Ok(delivered)
}

impl Heard {
    /// What was sent within these spans of time, to the subscriber.
    pub fn within(&self, spans: &[(Instant, Instant)]) -> Histogram {
        within(&self.delivered, spans)
    }

    /// The same to the publisher's yes.
    pub fn answered_within(&self, spans: &[(Instant, Instant)]) -> Histogram {
        within(&self.answered, spans)
    }
}

fn within(all: &[(Instant, u64)], spans: &[(Instant, Instant)]) -> Histogram {
    let mut histogram = Histogram::default();
    for (sent, micros) in all {
        if spans.iter().any(|(begin, end)| (begin..=end).contains(&sent)) {
            histogram.record(*micros);
        }
    }
    histogram
}
