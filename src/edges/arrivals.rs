//! How many listeners arrive at once: a storm of them comes in a few at a time, and whoever is inside keeps its turn.
//!
//! What an arrival costs (its handshake, the word of the rules, what it missed) is spent on the threads that serve those who
//! are there already. If ten thousand were ready at once, a live reader would wait for each of them, publication after
//! publication. So only a few may be, and the others wait in a line that takes no processor time.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Enough to keep the threads at work; each of them is a task that a live reader may find before itself.
const AT_ONCE: usize = 8;
/// Who has no answer by then waits for something else, say a rule that asks another server or a head that does not come, and
/// takes no processor time either: the next one goes. So nobody holds up the line, whatever it sends.
const PATIENCE: Duration = Duration::from_millis(5);

#[derive(Clone)]
pub struct Arrivals(Arc<Semaphore>);

impl Default for Arrivals {
    fn default() -> Arrivals {
        Arrivals(Arc::new(Semaphore::new(AT_ONCE)))
    }
}

impl Arrivals {
    /// Waits in line.
    pub async fn turn(&self) -> Turn {
        Turn(Mutex::new(self.0.clone().acquire_owned().await.ok()))
    }
}

/// One arrival, until it is over or dropped.
pub struct Turn(Mutex<Option<OwnedSemaphorePermit>>);

impl Turn {
    pub fn over(&self) {
        *self.0.lock() = None;
    }

    /// Ready when it has taken too long; then it is over too.
    pub async fn runs_out(&self) {
        tokio::time::sleep(PATIENCE).await;
        self.over();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_line_goes_on_when_one_is_answered_gone_or_slow() {
        let arrivals = Arrivals::default();
        let mut inside = Vec::new();
        for _ in 0..AT_ONCE {
            inside.push(arrivals.turn().await);
        }
        let is_full = async || tokio::time::timeout(Duration::from_millis(1), arrivals.turn()).await.is_err();
        assert!(is_full().await, "one more than there may be");
        inside[0].over();
        assert!(!is_full().await);
        inside[0] = arrivals.turn().await;
        inside.pop();
        assert!(!is_full().await);
        inside.push(arrivals.turn().await);
        inside[1].runs_out().await;
        assert!(!is_full().await);
    }
}
