//! What lies outside of the rules: the host's port to channels, sessions and publishing.

use std::future::{Future, ready};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;

use crate::kernel::hooks::Client;
use crate::kernel::hub::{PublishError, Receipt};
use crate::kernel::message::{ChannelName, Draft, Offset, Publication};
use crate::kernel::pattern::Patterns;
use crate::plugins::voice::Voice;

/// The hub, as the rules may act on it. Nothing here waits.
pub trait World: Send + Sync {
    /// The channels that are in use.
    fn channels(&self) -> Vec<ChannelName>;
    /// Opens these listeners, where they are not open yet, for rules that are about to take charge.
    fn open(&self, _listeners: &[SocketAddr]) -> Result<(), String> {
        Ok(())
    }
    /// Other rules are in charge, which want these listeners and no others: whoever was let in by the old ones is to be asked
    /// about again.
    fn rules_changed(&self, listeners: &[SocketAddr]);
    /// What these channels keep and promise is to be asked again. Must not block.
    fn policies_changed(&self, channels: Patterns);
    /// Publishes soon, after what was given before. False if too much waits already.
    fn publish(&self, said: Said) -> bool;
    /// Publishes, and says what came of each.
    fn publish_now(&self, _client: Arc<Client>, drafts: Vec<Draft>) -> Publishing {
        Box::pin(ready(drafts.iter().map(|_| Err(PublishError::Stopping)).collect()))
    }
    /// Who listens to a channel.
    fn listeners(&self, channel: &ChannelName) -> Vec<Arc<Client>>;
    /// Those that are connected and wanted.
    fn sessions(&self, wanted: &dyn Fn(&Client) -> bool) -> Vec<Arc<Client>>;
    /// What a channel keeps below an offset, the newest of it in ascending order; no rule is asked. It waits for the store,
    /// and so must whoever asks.
    fn stored(&self, _channel: &ChannelName, _before: Offset) -> Result<Vec<Publication>, String> {
        Err("there is no hub".into())
    }
    /// Closes connections; how many.
    fn kick(&self, meant: &dyn Fn(&Client) -> bool, why: &str) -> usize;
    /// Ends subscriptions to a channel; of how many connections.
    fn unsubscribe(&self, meant: &dyn Fn(&Client) -> bool, channel: &ChannelName) -> usize;
}

/// Publications that somebody waits for, in the order of their drafts.
pub type Publishing = Pin<Box<dyn Future<Output = Vec<Result<Receipt, PublishError>>> + Send>>;

/// What a plugin publishes: the same in one channel or in several.
pub struct Said {
    pub client: Arc<Client>,
    pub drafts: Vec<Draft>,
}

impl Said {
    /// How many publications of plugins led to what this publisher says.
    pub fn depth_of(client: &Client) -> u8 {
        Voice::depth_of(client)
    }
}

/// Where rules are before there is a hub, and when they are tested: nobody is there and nobody listens.
pub struct Nowhere;

impl World for Nowhere {
    fn channels(&self) -> Vec<ChannelName> {
        Vec::new()
    }
    fn rules_changed(&self, _: &[SocketAddr]) {}
    fn policies_changed(&self, _: Patterns) {}
    fn publish(&self, _: Said) -> bool {
        false
    }
    fn listeners(&self, _: &ChannelName) -> Vec<Arc<Client>> {
        Vec::new()
    }
    fn sessions(&self, _: &dyn Fn(&Client) -> bool) -> Vec<Arc<Client>> {
        Vec::new()
    }
    fn kick(&self, _: &dyn Fn(&Client) -> bool, _: &str) -> usize {
        0
    }
    fn unsubscribe(&self, _: &dyn Fn(&Client) -> bool, _: &ChannelName) -> usize {
        0
    }
}
