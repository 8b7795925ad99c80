//! **Nothing is skipped in silence**, under any interleaving: the kernel against a model of it.
//!
//! Readers take what `fill` proposes in pieces of any size, fall behind the tail, behind the store, resume from any old
//! position, across restarts, deletions and channels that left memory. Whatever they are told is held against the model: the
//! next publication, with the payload that was acknowledged under that offset, or a gap that names exactly what is missing
//! and is right about why. In the end everybody must have arrived at the head without being woken by anything but the
//! kernel. One reader sees through a view that withholds some of it.
//!
//! `AETHER_MODEL_CASES=5000 cargo test --test main model` for more, `AETHER_MODEL_SHRINK=0` to hear of a failure at once.
//! `tests/planted.sh` plants a bug of each class and expects this to find it.

use std::collections::HashMap;
use std::future::ready;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use aether::kernel::TailLimit;
use aether::kernel::format::{Format, View};
use aether::kernel::hooks::{Admission, Answer, Client, ConnectRequest, Farewell, Hooks, Identity, Sight};
use aether::kernel::hub::{Hub, Parts};
use aether::kernel::message::{ChannelName, Draft, Epoch, Message, Offset, Publication};
use aether::kernel::policy::{Ack, Lag, Policy, Retention};
use aether::kernel::session::{Batch, Pace, Session, Start};
use aether::stores::memory::MemoryLog;
use aether::stores::sled::SledLog;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestCaseError, TestRunner};

use crate::common::TempDir;
use crate::common::kernel::{Lines, now};

const CHANNELS: [&str; 4] = ["kept", "few", "skipping", "fleeting"];
const FEW: u64 = 8;
const MAX_LAG: u64 = 6;
/// A reader that is not woken within this time never will be.
const ASLEEP: Duration = Duration::from_secs(60);

fn policy(channel: &str) -> Policy {
    let retention = |count| Some(Retention { count: Some(count), age: None, bytes: None });
    match channel {
        "few" => Policy { history: retention(FEW), ..Policy::default() },
        "skipping" => Policy { lag: Lag::Skip, max_lag: Some(MAX_LAG), ack: Ack::Memory, ..Policy::default() },
        "fleeting" => Policy { history: None, ..Policy::default() },
        _ => Policy { history: retention(1000), ..Policy::default() },
    }
}

#[derive(Clone, Debug)]
enum Op {
    Publish {
        channel: usize,
        count: u64,
    },
    /// Under a key of only a few, so that some are repeats.
    PublishKeyed {
        channel: usize,
        key: u8,
    },
    Subscribe {
        reader: usize,
        channel: usize,
        from_start: bool,
        paced: bool,
    },
    Unsubscribe {
        reader: usize,
        channel: usize,
    },
    /// One turn of the connection loop: what `fill` proposes, of which the socket takes so many bytes.
    Turn {
        reader: usize,
        room: usize,
        takes: usize,
    },
    /// The connection breaks; the reader comes back with its positions.
    Reconnect {
        reader: usize,
    },
    Forget {
        channel: usize,
    },
    /// Channels that nobody holds leave memory.
    Idle,
    Restart,
}

fn op() -> impl Strategy<Value = Op> {
    let (channel, reader) = (0..CHANNELS.len(), 0..3usize);
    prop_oneof![
        6 => (channel.clone(), 1..9u64).prop_map(|(channel, count)| Op::Publish { channel, count }),
        2 => (channel.clone(), 0..4u8).prop_map(|(channel, key)| Op::PublishKeyed { channel, key }),
        4 => (reader.clone(), channel.clone(), any::<bool>(), prop::bool::weighted(0.2))
            .prop_map(|(reader, channel, from_start, paced)| Op::Subscribe { reader, channel, from_start, paced }),
        1 => (reader.clone(), channel.clone()).prop_map(|(reader, channel)| Op::Unsubscribe { reader, channel }),
        8 => (reader.clone(), 1..400usize, 0..400usize)
            .prop_map(|(reader, room, takes)| Op::Turn { reader, room, takes }),
        2 => reader.prop_map(|reader| Op::Reconnect { reader }),
        1 => channel.prop_map(|channel| Op::Forget { channel }),
        1 => Just(Op::Idle),
        1 => Just(Op::Restart),
    ]
}

/// Shouts, and withholds every third message: what the last reader sees.
struct Third;

fn is_withheld(payload: &str) -> bool {
    payload[1..].parse::<u64>().is_ok_and(|number| number % 3 == 0)
}

impl View for Third {
    fn name(&self) -> &str {
        "third"
    }
    fn render(&self, _: &ChannelName, publication: &Publication) -> Option<Message> {
        let payload = String::from_utf8_lossy(&publication.message.payload);
        let seen = Message { payload: payload.to_uppercase().into(), ..Message::default() };
        (!is_withheld(&payload)).then_some(seen)
    }
}

/// Who sees through the view.
const VIEWER: u64 = 2;

struct Open(Arc<dyn View>);

impl Open {
    fn sight(&self, client: &Client) -> Sight {
        (client.id == VIEWER.to_string()).then(|| self.0.clone())
    }
}

impl Hooks for Open {
    fn connect<'a>(&'a self, _: &'a ConnectRequest) -> Answer<'a, Identity> {
        Box::pin(ready(Ok(Identity::default())))
    }
    fn subscribe<'a>(&'a self, client: &'a Client, _: &'a ChannelName) -> Answer<'a, Sight> {
        Box::pin(ready(Ok(self.sight(client))))
    }
    fn publish<'a>(&'a self, _: &'a Client, draft: Draft) -> Answer<'a, Admission> {
        Box::pin(ready(Ok(draft.into())))
    }
    fn history<'a>(&'a self, client: &'a Client, _: &'a ChannelName, _: bool) -> Answer<'a, Sight> {
        Box::pin(ready(Ok(self.sight(client))))
    }
    fn disconnected(&self, _: &Arc<Client>, _: &Farewell) {}
    fn policy(&self, channel: &ChannelName) -> Policy {
        policy(channel.as_str())
    }
}

fn client(id: impl ToString) -> Client {
    Client {
        id: id.to_string(),
        identity: Identity::default(),
        ip: None,
        dialect: "model",
        transport: "model",
        credential: false,
        connected: 0,
    }
}

/// What was acknowledged in one life of a channel.
#[derive(Default)]
struct Life {
    payloads: Vec<String>,
    keys: HashMap<u8, Offset>,
    /// Everything up to here was deleted.
    forgotten: Offset,
}

impl Life {
    fn head(&self) -> Offset {
        self.payloads.len() as Offset
    }
    fn first(&self, channel: &str) -> Offset {
        let by_count = if channel == "few" { (self.head() + 1).saturating_sub(FEW) } else { 1 };
        by_count.max(self.forgotten + 1)
    }
}

/// Where a reader is in a channel, by what it has been told.
#[derive(Clone, Copy, Debug)]
struct Place {
    epoch: Epoch,
    at: Offset,
    live_due: bool,
}

struct Reader {
    session: Session,
    places: HashMap<String, Place>,
    /// Where it was in channels that it left, for coming back.
    left: HashMap<String, Place>,
    carry: Vec<u8>,
    /// Bytes that it has been sent and that do not make a line yet.
    inbox: Vec<u8>,
    number: u64,
}

struct World {
    hub: Arc<Hub>,
    herald: tokio::task::JoinHandle<()>,
    dir: TempDir,
    format: Arc<dyn Format>,
    lives: HashMap<(String, Epoch), Life>,
    readers: Vec<Option<Reader>>,
    batch: Batch,
    published: u64,
}

fn start(dir: &TempDir) -> (Arc<Hub>, tokio::task::JoinHandle<()>) {
    let window = Duration::from_secs(3600);
    let kept = SledLog::open(&dir.path().join("store"), 1 << 20, Duration::from_secs(1), window).unwrap();
    let hub = Hub::start(Parts {
        hooks: Arc::new(Open(Arc::new(Third))),
        kept: Arc::new(kept),
        fleeting: Arc::new(MemoryLog::new(window)),
        clock: now,
        tail: TailLimit { count: 5, bytes: 4096 },
        idle_after: Duration::ZERO,
        flush_interval: Duration::from_millis(50),
        sweep_interval: Duration::from_millis(1),
        lag_patience: Duration::ZERO,
        queue: 64,
    })
    .unwrap();
    let herald = tokio::spawn({
        let hub = hub.clone();
        async move { hub.herald(tokio::task::yield_now).await }
    });
    (hub, herald)
}

macro_rules! check {
    ($holds:expr, $($said:tt)*) => {
        if !$holds {
            return Err(TestCaseError::fail(format!($($said)*)));
        }
    };
}

type Checked = Result<(), TestCaseError>;

impl World {
    fn new() -> World {
        let dir = TempDir::new();
        let (hub, herald) = start(&dir);
        let mut world = World {
            hub,
            herald,
            dir,
            format: Arc::new(Lines),
            lives: HashMap::new(),
            readers: Vec::new(),
            batch: Batch::default(),
            published: 0,
        };
        world.readers = (0..3).map(|number| Some(world.reader(number))).collect();
        world
    }

    fn reader(&self, number: u64) -> Reader {
        Reader {
            session: Session::new(self.hub.clone(), Arc::new(client(number)), self.format.clone()),
            places: HashMap::new(),
            left: HashMap::new(),
            carry: Vec::new(),
            inbox: Vec::new(),
            number,
        }
    }

    async fn apply(&mut self, op: Op) -> Checked {
        match op {
            Op::Publish { channel, count } => {
                self.publish(channel, None, count).await?;
            }
            Op::PublishKeyed { channel, key } => self.publish(channel, Some(key), 1).await?,
            Op::Subscribe { reader, channel, from_start, paced } => {
                let name = CHANNELS[channel];
                let left = self.readers[reader].as_mut().and_then(|reader| reader.left.remove(name));
                let start = match (left, from_start) {
                    (Some(place), _) => Start::After(place.at, Some(place.epoch)),
                    (None, true) => Start::After(0, None),
                    (None, false) => Start::Now,
                };
                self.subscribe(reader, name, start).await?;
                if paced {
                    let pace = Pace { every: Duration::from_micros(100), conflate: false };
                    self.readers[reader].as_mut().unwrap().session.set_pace(name, pace);
                }
            }
            Op::Unsubscribe { reader, channel } => {
                let reader = self.readers[reader].as_mut().unwrap();
                // What is half sent is the connection's own and still arrives.
                while !reader.carry.is_empty() {
                    let bytes = std::mem::take(&mut reader.carry);
                    reader.inbox.extend(bytes);
                    Self::digest(&self.lives, reader)?;
                }
                reader.session.unsubscribe(CHANNELS[channel]);
                if let Some(place) = reader.places.remove(CHANNELS[channel]) {
                    reader.left.insert(CHANNELS[channel].into(), place);
                }
            }
            Op::Turn { reader, room, takes } => self.turn(reader, room, takes).await?,
            Op::Reconnect { reader } => self.reconnect(reader).await?,
            Op::Forget { channel } => {
                let name = ChannelName::new(CHANNELS[channel]).unwrap();
                self.hub.forget(&name).await.unwrap();
                for ((known, _), life) in &mut self.lives {
                    if known == CHANNELS[channel] && known != "fleeting" {
                        life.forgotten = life.head();
                    }
                }
            }
            Op::Idle => tokio::time::sleep(Duration::from_millis(3)).await,
            Op::Restart => self.restart().await?,
        }
        Ok(())
    }

    /// Publishes `count` messages as one group.
    async fn publish(&mut self, channel: usize, key: Option<u8>, count: u64) -> Checked {
        let payloads: Vec<_> = (1..=count).map(|n| format!("m{}", self.published + n)).collect();
        self.published += count;
        let draft = |payload: &String| Draft {
            idempotency_key: key.map(|key| format!("k{key}").into()),
            ..Draft::new(
                ChannelName::new(CHANNELS[channel]).unwrap(),
                Message { payload: payload.clone().into(), ..Message::default() },
            )
        };
        let drafts = payloads.iter().map(draft).collect();
        let receipts = self.hub.publish_batch(&client("publisher"), drafts).await;
        for (payload, receipt) in payloads.into_iter().zip(receipts) {
            let receipt = receipt.map_err(|e| TestCaseError::fail(format!("{e:?}")))?;
            let life = self.lives.entry((CHANNELS[channel].into(), receipt.epoch)).or_default();
            let known = key.and_then(|key| life.keys.get(&key)).copied();
            check!(receipt.duplicate == known.is_some(), "{receipt:?}: known {known:?}");
            if let Some(offset) = known {
                check!(receipt.offset == offset, "a repeat has the first one's place {offset}: {receipt:?}");
                continue;
            }
            check!(receipt.offset == life.head() + 1, "after {} comes {receipt:?}", life.head());
            life.payloads.push(payload);
            if let Some(key) = key {
                life.keys.insert(key, receipt.offset);
            }
        }
        Ok(())
    }

    async fn subscribe(&mut self, reader: usize, name: &str, start: Start) -> Checked {
        let reader = self.readers[reader].as_mut().unwrap();
        if reader.places.contains_key(name) {
            return Ok(());
        }
        let position = reader.session.subscribe(ChannelName::new(name).unwrap(), start).await;
        let position = position.map_err(|e| TestCaseError::fail(format!("{e:?}")))?;
        let head = self.lives.get(&(name.into(), position.epoch)).map_or(0, Life::head);
        let (at, live_due) = match start {
            Start::Now => {
                check!(position.offset == head, "{name} begins at {position:?}, its head is {head}");
                (head, false)
            }
            // A gap will say so if the place is another.
            Start::After(after, _) => (after, true),
        };
        let epoch = match start {
            Start::After(_, Some(epoch)) => epoch,
            _ => position.epoch,
        };
        reader.places.insert(name.into(), Place { epoch, at, live_due });
        Ok(())
    }

    /// What the connection loop does in one turn.
    async fn turn(&mut self, reader: usize, room: usize, takes: usize) -> Checked {
        let reader = self.readers[reader].as_mut().unwrap();
        if !reader.carry.is_empty() {
            let taken = takes.min(reader.carry.len());
            let bytes: Vec<u8> = reader.carry.drain(..taken).collect();
            reader.inbox.extend(bytes);
            return Self::digest(&self.lives, reader);
        }
        if reader.session.wants_log() {
            reader.session.fetch().await.unwrap();
        }
        reader.session.fill(&mut self.batch, room).unwrap();
        let written = takes.min(self.batch.bytes.len());
        let bytes = self.batch.bytes[..written].to_vec();
        reader.session.commit(&self.batch, written, &mut reader.carry);
        reader.inbox.extend(bytes);
        Self::digest(&self.lives, reader)
    }

    /// Holds every whole line that a reader has been sent against the model.
    fn digest(lives: &HashMap<(String, Epoch), Life>, reader: &mut Reader) -> Checked {
        while let Some(end) = reader.inbox.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = reader.inbox.drain(..=end).collect();
            let line = String::from_utf8(line).unwrap();
            let words: Vec<&str> = line.split_whitespace().collect();
            let who = reader.number;
            let Some(place) = reader.places.get_mut(words[1]) else {
                return Err(TestCaseError::fail(format!("reader {who} does not listen: {line}")));
            };
            let epoch: Epoch = words[2].parse().unwrap();
            let number = |i: usize| words[i].parse::<Offset>().unwrap();
            let nothing = Life::default();
            let life = lives.get(&(words[1].into(), epoch)).unwrap_or(&nothing);
            match words[0] {
                "P" => {
                    check!(epoch == place.epoch, "reader {who} at {place:?}, another life without a word: {line}");
                    check!(number(3) == place.at + 1, "reader {who} at {place:?}: {line}");
                    let said = life.payloads.get(number(3) as usize - 1);
                    let right = |said: &String| match who {
                        VIEWER => !is_withheld(said) && said.to_uppercase() == words[4],
                        _ => said == words[4],
                    };
                    check!(said.is_some_and(right), "reader {who}: {line}");
                    place.at += 1;
                }
                "L" => {
                    check!(place.live_due && epoch == place.epoch, "reader {who} at {place:?}: {line}");
                    check!(number(3) == place.at, "reader {who} at {place:?}: {line}");
                    place.live_due = false;
                }
                _ => {
                    let (requested, available, from, to) = (number(3), number(4), number(5), number(6));
                    check!(requested == place.at, "reader {who} at {place:?}: {line}");
                    match words[7] {
                        "epoch" => check!(epoch != place.epoch, "reader {who} at {place:?}: {line}"),
                        cause => {
                            check!(
                                epoch == place.epoch && (from, to) == (place.at + 1, available - 1) && from <= to,
                                "reader {who} at {place:?}: {line}"
                            );
                            let gone = to < life.first(words[1]) || words[1] == "fleeting";
                            let jumped = words[1] == "skipping" && to < life.head();
                            let hidden = who == VIEWER
                                && from == to
                                && life.payloads.get(from as usize - 1).is_some_and(|said| is_withheld(said));
                            let right = (cause == "evicted" && gone)
                                || (cause == "skipped" && jumped)
                                || (cause == "denied" && hidden);
                            check!(right, "reader {who}, first left {}: {line}", life.first(words[1]));
                        }
                    }
                    (place.epoch, place.at) = (epoch, available - 1);
                }
            }
        }
        Ok(())
    }

    async fn reconnect(&mut self, reader: usize) -> Checked {
        // What was half sent is lost with the connection, and the old session goes first: it holds the hub.
        let old = self.readers[reader].take().unwrap();
        let (places, left, number) = (old.places, old.left, old.number);
        drop(old.session);
        self.readers[reader] = Some(Reader { left, ..self.reader(number) });
        for (name, place) in places {
            self.subscribe(reader, &name, Start::After(place.at, Some(place.epoch))).await?;
        }
        Ok(())
    }

    async fn restart(&mut self) -> Checked {
        let readers: Vec<_> = self.readers.drain(..).flatten().map(|r| (r.places, r.left, r.number)).collect();
        self.hub.stop(Duration::from_secs(60)).await.unwrap();
        self.herald.abort();
        let _ = (&mut self.herald).await;
        // Nothing may hold the old store.
        let old = std::mem::replace(&mut self.hub, Hub::start(nothing()).unwrap());
        let waited = std::time::Instant::now();
        while Arc::strong_count(&old) > 1 {
            check!(waited.elapsed() < Duration::from_secs(60), "somebody still holds the old hub");
            tokio::task::yield_now().await;
        }
        drop(old);
        (self.hub, self.herald) = start(&self.dir);
        self.readers = (0..3).map(|number| Some(self.reader(number))).collect();
        for (reader, (places, left, _)) in readers.into_iter().enumerate() {
            self.readers[reader].as_mut().unwrap().left = left;
            for (name, place) in places {
                self.subscribe(reader, &name, Start::After(place.at, Some(place.epoch))).await?;
            }
        }
        Ok(())
    }

    /// Everybody reads on until nothing rings any more, and must be at the head.
    async fn settle(&mut self) -> Checked {
        for reader in 0..self.readers.len() {
            let deadline = std::time::Instant::now() + ASLEEP;
            while !self.has_arrived(reader) {
                self.turn(reader, 4096, usize::MAX).await?;
                if self.has_arrived(reader) {
                    break;
                }
                let it = self.readers[reader].as_mut().unwrap();
                if !it.carry.is_empty() || it.session.wants_log() {
                    continue;
                }
                // As the connection loop sleeps: only the kernel wakes it.
                let next_turn = it.session.next_turn();
                let ready = std::future::poll_fn(|cx| match it.session.poll_ready(cx) {
                    Poll::Ready(()) => Poll::Ready(()),
                    Poll::Pending => Poll::Pending,
                });
                let rested = async {
                    match next_turn {
                        Some(at) => tokio::time::sleep_until(at).await,
                        None => std::future::pending().await,
                    }
                };
                let woken = tokio::select! {
                    () = ready => true,
                    () = rested => true,
                    () = tokio::time::sleep_until(deadline.into()) => false,
                };
                let places = &self.readers[reader].as_ref().unwrap().places;
                check!(woken, "reader {reader} sleeps at {places:?} and nobody wakes it");
            }
        }
        Ok(())
    }

    fn has_arrived(&self, reader: usize) -> bool {
        let reader = self.readers[reader].as_ref().unwrap();
        reader.places.iter().all(|(name, place)| {
            let head = self.lives.get(&(name.clone(), place.epoch)).map_or(0, Life::head);
            place.at >= head && !place.live_due
        })
    }
}

/// A hub that stands in while another is taken apart.
fn nothing() -> Parts {
    Parts {
        hooks: Arc::new(Open(Arc::new(Third))),
        kept: Arc::new(MemoryLog::new(Duration::ZERO)),
        fleeting: Arc::new(MemoryLog::new(Duration::ZERO)),
        clock: now,
        tail: TailLimit { count: 1, bytes: 1 },
        idle_after: Duration::ZERO,
        flush_interval: Duration::from_secs(1),
        sweep_interval: Duration::from_secs(1),
        lag_patience: Duration::ZERO,
        queue: 1,
    }
}

#[test]
fn every_interleaving_gives_each_reader_everything_once_or_a_gap_that_is_right() {
    let asked = |name: &str| std::env::var(name).ok().and_then(|n| n.parse().ok());
    let cases = asked("AETHER_MODEL_CASES").unwrap_or(60);
    // Shrinking a lost wake-up waits for it again and again.
    let max_shrink_iters = asked("AETHER_MODEL_SHRINK").unwrap_or(30);
    let config = Config { cases, max_shrink_iters, failure_persistence: None, ..Config::default() };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let outcome = TestRunner::new(config).run(&proptest::collection::vec(op(), 1..120), |ops| {
        runtime.block_on(async {
            let mut world = World::new();
            for op in ops {
                world.apply(op).await?;
            }
            world.settle().await?;
            world.readers.clear();
            world.hub.stop(Duration::from_secs(60)).await.unwrap();
            world.herald.abort();
            Ok(())
        })
    });
    outcome.unwrap_or_else(|error| panic!("{error}"));
}
