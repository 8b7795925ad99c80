//! One line on standard error that is written anew while something takes long; nothing where no person looks.

use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

const EVERY: Duration = Duration::from_millis(100);

pub struct Progress {
    shown: bool,
    last: Mutex<Option<Instant>>,
}

impl Progress {
    /// On a terminal.
    pub fn new() -> Progress {
        Progress { shown: std::io::stderr().is_terminal(), last: Mutex::new(None) }
    }

    /// Nothing is said.
    pub fn silent() -> Progress {
        Progress { shown: false, last: Mutex::new(None) }
    }

    /// Shows how far things are, ten times a second at most.
    pub fn say(&self, text: impl FnOnce() -> String) {
        if !self.shown {
            return;
        }
        let mut last = self.last.lock();
        if last.is_none_or(|last| last.elapsed() >= EVERY) {
            *last = Some(Instant::now());
            let _ = write!(std::io::stderr(), "\r\x1b[K{}", text());
        }
    }

    /// Sleeps and says how far things are meanwhile.
    pub fn wait(&self, time: Duration, done: impl Fn() -> bool, text: impl Fn(Duration) -> String) {
        let began = Instant::now();
        while began.elapsed() < time && !done() {
            self.say(|| text(began.elapsed()));
            std::thread::sleep(Duration::from_millis(20).min(time.saturating_sub(began.elapsed())));
        }
    }

    pub fn clear(&self) {
        if self.shown && self.last.lock().take().is_some() {
            let _ = write!(std::io::stderr(), "\r\x1b[K");
        }
    }
}

impl Default for Progress {
    fn default() -> Progress {
        Progress::new()
    }
}
