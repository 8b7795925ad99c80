//! Opening the store: at the start, and again after a fault.

use super::replay::Unread;
use super::*;

/// What a store is opened with, each time.
pub(super) struct Home {
    pub path: PathBuf,
    pub cache: u64,
    pub flush_interval: Duration,
    pub window: Duration,
    pub disk: Arc<dyn Disk>,
    /// What the first message of a channel is called.
    pub first: AtomicU64,
    /// Room on the disk that publishes leave alone.
    pub spare: AtomicU64,
    pub syncs: AtomicU64,
}

#[derive(Debug)]
pub enum OpenError {
    /// Another process has it.
    Locked(PathBuf),
    Damaged(PathBuf, String),
    /// Written by something else, or by a later version.
    Foreign(PathBuf),
    Io(PathBuf, io::Error),
}

impl std::fmt::Display for OpenError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            OpenError::Locked(path) => {
                write!(
                    f,
                    "the store in {} is in use: is another aether running on it? Stop it, or give this one another --data",
                    path.display()
                )
            }
            OpenError::Damaged(path, what) => {
                write!(
                    f,
                    "the store in {} is damaged ({what}): restore a backup, or move the directory away to begin a new one (subscribers will be told by a new epoch)",
                    path.display()
                )
            }
            OpenError::Foreign(path) => {
                write!(
                    f,
                    "the store in {} was not written by this version of aether: give another --data, or use the version that wrote it",
                    path.display()
                )
            }
            OpenError::Io(path, error) => write!(f, "the store in {} cannot be opened: {error}", path.display()),
        }
    }
}

impl std::error::Error for OpenError {}

/// sled meets some kinds of damage with a panic; what it says there helps nobody, and what other threads say meanwhile does.
pub(super) fn quietly<R>(open: impl FnOnce() -> R) -> std::thread::Result<R> {
    thread_local! {
        static QUIET: Cell<bool> = const { Cell::new(false) };
    }
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let hook = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            if !QUIET.get() {
                hook(panic);
            }
        }));
    });
    QUIET.set(true);
    let opened = std::panic::catch_unwind(AssertUnwindSafe(open));
    QUIET.set(false);
    opened
}

impl Inner {
    /// The one before may be on its way out.
    pub(super) fn open_patiently(home: &Arc<Home>) -> Result<Inner, OpenError> {
        let began = Instant::now();
        loop {
            match Inner::open(home) {
                Err(OpenError::Locked(_)) if began.elapsed() < LOCK_PATIENCE => {
                    std::thread::sleep(Duration::from_millis(20));
                }
                outcome => return outcome,
            }
        }
    }

    fn open(home: &Arc<Home>) -> Result<Inner, OpenError> {
        let path = &home.path;
        let at = || path.to_path_buf();
        let damaged = |error: sled::Error| match error {
            sled::Error::Io(error) => OpenError::Io(at(), error),
            other => OpenError::Damaged(at(), other.to_string()),
        };
        std::fs::create_dir_all(path).map_err(|error| OpenError::Io(at(), error))?;
        let config = sled::Config::new()
            .path(path)
            .cache_capacity(home.cache)
            // The flusher thread also collects garbage, so it must stay on.
            .flush_every_ms(Some(home.flush_interval.as_millis().max(1) as u64));
        let opened = quietly(|| config.open());
        let db = match opened {
            Ok(Ok(db)) => db,
            Ok(Err(sled::Error::Io(error))) if error.to_string().contains("acquire lock") => {
                return Err(OpenError::Locked(at()));
            }
            Ok(Err(error)) => return Err(damaged(error)),
            Err(_) => return Err(OpenError::Damaged(at(), "it cannot be read".into())),
        };
        let tree = |name: &str| db.open_tree(name).map_err(damaged);
        let meta = tree("meta")?;
        let word = |name: &str| Ok::<_, OpenError>(meta.get(name).map_err(damaged)?.map(|word| be(&word)));
        let life = Life::read(path).map_err(|error| match error.kind() {
            io::ErrorKind::InvalidData => OpenError::Damaged(at(), error.to_string()),
            _ => OpenError::Io(at(), error),
        })?;
        let format = meta.get("format").map_err(damaged)?;
        if format.as_ref().is_some_and(|format| format != FORMAT && format != FORMAT_BEFORE) {
            return Err(OpenError::Foreign(at()));
        }
        let had_none = format.as_ref().is_some_and(|format| format == FORMAT_BEFORE);
        let was_running = life.is_some_and(|life| life.ended.is_none());
        let by_the_disk = |error| OpenError::Io(at(), error);
        if was_running && !had_none && !replay::is_there(path).map_err(by_the_disk)? {
            return Err(OpenError::Damaged(at(), "its journal is missing".into()));
        }
        let epoch = match (life, format.and(word("epoch")?)) {
            (Some(life), known) if known != Some(life.epoch.0) => {
                return Err(OpenError::Damaged(at(), "its contents are lost".into()));
            }
            (Some(life), _) if life.ended.is_some() && word("ended")? != life.ended => {
                return Err(OpenError::Damaged(at(), "its newest part is lost".into()));
            }
            (_, Some(epoch)) => Epoch(epoch),
            (_, None) if db.was_recovered() && db.tree_names().len() > 2 => return Err(OpenError::Foreign(at())),
            (_, None) => {
                let epoch = new_epoch();
                meta.insert("epoch", &epoch.0.to_be_bytes()).map_err(damaged)?;
                meta.insert("format", FORMAT).map_err(damaged)?;
                epoch
            }
        };
        let trees = Trees {
            heads: tree("heads")?,
            messages: tree("messages")?,
            keys: tree("keys")?,
            key_ages: tree("key_ages")?,
            kv: tree("kv")?,
            meta: meta.clone(),
        };
        let failed = |LogError(why)| OpenError::Io(at(), io::Error::other(why));
        let noted = word(NOTED)?.unwrap_or(0);
        let last =
            replay::replay(path, noted, |changes| changes.one_by_one(&trees)).map_err(|unread| match unread {
                Unread::Io(error) => by_the_disk(error),
                Unread::Damaged(what) => OpenError::Damaged(at(), what.into()),
                Unread::Store(error) => failed(error),
            })?;
        if last > noted {
            tracing::info!(groups = last - noted, "what the store's journal had beyond it was done again");
            trees.has_come_to(last).map_err(failed)?;
        }
        // sled writes down how far it has numbered channels with the first number of a life, and would give those that it has
        // not brought to the disk again: the journal has the channels, and not that.
        db.generate_id().map_err(damaged)?;
        let pages = Arc::new(Pages::of(db.clone(), home.clone()).map_err(by_the_disk)?);
        pages.sync().map_err(failed)?;
        let journal = Journal::begin(home, pages.clone(), last).map_err(by_the_disk)?;
        if had_none {
            trees.meta.insert("format", FORMAT).map_err(damaged)?;
            pages.sync().map_err(failed)?;
        }
        Life { epoch, ended: None }.write(path).map_err(by_the_disk)?;
        Ok(Inner {
            home: home.clone(),
            db,
            trees,
            journal,
            pages,
            epoch,
            window: home.window.as_micros() as Micros,
            open: DashMap::new(),
            groups: AtomicU64::new(0),
            safe_groups: AtomicU64::new(0),
            sweep_from: Mutex::new(None),
        })
    }
}
