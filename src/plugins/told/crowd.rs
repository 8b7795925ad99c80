//! Who came to which channel and who left, gathered into batches for the join and leave hooks.
//!
//! With `debounce` a person is there from the first of its sessions until the last has been gone for so long. Times of going
//! are kept here and not with the hooks: they outlive a reload.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::sync::Arc;

use rustc_hash::FxHashMap;

use crate::kernel::hooks::Client;
use crate::kernel::message::{ChannelName, Micros};

/// Sessions that one call of a hook is told of, and how long the first of them waits for others.
pub const BATCH: usize = 100;
pub const WINDOW: Micros = 50_000;
/// People in channels that are debounced. Beyond, newcomers are told of at once, and go at once.
const MAX_PEOPLE: usize = 200_000;
/// What waits for a person to come back. Beyond, a going is told at once.
const MAX_GOING: usize = 400_000;

/// That somebody listens from now on, or no more.
pub struct Move {
    pub client: Arc<Client>,
    pub channel: ChannelName,
    pub came: bool,
}

/// A hook that a move concerns.
#[derive(Clone, Copy)]
pub struct Listener {
    pub hook: usize,
    pub joins: bool,
    pub debounce: Micros,
}

/// What one call of a hook is told.
pub struct Batch {
    pub hook: usize,
    pub channel: ChannelName,
    pub sessions: Vec<Arc<Client>>,
    joins: bool,
}

/// A user of a tenant; people without a user are told apart by their session.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Person {
    user: Option<(String, Option<String>)>,
    session: String,
}

struct Presence {
    sessions: u32,
    gone: Option<Gone>,
    client: Arc<Client>,
}

/// When a person's last session went.
struct Gone {
    at: Micros,
    /// Of this going, and of no other.
    number: u64,
    /// Hooks that wait to see whether it comes back.
    hooks: usize,
}

/// That a hook is to hear of a person's going, unless it comes back.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Going {
    due: Micros,
    number: u64,
    hook: usize,
    joins: bool,
    channel: ChannelName,
    person: Person,
}

#[derive(Default)]
pub struct Crowd {
    people: FxHashMap<(ChannelName, Person), Presence>,
    going: BinaryHeap<Reverse<Going>>,
    open: FxHashMap<ChannelName, Vec<Batch>>,
    /// When each channel's batches are due.
    windows: VecDeque<(Micros, ChannelName)>,
    ready: Vec<Batch>,
    /// Goings so far.
    count: u64,
}

impl Crowd {
    /// Other hooks are in charge from `now` on: those who are on their way are told to these.
    pub fn heed(&mut self, now: Micros, listeners: impl Fn(&ChannelName) -> Vec<Listener>) {
        self.going.clear();
        for ((channel, person), there) in &mut self.people {
            let Some(gone) = &mut there.gone else { continue };
            let waiting: Vec<_> =
                listeners(channel).into_iter().filter(|listener| gone.at + listener.debounce > now).collect();
            gone.hooks = waiting.len();
            self.going.extend(waiting.into_iter().map(|one| Reverse(going(one, channel, person, gone))));
        }
        self.people.retain(|_, there| there.gone.as_ref().is_none_or(|gone| gone.hooks > 0));
    }

    pub fn take(&mut self, Move { client, channel, came }: Move, listeners: &[Listener], now: Micros) {
        let mut told: Vec<&Listener> = Vec::new();
        if listeners.iter().any(|listener| listener.debounce > 0) {
            let key = (channel.clone(), Person::of(&client));
            match self.people.get_mut(&key) {
                Some(there) if came => {
                    there.sessions += 1;
                    if let Some(gone) = there.gone.take() {
                        told.extend(listeners.iter().filter(|one| one.joins && now >= gone.at + one.debounce));
                        there.client = client.clone();
                    }
                }
                None if came => {
                    told.extend(listeners.iter().filter(|one| one.joins));
                    if self.people.len() < MAX_PEOPLE {
                        self.people.insert(key, Presence { sessions: 1, gone: None, client: client.clone() });
                    }
                }
                Some(there) => {
                    there.sessions = there.sessions.saturating_sub(1);
                    if there.sessions == 0 && self.going.len() >= MAX_GOING {
                        self.people.remove(&key);
                        told.extend(listeners.iter().filter(|one| !one.joins));
                    } else if there.sessions == 0 && there.gone.is_none() {
                        let debounced: Vec<_> = listeners.iter().filter(|one| one.debounce > 0).collect();
                        self.count += 1;
                        let gone = Gone { at: now, number: self.count, hooks: debounced.len() };
                        self.going.extend(debounced.iter().map(|one| Reverse(going(**one, &channel, &key.1, &gone))));
                        there.gone = Some(gone);
                        there.client = client.clone();
                    }
                }
                // It came when nobody counted.
                None => told.extend(listeners.iter().filter(|one| !one.joins)),
            }
            told.retain(|listener| listener.debounce > 0);
        }
        told.extend(listeners.iter().filter(|one| one.debounce == 0 && one.joins == came));
        for listener in told {
            self.add(*listener, &channel, client.clone(), now);
        }
    }

    fn add(&mut self, Listener { hook, joins, .. }: Listener, channel: &ChannelName, client: Arc<Client>, now: Micros) {
        let person = Person::of(&client);
        let contrary =
            |batch: &Batch| batch.joins != joins && batch.sessions.iter().any(|session| Person::of(session) == person);
        // Who comes and goes is told so in this order.
        if self.open.get(channel).is_some_and(|open| open.iter().any(contrary)) {
            self.close(channel);
        }
        let open = self.open.entry(channel.clone()).or_default();
        if open.is_empty() {
            self.windows.push_back((now + WINDOW, channel.clone()));
        }
        let full = match open.iter_mut().find(|batch| batch.hook == hook) {
            Some(batch) => {
                batch.sessions.push(client);
                batch.sessions.len() >= BATCH
            }
            None => {
                open.push(Batch { hook, channel: channel.clone(), sessions: vec![client], joins });
                false
            }
        };
        if full {
            self.close(channel);
        }
    }

    fn close(&mut self, channel: &ChannelName) {
        self.ready.extend(self.open.remove(channel).unwrap_or_default());
    }

    /// What is to be told now, in order.
    pub fn due(&mut self, now: Micros) -> Vec<Batch> {
        while self.going.peek().is_some_and(|Reverse(next)| next.due <= now) {
            let Some(Reverse(Going { number, hook, joins, channel, person, .. })) = self.going.pop() else { break };
            let key = (channel, person);
            let Some(there) = self.people.get_mut(&key) else { continue };
            let Some(gone) = there.gone.as_mut().filter(|gone| gone.number == number) else { continue };
            gone.hooks -= 1;
            let (client, last) = (there.client.clone(), gone.hooks == 0);
            if last {
                self.people.remove(&key);
            }
            if !joins {
                self.add(Listener { hook, joins, debounce: 0 }, &key.0, client, now);
            }
        }
        while self.windows.front().is_some_and(|(due, _)| *due <= now) {
            if let Some((_, channel)) = self.windows.pop_front() {
                self.close(&channel);
            }
        }
        std::mem::take(&mut self.ready)
    }

    /// What has been gathered, whether its window is over or not.
    pub fn gathered(&mut self) -> Vec<Batch> {
        for (_, channel) in std::mem::take(&mut self.windows) {
            self.close(&channel);
        }
        std::mem::take(&mut self.ready)
    }

    /// When `due` has something.
    pub fn next(&self) -> Option<Micros> {
        let window = self.windows.front().map(|(due, _)| *due);
        let going = self.going.peek().map(|Reverse(going)| going.due);
        if self.ready.is_empty() { window.into_iter().chain(going).min() } else { Some(0) }
    }
}

fn going(listener: Listener, channel: &ChannelName, person: &Person, gone: &Gone) -> Going {
    let Listener { hook, joins, debounce } = listener;
    let (due, number) = (gone.at + debounce, gone.number);
    Going { due, number, hook, joins, channel: channel.clone(), person: person.clone() }
}

impl Person {
    fn of(client: &Client) -> Person {
        let identity = &client.identity;
        let user = identity.user.clone().map(|user| (user, identity.tenant.clone()));
        let session = if user.is_some() { String::new() } else { client.id.clone() };
        Person { user, session }
    }
}
