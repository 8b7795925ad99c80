//! Hooks that wait: on threads of their own, in order, bounded, and without harm to those that do not.

use std::time::{Duration, Instant};

use super::backend::{Backend, Reply};
use super::*;
use crate::kernel::hooks::{Admission, RefusalKind};
use crate::plugins::BreakerLimits;

pub fn wait<T>(answer: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(answer)
}

/// Everything that a script may ask on this machine.
pub fn config() -> HostConfig {
    let breaker = BreakerLimits { failures: usize::MAX, ..BreakerLimits::default() };
    let limits = Limits { breaker, ..Limits::default() };
    HostConfig { private_http: vec!["http://127.0.0.1:*/*".into()], limits, ..HostConfig::default() }
}

fn with_limits(change: impl Fn(&mut Limits)) -> HostConfig {
    let mut config = config();
    change(&mut config.limits);
    config
}

fn asking(code: &str, backend: &Backend) -> (Arc<Host>, Dir) {
    script_with(&code.replace("URL", &backend.url), config())
}

/// Yes to whoever is asked about as `good`, after a while.
fn slow(millis: u64) -> Backend {
    Backend::start(move |seen| {
        let status = if seen.path.ends_with("good") { 200 } else { 403 };
        Reply { status, ..Reply::ok("{}") }.after(millis)
    })
}

#[test]
fn every_kind_of_hook_that_may_wait_asks_a_back_end() {
    let backend = slow(5);
    let (host, _dir) = asking(
        "local function ask(who) local res, why = aether.http.get('URL/' .. tostring(who)) assert(res, why) return res.status == 200 end
aether.on.load(function() assert(ask('good')) end)
aether.on.connect(function(req) if ask(req:bearer()) then return aether.allow({user = req:bearer()}) end return false, 'unknown' end)
aether.on.refresh(function(s, token) return ask(token) end)
aether.on.subscribe('{who}', function(s, ch) return ask(ch.who) end)
aether.on.history('{who}', function(s, ch) return ask(ch.who) end)
aether.on.publish('{who}', {async = true}, function(s, ch, msg) return ask(msg:text()) and msg.size == 4 end)",
        &backend,
    );
    let ann = nobody();
    let request = |bearer: &str| ConnectRequest { bearer: Some(bearer.into()), ..ConnectRequest::default() };
    assert_eq!(wait(host.connect(&request("good"))).unwrap().user.as_deref(), Some("good"));
    assert!(wait(host.connect(&request("bad"))).is_err());
    assert!(wait(host.refresh(&ann, "good")).is_ok() && wait(host.refresh(&ann, "bad")).is_err());
    for (who, allowed) in [("good", true), ("bad", false)] {
        assert_eq!(wait(host.subscribe(&ann, &name(who))).is_ok(), allowed);
        assert_eq!(wait(host.history(&ann, &name(who), false)).is_ok(), allowed);
        assert_eq!(wait(host.publish(&ann, draft("x", who))).is_ok(), allowed);
    }
    assert!(backend.requests() >= 11, "{}", backend.requests());
    assert!(backend.connections() <= 2, "connections are kept: {}", backend.connections());
}

#[test]
fn hundreds_wait_at_once_and_nobody_else_waits_with_them() {
    let backend = slow(300);
    let (host, _dir) = asking(
        "aether.on.subscribe('slow.*', function(s, ch) return aether.http.get('URL/good').status == 200 end)
aether.on.publish('fast.*', function() return true end)",
        &backend,
    );
    let began = Instant::now();
    wait(async {
        let ann = nobody();
        let channels: Vec<_> = (0..50).map(|n| name(&format!("slow.{n}"))).collect();
        let asked: Vec<_> = channels.iter().map(|channel| host.subscribe(&ann, channel)).collect();
        let all = futures_util::future::join_all(asked);
        let fast = async {
            tokio::time::sleep(Duration::from_millis(50)).await;
            let began = Instant::now();
            for _ in 0..100 {
                publish(&host, &nobody(), "fast.1", "{}").expect("hot hooks answer at once");
            }
            assert!(began.elapsed() < Duration::from_millis(200), "{:?}", began.elapsed());
        };
        let (answers, ()) = tokio::join!(all, fast);
        assert!(answers.iter().all(Result::is_ok));
    });
    assert!(backend.most_at_once() > 10, "{}", backend.most_at_once());
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
}

#[test]
fn any_deny_wins_where_one_hook_waits_and_a_hot_no_needs_no_waiting() {
    let backend = slow(1);
    let (host, dir) = asking(
        "aether.on.subscribe('{who}.{way}', function(s, ch) return aether.http.get('URL/' .. ch.who).status == 200 end)",
        &backend,
    );
    dir.write(
        "hot.lua",
        "aether.on.subscribe('*', function(s, ch) if ch.name:find('hot') then return false, 'hot' end return true end)",
    );
    host.reload().unwrap();
    let ann = client(Some("ann"), granted(&["*"]));
    assert!(wait(host.subscribe(&ann, &name("good.x"))).is_ok());
    assert!(wait(host.subscribe(&ann, &name("bad.x"))).is_err());
    let before = backend.requests();
    assert_eq!(subscribe(&host, &ann, "good.hot").err().unwrap().why, "hot");
    assert_eq!(backend.requests(), before);
}

#[test]
fn drafts_of_a_channel_go_on_in_the_order_in_which_they_came_whatever_their_hooks_wait_for() {
    let backend = Backend::start(|seen| {
        let millis = seen.path.trim_start_matches("/?ms=").parse().unwrap_or(0);
        Reply::ok("").after(millis)
    });
    let (host, _dir) = asking(
        "aether.on.publish('*', {async = true}, function(s, ch, msg)
	if msg:text() == 'no' then return false end
	return aether.http.get('URL/?ms=' .. msg:text()) ~= nil
end)",
        &backend,
    );
    let began = Instant::now();
    let order = wait(async {
        let ann = nobody();
        let order = std::cell::RefCell::new(Vec::new());
        let payloads = ["200", "1", "no", "150", "100", "50", "2"];
        let drafts = payloads.map(|payload| {
            let admitted = host.publish(&ann, draft("a", payload));
            async {
                match admitted.await {
                    Ok(Admission { draft, turn }) => {
                        order.borrow_mut().push(String::from_utf8_lossy(&draft.message.payload).into_owned());
                        // As the kernel does until the draft stands in its lane.
                        tokio::task::yield_now().await;
                        drop(turn);
                    }
                    Err(refusal) => assert_eq!(refusal.kind, RefusalKind::Denied),
                }
            }
        });
        let other = async {
            let began = Instant::now();
            host.publish(&ann, draft("b", "1")).await.map(drop).unwrap();
            assert!(began.elapsed() < Duration::from_millis(150), "another channel waits for nobody");
        };
        tokio::join!(futures_util::future::join_all(drafts), other);
        order.into_inner()
    });
    assert_eq!(order, ["200", "1", "150", "100", "50", "2"]);
    assert!(began.elapsed() < Duration::from_millis(450), "their hooks run side by side: {:?}", began.elapsed());
}

#[test]
fn a_hot_hook_that_wants_to_wait_hears_the_line_and_the_fix() {
    let (host, _dir) = script_with(
        "local get = aether.http.get
aether.on.publish('a', function()
	get('http://127.0.0.1:1/')
	return true
end)
aether.on.subscribe('a', {async = false}, function()
	return coroutine.wrap(function() return get('http://127.0.0.1:1/') end)()
end)
aether.on.subscribe('b', function()
	return coroutine.wrap(function() return get('http://127.0.0.1:1/') end)()
end)",
        config(),
    );
    let log = logged(|| assert!(publish(&host, &nobody(), "a", "{}").is_err()));
    let told = "rules.lua:3: aether.http.get waits, and on.publish a must not: register it with {async = true}";
    assert!(log.contains(told), "{log}");
    let log = logged(|| assert!(subscribe(&host, &nobody(), "a").is_err()));
    assert!(log.contains("rules.lua:7: aether.http.get waits, and on.subscribe a must not"), "{log}");
    let log = logged(|| assert!(wait(host.subscribe(&nobody(), &name("b"))).is_err()));
    assert!(log.contains("rules.lua:10: aether.http.get waits, and must not inside a coroutine"), "{log}");
    let errors = complaints("aether.http.get('http://127.0.0.1:1/')");
    assert!(errors[0].contains("rules.lua:1: aether.http.get waits, and a file that loads must not"), "{errors:?}");
}

#[test]
fn a_connect_hook_may_say_that_it_does_not_wait() {
    let (host, _dir) = script_with(
        "local get = aether.http.get
aether.on.connect({ async = false }, function(req)
	if req:bearer() then return get('http://127.0.0.1:1/') end
	return aether.allow({ user = 'ann' })
end)",
        config(),
    );
    assert_eq!(connect(&host, None).unwrap().user.as_deref(), Some("ann"));
    let log = logged(|| assert!(connect(&host, Some("x")).is_err()));
    assert!(log.contains("rules.lua:3: aether.http.get waits, and on.connect must not"), "{log}");
    let errors = complaints("aether.on.refresh({ async = false }, function() end)");
    assert!(errors[0].contains("on.refresh takes one function"), "{errors:?}");
}

#[test]
fn a_hook_that_waits_too_long_is_cut_off_at_the_line_where_it_waits() {
    let backend = slow(3000);
    let code = "aether.on.subscribe('a', function()
	local res = aether.http.get('URL/good', {timeout = '10s'})
	return true
end)";
    let config = with_limits(|limits| limits.waiting_time = Duration::from_millis(100));
    let (host, _dir) = script_with(&code.replace("URL", &backend.url), config);
    let began = Instant::now();
    let log = logged(|| {
        let refusal = wait(host.subscribe(&nobody(), &name("a"))).err().unwrap();
        assert_eq!((refusal.kind, &*refusal.code), (RefusalKind::Broken, "rule_error"));
    });
    assert!(log.contains("rules.lua:2: aether.http.get waited too long (on.subscribe a may take 100ms)"), "{log}");
    assert!(began.elapsed() < Duration::from_secs(2));
}

#[test]
fn beyond_so_many_waiting_calls_of_a_plugin_the_next_hears_busy() {
    let backend = slow(300);
    let code = "aether.on.subscribe('*', function() return aether.http.get('URL/good') ~= nil end)";
    let config = with_limits(|limits| limits.waiting_calls = 3);
    let (host, _dir) = script_with(&code.replace("URL", &backend.url), config);
    wait(async {
        let (ann, a) = (nobody(), name("a"));
        let asked = (0..5).map(|_| host.subscribe(&ann, &a));
        let answers = futures_util::future::join_all(asked).await;
        let busy = answers.iter().filter(|answer| matches!(answer, Err(no) if no.kind == RefusalKind::Busy)).count();
        assert_eq!((busy, answers.iter().filter(|answer| answer.is_ok()).count()), (2, 3));
        host.subscribe(&ann, &a).await.map(drop).expect("there is room again");
    });
}

#[test]
fn who_waits_when_the_rules_change_is_answered_by_the_old_ones() {
    let backend = slow(150);
    let (host, dir) = asking(
        "aether.on.subscribe('a', function() local ok = aether.http.get('URL/good').status == 200 return ok end)",
        &backend,
    );
    wait(async {
        let (ann, a) = (nobody(), name("a"));
        let mut asked = host.subscribe(&ann, &a);
        assert!(futures_util::poll!(asked.as_mut()).is_pending());
        dir.write("rules.lua", "aether.on.subscribe('a', function() return false, 'new' end)");
        host.reload().unwrap();
        assert_eq!(host.subscribe(&ann, &a).await.map(drop).unwrap_err().why, "new");
        asked.await.map(drop).expect("it finishes as it began");
    });
}

#[test]
fn a_host_that_stops_does_not_wait_for_hooks_that_do() {
    let backend = slow(10_000);
    let code = "aether.on.disconnect(function() aether.http.get('URL/good', {timeout = '30s'}) end)
        aether.on.subscribe('a', function() return aether.http.get('URL/good', {timeout = '30s'}) ~= nil end)";
    let config = with_limits(|limits| limits.waiting_time = Duration::from_secs(60));
    let (host, _dir) = script_with(&code.replace("URL", &backend.url), config);
    let gone = crate::kernel::hooks::Farewell { cause: "client", code: None };
    host.disconnected(&Arc::new(nobody()), &gone);
    let until = Instant::now() + Duration::from_secs(5);
    while backend.requests() == 0 {
        assert!(Instant::now() < until);
        std::thread::sleep(Duration::from_millis(5));
    }
    let began = Instant::now();
    drop(host);
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
}

#[test]
fn a_hook_outlives_a_server_that_is_silent_and_says_what_it_thinks_of_it() {
    let backend = slow(3000);
    let code = "aether.on.subscribe('a', function()
	local res, why = aether.http.get('URL/good')
	return if res then true else aether.deny('unavailable', why)
end)";
    let config = with_limits(|limits| limits.waiting_time = Duration::from_millis(1500));
    let (host, _dir) = script_with(&code.replace("URL", &backend.url), config);
    let refusal = wait(host.subscribe(&nobody(), &name("a"))).err().unwrap();
    assert_eq!((refusal.kind, &*refusal.code), (RefusalKind::Denied, "unavailable"));
    assert!(refusal.why.contains("did not answer within 1.25s"), "{}", refusal.why);
}
