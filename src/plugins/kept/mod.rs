//! What rules keep: on disk, in memory, as figures; each with a bound.

pub mod bounded;
pub mod kv;
pub mod shared;
pub mod tallies;
