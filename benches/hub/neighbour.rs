//! What a plugin gone mad on its own channels costs the others: a neighbour's latency beside it, as a ratio of its quiet one.
//!
//! Four publishers keep the hostile channel busy, 200 a second each. What that much traffic costs by itself is measured
//! with a hook that just says no. `cargo bench --bench hub -- neighbour view` measures only the rows with that in their name.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use aether::cli::bench::dial;
use aether::cli::bench::histogram::Histogram;
use aether::cli::bench::hub::Hub;
use aether::cli::bench::neighbour::Neighbour;
use aether::cli::bench::publisher::Publisher;
use aether::cli::bench::target::{Target, Transport};

use super::PAYLOAD;

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
const HOSTS: usize = 4;
const HOSTILE_PAUSE: Duration = Duration::from_millis(5);

pub fn neighbour() -> anyhow::Result<()> {
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
        let hub =
            super::start(&[("AETHER_PLUGINS_SCRIPTS", scripts.as_str()), ("AETHER_RETENTION_DEFAULT_ACK", "memory")])?;
        if name.contains("reader") {
            let mut reader = dial::open(hub.address, None, &hub.subscribe(Transport::Ws, "bad.one"))?.stream;
            reader.set_read_timeout(None)?;
            // Ends with the hub.
            std::thread::spawn(move || std::io::copy(&mut reader, &mut std::io::sink()));
        }
        run(&hub, 0, Duration::from_secs(1))?;
        let quiet = run(&hub, 0, RUN)?;
        let beside = run(&hub, HOSTS, RUN)?;
        let ratio = beside.delivered.at_ms(0.99) / quiet.delivered.at_ms(0.99);
        println!("| nothing | {}", quiet.row(1.0));
        println!("| {name} | {}", beside.row(ratio));
        std::fs::remove_dir_all(&rules)?;
    }
    Ok(())
}

struct Measured {
    delivered: Histogram,
    answered: Histogram,
    hostile: f64,
}

impl Measured {
    fn row(&self, ratio: f64) -> String {
        let Measured { delivered, answered, hostile } = self;
        let [(p50, p99), (yes50, yes99)] = [delivered, answered].map(|all| (all.at_ms(0.5), all.at_ms(0.99)));
        format!("{p50:.2} | {p99:.2} | {yes50:.2}, {yes99:.2} | {ratio:.1} | {hostile:.0} |")
    }
}

fn run(hub: &Hub, hosts: usize, time: Duration) -> anyhow::Result<Measured> {
    static RUNS: AtomicU64 = AtomicU64::new(0);
    let (stop, asked) = (AtomicBool::new(false), AtomicU64::new(0));
    let channel = hub.channel(RUNS.fetch_add(1, Ordering::Relaxed), 0);
    let neighbour = Neighbour::move_in(hub, &channel, PAYLOAD)?;
    let publishers: Vec<_> = (0..hosts).map(|_| Publisher::connect(hub)).collect::<anyhow::Result<_>>()?;
    let one = ["1".to_owned()];
    let (heard, (began, ended)) = std::thread::scope(|scope| {
        for mut publisher in publishers {
            let (stop, asked, one) = (&stop, &asked, &one);
            scope.spawn(move || {
                while !stop.load(Ordering::Relaxed) && publisher.ask("bad.one", one).is_ok() {
                    asked.fetch_add(1, Ordering::Relaxed);
                    std::thread::sleep(HOSTILE_PAUSE);
                }
            });
        }
        let heard = neighbour.beside(|| {
            let began = Instant::now();
            std::thread::sleep(time);
            Ok((began, Instant::now()))
        });
        stop.store(true, Ordering::Relaxed);
        heard
    })?;
    let hostile = asked.load(Ordering::Relaxed) as f64 / (ended - began).as_secs_f64();
    let span = [(began, ended)];
    Ok(Measured { delivered: heard.within(&span), answered: heard.answered_within(&span), hostile })
}
