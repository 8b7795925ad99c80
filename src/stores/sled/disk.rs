//! What the store asks of the disk beside sled: that what was written is there, how much room is left, and the truth after an
//! error.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use rustix::fs::{Advice, fadvise, statvfs};

/// Something that can be synced and has an end. There is one of it; tests put another in its place, which fails when they say.
pub trait Disk: Send + Sync + 'static {
    /// Comes back when all that was written to the file is on the disk.
    fn sync(&self, file: &File) -> io::Result<()>;

    /// How many more bytes we may write to the disk that has this directory.
    fn room(&self, directory: &Path) -> io::Result<u64>;
}

/// The one below the file system.
pub struct RealDisk;

impl Disk for RealDisk {
    fn sync(&self, file: &File) -> io::Result<()> {
        file.sync_data()
    }

    fn room(&self, directory: &Path) -> io::Result<u64> {
        let there = statvfs(directory)?;
        Ok(there.f_bavail.saturating_mul(there.f_frsize))
    }
}

/// What opening the store writes at least, beside its picture of the pages.
const TRIAL: u64 = 4 << 20;

/// Writes as much as opening the store will need, and syncs it.
pub(super) fn try_out(disk: &dyn Disk, store: &Path) -> io::Result<()> {
    let pictures = fs::read_dir(store)?.filter_map(Result::ok).filter(|entry| is_picture(&entry.path()));
    let picture = pictures.filter_map(|entry| entry.metadata().ok()).map(|file| file.len()).max().unwrap_or(0);
    let trial = Trial::write(store.join("trial"), TRIAL + 2 * picture)?;
    disk.sync(&trial.file)
}

/// A file that goes when it is dropped.
struct Trial {
    path: PathBuf,
    file: File,
}

impl Trial {
    fn write(path: PathBuf, mut length: u64) -> io::Result<Trial> {
        let mut trial = Trial { file: File::create(&path)?, path };
        let chunk = [0xa5; 64 * 1024];
        while length > 0 {
            let part = length.min(chunk.len() as u64);
            trial.file.write_all(&chunk[..part as usize])?;
            length -= part;
        }
        Ok(trial)
    }
}

impl Drop for Trial {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

fn is_picture(path: &Path) -> bool {
    path.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.starts_with("snap."))
}

/// Makes sure that what is read next of the store's files is what the disk has. After a failed write-back Linux calls the
/// pages clean and goes on serving them: they look as if they had been saved.
pub(super) fn read_anew(disk: &dyn Disk, store: &Path) -> io::Result<()> {
    for directory in [store.to_owned(), store.join("blobs")] {
        for entry in fs::read_dir(&directory)? {
            let entry = entry?;
            if !entry.file_type()?.is_file() {
                continue;
            }
            let file = File::open(entry.path())?;
            // What is still dirty cannot be dropped, and must be there before it is read again.
            disk.sync(&file)?;
            fadvise(&file, 0, None, Advice::DontNeed)?;
        }
    }
    Ok(())
}
