//! What rules keep, in sled: the tree `kv` beside the log. It is synced with the log's groups and when it is asked to; where nobody
//! publishes, sled hands it to the operating system once in `store.flush_interval`.

use std::ops::Bound;

use sled::Tree;

use super::sled::SledLog;
use crate::kernel::kv::{Kv, KvEntry, KvError};
use crate::kernel::log::LogError;

pub struct SledKv {
    /// It alone knows how to bring what is written to the disk, and what there is after a fault.
    pub(super) log: SledLog,
}

fn failed(error: sled::Error) -> LogError {
    LogError(error.to_string())
}

fn in_its_words(error: LogError) -> KvError {
    KvError(error.0)
}

impl Kv for SledKv {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, KvError> {
        let found = self.log.read_rules(|tree| tree.get(key).map_err(failed)).map_err(in_its_words)?;
        Ok(found.map(|value| value.to_vec()))
    }

    fn put(&self, key: &[u8], value: &[u8]) -> Result<(), KvError> {
        self.log.write_rules(key, Some(value)).map_err(in_its_words)
    }

    fn delete(&self, key: &[u8]) -> Result<(), KvError> {
        self.log.write_rules(key, None).map_err(in_its_words)
    }

    fn scan(&self, prefix: &[u8], after: Option<&[u8]>, count: usize) -> Result<Vec<KvEntry>, KvError> {
        let from = match after {
            Some(after) if after >= prefix => Bound::Excluded(after),
            _ => Bound::Included(prefix),
        };
        let read = |tree: &Tree| {
            let mut found = Vec::new();
            for entry in tree.range::<&[u8], _>((from, Bound::Unbounded)).take(count) {
                let (key, value) = entry.map_err(failed)?;
                if !key.starts_with(prefix) {
                    break;
                }
                found.push((key.to_vec(), value.to_vec()));
            }
            Ok(found)
        };
        self.log.read_rules(read).map_err(in_its_words)
    }

    fn sync(&self) -> Result<(), KvError> {
        self.log.sync().map_err(in_its_words)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::kv::MemoryKv;
    use std::time::Duration;

    fn holds_the_contract(kv: &dyn Kv) {
        for key in [&b"a\x01"[..], b"a", b"ab", b"b", b"a\xff"] {
            kv.put(key, &[key, b"!"].concat()).unwrap();
        }
        kv.put(b"a", b"again").unwrap();
        assert_eq!(kv.get(b"a").unwrap().as_deref(), Some(&b"again"[..]));
        assert_eq!(kv.get(b"c").unwrap(), None);
        let keys = |prefix: &[u8], after: Option<&[u8]>, count| -> Vec<Vec<u8>> {
            kv.scan(prefix, after, count).unwrap().into_iter().map(|(key, _)| key).collect()
        };
        assert_eq!(keys(b"a", None, 9), [&b"a"[..], b"a\x01", b"ab", b"a\xff"]);
        assert_eq!(keys(b"a", Some(b"a\x01"), 1), [b"ab"]);
        assert_eq!(keys(b"b", Some(b"a"), 9), [b"b"]);
        assert_eq!(keys(b"", None, 9).len(), 5);
        kv.delete(b"ab").unwrap();
        kv.delete(b"none").unwrap();
        assert_eq!(keys(b"ab", None, 9), [[0; 0]; 0]);
    }

    #[test]
    fn the_store_and_its_stand_in_hold_the_same_contract() {
        holds_the_contract(&MemoryKv::default());
        let dir = std::env::temp_dir().join(format!("aether-kv-{}", std::process::id()));
        let second = Duration::from_secs(1);
        let log = SledLog::open(&dir, 1 << 20, Duration::from_secs(60), second).unwrap();
        let (kv, before) = (log.kv(), log.syncs());
        holds_the_contract(&kv);
        kv.sync().unwrap();
        assert_eq!(log.syncs(), before + 1, "an fdatasync");
        drop((kv, log));
        let _ = std::fs::remove_dir_all(dir);
    }
}
