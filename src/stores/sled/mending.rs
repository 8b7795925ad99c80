//! What becomes of the store when the disk fails, and how it comes back without a restart.
//!
//! A disk with too little room is noticed before anything is written, and all goes on when there is room again. After a write or
//! an fsync that failed nobody knows what is on the disk, sled takes nothing any more, and Linux may show as saved what is not:
//! then the store is closed and read anew from the disk, as after a crash. What was acknowledged is there; what was not may be
//! there or not; no number is given twice. Until that succeeds what is stored can be read.

use std::sync::Weak;
use std::sync::mpsc;

use super::*;

/// How long sled may take to let go, and readers to finish their page.
const PATIENCE: Duration = Duration::from_secs(5);
/// After a failed attempt: this long at first, then twice as long each time.
const FIRST_REST: Duration = Duration::from_secs(1);
const LONGEST_REST: Duration = Duration::from_secs(16);
/// A store that has worked for this long is as good as one that never failed.
const GOOD_HEALTH: Duration = Duration::from_secs(60);
/// How often it is looked whether somebody waits for sled in vain.
const WAKE: Duration = Duration::from_millis(250);
/// How old, and after how many bytes, what is known of the room on the disk becomes too old.
const ROOM_AGE: Duration = Duration::from_millis(100);
const ROOM_BYTES: u64 = 1 << 20;

/// Why nothing is taken in.
pub(super) enum Failure {
    /// Too little room. Nothing has been harmed.
    Full(String),
    /// Something was not written, or not synced.
    Broken(String),
    /// The same, and only a restart helps.
    Stuck(String),
}

impl Failure {
    pub fn why(&self) -> &str {
        let (Failure::Full(why) | Failure::Broken(why) | Failure::Stuck(why)) = self;
        why
    }
}

/// How far mending has come.
#[derive(Default)]
pub(super) struct Repair {
    attempts: u32,
    not_before: Option<Instant>,
    mended: Option<Instant>,
    /// The channels that were open, while the store is not: no more than there were.
    channels: Vec<(ChannelName, Known)>,
    /// Hears when the opening before has ended.
    closing: Option<mpsc::Receiver<()>>,
}

/// What is known of a channel that was open.
struct Known {
    retention: Retention,
    weak: bool,
    /// The newest number that somebody may have seen, of those that the disk has taken.
    seen: Offset,
}

/// What is known of the room on the disk.
#[derive(Default)]
pub(super) struct Room {
    asked: Option<Instant>,
    written: u64,
}

impl Store {
    pub fn inner(&self) -> Result<Arc<Inner>, LogError> {
        let current = self.current.read().clone();
        current.ok_or_else(|| LogError("the store could not be opened again yet".into()))
    }

    pub fn write<T>(&self, write: impl FnOnce(&Inner) -> Result<T, LogError>) -> Result<T, LogError> {
        if self.is_broken() {
            let why = self.failure.lock().as_ref().map(|failure| failure.why().to_owned()).unwrap_or_default();
            return Err(LogError(format!("the store takes nothing: {why}")));
        }
        let inner = self.inner()?;
        write(&inner).inspect_err(|LogError(why)| self.breaks(why))
    }

    pub fn is_broken(&self) -> bool {
        matches!(*self.failure.lock(), Some(Failure::Broken(_) | Failure::Stuck(_)))
    }

    fn breaks(&self, why: &str) {
        let place = self.home.path.display();
        let advice = format!("{why}: mend what is wrong with the disk of {place}; the hub tries again by itself");
        let mut failure = self.failure.lock();
        // What others meet who were writing meanwhile is not the cause.
        if !matches!(*failure, Some(Failure::Broken(_) | Failure::Stuck(_))) {
            tracing::error!("the store takes nothing any more: {advice}");
            *failure = Some(Failure::Broken(advice));
        }
    }

    /// An error if so many bytes more would leave too little room on the disk.
    pub fn find_room(&self, bytes: u64) -> Result<(), LogError> {
        let spare = self.home.spare.load(Ordering::Relaxed);
        if spare == 0 {
            return Ok(());
        }
        let mut room = self.room.lock();
        room.written += bytes;
        let was_full = matches!(*self.failure.lock(), Some(Failure::Full(_)));
        let is_known = room.asked.is_some_and(|asked| asked.elapsed() < ROOM_AGE) && room.written < ROOM_BYTES;
        if is_known && !was_full {
            return Ok(());
        }
        (room.asked, room.written) = (Some(Instant::now()), bytes);
        // A disk that does not say how much room it has will say so when it has none.
        let Ok(left) = self.home.disk.room(&self.home.path) else { return Ok(()) };
        let mut failure = self.failure.lock();
        if left >= spare.saturating_add(2 * bytes) {
            if was_full {
                tracing::warn!("there is room on the disk again, and the store takes messages");
                failure.take_if(|failure| matches!(failure, Failure::Full(_)));
            }
            return Ok(());
        }
        let why = format!(
            "the disk of {} has {} MiB left, and store.min_free is {} MiB: make room there, and publishing goes on by itself",
            self.home.path.display(),
            left >> 20,
            spare >> 20
        );
        if failure.is_none() {
            tracing::error!("the store takes no messages: {why}");
        }
        failure.get_or_insert(Failure::Full(why.clone()));
        Err(LogError(why))
    }

    /// True if the store was opened again, so that channels may reach less far, or further, than they were believed to.
    pub fn mend(&self) -> bool {
        if !self.is_broken() {
            let _ = self.find_room(0);
            return false;
        }
        let mut repair = self.repair.lock();
        let now = Instant::now();
        if matches!(*self.failure.lock(), Some(Failure::Stuck(_))) || repair.not_before.is_some_and(|at| now < at) {
            return false;
        }
        if repair.mended.is_some_and(|at| at.elapsed() > GOOD_HEALTH) {
            repair.attempts = 0;
        }
        repair.mended = None;
        let rest = FIRST_REST.saturating_mul(1 << repair.attempts.min(8)).min(LONGEST_REST);
        repair.attempts += 1;
        let outcome = self.open_again(&mut repair);
        repair.not_before = Some(Instant::now() + rest);
        match outcome {
            Ok(()) => {
                repair.mended = Some(Instant::now());
                *self.failure.lock() = None;
                tracing::warn!("the store has been opened again and takes messages");
                true
            }
            Err(failure) => {
                tracing::warn!(again_in = ?rest, "the store cannot be opened again yet: {}", failure.why());
                *self.failure.lock() = Some(failure);
                false
            }
        }
    }

    fn open_again(&self, repair: &mut Repair) -> Result<(), Failure> {
        let place = self.home.path.display();
        let not_yet = |why: String| {
            Failure::Broken(format!(
                "{why}: mend what is wrong with the disk of {place}; the hub tries again by itself"
            ))
        };
        let disk = &*self.home.disk;
        disk::try_out(disk, &self.home.path).map_err(|error| not_yet(format!("nothing can be written ({error})")))?;
        let before = self.current.read().clone();
        if let Some(before) = before {
            let resting = before.clone();
            let rest = move || drop(resting.journal.end());
            if !comes_back("store-rest", rest) {
                return Err(not_yet("sled is still writing what it was given".into()));
            }
            if !lets_go(&before) {
                return Err(Failure::Stuck(format!(
                    "sled waits for a write that has failed, and will for ever: mend what is wrong with the disk of {place} and start the hub again"
                )));
            }
            drop(before);
        }
        let mut current = self.current.write();
        if let Some(before) = current.take() {
            let seen = |open: &Open| before.seen(open);
            repair.channels = before
                .open
                .iter()
                .map(|entry| {
                    let open = entry.value().lock();
                    (entry.key().clone(), Known { retention: open.retention, weak: open.weak, seen: seen(&open) })
                })
                .collect();
            repair.closing = Some(end(before));
        }
        if let Some(closing) = repair.closing.take()
            && let Err(mpsc::RecvTimeoutError::Timeout) = closing.recv_timeout(PATIENCE)
        {
            repair.closing = Some(closing);
            return Err(not_yet("what was open before has not ended".into()));
        }
        disk::read_anew(disk, &self.home.path).map_err(|error| not_yet(format!("it cannot be synced ({error})")))?;
        let inner = Inner::open_patiently(&self.home).map_err(|error| not_yet(error.to_string()))?;
        for (name, known) in &repair.channels {
            inner.open_as_it_was(name, known).map_err(|error| not_yet(error.0))?;
        }
        repair.channels.clear();
        *current = Some(Arc::new(inner));
        Ok(())
    }

    /// A channel leaves memory while nothing can be written: as if it had been in use when the hub was killed.
    pub fn leave_open(&self, channel: &ChannelName) {
        if let Ok(inner) = self.inner() {
            inner.open.remove(channel);
        }
        if let Some(mut repair) = self.repair.try_lock() {
            repair.channels.retain(|(name, _)| name != channel);
        }
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        let broken = self.is_broken();
        let inner = self.current.get_mut().take();
        // sled would write and wait when it is dropped, except where it knows that writing fails.
        if broken && inner.as_ref().is_some_and(|inner| inner.db.context.global_error().is_ok()) {
            std::mem::forget(inner);
        }
    }
}

impl Inner {
    fn seen(&self, open: &Open) -> Offset {
        if open.group <= self.safe_groups.load(Ordering::Relaxed) { open.last } else { open.before }
    }

    /// Opens a channel for those who use it already, at what the disk has of it and not below what somebody has seen.
    fn open_as_it_was(&self, name: &ChannelName, known: &Known) -> Result<(), LogError> {
        let first = self.home.first.load(Ordering::Relaxed);
        let mut open = Open::new(first, known.retention, known.weak);
        if let Some(stored) = self.trees.heads.get(name.as_str()).map_err(failed)? {
            self.recover(name, &mut open, Head::from_bytes(&stored)?, known.seen)?;
        } else if known.seen > open.last {
            return Err(LogError(format!("the disk has lost all of {name}")));
        }
        self.open.insert(name.clone(), Arc::new(Mutex::new(open)));
        Ok(())
    }
}

/// Whether sled's flush comes back: it never does if a writer has got lost.
fn lets_go(inner: &Arc<Inner>) -> bool {
    let inner = inner.clone();
    let flush = move || {
        let _ = inner.db.flush();
    };
    comes_back("store-flush", flush)
}

fn comes_back(name: &str, what: impl FnOnce() + Send + 'static) -> bool {
    begin(name, what).recv_timeout(PATIENCE) != Err(mpsc::RecvTimeoutError::Timeout)
}

/// Does something in a thread of its own; whoever holds the receiver hears that it has ended, because the other side is gone.
fn begin(name: &str, what: impl FnOnce() + Send + 'static) -> mpsc::Receiver<()> {
    let (ended, hears) = mpsc::sync_channel(1);
    let work = move || {
        let _ended = ended;
        what();
    };
    if let Err(error) = std::thread::Builder::new().name(name.into()).spawn(work) {
        tracing::error!(%error, "no thread for {name}");
    }
    hears
}

/// Closes what was open, once its readers have left.
fn end(inner: Arc<Inner>) -> mpsc::Receiver<()> {
    begin("store-close", move || {
        while Arc::strong_count(&inner) > 1 {
            std::thread::sleep(Duration::from_millis(5));
        }
        // sled meets an fsync that fails at its end with a panic.
        let _ = opening::quietly(|| drop(inner));
    })
}

/// Whoever waits in sled when its writing thread fails is not always told. A flush that fails tells everybody.
pub(super) fn wake_the_stuck(store: &Arc<Store>) -> io::Result<()> {
    let store: Weak<Store> = Arc::downgrade(store);
    let look = move || {
        loop {
            std::thread::sleep(WAKE);
            let Some(store) = store.upgrade() else { return };
            let inner = store.current.try_read().and_then(|current| current.clone());
            if let Some(inner) = inner.filter(|inner| inner.db.context.global_error().is_err()) {
                let _ = inner.db.flush();
            }
        }
    };
    std::thread::Builder::new().name("store-watch".into()).spawn(look).map(drop)
}
