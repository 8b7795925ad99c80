//! A candidate beside the rules in charge.

use serde_json::{Value as Json, json};

use super::*;

fn ask(host: &Host, verb: &str, with: Json) -> Json {
    host.answer(verb, with.to_string().as_bytes()).unwrap_or_else(|trouble| panic!("{verb}: {trouble:?}"))
}

/// What differs, once all that waits is compared.
fn settled(host: &Host) -> Json {
    let deadline = Instant::now() + DEADLINE;
    loop {
        let said = ask(host, "shadow_diff", json!({}));
        if said["waiting"] == 0 {
            return said;
        }
        assert!(Instant::now() < deadline, "{said}");
        std::thread::yield_now();
    }
}

/// Rules that depend on all that changes between one run and the next.
const RULES: &str = "
local members, seen = aether.kv('members'), aether.shared('seen')
local pace = aether.limiter({ rate = 50, per = '1s', burst = 3 })
aether.on.connect(function(req)
	if req:bearer() == 'bad' then return aether.deny('bad_token') end
	return aether.allow({ user = req:bearer(), attrs = { at = aether.now_ms() }, grants = { subscribe = { 'news' } } })
end)
aether.on.subscribe('room.{room}', function(s, ch)
	if not members:get(ch.room, s.user or '') then
		members:set({ ch.room, s.user or '' }, seen:incr('joined'))
		return aether.deny('not_member')
	end
	if aether.now_ms() % 7 == 0 then return aether.deny('unlucky') end
	return aether.allow()
end)
aether.on.publish('room.{room}', function(s, ch, msg)
	local fine, wait = pace:take({ ch.room, s.user or '' })
	if not fine then return aether.deny('too_fast', 'wait ' .. wait) end
	if msg:get('n') and msg:get('n') % 11 == 0 then error('eleven') end
	members:delete(ch.room, s.user or '')
	return seen:incr(ch.room) % 5 ~= 0
end)
aether.on.transform('room.*', function(ch, msg) return msg:with_json({ n = msg:get('n'), at = aether.now_ms() }) end)
aether.on.history('room.{room}', function(s, ch, req) return #seen:keys() > 2 end)
";

/// One decision of many kinds.
fn decide(host: &Host, n: u64) {
    let user = format!("u{}", n % 13);
    let room = format!("room.{}", n % 17);
    let it = client(Some(&user), granted(&["news"]));
    match n % 6 {
        0 => drop(subscribe(host, &it, &room)),
        1 | 2 => drop(publish(host, &it, &room, &format!("{{\"n\":{n}}}"))),
        3 => drop(history(host, &it, &room, n % 4 == 1)),
        4 => drop(connect(host, Some(if n.is_multiple_of(5) { "bad" } else { &user }))),
        _ => drop(subscribe(host, &it, if n.is_multiple_of(2) { "elsewhere" } else { "news" })),
    }
}

#[test]
fn identical_code_beside_100_000_decisions_differs_in_none() {
    let (host, dir) = super::safety::tireless_for(DEADLINE, RULES);
    ask(&host, "shadow_start", json!({"scripts": dir.0}));
    for n in 0..100_000 {
        decide(&host, n);
        // Nothing is dropped, so that all of them are compared.
        if n % 500 == 499 {
            settled(&host);
        }
    }
    let said = settled(&host);
    assert_eq!((&said["decisions"], &said["compared"]), (&json!(100_000), &json!(100_000)), "{said:#}");
    assert_eq!((&said["differing"], &said["dropped"], &said["differences"]), (&json!(0), &json!(0), &json!([])));
}

#[test]
fn a_planted_change_differs_in_exactly_what_it_changes() {
    let (host, dir) = super::safety::tireless(RULES);
    let changed = RULES.replace("aether.deny('not_member')", "aether.deny('stranger', 'you are strange')");
    assert_ne!(changed, RULES);
    dir.write("next/rules.lua", changed);
    ask(&host, "shadow_start", json!({"scripts": dir.path("next")}));
    let mut not_member = 0;
    for n in 0..3000 {
        decide(&host, n);
        if n.is_multiple_of(6) {
            let it = client(Some(&format!("u{}", n % 13)), granted(&["news"]));
            let refused = subscribe(&host, &it, "room.99").is_err_and(|refusal| refusal.code == "not_member");
            not_member += u64::from(refused);
        }
        if n % 200 == 199 {
            settled(&host);
        }
    }
    let denied =
        host.decisions(&crate::plugins::DecisionFilter { code: Some("not_member".into()), ..Default::default() });
    let said = settled(&host);
    let kinds = said["differences"].as_array().unwrap();
    assert_eq!(kinds.len(), 1, "{said:#}");
    let kind = &kinds[0];
    assert_eq!((&kind["before"], &kind["after"]), (&json!("deny not_member"), &json!("deny stranger")));
    assert_eq!((&kind["event"], &kind["hook"]), (&json!("subscribe"), &json!("on.subscribe room.{room}")));
    assert_eq!(kind["count"].as_u64().unwrap(), denied.len() as u64);
    assert!(not_member > 0 && denied.len() > 100 && denied.len() < 1000);
    let after = &kind["examples"][0]["after"];
    assert_eq!(after["why"], "you are strange");
    assert!(after["place"].as_str().unwrap().ends_with("next/rules.lua:11"), "{after}");
}

#[test]
fn a_change_of_what_is_given_and_a_rule_that_breaks_are_differences() {
    let (host, dir) = script(
        "aether.on.connect(function(req) return aether.allow({ user = 'ann' }) end)
aether.on.publish('a', function() return true end)
aether.on.publish('b', function() return true end)
aether.on.transform('b', function(ch, msg) return msg end)
aether.on.subscribe('a', function() return aether.allow({ ttl = '1m' }) end)",
    );
    dir.write(
        "next/rules.lua",
        "aether.on.connect(function(req) return aether.allow({ user = 'ann', attrs = { new = true } }) end)
aether.on.publish('a', function() error('broken') end)
aether.on.publish('b', function() return true end)
aether.on.transform('b', function(ch, msg) return msg:with_json({ changed = 1 }) end)
aether.on.subscribe('a', function() return aether.allow({ ttl = '1m' }) end)",
    );
    let before = (entries(&host), host.counters().errors.load(Ordering::Relaxed));
    ask(&host, "shadow_start", json!({"scripts": dir.path("next")}));
    connect(&host, Some("x")).unwrap();
    publish(&host, &nobody(), "a", "{}").unwrap();
    publish(&host, &nobody(), "b", "{}").unwrap();
    let ann = client(Some("ann"), Grants::default());
    subscribe(&host, &ann, "a").unwrap();
    subscribe(&host, &ann, "a").unwrap();
    let said = settled(&host);
    assert_eq!((&said["differing"], &said["passed_over"]), (&json!(3), &json!(1)), "{said:#}");
    let of = |event: &str, hook: &str| {
        let kinds = said["differences"].as_array().unwrap();
        kinds
            .iter()
            .find(|kind| kind["event"] == event && kind["hook"].as_str().unwrap().contains(hook))
            .unwrap()
            .clone()
    };
    assert_eq!(of("connect", "")["examples"][0]["after"]["gives"]["attrs"], json!({"new": true}));
    assert_eq!(of("publish", "publish a")["after"], "deny rule_error");
    let b = of("publish", "publish b");
    assert_eq!((&b["before"], &b["after"]), (&json!("allow, otherwise"), &json!("allow")));
    assert_eq!(b["examples"][0]["after"]["gives"]["payload"], json!({"changed": 1}));
    // Nothing that the candidate does is counted as done.
    assert_eq!((entries(&host) - before.0, host.counters().errors.load(Ordering::Relaxed)), (5, before.1));
}

#[test]
fn a_candidate_is_put_in_charge_can_be_rolled_back_and_a_bad_one_never_starts() {
    let (host, dir) = script("aether.on.publish('a', function() return true end)");
    let first = host.generation();
    dir.write("next/rules.lua", "aether.on.publish('b', function() return true end)");
    dir.write("bad/rules.lua", "local = 3");
    assert!(host.answer("shadow_diff", b"").is_err() && host.answer("shadow_promote", b"").is_err());
    let bad = host.answer("shadow_start", json!({"scripts": dir.path("bad")}).to_string().as_bytes());
    assert!(format!("{bad:?}").contains("bad/rules.lua:1:"), "{bad:?}");
    assert!(host.answer("shadow_start", br#"{"sample":0}"#).is_err());
    std::fs::create_dir(dir.path("empty")).unwrap();
    let empty = host.answer("shadow_start", json!({"scripts": dir.path("empty")}).to_string().as_bytes());
    assert!(format!("{empty:?}").contains("there is no Lua file in it"), "{empty:?}");
    assert!(host.answer("shadow_diff", b"").is_err(), "none has started");
    ask(&host, "shadow_start", json!({"scripts": dir.path("next")}));
    assert!(publish(&host, &nobody(), "b", "{}").is_err(), "it is not in charge");
    let change = ask(&host, "shadow_promote", json!({}));
    assert_eq!(change["hooks_added"], json!(["rules: on.publish b"]));
    assert!(publish(&host, &nobody(), "b", "{}").is_ok() && publish(&host, &nobody(), "a", "{}").is_err());
    assert!(host.answer("shadow_diff", b"").is_err(), "the shadow has ended");
    assert_eq!(host.rollback().unwrap().generation, first);
    ask(&host, "shadow_start", json!({}));
    assert_eq!(ask(&host, "shadow_stop", json!({}))["from"], "what is on disk");
}

#[test]
fn a_full_queue_drops_and_counts_and_a_sample_takes_its_part() {
    let (host, dir) = super::safety::tireless("aether.on.publish('a', function() return true end)");
    dir.write("slow/rules.lua", "aether.on.publish('a', function() while true do end end)");
    ask(&host, "shadow_start", json!({"scripts": dir.path("slow")}));
    for _ in 0..3000 {
        publish(&host, &nobody(), "a", "{}").unwrap();
    }
    let said = ask(&host, "shadow_diff", json!({}));
    assert!(said["dropped"].as_u64().unwrap() > 1000, "{said}");
    assert_eq!(said["decisions"], 3000);
    ask(&host, "shadow_start", json!({"sample": 0.25}));
    for _ in 0..1000 {
        publish(&host, &nobody(), "a", "{}").unwrap();
    }
    assert_eq!(settled(&host)["compared"], 250);
}
