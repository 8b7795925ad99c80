//! Subscribers to whom nothing is said: their memory, and what their heartbeats cost.

use std::cell::Cell;
use std::io::ErrorKind;
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::bail;
use serde_json::{Value as Json, json};
use tokio::net::TcpStream;

use super::dial::{self, Line};
use super::progress::Progress;
use super::target::{PONG, Target, Transport, frame};

/// The first ones pay for threads and for what an allocator takes in advance.
const WARM: usize = 200;
/// The second byte of a WebSocket's ping is its length.
const PING: u8 = 0x89;

pub struct Idle {
    pub connections: usize,
    pub memory_kib_per_connection: Option<f64>,
    pub memory_is: &'static str,
    pub connected_per_s: f64,
    /// Nothing if they were not held.
    pub held: Option<Held>,
}

pub struct Held {
    pub seconds: f64,
    /// Of one core.
    pub cpu_share: Option<f64>,
    /// Pings and comments.
    pub heartbeats: u64,
    pub closed: usize,
}

pub fn run(
    target: &dyn Target,
    transport: Transport,
    connections: usize,
    hold: Duration,
    run: u64,
    progress: &Progress,
) -> anyhow::Result<Idle> {
    dial::make_room(connections + WARM)?;
    let account = target.account();
    let channel = [target.channel(run, 0)];
    let warm = dial::subscribers(target, transport, &channel, WARM.min(connections), progress)?;
    let before = account.memory_kib();
    let began = Instant::now();
    let lines = dial::subscribers(target, transport, &channel, connections, progress)?;
    let connected_per_s = connections as f64 / began.elapsed().as_secs_f64();
    let memory = before.zip(account.memory_kib()).map(|(before, after)| (after - before) / connections as f64);
    drop(warm);
    let held = (!hold.is_zero()).then(|| self::hold(target, transport, lines, hold, progress)).transpose()?;
    progress.clear();
    Ok(Idle { connections, memory_kib_per_connection: memory, memory_is: account.memory_is(), connected_per_s, held })
}

fn hold(
    target: &dyn Target,
    transport: Transport,
    lines: Vec<Line>,
    hold: Duration,
    progress: &Progress,
) -> anyhow::Result<Held> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let tasks = tokio::task::LocalSet::new();
    tasks.block_on(&runtime, async {
        let (heartbeats, closed) = (Rc::new(Cell::new(0)), Rc::new(Cell::new(0)));
        for line in lines {
            line.stream.set_nonblocking(true)?;
            let stream = TcpStream::from_std(line.stream)?;
            tokio::task::spawn_local(stay(stream, transport, heartbeats.clone(), closed.clone()));
        }
        // What the last of them still cost to connect is not theirs to hold.
        tokio::time::sleep(Duration::from_secs(1).min(hold / 10)).await;
        let (began, cpu) = (Instant::now(), target.account().cpu_seconds());
        while began.elapsed() < hold {
            progress
                .say(|| format!("holding: {:.0} s, {} heartbeats", began.elapsed().as_secs_f64(), heartbeats.get()));
            tokio::time::sleep(Duration::from_millis(100).min(hold)).await;
        }
        let seconds = began.elapsed().as_secs_f64();
        let cpu_share = cpu.zip(target.account().cpu_seconds()).map(|(before, after)| (after - before) / seconds);
        Ok(Held { seconds, cpu_share, heartbeats: heartbeats.get(), closed: closed.get() })
    })
}

/// Answers pings, as a browser does, and else says nothing.
async fn stay(stream: TcpStream, transport: Transport, heartbeats: Rc<Cell<u64>>, closed: Rc<Cell<usize>>) {
    let mut buffer = [0; 256];
    loop {
        let ready = stream.readable().await;
        match ready.and_then(|()| stream.try_read(&mut buffer)) {
            Ok(count) if count > 0 => {
                heartbeats.set(heartbeats.get() + 1);
                if transport != Transport::Sse && buffer[..count].contains(&PING) {
                    let _ = stream.try_write(&frame(PONG, b""));
                }
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Ok(_) | Err(_) => return closed.set(closed.get() + 1),
        }
    }
}

impl Idle {
    /// Fails if any was closed.
    pub fn exact(&self) -> anyhow::Result<()> {
        match &self.held {
            Some(Held { closed, .. }) if *closed > 0 => {
                bail!("{closed} of {} connections were closed while they were held", self.connections)
            }
            _ => Ok(()),
        }
    }

    pub fn json(&self) -> Json {
        let mut json = json!({
            "connections": self.connections,
            "memory_kib_per_connection": self.memory_kib_per_connection,
            "memory_is": self.memory_is,
            "connected_per_s": self.connected_per_s,
        });
        if let Some(Held { seconds, cpu_share, heartbeats, closed }) = &self.held {
            json["held"] = json!({
                "time_s": seconds,
                "cpu_share_of_a_core": cpu_share,
                "heartbeats": heartbeats,
                "closed": closed,
            });
        }
        json
    }
}
