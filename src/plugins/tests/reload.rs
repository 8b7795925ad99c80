//! Reload and rollback: all or nothing, one generation a request, and what one leaves to the next.

use std::sync::atomic::AtomicBool;
use std::thread;

use super::*;

fn reloaded(dir: &Dir, host: &Host, code: &str) -> Result<crate::plugins::Change, LoadError> {
    dir.write("rules.lua", code);
    host.reload()
}

#[test]
fn a_reload_puts_other_rules_in_charge_and_a_rollback_the_old_ones() {
    let (host, dir) = script("aether.on.publish('a.*', function() return true end)");
    let first = host.generation();
    assert!(publish(&host, &nobody(), "a.1", "{}").is_ok() && publish(&host, &nobody(), "b.1", "{}").is_err());
    let change = reloaded(&dir, &host, "aether.on.publish('b.*', function() return true end)").unwrap();
    assert_eq!((change.before, change.generation), (first, host.generation()));
    assert_eq!(change.hooks_added, ["rules: on.publish b.*"]);
    assert_eq!(change.hooks_removed, ["rules: on.publish a.*"]);
    assert!(publish(&host, &nobody(), "a.1", "{}").is_err() && publish(&host, &nobody(), "b.1", "{}").is_ok());
    assert_eq!(host.rollback().unwrap().generation, first);
    assert!(publish(&host, &nobody(), "a.1", "{}").is_ok() && publish(&host, &nobody(), "b.1", "{}").is_err());
    assert!(host.rollback().unwrap_err().to_string().contains("no generation to go back to"));
}

#[test]
fn a_reload_that_fails_changes_nothing_and_is_told() {
    let (host, dir) = script("aether.on.publish('a.*', function() return true end)");
    let before = host.generation();
    let errors = reloaded(&dir, &host, "aether.on.publish('b.*', 7)\nlocal = 3").unwrap_err();
    assert!(errors.to_string().contains("rules.lua:2:"), "{errors}");
    assert!(publish(&host, &nobody(), "a.1", "{}").is_ok());
    assert_eq!(host.generation(), before);
    let described = host.described();
    assert_eq!(described["failed_reloads"], 1);
    assert!(described["last_failure"]["errors"][0].as_str().unwrap().contains("rules.lua:2:"));
    reloaded(&dir, &host, "").unwrap();
    assert_eq!(host.described()["last_failure"], serde_json::Value::Null);
}

#[test]
fn a_rollback_mends_nothing_on_disk() {
    let (host, dir) = script("-- 0");
    reloaded(&dir, &host, "-- 1").unwrap();
    reloaded(&dir, &host, "local = 3").unwrap_err();
    host.rollback().unwrap();
    assert!(host.latest().failed.is_some(), "a restart would still fail");
    reloaded(&dir, &host, "-- 2").unwrap();
    assert!(host.latest().failed.is_none());
}

#[test]
fn five_generations_are_kept() {
    let (host, dir) = script("-- 0");
    for n in 1..=8 {
        reloaded(&dir, &host, &format!("-- {n}")).unwrap();
    }
    let rollbacks = std::iter::from_fn(|| host.rollback().ok()).count();
    assert_eq!(rollbacks, 5);
}

#[test]
fn what_an_unload_hook_leaves_the_next_load_hook_gets() {
    let (host, dir) = script(
        "aether.on.load(function(prev) assert(prev == nil) aether.shared('t'):set('loaded', 1) end)
         aether.on.unload(function() return {n = 41} end)",
    );
    reloaded(&dir, &host, "aether.on.load(function(prev) aether.shared('t'):set('loaded', prev.n + 1) end)").unwrap();
    dir.write("rules.lua", "aether.on.publish('a', function() return aether.shared('t'):get('loaded') == 42 end)");
    host.reload().unwrap();
    assert!(publish(&host, &nobody(), "a", "{}").is_ok());
}

#[test]
fn a_load_hook_that_fails_refuses_the_reload() {
    let (host, dir) = script("aether.on.publish('a', function() return true end)");
    let error = reloaded(&dir, &host, "aether.on.load(function() error('no table yet') end)").unwrap_err();
    assert!(error.to_string().contains("rules.lua:1: no table yet"), "{error}");
    assert!(publish(&host, &nobody(), "a", "{}").is_ok());
}

#[test]
fn remembered_answers_do_not_outlive_their_rules() {
    let (host, dir) = script(
        "aether.on.connect(function(req) return aether.allow({user = 'old', ttl = '1h'}) end)
         aether.on.subscribe('a', function() return aether.allow({ttl = '1h'}) end)",
    );
    let ann = client(Some("ann"), Grants::default());
    assert!(subscribe(&host, &ann, "a").is_ok() && subscribe(&host, &ann, "a").is_ok());
    assert_eq!(connect_by("http", &host, Some("t")).unwrap().user.as_deref(), Some("old"));
    let code = "aether.on.connect(function(req) return aether.allow({user = 'new'}) end)";
    reloaded(&dir, &host, code).unwrap();
    assert!(subscribe(&host, &ann, "a").is_err());
    assert_eq!(connect_by("http", &host, Some("t")).unwrap().user.as_deref(), Some("new"));
    host.rollback().unwrap();
    assert_eq!(connect_by("http", &host, Some("t")).unwrap().user.as_deref(), Some("old"));
}

/// The two hooks of a generation agree; one of each would allow what neither allows alone.
#[test]
fn a_request_is_judged_by_one_generation_however_often_the_rules_change() {
    let rules = |side: &str| {
        format!(
            "aether.on.connect(function() return aether.allow({{user = '{side}'}}) end)
             aether.on.publish('c', function(s) return s.user == '{side}' end)"
        )
    };
    let (host, dir) = script(&rules("left"));
    let done = Arc::new(AtomicBool::new(false));
    thread::scope(|scope| {
        for _ in 0..2 {
            let (host, done) = (host.clone(), done.clone());
            scope.spawn(move || {
                let mut count = 0;
                while !done.load(Ordering::Relaxed) || count < 100 {
                    let request = Box::pin(async {
                        let identity = host.connect(&ConnectRequest::default()).await.unwrap();
                        let caller = Client { identity, ..nobody() };
                        host.publish(&caller, draft("c", "{}")).await.unwrap();
                        // The rules change under a request that waits.
                        thread::yield_now();
                        host.publish(&caller, draft("c", "{}")).await.unwrap();
                    });
                    let mut request = host.as_one(request);
                    let done = request.as_mut().poll(&mut Context::from_waker(Waker::noop()));
                    assert!(done.is_ready());
                    count += 1;
                }
            });
        }
        for n in 0..100 {
            reloaded(&dir, &host, &rules(["right", "left"][n % 2])).unwrap();
        }
        done.store(true, Ordering::Relaxed);
    });
}
