//! What a crash has left of the journal, and what of it sled has not.
//!
//! A record that cannot be read was torn by the crash, unless a later one knows that it had been on the disk. Then the store is
//! damaged, and is not taken for a shorter one.

use std::os::unix::fs::FileExt;

use super::changes::Changes;
use super::journal::{FILES, HEADER, MAGIC, RECORD, crc};
use super::*;

/// Why the journal cannot be read.
#[derive(Debug)]
pub(super) enum Unread {
    Io(io::Error),
    Damaged(&'static str),
    Store(LogError),
}

/// Whether a journal lies in the store's directory that has been begun.
pub(super) fn is_there(store: &Path) -> io::Result<bool> {
    let mut header = [0; HEADER as usize];
    let files = FILES.map(|name| File::open(store.join(name)));
    match files {
        [Ok(first), Ok(_)] => Ok(first.read_at(&mut header, 0)? > 0 && header != [0; HEADER as usize]),
        [Err(error), _] | [_, Err(error)] if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(false),
    }
}

/// Gives what was noted after `last` to `again`, in order, and says which was the last then.
pub(super) fn replay(
    store: &Path,
    mut last: u64,
    mut again: impl FnMut(Changes) -> Result<(), LogError>,
) -> Result<u64, Unread> {
    let mut files = Vec::new();
    for name in FILES {
        match std::fs::read(store.join(name)) {
            Ok(bytes) => files.extend(Records::of(bytes.into())?),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(Unread::Io(error)),
        }
    }
    files.sort_by_key(|records| records.clone().next().map_or(u64::MAX, |record| record.number));
    let mut broken = false;
    for mut records in files {
        for Record { number, synced, changes, .. } in &mut records {
            broken |= number > last + 1;
            if broken && synced > last {
                return Err(MISSING);
            }
            if broken || number <= last {
                continue;
            }
            let changes = Changes::unpack(changes).map_err(|_| Unread::Damaged("its journal says what cannot be"))?;
            again(changes).map_err(Unread::Store)?;
            last = number;
        }
        if records.knows_beyond(last) {
            return Err(MISSING);
        }
    }
    Ok(last)
}

const MISSING: Unread = Unread::Damaged("what was acknowledged is missing in its journal");

/// A file's records, up to the first that is none.
#[derive(Clone)]
struct Records {
    life: u64,
    rest: Bytes,
    /// The number of the next one. Older ones of the same life may lie behind the newest.
    next: Option<u64>,
}

struct Record {
    number: u64,
    synced: u64,
    changes: Bytes,
    end: usize,
}

impl Records {
    /// None in a file that has not been begun.
    fn of(mut file: Bytes) -> Result<Option<Records>, Unread> {
        if file.iter().take(HEADER as usize).all(|byte| *byte == 0) {
            return Ok(None);
        }
        let rest = file.split_off(file.len().min(HEADER as usize));
        let life = file.strip_prefix(MAGIC).filter(|life| life.len() == 12);
        let life = life.filter(|life| short(&life[8..]) == crc(be(life), &[])).map(be);
        life.map(|life| Some(Records { life, rest, next: None })).ok_or(Unread::Damaged("its journal is none"))
    }

    fn at(&self, place: usize) -> Option<Record> {
        let header: &[u8; RECORD] = self.rest.get(place..)?.first_chunk()?;
        let end = place + RECORD + short(&header[4..]) as usize;
        let record = self.rest.get(place..end)?;
        (crc(self.life, &record[4..]) == short(header)).then(|| Record {
            number: be(&header[8..]),
            synced: be(&header[16..]),
            changes: self.rest.slice(place + RECORD..end),
            end,
        })
    }

    /// Whether there is a record behind the first that is none which knows that one after `last` was on the disk.
    fn knows_beyond(&self, last: u64) -> bool {
        // A sum takes long where the length is nonsense: what cannot be one of the next has none made.
        let next = last + 2..last + 2 + (self.rest.len() / RECORD) as u64;
        let numbers = self.rest.windows(16).map(|header| be(&header[8..]));
        let mut later = numbers.enumerate().filter(|(_, number)| next.contains(number));
        later.any(|(place, _)| self.at(place).is_some_and(|record| record.synced > last))
    }
}

impl Iterator for Records {
    type Item = Record;

    fn next(&mut self) -> Option<Record> {
        let record = self.at(0).filter(|record| self.next.is_none_or(|next| record.number == next))?;
        self.next = Some(record.number + 1);
        self.rest = self.rest.slice(record.end..);
        Some(record)
    }
}

fn short(bytes: &[u8]) -> u32 {
    bytes.iter().take(4).fold(0, |word, byte| word << 8 | u32::from(*byte))
}
