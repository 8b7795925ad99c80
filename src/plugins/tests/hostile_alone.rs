//! Every hostile program where no client waits for the answer (timers, join, leave and disconnect hooks), in routes, and in
//! every kind that waits.

use std::time::{Duration, Instant};

use super::backend::{Backend, Reply};
use super::hostile::{EMPTY, PROGRAMS, WAITING};
use super::waiting::{config, wait};
use super::*;
use crate::kernel::hooks::{Farewell, RefusalKind};
use crate::plugins::{Auth, RouteAnswer, Routed, Visit};

/// Where a loop ends soon.
fn brief() -> HostConfig {
    let soon = Duration::from_millis(20);
    let limits = Limits { call: soon, connect: soon, waiting_budget: soon, ..config().limits };
    HostConfig { limits, ..config() }
}

/// A file in which this is written has hooks that wait.
const WAITS: &str = "local http = aether.http";

/// Kinds that are only told, with the program on line 2, 4, ..: each runs it for whoever is bad, and counts whoever is good.
fn told_kinds(program: &str, first: &str) -> String {
    format!(
        "{first} aether.on.join('*', function(ch, sessions) if ch.name == 'bad' then
{program} end aether.shared('t'):incr('join') end)
aether.on.leave('*', function(ch, sessions) if ch.name == 'bad' then
{program} end aether.shared('t'):incr('leave') end)
aether.on.disconnect(function(s, why) if s.user == 'bad' then
{program} end aether.shared('t'):incr('disconnect') end)
aether.every('1h', {{ first = '0s' }}, function()
{program} end)
aether.after('0s', function()
{program} end)
aether.cron('47 1 9 9 *', function()
{program} end)
aether.after('200ms', function() aether.shared('t'):incr('after') end)
aether.on.publish('told', function() return aether.deny('told', aether.json.encode(aether.shared('t'):get('join') or 0)
	.. aether.json.encode(aether.shared('t'):get('leave') or 0) .. aether.json.encode(aether.shared('t'):get('disconnect') or 0)
	.. aether.json.encode(aether.shared('t'):get('after') or 0)) end)"
    )
}

#[test]
fn every_hostile_program_that_nobody_waits_for_is_stopped_and_named_and_the_next_call_is_unharmed() {
    let backend = Backend::start(|seen| Reply::ok("").after(if seen.path == "/never" { 60_000 } else { 2 }));
    let hot = PROGRAMS.into_iter().map(|program| (program, ""));
    let waiting = PROGRAMS.into_iter().chain(WAITING).map(|program| (program, WAITS));
    // What is answered does not matter here.
    for ((what, program), first) in hot.chain(waiting).filter(|((what, _), _)| *what != EMPTY) {
        let dir = Dir::new();
        let ear = heard_about(&dir);
        dir.write("rules.lua", told_kinds(program, first).replace("URL", &backend.url));
        let clock = Hand::new();
        let mut config = HostConfig { clock: clock.config().clock, scripts: Some(dir.0.clone()), ..brief() };
        config.limits.waiting_time = Duration::from_millis(300);
        let host = Host::load(config).unwrap();
        host.begin().unwrap();
        let bad = Arc::new(client(Some("bad"), Grants::default()));
        let good = Arc::new(client(Some("good"), Grants::default()));
        for (who, channel) in [(&bad, "bad"), (&good, "good")] {
            host.joined(who, &name(channel));
            host.left(who, &name(channel));
            host.disconnected(who, &Farewell { cause: "client", code: Some(1000), reason: String::new() });
        }
        let told = || publish(&host, &nobody(), "told", "1").unwrap_err().why;
        let all = || host.counters().errors.load(Ordering::Relaxed) >= 6 && told() == "1111";
        let end = Instant::now() + DEADLINE;
        while !all() {
            let errors = host.counters().errors.load(Ordering::Relaxed);
            assert!(Instant::now() < end, "{what} {first} {errors} {} {}", told(), ear.lock());
            clock.pass(1);
            std::thread::sleep(Duration::from_millis(5));
        }
        drop(host);
        let log = ear.lock().clone();
        for line in [2, 4, 6, 8, 10, 12] {
            let (hook, line) = (format!("rules.lua:{}: ", line - 1), format!("rules.lua:{line}: "));
            let named = log.lines().any(|one| one.contains("ERROR") && (one.contains(&hook) || one.contains(&line)));
            assert!(named, "{what} {first} {line}: {log}");
        }
        assert!(log.len() < 16_384, "{what}: {log}");
    }
}

fn answer(host: &Arc<Host>, path: &str) -> Result<RouteAnswer, Refusal> {
    let Routed::Route(call) = host.route(None, "GET", path) else { panic!("{path} is no route") };
    let request = ConnectRequest { transport: "http", path: path.into(), ..ConnectRequest::default() };
    let client = (call.auth() != Auth::None).then(nobody);
    wait(call.answer(Visit { request, body: Bytes::new(), client }))
}

#[test]
fn every_hostile_program_in_a_route_or_a_hook_that_waits_is_stopped_and_named_and_the_next_call_is_unharmed() {
    type Ask = fn(&Arc<Host>, &str) -> Result<(), Refusal>;

    let waiting: [(&str, Ask); 5] = [
        ("http.route", |host, who| answer(host, &format!("/{who}")).map(drop)),
        ("on.connect", |host, who| {
            wait(host.connect(&ConnectRequest { bearer: Some(who.into()), ..ConnectRequest::default() })).map(drop)
        }),
        ("on.refresh", |host, who| wait(host.refresh(&nobody(), who)).map(drop)),
        ("on.history", |host, who| wait(host.history(&nobody(), &name(who), false)).map(drop)),
        ("on.publish", |host, who| wait(host.publish(&nobody(), draft(who, "1"))).map(drop)),
    ];
    let backend = Backend::start(|seen| Reply::ok("").after(if seen.path == "/never" { 60_000 } else { 2 }));
    let hot = PROGRAMS.into_iter().map(|program| (program, "", &waiting[..1]));
    let all = hot.chain(PROGRAMS.into_iter().chain(WAITING).map(|program| (program, WAITS, &waiting[..])));
    for ((what, program), first, kinds) in all {
        let code = format!(
            "{first} aether.http.route('GET', '/{{who}}', function(req) if req.params.who == 'bad' then
{program} end end)
aether.on.connect(function(req) if req:bearer() == 'bad' then
{program} end return aether.allow({{ user = 'u' }}) end)
aether.on.refresh(function(s, token) if token == 'bad' then
{program} end return aether.allow({{ user = s.user }}) end)
aether.on.history('*', function(s, ch) if ch.name == 'bad' then
{program} end return true end)
aether.on.publish('*', {{ async = true }}, function(s, ch) if ch.name == 'bad' then
{program} end return true end)"
        );
        let mut config = brief();
        config.limits.waiting_time = Duration::from_millis(300);
        let (host, _dir) = script_with(&code.replace("URL", &backend.url), config);
        for (at, (kind, ask)) in kinds.iter().enumerate() {
            if what == EMPTY && *kind == "http.route" {
                continue; // an answer without anything in it is one
            }
            let started = Instant::now();
            let mut answer = Ok(());
            let log = logged(|| answer = ask(&host, "bad"));
            let refusal = answer.expect_err(&format!("{what} in {kind}"));
            assert_eq!((refusal.kind, &*refusal.code), (RefusalKind::Broken, "rule_error"), "{what} in {kind}: {log}");
            assert!(started.elapsed() < DEADLINE, "{what} in {kind}: {:?}", started.elapsed());
            let (hook, line) = (format!("rules.lua:{}: ", 2 * at + 1), format!("rules.lua:{}: ", 2 * at + 2));
            assert!(log.contains(&line) || log.contains(&hook), "{what} in {kind}: {log}");
            assert!(log.contains(&format!("hook=\"{kind}")) && log.len() < 4096, "{what} in {kind}: {log}");
            assert!(log.contains(&refusal.decision) && !refusal.why.contains("lua"), "{what} in {kind}: {log}");
            let mut answer = Ok(());
            let log = logged(|| answer = ask(&host, "good"));
            answer.unwrap_or_else(|no| panic!("after {what} in {kind}: {no} {log}"));
        }
    }
}

#[test]
fn what_a_hook_keeps_of_a_message_is_of_no_use_to_another_one_later() {
    let (host, dir) = script_with(
        "local kept
aether.on.publish('*', { async = true }, function(s, ch, msg) kept = msg return true end)
aether.on.transform('*', function(ch, msg) kept = msg return msg end)
aether.http.route('GET', '/keep', function(req) kept = req end)
aether.http.route('GET', '/use', function(req) return { body = kept:text() } end)
aether.on.history('*', { async = true }, function() return kept:text() == 'x' end)
aether.on.subscribe('*', { async = false }, function() return kept:text() == 'x' end)",
        config(),
    );
    let ear = heard_about(&dir);
    wait(host.publish(&nobody(), draft("a", "x"))).map(drop).unwrap();
    // The lanes have a VM each: the message is kept in one of them.
    for _ in 0..4 {
        assert!(wait(host.history(&nobody(), &name("a"), false)).is_err());
        assert!(wait(host.subscribe(&nobody(), &name("a"))).is_err());
    }
    answer(&host, "/keep").unwrap();
    // A request is what was sent, and its route's own: it stays readable, as long as it is kept.
    assert_eq!(answer(&host, "/use").map(|answer| answer.status).unwrap_or_default(), 200);
    for line in [6, 7] {
        let told = format!("rules.lua:{line}: msg is valid only during the hook");
        assert!(ear.lock().contains(&told), "{}", ear.lock());
    }
}
