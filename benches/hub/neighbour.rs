//! What a plugin gone mad on its own channels costs the others: a neighbour's latency beside it, as a ratio of its quiet one.
//!
//! Four publishers keep the hostile channel busy, 200 a second each. What that much traffic costs by itself is measured
//! with a hook that just says no. `cargo bench --bench hub -- neighbour view` measures only the rows with that in their name.

use std::io::{ErrorKind, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::process::{HubProcess, Publisher};
use super::{Counter, Outcome, Transport};

/// Each burns its time or memory on `bad.*`; what one does is undone with its hub.
const HOOKS: [(&str, &str, &str); 8] = [
    ("says no (harmless)", PUBLISH, "return aether.deny('no')"),
    ("a view that is quick, with a reader", "aether.on.view('bad.*', 'slow', function(ch, msg)", "return msg"),
    ("never ends", PUBLISH, "while true do end"),
    ("never ends, within pcall", PUBLISH, "while true do pcall(function() while true do end end) end"),
    ("hoards memory", PUBLISH, "local t = {} while true do t[#t + 1] = string.rep('x', 1024) .. #t end"),
    ("takes 4 ms and says yes", PUBLISH, "local till = os.clock() + 0.004 while os.clock() < till do end return true"),
    ("a transform of 4 ms", "aether.on.transform('bad.*', function(ch, msg)", SPIN),
    ("a view of 4 ms, with a reader", "aether.on.view('bad.*', 'slow', function(ch, msg)", SPIN),
];
const PUBLISH: &str = "aether.on.publish('bad.*', function(s, ch, msg)";
const SPIN: &str = "local till = os.clock() + 0.004 while os.clock() < till do end return msg";
/// Lets the hostile publishers and their reader in, where the hook at hand has no say in that.
const OTHERS: &str = "
aether.on.publish('bad.*', function() return nil end)
aether.on.subscribe('bad.*', function() return aether.allow({ view = 'slow' }) end)
";
const RUN: Duration = Duration::from_secs(8);
/// The neighbour's own pace.
const PAUSE: Duration = Duration::from_millis(5);
const HOSTS: usize = 4;
const HOSTILE_PAUSE: Duration = Duration::from_millis(5);

pub fn neighbour() -> Outcome {
    println!(
        "\na neighbour's 200 messages/s to one WebSocket, beside {HOSTS} x 200 publishes/s that a hook is asked about"
    );
    println!("| the hook | p50 ms | p99 ms | p50, p99 of the answer ms | p99 : quiet | hostile publishes/s |");
    println!("|---|---|---|---|---|---|");
    let wanted: Vec<String> =
        std::env::args().skip(1).filter(|arg| HOOKS.iter().any(|(name, ..)| name.contains(&**arg))).collect();
    for (name, hook, body) in HOOKS {
        if !wanted.is_empty() && !wanted.iter().any(|part| name.contains(&**part)) {
            continue;
        }
        let rules = std::env::temp_dir().join(format!("aether-bench-rules-{}", std::process::id()));
        std::fs::create_dir_all(&rules)?;
        std::fs::write(
            rules.join("rules.lua"),
            format!("{hook}\n{body}\nend)\n{}", if hook == PUBLISH { "" } else { OTHERS }),
        )?;
        let scripts = rules.display().to_string();
        // The disk's own outliers would hide the hook's.
        let hub = HubProcess::start_with(&[
            ("AETHER_PLUGINS_SCRIPTS", scripts.as_str()),
            ("AETHER_RETENTION_DEFAULT_ACK", "memory"),
        ])?;
        if name.contains("reader") {
            let mut reader = Transport::Ws.connect_to(&hub, "bad.one")?;
            // Ends with the hub.
            std::thread::spawn(move || std::io::copy(&mut reader, &mut std::io::sink()));
        }
        run(&hub, 0, Duration::from_secs(1))?;
        let quiet = run(&hub, 0, RUN)?;
        let beside = run(&hub, HOSTS, RUN)?;
        let ratio = beside.delivered.1 / quiet.delivered.1;
        println!("| nothing | {}", quiet.row(1.0));
        println!("| {name} | {}", beside.row(ratio));
        std::fs::remove_dir_all(&rules)?;
    }
    Ok(())
}

struct Measured {
    delivered: (f64, f64),
    answered: (f64, f64),
    hostile: f64,
}

impl Measured {
    fn row(&self, ratio: f64) -> String {
        let Measured { delivered, answered, hostile } = self;
        let (p50, p99) = delivered;
        format!("{p50:.2} | {p99:.2} | {:.2}, {:.2} | {ratio:.1} | {hostile:.0} |", answered.0, answered.1)
    }
}

fn percentiles(mut micros: Vec<u32>) -> (f64, f64) {
    micros.sort_unstable();
    let at = |share: f64| f64::from(micros[((micros.len() - 1) as f64 * share) as usize]) / 1000.0;
    (at(0.5), at(0.99))
}

fn run(hub: &HubProcess, hosts: usize, time: Duration) -> Outcome<Measured> {
    let stop = Arc::new(AtomicBool::new(false));
    let asked = Arc::new(AtomicU64::new(0));
    let mut hostile = Vec::new();
    for _ in 0..hosts {
        let (mut publisher, stop, asked) = (Publisher::connect(hub)?, stop.clone(), asked.clone());
        hostile.push(std::thread::spawn(move || {
            while !stop.load(Ordering::Relaxed) && publisher.ask("bad.one").is_ok() {
                asked.fetch_add(1, Ordering::Relaxed);
                std::thread::sleep(HOSTILE_PAUSE);
            }
        }));
    }
    let mut reader = Transport::Ws.connect(hub)?;
    reader.set_read_timeout(Some(Duration::from_millis(200)))?;
    let wanted = Arc::new(AtomicU64::new(u64::MAX));
    let reading = {
        let wanted = wanted.clone();
        std::thread::spawn(move || -> Outcome<Vec<u32>> {
            let mut counter = Counter { seen: 0, rest: Vec::new(), latencies: Vec::new(), sampled: true };
            let (mut buffer, mut progress) = ([0; 4096], Instant::now());
            while counter.seen < wanted.load(Ordering::Acquire) {
                match reader.read(&mut buffer) {
                    Ok(0) => return Err("the neighbour's reader was closed".into()),
                    Ok(count) => {
                        counter.push(&buffer[..count]);
                        progress = Instant::now();
                    }
                    Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                        if progress.elapsed() > super::STUCK {
                            return Err(format!("the neighbour's reader is stuck at {}", counter.seen).into());
                        }
                    }
                    Err(error) => return Err(error.into()),
                }
            }
            Ok(counter.latencies)
        })
    };
    let mut publisher = Publisher::connect(hub)?;
    let (began, mut answers) = (Instant::now(), Vec::new());
    while began.elapsed() < time {
        let sent = Instant::now();
        publisher.publish("demo.bench")?;
        answers.push(sent.elapsed().as_micros() as u32);
        std::thread::sleep(PAUSE);
    }
    let seconds = began.elapsed().as_secs_f64();
    stop.store(true, Ordering::Relaxed);
    wanted.store(answers.len() as u64, Ordering::Release);
    let delivered = reading.join().map_err(|_| "the reader panicked")??;
    for host in hostile {
        host.join().map_err(|_| "a hostile publisher panicked")?;
    }
    let hostile = asked.load(Ordering::Relaxed) as f64 / seconds;
    Ok(Measured { delivered: percentiles(delivered), answered: percentiles(answers), hostile })
}
