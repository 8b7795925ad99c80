//! The port of what rules keep: bytes under ordered keys.
//!
//! One writer per key at a time is the host's business; a store need only be safe to call from any thread.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Bound;

use parking_lot::RwLock;

pub trait Kv: Send + Sync + 'static {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, KvError>;
    fn put(&self, key: &[u8], value: &[u8]) -> Result<(), KvError>;
    fn delete(&self, key: &[u8]) -> Result<(), KvError>;
    /// Up to `count` entries whose keys begin with `prefix` and come after `after`, in order.
    fn scan(&self, prefix: &[u8], after: Option<&[u8]>, count: usize) -> Result<Vec<KvEntry>, KvError>;
    /// Comes back when everything that was put before is on disk.
    fn sync(&self) -> Result<(), KvError>;
}

/// A key and its value.
pub type KvEntry = (Vec<u8>, Vec<u8>);

/// What went wrong, in the store's words.
#[derive(Debug)]
pub struct KvError(pub String);

impl fmt::Display for KvError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for KvError {}

/// Gone with the process: for checks and tests.
#[derive(Default)]
pub struct MemoryKv(RwLock<BTreeMap<Vec<u8>, Vec<u8>>>);

impl Kv for MemoryKv {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, KvError> {
        Ok(self.0.read().get(key).cloned())
    }

    fn put(&self, key: &[u8], value: &[u8]) -> Result<(), KvError> {
        self.0.write().insert(key.to_vec(), value.to_vec());
        Ok(())
    }

    fn delete(&self, key: &[u8]) -> Result<(), KvError> {
        self.0.write().remove(key);
        Ok(())
    }

    fn scan(&self, prefix: &[u8], after: Option<&[u8]>, count: usize) -> Result<Vec<KvEntry>, KvError> {
        let from = match after {
            Some(after) if after >= prefix => Bound::Excluded(after),
            _ => Bound::Included(prefix),
        };
        let map = self.0.read();
        let found = map.range::<[u8], _>((from, Bound::Unbounded)).take_while(|(key, _)| key.starts_with(prefix));
        Ok(found.take(count).map(|(key, value)| (key.clone(), value.clone())).collect())
    }

    fn sync(&self) -> Result<(), KvError> {
        Ok(())
    }
}
