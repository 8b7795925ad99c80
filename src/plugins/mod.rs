//! Plugins.
mod manifest;
mod schema;
mod watchdog;
