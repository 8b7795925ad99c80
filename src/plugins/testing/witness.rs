//! What a test sees of the plugins under test, in place of the world.

use std::sync::Arc;

use parking_lot::Mutex;

use super::Coverage;

/// Of one case; beyond, the oldest goes.
const MAX_SAID: usize = 10_000;

/// A line that a plugin logged.
#[derive(Clone, Debug)]
pub struct Said {
    pub level: &'static str,
    pub plugin: String,
    pub place: String,
    pub message: String,
    /// JSON, or empty.
    pub fields: String,
}

#[derive(Default)]
pub struct Witness {
    said: Mutex<Vec<Said>>,
    pub coverage: Option<Arc<Coverage>>,
}

impl Witness {
    pub fn new(coverage: Option<Arc<Coverage>>) -> Witness {
        Witness { coverage, ..Witness::default() }
    }

    pub fn heard(&self, said: Said) {
        let mut all = self.said.lock();
        if all.len() >= MAX_SAID {
            all.remove(0);
        }
        all.push(said);
    }

    pub fn said(&self) -> Vec<Said> {
        self.said.lock().clone()
    }
}
