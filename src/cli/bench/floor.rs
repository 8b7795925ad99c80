//! What sockets allow: a server that does nothing but pass messages on, in two ways.
//!
//! It speaks just enough HTTP for the generator, keeps nothing and checks nothing. Here a subscriber that takes nothing stops
//! the publishers: that is a floor to measure from, and no hub.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context, bail};
use clap::ValueEnum;
use parking_lot::{Condvar, Mutex};

use super::account::Account;
use super::ours;
use super::target::{Step, Target, Transport, find, upgrade};

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum Floor {
    /// A `write` for each delivery, one after the other
    OneWrite,
    /// A tail that all share, a cursor for each subscriber, and one `write` for all that lies between
    SharedTail,
}

impl Floor {
    pub fn name(self) -> &'static str {
        match self {
            Floor::OneWrite => "one-write",
            Floor::SharedTail => "shared-tail",
        }
    }

    /// Serves for as long as the process lives; says where on standard output.
    pub fn serve(self) -> anyhow::Result<()> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        super::super::print(format!("{}\n", listener.local_addr()?).as_bytes())?;
        let fan: Arc<dyn Fan> = match self {
            Floor::OneWrite => Arc::new(OneWrite::default()),
            Floor::SharedTail => Arc::new(SharedTail::start()),
        };
        for stream in listener.incoming() {
            let (stream, fan) = (stream?, fan.clone());
            // A publisher has its thread; a subscriber leaves its own as soon as it is known.
            std::thread::spawn(move || drop(connection(stream, &*fan)));
        }
        Ok(())
    }
}

trait Fan: Send + Sync {
    fn join(&self, subscriber: TcpStream) -> io::Result<()>;
    fn publish(&self, frame: &[u8]);
}

const UPGRADED: &[u8] = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
const YES: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
/// The largest request.
const LARGEST: usize = 64 * 1024;

fn connection(mut stream: TcpStream, fan: &dyn Fan) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let (mut buffer, mut frame) = (Vec::with_capacity(LARGEST), Vec::new());
    loop {
        let Some(head) = find(&buffer, b"\r\n\r\n").map(|at| at + 4) else {
            more(&mut stream, &mut buffer)?;
            continue;
        };
        if buffer.starts_with(b"GET ") {
            stream.write_all(UPGRADED)?;
            return fan.join(stream);
        }
        let length = length(&buffer[..head]).ok_or(io::ErrorKind::InvalidData)?;
        while buffer.len() < head + length {
            more(&mut stream, &mut buffer)?;
        }
        frame.clear();
        put_frame(&buffer[head..head + length], &mut frame);
        buffer.drain(..head + length);
        fan.publish(&frame);
        stream.write_all(YES)?;
    }
}

fn more(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> io::Result<()> {
    let mut piece = [0; 4096];
    let count = stream.read(&mut piece)?;
    if count == 0 || buffer.len() > LARGEST {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    buffer.extend_from_slice(&piece[..count]);
    Ok(())
}

fn length(head: &[u8]) -> Option<usize> {
    let head = std::str::from_utf8(head).ok()?;
    head.lines().find_map(|line| line.strip_prefix("Content-Length: ")?.trim().parse().ok())
}

fn put_frame(payload: &[u8], out: &mut Vec<u8>) {
    match payload.len() {
        short @ 0..=125 => out.extend_from_slice(&[0x81, short as u8]),
        long => {
            out.extend_from_slice(&[0x81, 126]);
            out.extend_from_slice(&(long as u16).to_be_bytes());
        }
    }
    out.extend_from_slice(payload);
}

#[derive(Default)]
struct OneWrite {
    subscribers: Mutex<Vec<TcpStream>>,
}

impl Fan for OneWrite {
    fn join(&self, subscriber: TcpStream) -> io::Result<()> {
        self.subscribers.lock().push(subscriber);
        Ok(())
    }

    fn publish(&self, frame: &[u8]) {
        self.subscribers.lock().retain_mut(|subscriber| subscriber.write_all(frame).is_ok());
    }
}

/// A thread per core, each with its share of the subscribers and a copy of the tail.
struct SharedTail {
    writers: Vec<Arc<Writer>>,
    joined: AtomicUsize,
}

#[derive(Default)]
struct Writer {
    news: Mutex<News>,
    bell: Condvar,
}

#[derive(Default)]
struct News {
    bytes: Vec<u8>,
    subscribers: Vec<TcpStream>,
}

/// What a writer has not taken yet; beyond it publishers wait.
const UNTAKEN: usize = 16 << 20;
/// What some subscriber has not taken yet; beyond it the writer takes no more.
const BEHIND: usize = 64 << 20;

impl SharedTail {
    fn start() -> SharedTail {
        let count = std::thread::available_parallelism().map_or(1, usize::from);
        let writers: Vec<Arc<Writer>> = (0..count).map(|_| Arc::default()).collect();
        for writer in &writers {
            let writer = writer.clone();
            std::thread::spawn(move || writer.run());
        }
        SharedTail { writers, joined: AtomicUsize::new(0) }
    }
}

impl Fan for SharedTail {
    fn join(&self, subscriber: TcpStream) -> io::Result<()> {
        subscriber.set_nonblocking(true)?;
        let turn = self.joined.fetch_add(1, Ordering::Relaxed);
        let writer = &self.writers[turn % self.writers.len()];
        writer.news.lock().subscribers.push(subscriber);
        writer.bell.notify_one();
        Ok(())
    }

    fn publish(&self, frame: &[u8]) {
        for writer in &self.writers {
            let mut news = writer.news.lock();
            while news.bytes.len() > UNTAKEN {
                parking_lot::MutexGuard::unlocked(&mut news, || std::thread::sleep(Duration::from_millis(1)));
            }
            news.bytes.extend_from_slice(frame);
            writer.bell.notify_one();
        }
    }
}

impl Writer {
    fn run(&self) {
        // The tail from `base` on, and where each subscriber is in it.
        let (mut tail, mut base, mut subscribers) = (Vec::<u8>::new(), 0, Vec::<(TcpStream, usize)>::new());
        loop {
            let mut news = self.news.lock();
            if news.bytes.is_empty() && news.subscribers.is_empty() {
                if tail.is_empty() {
                    self.bell.wait(&mut news);
                } else {
                    self.bell.wait_for(&mut news, Duration::from_millis(1));
                }
            }
            if tail.len() < BEHIND {
                tail.append(&mut news.bytes);
            }
            let end = base + tail.len();
            subscribers.extend(news.subscribers.drain(..).map(|stream| (stream, end)));
            drop(news);
            subscribers.retain_mut(|(stream, at)| match stream.write(&tail[*at - base..]) {
                _ if *at == end => true,
                Ok(count) => {
                    *at += count;
                    true
                }
                Err(error) => error.kind() == io::ErrorKind::WouldBlock,
            });
            let least = subscribers.iter().map(|(_, at)| *at).min().unwrap_or(end);
            tail.drain(..least - base);
            base = least;
        }
    }
}

/// A floor in a process of its own.
pub struct FloorProcess {
    floor: Floor,
    address: SocketAddr,
    account: Account,
    child: Child,
    _said: BufReader<ChildStdout>,
}

impl FloorProcess {
    pub fn start(program: &Path, floor: Floor) -> anyhow::Result<FloorProcess> {
        let mut command = Command::new(program);
        command.args(["bench", "floor", "--serve", floor.name()]).stdin(Stdio::null()).stdout(Stdio::piped());
        let mut child = ours::spawn(&mut command).context("a floor")?;
        let mut said = BufReader::new(child.stdout.take().context("no stdout")?);
        let mut first = String::new();
        said.read_line(&mut first)?;
        let account = Account::Processes(child.id());
        let Ok(address) = first.trim().parse() else {
            ours::kill(&mut child);
            bail!("the floor did not start")
        };
        Ok(FloorProcess { floor, address, account, child, _said: said })
    }
}

impl Drop for FloorProcess {
    fn drop(&mut self) {
        ours::kill(&mut self.child);
    }
}

impl Target for FloorProcess {
    fn name(&self) -> String {
        format!("floor, {}", self.floor.name())
    }

    fn durability(&self) -> String {
        "nothing is kept".into()
    }

    fn subscribers_at(&self) -> SocketAddr {
        self.address
    }

    fn account(&self) -> &Account {
        &self.account
    }

    /// There is only one.
    fn channel(&self, _run: u64, _number: usize) -> String {
        "floor".into()
    }

    fn subscribe(&self, _transport: Transport, _channel: &str) -> Vec<Step> {
        vec![Step::new(upgrade("/"), b"\r\n\r\n")]
    }

    fn publish(&self, _channel: &str, payloads: &[String], request: &mut Vec<u8>) {
        for payload in payloads {
            let head = format!("POST / HTTP/1.1\r\nHost: bench\r\nContent-Length: {}\r\n\r\n", payload.len());
            request.extend_from_slice(head.as_bytes());
            request.extend_from_slice(payload.as_bytes());
        }
    }
}
