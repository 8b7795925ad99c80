//! What retention no longer keeps is deleted here: by each append a little, by the sweep the rest, and all of it on request.

use super::*;

impl Inner {
    /// Deletes what the policy's count and bytes no longer keep, some blocks at a time, once it is worth it.
    pub(super) fn trim(&self, name: &ChannelName, open: &mut Open) -> Result<(), LogError> {
        let too_big = open.retention.bytes.is_some_and(|limit| open.bytes > limit);
        let surplus = open.first().saturating_sub(open.trimmed);
        let worth_it = surplus > 0 && surplus >= open.retention.count.map_or(1, |count| (count / 8).clamp(1, 1024));
        if !too_big && !worth_it {
            return Ok(());
        }
        let Some(number) = open.number else { return Ok(()) };
        let mut dead = Changes::default();
        let mut highest = 0;
        for entry in self.trees.messages.range(block_keys(number, 0)).take(TRIM_BLOCKS) {
            let (key, value) = entry.map_err(failed)?;
            let last_in_block = offset_of(&key);
            let over = open.retention.bytes.is_some_and(|limit| open.bytes > limit) && last_in_block < open.last;
            let follows = !pieces::is_head(&key) && last_in_block == highest;
            if last_in_block >= open.first() && !over && !follows {
                break;
            }
            open.bytes = open.bytes.saturating_sub(value.len() as u64);
            highest = last_in_block;
            dead.remove(In::Messages, key);
        }
        open.floor = open.floor.max(highest + 1);
        open.trimmed = open.first();
        if highest >= open.last {
            self.write_head(name, open)?; // The newest message goes; the numbers must not.
        }
        self.change(&dead)?;
        tidy(&self.trees.messages, block_keys(number, 0))
    }

    pub(super) fn forget(&self, name: &ChannelName) -> Result<Extent, LogError> {
        let channel = self.channel(name)?;
        let mut open = channel.lock();
        open.floor = open.last + 1;
        open.trimmed = open.floor;
        open.bytes = 0;
        self.write_head(name, &open)?;
        let Some(number) = open.number else { return Ok(open.extent(self.epoch)) };
        loop {
            let mut dead = Changes::default();
            for key in self.trees.messages.range(block_keys(number, 0)).keys().take(TRIM_BLOCKS) {
                dead.remove(In::Messages, key.map_err(failed)?);
            }
            self.change(&dead)?;
            if dead.len() < TRIM_BLOCKS {
                tidy(&self.trees.messages, block_keys(number, 0))?;
                return Ok(open.extent(self.epoch));
            }
        }
    }

    pub(super) fn sweep(&self, now: Micros, policies: Policies<'_>) -> Result<(), LogError> {
        let began = Instant::now();
        self.sweep_keys(now, began)?;
        let from = self.sweep_from.lock().take().unwrap_or_default();
        for (at, entry) in self.trees.heads.range(from..).enumerate() {
            let (key, _) = entry.map_err(failed)?;
            // At least one: on a machine that stands still so long it would never get on.
            if at > 0 && began.elapsed() > SWEEP_BUDGET {
                *self.sweep_from.lock() = Some(key.to_vec());
                return Ok(());
            }
            let Some(name) = std::str::from_utf8(&key).ok().and_then(|text| ChannelName::new(text).ok()) else {
                continue;
            };
            // One that is damaged does not keep the others from being swept.
            if let Err(error) = self.sweep_channel(&name, now, policies) {
                tracing::error!(%error, channel = %name, "a channel could not be swept");
            }
        }
        Ok(())
    }

    /// Deletes what is too old, and applies count and bytes where nobody publishes any more.
    fn sweep_channel(&self, name: &ChannelName, now: Micros, policies: Policies<'_>) -> Result<(), LogError> {
        let was_open = self.open.contains_key(name);
        self.open_channel(name, &policies(name))?;
        let channel = self.channel(name)?;
        let mut open = channel.lock();
        if let (Some(age), Some(number)) = (open.retention.age, open.number) {
            let oldest = now.saturating_sub(age.as_micros() as Micros);
            let mut dead = Changes::default();
            let mut highest = 0;
            for entry in self.trees.messages.range(block_keys(number, 0)).take(TRIM_BLOCKS) {
                let (key, value) = entry.map_err(failed)?;
                // A block's pieces come behind its head, and go with it.
                if pieces::is_head(&key) && pieces::newest_time(&value).map_err(|_| damaged(name))? >= oldest {
                    break;
                }
                open.bytes = open.bytes.saturating_sub(value.len() as u64);
                highest = offset_of(&key);
                dead.remove(In::Messages, key);
            }
            if highest > 0 {
                open.floor = open.floor.max(highest + 1);
                self.write_head(name, &open)?;
                self.change(&dead)?;
                tidy(&self.trees.messages, block_keys(number, 0))?;
            }
        }
        self.trim(name, &mut open)?;
        drop(open);
        if !was_open {
            self.open.remove(name);
        }
        Ok(())
    }

    fn sweep_keys(&self, now: Micros, began: Instant) -> Result<(), LogError> {
        let mut dead = Changes::default();
        for entry in self.trees.key_ages.range(..now.to_be_bytes().to_vec()).keys() {
            let age = entry.map_err(failed)?;
            // A key that was used again after its window has a younger age beside this one, and stays.
            if self.known_key(&age[8..], now)?.is_none() {
                dead.remove(In::Keys, &age[8..]);
            }
            dead.remove(In::KeyAges, age);
            if began.elapsed() > SWEEP_BUDGET / 2 {
                break;
            }
        }
        self.change(&dead)
    }
}
