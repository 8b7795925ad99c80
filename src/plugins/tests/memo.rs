//! `aether.memo`: one call for all who want the same, in whichever VM, and what becomes of its result.

use super::backend::{Backend, Gate, Reply};
use super::waiting::{config, wait};
use super::*;

fn ask(host: &Host, channel: &str) -> Result<(), Refusal> {
    wait(host.subscribe(&nobody(), &name(channel))).map(drop)
}

fn memo(backend: &Backend, options: &str, hand: &Hand) -> (Arc<Host>, Dir) {
    let code = format!(
        "local role = aether.memo(function(who)
	local res, why = aether.http.get('{}/' .. who)
	if not res then error(why) end
	if res.status == 404 then return nil, 'unknown' end
	if res.status == 500 then error('broken') end
	return res:json()
end, {{name = 'role', {options}}})
local asked = aether.shared('asked')
aether.on.publish('asked', function() return aether.deny('asked', tostring(asked:get('n'))) end)
aether.on.subscribe('{{who}}', function(s, ch)
	asked:incr('n')
	local found, why = role(ch.who)
	if not found then return false, why end
	return found.role == 'reader', found.role
end)",
        backend.url
    );
    script_with(&code, HostConfig { clock: hand.config().clock, ..config() })
}

#[test]
fn a_hundred_hooks_that_want_the_same_at_once_ask_for_it_once() {
    let backend = Backend::start(|_| Reply::ok(r#"{"role":"reader"}"#).after(100));
    let (host, _dir) = memo(&backend, "ttl = '1m'", &Hand::new());
    wait(async {
        let (ann, channels) = (nobody(), [name("ann"), name("bob")]);
        let asked = (0..100).map(|n| host.subscribe(&ann, &channels[n % 2]));
        let answers = futures_util::future::join_all(asked).await;
        assert!(answers.iter().all(Result::is_ok));
    });
    assert_eq!(backend.requests(), 2);
    assert!(ask(&host, "ann").is_ok() && backend.requests() == 2);
}

#[test]
fn a_value_lasts_its_time_and_nothing_is_remembered_for_a_second() {
    let backend = Backend::start(|seen| match seen.path.as_str() {
        "/nobody" => Reply { status: 404, ..Reply::ok("") },
        _ => Reply::ok(r#"{"role":"reader"}"#),
    });
    let hand = Hand::new();
    let (host, _dir) = memo(&backend, "ttl = '1m'", &hand);
    assert!(ask(&host, "ann").is_ok());
    hand.pass(59);
    assert!(ask(&host, "ann").is_ok() && backend.requests() == 1);
    hand.pass(2);
    assert!(ask(&host, "ann").is_ok() && backend.requests() == 2);
    for _ in 0..3 {
        assert_eq!(ask(&host, "nobody").unwrap_err().why, "unknown");
    }
    assert_eq!(backend.requests(), 3);
    hand.pass(2);
    assert!(ask(&host, "nobody").is_err() && backend.requests() == 4);
}

#[test]
fn a_stale_value_does_while_a_new_one_is_fetched() {
    let (gate, count) = (Gate::default(), AtomicU64::new(0));
    let shut = gate.clone();
    let backend = Backend::start(move |_| match count.fetch_add(1, Ordering::SeqCst) {
        0 => Reply::ok(r#"{"role":"reader"}"#),
        _ => {
            shut.pass();
            Reply::ok(r#"{"role":"banned"}"#)
        }
    });
    let hand = Hand::new();
    let (host, _dir) = memo(&backend, "ttl = '1m', stale = '10m'", &hand);
    assert!(ask(&host, "ann").is_ok());
    hand.pass(90);
    assert!(ask(&host, "ann").is_ok(), "the old value does, and nobody waits");
    gate.open();
    until("the new value comes", || ask(&host, "ann").is_err());
    assert_eq!((ask(&host, "ann").unwrap_err().why.as_str(), backend.requests()), ("banned", 2));
}

#[test]
fn an_error_is_told_to_all_who_wait_and_is_not_remembered() {
    let (gate, count) = (Gate::default(), AtomicU64::new(0));
    let shut = gate.clone();
    let backend = Backend::start(move |_| match count.fetch_add(1, Ordering::SeqCst) {
        0 => {
            shut.pass();
            Reply { status: 500, ..Reply::ok("") }
        }
        _ => Reply::ok(r#"{"role":"reader"}"#),
    });
    let (host, _dir) = memo(&backend, "ttl = '1m'", &Hand::new());
    let asked = || publish(&host, &nobody(), "asked", "1").unwrap_err().why;
    let log = logged(|| {
        wait(async {
            let (ann, channel) = (nobody(), name("ann"));
            let all = futures_util::future::join_all((0..5).map(|_| host.subscribe(&ann, &channel)));
            let mut all = std::pin::pin!(all);
            assert!(futures_util::poll!(&mut all).is_pending());
            until("all wait", || asked() == "5");
            gate.open();
            let answers = all.await;
            assert!(answers.iter().all(|answer| answer.as_ref().is_err_and(|no| no.code == "rule_error")));
        });
    });
    assert!(log.contains("rules.lua:5: broken"), "{log}");
    assert_eq!(backend.requests(), 1);
    assert!(ask(&host, "ann").is_ok());
}

#[test]
fn values_outlive_a_reload_by_their_name() {
    let backend = Backend::start(|_| Reply::ok(r#"{"role":"reader"}"#));
    let (host, _dir) = memo(&backend, "ttl = '1m'", &Hand::new());
    assert!(ask(&host, "ann").is_ok());
    host.reload().unwrap();
    assert!(ask(&host, "ann").is_ok() && backend.requests() == 1);
}

#[test]
fn a_memo_that_makes_no_sense_is_refused_with_its_line() {
    for (call, why) in [
        ("aether.memo(print)", "expected a function and options"),
        ("aether.memo(print, {ttl = '1s'})", "name is missing"),
        ("aether.memo(print, {name = 'a'})", "ttl is missing"),
        ("aether.memo(print, {name = 'a', ttl = 'soon'})", "ttl: expected a duration"),
        ("aether.memo(print, {name = 'a', ttl = '1s', stail = 1})", "did you mean stale?"),
        ("for i = 1, 2 do aether.memo(print, {name = 'a', ttl = '1s'}) end", "there is a memo \"a\" already"),
    ] {
        let errors = complaints(call);
        assert!(errors[0].contains("rules.lua:1: memo: ") && errors[0].contains(why), "{call}: {errors:?}");
    }
    let (host, _dir) = script(
        "local f = aether.memo(print, {name = 'a', ttl = '1s'})\naether.on.publish('a', function() f(1) return true end)",
    );
    let log = logged(|| assert!(publish(&host, &nobody(), "a", "{}").is_err()));
    assert!(log.contains("rules.lua:2: the memo a waits, and on.publish a must not"), "{log}");
}
