//! Every reason for a no is explained: the hook, the file and the line, and what was read.

use serde_json::{Value as Json, json};

use super::*;
use crate::kernel::hooks::RefusalKind;
use crate::plugins::BreakerLimits;

/// The explanation of a decision that was made.
fn explained(host: &Host, refusal: &Refusal) -> Json {
    let asked = json!({"decision": refusal.decision}).to_string();
    let mut answer = host.answer("explain", asked.as_bytes()).unwrap();
    assert_eq!(answer["what_if"], false);
    answer["decisions"][0].take()
}

/// The explanations of what would be.
fn what_if(host: &Host, question: Json) -> Vec<Json> {
    let mut answer = host.answer("explain", question.to_string().as_bytes()).unwrap();
    assert_eq!(answer["what_if"], true);
    answer["decisions"].as_array_mut().unwrap().drain(..).collect()
}

fn ends(json: &Json, end: &str) {
    assert!(json.as_str().is_some_and(|text| text.ends_with(end)), "{json} should end with {end}");
}

fn has(json: &Json, part: &str) {
    assert!(json.as_str().is_some_and(|text| text.contains(part)), "{json} should have {part}");
}

#[test]
fn a_rule_that_denies_is_named_with_its_line_and_what_it_read() {
    let (host, _dir) = script(
        "local members, muted = aether.kv('members'), aether.shared('muted')
local pace = aether.limiter({ rate = 1 })
aether.on.publish('room.{room}', function(s, ch, msg)
	members:get(ch.room, s.user)
	muted:get(s.user)
	return nil
end)
aether.on.publish('room.{room}', function(s, ch, msg)
	local fine, wait = pace:take(s.user)
	if not fine then return aether.deny('too_fast', `wait {wait} ms`) end
	return nil
end)
aether.on.publish('admin', function()
	members:set({ '1', 'bob' }, { role = 'mod', password = 'xyzzy' })
	muted:set('bob', true)
	return true
end)",
    );
    publish(&host, &nobody(), "admin", "{}").unwrap();
    let bob = client(Some("bob"), granted(&["room.*"]));
    publish(&host, &bob, "room.1", "{}").unwrap();
    let refusal = publish(&host, &bob, "room.1", r#"{"text":"hello"}"#).unwrap_err();
    let it = explained(&host, &refusal);
    assert_eq!((&it["code"], &it["allowed"], &it["grant"]), (&json!("too_fast"), &json!(false), &json!("room.*")));
    has(&it["rule"], "any deny wins: on.publish room.{room} (");
    ends(&it["place"], "rules.lua:10");
    assert_eq!((&it["asked"]["event"], &it["asked"]["channel"]), (&json!("publish"), &json!("room.1")));
    assert_eq!(it["asked"]["message"]["payload"], json!({"text": "<string of 5>"}));
    assert_eq!(it["asked"]["session"]["user"], "bob");
    assert_eq!(it["generation"], host.generation());
    let hooks = it["hooks"].as_array().unwrap();
    assert_eq!(hooks.len(), 2, "{it:#}");
    ends(&hooks[0]["place"], "rules.lua:3");
    assert_eq!(hooks[0]["verdict"], "nothing");
    let reads = json!([
        {"call": "kv.get", "of": "members", "key": ["1", "bob"], "told": {"role": "mod", "password": "<secret>"}},
        {"call": "shared.get", "of": "muted", "key": "bob", "told": true},
    ]);
    assert_eq!(hooks[0]["reads"], reads);
    ends(&hooks[1]["place"], "rules.lua:8");
    ends(&hooks[1]["at"], "rules.lua:10");
    assert_eq!((&hooks[1]["verdict"], &hooks[1]["code"]), (&json!("deny"), &json!("too_fast")));
    let taken = &hooks[1]["reads"][0];
    assert_eq!((&taken["call"], &taken["key"], &taken["with"]), (&json!("limiter.take"), &json!("bob"), &json!(1)));
    assert!(taken["told"].as_f64().unwrap() > 0.0, "{taken}");
    ends(&taken["of"], "rules.lua:2");
}

#[test]
fn a_false_with_a_sentence_and_a_private_reason_are_explained_in_full() {
    let (host, _dir) = script(
        "aether.on.subscribe('a', function() return false, 'not now' end)
aether.on.subscribe('b', function() return aether.deny('banned', 'see ticket 7', { private = true }) end)",
    );
    let it = explained(&host, &subscribe(&host, &nobody(), "a").unwrap_err());
    assert_eq!((&it["code"], &it["why"]), (&json!("denied"), &json!("not now")));
    ends(&it["hooks"][0]["at"], "rules.lua:1");
    let refusal = subscribe(&host, &nobody(), "b").unwrap_err();
    assert!(!refusal.why.contains("ticket"));
    let it = explained(&host, &refusal);
    assert_eq!((&it["why"], &it["hooks"][0]["private"]), (&json!("see ticket 7"), &json!(true)));
    ends(&it["place"], "rules.lua:2");
}

#[test]
fn what_nobody_allows_is_explained_by_the_default() {
    let (host, _dir) = script("aether.on.history('room.{room}', function(s, ch, req) return nil end)");
    let bob = client(Some("bob"), granted(&["other.*"]));
    let it = explained(&host, &history(&host, &bob, "room.1", false).unwrap_err());
    assert_eq!((&it["code"], &it["grant"]), (&json!("not_allowed"), &Json::Null));
    has(&it["rule"], "no grant matches and no hook allows");
    assert_eq!((&it["hooks"][0]["verdict"], &it["asked"]["resume"]), (&json!("nothing"), &json!(false)));
    ends(&it["hooks"][0]["place"], "rules.lua:1");
    let it = explained(&host, &subscribe(&host, &bob, "elsewhere").unwrap_err());
    assert_eq!((&it["code"], &it["hooks"]), (&json!("not_allowed"), &json!([])));
    assert_eq!(it["asked"]["session"]["grants"]["subscribe"], json!(["other.*"]));
}

#[test]
fn an_error_a_strange_answer_and_a_used_up_budget_are_explained_with_their_line() {
    let (host, _dir) = super::safety::tireless(
        "local seen = aether.shared('seen')
aether.on.subscribe('error', function(s, ch)
	seen:get('it')
	local nothing
	return nothing.x
end)
aether.on.subscribe('strange', function() return 'yes' end)
aether.on.subscribe('forever', function()
	while true do end
end)",
    );
    for (channel, why, place, line) in [
        ("error", "attempt to index nil", "rules.lua:2", "rules.lua:5"),
        ("strange", "expected aether.allow", "rules.lua:7", "rules.lua:7"),
        ("forever", "the time budget of this call is used up", "rules.lua:8", "rules.lua:9"),
    ] {
        let refusal = subscribe(&host, &nobody(), channel).unwrap_err();
        assert_eq!(refusal.kind, RefusalKind::Broken);
        let it = explained(&host, &refusal);
        assert_eq!(it["code"], "rule_error");
        has(&it["rule"], "what breaks denies: on.subscribe");
        let hook = &it["hooks"][0];
        ends(&hook["place"], place);
        assert_eq!(hook["verdict"], "broke");
        for why_is in [&hook["why"], &it["why"]] {
            has(why_is, why);
            has(why_is, line);
        }
        let read = if channel == "error" { "shared.get" } else { "" };
        assert_eq!(hook["reads"][0]["call"].as_str().unwrap_or_default(), read);
    }
}

#[test]
fn an_open_breaker_is_explained_by_what_it_rests_from() {
    let breaker = BreakerLimits { failures: 2, ..BreakerLimits::default() };
    let config = HostConfig { limits: Limits { breaker, ..calm().limits }, ..calm() };
    let (host, _dir) = script_with("\naether.on.subscribe('a', function() error('no') end)", config);
    for _ in 0..2 {
        let _ = subscribe(&host, &nobody(), "a");
    }
    let it = explained(&host, &subscribe(&host, &nobody(), "a").unwrap_err());
    assert_eq!(it["hooks"][0]["verdict"], "rests");
    has(&it["hooks"][0]["why"], "rules.lua:2: it broke too often of late");
    // What would be is the same, and is no try.
    let before = host.counters().broken_off.load(Ordering::Relaxed);
    let it = what_if(&host, json!({"subscribe": "a"})).remove(0);
    assert_eq!((&it["hooks"][0]["verdict"], &it["code"]), (&json!("rests"), &json!("rule_error")));
    assert_eq!(host.counters().broken_off.load(Ordering::Relaxed), before);
}

#[test]
fn a_vm_that_cannot_be_built_is_explained() {
    let (host, _dir) = script(
        "local it = aether.shared('t'):incr('built')
if it > 1 then error('only once') end
aether.on.subscribe('a', function() return true end)",
    );
    let it = explained(&host, &subscribe(&host, &nobody(), "a").unwrap_err());
    assert_eq!((&it["code"], &it["hook"], &it["hooks"]), (&json!("rule_error"), &json!("on.subscribe a"), &json!([])));
    ends(&it["place"], "rules.lua:3");
    has(&it["why"], "rules.lua:2: only once");
}

#[test]
fn who_is_not_let_in_is_explained_without_what_it_showed() {
    let (host, _dir) = script(
        "local keys = aether.kv('keys')
aether.on.connect(function(req)
	local found = keys:get('by', req:bearer() or 'none')
	if req:bearer() == 'a-bad-credential' then return aether.deny('bad_key', 'this is no key: ' .. req:bearer()) end
	return nil
end)",
    );
    let it = explained(&host, &connect(&host, None).err().unwrap());
    assert_eq!(it["code"], "unauthorized");
    has(&it["rule"], "no connect hook answered");
    assert_eq!(
        (&it["hooks"][0]["verdict"], &it["hooks"][0]["reads"][0]["key"]),
        (&json!("nothing"), &json!(["by", "none"]))
    );
    ends(&it["hooks"][0]["place"], "rules.lua:2");
    let it = explained(&host, &connect(&host, Some("a-bad-credential")).err().unwrap());
    assert_eq!((&it["code"], &it["asked"]["request"]["credential"]), (&json!("bad_key"), &json!(true)));
    ends(&it["hooks"][0]["at"], "rules.lua:4");
    assert_eq!(it["hooks"][0]["reads"][0]["key"], "<secret>");
    assert_eq!(it["asked"]["request"]["query"], json!([["room", "<hidden>"]]));
    assert!(!it.to_string().contains("a-bad-credential"), "{it:#}");
}

#[test]
fn somebody_else_s_new_credential_is_explained() {
    let (host, _dir) = script("aether.on.refresh(function(s, token) return aether.allow({ user = token }) end)");
    let ann = client(Some("ann"), Grants::default());
    let it = explained(&host, &now(host.refresh(&ann, "bob-s-token")).err().unwrap());
    assert_eq!((&it["code"], &it["asked"]["event"]), (&json!("other_user"), &json!("refresh")));
    has(&it["rule"], "somebody else's");
    assert_eq!(it["hooks"][0]["verdict"], "allow");
    ends(&it["hooks"][0]["place"], "rules.lua:1");
    assert!(!it.to_string().contains("bob-s-token"));
}

#[test]
fn a_remembered_vote_is_named_and_so_is_who_denies_beside_it() {
    let (host, _dir) = script(
        "local banned = aether.shared('banned')
aether.on.subscribe('a', function() return aether.allow({ ttl = '1m' }) end)
aether.on.subscribe('a', function(s)
	if banned:get(s.user) then return aether.deny('banned') end
	return nil
end)
aether.on.publish('ban.{user}', function(s, ch) banned:set(ch.user, true) return true end)",
    );
    let ann = client(Some("ann"), Grants::default());
    subscribe(&host, &ann, "a").unwrap();
    publish(&host, &nobody(), "ban.ann", "{}").unwrap();
    let it = explained(&host, &subscribe(&host, &ann, "a").unwrap_err());
    assert_eq!((&it["hooks"][0]["remembered"], &it["hooks"][0]["verdict"]), (&json!(true), &json!("allow")));
    ends(&it["hooks"][0]["place"], "rules.lua:2");
    assert_eq!((&it["hooks"][1]["code"], &it["hooks"][1]["reads"][0]["told"]), (&json!("banned"), &json!(true)));
    ends(&it["hooks"][1]["at"], "rules.lua:4");
}

#[test]
fn a_remembered_credential_is_told_where_it_is_asked_about() {
    let (host, _dir) =
        script("aether.on.connect(function(req) return aether.allow({ user = 'shop', ttl = '1m' }) end)");
    connect_by("http", &host, Some("k")).unwrap();
    let it = what_if(&host, json!({"bearer": "k", "transport": "http"})).remove(0);
    has(&it["rule"], "the credential is remembered");
    assert_eq!(it["gives"]["user"], "shop");
    let it = what_if(&host, json!({"bearer": "k"})).remove(0);
    ends(&it["hooks"][0]["place"], "rules.lua:1");
}

#[test]
fn what_would_be_has_no_effect() {
    let hand = Hand::new();
    let (host, dir) = script_with(
        "local store, table = aether.kv('s'), aether.shared('t')
local pace = aether.limiter({ rate = 1, per = '1h' })
aether.on.publish('a', function(s, ch, msg)
	store:set('k', 'changed')
	store:incr('n')
	table:push('list', 1)
	table:push('list', 2)
	table:pop('list')
	aether.forget({ user = 'ann' })
	aether.publish('elsewhere', { 1 })
	aether.kick({ user = 'ann' })
	aether.log.warn('hello')
	if not pace:take('it') then return aether.deny('too_fast') end
	if store:get('k') ~= 'changed' or #store:scan() ~= 2 or #table:keys() ~= 1 then error('it does not see itself') end
	return aether.deny('done', store:get('n') .. ' ' .. table:get('list')[1])
end)
aether.on.subscribe('a', function()
	if store:get('k') == nil and store:get('n') == nil and table:get('list') == nil then return aether.allow({ ttl = '1m' }) end
	return aether.deny('there_was_an_effect')
end)
aether.on.connect(function(req) return aether.allow({ user = 'ann', ttl = '1m' }) end)",
        hand.config(),
    );
    connect_by("http", &host, Some("k")).unwrap();
    let (entries_before, denied) = (entries(&host), host.counters().denied.load(Ordering::Relaxed));
    let log = logged(|| {
        for _ in 0..3 {
            let it = what_if(&host, json!({"user": "bob", "publish": "a", "payload": "{}"})).remove(0);
            assert_eq!((&it["code"], &it["why"]), (&json!("done"), &json!("1 2")), "{it:#}");
            let hook = &it["hooks"][0];
            has(&hook["logged"][0], "rules.lua:12: hello");
            has(&hook["withheld"][0], "forget");
            assert_eq!(
                hook["withheld"].as_array().unwrap()[1..],
                [json!("publish to elsewhere"), json!("kick user ann")]
            );
            assert_eq!(hook["reads"].as_array().unwrap().len(), 11, "{hook:#}");
            what_if(&host, json!({"user": "bob", "subscribe": "a"}));
        }
    });
    assert_eq!(log, "");
    assert_eq!((entries(&host), host.counters().denied.load(Ordering::Relaxed)), (entries_before, denied));
    assert_eq!(host.decisions(&crate::plugins::DecisionFilter::default()).iter().filter(|r| !r.allowed).count(), 0);
    connect_by("http", &host, Some("k")).unwrap();
    assert_eq!(entries(&host), entries_before, "the credential is still remembered");
    let votes = || host.counters().votes_known.load(Ordering::Relaxed);
    subscribe(&host, &client(Some("bob"), Grants::default()), "a").unwrap();
    assert_eq!(votes(), 0, "a what-if's vote is not remembered");
    drop(dir);
}

#[test]
fn a_credential_is_asked_about_first_and_then_what_it_may() {
    let (host, _dir) = script(
        "aether.on.connect(function(req)
	if req:bearer() ~= 'good' then return aether.deny('bad_token') end
	return aether.allow({ user = 'ann', attrs = { role = 'mod' }, grants = { subscribe = aether.patterns({ 'room.*' }) } })
end)
aether.on.subscribe('room.{room}', function(s, ch)
	if s.attrs.role == 'mod' then return nil end
	return aether.deny('not_a_mod')
end)",
    );
    let both = what_if(&host, json!({"bearer": "good", "subscribe": "room.1"}));
    assert_eq!(both.len(), 2);
    assert_eq!(both[0]["gives"]["attrs"], json!({"role": "mod"}));
    assert_eq!((&both[1]["allowed"], &both[1]["grant"]), (&json!(true), &json!("room.*")));
    has(&both[1]["rule"], "the grant room.* allows it, and no hook denies");
    let one = what_if(&host, json!({"bearer": "bad", "subscribe": "room.1"}));
    assert_eq!((one.len(), &one[0]["code"]), (1, &json!("bad_token")));
    assert!(!one[0].to_string().contains("\"bad\""));
    let described =
        json!({"user": "bob", "attrs": {"role": "mod"}, "grants": {"subscribe": ["room.*"]}, "subscribe": "room.1"});
    assert_eq!(what_if(&host, described)[0]["allowed"], true);
    let it = what_if(&host, json!({"user": "bob", "subscribe": "room.1"})).remove(0);
    assert_eq!(it["code"], "not_a_mod");
    for wrong in
        [json!({}), json!({"subscribe": "a", "publish": "b"}), json!({"subscribe": "a b"}), json!({"sbscribe": "a"})]
    {
        assert!(host.answer("explain", wrong.to_string().as_bytes()).is_err(), "{wrong}");
    }
    assert!(host.answer("explain", br#"{"decision":"nosuchid"}"#).is_err());
}

#[test]
fn a_message_that_is_rejected_and_a_view_that_nobody_knows_are_explained() {
    let (host, _dir) = script(
        "aether.on.transform('a', function(ch, msg)
	if msg:get('bad') then return nil, 'no bad words' end
	return msg:with_json({ text = msg:get('text'), seen = true })
end)
aether.on.transform('b', function(ch, msg) return 7 end)
aether.on.view('a', 'public', { drop = { 'email' } })
aether.on.subscribe('a', function() return aether.allow({ view = 'pubic' }) end)
aether.on.history('a', function() return aether.allow({ view = 'public' }) end)
aether.on.retain('a', function() return false end)",
    );
    let all = client(Some("ann"), granted(&["a", "b"]));
    let it = explained(&host, &publish(&host, &all, "a", r#"{"bad":1}"#).unwrap_err());
    assert_eq!((&it["code"], &it["why"]), (&json!("rejected"), &json!("no bad words")));
    ends(&it["hooks"][0]["at"], "rules.lua:1");
    let it = explained(&host, &publish(&host, &all, "b", "{}").unwrap_err());
    assert_eq!(it["code"], "rule_error");
    has(&it["hooks"][0]["why"], "rules.lua:5: on.transform b: expected msg");
    let it = explained(&host, &subscribe(&host, &all, "a").unwrap_err());
    assert_eq!((&it["code"], &it["hooks"][0]["view"]), (&json!("rule_error"), &json!("pubic")));
    ends(&it["hooks"][0]["place"], "rules.lua:7");
    has(&it["why"], "pubic");
    ends(&it["place"], "rules.lua:7");
    // And what comes of what is allowed.
    let grants = json!({"publish": ["a"], "history": []});
    let it = what_if(&host, json!({"grants": grants, "publish": "a", "payload": "{\"text\":\"x\"}"})).remove(0);
    let diff = ["  {", "+   \"seen\": \"<boolean>\",", "    \"text\": \"<string of 1>\"", "  }"];
    let gives = json!({"changed": true, "diff": diff, "kept": false, "payload": {"text": "x", "seen": true}});
    assert_eq!(it["gives"], gives, "{it:#}");
    assert_eq!((&it["hooks"][0]["verdict"], &it["hooks"][1]["hook"]), (&json!("passed"), &json!("on.retain a")));
    assert_eq!(what_if(&host, json!({"history": "a"}))[0]["gives"], json!({"view": "public"}));
}

#[test]
fn a_hook_that_waits_is_explained_with_whom_it_asked_and_a_what_if_asks_nobody() {
    let backend = super::backend::Backend::start(|seen| {
        let status = if seen.path.starts_with("/ann") { 200 } else { 403 };
        super::backend::Reply { status, ..super::backend::Reply::ok("{}") }
    });
    let code = "local roles = aether.memo(function(user) return aether.http.get('URL/role/' .. user).status end, { name = 'roles', ttl = '1m' })
local seen = aether.shared('seen')
aether.on.subscribe('room.{room}', function(s, ch)
	seen:get(ch.room)
	local res, why = aether.http.get(`URL/{s.user}?secret=1`)
	if not res then return aether.deny('no_answer', why) end
	if res.status ~= 200 then return aether.deny('stranger', `they say {res.status}, role {roles(s.user)}`) end
	return true
end)";
    let (host, _dir) = script_with(&code.replace("URL", &backend.url), super::waiting::config());
    let bob = client(Some("bob"), Grants::default());
    let refusal = super::waiting::wait(host.subscribe(&bob, &name("room.1"))).err().unwrap();
    let it = explained(&host, &refusal);
    assert_eq!((&it["code"], &it["why"]), (&json!("stranger"), &json!("they say 403, role 403")), "{it:#}");
    ends(&it["hooks"][0]["at"], "rules.lua:7");
    let reads = it["hooks"][0]["reads"].as_array().unwrap();
    assert_eq!(
        reads.iter().map(|read| read["call"].as_str().unwrap()).collect::<Vec<_>>(),
        ["shared.get", "http", "memo"]
    );
    ends(&reads[1]["key"], "/bob");
    assert_eq!((&reads[1]["told"], &reads[2]["told"]), (&json!("403, 2 bytes"), &json!([403])));
    assert!(!it.to_string().contains("secret=1"));
    let asked = backend.requests();
    let it = what_if(&host, json!({"user": "bob", "subscribe": "room.1"})).remove(0);
    assert_eq!((&it["code"], backend.requests()), (&json!("no_answer"), asked), "{it:#}");
    has(&it["why"], "nothing of this is real");
    assert_eq!(it["hooks"][0]["reads"][0]["call"], "shared.get");
    // A shadow hears what the live run heard.
    host.answer("shadow_start", b"{}").unwrap();
    for user in ["ann", "bob", "ann"] {
        let _ = super::waiting::wait(host.subscribe(&client(Some(user), Grants::default()), &name("room.1")));
    }
    until("all are compared", || host.answer("shadow_diff", b"").unwrap()["compared"] == 3);
    let said = host.answer("shadow_diff", b"").unwrap();
    assert_eq!(said["differing"], 0, "{said:#}");
}

#[test]
fn too_many_that_wait_are_explained() {
    let gate = super::backend::Gate::default();
    let shut = gate.clone();
    let backend = super::backend::Backend::start(move |_| {
        shut.pass();
        super::backend::Reply::ok("{}")
    });
    let mut config = super::waiting::config();
    config.limits.waiting_calls = 1;
    let code = "aether.on.subscribe('a', function(s) return aether.http.get('URL/x', { timeout = '30s' }) ~= nil end)";
    let (host, _dir) = script_with(&code.replace("URL", &backend.url), config);
    let (it, a) = (nobody(), name("a"));
    let refusal = super::waiting::wait(async {
        let mut first = host.subscribe(&it, &a);
        assert!(futures_util::poll!(&mut first).is_pending());
        let refusal = host.subscribe(&it, &a).await.err().unwrap();
        gate.open();
        first.await.map(drop).unwrap();
        refusal
    });
    assert_eq!(refusal.kind, RefusalKind::Busy);
    let it = explained(&host, &refusal);
    assert_eq!(
        (&it["code"], &it["hook"], &it["asked"]["channel"]),
        (&json!("busy"), &json!("on.subscribe a"), &json!("a"))
    );
    ends(&it["place"], "rules.lua:1");
    has(&it["why"], "plugins.waiting_calls");
    has(&it["rule"], "on.subscribe a");
}

#[test]
fn the_recorder_stays_within_its_bytes() {
    let (host, _dir) = script("aether.on.publish('a', function() return aether.deny('no') end)");
    let payload = format!("\"{}\"", "x".repeat(100_000));
    let refusals: Vec<Refusal> = (0..3000).map(|_| publish(&host, &nobody(), "a", &payload).unwrap_err()).collect();
    let kept = host.decisions(&crate::plugins::DecisionFilter::default()).len();
    assert!(kept == 1000, "4 KiB of each payload: {kept}");
    let it = explained(&host, refusals.last().unwrap());
    assert_eq!(it["asked"]["message"]["size"], 100_002);
}
