//! Metrics in the Prometheus text format (version 0.0.4): the first Aether's names, and ours.

use std::fmt::Write;

use super::deflate::Tally;
use super::load::Load;
use super::process;
use crate::kernel::hub::Hub;
use crate::kernel::{BUCKETS, Histogram};

/// Counters that somebody beside the kernel keeps: the plugin host's.
pub type Others = std::sync::Arc<dyn Fn() -> Vec<(&'static str, &'static str, u64)> + Send + Sync>;

/// Metrics that are on a page already: those of plugins.
pub type Page = std::sync::Arc<dyn Fn() -> String + Send + Sync>;

pub fn render(hub: &Hub, load: &Load, deflated: &Tally, others: &Others, plugins: &Page) -> String {
    let counters = hub.counters();
    let mut page = Text(String::with_capacity(4096));
    page.number("aether_connections_active", "gauge", "Connected subscribers", counters.sessions.get());
    page.number(
        "aether_channels_active",
        "gauge",
        "Channels with at least one subscriber",
        hub.channels_with_subscribers() as u64,
    );
    page.number("aether_channels_in_memory", "gauge", "Channels that are in memory", hub.channels_in_memory() as u64);
    page.number(
        "aether_subscriptions_active",
        "gauge",
        "Subscriptions of all connections",
        counters.subscriptions.get(),
    );
    page.number("aether_messages_published_total", "counter", "Messages taken in", counters.published.get());
    page.number("aether_messages_duplicate_total", "counter", "Repeats of an idempotency key", counters.repeats.get());
    page.number("aether_messages_refused_total", "counter", "Publishes that a rule refused", counters.refused.get());
    page.number("aether_messages_pushed_total", "counter", "Deliveries to connections", counters.pushed.get());
    page.number(
        "aether_messages_encoded_total",
        "counter",
        "Messages turned into bytes, once per format",
        counters.encoded.get(),
    );
    page.number(
        "aether_messages_rendered_total",
        "counter",
        "Messages that a view made, once per view",
        counters.rendered.get(),
    );
    page.number(
        "aether_messages_compressed_total",
        "counter",
        "Messages compressed for WebSockets, once per format",
        deflated.messages.get(),
    );
    page.number(
        "aether_compression_before_bytes_total",
        "counter",
        "Their bytes before they were compressed",
        deflated.plain.get(),
    );
    page.number("aether_compression_after_bytes_total", "counter", "Their bytes afterwards", deflated.packed.get());
    page.number("aether_gaps_total", "counter", "Gaps that readers were told of", counters.gaps.get());
    page.number("aether_lagged_total", "counter", "Readers that a lag policy struck", counters.lagged.get());
    page.number(
        "aether_messages_skipped_total",
        "counter",
        "Messages that readers did not get because they lagged",
        counters.skipped.get(),
    );
    page.number("aether_store_groups_total", "counter", "Group commits", counters.groups.get());
    let held = "Publishes whose answer waited because the hub could not deliver as fast";
    page.number("aether_publishes_held_total", "counter", held, counters.held.get());
    page.number("aether_store_reads_total", "counter", "Pages read by replays", counters.store_reads.get());
    page.number("aether_store_errors_total", "counter", "Failed operations of the store", counters.store_errors.get());
    page.number(
        "aether_store_failed",
        "gauge",
        "1 while the store takes nothing",
        u64::from(hub.store_failure().is_some()),
    );
    for (name, help, value) in others() {
        page.number(name, if name.ends_with("_total") { "counter" } else { "gauge" }, help, value);
    }
    page.histogram("aether_publish_duration_seconds", "From the rules' yes to the answer", &counters.publish_seconds);
    page.histogram("aether_storage_write_duration_seconds", "One group: append and settle", &counters.store_seconds);
    page.0.push_str(&plugins());
    for (name, kind, help, value) in load.figures().into_iter().chain(process::figures()) {
        page.head(name, kind, help);
        let _ = writeln!(page.0, "{name} {value}");
    }
    page.0
}

/// Credentials that were known, and those that the rules were asked about.
pub fn credentials(others: &Others) -> (u64, u64) {
    let all = others();
    let value = |wanted| all.iter().find(|(name, ..)| *name == wanted).map_or(0, |(.., value)| *value);
    (value("aether_rules_credentials_known_total"), value("aether_rules_credentials_asked_total"))
}

struct Text(String);

impl Text {
    fn head(&mut self, name: &str, kind: &str, help: &str) {
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    fn number(&mut self, name: &str, kind: &str, help: &str, value: u64) {
        self.head(name, kind, help);
        let _ = writeln!(self.0, "{name} {value}");
    }

    fn histogram(&mut self, name: &str, help: &str, histogram: &Histogram) {
        self.head(name, "histogram", help);
        let (buckets, sum) = histogram.read();
        let bounds = BUCKETS.iter().map(f64::to_string).chain(["+Inf".to_owned()]);
        let mut total = 0;
        for (count, bound) in buckets.iter().zip(bounds) {
            total += count;
            let _ = writeln!(self.0, "{name}_bucket{{le=\"{bound}\"}} {total}");
        }
        let _ = writeln!(self.0, "{name}_sum {sum}\n{name}_count {total}");
    }
}
