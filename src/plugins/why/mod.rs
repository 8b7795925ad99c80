//! Why something was decided: written down while it is, looked up afterwards, asked again without consequences.

pub mod asked;
pub mod diff;
pub mod effect;
pub mod evidence;
pub mod legible;
pub mod mask;
pub mod record;
pub mod rehearsal;
pub mod shadow;
pub mod tails;
pub mod trace;
