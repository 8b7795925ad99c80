//! What a server costs: its processor time and its memory, as the system counts them or as it says itself.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::Context;

/// Linux counts processor time in hundredths of a second, whatever the kernel itself ticks at.
const TICKS: f64 = 100.0;
const PATIENCE: Duration = Duration::from_secs(10);

pub enum Account {
    /// Processes of this machine, and their children.
    Processes(u32),
    /// A hub that was there already: it says so itself, on `/metrics`.
    Metrics { address: SocketAddr, key: String },
    /// Nobody knows.
    Closed,
}

impl Account {
    /// User and system time so far.
    pub fn cpu_seconds(&self) -> Option<f64> {
        match self {
            Account::Processes(first) => family(*first).into_iter().map(|pid| processor(pid).ok()).sum::<Option<f64>>(),
            Account::Metrics { address, key } => metric(*address, key, "process_cpu_seconds_total").ok(),
            Account::Closed => None,
        }
    }

    pub fn memory_kib(&self) -> Option<f64> {
        match self {
            Account::Processes(first) => {
                family(*first).into_iter().map(|pid| proportional(pid).ok()).sum::<Option<f64>>()
            }
            Account::Metrics { address, key } => {
                metric(*address, key, "process_resident_memory_bytes").ok().map(|bytes| bytes / 1024.0)
            }
            Account::Closed => None,
        }
    }

    /// What `memory_kib` counts.
    pub fn memory_is(&self) -> &'static str {
        match self {
            Account::Processes(_) => "PSS",
            Account::Metrics { .. } => "RSS",
            Account::Closed => "none",
        }
    }
}

fn family(first: u32) -> Vec<u32> {
    let children = std::fs::read_to_string(format!("/proc/{first}/task/{first}/children")).unwrap_or_default();
    std::iter::once(first).chain(children.split_whitespace().filter_map(|pid| pid.parse().ok())).collect()
}

fn processor(pid: u32) -> anyhow::Result<f64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The program's own name may have blanks and parentheses in it.
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or("").split_whitespace().collect();
    let field = |place: usize| fields.get(place).context("a short /proc/stat")?.parse::<f64>().context("no number");
    Ok((field(11)? + field(12)?) / TICKS)
}

/// Shared pages are shared out among those that have them.
fn proportional(pid: u32) -> anyhow::Result<f64> {
    let rollup = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
    let line = rollup.lines().find(|line| line.starts_with("Pss:")).context("no Pss")?;
    Ok(line.split_whitespace().nth(1).context("no number")?.parse()?)
}

fn metric(address: SocketAddr, key: &str, name: &str) -> anyhow::Result<f64> {
    let text = get(address, "/metrics", key)?;
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    Ok(line.context("the metric is not there")?.trim().parse()?)
}

/// What is at a path, head and all.
pub fn get(address: SocketAddr, path: &str, key: &str) -> anyhow::Result<String> {
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let request =
        format!("GET {path} HTTP/1.1\r\nHost: bench\r\nConnection: close\r\nAuthorization: Bearer {key}\r\n\r\n");
    stream.write_all(request.as_bytes())?;
    let mut answer = Vec::new();
    let read = stream.read_to_end(&mut answer);
    read.with_context(|| format!("{address} does not answer a GET of {path} to its end: is it a hub?"))?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(target_os = "linux")]
    fn this_process_takes_time_and_memory() {
        let account = Account::Processes(std::process::id());
        assert!(account.memory_kib().unwrap() > 1000.0);
        assert!((0.0..3600.0).contains(&account.cpu_seconds().unwrap()));
        assert!(Account::Closed.cpu_seconds().is_none());
    }
}
