//! What Aether promises, told from outside on real sockets: a file a promise.

#[allow(dead_code)]
mod common;

mod idempotency;
mod order;
mod resume;
mod slow_readers;
mod stopping;
mod docs;
mod page;
