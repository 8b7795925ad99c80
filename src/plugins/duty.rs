//! What a generation does beside answering, while it is in charge: the disconnect hooks and the timers.

use std::sync::Arc;

use super::departures::Departures;
use super::generation::Generation;
use super::timers::Timers;

/// Begins when the generation takes charge, ends when it is dropped.
pub struct Duty {
    pub departures: Option<Departures>,
    pub timers: Option<Timers>,
}

impl Duty {
    pub fn begin(generation: &Arc<Generation>) -> Duty {
        let commons = &generation.program.commons;
        // A test moves its clock by hand, and its timers with it.
        let timers = if commons.witness.is_some() { None } else { Timers::begin(generation) };
        Duty { departures: Departures::start(generation), timers }
    }
}
