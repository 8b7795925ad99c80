//! What all VMs of a host share, and what outlives a generation.

use std::sync::{Arc, OnceLock};
use std::time::{SystemTime, UNIX_EPOCH};

use super::attendance::Attendance;
use super::beside::Beside;
use super::bounded::Bounded;
use super::decision::LogRate;
use super::http::Outside;
use super::keysets::Keysets;
use super::kv::House;
use super::lanes::Lanes;
use super::memo::Memos;
use super::record::Recorder;
use super::remembered::Remembered;
use super::shared::Shelves;
use super::tallies::Tallies;
use super::testing::Witness;
use super::trace;
use super::turns::Turns;
use super::world::World;
use crate::kernel::message::{ChannelName, Micros};
use crate::kernel::policy::Policy;

/// Unix time.
pub type Clock = Arc<dyn Fn() -> Micros + Send + Sync>;

pub fn system_clock() -> Clock {
    Arc::new(|| SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_micros() as Micros))
}

pub struct Commons {
    clock: Clock,
    pub remembered: Remembered,
    pub recorder: Recorder,
    pub log_rate: LogRate,
    pub shelves: Shelves,
    pub kv: House,
    pub lanes: Lanes,
    pub beside: Beside,
    pub outside: Outside,
    pub memos: Memos,
    pub keysets: Keysets,
    pub turns: Turns,
    pub attendance: Attendance,
    pub tallies: Tallies,
    /// What retention rules made of channels, for when they break. The oldest goes; then the settings count again.
    pub policies: Bounded<ChannelName, Policy>,
    /// Random per process: masks of values that can be guessed must not be tried out.
    pub mask_key: [u8; 32],
    /// What rules reach beside themselves, once there is something.
    pub world: OnceLock<Box<dyn World>>,
    /// Sees, in place of the world, what the plugins under test do.
    pub witness: Option<Arc<Witness>>,
}

const MAX_POLICIES: usize = 1 << 16;
const MAX_POLICY_BYTES: usize = 32 << 20;

impl Commons {
    pub fn new(clock: Clock) -> Result<Commons, String> {
        let mut mask_key = [0; 32];
        getrandom::fill(&mut mask_key).map_err(|error| format!("there is no randomness: {error}"))?;
        let remembered = Remembered::new().map_err(|error| format!("there is no randomness: {error}"))?;
        Ok(Commons {
            clock,
            remembered,
            recorder: Recorder::default(),
            log_rate: LogRate::default(),
            shelves: Shelves::default(),
            kv: House::new(),
            lanes: Lanes::default(),
            beside: Beside::default(),
            outside: Outside::default(),
            memos: Memos::default(),
            keysets: Keysets::default(),
            turns: Turns::default(),
            attendance: Attendance::default(),
            tallies: Tallies::default(),
            policies: Bounded::new(MAX_POLICIES, MAX_POLICY_BYTES),
            mask_key,
            world: OnceLock::new(),
            witness: None,
        })
    }

    pub fn now(&self) -> Micros {
        trace::time().unwrap_or_else(|| (self.clock)())
    }
}
