//! What breaks again and again is not run.

use super::*;
use crate::kernel::hooks::RefusalKind;

#[test]
fn a_hook_that_breaks_all_the_time_rests_and_comes_back() {
    let hand = Hand::new();
    let (host, _dir) = script_with(
        "aether.on.subscribe('a', function(s) assert(s.user == 'good') return true end)
         aether.on.subscribe('b', function() return true end)
         aether.on.publish('a', function() return true end)",
        hand.config(),
    );
    let good = client(Some("good"), Grants::default());
    let (open, off) = (&host.counters().breakers_open, &host.counters().broken_off);
    let log = logged(|| (0..30).for_each(|_| drop(subscribe(&host, &nobody(), "a").unwrap_err())));
    assert_eq!(entries(&host), 20, "ten were not run");
    assert_eq!((open.load(Ordering::Relaxed), off.load(Ordering::Relaxed)), (1, 10));
    assert_eq!(log.matches("breaker opened: 20 failures in 10s").count(), 1, "{log}");
    assert_eq!((log.matches("a rule broke").count(), log.matches("breaker open ").count()), (20, 10), "{log}");

    let refusal = subscribe(&host, &good, "a").unwrap_err();
    assert_eq!((refusal.kind, refusal.code.as_str()), (RefusalKind::Broken, "rule_error"));
    subscribe(&host, &good, "b").expect("whoever can break the rule for one channel closes no other");
    publish(&host, &good, "a", "1").expect("another kind of the same plugin is unharmed");

    hand.pass(5);
    let before = entries(&host);
    assert!(subscribe(&host, &nobody(), "a").is_err() && subscribe(&host, &good, "a").is_err());
    assert_eq!(entries(&host), before + 1, "one call tried, and it failed");
    hand.pass(5);
    let log = logged(|| {
        assert!(subscribe(&host, &good, "a").is_ok() && subscribe(&host, &good, "a").is_ok());
    });
    assert_eq!(log.matches("breaker closed").count(), 1, "{log}");
    assert_eq!(open.load(Ordering::Relaxed), 0);
}

#[test]
fn failures_now_and_then_do_not_open_it() {
    let hand = Hand::new();
    let (host, _dir) = script_with("aether.on.subscribe('a', function() error('x') end)", hand.config());
    for _ in 0..60 {
        let _ = subscribe(&host, &nobody(), "a");
        hand.pass(1);
    }
    assert_eq!((entries(&host), host.counters().broken_off.load(Ordering::Relaxed)), (60, 0));
}
