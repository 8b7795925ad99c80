//! One run: a hub, its store, its readers and publishers, storms, and after each storm a calm in which everybody must arrive.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use aether::edges::load::{self, Load};
use aether::edges::pulse::Pulse;
use aether::edges::roster::{Order, Roster};
use aether::edges::session::{Shared, run as serve};
use aether::kernel::TailLimit;
use aether::kernel::format::Format;
use aether::kernel::hub::{HistoryFrom, Hub, Parts, ReadError};
use aether::kernel::message::Offset;
use aether::kernel::policy::{Ack, Lag, Policy, Retention};
use aether::kernel::session::Session;
use tokio::time::{Instant, sleep};

use super::book::{Book, Broken, Class};
use super::dice::Dice;
use super::disk::{Crash, Disk};
use super::planted::Planted;
use super::publisher::Publisher;
use super::reader::Reader;
use super::schedule::{Kind, Schedule};
use super::socket::{Far, pair};
use super::speech::{Commands, Lines, Rules, TASTES, Third};
use super::weather::{Weather, begin, clock, jump};
use crate::common::kernel::{channel, client};

/// Publications that stay in memory.
pub const TAIL: usize = 5;
const MAX_LAG: u64 = 6;
const CHANNELS: [&str; 11] =
    ["all", "few", "old", "written", "memory", "skip", "oldest", "newest", "close", "turning", "none"];
const LAGS: [Lag; 5] = [Lag::CatchUp, Lag::DropOldest, Lag::DropNewest, Lag::Skip, Lag::Close];
/// Who has not arrived in this time of calm never will: nothing in the hub waits so long.
const CALM: Duration = Duration::from_secs(120);

/// How a channel treats who lags; none: that changes.
pub fn lag_of(channel: &str) -> Option<Lag> {
    match channel {
        "skip" => Some(Lag::Skip),
        "oldest" => Some(Lag::DropOldest),
        "newest" => Some(Lag::DropNewest),
        "close" => Some(Lag::Close),
        "turning" => None,
        _ => Some(Lag::CatchUp),
    }
}

/// `turning`: what the channel of that name does with who lags; what it promises turns with that.
pub fn policy(channel: &str, turning: Lag) -> Policy {
    let keeps = |count, age| Some(Retention { count, age, bytes: None });
    let lag = lag_of(channel).unwrap_or(turning);
    let max_lag = (lag != Lag::CatchUp).then_some(MAX_LAG);
    let all = Policy { history: keeps(None, None), ack: Ack::Synced, lag, max_lag };
    match channel {
        "few" => Policy { history: keeps(Some(8), None), ..all },
        "old" => Policy { history: keeps(None, Some(Duration::from_secs(2))), ..all },
        "written" => Policy { ack: Ack::Written, ..all },
        "memory" | "skip" => Policy { ack: Ack::Memory, ..all },
        "none" => Policy { history: None, ..all },
        "turning" if matches!(turning, Lag::CatchUp | Lag::Close) => all,
        "turning" => Policy { ack: Ack::Memory, ..all },
        _ => all,
    }
}

/// Plays one seed; what it has seen, or what was broken.
pub fn run(seed: u64, planted: Planted) -> Result<Played, Broken> {
    let (dice, book) = (Dice::new(seed), Book::default());
    // What the schedule throws changes nothing of what the others do.
    let schedule = Schedule::new(Dice::new(!seed));
    if planted == Planted::WakeIsSwallowed {
        schedule.swallow_wakes(9);
    }
    let ended =
        schedule.run(play(schedule.clone(), dice, book.clone(), planted), || book.is_broken().then(String::new));
    if let Err(why) = ended {
        book.breaks(Class::Wrong, why);
    }
    match book.broken() {
        Some(broken) => Err(broken),
        None => Ok(Played { tally: book.tally(), digest: book.digest() }),
    }
}

pub struct Played {
    pub tally: BTreeMap<&'static str, u64>,
    pub digest: u64,
}

/// Where readers connect.
pub struct Net {
    up: RefCell<Option<Up>>,
    schedule: Schedule,
    book: Book,
    dice: Dice,
    weather: Weather,
    planted: Planted,
}

struct Up {
    hub: Arc<Hub>,
    shared: Arc<Shared>,
    formats: Vec<Arc<dyn Format>>,
}

impl Net {
    /// None while the hub is down.
    pub fn connect(&self, reader: &Reader) -> Option<Far> {
        let up = self.up.borrow();
        let up = up.as_ref().filter(|up| !up.shared.roster.is_stopping())?;
        let (near, far) = pair(&self.dice, &self.weather, &self.book, self.planted);
        let format = up.formats[reader.number % TASTES.len()].clone();
        let session = Session::new(up.hub.clone(), client(&reader.number.to_string()), format);
        let serving = serve(near, Commands, session, up.shared.clone(), Vec::new());
        let (book, number) = (self.book.clone(), reader.number);
        self.schedule.spawn(Kind::Connection, async move {
            let ending = serving.await;
            book.note(format_args!("the connection of reader {number} ends: {ending:?}"));
            book.count(match ending.cause() {
                "client" => "a connection ended: the reader went",
                "shutdown" => "a connection ended: the hub went down",
                "lag" => "a connection ended: the reader lagged",
                "timeout" => "a connection ended: the socket took nothing, or the store gave nothing",
                _ => "a connection ended",
            });
        });
        Some(far)
    }

    fn hub(&self) -> Option<(Arc<Hub>, Arc<Shared>)> {
        self.up.borrow().as_ref().map(|up| (up.hub.clone(), up.shared.clone()))
    }
}

struct World {
    net: Rc<Net>,
    schedule: Schedule,
    book: Book,
    dice: Dice,
    weather: Weather,
    disks: [Arc<Disk>; 2],
    rules: Arc<Rules>,
    channels: Vec<String>,
    readers: Vec<Reader>,
    publishers: Vec<u64>,
    said: Rc<Cell<u64>>,
    /// The hub's settings in this run.
    idle_after: Duration,
    lag_patience: Duration,
    queue: usize,
}

async fn play(schedule: Schedule, dice: Dice, book: Book, planted: Planted) {
    begin();
    let weather = Weather::of(&dice);
    let mut channels: Vec<_> = CHANNELS.iter().map(|name| (*name).to_owned()).collect();
    while channels.len() > 2 && dice.percent(85) {
        channels.swap_remove(dice.below(channels.len() as u64) as usize);
    }
    let disks = [true, false].map(|is_kept| Disk::new(&book, &dice, &weather, planted, is_kept));
    let rules = Arc::new(Rules {
        weather: weather.clone(),
        view: Third::new(false, &weather),
        slow_view: Third::new(true, &weather),
        closed: Default::default(),
        lag: Lag::Skip.into(),
    });
    let net = Rc::new(Net {
        up: RefCell::new(None),
        schedule: schedule.clone(),
        book: book.clone(),
        dice: dice.clone(),
        weather: weather.clone(),
        planted,
    });
    let first = dice.below(6);
    let reader = |number: u64| {
        let wants = channels.iter().filter(|_| dice.percent(70)).cloned().collect();
        let number = (first + number) as usize;
        Reader::new(number, TASTES[number % TASTES.len()], &book, &dice, &weather, wants)
    };
    let readers: Vec<_> = (0..dice.between(1, 5)).map(reader).collect();
    let mut world = World {
        idle_after: Duration::from_millis(*dice.one_of(&[0, 100, 60_000])),
        lag_patience: Duration::from_millis(*dice.one_of(&[0, 0, 500])),
        queue: *dice.one_of(&[1, 4, 64]),
        said: Rc::default(),
        publishers: Vec::new(),
        net,
        schedule,
        book,
        dice,
        weather,
        disks,
        rules,
        channels,
        readers,
    };
    world.start();
    for reader in &world.readers {
        world.schedule.spawn(Kind::World, reader.clone().live(world.net.clone()));
    }
    for _ in 0..world.dice.between(1, 4) {
        world.storm().await;
        world.calm().await;
    }
}

impl World {
    fn start(&mut self) {
        let [kept, fleeting] = self.disks.clone();
        let (hub, works) = Hub::at_rest(Parts {
            hooks: self.rules.clone(),
            kept,
            fleeting,
            clock,
            tail: TailLimit { count: TAIL, bytes: 1 << 20 },
            idle_after: self.idle_after,
            flush_interval: Duration::from_millis(50),
            sweep_interval: Duration::from_millis(20),
            lag_patience: self.lag_patience,
            queue: self.queue,
        });
        for work in works {
            self.schedule.spawn(Kind::Hub, work);
        }
        for herald in [hub.clone(), hub.clone()] {
            self.schedule.spawn(Kind::Hub, async move { herald.herald(tokio::task::yield_now).await });
        }
        let pulse = Pulse {
            // No beat comes to anybody's help.
            interval: Duration::from_secs(365 * 24 * 3600),
            timeout: None,
            write_timeout: Duration::from_secs(10),
            drain: Duration::from_secs(3),
        };
        let load = Load::new(load::Limits::default());
        let shared = Arc::new(Shared { pulse, roster: Arc::new(Roster::default()), load });
        let format = |taste| Arc::new(Lines { book: self.book.clone(), taste }) as Arc<dyn Format>;
        *self.net.up.borrow_mut() = Some(Up { hub, shared, formats: TASTES.map(format).into() });
    }

    fn speak(&mut self) {
        let Some((hub, _)) = self.net.hub() else { return };
        for _ in 0..self.dice.between(1, 3) {
            let publisher =
                Publisher::new(hub.clone(), &self.channels, &self.book, &self.dice, &self.weather, self.said.clone());
            let times = self.dice.between(1, 25);
            self.publishers.push(self.schedule.spawn(Kind::Hub, publisher.speak(times)));
        }
    }

    async fn storm(&mut self) {
        self.weather.storms(true);
        self.speak();
        let chances = self.weather.chances.clone();
        for _ in 0..self.dice.between(1, 12) {
            sleep(Duration::from_millis(self.dice.between(1, 300))).await;
            if self.weather.strikes(chances.crash) {
                self.crash(*self.dice.one_of(&[Crash::Kill, Crash::Power])).await;
            }
            if self.weather.strikes(chances.restart) {
                self.restart().await;
            }
            if self.weather.strikes(chances.forget) {
                self.forget();
            }
            if self.weather.strikes(chances.rules_change) {
                self.change_rules();
            }
            if self.weather.strikes(chances.memory_is_short) {
                self.shorten_memory();
            }
            if self.weather.strikes(chances.clock_jumps) {
                let by = self.dice.below(20_000_000) as i64 - 10_000_000;
                self.book.count("the clock jumped");
                self.book.note(format_args!("the clock jumps by {by}"));
                jump(by);
            }
        }
    }

    /// Everything of the hub is gone, wherever it was.
    async fn crash(&mut self, how: Crash) {
        self.book.count(if how == Crash::Kill { "a kill" } else { "a power failure" });
        self.book.note(format_args!("a crash: {how:?}"));
        self.goes_down();
        self.disks.iter().for_each(|disk| disk.crash(how));
        sleep(Duration::from_millis(self.dice.between(1, 100))).await;
        self.start();
        self.speak();
    }

    fn goes_down(&mut self) {
        self.net.up.borrow_mut().take();
        self.publishers.clear();
        self.schedule.end_all(Kind::Connection);
        self.schedule.end_all(Kind::Hub);
    }

    async fn restart(&mut self) {
        let Some((hub, shared)) = self.net.hub() else { return };
        self.book.note(format_args!("a restart"));
        hub.refuse_publishes();
        shared.roster.stop();
        let limit = Instant::now() + shared.pulse.drain;
        while !shared.roster.is_empty() && Instant::now() < limit {
            sleep(Duration::from_millis(10)).await;
        }
        let stopped = hub.stop(Duration::from_secs(5)).await;
        drop(hub);
        match stopped {
            Ok(()) => {
                self.book.count("a restart");
                self.goes_down();
                self.start();
                self.speak();
            }
            Err(_) => self.crash(Crash::Kill).await,
        }
    }

    fn forget(&self) {
        let Some((hub, _)) = self.net.hub() else { return };
        let (name, book) = (self.dice.one_of(&self.channels).clone(), self.book.clone());
        self.schedule.spawn(Kind::Hub, async move {
            let outcome = hub.forget(&channel(&name)).await;
            let head = hub.channels(|known| known == name).first().map(|channel| channel.head());
            if let (Ok(()), Some(head)) = (outcome, head) {
                book.note(format_args!("{name} is deleted, shown up to {}", head.offset));
                book.deleted(&name, head.epoch, head.offset);
            }
        });
    }

    fn change_rules(&self) {
        let Some((hub, shared)) = self.net.hub() else { return };
        self.book.count("the rules changed");
        let place = (self.dice.one_of(&self.readers).number.to_string(), self.dice.one_of(&self.channels).clone());
        let mut closed = self.rules.closed.lock();
        if !closed.remove(&place) {
            closed.insert(place);
        }
        drop(closed);
        shared.roster.order(|_| true, &Order::Reconsider);
        // Some change their minds while publishes are on their way.
        let lags: Vec<_> = (0..self.dice.between(1, 8)).map(|_| *self.dice.one_of(&LAGS)).collect();
        let (rules, dice) = (self.rules.clone(), self.dice.clone());
        self.schedule.spawn(Kind::Hub, async move {
            for lag in lags {
                *rules.lag.lock() = lag;
                let _ = hub.resolve_again(|_| true).await;
                sleep(Duration::from_millis(dice.below(20))).await;
            }
        });
    }

    /// Tails keep less, and who takes nothing is sent away; or they keep what they may again.
    fn shorten_memory(&self) {
        let Some((hub, shared)) = self.net.hub() else { return };
        self.book.count("memory was short");
        let is_short = self.dice.percent(70);
        hub.keep_small_tails(is_short);
        if is_short {
            shared.roster.order(|_| true, &Order::Squeeze(Duration::from_millis(self.dice.between(0, 100))));
        }
    }

    /// Nothing fails any more and nobody misbehaves: everybody must arrive, and nobody is called again.
    async fn calm(&mut self) {
        self.weather.storms(false);
        self.rules.closed.lock().clear();
        self.book.note(format_args!("calm"));
        let began = Instant::now();
        let waits = |what: &str, class, who: String| {
            if began.elapsed() > CALM * 3 {
                self.book.breaks(class, format!("{what}: {who}"));
            }
        };
        while self.publishers.iter().any(|id| !self.schedule.is_over(*id)) {
            waits("a publisher waits for ever", Class::LostWakeUp, String::new());
            sleep(Duration::from_millis(50)).await;
        }
        while let Some(reader) = self.readers.iter().find(|reader| !reader.is_connected() || !reader.sits()) {
            waits("a reader asks for ever", Class::LostWakeUp, format!("{} {}", reader.number, reader.stands()));
            sleep(Duration::from_millis(50)).await;
        }
        let Some((hub, _)) = self.net.hub() else { return };
        let began = Instant::now();
        while let Some(sleeper) = self.sleeper(&hub) {
            if began.elapsed() > CALM {
                return self.book.breaks(Class::LostWakeUp, sleeper);
            }
            sleep(Duration::from_millis(50)).await;
        }
        self.readers.iter().for_each(Reader::misses_nothing);
        for name in self.channels.clone() {
            self.read_back(&hub, &name).await;
        }
        self.book.count("a calm in which everybody arrived");
    }

    /// Somebody who has not been told all that there is.
    fn sleeper(&self, hub: &Hub) -> Option<String> {
        hub.channels(|_| true).iter().find_map(|channel| {
            let head = channel.head();
            let late = self.readers.iter().find(|r| !r.has(channel.name.as_str(), head.epoch, head.offset))?;
            let (name, offset) = (&channel.name, head.offset);
            Some(format!(
                "{name} is at {offset}, and reader {} ({:?}) sleeps: {}",
                late.number,
                late.taste,
                late.stands()
            ))
        })
    }

    /// What was said and is not gone is there, and what was acknowledged was shown.
    async fn read_back(&self, hub: &Hub, name: &str) {
        let began = Instant::now();
        let past = loop {
            let from = HistoryFrom::After(0);
            match hub.history(&client("checker"), &channel(name), from, usize::MAX, usize::MAX).await {
                Ok(past) => break past,
                // What the storm has asked of the store may still take its time.
                Err(ReadError::Store(_)) if began.elapsed() < CALM => sleep(Duration::from_millis(50)).await,
                Err(error) => return self.book.breaks(Class::Wrong, format!("{name} cannot be read: {error:?}")),
            }
        };
        let there: Vec<Offset> = past.page.publications.iter().map(|p| p.offset).collect();
        let mut pages = self.book.open();
        let Some(life) = pages.life(name, past.epoch) else { return };
        let head = past.page.extent.last;
        let hidden = life.acked > head;
        let missing =
            life.said.keys().find(|at| life.is_kept && **at <= head && !life.is_gone(**at) && !there.contains(at));
        let unordered = there.windows(2).find(|pair| pair[0] >= pair[1]);
        let what = match (hidden, missing, unordered) {
            (true, ..) => Some((Class::Hole, format!("{} was acknowledged, and the head is {head}", life.acked))),
            (_, Some(at), _) => Some((Class::Hole, format!("{at} is not in its history"))),
            (.., Some(pair)) => Some((Class::Order, format!("its history has {pair:?}"))),
            _ => None,
        };
        drop(pages);
        if let Some((class, what)) = what {
            self.book.breaks(class, format!("{name}: {what}"));
        }
    }
}
