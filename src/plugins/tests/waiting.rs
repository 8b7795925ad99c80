//! Hooks that wait: on threads of their own, in order, bounded, and without harm to those that do not.

use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use super::backend::{Backend, Gate, Reply};
use super::*;
use crate::kernel::hooks::{Admission, RefusalKind};
use crate::plugins::BreakerLimits;

pub fn wait<T>(answer: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(answer)
}

/// Everything that a script may ask on this machine.
pub fn config() -> HostConfig {
    let breaker = BreakerLimits { failures: usize::MAX, ..BreakerLimits::default() };
    let limits = Limits { breaker, ..calm().limits };
    HostConfig { private_http: vec!["http://127.0.0.1:*/*".into()], limits, ..calm() }
}

fn with_limits(change: impl Fn(&mut Limits)) -> HostConfig {
    let mut config = config();
    change(&mut config.limits);
    config
}

/// Yes to everybody, once the gate is open.
fn gated() -> (Backend, Gate) {
    let gate = Gate::default();
    let shut = gate.clone();
    let backend = Backend::start(move |_| {
        shut.pass();
        Reply::ok("{}")
    });
    (backend, gate)
}

fn asking(code: &str, backend: &Backend) -> (Arc<Host>, Dir) {
    script_with(&code.replace("URL", &backend.url), config())
}

/// Yes to whoever is asked about as `good`.
fn judging() -> Backend {
    Backend::start(|seen| Reply { status: if seen.path.ends_with("good") { 200 } else { 403 }, ..Reply::ok("{}") })
}

#[test]
fn every_kind_of_hook_that_may_wait_asks_a_back_end() {
    let backend = judging();
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
fn many_wait_at_once_and_nobody_else_waits_with_them() {
    let (backend, gate) = gated();
    let (host, _dir) = asking(
        "aether.on.subscribe('slow.*', function(s, ch) return aether.http.get('URL/', {timeout = '30s'}).status == 200 end)
aether.on.publish('fast.*', function() return true end)",
        &backend,
    );
    wait(async {
        let ann = nobody();
        let channels: Vec<_> = (0..50).map(|n| name(&format!("slow.{n}"))).collect();
        let mut all = futures_util::future::join_all(channels.iter().map(|channel| host.subscribe(&ann, channel)));
        assert!(futures_util::poll!(&mut all).is_pending());
        until("all wait at once", || backend.at_once() == 50);
        for _ in 0..100 {
            publish(&host, &nobody(), "fast.1", "{}").expect("hot hooks answer at once");
        }
        gate.open();
        assert!(all.await.iter().all(Result::is_ok));
    });
}

#[test]
fn any_deny_wins_where_one_hook_waits_and_a_hot_no_needs_no_waiting() {
    let backend = judging();
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
    // The last that came is answered first: `/0`, and then `/1` and so on.
    let next = (Mutex::new(0), Condvar::new());
    let backend = Backend::start(move |seen| {
        let number: usize = seen.path.trim_start_matches('/').parse().unwrap();
        let mut turn = next.0.lock();
        while *turn < number {
            next.1.wait(&mut turn);
        }
        *turn += 1;
        next.1.notify_all();
        Reply::ok("")
    });
    let (host, _dir) = asking(
        "aether.on.publish('*', {async = true}, function(s, ch, msg)
	if msg:text() == 'no' then return false end
	return aether.http.get('URL/' .. msg:text(), {timeout = '30s'}) ~= nil
end)",
        &backend,
    );
    let order = wait(async {
        let ann = nobody();
        let order = std::cell::RefCell::new(Vec::new());
        let payloads = ["6", "5", "no", "4", "3", "2", "1"];
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
        let mut drafts = futures_util::future::join_all(drafts);
        assert!(futures_util::poll!(&mut drafts).is_pending());
        // Another channel waits for nobody: this one is answered before all of those.
        host.publish(&ann, draft("b", "0")).await.map(drop).unwrap();
        drafts.await;
        order.into_inner()
    });
    assert_eq!(order, ["6", "5", "4", "3", "2", "1"]);
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
    let (backend, _gate) = gated();
    let code = "aether.on.subscribe('a', function()
	local res = aether.http.get('URL/', {timeout = '30s'})
	return true
end)";
    let config = with_limits(|limits| limits.waiting_time = Duration::from_millis(100));
    let (host, _dir) = script_with(&code.replace("URL", &backend.url), config);
    let log = logged(|| {
        let refusal = wait(host.subscribe(&nobody(), &name("a"))).err().unwrap();
        assert_eq!((refusal.kind, &*refusal.code), (RefusalKind::Broken, "rule_error"));
    });
    assert!(log.contains("rules.lua:2: aether.http.get waited too long (on.subscribe a may take 100ms)"), "{log}");
}

#[test]
fn beyond_so_many_waiting_calls_of_a_plugin_the_next_hears_busy() {
    let (backend, gate) = gated();
    let code = "aether.on.subscribe('*', function() return aether.http.get('URL/', {timeout = '30s'}) ~= nil end)";
    let config = with_limits(|limits| (limits.waiting_calls, limits.waiting_threads) = (3, 1));
    let (host, _dir) = script_with(&code.replace("URL", &backend.url), config);
    wait(async {
        let (ann, a) = (nobody(), name("a"));
        let mut all = futures_util::future::join_all((0..3).map(|_| host.subscribe(&ann, &a)));
        assert!(futures_util::poll!(&mut all).is_pending());
        for _ in 0..2 {
            assert_eq!(host.subscribe(&ann, &a).await.map(drop).unwrap_err().kind, RefusalKind::Busy);
        }
        gate.open();
        assert!(all.await.iter().all(Result::is_ok));
        host.subscribe(&ann, &a).await.map(drop).expect("there is room again");
    });
}

#[test]
fn who_waits_when_the_rules_change_is_answered_by_the_old_ones() {
    let (backend, gate) = gated();
    let (host, dir) = asking(
        "aether.on.subscribe('a', function() local ok = aether.http.get('URL/', {timeout = '30s'}).status == 200 return ok end)",
        &backend,
    );
    wait(async {
        let (ann, a) = (nobody(), name("a"));
        let mut asked = host.subscribe(&ann, &a);
        assert!(futures_util::poll!(asked.as_mut()).is_pending());
        dir.write("rules.lua", "aether.on.subscribe('a', function() return false, 'new' end)");
        host.reload().unwrap();
        assert_eq!(host.subscribe(&ann, &a).await.map(drop).unwrap_err().why, "new");
        gate.open();
        asked.await.map(drop).expect("it finishes as it began");
    });
}

#[test]
fn a_host_that_stops_does_not_wait_for_hooks_that_do() {
    let (backend, _gate) = gated();
    let code = "aether.on.disconnect(function() aether.http.get('URL/', {timeout = '30s'}) end)
        aether.on.subscribe('a', function() return aether.http.get('URL/', {timeout = '30s'}) ~= nil end)";
    let (host, _dir) = script_with(&code.replace("URL", &backend.url), config());
    let gone = crate::kernel::hooks::Farewell { cause: "client", code: None, reason: String::new() };
    host.disconnected(&Arc::new(nobody()), &gone);
    until("it waits", || backend.requests() > 0);
    let began = Instant::now();
    drop(host);
    assert!(began.elapsed() < Duration::from_secs(25), "{:?}", began.elapsed());
}

#[test]
fn a_hook_outlives_a_server_that_is_silent_and_says_what_it_thinks_of_it() {
    let (backend, _gate) = gated();
    let code = "aether.on.subscribe('a', function()
	local res, why = aether.http.get('URL/')
	return if res then true else aether.deny('unavailable', why)
end)";
    let config = with_limits(|limits| limits.waiting_time = Duration::from_millis(1500));
    let (host, _dir) = script_with(&code.replace("URL", &backend.url), config);
    until("it outlives it", || {
        let refusal = wait(host.subscribe(&nobody(), &name("a"))).err().unwrap();
        // Where the machine stood still for a quarter of a second, the hook was cut off too.
        let says = (refusal.kind, &*refusal.code) == (RefusalKind::Denied, "unavailable");
        assert!(!says || refusal.why.contains("did not answer within 1.25s"), "{}", refusal.why);
        says
    });
}

#[test]
fn an_errand_is_run_beside_the_hook_that_does_not_wait_for_it() {
    let (backend, gate) = gated();
    let code = "local function tell(who) assert(aether.http.get('URL/' .. who, {timeout = '30s'})) aether.shared('told'):incr('all') error('it breaks') end
aether.on.subscribe('a', function() return aether.errand(tell, 'good') end)
aether.on.subscribe('told', function() return aether.shared('told'):get('all') == 1 end)
aether.on.subscribe('many', function() local sent for n = 1, 1001 do sent = aether.errand(tell, 'good') end return sent end)";
    let (host, _dir) = asking(code, &backend);
    assert!(wait(host.subscribe(&nobody(), &name("a"))).is_ok(), "though nobody has answered the errand");
    gate.open();
    until("the errand is done", || wait(host.subscribe(&nobody(), &name("told"))).is_ok());
    assert!(wait(host.subscribe(&nobody(), &name("many"))).is_err(), "there is an end to them");
}
