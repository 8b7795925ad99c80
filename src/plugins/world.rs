//! What lies outside of the rules: the host's port to channels, sessions and publishing.

use std::sync::Arc;

use super::voice::Voice;
use crate::kernel::hooks::Client;
use crate::kernel::message::{ChannelName, Draft};
use crate::kernel::pattern::Patterns;

/// The hub, as the rules may act on it. Nothing here waits.
pub trait World: Send + Sync {
    /// The channels that are in use.
    fn channels(&self) -> Vec<ChannelName>;
    /// Other rules are in charge: whoever was let in by the old ones is to be asked about again.
    fn rules_changed(&self);
    /// What these channels keep and promise is to be asked again. Must not block.
    fn policies_changed(&self, channels: Patterns);
    /// Publishes soon, after what was given before. False if too much waits already.
    fn publish(&self, said: Said) -> bool;
    /// Who listens to a channel.
    fn listeners(&self, channel: &ChannelName) -> Vec<Arc<Client>>;
    /// Those that are connected and wanted.
    fn sessions(&self, wanted: &dyn Fn(&Client) -> bool) -> Vec<Arc<Client>>;
    /// Closes connections; how many.
    fn kick(&self, meant: &dyn Fn(&Client) -> bool, why: &str) -> usize;
    /// Ends subscriptions to a channel; of how many connections.
    fn unsubscribe(&self, meant: &dyn Fn(&Client) -> bool, channel: &ChannelName) -> usize;
}

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
