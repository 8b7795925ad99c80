//! `aether bench`, as somebody meets it who wants to know what a hub bears: exact, or loud.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use rustix::process::{Pid, Signal};

use crate::common::spawned::{aether, run};
use crate::common::*;

/// A verb to its end: exit code, standard output, standard error.
fn bench(dir: &Path, arguments: &[&str]) -> (Option<i32>, String, String) {
    let plugins = repository().join("plugins");
    let env = [("AETHER_PLUGINS_DIR", plugins.to_str().unwrap())];
    let output = run(dir, &[&["bench"], arguments].concat(), &env);
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

fn json(dir: &Path, arguments: &[&str]) -> Json {
    let (code, out, err) = bench(dir, &[arguments, &["--json"]].concat());
    assert_eq!(code, Some(0), "{arguments:?}: {out}{err}");
    let measured: Json = serde_json::from_str(&out).unwrap_or_else(|error| panic!("{error}: {out}"));
    assert_eq!(measured["exact"], true, "{measured}");
    assert!(measured["machine"]["cores"].as_u64().unwrap() > 0 && measured["machine"]["kernel"].is_string());
    assert!(measured["aether_version"].is_string(), "{measured}");
    measured
}

fn positive(json: &Json) {
    assert!(json.as_f64().is_some_and(|number| number > 0.0), "{json}");
}

const TINY: [&str; 6] = ["--subscribers", "7", "--publishers", "2", "--time", "300ms"];

#[test]
fn fan_out_starts_a_hub_of_its_own_measures_it_and_leaves_nothing() {
    let dir = TempDir::new();
    for transport in ["ws", "sse"] {
        let ran = json(dir.path(), &[&["fan-out", "--channels", "3", "--transport", transport][..], &TINY].concat());
        let measured = &ran["measured"];
        for figure in ["deliveries_per_s", "publishes_per_s"] {
            positive(&measured[figure]);
        }
        positive(&measured["latency"]["p99_9_ms"]);
        assert_eq!(measured["deliveries"].as_u64().unwrap(), 7 * measured["published"].as_u64().unwrap());
        assert_eq!(measured["latency"]["count"], measured["deliveries"]);
        assert_eq!(ran["durability"], "history on disk, ack synced");
        assert_eq!(ran["shape"]["subscribers_per_channel"], 7);
    }
    let left = std::fs::read_dir(dir.path()).unwrap().count();
    assert_eq!(left, 0, "something was left here");
}

#[test]
fn publish_says_what_its_yes_was_worth_and_batches_count_as_messages() {
    let dir = TempDir::new();
    let arguments = ["publish", "--connections", "2", "--batch", "10", "--time", "300ms", "--ack", "memory"];
    let ran = json(dir.path(), &arguments);
    assert_eq!(ran["durability"], "history on disk, ack memory");
    let published = ran["measured"]["published"].as_u64().unwrap();
    assert!(published > 0 && published.is_multiple_of(10), "{ran}");
}

#[test]
fn idle_subscribers_take_memory_and_none_is_closed() {
    let dir = TempDir::new();
    let ran = json(dir.path(), &["idle", "--connections", "300", "--hold", "200ms"]);
    positive(&ran["measured"]["connected_per_s"]);
    assert!(ran["measured"]["memory_kib_per_connection"].is_number());
    assert_eq!((&ran["measured"]["memory_is"], &ran["measured"]["held"]["closed"]), (&"PSS".into(), &0.into()));
}

#[test]
fn a_storm_of_clients_gets_what_it_missed() {
    let dir = TempDir::new();
    for transport in ["ws", "sse"] {
        let arguments = ["resume-storm", "--clients", "40", "--messages", "120", "--rounds", "2", "--quiet", "300ms"];
        let ran = json(dir.path(), &[&arguments[..], &["--transport", transport]].concat());
        assert_eq!(ran["measured"]["recovered"]["count"], 80, "{ran}");
        positive(&ran["measured"]["neighbour_p99_ratio"]);
    }
}

#[test]
fn the_floors_pass_everything_on() {
    let dir = TempDir::new();
    let (code, out, err) = bench(dir.path(), &[&["floor"][..], &TINY].concat());
    assert_eq!(code, Some(0), "{out}{err}");
    for word in ["one-write", "shared-tail", "nothing is kept", "p99.9", "us per delivery"] {
        assert!(out.contains(word), "{word} is not in {out}");
    }
}

#[test]
fn a_hub_that_runs_is_measured_by_what_it_says_of_itself() {
    let dir = TempDir::new();
    let hub = Spawned::start(dir.path());
    let url = format!("http://{}", hub.address);
    let arguments = [&["fan-out", "--hub", &url, "--data", "data", "--rate", "50"][..], &TINY].concat();
    let ran = json(dir.path(), &arguments);
    assert_eq!(ran["durability"], "ack synced");
    assert!(ran["measured"]["cpu_us_per_delivery"].is_number(), "{ran}");
    // It has not gone with the bench.
    assert!(TcpStream::connect(hub.address).is_ok());
}

/// The directories of benches whose process that is.
fn left_by(process: u32) -> Vec<String> {
    let begin = format!("aether-bench-{process}-");
    let all = std::fs::read_dir(std::env::temp_dir()).unwrap();
    let names = all.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    names.filter(|name| name.starts_with(&begin)).collect()
}

#[tokio::test]
async fn a_bench_that_is_ended_leaves_neither_its_hub_nor_a_directory() {
    let dir = TempDir::new();
    for (signal, code) in [(Signal::TERM, 143), (Signal::INT, 130), (Signal::HUP, 129)] {
        let mut command = aether(dir.path());
        command.args(["bench", "fan-out", "--subscribers", "3", "--time", "5m"]);
        command.env("AETHER_PLUGINS_DIR", repository().join("plugins")).stderr(Stdio::null());
        let mut child = command.spawn().unwrap();
        let children = format!("/proc/{0}/task/{0}/children", child.id());
        let hub = || std::fs::read_to_string(&children).unwrap_or_default().trim().to_owned();
        until("it has a hub", async || !hub().is_empty() && !left_by(child.id()).is_empty()).await;
        let hub = hub();
        rustix::process::kill_process(Pid::from_child(&child), signal).unwrap();
        assert_eq!(child.wait().unwrap().code(), Some(code));
        assert_eq!(left_by(child.id()), [""; 0]);
        let stat = || std::fs::read_to_string(format!("/proc/{hub}/stat")).unwrap_or_default();
        until("its hub is gone", async || stat().is_empty() || stat().contains(") Z ")).await;
    }
}

#[test]
fn what_cannot_be_measured_is_said_before_anything_begins() {
    let dir = TempDir::new();
    let huge = u64::MAX.to_string();
    for arguments in [
        &["fan-out", "--time", "0s"][..],
        &["resume-storm", "--quiet", "0s"],
        &["resume-storm", "--messages", &huge],
        &["fan-out", "--channels", &huge],
        &["fan-out", "--subscribers", &huge],
        &["fan-out", "--publishers", "1000000"],
        &["publish", "--batch", "4000000000"],
        &["publish", "--connections", "1000000"],
        &["floor", "--batch", "1000000000"],
    ] {
        let (code, out, err) = bench(dir.path(), arguments);
        assert_eq!((code, out.as_str()), (Some(2), ""), "{arguments:?}: {err}");
        assert!(err.contains(arguments[1]), "{arguments:?}: {err}");
    }
}

#[test]
fn a_slow_rate_does_not_make_a_measurement_longer() {
    let dir = TempDir::new();
    let began = Instant::now();
    let ran = json(dir.path(), &["fan-out", "--subscribers", "2", "--rate", "0.001", "--time", "300ms"]);
    assert_eq!(ran["measured"]["published"], 1, "{ran}");
    assert!(began.elapsed() < DEADLINE, "{:?}", began.elapsed());
}

#[tokio::test]
async fn a_storm_says_why_nobody_gets_what_was_missed() {
    let dir = TempDir::new();
    let mut hub = Spawned::start_with(dir.path(), "127.0.0.1:0", &[("AETHER_RETENTION_DEFAULT_MAX_COUNT", "50")]);
    let url = format!("http://{}", hub.address);
    let arguments = ["resume-storm", "--hub", &url, "--data", "data", "--clients", "5", "--quiet", "100ms"];
    let (code, _, err) = bench(dir.path(), &[&arguments[..], &["--messages", "9000"]].concat());
    assert_eq!(code, Some(1), "{err}");
    assert!(err.contains("told of a gap") && err.contains("does the hub keep as many"), "{err}");
    let mut http = Http::connect(hub.address, Some(&hub.admin_key)).await;
    let mut published = async || {
        let page = http.get("/metrics").await.text().to_owned();
        let count = page.lines().find_map(|line| line.strip_prefix("aether_messages_published_total "));
        count.unwrap().parse::<f64>().unwrap()
    };
    let before = published().await;
    // Killed in the quiet time: nobody is there when they come. A hundred are missed, and the neighbour publishes on.
    let dying = std::thread::spawn({
        let (dir, arguments) = (dir.path().to_owned(), arguments.map(str::to_owned));
        move || {
            let arguments: Vec<_> =
                arguments.iter().map(|argument| if argument == "100ms" { "2s" } else { argument }).collect();
            bench(&dir, &arguments)
        }
    });
    until("the neighbour is served", async || published().await > before + 110.0).await;
    hub.kill_9();
    let (code, _, err) = dying.join().unwrap();
    assert_eq!(code, Some(1), "{err}");
    assert!(err.contains("has the hub ended") || err.contains("has what is measured ended"), "{err}");
}

#[test]
fn only_loopback_is_measured_unless_it_is_told_otherwise() {
    let dir = TempDir::new();
    for url in ["http://192.0.2.1:8080", "http://[2001:db8::1]"] {
        let (code, out, err) = bench(dir.path(), &["fan-out", "--hub", url, "--key", "k", "--token", "t"]);
        assert_eq!((code, out.as_str()), (Some(2), ""), "{err}");
        assert!(err.contains("--not-loopback"), "{err}");
    }
    let (code, _, err) = bench(dir.path(), &["idle", "--hub", "https://127.0.0.1"]);
    assert_eq!(code, Some(2), "{err}");
    assert!(err.contains("TLS is not measured"), "{err}");
    // Said so, it tries; this address is loopback, so that nothing leaves the machine.
    let gone = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let url = format!("http://{gone}");
    let (code, _, err) = bench(dir.path(), &["fan-out", "--hub", &url, "--not-loopback", "--key", "k", "--token", "t"]);
    assert_eq!(code, Some(1), "{err}");
    assert!(err.contains(&url) && err.contains("nobody listens"), "{err}");
}

#[test]
fn a_hub_that_loses_one_message_of_one_subscriber_fails_the_bench() {
    let (dir, hub) = (TempDir::new(), Forgetful::start(Fault::Loses));
    let (code, out, err) = hub.measured(dir.path());
    assert_eq!(code, Some(1), "{out}{err}");
    assert!(err.contains("1 of 3 subscribers have not exactly what was published"), "{err}");
    let ran: Json = serde_json::from_str(&out).unwrap();
    assert_eq!((&ran["exact"], &ran["measured"]["lost"]), (&false.into(), &1.into()), "{ran}");
}

#[test]
fn a_lost_message_beside_a_doubled_one_fails_it_too() {
    let (dir, hub) = (TempDir::new(), Forgetful::start(Fault::LosesOneAndDoublesAnother));
    let (code, out, err) = hub.measured(dir.path());
    assert_eq!(code, Some(1), "{out}{err}");
    assert!(err.contains("one is lost and another doubled"), "{err}");
}

#[derive(Clone, Copy, PartialEq)]
enum Fault {
    Loses,
    LosesOneAndDoublesAnother,
}

/// Looks like a hub, and is not good at it: what it does wrong, it does to its last subscriber.
struct Forgetful(SocketAddr);

#[derive(Default)]
struct Listeners {
    streams: Vec<TcpStream>,
    messages: usize,
}

impl Forgetful {
    fn start(fault: Fault) -> Forgetful {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let listeners = Arc::new(Mutex::new(Listeners::default()));
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let listeners = listeners.clone();
                std::thread::spawn(move || serve(stream, &listeners, fault));
            }
        });
        Forgetful(address)
    }

    fn measured(&self, dir: &Path) -> (Option<i32>, String, String) {
        let url = format!("http://{}", self.0);
        let mut command = aether(dir);
        command.args(["bench", "fan-out", "--hub", &url, "--key", "k", "--token", "t", "--json"]);
        command.args(["--subscribers", "3", "--rate", "200", "--time", "1s", "--patience", "3s"]);
        let output = command.output().unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        (output.status.code(), text(output.stdout), text(output.stderr))
    }
}

fn serve(stream: TcpStream, listeners: &Mutex<Listeners>, fault: Fault) -> Option<()> {
    let mut reader = BufReader::new(stream.try_clone().ok()?);
    let mut stream = stream;
    loop {
        let (mut first, mut length, mut line) = (String::new(), 0, String::new());
        reader.read_line(&mut first).ok().filter(|count| *count > 0)?;
        while line != "\r\n" {
            line.clear();
            reader.read_line(&mut line).ok().filter(|count| *count > 0)?;
            length = line.strip_prefix("Content-Length: ").map_or(length, |text| text.trim().parse().unwrap());
        }
        if first.starts_with("GET /ws") {
            stream.write_all(b"HTTP/1.1 101 Switching Protocols\r\n\r\n").ok()?;
            reader.read_exact(&mut [0; 6]).ok()?;
            stream.write_all(b"..{\"type\":\"subscribed\",\"positions\":{\"c\":{\"seq_id\":0}}}\n").ok()?;
            listeners.lock().unwrap().streams.push(stream);
            return Some(());
        }
        let mut body = vec![0; length];
        reader.read_exact(&mut body).ok()?;
        let mut listeners = listeners.lock().unwrap();
        let messages = &mut listeners.messages;
        // The first is no message, but a question what a yes means; then there is a run that is not counted.
        *messages += usize::from(body.len() > 100);
        let (lost, doubled) = (*messages == 100, *messages == 105 && fault == Fault::LosesOneAndDoublesAnother);
        let count = listeners.streams.len();
        for (number, listener) in listeners.streams.iter_mut().enumerate() {
            let times = if number + 1 < count { 1 } else { usize::from(!lost) + usize::from(doubled) };
            let _ = (0..times).try_for_each(|_| listener.write_all(&body));
        }
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 16\r\n\r\n{\"ack\":\"synced\"}").ok()?;
        // It has no metrics, and those who ask for them wait for its end.
        first.starts_with("POST ").then_some(())?;
    }
}
