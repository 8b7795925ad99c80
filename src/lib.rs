//! Aether: a realtime push hub.

pub mod edges;
pub mod kernel;
pub mod stores;
