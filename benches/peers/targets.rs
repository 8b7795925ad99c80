//! What was aimed at, and whether it was reached.

use aether::cli::bench::report::thousands;

use super::results::Results;

pub struct Check {
    pub what: String,
    pub wanted: String,
    /// In words, and whether it is enough; nothing if it was not measured.
    pub found: Option<(String, bool)>,
}

const HUB: &str = "aether";
const COMPRESSED: &str = "aether, compressed";
const NCHAN: &str = "nchan";
const ONE_WRITE: &str = "floor, one-write";
const SHARED_TAIL: &str = "floor, shared-tail";

pub fn checks(results: &Results) -> Vec<Check> {
    let mut checks = Vec::new();
    let mut check = |what: &str, wanted: String, found: Option<(String, bool)>| {
        checks.push(Check { what: what.to_owned(), wanted, found });
    };
    let at_least = |found: Option<f64>, least: f64| found.map(|ratio| (format!("{ratio:.2}x"), ratio >= least));
    let at_most = |found: Option<f64>, most: f64| found.map(|ratio| (format!("{ratio:.2}x"), ratio <= most));

    for (row, what, least) in [
        ("fan-out-ws-1", "fan-out, WebSocket, 1 publisher", 2.5),
        ("fan-out-ws-4", "fan-out, WebSocket, 4 publishers", 4.0),
        ("fan-out-sse-1", "fan-out, SSE, 1 publisher", 4.0),
        ("fan-out-sse-4", "fan-out, SSE, 4 publishers", 4.0),
        ("many-channels", "many channels, 8 publishers", 2.0),
    ] {
        let found = results.ratio(row, "deliveries_per_s", HUB, NCHAN);
        check(what, format!("at least {least}x nchan's deliveries/s"), at_least(found, least));
    }
    for publishers in [1, 4] {
        let found = results.ratio(&format!("fan-out-ws-{publishers}"), "deliveries_per_s", HUB, SHARED_TAIL);
        let what = format!("the same, {publishers} publisher{}", if publishers == 1 { "" } else { "s" });
        check(&what, "the aim beyond: half of the shared-tail floor".into(), at_least(found, 0.5));
    }
    for (row, rate, most) in [("offered-200", 200, 0.5), ("offered-50", 50, 1.0)] {
        for (figure, name) in [("p50_ms", "p50"), ("p99_ms", "p99")] {
            let found = results.ratio(row, figure, HUB, NCHAN);
            check(&format!("{rate} messages/s, {name}"), format!("at most {most}x nchan's"), at_most(found, most));
        }
    }
    let found = results.ratio("offered-50", "cpu_us_per_delivery", HUB, ONE_WRITE);
    check(
        "50 messages/s, processor time per delivery",
        "at most 1.25x the one-write floor".into(),
        at_most(found, 1.25),
    );
    for (row, connections, least) in [("publish-1", 1, 5000.0), ("publish-batches", 8, 200_000.0)] {
        let found = results.figure(row, HUB, "publishes_per_s");
        let batches = if least > 1e5 { ", batches of 100" } else { "" };
        check(
            &format!("synced publishes, {connections} connection{}{batches}", if connections == 1 { "" } else { "s" }),
            format!("at least {} messages/s", thousands(least)),
            found.map(|rate| (format!("{}/s", thousands(rate)), rate >= least)),
        );
    }
    let found = results.ratio("publish-64", "publishes_per_s", HUB, NCHAN);
    check("synced publishes, 64 connections", "at least 0.6x nchan's unsynced".into(), at_least(found, 0.6));
    for (row, what, most) in [("idle-ws", "idle WebSocket", 4.0), ("idle-sse", "idle SSE", 12.0)] {
        let found = results.figure(row, HUB, "memory_kib_per_connection");
        let found = found.map(|kib| (format!("{kib:.2} KiB"), kib <= most));
        check(&format!("{what} subscriber"), format!("at most {most:.0} KiB"), found);
    }
    // Fewer are another question.
    let all = |row, figure, least| results.figure(row, HUB, figure).is_some_and(|count| count >= least);
    let found = results.figure("held-ws", HUB, "cpu_share_of_a_core");
    let found = found.filter(|_| all("held-ws", "connections", 50_000.0));
    check(
        "50,000 connections held for a minute",
        "at most 3 % of a core".into(),
        found.map(|share| (format!("{:.1} %", share * 100.0), share <= 0.03)),
    );
    let found = results.figure("storm-ws", HUB, "neighbour_p99_ratio");
    let found = found.filter(|_| all("storm-ws", "clients", 10_000.0));
    check("resume storm, a neighbour's p99", "at most 3x its quiet value; all exact".into(), at_most(found, 3.0));
    let found = results.figure("compressed", COMPRESSED, "cpu_us_per_delivery");
    let found = found.zip(results.figure("compressed", HUB, "cpu_us_per_delivery")).map(|(one, other)| one / other);
    check("permessage-deflate, processor time per delivery", "at most 1.3x uncompressed".into(), at_most(found, 1.3));
    let found = results.figure("start", HUB, "ready_s");
    let found = found.filter(|_| all("start", "stored_messages", 1_000_000.0));
    check(
        "a start with 1,000,000 stored messages",
        "at most 0.5 s".into(),
        found.map(|seconds| (format!("{seconds:.2} s"), seconds <= 0.5)),
    );
    let size = results.program_bytes as f64 / 1e6;
    check("the program", "at most 20 MB".into(), Some((format!("{size:.1} MB"), size <= 20.0)));
    checks
}
