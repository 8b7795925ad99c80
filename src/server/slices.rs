//! Threads whose work is short, and that others wait for, run sooner after they wake: the lanes and the front.
//!
//! Since Linux 6.12 a thread may ask the scheduler for slices of its own length, without a privilege and for no larger share
//! of a core: who asks for short ones has its turn sooner and is relieved sooner. On 2 cores, beside 10,000 clients that came
//! back at once, the 99th percentile of a live neighbour was 3.9 ms with it (median of six) and 6.4 without. Where a kernel
//! does not know it, nothing changes.

/// What Linux gives at least. Its own default is a few milliseconds.
#[cfg(target_os = "linux")]
const SLICE: u64 = 100_000;

/// For the thread that calls it.
#[cfg(target_os = "linux")]
pub fn short() {
    let mut wanted = libc::sched_attr {
        size: size_of::<libc::sched_attr>() as u32,
        sched_policy: 0,
        sched_flags: 0,
        sched_nice: 0,
        sched_priority: 0,
        sched_runtime: 0,
        sched_deadline: 0,
        sched_period: 0,
    };
    let (this_thread, no_flags) = (0, 0);
    // SAFETY: the kernel writes at most `size` bytes to `wanted`, which lives through the call and may hold any bits.
    let read = unsafe {
        libc::syscall(libc::SYS_sched_getattr, this_thread, &raw mut wanted, size_of::<libc::sched_attr>(), no_flags)
    };
    // Whoever runs us at another policy knows why; our niceness stays as it is.
    if read != 0 || wanted.sched_policy != libc::SCHED_OTHER as u32 {
        return;
    }
    wanted.sched_runtime = SLICE;
    // SAFETY: the kernel reads `size` bytes of `wanted`, which lives through the call.
    let refused = unsafe { libc::syscall(libc::SYS_sched_setattr, this_thread, &raw const wanted, no_flags) } != 0;
    if refused {
        tracing::debug!(error = %std::io::Error::last_os_error(), "no short slices for this thread");
    }
}

#[cfg(not(target_os = "linux"))]
pub fn short() {}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn a_thread_has_the_slice_that_it_asked_for_where_the_kernel_knows_it() {
        let sched = || std::fs::read_to_string("/proc/thread-self/sched").unwrap_or_default();
        let slice = |text: &str| {
            let line = text.lines().find(|line| line.starts_with("se.slice"))?;
            line.rsplit(':').next()?.trim().parse::<u64>().ok()
        };
        let (before, nice) = (slice(&sched()), rustix::process::getpriority_process(None).ok());
        short();
        match (before, slice(&sched())) {
            (Some(before), Some(after)) => assert!(after == SLICE || after == before, "{before} became {after}"),
            _ => eprintln!("skipped: this kernel does not tell the slices of its threads"),
        }
        assert_eq!(rustix::process::getpriority_process(None).ok(), nice);
    }
}
