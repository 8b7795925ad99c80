//! Stores: what keeps the logs. Each is one file that passes `tests/log_contract.rs`, and names nobody but the kernel.

pub mod block;
pub mod kv;
mod life;
pub mod memory;
pub mod sled;
mod varint;

use crate::kernel::message::Epoch;

/// A new life for a log.
fn new_epoch() -> Epoch {
    let mut bytes = [0; 8];
    // The system's random source fails only where nothing else works either; the clock still tells two lives apart.
    if getrandom::fill(&mut bytes).is_err() {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        bytes = (now.as_nanos() as u64).to_be_bytes();
    }
    Epoch((u64::from_be_bytes(bytes) >> 11).max(1))
}
