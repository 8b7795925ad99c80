//! permessage-deflate (RFC 7692): the messages of a WebSocket compressed, once for all who read them.
//!
//! No message leans on one before it, in either direction. So a compressed frame is the same bytes for every subscriber and
//! lies in the tail as any other, and a connection keeps no window: what inflates is a thread's, and only while it reads.

mod codec;
mod format;
mod offer;

use std::sync::Arc;

use parking_lot::Mutex;
use warp::http::header::{self, HeaderMap};

pub use codec::inflate;
pub use offer::Agreement;

use crate::kernel::Counter;
use crate::kernel::format::Format;
use format::Deflated;

/// What the operator has set, and what has come of it.
pub struct Compression {
    on: bool,
    /// The smallest payload of a frame that is worth it.
    from: usize,
    tally: Arc<Tally>,
    /// One for each format of a WebSocket, so that all its readers share its bytes.
    known: Mutex<Vec<Arc<Deflated>>>,
}

/// What went out smaller, counted where it is made: once for all who read it.
#[derive(Default)]
pub struct Tally {
    pub messages: Counter,
    /// Bytes before and after.
    pub plain: Counter,
    pub packed: Counter,
}

impl Compression {
    pub fn new(on: bool, from: usize) -> Compression {
        Compression { on, from, tally: Arc::default(), known: Mutex::default() }
    }

    /// The first of a client's offers that can be kept.
    pub fn agree(&self, headers: &HeaderMap) -> Option<Agreement> {
        if !self.on {
            return None;
        }
        let lines = headers.get_all(header::SEC_WEBSOCKET_EXTENSIONS);
        lines.iter().find_map(|line| offer::agree(line.to_str().ok()?))
    }

    /// The same format for those who have agreed.
    pub fn of(&self, plain: Arc<dyn Format>) -> Arc<dyn Format> {
        let mut known = self.known.lock();
        if let Some(deflated) = known.iter().find(|deflated| Arc::ptr_eq(&deflated.plain, &plain)) {
            return deflated.clone();
        }
        let deflated = Arc::new(Deflated { plain, from: self.from, tally: self.tally.clone() });
        known.push(deflated.clone());
        deflated
    }

    pub fn tally(&self) -> &Tally {
        &self.tally
    }
}
