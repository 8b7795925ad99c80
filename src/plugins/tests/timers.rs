//! What a plugin does by itself: when it is due, never twice at once, and never in two generations.

use std::time::{Duration, Instant};

use super::backend::{Backend, Reply};
use super::waiting::config;
use super::*;

fn count(host: &Host, key: &str) -> f64 {
    let mut bytes = vec![2];
    bytes.extend(key.as_bytes());
    bytes.extend([0, 0]);
    let commons = &host.rules().generation.program.commons;
    let json = commons.shelves.table("t").unwrap().get(&bytes, commons.now());
    json.and_then(|json| json.as_f64()).unwrap_or(0.0)
}

/// Waits until `key` has been counted up to `n`.
fn until(host: &Host, key: &str, n: f64) {
    let deadline = Instant::now() + DEADLINE;
    while count(host, key) < n {
        assert!(Instant::now() < deadline, "{key} is {} and not {n}", count(host, key));
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn timed(code: &str, hand: &Hand) -> (Arc<Host>, Dir) {
    let code = format!("local t = aether.shared('t')\n{code}");
    script_with(&code, HostConfig { clock: hand.config().clock, ..config() })
}

#[test]
fn timers_run_when_the_hosts_clock_says_so() {
    let hand = Hand::new();
    let (host, _dir) = timed(
        "aether.every('30s', function() t:incr('every') end)
aether.every('1h', {first = '0s'}, function() t:incr('first') end)
aether.after('10s', function() t:incr('after') end)
aether.cron('*/5 * * * *', function() t:incr('cron') end)",
        &hand,
    );
    until(&host, "first", 1.0);
    assert_eq!((count(&host, "every"), count(&host, "after"), count(&host, "cron")), (0.0, 0.0, 0.0));
    hand.pass(30);
    until(&host, "every", 1.0);
    until(&host, "after", 1.0);
    // The clock begins at 01:46:40.
    hand.pass(170);
    until(&host, "cron", 1.0);
    until(&host, "every", 2.0);
    hand.pass(30);
    until(&host, "every", 3.0);
    assert_eq!((count(&host, "after"), count(&host, "first")), (1.0, 1.0));
    assert_eq!(host.summary()[1], "  every 30s (".to_owned() + host.summary()[1].split_once('(').unwrap().1);
}

#[test]
fn a_timer_may_wait_and_a_turn_that_comes_meanwhile_is_left_out() {
    let backend = Backend::start(|_| Reply::ok("").after(400));
    let hand = Hand::new();
    let code = format!(
        "aether.every('1s', function() t:incr('begun') assert(aether.http.get('{}/')) t:incr('done') end)",
        backend.url
    );
    let (host, _dir) = timed(&code, &hand);
    hand.pass(1);
    until(&host, "begun", 1.0);
    for _ in 0..5 {
        hand.pass(1);
        std::thread::sleep(Duration::from_millis(20));
    }
    until(&host, "done", 1.0);
    assert_eq!(backend.most_at_once(), 1);
    hand.pass(1);
    until(&host, "done", 2.0);
}

#[test]
fn the_timers_of_the_old_rules_end_before_those_of_the_new_ones_begin() {
    let hand = Hand::new();
    let rules =
        |name: &str| format!("local t = aether.shared('t')\naether.every('1s', function() t:incr('{name}') end)");
    let (host, dir) = script_with(&rules("old"), HostConfig { clock: hand.config().clock, ..config() });
    hand.pass(1);
    until(&host, "old", 1.0);
    dir.write("rules.lua", rules("new"));
    host.reload().unwrap();
    hand.pass(1);
    until(&host, "new", 1.0);
    hand.pass(1);
    until(&host, "new", 2.0);
    assert_eq!(count(&host, "old"), 1.0);
    host.rollback().unwrap();
    hand.pass(1);
    until(&host, "old", 2.0);
    assert_eq!(count(&host, "new"), 2.0);
}

#[test]
fn a_timer_that_hangs_does_not_hold_up_a_reload_or_the_end() {
    let backend = Backend::start(|_| Reply::ok("").after(600_000));
    let code = format!(
        "aether.every('1h', {{first = '0s'}}, function() t:incr('begun') aether.http.get('{}/', {{timeout = '30s'}}) end)",
        backend.url
    );
    let (host, _dir) = script_with(&format!("local t = aether.shared('t')\n{code}"), config());
    until(&host, "begun", 1.0);
    let began = Instant::now();
    host.reload().unwrap();
    until(&host, "begun", 2.0);
    drop(host);
    assert!(began.elapsed() < Duration::from_secs(25), "{:?}", began.elapsed());
}

#[test]
fn a_timer_that_breaks_or_never_ends_harms_no_other() {
    let hand = Hand::new();
    let (host, _dir) = timed(
        "aether.every('1s', function() t:incr('bad') while true do end end)
aether.every('1s', function() error('no') end)
aether.every('1s', function() t:incr('good') end)",
        &hand,
    );
    for n in 1..=3 {
        hand.pass(1);
        until(&host, "good", f64::from(n));
        until(&host, "bad", f64::from(n));
    }
    super::until("all have broken", || host.counters().errors.load(Ordering::Relaxed) >= 6);
}

#[test]
fn a_timer_that_makes_no_sense_is_refused_with_its_line() {
    for (call, why) in [
        ("aether.every('1ms', print)", "every: a timer ticks every 100ms at most"),
        ("aether.every('soon', print)", "every: expected a duration"),
        ("aether.every('1s', {frist = '0s'}, print)", "every: frist is not known here; did you mean first?"),
        ("aether.after('1s')", "after: takes when, perhaps options, and a function"),
        ("aether.cron('61 * * * *', print)", "cron: \"61\" is no minute"),
    ] {
        let errors = complaints(call);
        assert!(errors[0].starts_with("rules.lua:1: ") && errors[0].contains(why), "{call}: {errors:?}");
    }
}
