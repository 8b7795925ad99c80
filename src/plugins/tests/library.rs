//! `json`, `shared`, `limiter` and `kv`, as scripts use them.

use serde_json::json;

use super::*;
use crate::kernel::kv::{Kv, KvEntry, KvError, MemoryKv};

/// Runs `code` as a hook that must come to its end.
fn runs(host: &Host, channel: &str) {
    let log = logged(|| drop(subscribe(host, &nobody(), channel)));
    assert!(!log.contains("a rule broke"), "{log}");
}

/// For what takes its time.
fn patient() -> HostConfig {
    let limits = Limits { call: DEADLINE, ..calm().limits };
    HostConfig { limits, ..calm() }
}

fn hooks(parts: &[(&str, &str)]) -> String {
    parts
        .iter()
        .map(|(name, code)| format!("aether.on.subscribe('{name}', function() {code} return true end)\n"))
        .collect()
}

#[test]
fn json_is_read_and_written_without_losing_what_matters() {
    let code = r#"
local j = aether.json
local t = j.decode('{"a":{"b":[1,null,"x"]},"big":9007199254740993,"none":null,"e":[],"o":{}}')
assert(t.a.b[1] == 1 and t.a.b[2] == j.null and t.a.b[3] == "x" and #t.a.b == 3)
assert(t.big == "9007199254740993" and t.none == nil)
t.a.c = 1
assert(j.encode(t) == '{"a":{"b":[1,null,"x"],"c":1},"big":"9007199254740993","e":[],"o":{}}', j.encode(t))
assert(j.encode(j.array()) == "[]" and j.encode({}) == "{}" and j.encode({ j.null }) == "[null]" and j.encode(1.5) == "1.5")
local v, why = j.decode("{")
assert(v == nil and string.find(why, "EOF"))
assert(j.decode(string.rep("[", 1000)) == nil)
local cyclic = {} cyclic.x = cyclic
local twice = {} for i = 1, 60 do twice = { twice, twice } end
for _, bad in { cyclic, twice, { print }, 0/0, "\255", { [1.5] = 1 }, string.rep("x", 2^20 + 1) } do
	local ok, why = pcall(j.encode, bad)
	assert(not ok and string.find(tostring(why), "rules.lua:%d+: json.encode: "), tostring(why))
end
assert(not pcall(j.array, setmetatable({}, {})) and not pcall(j.array, string))
"#;
    let (host, _dir) = script_with(&hooks(&[("a", code)]), patient());
    runs(&host, "a");
}

#[test]
fn a_shared_table_is_one_for_all_vms_and_its_entries_end() {
    let hand = Hand::new();
    let code = hooks(&[
        (
            "put",
            "local t = aether.shared('t')
             assert(t:get('k') == nil and t:set('k', { a = { 1 } }) and t:set({ 'k', 1 }, 'two') and not t:set('k', 1, { if_absent = true }))
             assert(t:set('soon', 1, { ttl = '5s' }) and t:incr('n', 2, { ttl = 5 }) == 2)
             assert(t:push('q', 'a') == 1 and t:push('q', { b = 1 }) == 2)
             assert(t:cas('k', { a = { 1 } }, 'new') and not t:cas('k', 'old', 'x') and t:cas('fresh', nil, 1) and t:cas('fresh', 1, nil))",
        ),
        (
            "get",
            "local t = aether.shared('t')
             assert(t:get('k') == 'new' and t:get('k', 1) == 'two' and t:get('fresh') == nil)
             assert(table.concat(t:keys('q'), ' ') == 'q' and #t:keys() == 5 and #t:keys('k') == 2 and t:keys('k')[2][2] == 1 and #t:keys(nil, { limit = 1 }) == 1)
             assert(t:incr('n') == 3 and t:get('soon') == 1)
             assert(t:pop('q') == 'a' and t:pop('q').b == 1 and t:pop('q') == nil)
             assert(t:set('k', nil) and t:get('k') == nil and t:incr('n', -3) == 0 and t:cas('n', 0, 0))
             assert(aether.shared('other'):get('soon') == nil)",
        ),
        ("late", "local t = aether.shared('t') assert(t:get('soon') == nil and t:incr('n') == 1)"),
        (
            "bad",
            "local t = aether.shared('t') t:set('x', 'text') t:set('l', { 1 })
             for at, f in {
                 function() t:incr('x') end, function() t:push('x', 1) end, function() t:pop('x') end, function() t:set({}, 1) end,
                 function() t:set(nil, 1) end, function() t:set('k', 1, { tll = 1 }) end, function() t:set('k', string.rep('x', 2^16)) end,
                 function() t:set('k', print) end, function() t:set(string.rep('k', 600), 1) end, function() t:incr('y', 0/0) end,
                 function() for i = 1, 100 do aether.shared('t' .. i) end end,
             } do
                 local ok, why = pcall(f)
                 assert(not ok and string.find(tostring(why), 'rules.lua:%d+: '), at .. tostring(why))
             end",
        ),
    ]);
    let (host, _dir) = script_with(&code, hand.config());
    runs(&host, "put");
    std::thread::scope(|threads| threads.spawn(|| runs(&host, "get")).join().unwrap());
    hand.pass(5);
    runs(&host, "late");
    runs(&host, "bad");
}

#[test]
fn a_shared_table_makes_room_and_counts_it() {
    let code =
        hooks(&[("fill", "local t = aether.shared('t') for i = 1, 400 do t:set(i, string.rep('x', 65000)) end")]);
    let (host, _dir) = script_with(&code, patient());
    runs(&host, "fill");
    assert!(host.shared_evicted() > 0);
}

#[test]
fn a_limiter_is_one_for_all_vms_and_says_when_to_come_back() {
    let hand = Hand::new();
    let code = "
local slow = aether.limiter({ rate = 2, per = '1s', burst = 4 })
local other = aether.limiter({ rate = 2, per = '1s', burst = 4 })
local pair = {}
for i = 1, 2 do pair[i] = aether.limiter({ rate = 1 }) end
aether.on.subscribe('take', function(s)
	local ok, retry = slow:take({ 'u', s.user or 'anon' })
	if ok then return true end
	return false, tostring(retry)
end)
aether.on.subscribe('pair', function() return pair[1]:take('k') and pair[2]:take('k') and other:take('k', 4) and not pair[1]:take('k') end)
aether.on.subscribe('many', function() return slow:take('k', 5) end)
aether.on.subscribe('late', function() aether.limiter({ rate = 1 }) end)";
    let (host, _dir) = script_with(code, hand.config());
    let taken = std::thread::scope(|threads| {
        let take = || (0..4).filter(|_| subscribe(&host, &nobody(), "take").is_ok()).count();
        let all: Vec<_> = (0..3).map(|_| threads.spawn(take)).collect();
        all.into_iter().map(|thread| thread.join().unwrap()).sum::<usize>()
    });
    assert_eq!(taken, 4);
    assert_eq!(subscribe(&host, &nobody(), "take").unwrap_err().why, "500");
    assert!(subscribe(&host, &client(Some("ann"), Grants::default()), "take").is_ok());
    hand.pass(1);
    assert_eq!((0..9).filter(|_| subscribe(&host, &nobody(), "take").is_ok()).count(), 2);
    subscribe(&host, &nobody(), "pair").unwrap();
    for (channel, why) in [("many", "between 0 and the burst of 4, got 5"), ("late", "made while the file loads")] {
        let log = logged(|| drop(subscribe(&host, &nobody(), channel)));
        assert!(log.contains(why), "{log}");
    }
    for (options, why) in [
        ("{}", "rate is missing"),
        ("{ rate = 0 }", "rate: expected a number above 0, got the number 0"),
        ("{ rate = 1, per = 'x' }", "per: expected a duration"),
        ("{ rate = 1, brst = 2 }", "did you mean burst?"),
        ("{ rate = 1, per = '9999d' }", "within a year"),
    ] {
        let found = complaints(&format!("aether.limiter({options})"));
        assert!(
            found.len() == 1 && found[0].starts_with("rules.lua:1: limiter: ") && found[0].contains(why),
            "{found:?}"
        );
    }
}

const KV: &[(&str, &str)] = &[
    (
        "put",
        "local t = aether.kv('t')
         assert(t:get('k') == nil and t:set('k', { a = { 1 } }) and t:set({ 'room', 7, 'ann' }, 'mod') and not t:set('k', 1, { if_absent = true }))
         assert(t:set('soon', 1, { ttl = '5s', if_absent = true }) and t:incr('n', 2, { ttl = 5 }) == 2 and t:incr('n') == 3)
         assert(t:cas('k', { a = { 1 } }, 'new') and not t:cas('k', 'old', 'x'))
         for i = 1, 5 do t:set({ 'list', i }, i) end
         assert(t:update('doc', function(d) d = d or { n = 0 } d.n += 1 return d end).n == 1)
         assert(t:update('doc', function(d) d.n += 1 return d end).n == 2)
         assert(t:delete({ 'list', 5 }) and not t:delete('list', 5))",
    ),
    (
        "get",
        "local t = aether.kv('t')
         assert(t:get('k') == 'new' and t:get('room', 7, 'ann') == 'mod' and t:get({ 'room', 7, 'ann' }) == 'mod' and t:get('doc').n == 2)
         assert(not pcall(function() t:get('doc').n = 3 end))
         local rows = t:scan('list')
         assert(#rows == 4 and rows[1].key[2] == 1 and rows[4].value == 4)
         rows = t:scan('list', { limit = 2, after = rows[2].key })
         assert(#rows == 2 and rows[1].value == 3)
         assert(aether.kv('other'):get('k') == nil and #aether.kv('other'):scan() == 0)",
    ),
    ("soon", "local t = aether.kv('t') assert(t:get('soon') == 1 and t:get('n') == 3)"),
    ("late", "local t = aether.kv('t') assert(t:get('soon') == nil and t:get('n') == nil and #t:scan('soon') == 0 and t:set('soon', 2, { if_absent = true }))"),
    ("gone", "local t = aether.kv('t') assert(t:update('doc', function() return nil end) == nil and t:get('doc') == nil)"),
    ("count", "aether.kv('t'):update('c', function(c) return (c or 0) + 1 end) aether.kv('t'):incr('i')"),
    ("counted", "assert(aether.kv('t'):get('c') == 400 and aether.kv('t'):get('i') == 400)"),
    ("broken", "aether.kv('t'):update('k', function() error('halfway') end)"),
];

#[test]
fn a_store_keeps_what_it_is_given_over_restarts_until_it_ends() {
    let hand = Hand::new();
    let store = Arc::new(MemoryKv::default());
    let start = || {
        let (host, dir) = script_with(&hooks(KV), hand.config());
        host.keep_in(store.clone());
        (host, dir)
    };
    let (host, _dir) = start();
    ["put", "get", "soon"].iter().for_each(|channel| runs(&host, channel));
    let log = logged(|| drop(subscribe(&host, &nobody(), "broken")));
    assert!(log.contains("halfway"), "{log}");
    drop(host);
    let (host, _dir) = start();
    ["get", "soon", "get"].iter().for_each(|channel| runs(&host, channel));
    hand.pass(5);
    ["late", "get", "gone"].iter().for_each(|channel| runs(&host, channel));
}

#[test]
fn changes_by_many_threads_are_all_there() {
    let (host, _dir) = script(&hooks(KV));
    std::thread::scope(|threads| {
        for _ in 0..4 {
            threads.spawn(|| (0..100).for_each(|_| subscribe(&host, &nobody(), "count").unwrap()));
        }
    });
    runs(&host, "counted");
}

#[test]
fn what_has_ended_leaves_the_store_although_nobody_asks_for_it() {
    let hand = Hand::new();
    let code = hooks(&[
        ("fill", "for i = 1, 300 do aether.kv('t'):set(i, i, { ttl = 1 }) end"),
        ("other", "for i = 1, 300 do aether.kv('t'):set('o', i) end"),
    ]);
    let (host, _dir) = script_with(&code, HostConfig { limits: patient().limits, ..hand.config() });
    let store = Arc::new(MemoryKv::default());
    host.keep_in(store.clone());
    runs(&host, "fill");
    assert_eq!(store.scan(&[], None, 1000).unwrap().len(), 300);
    hand.pass(2);
    runs(&host, "other");
    assert_eq!(store.scan(&[], None, 1000).unwrap().len(), 1);
}

/// A disk that fails.
struct Failing;

impl Kv for Failing {
    fn get(&self, _: &[u8]) -> Result<Option<Vec<u8>>, KvError> {
        Err(KvError("no disk".into()))
    }
    fn put(&self, _: &[u8], _: &[u8]) -> Result<(), KvError> {
        Err(KvError("no disk".into()))
    }
    fn delete(&self, _: &[u8]) -> Result<(), KvError> {
        Err(KvError("no disk".into()))
    }
    fn scan(&self, _: &[u8], _: Option<&[u8]>, _: usize) -> Result<Vec<KvEntry>, KvError> {
        Err(KvError("no disk".into()))
    }

    fn sync(&self) -> Result<(), KvError> {
        Err(KvError("disk on fire".into()))
    }
}

#[test]
fn a_store_that_fails_denies_and_says_where() {
    let (host, _dir) = script(&hooks(&[("a", "aether.kv('t'):get('k')"), ("b", "aether.kv('t'):set('k', 1)")]));
    host.keep_in(Arc::new(Failing));
    for channel in ["a", "b"] {
        let log = logged(|| assert_eq!(subscribe(&host, &nobody(), channel).unwrap_err().code, "rule_error"));
        assert!(log.contains("kv: the store failed: no disk") && log.contains("rules.lua:"), "{log}");
    }
}

const MANIFEST: &str = "[plugin]\nname = \"NAME\"\nversion = \"1\"\n[permissions]\nchannels = [\"*\"]\n";

#[test]
fn a_plugin_has_what_its_manifest_lists_and_a_store_of_its_own() {
    let dir = Dir::new();
    for (name, permissions) in
        [("one", "kv = [\"a\"]\nshared = [\"s\"]\nsecrets = [\"k\"]\n"), ("two", "kv = [\"a\"]\n"), ("bare", "")]
    {
        dir.write(&format!("{name}/plugin.toml"), MANIFEST.replace("NAME", name) + permissions);
    }
    dir.write(
        "one/main.lua",
        "aether.kv('a'):set('k', 'one') aether.shared('s'):set('k', 1) aether.secret('k')
         aether.on.subscribe('one', function() return aether.kv('a'):get('k') == 'one' and aether.shared('s'):get('k') == 1 end)
         aether.on.subscribe('kv', function() return aether.kv('b') end)
         aether.on.subscribe('shared', function() return aether.shared('a') end)
         aether.on.subscribe('secrets', function() return aether.secret('other') end)",
    );
    dir.write("two/main.lua", "aether.on.subscribe('two', function() return aether.kv('a'):get('k') == nil end)");
    dir.write(
        "bare/main.lua",
        "aether.on.subscribe('bare', function() return aether.kv == nil and aether.shared == nil and aether.secret == nil end)",
    );
    let plugins = ["one", "two", "bare"].map(|name| plugin_use(name, &dir.path(name), json!({})));
    let host = Host::load(HostConfig { plugins: plugins.into(), ..calm() }).unwrap();
    for channel in ["one", "two", "bare"] {
        subscribe(&host, &nobody(), channel).unwrap();
    }
    for kind in ["kv", "shared", "secrets"] {
        let log = logged(|| drop(subscribe(&host, &nobody(), kind)));
        assert!(log.contains(&format!("is not in [permissions] {kind} of one's plugin.toml")), "{log}");
    }
}

#[test]
fn only_hooks_that_may_wait_may_sync() {
    let (host, _dir) = script(
        "local kv = aether.kv('a')
kv:sync()
aether.on.connect(function(req)
	kv:set('seen', true)
	kv:sync()
	return aether.allow()
end)
aether.on.subscribe('a', function() kv:sync() return true end)
aether.on.publish('a', function() kv:sync() return true end)
aether.on.history('a', function() kv:sync() return true end)",
    );
    assert!(connect(&host, None).is_ok());
    for hook in ["on.subscribe", "on.publish", "on.history"] {
        let log = logged(|| {
            let refusal = match hook {
                "on.subscribe" => subscribe(&host, &nobody(), "a").unwrap_err(),
                "on.publish" => publish(&host, &nobody(), "a", "1").unwrap_err(),
                _ => history(&host, &nobody(), "a", false).unwrap_err(),
            };
            assert_eq!(refusal.code, "rule_error");
        });
        assert!(log.contains(&format!("and {hook} may not wait")) && log.contains("rules.lua:"), "{log}");
    }
}
