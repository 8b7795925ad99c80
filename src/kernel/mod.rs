//! The kernel.
pub mod hooks;
pub mod message;
pub mod pattern;
pub mod policy;
