//! What is said in a case, in place of the channels: each publication with its offset, for the guests that listen.

use std::collections::BTreeMap;

use crate::kernel::hub::Receipt;
use crate::kernel::message::{ChannelName, Draft, Epoch, Micros, Publication};
use crate::kernel::policy::Ack;

/// Every channel of every case is in its first life.
pub const EPOCH: Epoch = Epoch(1);
/// Of one case; what is said beyond is an error of the case.
const MAX_SAID: usize = 10_000;

#[derive(Default)]
pub struct Air {
    channels: BTreeMap<ChannelName, Vec<Publication>>,
    /// By channel and idempotency key.
    known: BTreeMap<(ChannelName, Box<str>), Receipt>,
    said: usize,
}

impl Air {
    /// Says it, and what a publisher is told of it.
    pub fn say(&mut self, draft: Draft, time: Micros) -> Result<Receipt, String> {
        let key = draft.idempotency_key.map(|key| (draft.channel.clone(), key));
        if let Some(known) = key.as_ref().and_then(|key| self.known.get(key)) {
            return Ok(Receipt { duplicate: true, ..known.clone() });
        }
        if self.said >= MAX_SAID {
            return Err(format!("a case says more than {MAX_SAID} messages"));
        }
        self.said += 1;
        let channel = self.channels.entry(draft.channel.clone()).or_default();
        let offset = channel.len() as u64 + 1;
        let expires = draft.ttl.map(|ttl| time.saturating_add(ttl.as_micros() as Micros));
        channel.push(Publication { offset, time, expires, once: draft.once, message: draft.message });
        let receipt =
            Receipt { channel: draft.channel, offset, epoch: EPOCH, time, ack: Ack::Synced, duplicate: false };
        self.known.extend(key.map(|key| (key, receipt.clone())));
        Ok(receipt)
    }

    /// The newest offset of a channel.
    pub fn head(&self, channel: &ChannelName) -> u64 {
        self.channels.get(channel).map_or(0, |said| said.len() as u64)
    }

    /// What was said in a channel after an offset, and is still good now.
    pub fn after(&self, channel: &ChannelName, offset: u64, now: Micros) -> Vec<Publication> {
        let said = self.channels.get(channel).into_iter().flatten();
        let wanted = |one: &&Publication| one.offset > offset && one.expires.is_none_or(|end| end > now);
        said.filter(wanted).cloned().collect()
    }
}
