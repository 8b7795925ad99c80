//! sled's own way to the disk: its log, and the files of its large pages.

use super::*;

pub(super) struct Pages {
    home: Arc<Home>,
    db: Db,
    /// sled's log, for `fdatasync`: its own `flush` ends in `sync_file_range`, which promises nothing after a power failure.
    file: File,
    /// When files of large pages were last made or removed, of those that are on disk. Rules may keep values that make some,
    /// and so did blocks before they lay in pieces.
    large: Mutex<Option<SystemTime>>,
    /// Those of them that are on disk.
    synced_large: Mutex<FxHashSet<OsString>>,
}

impl Pages {
    pub fn of(db: Db, home: Arc<Home>) -> io::Result<Pages> {
        let file = File::open(home.path.join("db"))?;
        Ok(Pages { home, db, file, large: Mutex::default(), synced_large: Mutex::default() })
    }

    /// Comes back when all that sled was given is on the disk.
    pub fn sync(&self) -> Result<(), LogError> {
        self.sync_large()?;
        self.db.flush().map_err(failed)?;
        self.home.disk.sync(&self.file).map_err(|error| LogError(format!("fdatasync: {error}")))
    }

    /// sled writes large pages to files of their own and does not sync them. They must be there before the log that names them:
    /// sled passes over a name without a file when it opens.
    pub fn sync_large(&self) -> Result<(), LogError> {
        self.sync_files().map_err(|error| LogError(format!("fsync of a large page: {error}")))
    }

    fn sync_files(&self) -> io::Result<()> {
        let blobs = self.home.path.join("blobs");
        let changed = std::fs::metadata(&blobs)?.modified()?;
        let mut seen = self.large.lock();
        if *seen == Some(changed) {
            return Ok(());
        }
        // What is made within the same tick as this does not show: it is looked for again until the tick is long over.
        *seen = changed.elapsed().is_ok_and(|since| since > TICK).then_some(changed);
        let mut synced = self.synced_large.lock();
        let mut present = FxHashSet::default();
        for entry in std::fs::read_dir(&blobs)? {
            let name = entry?.file_name();
            if !synced.contains(&name) {
                self.home.disk.sync(&File::open(blobs.join(&name))?)?;
            }
            present.insert(name);
        }
        *synced = present;
        File::open(&blobs)?.sync_all()
    }
}
