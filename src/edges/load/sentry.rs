//! Looks ten times a second at what presses the hub, and has done what that calls for.
//!
//! Delay is how late a task comes to its turn that only wants to note the time: what every other task waits as well.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::Load;
use super::pressure::{Cause, Delay, Ladder, Level};
use crate::edges::process;
use crate::edges::roster::Roster;
use crate::kernel::hub::Hub;

const BEAT: Duration = Duration::from_millis(100);
/// So many beats are a look at tenants, and so many one at memory and at the newcomers.
const SHARING: u32 = 5;
const MEASURING: u32 = 10;
/// From this part of the delay that is allowed on, tenants have to share.
const TIGHT: f64 = 0.25;

pub struct Sentry {
    pub hub: Arc<Hub>,
    pub roster: Arc<Roster>,
    pub load: Arc<Load>,
    /// Who takes nothing for so long is closed anyway.
    pub write_timeout: Duration,
}

/// Notes how late it comes, on the runtime where it runs, until it is dropped.
pub async fn beat(load: Arc<Load>, of: fn(&Load) -> &Delay) {
    loop {
        let due = Instant::now() + BEAT;
        tokio::time::sleep_until(due).await;
        of(&load).note(due.elapsed());
    }
}

impl Sentry {
    /// Watches until it is dropped; `beat` must run on each of the runtimes that it notes, beside it.
    pub async fn watch(self) {
        let pressure = &self.load.pressure;
        let (mut by_delay, mut by_memory) = (Ladder::of(Cause::Delay), Ladder::of(Cause::Memory));
        let (mut shared_at, mut patience) = (Instant::now(), self.write_timeout / 2);
        let mut beats = 0u32;
        loop {
            tokio::time::sleep(BEAT).await;
            beats = beats.wrapping_add(1);
            let now = Instant::now();
            if beats.is_multiple_of(SHARING) {
                self.load.tenants.share(now - shared_at, pressure.delay_share() >= TIGHT);
                shared_at = now;
            }
            let measures = beats.is_multiple_of(MEASURING);
            if measures {
                self.load.governor.learn();
                pressure.measured(process::resident().unwrap_or(0));
            }
            let late = by_delay.step(pressure.delay_share(), now);
            let full = by_memory.step(pressure.memory_share(), now);
            let (level, cause) = if full >= late { (full, Cause::Memory) } else { (late, Cause::Delay) };
            self.hub.keep_small_tails(full >= Level::Caches);
            if pressure.stands(level, cause) {
                self.say(level, cause);
            }
            if !measures {
                continue;
            }
            patience = match level {
                Level::Readers => {
                    // The slowest first: each second those who have taken nothing for a quarter as long.
                    self.roster.squeeze(patience);
                    patience / 4
                }
                _ => self.write_timeout / 2,
            };
        }
    }

    fn say(&self, level: Level, cause: Cause) {
        let (delay, memory) = (self.load.pressure.delay_share(), self.load.pressure.memory_share());
        let shares = format!("delay at {:.0} %, memory at {:.0} % of its limit", delay * 100.0, memory * 100.0);
        match level {
            Level::Calm => tracing::info!("nothing presses any more: {shares}"),
            _ => {
                let is_too_little = matches!(cause, Cause::Memory) && self.roster.is_empty();
                let hint = if is_too_little { ": less than a hub needs to which nobody is connected" } else { "" };
                tracing::warn!("under pressure ({}{hint}), giving way: {}; {shares}", cause.setting(), level.word());
            }
        }
    }
}
