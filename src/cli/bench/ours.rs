//! Processes and directories that are ours while we measure. A signal ends us without `Drop`; nothing of them stays.

use std::future::poll_fn;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::task::Poll;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rustix::process::{Pid, Signal, kill_process};
use tokio::signal::unix::{SignalKind, signal};

/// How long a process that was killed may still be in its directory.
const DYING: Duration = Duration::from_secs(5);

static PROCESSES: Mutex<Vec<Pid>> = Mutex::new(Vec::new());
static DIRECTORIES: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());

/// Begins a process that ends with us.
pub fn spawn(command: &mut Command) -> std::io::Result<Child> {
    // Ctrl-C is for us: a hub that ends by itself while we still ask it would only confuse.
    command.process_group(0);
    // Held meanwhile: a signal finds it in the list, or it has not begun.
    let mut processes = PROCESSES.lock();
    let child = command.spawn()?;
    processes.push(Pid::from_child(&child));
    Ok(child)
}

/// Ends one that we have begun.
pub fn kill(child: &mut Child) {
    let _ = child.kill();
    forget(child);
}

/// Waits for one that ends by itself.
pub fn forget(child: &mut Child) {
    let _ = child.wait();
    let ended = Pid::from_child(child);
    PROCESSES.lock().retain(|ours| *ours != ended);
}

pub fn make_dir(dir: &Path) -> std::io::Result<()> {
    DIRECTORIES.lock().push(dir.to_owned());
    std::fs::create_dir_all(dir)
}

pub fn remove_dir(dir: &Path) {
    let _ = std::fs::remove_dir_all(dir);
    DIRECTORIES.lock().retain(|ours| ours != dir);
}

/// From now on a signal ends us, and what is ours.
pub fn end_with_signals() -> std::io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    let kinds = [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup(), SignalKind::quit()];
    let mut signals = {
        let _context = runtime.enter();
        kinds.map(signal).into_iter().collect::<std::io::Result<Vec<_>>>()?
    };
    std::thread::Builder::new().name("signals".into()).spawn(move || {
        let kind = runtime.block_on(poll_fn(|cx| {
            let came = signals.iter_mut().position(|signal| signal.poll_recv(cx).is_ready());
            came.map_or(Poll::Pending, |at| Poll::Ready(kinds[at]))
        }));
        end(128 + kind.as_raw_value())
    })?;
    Ok(())
}

fn end(code: i32) -> ! {
    // Held to the end: nothing begins any more.
    let (processes, directories) = (PROCESSES.lock(), DIRECTORIES.lock());
    for process in &*processes {
        let _ = kill_process(*process, Signal::KILL);
    }
    let until = Instant::now() + DYING;
    for dir in &*directories {
        while std::fs::remove_dir_all(dir).is_err() && dir.exists() && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(10));
        }
    }
    std::process::exit(code)
}
