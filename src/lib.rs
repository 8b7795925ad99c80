//! Aether: a realtime push hub.

pub mod config;
pub mod kernel;
