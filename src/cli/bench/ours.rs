//! Processes and directories that are ours while we measure. A signal ends us without `Drop`; nothing of them stays.

use std::future::poll_fn;
use std::path::{Path, PathBuf};
use std::task::Poll;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rustix::process::{Pid, Signal, kill_process};
use tokio::signal::unix::{SignalKind, signal};

/// How long a process that was killed may still be in its directory.
const DYING: Duration = Duration::from_secs(5);

static PROCESSES: Mutex<Vec<Pid>> = Mutex::new(Vec::new());
static DIRECTORIES: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());

pub fn has_begun(process: Pid) {
    PROCESSES.lock().push(process);
}

pub fn has_ended(process: Pid) {
    PROCESSES.lock().retain(|ours| *ours != process);
}

pub fn is_used(dir: &Path) {
    DIRECTORIES.lock().push(dir.to_owned());
}

pub fn remove(dir: &Path) {
    let _ = std::fs::remove_dir_all(dir);
    DIRECTORIES.lock().retain(|ours| ours != dir);
}

/// From now on a signal ends us, and what is ours.
pub fn end_with_signals() -> std::io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    let kinds = [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()];
    let mut signals = {
        let _context = runtime.enter();
        kinds.map(signal).into_iter().collect::<std::io::Result<Vec<_>>>()?
    };
    std::thread::Builder::new().name("signals".into()).spawn(move || {
        let kind = runtime.block_on(poll_fn(|cx| {
            let came = signals.iter_mut().position(|signal| signal.poll_recv(cx).is_ready());
            came.map_or(Poll::Pending, |at| Poll::Ready(kinds[at]))
        }));
        end();
        std::process::exit(128 + kind.as_raw_value());
    })?;
    Ok(())
}

fn end() {
    for process in PROCESSES.lock().drain(..) {
        let _ = kill_process(process, Signal::KILL);
    }
    let until = Instant::now() + DYING;
    for dir in DIRECTORIES.lock().drain(..) {
        while std::fs::remove_dir_all(&dir).is_err() && dir.exists() && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}
