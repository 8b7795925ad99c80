//! A reader: it holds every line that it is told against the truth, and behaves as badly as readers do.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::rc::Rc;
use std::time::Duration;

use aether::kernel::message::{Epoch, Offset, Position};
use aether::kernel::policy::Lag;
use tokio::time::sleep;

use super::book::{Book, Class};
use super::dice::Dice;
use super::socket::Far;
use super::speech::{Taste, is_withheld};
use super::weather::Weather;
use super::world::{Net, lag_of};

/// Numbers of copies that it surely remembers; the kernel remembers more.
const HEARD: usize = 32;

/// Where it is in a channel, by what it has been told.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Place {
    pub epoch: Option<Epoch>,
    pub at: Offset,
    pub live_due: bool,
}

/// What it has of a channel on this connection.
#[derive(Debug)]
enum Seat {
    /// It asked for what comes after a place, or for what is newer than what was acknowledged by then.
    Asked(Result<Place, Position>),
    Sits(Place),
}

/// Clones are the same reader.
#[derive(Clone)]
pub struct Reader {
    pub number: usize,
    pub taste: Taste,
    book: Book,
    dice: Dice,
    weather: Weather,
    state: Rc<RefCell<State>>,
}

#[derive(Default)]
struct State {
    is_connected: bool,
    wants: BTreeSet<String>,
    /// What it has asked to leave; when it has left, it wants it back.
    leaves: BTreeSet<String>,
    seats: BTreeMap<String, Seat>,
    /// Of which it has asked for the newest only.
    newest_only: BTreeSet<String>,
    /// Where it was in channels that it has left.
    left: BTreeMap<String, Place>,
    /// Numbers of copies heard on this connection, by channel.
    heard: VecDeque<u64>,
    /// Skipped without a word: it may still come, in the wrong order.
    missing: BTreeMap<(String, Offset), String>,
    line: Vec<u8>,
}

enum Mood {
    Reads,
    /// So many bytes at a time.
    Sips(usize),
}

impl Reader {
    pub fn new(
        number: usize,
        taste: Taste,
        book: &Book,
        dice: &Dice,
        weather: &Weather,
        wants: BTreeSet<String>,
    ) -> Reader {
        let state = Rc::new(RefCell::new(State { wants, ..State::default() }));
        Reader { number, taste, book: book.clone(), dice: dice.clone(), weather: weather.clone(), state }
    }

    /// Comes, reads, goes and comes back, for ever.
    pub async fn live(self, net: Rc<Net>) {
        loop {
            let Some(far) = net.connect(&self) else {
                sleep(Duration::from_millis(20)).await;
                continue;
            };
            self.book.count("a reader connected");
            self.book.note(format_args!("reader {} connects", self.number));
            self.listen(&far).await;
            self.hangs_up();
            if self.weather.is_stormy() {
                sleep(Duration::from_millis(self.dice.between(1, 200))).await;
            }
        }
    }

    async fn listen(&self, far: &Far) {
        self.state.borrow_mut().is_connected = true;
        self.ask_for_what_is_missing(far);
        let mut mood = Mood::Reads;
        loop {
            let most = match mood {
                Mood::Sips(most) if self.weather.is_stormy() => most,
                _ => 4096,
            };
            let pause = sleep(Duration::from_millis(self.dice.between(1, 300)));
            tokio::select! {
                biased;
                bytes = far.read(most) => {
                    if bytes.is_empty() {
                        return;
                    }
                    self.hear(&bytes);
                    if most < 4096 {
                        sleep(Duration::from_millis(self.dice.between(1, 5))).await;
                    }
                    if !self.weather.strikes(10) {
                        continue;
                    }
                }
                () = pause => {}
            }
            if !self.weather.is_stormy() {
                mood = Mood::Reads;
                self.ask_for_what_is_missing(far);
                continue;
            }
            let chances = self.weather.chances.clone();
            if self.weather.strikes(chances.reader_hangs_up) {
                self.book.count("a reader hung up");
                return;
            }
            if self.weather.strikes(chances.reader_stalls) {
                self.book.count("a reader stalled");
                let most = *self.dice.one_of(&[50, 500, 15_000]);
                sleep(Duration::from_millis(self.dice.between(1, most))).await;
            }
            mood = if self.dice.percent(30) { Mood::Sips(self.dice.between(1, 40) as usize) } else { Mood::Reads };
            if self.weather.strikes(chances.reader_asks) {
                self.asks(far);
            }
            self.ask_for_what_is_missing(far);
        }
    }

    fn hangs_up(&self) {
        let mut state = self.state.borrow_mut();
        let lost = state.missing.pop_first();
        state.is_connected = false;
        state.line.clear();
        state.heard.clear();
        state.newest_only.clear();
        let leaves = std::mem::take(&mut state.leaves);
        state.wants.extend(leaves);
        for (name, seat) in std::mem::take(&mut state.seats) {
            if let Seat::Sits(place) | Seat::Asked(Ok(place)) = seat {
                state.left.insert(name, place);
            }
        }
        drop(state);
        self.misses(lost);
    }

    fn misses(&self, lost: Option<((String, Offset), String)>) {
        if let Some(((channel, offset), what)) = lost {
            self.book.breaks(Class::Hole, format!("{channel} {offset} never came: {what}"));
        }
    }

    /// Whatever it wants and does not have.
    fn ask_for_what_is_missing(&self, far: &Far) {
        let wants: Vec<_> = self.state.borrow().wants.iter().cloned().collect();
        for name in wants {
            if self.state.borrow().seats.contains_key(&name) {
                continue;
            }
            let left = self.state.borrow_mut().left.remove(&name);
            let (frame, asked) = match left {
                Some(place) => {
                    let epoch = place.epoch.map_or("-".to_owned(), |epoch| epoch.to_string());
                    (format!("sub {name} {} {epoch}", place.at), Ok(place))
                }
                None if self.dice.percent(50) => {
                    (format!("sub {name} 0 -"), Ok(Place { epoch: None, at: 0, live_due: true }))
                }
                // What is acknowledged from here on it must get.
                None => (format!("sub {name}"), Err(self.acked(&name))),
            };
            self.state.borrow_mut().seats.insert(name, Seat::Asked(asked));
            far.say(frame);
        }
    }

    fn acked(&self, name: &str) -> Position {
        let pages = self.book.open();
        let newest = pages.lives.range((name.to_owned(), 0)..=(name.to_owned(), u64::MAX)).next_back();
        newest.map_or(Position { epoch: Epoch::UNKNOWN, offset: 0 }, |((_, epoch), life)| Position {
            epoch: Epoch(*epoch),
            offset: life.acked,
        })
    }

    /// Something that readers ask for in the middle of things.
    fn asks(&self, far: &Far) {
        let mut state = self.state.borrow_mut();
        let held: Vec<_> = state.seats.keys().filter(|name| !state.leaves.contains(*name)).cloned().collect();
        if held.is_empty() {
            return;
        }
        let name = self.dice.one_of(&held).clone();
        match self.dice.below(3) {
            0 => {
                let every = self.dice.between(1, 40);
                let conflate = self.dice.percent(50);
                far.say(format!("pace {name} {every}{}", if conflate { " newest" } else { "" }));
                if conflate {
                    state.newest_only.insert(name);
                }
            }
            _ => {
                state.wants.remove(&name);
                state.leaves.insert(name.clone());
                far.say(format!("unsub {name}"));
            }
        }
    }

    /// Whether it has been told everything up to this head.
    pub fn has(&self, name: &str, epoch: Epoch, head: Offset) -> bool {
        let state = self.state.borrow();
        !state.wants.contains(name)
            || matches!(state.seats.get(name), Some(Seat::Sits(place))
                if place.epoch.is_none_or(|known| known == epoch) && place.at >= head && !(place.live_due && self.taste != Taste::Silent))
    }

    pub fn is_connected(&self) -> bool {
        self.state.borrow().is_connected
    }

    /// Whether all that it wants it has been let in to.
    pub fn sits(&self) -> bool {
        let state = self.state.borrow();
        state.wants.iter().all(|name| matches!(state.seats.get(name), Some(Seat::Sits(_))))
    }

    pub fn stands(&self) -> String {
        format!("{:?}", self.state.borrow().seats)
    }

    /// At the end of a storm: what was skipped did not come late either.
    pub fn misses_nothing(&self) {
        let lost = self.state.borrow_mut().missing.pop_first();
        self.misses(lost);
    }

    fn hear(&self, bytes: &[u8]) {
        let mut lines = Vec::new();
        {
            let mut state = self.state.borrow_mut();
            for byte in bytes {
                if *byte == b'\n' {
                    lines.push(String::from_utf8_lossy(&std::mem::take(&mut state.line)).into_owned());
                } else {
                    state.line.push(*byte);
                }
            }
        }
        for line in lines {
            self.book.note(format_args!("reader {} hears {line}", self.number));
            if let Err((class, why)) = self.judge(&line) {
                self.book.breaks(class, format!("reader {} ({:?}) hears {line}: {why}", self.number, self.taste));
            }
        }
    }

    fn judge(&self, line: &str) -> Result<(), (Class, String)> {
        let words: Vec<&str> = line.split(' ').collect();
        let wrong = |why: &str| (Class::Wrong, why.to_owned());
        let name = *words.get(1).ok_or_else(|| wrong("too short"))?;
        let number =
            |at: usize| words.get(at).and_then(|word| word.parse::<u64>().ok()).ok_or_else(|| wrong("no number"));
        match words[0] {
            "S" => return self.judge_seal(line),
            "B" => return self.begins(name, words[2].parse().map_err(|_| wrong("no epoch"))?, number(3)?),
            "E" | "U" | "D" => {
                let mut state = self.state.borrow_mut();
                let lost = state.missing.first_key_value().map(|(_, what)| what.clone());
                if let Some(Seat::Sits(place) | Seat::Asked(Ok(place))) = state.seats.remove(name) {
                    state.left.insert(name.to_owned(), place);
                }
                state.newest_only.remove(name);
                if words[0] == "U" && state.leaves.remove(name) {
                    state.wants.insert(name.to_owned());
                }
                return lost.map_or(Ok(()), |what| Err((Class::Hole, what)));
            }
            _ => {}
        }
        let mut state = self.state.borrow_mut();
        let state = &mut *state;
        let Some(Seat::Sits(place)) = state.seats.get_mut(name) else { return Err(wrong("it does not listen")) };
        let epoch: Epoch = words[2].parse().map_err(|_| wrong("no epoch"))?;
        let mut pages = self.book.open();
        let same_life = place.epoch.is_none_or(|known| known == epoch);
        match words[0] {
            "P" => {
                let offset = number(3)?;
                if !same_life {
                    return Err(wrong("another life without a word"));
                }
                pages.count("a publication was heard");
                let life = pages.life(name, epoch).ok_or_else(|| wrong("no such life"))?;
                if offset <= place.at {
                    let was_missing = state.missing.remove(&(name.to_owned(), offset));
                    let class = if was_missing.is_some() { Class::Order } else { Class::Duplicate };
                    return Err((class, format!("it is at {}", place.at)));
                }
                let may_skip = state.newest_only.contains(name);
                let skips = place.at + 1..offset;
                let leaves_out = may_skip && !skips.is_empty();
                for skipped in skips.filter(|_| !may_skip) {
                    state.missing.insert(
                        (name.to_owned(), skipped),
                        format!("reader {} at {} heard {line}", self.number, place.at),
                    );
                }
                let said = life.said.get(&offset).ok_or_else(|| wrong("it was never said"))?;
                let expected = String::from_utf8_lossy(&said.message.payload).into_owned();
                let is_viewer = matches!(self.taste, Taste::Viewer | Taste::SlowViewer);
                let seen = if is_viewer { expected.to_uppercase() } else { expected.clone() };
                if is_viewer && is_withheld(&words[4].to_lowercase()) {
                    return Err(wrong("its view withholds it"));
                }
                // The log knows no words of what was said in passing.
                if !expected.is_empty() && seen != words[4] {
                    let elsewhere =
                        life.said.values().any(|p| p.message.payload.eq_ignore_ascii_case(words[4].as_bytes()));
                    let class = if elsewhere { Class::Order } else { Class::Wrong };
                    return Err((class, format!("{expected} was said there")));
                }
                if let Some(once) = said.once {
                    if state.heard.contains(&once) {
                        return Err((Class::Duplicate, "another copy of what it has heard".into()));
                    }
                    state.heard.push_back(once);
                    if state.heard.len() > HEARD {
                        state.heard.pop_front();
                    }
                }
                (place.at, place.epoch) = (offset, Some(epoch));
                if leaves_out {
                    pages.count("a pace left some out");
                }
            }
            "L" => {
                if !place.live_due || !same_life || number(3)? != place.at {
                    return Err((Class::Wrong, format!("it is at {place:?}")));
                }
                place.live_due = false;
                place.epoch = Some(epoch);
            }
            "G" => {
                let (requested, available, from, to) = (number(3)?, number(4)?, number(5)?, number(6)?);
                let why = *words.get(7).ok_or_else(|| wrong("a gap without a reason"))?;
                if requested > place.at && state.newest_only.contains(name) {
                    place.at = requested;
                }
                if requested != place.at {
                    return Err((Class::Wrong, format!("it is at {place:?}")));
                }
                let life = pages.life(name, epoch).ok_or_else(|| wrong("no such life"))?;
                if !life.is_safe(available - 1) {
                    return Err((Class::Unsafe, "what it goes past is not safe yet".into()));
                }
                let counted = match why {
                    "epoch" if place.epoch.is_some_and(|known| known != epoch) => "a gap: another life",
                    "epoch" => return Err(wrong("it is the same life")),
                    _ if !same_life => return Err(wrong("another life without a word")),
                    _ if (from, to) != (place.at + 1, available - 1) || from > to => {
                        return Err((Class::Hole, format!("it is at {}", place.at)));
                    }
                    _ => self.excuse(name, life, (from, to), why, &state.heard).map_err(|why| (Class::Hole, why))?,
                };
                pages.count(counted);
                (place.at, place.epoch) = (available - 1, Some(epoch));
            }
            _ => return Err(wrong("nobody speaks so")),
        }
        Ok(())
    }

    /// Whether what a gap names is missing, and for the reason that it gives.
    fn excuse(
        &self,
        name: &str,
        life: &super::book::Life,
        (from, to): (Offset, Offset),
        why: &str,
        heard: &VecDeque<u64>,
    ) -> Result<&'static str, String> {
        let here = |offset: &Offset| !life.is_gone(*offset);
        let payload = |offset| life.said.get(&offset).map(|p| String::from_utf8_lossy(&p.message.payload).into_owned());
        let is_viewer = matches!(self.taste, Taste::Viewer | Taste::SlowViewer);
        match why {
            "evicted" => match (from..=to).find(here) {
                None => Ok("a gap: evicted"),
                Some(there) => Err(format!("{there} is still there, from {} on", life.floor)),
            },
            "lost" if (from..=to).all(|offset| life.is_lost(offset) || life.is_gone(offset)) => Ok("a gap: lost"),
            "skipped" if to <= life.last && lag_of(name) != Some(Lag::CatchUp) => Ok("a gap: skipped"),
            "denied" if self.taste == Taste::WithoutPast && to <= life.last => Ok("a gap: no past"),
            "denied"
                if is_viewer
                    && from == to
                    && payload(from).is_none_or(|said| said.is_empty() || is_withheld(&said)) =>
            {
                Ok("a gap: withheld")
            }
            "once"
                if from == to
                    && life.said.get(&from).and_then(|p| p.once).is_some_and(|once| heard.contains(&once)) =>
            {
                Ok("a gap: heard in another channel")
            }
            _ => Err("that is no reason".into()),
        }
    }

    fn begins(&self, name: &str, epoch: Epoch, offset: Offset) -> Result<(), (Class, String)> {
        let mut state = self.state.borrow_mut();
        let place = match state.seats.remove(name) {
            Some(Seat::Asked(Ok(place))) => Place { live_due: true, ..place },
            // Acknowledged in an earlier life, it does not count.
            Some(Seat::Asked(Err(acked))) => {
                let mut pages = self.book.open();
                let known = pages.life(name, epoch).is_some_and(|life| {
                    acked.epoch == epoch && life.acked >= acked.offset && life.said.contains_key(&acked.offset)
                });
                if known && offset < acked.offset {
                    return Err((Class::Wrong, format!("it begins before {}", acked.offset)));
                }
                Place { epoch: Some(epoch), at: offset, live_due: false }
            }
            other => return Err((Class::Wrong, format!("it did not ask: {other:?}"))),
        };
        state.seats.insert(name.to_owned(), Seat::Sits(place));
        Ok(())
    }

    /// What a sealed format says of where it stands is what it has been told.
    fn judge_seal(&self, line: &str) -> Result<(), (Class, String)> {
        let state = self.state.borrow();
        let mut told = BTreeMap::new();
        for part in line[2..].split('|').filter(|part| !part.is_empty()) {
            let words: Vec<&str> = part.split(' ').collect();
            let [name, epoch, offset] = words[..] else { return Err((Class::Wrong, "no place".into())) };
            told.insert(name, (epoch.parse::<Epoch>().ok(), offset.parse::<Offset>().ok()));
        }
        for (name, seat) in &state.seats {
            let Seat::Sits(place) = seat else { continue };
            let Some((epoch, offset)) = told.get(name.as_str()) else {
                return Err((Class::Hole, format!("{name} is not in it")));
            };
            // A gap that it has not been told of yet may be about its life.
            let same = place.epoch.is_none() || *epoch == place.epoch || *epoch == Some(Epoch::UNKNOWN);
            if *offset != Some(place.at) || !same {
                return Err((Class::Hole, format!("it is at {place:?} in {name}")));
            }
        }
        Ok(())
    }
}
