//! What runs beside the questions, after the fact: who came, who left, and the threads that hear of it.

pub mod attendance;
pub mod crowd;
pub mod departures;
pub mod duty;
