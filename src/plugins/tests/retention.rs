//! What channels keep, as far as rules say.

use parking_lot::Mutex;
use std::time::Duration;

use super::*;
use crate::kernel::policy::{Ack, Lag, Policy, Retention};
use crate::plugins::World;

fn policy(host: &Host, channel: &str) -> Policy {
    host.policy(&name(channel))
}

#[test]
fn a_rule_takes_the_place_of_the_settings_field_by_field() {
    let settings = Policy { max_lag: Some(7), ack: Ack::Written, ..Policy::default() };
    let config = HostConfig { policy: Arc::new(move |_| settings), ..calm() };
    let (host, _dir) = script_with(
        "aether.on.retention('iot.{what}', function(ch) return { age = '1h', count = false, ack = ch.what } end)
         aether.on.retention('off', function() return { history = false } end)
         aether.on.retention('wide', function() return { count = 1e6, bytes = '1MiB', max_lag = false } end)
         aether.on.retention('nil', function() return nil end)",
        config,
    );
    let hour = Some(Duration::from_secs(3600));
    let kept = Retention { age: hour, count: None, bytes: None };
    assert_eq!(policy(&host, "iot.memory"), Policy { history: Some(kept), ack: Ack::Memory, ..settings });
    assert_eq!(policy(&host, "off").history, None);
    let wide = policy(&host, "wide");
    assert_eq!((wide.history.unwrap().count, wide.history.unwrap().bytes), (Some(1_000_000), Some(1 << 20)));
    assert_eq!((wide.history.unwrap().age, wide.max_lag), (Retention::default().age, None));
    assert_eq!((policy(&host, "nil"), policy(&host, "other")), (settings, settings));
}

#[test]
fn several_rules_come_to_the_strictest() {
    let rules = [
        "{ age = '1h', count = 10, ack = 'memory', lag = 'skip', max_lag = 5 }",
        "{ age = '2h', count = 5, bytes = 100, ack = 'synced', lag = 'catch_up', max_lag = false }",
        "{ count = false, ack = 'written', lag = 'close', max_lag = 9 }",
    ];
    for order in [[0, 1, 2], [2, 1, 0], [1, 2, 0]] {
        let code = order.map(|at| format!("aether.on.retention('a', function() return {} end)\n", rules[at]));
        let (host, _dir) = script(&code.concat());
        let kept = Retention { age: Some(Duration::from_secs(3600)), count: Some(5), bytes: Some(100) };
        let strict = Policy { history: Some(kept), ack: Ack::Synced, lag: Lag::Close, max_lag: Some(5) };
        assert_eq!(policy(&host, "a"), strict, "{order:?}");
    }
    let off = "aether.on.retention('a', function() return { history = false } end)
               aether.on.retention('a', function() return { history = true, count = 5 } end)";
    assert_eq!(policy(&script(off).0, "a").history, None);
}

#[test]
fn a_rule_that_breaks_leaves_the_policy_as_it_was() {
    let (host, dir) = script("aether.on.retention('a', function() return { count = 5 } end)");
    assert_eq!(policy(&host, "a").history.unwrap().count, Some(5));
    for (code, wrong) in [
        ("error('oops')", "rules.lua:1: oops"),
        ("return { cuont = 7 }", "cuont is not known here; did you mean count?"),
        ("return { age = 'soon' }", "age: expected a duration like"),
        ("return { ack = 'maybe' }", "ack: expected memory, written or synced"),
        ("return 7", "expected a table like"),
    ] {
        dir.write("rules.lua", format!("aether.on.retention('*', function() {code} end)"));
        host.reload().unwrap();
        let log = logged(|| {
            assert_eq!(policy(&host, "a").history.unwrap().count, Some(5), "{code}");
            assert_eq!(policy(&host, "b"), Policy::default(), "{code}");
        });
        assert!(log.contains(wrong) && log.contains("so the channel keeps its policy"), "{log}");
    }
}

#[derive(Clone, Default)]
struct Seen(Arc<Mutex<Vec<String>>>);

impl World for Seen {
    fn publish(&self, _said: crate::plugins::Said) -> bool {
        false
    }
    fn listeners(&self, _channel: &ChannelName) -> Vec<Arc<Client>> {
        Vec::new()
    }
    fn sessions(&self, _wanted: &dyn Fn(&Client) -> bool) -> Vec<Arc<Client>> {
        Vec::new()
    }
    fn kick(&self, _meant: &dyn Fn(&Client) -> bool, _why: &str) -> usize {
        0
    }
    fn unsubscribe(&self, _meant: &dyn Fn(&Client) -> bool, _channel: &ChannelName) -> usize {
        0
    }
    fn channels(&self) -> Vec<ChannelName> {
        Vec::new()
    }
    fn rules_changed(&self, _: &[std::net::SocketAddr]) {}
    fn policies_changed(&self, channels: Patterns) {
        self.0.lock().extend(channels.iter().map(|pattern| pattern.to_string()));
    }
}

#[test]
fn a_refresh_reaches_the_world_and_only_from_a_hook() {
    let (host, _dir) = script("aether.on.publish('a', function() aether.retention.refresh('room.*') return true end)");
    publish(&host, &nobody(), "a", "1").unwrap();
    let seen = Seen::default();
    host.live_in(seen.clone());
    publish(&host, &nobody(), "a", "1").unwrap();
    assert_eq!(*seen.0.lock(), ["room.*"]);
    let errors = complaints("aether.retention.refresh('room.*')");
    assert!(errors[0].contains("rules.lua:1: retention.refresh is for hooks"), "{errors:?}");
}
