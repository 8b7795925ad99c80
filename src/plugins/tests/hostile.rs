//! Every hostile program in every kind of hook: stopped, named, answered by its kind's refusal, and the next call is
//! unharmed.

use std::time::{Duration, Instant};

use super::safety::tireless;
use super::*;
use crate::kernel::hooks::RefusalKind;
use crate::kernel::message::Publication;
use crate::kernel::policy::Policy;

pub const PROGRAMS: [(&str, &str); 24] = [
    ("a loop", "while true do end"),
    ("a pcall that swallows the stop", "while true do pcall(function() while true do end end) end"),
    ("an xpcall whose handler loops", "xpcall(error, function() while true do end end)"),
    ("a catastrophic match", "string.find(string.rep('a', 60), string.rep('a?', 60) .. string.rep('a', 60) .. 'b')"),
    (
        "a pcall that swallows out of memory",
        "while true do pcall(function() local t = {} while true do t[#t + 1] = string.rep('x', 1e6) .. #t end end) end",
    ),
    ("a large gsub", "local s = string.rep('x', 2^22) while true do s = string.gsub(s, 'x', 'xy') end"),
    ("a table bomb", "local t = {} while true do t = { t, t, t } t[1] = { t } end"),
    ("a table that grows", "local t = {} for i = 1, 1e9 do t[i] = { i } end"),
    (
        "a table that holds itself many times",
        "local t = {} for i = 1, 60 do t = { a = t, b = t } end return aether.allow({ attrs = t })",
    ),
    ("a string without end", "return string.rep('x', 2^30)"),
    ("a buffer without end", "return buffer.create(2^30)"),
    ("an error with a cyclic table", "local t = {} t.t = t error(t)"),
    ("an error whose text loops", "error(setmetatable({}, { __tostring = function() while true do end end }))"),
    (
        "an error that is a proxy",
        "local p = newproxy(true) getmetatable(p).__tostring = function() while true do end end error(p)",
    ),
    ("an error without anything", "error()"),
    ("an error with a long text", "error(string.rep('x', 1e6))"),
    (
        "an answer that loops when looked at",
        "return setmetatable({}, { __index = function() while true do end end, __tostring = error })",
    ),
    ("a coroutine that never ends", "coroutine.wrap(function() while true do end end)()"),
    (
        "a coroutine that is resumed forever",
        "local f = coroutine.wrap(function() while true do coroutine.yield() end end) while true do f() end",
    ),
    ("coroutines without end", "local function f() return coroutine.wrap(f)() end f()"),
    ("a yield out of the hook", "coroutine.yield(true)"),
    ("a recursion without end", "local function f(n) return 1 + f(n + 1) end return f(1)"),
    ("a comparison that loops", "table.sort({ 3, 2, 1 }, function() while true do end end)"),
    ("a metamethod that loops", "return setmetatable({}, { __add = function() while true do end end }) + 1"),
];

/// Hooks of all kinds that run `program` for whoever is bad, on line 2, 4, .. of the file.
fn all_kinds(program: &str) -> String {
    format!(
        "aether.on.connect(function(req) if req:bearer() == 'bad' then
{program} end return aether.allow({{ user = 'u' }}) end)
aether.on.refresh(function(s, token) if token == 'bad' then
{program} end return aether.allow({{ user = s.user }}) end)
aether.on.subscribe('*', function(s, ch) if ch.name == 'bad' then
{program} end return true end)
aether.on.publish('*', function(s, ch) if ch.name == 'bad' then
{program} end return true end)
aether.on.history('*', function(s, ch) if ch.name == 'bad' then
{program} end return true end)"
    )
}

#[test]
fn every_hostile_program_in_every_kind_of_hook_is_stopped_named_and_leaves_the_next_call_unharmed() {
    type Ask = fn(&Host, &str) -> Result<(), Refusal>;
    let kinds: [(&str, Ask); 5] = [
        ("on.connect", |host, who| connect(host, Some(who)).map(drop)),
        ("on.refresh", |host, who| now(host.refresh(&nobody(), who)).map(drop)),
        ("on.subscribe", |host, who| subscribe(host, &nobody(), who)),
        ("on.publish", |host, who| publish(host, &nobody(), who, "1")),
        ("on.history", |host, who| history(host, &nobody(), who, false)),
    ];
    for (what, program) in PROGRAMS {
        let (host, _dir) = tireless(&all_kinds(program));
        for (at, (kind, ask)) in kinds.iter().enumerate() {
            let started = Instant::now();
            let mut answer = Ok(());
            let log = logged(|| answer = ask(&host, "bad"));
            let refusal = answer.expect_err(&format!("{what} in {kind}"));
            assert_eq!((refusal.kind, &*refusal.code), (RefusalKind::Broken, "rule_error"), "{what} in {kind}: {log}");
            assert!(started.elapsed() < DEADLINE, "{what} in {kind}: {:?}", started.elapsed());
            // An answer that is none is named by its hook, everything else by its line.
            let (hook, line) = (format!("rules.lua:{}: ", 2 * at + 1), format!("rules.lua:{}: ", 2 * at + 2));
            assert!(log.contains(&line) || log.contains(&hook), "{what} in {kind}: {log}");
            assert!(log.contains(&format!("hook=\"{kind}")) && log.len() < 4096, "{what} in {kind}: {log}");
            assert!(log.contains(&refusal.decision) && !refusal.why.contains("lua"), "{what} in {kind}: {log}");
            let mut answer = Ok(());
            let log = logged(|| answer = ask(&host, "good"));
            assert!(answer.is_ok(), "after {what} in {kind}: {log}");
        }
    }
}

/// What answers with an empty table, which is an answer to some.
pub const EMPTY: &str = "an answer that loops when looked at";

#[test]
fn every_hostile_program_in_a_hook_about_messages_is_stopped_named_and_leaves_the_next_message_unharmed() {
    for (what, program) in PROGRAMS {
        let (host, _dir) = tireless(&format!(
            "aether.on.publish('*', function() return true end)
aether.on.subscribe('seen', function(s) return aether.allow({{ view = 'v' }}) end)
aether.on.transform('changed', function(ch, msg) if msg:text() == 'bad' then
{program} end return msg end)
aether.on.retain('kept', function(ch, msg) if msg:text() == 'bad' then
{program} end return false end)
aether.on.view('seen', 'v', function(ch, msg) if msg:text() == 'bad' then
{program} end return msg end)"
        ));
        let names = |log: &str, kind: &str, line: usize| {
            let (hook, line) = (format!("rules.lua:{line}: "), format!("rules.lua:{}: ", line + 1));
            (log.contains(&line) || log.contains(&hook)) && log.contains(&format!("hook=\"{kind}")) && log.len() < 4096
                || log.contains(&format!("hook={kind}")) && (log.contains(&line) || log.contains(&hook))
        };
        let log = logged(|| {
            let refusal = publish(&host, &nobody(), "changed", "bad").expect_err(what);
            assert_eq!((refusal.kind, &*refusal.code), (RefusalKind::Broken, "rule_error"), "{what}");
        });
        assert!(names(&log, "on.transform", 3), "{what}: {log}");
        publish(&host, &nobody(), "changed", "good").unwrap_or_else(|no| panic!("after {what}: {no}"));

        let log = logged(|| publish(&host, &nobody(), "kept", "bad").expect("it is let in all the same"));
        assert!(
            what == EMPTY || names(&log, "on.retain", 5) && log.contains("so the message is kept"),
            "{what}: {log}"
        );
        let admission = now(host.publish(&nobody(), draft("kept", "good"))).map_err(|no| panic!("after {what}: {no}"));
        assert!(admission.is_ok_and(|admission| admission.draft.fleeting), "after {what}");

        let view = now(host.subscribe(&nobody(), &name("seen"))).map_err(|no| no.why).unwrap().unwrap();
        let shows = |text: &str| {
            let message = draft("seen", text).message;
            view.render(&name("seen"), &Publication { offset: 1, time: 0, expires: None, once: None, message })
        };
        let log = logged(|| assert!(shows("bad").is_none(), "{what} is shown"));
        assert!(names(&log, "on.view", 7), "{what}: {log}");
        assert!(shows("good").is_some(), "after {what}");
    }
}

#[test]
fn every_hostile_program_in_a_retention_hook_is_stopped_named_and_the_settings_count() {
    for (what, program) in PROGRAMS.into_iter().filter(|(what, _)| *what != EMPTY) {
        let (host, _dir) = tireless(&format!(
            "aether.on.retention('*', function(ch) if ch.name == 'bad' then
{program} end return {{ count = 7 }} end)"
        ));
        let mut policy = None;
        let log = logged(|| policy = Some(host.policy(&name("bad"))));
        assert_eq!(policy, Some(Policy::default()), "{what}");
        let named = log.contains("rules.lua:1: ") || log.contains("rules.lua:2: ");
        assert!(named && log.contains("on.retention") && log.len() < 4096, "{what}: {log}");
        assert_eq!(host.policy(&name("good")).history.and_then(|kept| kept.count), Some(7), "after {what}");
    }
}

#[test]
fn a_load_or_unload_hook_that_is_hostile_refuses_the_change_with_its_place() {
    for (what, program) in PROGRAMS.into_iter().filter(|(_, program)| !program.contains("return ")) {
        let limits = Limits { load: Duration::from_millis(100), ..calm().limits };
        let config = HostConfig { limits, ..calm() };
        let (host, dir) = script_with("aether.on.publish('a', function() return true end)", config);
        let wrong = |errors: LoadError| {
            let errors = errors.to_string();
            assert!(errors.contains("rules.lua:") && errors.len() < 2048, "{what}: {errors}");
        };
        dir.write("rules.lua", format!("aether.on.load(function()\n{program} end)"));
        wrong(host.reload().expect_err(what));
        publish(&host, &nobody(), "a", "1").unwrap_or_else(|no| panic!("after {what}: {no}"));
        dir.write("rules.lua", format!("aether.on.unload(function()\n{program} end)"));
        host.reload().unwrap_or_else(|error| panic!("it does no harm yet: {error}"));
        dir.write("rules.lua", "");
        wrong(host.reload().expect_err(what));
    }
}

#[test]
fn a_plugin_that_kills_itself_at_load_is_refused_with_its_place_and_the_others_are_still_checked() {
    for (what, program) in PROGRAMS.into_iter().filter(|(_, program)| !program.contains("return ")) {
        let dir = Dir::new();
        dir.write("a.lua", program);
        dir.write("b.lua", "aether.on.subscribe(7, print)");
        let limits = Limits { load: Duration::from_millis(100), ..calm().limits };
        let config = HostConfig { scripts: Some(dir.0.clone()), limits, ..calm() };
        let started = Instant::now();
        let LoadError(errors) = Host::load(config).err().unwrap_or_else(|| panic!("{what} is loaded"));
        assert!(started.elapsed() < DEADLINE, "{what}");
        assert!(
            errors.len() == 2 && errors[0].contains("a.lua") && errors[1].contains("b.lua:1"),
            "{what}: {errors:?}"
        );
        assert!(errors[0].len() < 1024, "{what}");
    }
}

#[test]
fn what_a_hook_keeps_is_of_no_use_later() {
    let (host, _dir) = tireless(
        "local kept = {}
aether.on.connect(function(req) kept.req = req return true end)
aether.on.publish('keep', function(s, ch, msg) kept.msg, kept.s, kept.json = msg, s, msg:json() return true end)
aether.on.subscribe('size', function() return kept.msg.size > 0 end)
aether.on.subscribe('text', function() return kept.msg:text() == 'x' end)
aether.on.subscribe('get', function() return kept.msg:get('a') == 1 end)
aether.on.subscribe('write', function() kept.s.user = 'root' return true end)
aether.on.subscribe('mine', function() return kept.json.a == 1 and kept.req.path == '/ws' end)",
    );
    connect(&host, Some("k")).unwrap();
    publish(&host, &nobody(), "keep", r#"{"a": 1}"#).unwrap();
    for (channel, line) in [("size", 4), ("text", 5), ("get", 6), ("write", 7)] {
        let log = logged(|| assert!(subscribe(&host, &nobody(), channel).is_err()));
        assert!(log.contains(&format!("rules.lua:{line}: ")), "{log}");
    }
    subscribe(&host, &nobody(), "mine").expect("what was read is the script's own");
}

#[test]
fn a_table_that_is_small_in_lua_and_without_end_elsewhere_is_logged_as_what_it_is() {
    let (host, _dir) = tireless(
        "aether.on.subscribe('a', function()
	local t = {}
	for i = 1, 60 do t = { t, t } end
	aether.log.info('x', t)
	return true
end)",
    );
    let started = Instant::now();
    let log = logged(|| drop(subscribe(&host, &nobody(), "a")));
    assert!(log.contains("larger than 1 MiB") || log.contains("deeper than"), "{}", &log[..log.len().min(500)]);
    assert!(started.elapsed() < DEADLINE);
}

/// Beside what does harm anywhere: what only a hook that waits can do.
pub const WAITING: [(&str, &str); 5] = [
    ("a wait for ever", "aether.http.get('URL/never', { timeout = '30s' })"),
    ("a yield in a loop", "while true do coroutine.yield() end"),
    ("a wait in a loop", "while true do aether.http.get('URL/') end"),
    ("a loop after a wait", "aether.http.get('URL/') while true do pcall(function() while true do end end) end"),
    (
        "a table bomb after a wait",
        "aether.http.get('URL/') local t = {} while true do t[#t + 1] = table.create(1000, {}) end",
    ),
];

#[test]
fn every_hostile_program_in_a_hook_that_waits_is_stopped_named_and_others_are_served_meanwhile() {
    let backend = super::backend::Backend::start(|seen| {
        super::backend::Reply::ok("").after(if seen.path == "/never" { 60_000 } else { 2 })
    });
    for (what, program) in PROGRAMS.into_iter().chain(WAITING) {
        let mut config = super::waiting::config();
        config.limits.waiting_budget = Duration::from_millis(50);
        if program.contains("URL") {
            config.limits.waiting_time = Duration::from_secs(4);
        }
        let code = format!(
            "aether.on.subscribe('*', function(s, ch) if ch.name == 'bad' then
{program} end return aether.http.get('URL/good') ~= nil end)"
        );
        let (host, _dir) = script_with(&code.replace("URL", &backend.url), config);
        let started = Instant::now();
        let mut answers = Vec::new();
        let log = logged(|| {
            super::waiting::wait(async {
                let (ann, bad, good) = (nobody(), name("bad"), name("good"));
                let mut asked: Vec<_> = (0..4).map(|_| host.subscribe(&ann, &good)).collect();
                asked.insert(1, host.subscribe(&ann, &bad));
                asked.extend((0..4).map(|_| host.subscribe(&ann, &good)));
                answers = futures_util::future::join_all(asked).await;
            });
        });
        assert!(started.elapsed() < DEADLINE, "{what}: {:?}", started.elapsed());
        let bad = answers.remove(1).err().unwrap_or_else(|| panic!("{what} is let in"));
        assert_eq!((bad.kind, &*bad.code), (RefusalKind::Broken, "rule_error"), "{what}: {log}");
        let named = log.contains("rules.lua:1: ") || log.contains("rules.lua:2: ");
        assert!(named && log.contains("hook=\"on.subscribe") && log.len() < 8192, "{what}: {log}");
        assert!(answers.iter().all(Result::is_ok), "beside {what}: {log}");
        super::waiting::wait(host.subscribe(&nobody(), &name("good")))
            .map(drop)
            .unwrap_or_else(|no| panic!("after {what}: {no}"));
    }
}
