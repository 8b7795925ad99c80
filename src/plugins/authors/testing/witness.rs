//! What a test sees of the plugins under test, in place of the world.

use std::future::ready;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use super::Coverage;
use crate::kernel::hooks::Client;
use crate::kernel::hub::{PublishError, Receipt};
use crate::kernel::message::{ChannelName, Draft, Epoch};
use crate::kernel::pattern::Patterns;
use crate::kernel::policy::Ack;
use crate::plugins::world::{self, Publishing, World};

/// Of one case; beyond, the oldest goes.
const MAX_SAID: usize = 10_000;

/// A line that a plugin logged.
#[derive(Clone, Debug)]
pub struct Said {
    pub level: &'static str,
    pub plugin: String,
    pub place: String,
    pub message: String,
    /// JSON, or empty.
    pub fields: String,
}

/// Whom a plugin sent away: from everything, or from one channel.
#[derive(Clone)]
pub struct Sent {
    pub client: Arc<Client>,
    pub channel: Option<ChannelName>,
    pub why: String,
}

#[derive(Default)]
pub struct Witness {
    said: Mutex<Vec<Said>>,
    published: Mutex<Vec<(Arc<Client>, Vec<Draft>)>>,
    sent: Mutex<Vec<Sent>>,
    /// Who is there, and what they listen to.
    there: Mutex<Vec<(Arc<Client>, Vec<ChannelName>)>>,
    pub coverage: Option<Arc<Coverage>>,
}

impl Witness {
    pub fn new(coverage: Option<Arc<Coverage>>) -> Witness {
        Witness { coverage, ..Witness::default() }
    }

    pub fn heard(&self, said: Said) {
        let mut all = self.said.lock();
        if all.len() >= MAX_SAID {
            all.remove(0);
        }
        all.push(said);
    }

    pub fn published(&self) -> Vec<(Arc<Client>, Vec<Draft>)> {
        self.published.lock().clone()
    }

    pub fn sent(&self) -> Vec<Sent> {
        self.sent.lock().clone()
    }

    /// Somebody is there; `channel`: and listens to it from now on. Whether it did not before.
    pub fn meets(&self, client: &Arc<Client>, channel: Option<&ChannelName>) -> bool {
        let mut there = self.there.lock();
        let at = there.iter().position(|(known, _)| known.id == client.id).unwrap_or(there.len());
        if at == there.len() {
            there.push((client.clone(), Vec::new()));
        }
        let (known, channels) = &mut there[at];
        known.clone_from(client);
        let fresh = channel.filter(|channel| !channels.contains(channel)).cloned();
        let is_fresh = fresh.is_some();
        channels.extend(fresh);
        is_fresh
    }

    /// Somebody listens to a channel no more.
    pub fn leaves(&self, client: &Client, channel: &ChannelName) {
        let mut there = self.there.lock();
        let known = there.iter_mut().filter(|(known, _)| known.id == client.id);
        known.for_each(|(_, channels)| channels.retain(|one| one != channel));
    }

    /// Somebody is there no more; the channels that it listened to.
    pub fn misses(&self, client: &Client) -> Vec<ChannelName> {
        let mut there = self.there.lock();
        let at = there.iter().position(|(known, _)| known.id == client.id);
        at.map_or_else(Vec::new, |at| there.remove(at).1)
    }

    fn those(&self, wanted: impl Fn(&Client, &[ChannelName]) -> bool) -> Vec<Arc<Client>> {
        let there = self.there.lock();
        there.iter().filter(|(client, channels)| wanted(client, channels)).map(|(client, _)| client.clone()).collect()
    }

    fn send_away(&self, clients: &[Arc<Client>], channel: Option<&ChannelName>, why: &str) -> usize {
        let sent =
            |client: &Arc<Client>| Sent { client: client.clone(), channel: channel.cloned(), why: why.to_owned() };
        self.sent.lock().extend(clients.iter().map(sent));
        clients.len()
    }

    pub fn said(&self) -> Vec<Said> {
        self.said.lock().clone()
    }
}

/// Beyond, a plugin hears that too much waits already.
const MAX_PUBLISHED: usize = 10_000;

/// In place of the hub: nothing goes out, everything is written down.
pub struct Onlooker(pub Arc<Witness>);

impl World for Onlooker {
    fn channels(&self) -> Vec<ChannelName> {
        self.0.there.lock().iter().flat_map(|(_, channels)| channels.clone()).collect()
    }

    fn rules_changed(&self, _: &[SocketAddr]) {}

    fn policies_changed(&self, _channels: Patterns) {}

    fn publish(&self, said: world::Said) -> bool {
        let mut published = self.0.published.lock();
        let room = published.len() < MAX_PUBLISHED;
        if room {
            published.push((said.client, said.drafts));
        }
        room
    }

    fn publish_now(&self, client: Arc<Client>, drafts: Vec<Draft>) -> Publishing {
        let mut published = self.0.published.lock();
        if published.len() >= MAX_PUBLISHED {
            return Box::pin(ready(drafts.iter().map(|_| Err(PublishError::Busy(Duration::ZERO))).collect()));
        }
        let (epoch, ack) = (Epoch::UNKNOWN, Ack::Synced);
        let receipt = |draft: &Draft| {
            let channel = draft.channel.clone();
            let all = published.iter().flat_map(|(_, drafts)| drafts);
            let offset = all.filter(|draft| draft.channel == channel).count() as u64 + 1;
            Ok(Receipt { channel, offset, epoch, time: 0, ack, duplicate: false })
        };
        let receipts = drafts.iter().map(receipt).collect();
        published.push((client, drafts));
        Box::pin(ready(receipts))
    }

    fn listeners(&self, channel: &ChannelName) -> Vec<Arc<Client>> {
        self.0.those(|_, channels| channels.contains(channel))
    }

    fn sessions(&self, wanted: &dyn Fn(&Client) -> bool) -> Vec<Arc<Client>> {
        self.0.those(|client, _| wanted(client))
    }

    fn kick(&self, meant: &dyn Fn(&Client) -> bool, why: &str) -> usize {
        let clients = self.0.those(|client, _| meant(client));
        clients.iter().for_each(|client| drop(self.0.misses(client)));
        self.0.send_away(&clients, None, why)
    }

    fn unsubscribe(&self, meant: &dyn Fn(&Client) -> bool, channel: &ChannelName) -> usize {
        let clients = self.0.those(|client, channels| meant(client) && channels.contains(channel));
        for (_, channels) in
            self.0.there.lock().iter_mut().filter(|(known, _)| clients.iter().any(|c| c.id == known.id))
        {
            channels.retain(|one| one != channel);
        }
        self.0.send_away(&clients, Some(channel), "")
    }
}
