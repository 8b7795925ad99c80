//! What a generation does beside answering, while it is in charge: the disconnect hooks.

use std::sync::Arc;

use super::departures::Departures;
use super::generation::Generation;

/// Begins when the generation takes charge, ends when it is dropped.
pub struct Duty {
    pub departures: Option<Departures>,
}

impl Duty {
    pub fn begin(generation: &Arc<Generation>) -> Duty {
        Duty { departures: Departures::start(generation) }
    }
}
