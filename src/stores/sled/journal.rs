//! What makes a group safe in one trip to the disk.
//!
//! sled needs two trips for a flush, from threads of its own, into a file that grows: an answer that took 0.13 ms without any took
//! 0.40 ms with it, of which the `fdatasync` of blocks that a file has already is 0.14 ms. So what is changed in the trees is
//! noted here first, and acknowledged when the note is on the disk; sled writes in its own time. Two files take turns: when one is
//! full, all that it has is brought to the disk by sled, beside those who publish, before it is begun anew. `replay` reads them.
//!
//! ```text
//! file   = "aetherj1"  life:u64  crc:u32  record*
//! record = crc:u32  length:u32  number:u64  synced:u64  changes
//! ```
//! Numbers are big-endian. The CRC-32 is of the life, and in a record of all that follows it there: what an earlier life has left
//! in a file is no record. Records are numbered without a gap, and sled knows the number of the last one that it has. Each says
//! which was the last on the disk when it was noted.
//!
//! A disk that destroys what a sector held while it overwrites it with the same and more loses a note that was acknowledged. None
//! that is sold for servers does.

use std::os::unix::fs::FileExt;
use std::thread::JoinHandle;

use super::changes::Changes;
use super::*;

pub(super) const MAGIC: &[u8; 8] = b"aetherj1";
pub(super) const FILES: [&str; 2] = ["journal.0", "journal.1"];
/// A file's header.
pub(super) const HEADER: u64 = 20;
/// A record's, before its changes.
pub(super) const RECORD: usize = 24;
/// A file that is this long is full. One group that is longer has one for itself.
const FULL: u64 = 16 << 20;
/// Files grow by so much at a time: an `fdatasync` of what a file has already is the quick one.
const STEP: u64 = 1 << 20;
/// What waits for nobody's promise is written when it is this much.
const PENDING: usize = 1 << 20;

pub(super) struct Journal {
    disk: Arc<dyn Disk>,
    writer: Mutex<Writer>,
    /// One at a time: Linux tells only one of two that an `fdatasync` has failed. Nobody who only notes waits for it.
    syncing: Mutex<()>,
}

struct Writer {
    pages: Arc<Pages>,
    files: [Arc<File>; 2],
    lengths: [u64; 2],
    /// Which of them have been written since they were synced.
    unsynced: [bool; 2],
    /// Which one is written, and how far.
    current: usize,
    position: u64,
    life: u64,
    next: u64,
    /// The last record that is on the disk.
    synced: u64,
    pending: Vec<u8>,
    /// Takes no more notes: at its end, and after an error, when nobody knows what is on the disk.
    closed: bool,
    /// sled brings to the disk what the other file has.
    emptying: Option<JoinHandle<Result<(), LogError>>>,
}

impl Journal {
    /// Begins with nothing: sled has all that was noted before.
    pub fn begin(home: &Home, pages: Arc<Pages>, last: u64) -> io::Result<Journal> {
        let open = |name: &str| {
            File::options().create(true).truncate(false).write(true).open(home.path.join(name)).map(Arc::new)
        };
        let files = [open(FILES[0])?, open(FILES[1])?];
        let lengths = [files[0].metadata()?.len(), files[1].metadata()?.len()];
        let mut writer = Writer {
            pages,
            files,
            lengths,
            unsynced: [false; 2],
            current: 0,
            position: 0,
            life: new_epoch().0,
            next: last + 1,
            synced: last,
            pending: Vec::new(),
            closed: false,
            emptying: None,
        };
        writer.begin_file(0)?;
        // From here on one without a header is damage.
        home.disk.sync(&writer.files[0])?;
        File::open(&home.path)?.sync_all()?;
        Ok(Journal { disk: home.disk.clone(), writer: Mutex::new(writer), syncing: Mutex::default() })
    }

    /// Takes a note of changes and has sled take them, told the note's number. Nobody else does meanwhile: sled must not have what
    /// comes later before what came earlier.
    pub fn note(&self, changes: &Changes, act: impl FnOnce(u64) -> Result<(), LogError>) -> Result<(), LogError> {
        let mut writer = self.writer.lock();
        let number = writer.try_to(|writer| writer.note(changes))?;
        act(number)
    }

    /// Hands everything to the operating system.
    pub fn write(&self) -> Result<(), LogError> {
        self.writer.lock().try_to(Writer::write_pending)
    }

    /// Comes back when everything is on the disk. True if something was not before.
    pub fn sync(&self) -> Result<bool, LogError> {
        let _alone = self.syncing.lock();
        let (files, last) = self.writer.lock().try_to(|writer| {
            writer.write_pending()?;
            Ok((writer.take_unsynced(), writer.next - 1))
        })?;
        for file in &files {
            if let Err(error) = self.disk.sync(file) {
                self.writer.lock().closed = true;
                return Err(LogError(format!("fdatasync of the journal: {error}")));
            }
        }
        self.writer.lock().synced = last;
        Ok(!files.is_empty())
    }

    /// Takes no more notes, and comes back when sled has brought to the disk what it has begun to.
    pub fn end(&self) -> Result<(), LogError> {
        let mut writer = self.writer.lock();
        writer.closed = true;
        writer.rest()
    }

    pub fn size_on_disk(&self) -> u64 {
        self.writer.lock().lengths.iter().sum()
    }
}

impl Writer {
    fn try_to<T>(&mut self, act: impl FnOnce(&mut Writer) -> Result<T, LogError>) -> Result<T, LogError> {
        if self.closed {
            return Err(LogError("the journal has ended".into()));
        }
        let outcome = act(self);
        self.closed = outcome.is_err();
        outcome
    }

    fn note(&mut self, changes: &Changes) -> Result<u64, LogError> {
        let number = self.next;
        let from = self.pending.len();
        self.pending.extend_from_slice(&[0; RECORD]);
        changes.pack(&mut self.pending);
        let record = &mut self.pending[from..];
        let length =
            u32::try_from(record.len() - RECORD).map_err(|_| LogError("4 GiB are too much for a group".into()))?;
        record[4..8].copy_from_slice(&length.to_be_bytes());
        record[8..16].copy_from_slice(&number.to_be_bytes());
        record[16..24].copy_from_slice(&self.synced.to_be_bytes());
        let crc = crc(self.life, &record[4..]);
        record[..4].copy_from_slice(&crc.to_be_bytes());
        self.next += 1;
        if self.pending.len() > PENDING {
            self.write_pending()?;
        }
        Ok(number)
    }

    fn take_unsynced(&mut self) -> Vec<Arc<File>> {
        let unsynced = std::mem::take(&mut self.unsynced);
        // The older one first.
        let order = [1 - self.current, self.current];
        order.into_iter().filter(|file| unsynced[*file]).map(|file| self.files[file].clone()).collect()
    }

    fn rest(&mut self) -> Result<(), LogError> {
        let Some(emptying) = self.emptying.take() else { return Ok(()) };
        emptying.join().unwrap_or_else(|_| Err(LogError("sled could not be flushed".into())))
    }

    fn write_pending(&mut self) -> Result<(), LogError> {
        if self.pending.is_empty() {
            return Ok(());
        }
        let length = self.pending.len() as u64;
        if self.position > HEADER && self.position + length > FULL {
            self.turn()?;
        }
        self.grow(self.position + length).map_err(unwritten)?;
        self.files[self.current].write_all_at(&self.pending, self.position).map_err(unwritten)?;
        self.position += length;
        self.unsynced[self.current] = true;
        self.pending.clear();
        self.pending.shrink_to(PENDING);
        Ok(())
    }

    /// Goes on in the other file, and has sled bring to the disk what this one has.
    fn turn(&mut self) -> Result<(), LogError> {
        self.rest()?;
        let pages = self.pages.clone();
        let empty = std::thread::Builder::new().name("store-pages".into()).spawn(move || pages.sync());
        self.emptying = Some(empty.map_err(unwritten)?);
        self.begin_file(1 - self.current).map_err(unwritten)
    }

    fn begin_file(&mut self, file: usize) -> io::Result<()> {
        self.current = file;
        self.position = HEADER;
        if self.lengths[file] > FULL {
            self.files[file].set_len(FULL)?;
            self.lengths[file] = FULL;
        }
        self.grow(HEADER)?;
        let mut header = [0; HEADER as usize];
        header[..8].copy_from_slice(MAGIC);
        header[8..16].copy_from_slice(&self.life.to_be_bytes());
        header[16..].copy_from_slice(&crc(self.life, &[]).to_be_bytes());
        self.files[file].write_all_at(&header, 0)
    }

    /// Makes room for so many bytes, written full of zeros: room that is only set aside is as slow as none.
    fn grow(&mut self, wanted: u64) -> io::Result<()> {
        static ZEROS: [u8; 64 << 10] = [0; 64 << 10];
        let length = &mut self.lengths[self.current];
        let wanted = wanted.next_multiple_of(STEP);
        while *length < wanted {
            let part = (wanted - *length).min(ZEROS.len() as u64);
            self.files[self.current].write_all_at(&ZEROS[..part as usize], *length)?;
            *length += part;
        }
        Ok(())
    }
}

/// After a proper end, when sled has everything.
pub(super) fn remove(store: &Path) -> io::Result<()> {
    FILES.iter().try_for_each(|name| std::fs::remove_file(store.join(name)))
}

pub(super) fn crc(life: u64, record: &[u8]) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    crc.update(&life.to_be_bytes());
    crc.update(record);
    crc.finalize()
}

fn unwritten(error: io::Error) -> LogError {
    LogError(format!("the journal cannot be written: {error}"))
}
