//! Ranges: which values make sense, alone and beside each other.

use super::{Bound, Config, Period, Size};

/// Shorter keys can be guessed from one token.
pub const SHORTEST_KEY: usize = 32;

/// Numbers of messages stay exact in JavaScript and Lua, however many follow.
const FARTHEST_FIRST: u64 = 1_000_000_000_000;

/// A value that makes no sense.
pub struct Finding {
    pub key: String,
    /// The setting that it does not go with; where only that one was set, the message points there.
    pub beside: Option<&'static str>,
    pub wrong: String,
}

/// Says every value that makes no sense.
pub fn check(config: &Config) -> Vec<Finding> {
    let mut found = Findings(Vec::new());
    let Config {
        server,
        store,
        channels,
        publish,
        websocket,
        sse,
        limits,
        retention,
        shutdown,
        secrets,
        plugins,
        plugin,
        ..
    } = config;

    found.size("server.max_payload_size", server.max_payload_size, Size(1), Size::mib(64));
    found.size("server.max_batch_size", server.max_batch_size, Size(1), Size::mib(1024));
    found.at_least(
        "server.max_batch_size",
        server.max_batch_size >= server.max_payload_size,
        ("server.max_payload_size", server.max_payload_size.to_string()),
    );
    found.period("server.header_timeout", server.header_timeout, "100ms", "10m");
    found.period("server.write_timeout", server.write_timeout, "100ms", "10m");
    found.period("server.peer_timeout", server.peer_timeout, "2s", "1h");
    found.number("server.front_workers", server.front_workers, 0, 1024);
    found.number("server.delivery_workers", server.delivery_workers, 0, 1024);

    found.that(
        "server.admin_addr",
        server.admin_addr.0.is_none_or(|admin| admin.port() == 0 || admin != server.addr),
        "is server.addr itself: give it another port, or \"none\"",
    );
    for (key, file, other, beside) in [
        ("server.tls_cert", &server.tls_cert, "server.tls_key", &server.tls_key),
        ("server.tls_key", &server.tls_key, "server.tls_cert", &server.tls_cert),
    ] {
        found.that(
            key,
            file.0.is_none() || beside.0.is_some(),
            format!("is of no use without {other}: set both or neither"),
        );
    }

    found.that("store.path", !store.path.as_os_str().is_empty(), "must name a directory");
    found.size("store.cache_size", store.cache_size, Size::mib(1), Size::mib(1 << 20));
    found.size("store.min_free", store.min_free, Size::kib(0), Size::mib(1 << 20));
    found.period("store.flush_interval", store.flush_interval, "1ms", "1m");
    found.period("store.sweep_interval", store.sweep_interval, "100ms", "1d");

    found.number("channels.tail_count", channels.tail_count, 1, 1_000_000);
    found.size("channels.tail_bytes", channels.tail_bytes, Size::kib(1), Size::mib(1024));
    found.period("channels.idle_after", channels.idle_after, "100ms", "30d");
    found.period("channels.lag_patience", channels.lag_patience, "0ms", "1h");

    found.number("publish.max_batch", publish.max_batch, 1, 100_000);
    found.period("publish.idempotency_window", publish.idempotency_window, "1s", "30d");
    found.number("publish.queue", publish.queue, 1, 1_000_000);
    let first = publish.first_seq.0;
    found.that(
        "publish.first_seq",
        (1..=FARTHEST_FIRST).contains(&first),
        format!("must be between 1 and {FARTHEST_FIRST}, not {first}"),
    );

    found.period("websocket.ping_interval", websocket.ping_interval, "100ms", "1h");
    found.period("websocket.pong_timeout", websocket.pong_timeout, "100ms", "1d");
    found.at_least(
        "websocket.pong_timeout",
        websocket.pong_timeout >= websocket.ping_interval,
        ("websocket.ping_interval", websocket.ping_interval.to_string()),
    );
    found.size("websocket.max_message_size", websocket.max_message_size, Size(128), Size::mib(64));
    found.size("websocket.compress_from", websocket.compress_from, Size(0), Size::mib(64));
    for (i, origin) in websocket.allowed_origins.iter().enumerate() {
        found.that(
            format!("websocket.allowed_origins.{i}"),
            origin == "*" || origin.starts_with("http://") || origin.starts_with("https://"),
            format!("{origin:?} is no origin: write \"https://app.example.com\", \"https://*.example.com\" or \"*\""),
        );
        found.that(
            format!("websocket.allowed_origins.{i}"),
            !origin.splitn(3, '/').nth(2).unwrap_or_default().contains('/'),
            format!("{origin:?} has a path, and an origin has none: leave out what follows the host"),
        );
    }

    found.period("sse.heartbeat", sse.heartbeat, "100ms", "1h");
    found.period("sse.retry", sse.retry, "1ms", "1h");
    found.period("sse.retry_spread", sse.retry_spread, "0s", "1h");

    found.number("limits.channels_per_request", limits.channels_per_request, 1, 100_000);
    found.number("limits.channels_per_connection", limits.channels_per_connection, 1, 1_000_000);
    found.number("limits.connections", limits.connections, 1, 100_000_000);
    found.number("limits.connections_per_ip", limits.connections_per_ip, 0, 100_000_000);
    found.number("limits.connections_per_tenant", limits.connections_per_tenant, 0, 100_000_000);
    found.number("limits.handshakes_per_second", limits.handshakes_per_second, 0, 10_000_000);
    found.number("limits.returns_per_second", limits.returns_per_second, 0, 10_000_000);
    found.period("limits.return_window", limits.return_window, "1s", "1h");
    if let Some(delay) = limits.delay.0 {
        found.period("limits.delay", delay, "10ms", "5s");
    }
    if let Some(memory) = limits.memory.0 {
        found.size("limits.memory", memory, Size::mib(16), Size::mib(1 << 24));
    }
    found.number("limits.refusals_per_minute", limits.refusals_per_minute, 0, 10_000_000);

    found.kept("retention.default_ttl", retention.default_ttl, |ttl| ttl > Period::default());
    found.kept("retention.default_max_count", retention.default_max_count, |count| count.0 > 0);
    found.kept("retention.default_max_bytes", retention.default_max_bytes, |size| size.0 > 0);
    found.kept("retention.default_max_lag", retention.default_max_lag, |count| count.0 > 0);
    for (i, rule) in retention.rules.iter().enumerate() {
        let key = |name: &str| format!("retention.rules.{i}.{name}");
        found.that(key("pattern"), rule.pattern.is_some(), "is missing: say which channels this rule is for");
        found.kept(key("ttl"), rule.ttl.unwrap_or_default(), |ttl| ttl > Period::default());
        found.kept(key("max_count"), rule.max_count.unwrap_or_default(), |count| count.0 > 0);
        found.kept(key("max_bytes"), rule.max_bytes.unwrap_or_default(), |size| size.0 > 0);
        found.kept(key("max_lag"), rule.max_lag.unwrap_or_default(), |count| count.0 > 0);
        if rule.history == Some(false) {
            for (name, set) in [
                ("ttl", rule.ttl.is_some()),
                ("max_count", rule.max_count.is_some()),
                ("max_bytes", rule.max_bytes.is_some()),
            ] {
                found.that(
                    key(name),
                    !set,
                    "says how much to keep, but history = false keeps nothing: remove one of them",
                );
            }
        }
    }

    found.period("shutdown.timeout", shutdown.timeout, "0s", "1h");

    for (name, secret) in secrets {
        let key = format!("secrets.{name}");
        let words = name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
        found.that(&key, words, "is no name for a secret: use a-z, 0-9 and _");
        found.that(&key, !secret.reveal().is_empty(), "is empty: leave it out, or give it a value");
        if ["signing_key", "admin_key"].contains(&name.as_str()) && !secret.reveal().is_empty() {
            found.that(&key, secret.reveal().len() >= SHORTEST_KEY, format!("must have at least {SHORTEST_KEY} bytes"));
        }
    }

    found.number("plugins.waiting_threads", plugins.waiting_threads, 1, 64);
    found.period("plugins.waiting_timeout", plugins.waiting_timeout, "10ms", "1m");
    found.period("plugins.waiting_budget", plugins.waiting_budget, "1ms", "10s");
    found.number("plugins.waiting_calls", plugins.waiting_calls, 1, 100_000);

    for (i, entry) in plugin.iter().enumerate() {
        let key = format!("plugin.{i}.use");
        found.that(&key, !entry.name.is_empty(), "is missing: say which plugin this entry is for");
        let word = entry.name.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_');
        found.that(&key, word, format!("{:?} is no plugin's name: use letters, digits, - and _", entry.name));
        let first = plugin.iter().position(|other| other.name == entry.name) == Some(i);
        found.that(
            &key,
            first || entry.name.is_empty(),
            format!("{:?} is in use twice; one entry is enough", entry.name),
        );
    }
    found.0
}

struct Findings(Vec<Finding>);

impl Findings {
    fn that(&mut self, key: impl Into<String>, good: bool, wrong: impl Into<String>) {
        if !good {
            self.0.push(Finding { key: key.into(), beside: None, wrong: wrong.into() });
        }
    }

    fn at_least(&mut self, key: &str, good: bool, (other, value): (&'static str, String)) {
        if !good {
            let wrong = format!("must not be less than {other} ({value})");
            self.0.push(Finding { key: key.into(), beside: Some(other), wrong });
        }
    }

    fn number(&mut self, key: &str, value: usize, least: usize, most: usize) {
        let good = (least..=most).contains(&value);
        self.that(key, good, format!("must be between {least} and {most}, not {value}"));
    }

    fn size(&mut self, key: &str, value: Size, least: Size, most: Size) {
        let good = (least..=most).contains(&value);
        self.that(key, good, format!("must be between {least} and {most}, not {value}"));
    }

    fn period(&mut self, key: &str, value: Period, least: &str, most: &str) {
        let bound = |text: &str| text.parse::<Period>().unwrap_or_default();
        let good = (bound(least)..=bound(most)).contains(&value);
        self.that(key, good, format!("must be between {least} and {most}, not {value}"));
    }

    fn kept<T>(&mut self, key: impl Into<String>, bound: Bound<T>, good: impl FnOnce(T) -> bool) {
        let wrong = "must be more than 0; \"none\" sets no bound, and history = false in a rule keeps nothing";
        self.that(key, bound.0.is_none_or(good), wrong);
    }
}
