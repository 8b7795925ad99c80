//! What all VMs of a host share, and what outlives a generation.

use std::sync::{Arc, OnceLock};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::kernel::message::{ChannelName, Micros};
use crate::kernel::policy::Policy;
use crate::plugins::asking::decision::LogRate;
use crate::plugins::asking::remembered::Remembered;
use crate::plugins::asking::turns::Turns;
use crate::plugins::authors::testing::Witness;
use crate::plugins::kept::bounded::Bounded;
use crate::plugins::kept::kv::House;
use crate::plugins::kept::shared::Shelves;
use crate::plugins::kept::tallies::Tallies;
use crate::plugins::told::attendance::Attendance;
use crate::plugins::waiting::beside::Beside;
use crate::plugins::waiting::http::Outside;
use crate::plugins::waiting::keysets::Keysets;
use crate::plugins::waiting::lanes::Lanes;
use crate::plugins::waiting::memo::Memos;
use crate::plugins::why::record::Recorder;
use crate::plugins::why::trace;
use crate::plugins::world::World;

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
