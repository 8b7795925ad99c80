//! Many clients that come back at once, each with messages that it missed, and a neighbour who should not notice.

use std::cell::RefCell;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use serde_json::{Value as Json, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

use super::dial;
use super::histogram::Histogram;
use super::hub::{Hub, word};
use super::mark::{self, Tally};
use super::neighbour::Neighbour;
use super::progress::Progress;
use super::publisher::Publisher;
use super::target::{Step, TEXT, Target, Transport, frame, upgrade};

/// How long all of it may take.
const PATIENCE: Duration = Duration::from_secs(60);
/// Stands in the frame and in the event that tell of one, and in no payload. No longer than what is kept of a read for the
/// next one and a byte.
const GAP: &[u8] = b"\"gap\"";
/// How long nobody may listen at all.
const GONE: Duration = Duration::from_secs(5);
/// What a client waits that heard no.
const WAIT: Duration = Duration::from_millis(200);
/// Messages that are published in one request.
const BATCH: usize = 100;
/// How long a duplicate may be behind the last message, and how long the hub has to forget those who went.
const AFTERMATH: Duration = Duration::from_millis(200);
/// How many clients that went wrong are told of.
const TOLD: usize = 5;

thread_local! {
    /// Shared by all, who never read at once.
    static READ: RefCell<Vec<u8>> = RefCell::new(vec![0; 64 * 1024]);
}

pub struct Shape {
    pub transport: Transport,
    pub clients: usize,
    /// That each of them missed.
    pub messages: usize,
    pub rounds: usize,
    pub payload: usize,
    /// How long the neighbour is alone first.
    pub quiet: Duration,
}

pub struct Storm {
    pub clients: usize,
    pub messages: usize,
    pub rounds: usize,
    /// From the beginning to the last client's last message; the slowest round.
    pub seconds: f64,
    /// From the beginning to a client's last message.
    pub recovered: Histogram,
    /// Connections that were refused or broke, and were made again.
    pub again: usize,
    pub quiet: Histogram,
    pub beside: Histogram,
    inexact: usize,
    faults: Vec<String>,
}

pub fn run(hub: &Hub, shape: &Shape, run: u64, progress: &Progress) -> anyhow::Result<Storm> {
    dial::make_room(shape.clients)?;
    let channel = hub.channel(run, 0);
    let (back, sent) = miss(hub, shape, &channel)?;
    let back = Arc::new(back);
    let neighbour = Neighbour::move_in(hub, &hub.channel(run, 1), shape.payload)?;
    let (heard, storm) = neighbour.beside(|| {
        let alone = Instant::now();
        progress.wait(shape.quiet, || false, |took| format!("{:.1} s of quiet", took.as_secs_f64()));
        let mut spans = vec![(alone, Instant::now())];
        let (mut storm, recovered) = (Storm::new(shape), Arc::new(AtomicUsize::new(0)));
        for round in 1..=shape.rounds {
            recovered.store(0, Ordering::Relaxed);
            let began = Instant::now();
            let round = std::thread::scope(|scope| {
                let thread = scope.spawn(|| all_at_once(hub.address, shape, &back, &recovered));
                progress.wait(
                    Duration::MAX,
                    || thread.is_finished(),
                    |_| {
                        format!(
                            "storm {round}: {} of {} have everything",
                            recovered.load(Ordering::Relaxed),
                            shape.clients
                        )
                    },
                );
                thread.join().unwrap_or_else(|_| bail!("the storm panicked"))
            })?;
            spans.push((began, began + round.took));
            if let Some(why) = round.in_vain() {
                bail!("no client gets what it missed: {why}");
            }
            storm.take(round, sent);
            std::thread::sleep(AFTERMATH * 5);
        }
        Ok((storm, spans))
    })?;
    progress.clear();
    let (mut storm, spans) = storm;
    storm.quiet = heard.within(&spans[..1]);
    storm.beside = heard.within(&spans[1..]);
    Ok(storm)
}

/// Publishes what is missed; how one comes back, and what one should get then.
fn miss(hub: &Hub, shape: &Shape, channel: &str) -> anyhow::Result<(Vec<Step>, Tally)> {
    let mut publisher = Publisher::connect(hub)?;
    let mut tally = Tally::default();
    publisher.publish(channel, &[mark::payload(mark::now(), shape.payload)])?;
    let answer = String::from_utf8_lossy(publisher.answer()).into_owned();
    let told = |name| word(&answer, name).with_context(|| format!("an answer without {name}: {answer}"));
    let back = match shape.transport {
        Transport::Ws | Transport::WsDeflate => {
            let (seq, epoch) = (told("seq_id")?, told("epoch")?);
            let asked = format!(
                r#"{{"type":"subscribe","channels":["{channel}"],"after_seq":{{"{channel}":{seq}}},"epoch":{{"{channel}":"{epoch}"}}}}"#
            );
            let door = Step::new(upgrade(&format!("/ws?token={}", hub.token)), b"\r\n\r\n");
            vec![door, Step::new(frame(TEXT, asked.as_bytes()), b"}}}\n")]
        }
        Transport::Sse => {
            let head = format!("GET /sse?channel={channel}&token={} HTTP/1.1\r\nHost: bench\r\n", hub.token);
            // Its first event says where it stands, as to any EventSource.
            let door = Step::new(format!("{head}\r\n"), b"\nid: ");
            let line = dial::open(hub.address, None, &[door])?;
            let cursor = String::from_utf8_lossy(&line.rest).into_owned();
            let cursor = cursor.split_once('\n').context("the first event was torn")?.0;
            vec![Step::new(format!("{head}Last-Event-ID: {cursor}\r\n\r\n"), b"\n\n\r\n")]
        }
    };
    let times: Vec<u64> = (0..shape.messages as u64).map(|place| mark::now() + place).collect();
    for batch in times.chunks(BATCH) {
        let payloads: Vec<_> = batch.iter().map(|at| mark::payload(*at, shape.payload)).collect();
        publisher.publish(channel, &payloads)?;
        batch.iter().for_each(|at| tally.add(*at));
    }
    Ok((back, tally))
}

impl Round {
    /// Why, if the hub had nothing for anybody: further rounds would only take their time.
    fn in_vain(&self) -> Option<&str> {
        let all = self.clients.iter().map(|client| client.as_ref().err());
        all.collect::<Option<Vec<_>>>()?.first().map(|why| why.as_str())
    }
}

/// Nobody can have all of it, however often it asks.
#[derive(Debug)]
struct Told(&'static str);

impl std::fmt::Display for Told {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.0)
    }
}

impl std::error::Error for Told {}

struct Round {
    clients: Vec<Result<Tally, String>>,
    took: Duration,
    recovered: Histogram,
    again: usize,
}

/// A task each: as parts of one task they would share its budget of reads, and thousands would be asked in vain for every one
/// that is served.
fn all_at_once(
    to: SocketAddr,
    shape: &Shape,
    back: &Arc<Vec<Step>>,
    recovered: &Arc<AtomicUsize>,
) -> anyhow::Result<Round> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let (began, again) = (Instant::now(), Arc::new(AtomicUsize::new(0)));
        let clients: Vec<_> = (0..shape.clients)
            .map(|number| {
                let returns = returns(to, number, back.clone(), shape.messages, began, again.clone());
                let recovered = recovered.clone();
                tokio::spawn(async move {
                    let ended = returns.await;
                    recovered.fetch_add(usize::from(ended.is_ok()), Ordering::Relaxed);
                    ended
                })
            })
            .collect();
        let mut ended = Vec::with_capacity(clients.len());
        for client in clients {
            ended.push(client.await.unwrap_or_else(|error| Err(error.to_string())));
        }
        let took = ended.iter().flatten().map(|(_, took)| *took).max().unwrap_or_default();
        // One more look: a duplicate would follow at once.
        tokio::time::sleep(AFTERMATH).await;
        let mut recovered = Histogram::default();
        let clients = ended.into_iter().map(|ended| {
            let (client, took) = ended?;
            recovered.record(took.as_micros() as u64);
            Ok(client.last_look())
        });
        let clients = clients.collect();
        Ok(Round { clients, took, recovered, again: again.load(Ordering::Relaxed) })
    })
}

/// Comes back as often as it must; when it had everything.
async fn returns(
    to: SocketAddr,
    number: usize,
    back: Arc<Vec<Step>>,
    messages: usize,
    began: Instant,
    again: Arc<AtomicUsize>,
) -> Result<(Client, Duration), String> {
    let mut refused = None;
    loop {
        match client(to, number, &back, messages).await {
            Ok(client) => return Ok((client, began.elapsed())),
            Err(error) if began.elapsed() > PATIENCE || error.is::<Told>() => return Err(format!("{error:#}")),
            Err(error) => {
                let is_alone = error.downcast_ref::<std::io::Error>().map(std::io::Error::kind)
                    == Some(ErrorKind::ConnectionRefused);
                let since = *refused.get_or_insert_with(Instant::now);
                if !is_alone {
                    refused = None;
                } else if since.elapsed() > GONE {
                    return Err(format!("nobody listens at {to} any more: has the hub ended?"));
                }
                again.fetch_add(1, Ordering::Relaxed);
                tokio::time::sleep(WAIT).await;
            }
        }
    }
}

struct Client {
    stream: TcpStream,
    tally: Tally,
    /// What was read and not counted yet: half a mark.
    rest: Vec<u8>,
    hears_of_a_gap: bool,
}

/// Comes back, and reads until it has so many messages.
async fn client(to: SocketAddr, number: usize, steps: &[Step], messages: usize) -> anyhow::Result<Client> {
    let socket = dial::socket(to, dial::source(to, number))?;
    // Or each would wait for its own answer while all others wait for it.
    socket.set_nonblocking(true)?;
    // Its port is free again with its end, for the next round.
    socket.set_linger(Some(Duration::ZERO))?;
    let socket = TcpSocket::from_std_stream(socket.into());
    let mut stream = tokio::time::timeout(PATIENCE, socket.connect(to)).await??;
    let rest = tokio::time::timeout(PATIENCE, heard(&mut stream, steps)).await??;
    let hears_of_a_gap = memchr::memmem::find(&rest, GAP).is_some();
    let mut client = Client { stream, tally: Tally::default(), rest, hears_of_a_gap };
    client.count();
    let all = async {
        while client.tally.count < messages as u64 {
            if client.hears_of_a_gap {
                return Err(Told(
                    "it is told of a gap: does the hub keep as many messages of a channel as are missed here?",
                )
                .into());
            }
            client.stream.readable().await?;
            match client.read() {
                Ok(0) => bail!("it is closed with {} of {messages} messages", client.tally.count),
                Err(error) if error.kind() != ErrorKind::WouldBlock => return Err(error.into()),
                Ok(_) | Err(_) => {}
            }
        }
        Ok(())
    };
    let in_time = tokio::time::timeout(PATIENCE, all).await;
    in_time.unwrap_or_else(|_| bail!("it does not get all of its {messages} messages"))?;
    Ok(client)
}

/// Says what is to be said; what came after the last answer.
async fn heard(stream: &mut TcpStream, steps: &[Step]) -> anyhow::Result<Vec<u8>> {
    let mut rest = Vec::new();
    for step in steps {
        stream.write_all(&step.say).await?;
        while !step.take(&mut rest)? {
            if stream.read_buf(&mut rest).await? == 0 {
                bail!("closed instead of an answer");
            }
        }
    }
    Ok(rest)
}

impl Client {
    fn read(&mut self) -> std::io::Result<usize> {
        READ.with_borrow_mut(|buffer| {
            let count = self.stream.try_read(buffer)?;
            self.rest.extend_from_slice(&buffer[..count]);
            self.hears_of_a_gap |= memchr::memmem::find(&self.rest, GAP).is_some();
            self.count();
            Ok(count)
        })
    }

    fn count(&mut self) {
        let done = mark::times(&self.rest, |at| self.tally.add(at));
        self.rest.drain(..done);
        // Ten thousand of them are there at once.
        self.rest.shrink_to(64);
    }

    fn last_look(mut self) -> Tally {
        let _ = self.read();
        self.tally
    }
}

impl Storm {
    fn new(shape: &Shape) -> Storm {
        Storm {
            clients: shape.clients,
            messages: shape.messages,
            rounds: shape.rounds,
            seconds: 0.0,
            recovered: Histogram::default(),
            again: 0,
            quiet: Histogram::default(),
            beside: Histogram::default(),
            inexact: 0,
            faults: Vec::new(),
        }
    }

    fn take(&mut self, round: Round, sent: Tally) {
        self.seconds = self.seconds.max(round.took.as_secs_f64());
        self.recovered.merge(&round.recovered);
        self.again += round.again;
        for (number, client) in round.clients.into_iter().enumerate() {
            let fault = match client {
                Ok(tally) if tally == sent => continue,
                Ok(tally) => format!("client {} has {} of {} messages", number + 1, tally.count, sent.count),
                Err(why) => format!("client {}: {why}", number + 1),
            };
            self.inexact += 1;
            if self.faults.len() < TOLD {
                self.faults.push(fault);
            }
        }
    }

    /// How much slower the neighbour's slowest hundredth was.
    pub fn ratio(&self) -> f64 {
        self.beside.at_ms(0.99) / self.quiet.at_ms(0.99).max(f64::EPSILON)
    }

    pub fn exact(&self) -> anyhow::Result<()> {
        if self.inexact > 0 {
            bail!("{} clients have not exactly what they missed: {}", self.inexact, self.faults.join(", "));
        }
        Ok(())
    }

    pub fn json(&self) -> Json {
        json!({
            "clients": self.clients,
            "missed_messages_each": self.messages,
            "rounds": self.rounds,
            "slowest_round_s": self.seconds,
            "recovered": self.recovered.json(),
            "connections_made_again": self.again,
            "neighbour_quiet": self.quiet.json(),
            "neighbour_beside": self.beside.json(),
            "neighbour_p99_ratio": self.ratio(),
            "inexact_clients": self.inexact,
        })
    }
}
