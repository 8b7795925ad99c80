//! Aether: a realtime push hub.

pub mod banner;
pub mod cli;
pub mod config;
pub mod kernel;
pub mod keys;
pub mod server;
