//! What the system says of this process, under the names that Prometheus' own clients give it; nothing where there is no `/proc`.

use std::fs;

/// Linux counts processor time in hundredths of a second, whatever the kernel itself ticks at.
const TICKS: f64 = 100.0;

/// Name, kind, help and value.
pub type Figure = (&'static str, &'static str, &'static str, f64);

pub fn figures() -> Vec<Figure> {
    let read = |name: &str| fs::read_to_string(format!("/proc/{name}")).unwrap_or_default();
    let (stat, status, limits, system) = (read("self/stat"), read("self/status"), read("self/limits"), read("stat"));
    // The program's own name stands in the second field, and may have blanks and parentheses in it.
    let fields: Vec<f64> = stat.rsplit_once(')').map_or("", |(_, rest)| rest).split(' ').map(number).collect();
    // Counted as proc(5) does: what follows the name is the third.
    let field = |place: usize| fields.get(place - 2).copied();
    let kib = |name| line(&status, name).map(|kib| kib * 1024.0);
    let found = [
        (
            "process_cpu_seconds_total",
            "counter",
            "Processor time, of the system for it too",
            field(14).zip(field(15)).map(|(user, system)| (user + system) / TICKS),
        ),
        (
            "process_start_time_seconds",
            "gauge",
            "When it started, since 1970",
            line(&system, "btime").zip(field(22)).map(|(boot, ticks)| boot + ticks / TICKS),
        ),
        ("process_resident_memory_bytes", "gauge", "Memory that it has", kib("VmRSS:")),
        ("process_virtual_memory_bytes", "gauge", "Addresses that it has", kib("VmSize:")),
        (
            "process_open_fds",
            "gauge",
            "Open files and sockets",
            fs::read_dir("/proc/self/fd").ok().map(|open| open.count() as f64),
        ),
        ("process_max_fds", "gauge", "How many it may have open", line(&limits, "Max open files")),
    ];
    found.into_iter().filter_map(|(name, kind, help, value)| Some((name, kind, help, value?))).collect()
}

/// Memory that this process has, in bytes.
pub fn resident() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    line(&status, "VmRSS:").map(|kib| kib as u64 * 1024)
}

fn number(word: &str) -> f64 {
    word.parse().unwrap_or(f64::NAN)
}

/// The first number after a name at the beginning of a line.
fn line(text: &str, name: &str) -> Option<f64> {
    let rest = text.lines().find_map(|line| line.strip_prefix(name))?;
    rest.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(target_os = "linux")]
    fn all_figures_are_there_and_make_sense() {
        let now = std::time::UNIX_EPOCH.elapsed().unwrap().as_secs_f64();
        let value = |wanted| figures().into_iter().find(|(name, ..)| *name == wanted).unwrap().3;
        assert_eq!(figures().len(), 6);
        let started = value("process_start_time_seconds");
        assert!(started <= now + 1.0 && started > now - 3600.0, "{started} at {now}");
        assert!(value("process_virtual_memory_bytes") > value("process_resident_memory_bytes"));
        assert!(value("process_resident_memory_bytes") > 1e6);
        assert!(value("process_open_fds") >= 3.0 && value("process_max_fds") > value("process_open_fds"));
        let spent = value("process_cpu_seconds_total");
        assert!((0.0..3600.0).contains(&spent));
    }
}
