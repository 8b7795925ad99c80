//! The hub, as the rules act on it.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::{Arc, Weak};

use tokio::runtime::Handle;
use tokio::sync::mpsc;

use super::listeners::Listeners;
use crate::edges::roster::{Order, Roster};
use crate::kernel::hooks::Client;
use crate::kernel::hub::{Hub, PublishError};
use crate::kernel::message::{ChannelName, Draft, Offset, Publication};
use crate::kernel::pattern::Patterns;
use crate::plugins::{Publishing, Said, World};

/// What plugins publish and is not published yet. When it is full they hear "busy".
const QUEUE: usize = 1000;
/// Of those, how many may share a group commit.
const TOGETHER: usize = 100;

/// What is read at once of what a channel keeps.
const PAGE: usize = 500;
const PAGE_BYTES: usize = 4 << 20;

/// Connections a second that are asked about again after a change: a burst of votes would stand in everybody's way.
const RECONSIDERED_PER_SECOND: u32 = 5000;

/// What lies around the rules.
pub struct Outside {
    hub: Weak<Hub>,
    roster: Arc<Roster>,
    front: Handle,
    listeners: Arc<Listeners>,
    said: mpsc::Sender<Said>,
}

impl Outside {
    /// The world, and what must run for as long as plugins may publish.
    pub fn new(
        hub: &Arc<Hub>,
        roster: &Arc<Roster>,
        front: Handle,
        listeners: Arc<Listeners>,
    ) -> (Outside, impl Future<Output = ()> + Send + 'static) {
        let (said, waiting) = mpsc::channel(QUEUE);
        let hub = Arc::downgrade(hub);
        (Outside { hub: hub.clone(), roster: roster.clone(), front, listeners, said }, speak(hub, waiting))
    }
}

impl Outside {
    /// What channels keep and promise is asked again; whoever changed the rules does not wait for it.
    fn resolve_again(&self, wanted: impl Fn(&str) -> bool + Send + Sync + 'static) {
        let Some(hub) = self.hub.upgrade() else { return };
        self.front.spawn(async move {
            if let Err(error) = hub.resolve_again(wanted).await {
                tracing::warn!(%error, "the store did not take what channels are to keep from now on");
            }
        });
    }
}

impl World for Outside {
    fn channels(&self) -> Vec<ChannelName> {
        let hub = self.hub.upgrade();
        hub.map_or_else(Vec::new, |hub| hub.channels(|_| true).iter().map(|channel| channel.name.clone()).collect())
    }

    fn open(&self, listeners: &[SocketAddr]) -> Result<(), String> {
        self.listeners.open(listeners)
    }

    fn rules_changed(&self, listeners: &[SocketAddr]) {
        self.listeners.keep(listeners);
        self.resolve_again(|_| true);
        let roster = self.roster.clone();
        self.front.spawn(async move {
            let asked = roster.each_slowly(&Order::Reconsider, RECONSIDERED_PER_SECOND).await;
            tracing::info!(connections = asked, "everybody was asked about again, because the rules changed");
        });
    }

    fn policies_changed(&self, channels: Patterns) {
        self.resolve_again(move |name| channels.matches(name));
    }

    fn publish(&self, said: Said) -> bool {
        self.said.try_send(said).is_ok()
    }

    fn stored(&self, channel: &ChannelName, before: Offset) -> Result<Vec<Publication>, String> {
        let hub = self.hub.upgrade().ok_or("the hub has ended")?;
        self.front.block_on(hub.kept(channel, before, PAGE, PAGE_BYTES)).map_err(|error| error.to_string())
    }

    fn publish_now(&self, client: Arc<Client>, drafts: Vec<Draft>) -> Publishing {
        let hub = self.hub.clone();
        Box::pin(async move {
            match hub.upgrade() {
                Some(hub) => hub.publish_batch(&client, drafts).await,
                None => drafts.iter().map(|_| Err(PublishError::Stopping)).collect(),
            }
        })
    }

    fn listeners(&self, channel: &ChannelName) -> Vec<Arc<Client>> {
        self.hub.upgrade().map_or_else(Vec::new, |hub| hub.listeners(channel))
    }

    fn sessions(&self, wanted: &dyn Fn(&Client) -> bool) -> Vec<Arc<Client>> {
        self.roster.clients(wanted)
    }

    fn kick(&self, meant: &dyn Fn(&Client) -> bool, why: &str) -> usize {
        self.roster.order(meant, &Order::Kick(why.into()))
    }

    fn unsubscribe(&self, meant: &dyn Fn(&Client) -> bool, channel: &ChannelName) -> usize {
        self.roster.order(meant, &Order::Unsubscribe(channel.clone()))
    }
}

/// Publishes what plugins say, in the order in which they said it; what one of them said in a row goes together.
async fn speak(hub: Weak<Hub>, mut waiting: mpsc::Receiver<Said>) {
    let mut batch = Vec::new();
    while waiting.recv_many(&mut batch, TOGETHER).await > 0 {
        let Some(hub) = hub.upgrade() else { return };
        let mut batch = batch.drain(..).peekable();
        while let Some(Said { client, mut drafts }) = batch.next() {
            while let Some(next) = batch.next_if(|next| same(&next.client, &client)) {
                drafts.extend(next.drafts);
            }
            let channels: Vec<_> = drafts.iter().map(|draft| draft.channel.clone()).collect();
            let results = hub.publish_batch(&client, drafts).await;
            for (channel, error) in channels.iter().zip(results).filter_map(|(at, result)| Some((at, result.err()?))) {
                tracing::warn!(target: "aether::plugin", %channel, by = client.id, "a plugin's message was not published: {error}");
            }
        }
    }
}

/// Whether the rules see no difference between two publishers.
fn same(one: &Client, other: &Client) -> bool {
    one.id == other.id && one.identity.user == other.identity.user && Said::depth_of(one) == Said::depth_of(other)
}
