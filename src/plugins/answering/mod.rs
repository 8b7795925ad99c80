//! Requests over HTTP that plugins answer.

pub mod route;
pub mod routed;
pub mod visit;
