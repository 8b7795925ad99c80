//! What a generation does beside answering, while it is in charge: the disconnect hooks, the join and leave
//! hooks and the timers.

use std::sync::Arc;

use super::attendance::Usher;
use super::departures::Departures;
use crate::plugins::source::generation::Generation;
use crate::plugins::waiting::timers::Timers;

/// Begins when the generation takes charge, ends when it is dropped.
pub struct Duty {
    pub departures: Option<Departures>,
    pub timers: Option<Timers>,
    _usher: Option<Usher>,
}

impl Duty {
    pub fn begin(generation: &Arc<Generation>) -> Duty {
        let commons = &generation.program.commons;
        // A test moves its clock by hand, and its timers with it.
        let by_hand = commons.witness.is_some();
        let timers = if by_hand { None } else { Timers::begin(generation) };
        let usher = if by_hand { None } else { Usher::start(generation) };
        Duty { departures: Departures::start(generation), timers, _usher: usher }
    }
}
