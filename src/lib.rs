//! Aether: a realtime push hub.

pub mod kernel;
pub mod plugins;
