//! What Aether promises, told from outside on real sockets: a file a promise.

#[allow(dead_code)]
mod common;

mod docs;
mod fan_out;
mod idempotency;
mod order;
mod page;
mod resume;
mod slow_readers;
mod stopping;
