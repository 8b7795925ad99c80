//! Verdicts, votes and what hooks are shown.

use std::time::Instant;

use super::*;
use crate::kernel::hooks::{Farewell, RefusalKind};

#[test]
fn any_deny_wins_else_any_allow_else_no() {
    let say = |verdict: &str| match verdict {
        "allow" => "aether.allow()".to_owned(),
        "deny" => "aether.deny('no')".to_owned(),
        other => other.to_owned(),
    };
    // two votes, a grant, and whether it may
    for (one, two, grant, may) in [
        ("nil", "nil", false, false),
        ("nil", "nil", true, true),
        ("nil", "allow", false, true),
        ("allow", "nil", false, true),
        ("true", "true", false, true),
        ("allow", "deny", false, false),
        ("deny", "allow", false, false),
        ("deny", "nil", true, false),
        ("false", "allow", true, false),
        ("nil", "error('x')", true, false),
        ("allow", "error('x')", true, false),
    ] {
        let code = ["subscribe", "publish", "history"].map(|event| {
            let votes =
                [one, two].map(|vote| format!("aether.on.{event}('a.*', function() return {} end)\n", say(vote)));
            votes.concat()
        });
        let (host, _dir) = script(&code.concat());
        let client = client(Some("u"), if grant { granted(&["a.*"]) } else { Grants::default() });
        for answer in [
            subscribe(&host, &client, "a.b"),
            publish(&host, &client, "a.b", "1"),
            history(&host, &client, "a.b", false),
        ] {
            assert_eq!(answer.is_ok(), may, "{one} {two} {grant}: {answer:?}");
        }
        let denies = ["deny", "false", "error('x')"].iter().any(|no| [one, two].contains(no));
        assert_eq!(history(&host, &client, "a.b", true).is_ok(), !denies, "resume: {one} {two}");
    }
}

#[test]
fn a_channel_that_no_hook_concerns_never_enters_lua() {
    let (host, _dir) = script("aether.on.subscribe('room.{room}', function() return true end)");
    let client = client(Some("u"), granted(&["free.*"]));
    for _ in 0..3 {
        assert!(subscribe(&host, &client, "free.1").is_ok());
        assert!(subscribe(&host, &client, "other").is_err());
        assert!(publish(&host, &client, "room.1", "1").is_err());
    }
    assert_eq!((entries(&host), host.counters().vms.load(Ordering::Relaxed)), (0, 0));
    assert!(subscribe(&host, &client, "room.1").is_ok());
    assert_eq!((entries(&host), host.counters().vms.load(Ordering::Relaxed)), (1, 1));
}

#[test]
fn a_refusal_tells_code_reason_and_decision_but_nothing_private() {
    let (host, _dir) = script(
        "aether.on.subscribe('a', function() return aether.deny('not_member', 'join\\nfirst') end)
         aether.on.subscribe('b', function() return aether.deny('not_member', 'on the list', { private = true }) end)
         aether.on.subscribe('c', function() return false, 'closed today' end)
         aether.on.subscribe('d', function() error('the password is hunter2') end)",
    );
    let no = |channel| subscribe(&host, &nobody(), channel).unwrap_err();
    assert_eq!((no("a").code.as_str(), no("a").why.as_str()), ("not_member", "join first"));
    assert!(no("b").code == "not_member" && !no("b").why.contains("list"));
    assert_eq!((no("c").code.as_str(), no("c").why.as_str()), ("denied", "closed today"));
    let mut broken = no("e");
    let log = logged(|| broken = no("d"));
    for part in ["rules.lua:4: the password is hunter2", "on.subscribe d", "plugin=\"rules\"", &broken.decision] {
        assert!(log.contains(part), "{log}");
    }
    assert_eq!((broken.kind, broken.code.as_str()), (RefusalKind::Broken, "rule_error"));
    assert!(!broken.to_string().contains("hunter2") && !broken.to_string().contains("rules.lua"));
    assert_eq!(no("e").code, "not_allowed");
    assert!(broken.decision.len() == 8 && broken.decision != no("a").decision);
    assert_eq!(host.counters().errors.load(Ordering::Relaxed), 1);
}

#[test]
fn anything_that_is_no_verdict_denies_and_is_named_with_its_place() {
    for (code, wrong) in [
        ("return 'allow'", "rules.lua:1: on.subscribe a: expected aether.allow"),
        ("return {}", "got a table"),
        ("return 1", "got the number 1"),
        ("return false, 7", "expected a sentence beside false"),
        ("return aether.allow", "got a function"),
        ("return aether.allow({ user = 'x' })", "takes only ttl, tags, view here, got user"),
        ("return aether.allow({ usr = 'x' })", "rules.lua:1: aether.allow: usr is not known here; did you mean user?"),
        ("return aether.deny()", "rules.lua:1: aether.deny: the code is one word"),
        ("return aether.deny('two words')", "the code is one word"),
        ("return aether.deny('x', 'y', { privat = true })", "did you mean private?"),
        ("return nil + 1", "rules.lua:1: attempt to perform arithmetic"),
        ("aether.on.subscribe('b', print)", "hooks are registered while the file loads"),
        ("return aether.jwt.verifier({ alg = 'none', key = 'x' })", "\"none\" is not known here"),
        ("s.user = 'root'", "readonly"),
        ("aether.allow = nil", "readonly"),
        ("string.format = nil", "readonly"),
    ] {
        let (host, dir) = script(&format!("aether.on.subscribe('a', function(s, ch) {code} end)"));
        let failure = why_broken(&host, "a");
        assert!(failure.contains(wrong), "{code}: {failure}");
        assert!(failure.starts_with(&dir.0.display().to_string()), "{code}: {failure}");
        assert_eq!(subscribe(&host, &nobody(), "a").unwrap_err().kind, RefusalKind::Broken);
    }
}

/// What the log would say.
fn why_broken(host: &Host, channel: &str) -> String {
    let log = logged(|| drop(subscribe(host, &nobody(), channel)));
    log.split("why=\"").nth(1).unwrap_or_default().replace("\\\"", "\"")
}

#[test]
fn hooks_see_who_asks_where_and_what() {
    let (host, _dir) = script(
        r#"
aether.on.connect(function(req)
	assert(req:bearer() == "k" and req.query.room == "7" and req:header("X-Test") == "yes" and req:cookie("b") == "2")
	assert(req.ip == "127.0.0.1" and req.path == "/ws" and req.method == "GET" and req.transport == "ws" and req:cookie("c") == nil)
	return aether.allow({ user = "ann", tenant = "t", attrs = { role = "mod", n = { 1, 2 } }, view = "full", expires = 2 })
end)
aether.on.publish("room.{room}.{kind}", function(s, ch, msg)
	assert(ch.name == "room.7.chat" and ch.room == "7" and ch.kind == "chat")
	assert(s.user == "ann" and s.tenant == "t" and s.attrs.role == "mod" and s.attrs.n[2] == 2 and s.view == "full")
	assert(s.dialect == "native" and s.transport == "ws" and s.connected_ms == 5000 and s.id and s.ip == nil)
	assert(msg.size == 63 and msg.sender == "ann" and msg.event == nil and msg.media == "json")
	assert(msg:get("a.b") == "x" and msg:get("list.2") == 20 and msg:get("a.c") == nil and msg:get("a.b.c") == nil)
	assert(msg:json().id == "9007199254740993" and msg:text():sub(1, 1) == "{" and buffer.len(msg:buffer()) == 63)
	return true
end)
aether.on.history("h", function(s, ch, req) return req.resume end)
"#,
    );
    let mut client = nobody();
    client.identity = connect(&host, Some("k")).unwrap();
    assert_eq!(client.identity.expires, Some(2_000_000));
    let payload = r#"{"a": {"b": "x"}, "list": [10, 20], "id": 9007199254740993    }"#;
    publish(&host, &client, "room.7.chat", payload).unwrap();
    assert!(history(&host, &client, "h", true).is_ok() && history(&host, &client, "h", false).is_err());
}

#[test]
fn a_message_is_of_no_use_after_its_hook() {
    let (host, _dir) = script(
        "local kept
         aether.on.publish('keep', function(s, ch, msg) kept = msg return true end)
         aether.on.subscribe('use', function() return kept.size > 0 end)
         aether.on.publish('mix', function(s, ch, msg) return msg == kept and msg:text() == 'new' end)",
    );
    publish(&host, &nobody(), "keep", "old").unwrap();
    assert!(why_broken(&host, "use").contains("rules.lua:3: msg is valid only during the hook"));
    publish(&host, &nobody(), "mix", "new").unwrap();
}

#[test]
fn a_session_id_that_comes_again_for_somebody_else_is_somebody_else() {
    let (host, _dir) = script("aether.on.subscribe('a', function(s) return s.user == 'ann' end)");
    let mut ann = client(Some("ann"), Grants::default());
    assert!(subscribe(&host, &ann, "a").is_ok() && subscribe(&host, &ann, "a").is_ok());
    ann.identity.user = Some("bob".into());
    assert!(subscribe(&host, &ann, "a").is_err());
}

#[test]
fn the_first_connect_hook_with_an_opinion_counts() {
    let (host, _dir) = script(
        "aether.on.connect(function(req) if req:bearer() == 'a' then return aether.allow({ user = 'first' }) end end)
         aether.on.connect(function(req) if req:bearer() == 'b' then return false, 'go away' end end)
         aether.on.connect(function(req) if req:bearer() then return aether.allow({ user = 'last' }) end end)
         aether.on.connect(function(req) if req.path == '/x' then error('never') end end)",
    );
    let user = |bearer| connect(&host, Some(bearer)).map(|identity| identity.user.unwrap());
    assert_eq!(user("a").unwrap(), "first");
    assert_eq!(user("b").unwrap_err().why, "go away");
    assert_eq!(user("c").unwrap(), "last");
    let none = connect(&host, None).map(drop).unwrap_err();
    assert_eq!((none.code.as_str(), none.kind), ("unauthorized", RefusalKind::Denied));
    let (host, _dir) =
        script("aether.on.connect(function() error('x') end) aether.on.connect(function() return true end)");
    assert_eq!(connect(&host, Some("a")).map(drop).unwrap_err().code, "rule_error");
}

#[test]
fn grants_are_literals_unless_they_say_that_they_are_patterns() {
    let grant = |grants: &str| {
        let (host, _dir) =
            script(&format!("aether.on.connect(function() return aether.allow({{ grants = {grants} }}) end)"));
        connect(&host, Some("x")).map(|identity| identity.grants).map_err(|refusal| refusal.code)
    };
    let list = grant("{ subscribe = { 'a.b', aether.pattern('u.{}.*', 'ann'), aether.patterns({ 'o.*', '.*', '$x.*' }) }, admin = true }").unwrap();
    for (name, may) in
        [("a.b", true), ("u.ann.x", true), ("u.bob.x", false), ("o.1.2", true), ("a.c", false), ("$x.1", false)]
    {
        assert_eq!(list.subscribe.matches(name), may, "{name}");
    }
    assert!(list.admin && list.publish.is_empty());
    assert!(grant("{ publish = 'a' }").unwrap().publish.matches("a"));
    assert!(grant("{ publish = aether.pattern('$u.{}', 7) }").unwrap().publish.matches("$u.7"));
    for bad in [
        "{ subscribe = 'a.*' }",
        "{ subscrib = 'a' }",
        "{ subscribe = 7 }",
        "{ admin = 'yes' }",
        "{ subscribe = aether.pattern('u.{}', 'a.b') }",
    ] {
        assert_eq!(grant(bad).unwrap_err(), "rule_error", "{bad}");
    }
    assert!(!grant("{ subscribe = aether.pattern('u.{}', '*') }").unwrap().subscribe.matches("u.x"));
}

#[test]
fn disconnect_hooks_are_told_afterwards_and_nobody_waits_for_them() {
    let (host, _dir) = script(
        "aether.on.disconnect(function(s, why) while why.code == 1 do end end)
         aether.on.disconnect(function(s, why) assert(s.user == 'ann' and why.cause == 'lag' and why.expected == false) end)",
    );
    let ann = Arc::new(client(Some("ann"), Grants::default()));
    let started = Instant::now();
    for code in 0..2000 {
        host.disconnected(&ann, &Farewell { cause: "lag", code: Some(code % 2), reason: String::new() });
    }
    let counters = host.counters();
    // Most of them would run for longer than this test does.
    assert!(counters.killed_over_budget.load(Ordering::Relaxed) < 500, "nobody waits");
    assert!(counters.farewells_dropped.load(Ordering::Relaxed) > 0);
    until("two were killed", || counters.killed_over_budget.load(Ordering::Relaxed) >= 2);
    // Only the killed ones broke: what the second hook asserts held.
    assert!(counters.errors.load(Ordering::Relaxed) <= counters.killed_over_budget.load(Ordering::Relaxed) + 1);
    drop(host);
    assert!(started.elapsed() < DEADLINE, "those in line are not waited for");
}
