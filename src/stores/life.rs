//! Beside a store: which life it is in, and what it must know if that ended properly.
//!
//! sled takes what it can still read of a damaged log for all there ever was. A store that has lost its newest messages would
//! go on and give their numbers again, and one that has lost everything would pass for a new one. So its epoch stands in a
//! file of its own, and a proper end leaves the same mark in that file and at the end of the log: both are there, or the
//! store is damaged. After an improper end a torn log is nothing unusual, and only the epoch can be held against it.

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;

use crate::kernel::message::Epoch;

const FILE: &str = "life";

/// What the file says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Life {
    pub epoch: Epoch,
    /// The mark of a proper end; none while somebody uses the store.
    pub ended: Option<u64>,
}

impl Life {
    /// None if there is no such file: the store is new.
    pub fn read(store: &Path) -> io::Result<Option<Life>> {
        let text = match std::fs::read_to_string(store.join(FILE)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            other => other?,
        };
        let life = Life::parse(text.trim());
        life.map(Some).ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "its file `life` is unreadable"))
    }

    fn parse(text: &str) -> Option<Life> {
        let (epoch, ended) = text.split_once(' ')?;
        let epoch = epoch.parse().ok()?;
        let ended =
            if ended == "running" { None } else { Some(u64::from_str_radix(ended.strip_prefix("ended ")?, 16).ok()?) };
        Some(Life { epoch, ended })
    }

    /// Puts the whole file in place, and on disk.
    pub fn write(self, store: &Path) -> io::Result<()> {
        let ended = self.ended.map_or("running".to_owned(), |mark| format!("ended {mark:016x}"));
        let fresh = store.join("life.new");
        let mut file = File::create(&fresh)?;
        writeln!(file, "{} {ended}", self.epoch)?;
        file.sync_all()?;
        std::fs::rename(&fresh, store.join(FILE))?;
        File::open(store)?.sync_all()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_life_reads_back_as_it_was_written_and_nothing_else_is_one() {
        for ended in [None, Some(0), Some(u64::MAX)] {
            let life = Life { epoch: Epoch(17), ended };
            let dir = std::env::temp_dir().join(format!("aether-life-{}", std::process::id()));
            std::fs::create_dir_all(&dir).unwrap();
            life.write(&dir).unwrap();
            assert_eq!(Life::read(&dir).unwrap(), Some(life));
            std::fs::remove_dir_all(&dir).unwrap();
            assert_eq!(Life::read(&dir).unwrap(), None);
        }
        for bad in ["", "x", "00000000000011", "00000000000011 ended", "00000000000011 ended x", "g running"] {
            assert_eq!(Life::parse(bad), None, "{bad:?}");
        }
    }
}
