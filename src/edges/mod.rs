//! The edges: where bytes come in and go out. An edge parses, asks the kernel, and renders; it decides nothing.

pub mod admin;
pub mod certificates;
pub mod cursor;
pub mod deadline;
pub mod door;
pub mod forwarded;
pub mod frames;
pub mod history;
pub mod http;
pub mod listen;
pub mod listening;
pub mod metrics;
pub mod native;
pub mod operator;
pub mod origin;
mod patience;
pub mod poll;
pub mod publish;
pub mod roster;
pub mod routes;
pub mod session;
pub mod sse;
pub mod tls;
pub mod upgrade;
mod vanished;
pub mod wire;
pub mod ws;
