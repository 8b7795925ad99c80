//! What was aimed at, and whether it was reached.

use aether::cli::bench::report::thousands;

use super::results::Results;

pub struct Check {
    pub what: String,
    pub wanted: String,
    pub found: Found,
}

/// In words, if there is anything to say.
pub enum Found {
    Met(String),
    Missed(String),
    /// Of fewer than the target speaks of: another question.
    Fewer(String),
    Failed,
    Nothing,
}

const HUB: &str = "aether";
const COMPRESSED: &str = "aether, compressed";
const NCHAN: &str = "nchan";
const ONE_WRITE: &str = "floor, one-write";
const SHARED_TAIL: &str = "floor, shared-tail";

/// What is enough.
#[derive(Clone, Copy)]
enum Enough {
    Least(f64),
    Most(f64),
}

impl Enough {
    fn is(self, value: f64) -> bool {
        match self {
            Enough::Least(least) => value >= least,
            Enough::Most(most) => value <= most,
        }
    }
}

struct Judge<'a> {
    results: &'a Results,
    checks: Vec<Check>,
}

impl Judge<'_> {
    /// `value` is of this row.
    fn check(
        &mut self,
        row: &str,
        what: &str,
        wanted: &str,
        value: Option<f64>,
        enough: Enough,
        show: impl Fn(f64) -> String,
    ) {
        let failed = self.results.row(row).is_some_and(|row| row.failures().next().is_some());
        let found = match value {
            Some(value) if enough.is(value) => Found::Met(show(value)),
            Some(value) => Found::Missed(show(value)),
            None if failed => Found::Failed,
            None => Found::Nothing,
        };
        self.checks.push(Check { what: what.into(), wanted: wanted.into(), found });
    }

    /// One's figure by another's in the same row.
    fn ratio(&mut self, row: &str, figure: &str, (who, by): (&str, &str), enough: Enough, what: &str, wanted: &str) {
        let ratio = self.results.ratio(row, figure, who, by);
        self.check(row, what, wanted, ratio, enough, |ratio| format!("{ratio:.2}x"));
    }

    /// The last target is one for so many; what was found with fewer is told, and not judged.
    fn if_there_were(&mut self, row: &str, count: &str, wanted: f64) {
        let Some(count) = self.results.figure(row, HUB, count).filter(|count| *count < wanted) else { return };
        if let Some(Check { found, .. }) = self.checks.last_mut()
            && let Found::Met(text) | Found::Missed(text) = found
        {
            *found = Found::Fewer(format!("{text} with {}", thousands(count)));
        }
    }
}

pub fn checks(results: &Results) -> Vec<Check> {
    use Enough::{Least, Most};
    let mut judge = Judge { results, checks: Vec::new() };

    for (row, what, least) in [
        ("fan-out-ws-1", "fan-out, WebSocket, 1 publisher", 2.5),
        ("fan-out-ws-4", "fan-out, WebSocket, 4 publishers", 4.0),
        ("fan-out-sse-1", "fan-out, SSE, 1 publisher", 4.0),
        ("fan-out-sse-4", "fan-out, SSE, 4 publishers", 4.0),
        ("many-channels", "100 channels of 100 subscribers, 8 publishers", 2.0),
    ] {
        let wanted = format!("at least {least}x nchan's deliveries/s");
        judge.ratio(row, "deliveries_per_s", (HUB, NCHAN), Least(least), what, &wanted);
    }
    for (row, publishers) in [("fan-out-ws-1", "1 publisher"), ("fan-out-ws-4", "4 publishers")] {
        let what = format!("fan-out, WebSocket, {publishers}: the aim beyond");
        let wanted = "half of the shared-tail floor";
        judge.ratio(row, "deliveries_per_s", (HUB, SHARED_TAIL), Least(0.5), &what, wanted);
    }
    for (row, rate, most) in [("offered-200", 200, 0.5), ("offered-50", 50, 1.0)] {
        for (figure, name) in [("p50_ms", "p50"), ("p99_ms", "p99")] {
            let (what, wanted) = (format!("{rate} messages/s, {name}"), format!("at most {most}x nchan's"));
            judge.ratio(row, figure, (HUB, NCHAN), Most(most), &what, &wanted);
        }
    }
    judge.ratio(
        "offered-50",
        "cpu_us_per_delivery",
        (HUB, ONE_WRITE),
        Most(1.25),
        "50 messages/s, processor time per delivery",
        "at most 1.25x the one-write floor",
    );
    for (row, connections, least) in
        [("publish-1", "1 connection", 5000.0), ("publish-batches", "8 connections, batches of 100", 200_000.0)]
    {
        let (what, wanted) =
            (format!("synced publishes, {connections}"), format!("at least {} messages/s", thousands(least)));
        let rate = results.figure(row, HUB, "publishes_per_s");
        judge.check(row, &what, &wanted, rate, Least(least), |rate| format!("{}/s", thousands(rate)));
    }
    let wanted = "at least 0.6x nchan's unsynced";
    let what = "synced publishes, 64 connections";
    judge.ratio("publish-64", "publishes_per_s", (HUB, NCHAN), Least(0.6), what, wanted);
    for (row, what, most) in [("idle-ws", "idle WebSocket subscriber", 4.0), ("idle-sse", "idle SSE subscriber", 12.0)]
    {
        let kib = results.figure(row, HUB, "memory_kib_per_connection");
        judge.check(row, what, &format!("at most {most:.0} KiB"), kib, Most(most), |kib| format!("{kib:.2} KiB"));
    }
    let share = results.figure("held-ws", HUB, "cpu_share_of_a_core");
    let show = |share: f64| format!("{:.1} %", share * 100.0);
    judge.check("held-ws", "50,000 connections held for a minute", "at most 3 % of a core", share, Most(0.03), show);
    judge.if_there_were("held-ws", "connections", 50_000.0);
    let ratio = results.figure("storm-ws", HUB, "neighbour_p99_ratio");
    let (what, wanted) =
        ("10,000 clients return at once, a live neighbour's p99", "at most 3x its quiet value; all exact");
    judge.check("storm-ws", what, wanted, ratio, Most(3.0), |ratio| format!("{ratio:.2}x; all exact"));
    judge.if_there_were("storm-ws", "clients", 10_000.0);
    let (what, wanted) = ("permessage-deflate, processor time per delivery", "at most 1.3x uncompressed");
    judge.ratio("compressed", "cpu_us_per_delivery", (COMPRESSED, HUB), Most(1.3), what, wanted);
    let seconds = results.figure("start", HUB, "ready_s");
    let what = "a start with 1,000,000 stored messages";
    judge.check("start", what, "at most 0.5 s", seconds, Most(0.5), |seconds| format!("{seconds:.2} s"));
    judge.if_there_were("start", "stored_messages", 1_000_000.0);
    let size = results.program_bytes as f64 / 1e6;
    judge.check("", "the program", "at most 20 MB", Some(size), Most(20.0), |size| format!("{size:.1} MB"));
    judge.checks
}
