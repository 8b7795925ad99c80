//! A socket of the simulation: it takes what fits, at times a few bytes, and breaks when either end goes.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::io;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use aether::edges::line::{Frame, Socket};
use aether::edges::wire::Ending;
use parking_lot::Mutex;
use tokio::time::Instant;

use super::book::Book;
use super::dice::Dice;
use super::planted::Planted;
use super::weather::Weather;

struct Pipe {
    to_client: VecDeque<u8>,
    to_hub: VecDeque<String>,
    capacity: usize,
    client_is_gone: bool,
    hub_is_gone: bool,
    writable: Option<Waker>,
    framed: Option<Waker>,
    readable: Option<Waker>,
}

fn wake(waker: &mut Option<Waker>) {
    waker.take().into_iter().for_each(Waker::wake);
}

/// The hub's end.
pub struct Near {
    pipe: Arc<Mutex<Pipe>>,
    room: usize,
    weather: Weather,
    dice: Dice,
    book: Book,
    planted: Planted,
}

/// The client's end.
pub struct Far {
    pipe: Arc<Mutex<Pipe>>,
}

pub fn pair(dice: &Dice, weather: &Weather, book: &Book, planted: Planted) -> (Near, Far) {
    let pipe = Arc::new(Mutex::new(Pipe {
        to_client: VecDeque::new(),
        to_hub: VecDeque::new(),
        capacity: *dice.one_of(&[60, 200, 1000, 20_000]),
        client_is_gone: false,
        hub_is_gone: false,
        writable: None,
        framed: None,
        readable: None,
    }));
    let room = *dice.one_of(&[1, 100, 500, 5000]);
    let (weather, dice, book) = (weather.clone(), dice.clone(), book.clone());
    (Near { pipe: pipe.clone(), room, weather, dice, book, planted }, Far { pipe })
}

impl Socket for Near {
    fn try_write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut pipe = self.pipe.lock();
        if pipe.client_is_gone {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        let mut takes = bytes.len().min(pipe.capacity.saturating_sub(pipe.to_client.len()));
        if takes == 0 {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        if self.weather.strikes(self.weather.chances.few_bytes) {
            takes = self.dice.between(1, takes as u64) as usize;
            self.book.count("a socket took few bytes");
        }
        match self.bent(&bytes[..takes]) {
            Some(bent) => pipe.to_client.extend(bent),
            None => pipe.to_client.extend(&bytes[..takes]),
        }
        wake(&mut pipe.readable);
        Ok(takes)
    }

    fn room(&self) -> usize {
        self.room
    }

    fn poll_writable(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut pipe = self.pipe.lock();
        if pipe.client_is_gone || pipe.to_client.len() < pipe.capacity {
            return Poll::Ready(Ok(()));
        }
        pipe.writable = Some(cx.waker().clone());
        Poll::Pending
    }

    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Result<Frame, Ending>> {
        let mut pipe = self.pipe.lock();
        if pipe.client_is_gone {
            return Poll::Ready(Err(Ending::Gone));
        }
        if let Some(text) = pipe.to_hub.pop_front() {
            return Poll::Ready(Ok(Frame::Text(text.into())));
        }
        pipe.framed = Some(cx.waker().clone());
        Poll::Pending
    }

    async fn finish(&mut self, _deadline: Instant) {}
}

impl Near {
    /// What a planted bug makes of whole lines.
    fn bent(&self, bytes: &[u8]) -> Option<Vec<u8>> {
        let wanted = [Planted::LinesAreExchanged, Planted::LineIsDropped, Planted::LineComesTwice];
        if !wanted.contains(&self.planted) || !bytes.ends_with(b"\n") || !self.dice.percent(20) {
            return None;
        }
        let mut lines: Vec<&[u8]> = bytes.split_inclusive(|byte| *byte == b'\n').collect();
        // The first one may be the rest of another.
        let said = |lines: &[&[u8]], at: usize| lines[at].starts_with(b"P ");
        let channel = |line: &[u8]| line.split(|byte| *byte == b' ').nth(1).map(<[u8]>::to_vec);
        let at = (1..lines.len().saturating_sub(1))
            .find(|at| said(&lines, *at) && said(&lines, at + 1) && channel(lines[*at]) == channel(lines[at + 1]))?;
        match self.planted {
            Planted::LinesAreExchanged => lines.swap(at, at + 1),
            Planted::LineIsDropped => drop(lines.remove(at)),
            _ => lines.insert(at, lines[at]),
        }
        Some(lines.concat())
    }
}

impl Drop for Near {
    fn drop(&mut self) {
        let mut pipe = self.pipe.lock();
        pipe.hub_is_gone = true;
        wake(&mut pipe.readable);
    }
}

impl Far {
    pub fn say(&self, frame: String) {
        let mut pipe = self.pipe.lock();
        pipe.to_hub.push_back(frame);
        wake(&mut pipe.framed);
    }

    /// At most so many bytes, at least one; none when the hub's end is gone and everything was read.
    pub async fn read(&self, most: usize) -> Vec<u8> {
        poll_fn(|cx| {
            let mut pipe = self.pipe.lock();
            if pipe.to_client.is_empty() && !pipe.hub_is_gone {
                pipe.readable = Some(cx.waker().clone());
                return Poll::Pending;
            }
            let count = pipe.to_client.len().min(most);
            let bytes = pipe.to_client.drain(..count).collect();
            wake(&mut pipe.writable);
            Poll::Ready(bytes)
        })
        .await
    }
}

impl Drop for Far {
    fn drop(&mut self) {
        let mut pipe = self.pipe.lock();
        pipe.client_is_gone = true;
        wake(&mut pipe.writable);
        wake(&mut pipe.framed);
    }
}
