//! What hostile and broken scripts cannot do.

use super::*;
use crate::kernel::hooks::RefusalKind;
use crate::plugins::BreakerLimits;

/// A host whose breakers never open, whose hooks all run on the thread that asks, and where a loop ends soon.
pub fn tireless(code: &str) -> (Arc<Host>, Dir) {
    tireless_for(Duration::from_millis(20), code)
}

/// The same where a call may take so long: where nothing loops, a machine that stands still is no loop.
pub fn tireless_for(call: Duration, code: &str) -> (Arc<Host>, Dir) {
    let breaker = BreakerLimits { failures: usize::MAX, ..BreakerLimits::default() };
    script_with(code, HostConfig { limits: Limits { breaker, call, connect: call, ..calm().limits }, ..calm() })
}

#[test]
fn a_hostile_hook_runs_out_of_budget_and_its_vm_serves_the_next_call() {
    let (host, _dir) = tireless(
        r#"
aether.on.subscribe("loop", function() while true do end end)
aether.on.subscribe("swallow", function() while true do pcall(function() while true do end end) end end)
aether.on.subscribe("quiet", function() pcall(function() while true do end end) return aether.allow() end)
aether.on.subscribe("find", function()
	return string.find(string.rep("a", 60), string.rep("a?", 60) .. string.rep("a", 60) .. "b")
end)
aether.on.subscribe("bomb", function() local t = {} while true do t[#t + 1] = string.rep("x", 1000) .. #t end end)
aether.on.subscribe("fill", function() while true do pcall(function() local t = {} while true do t = { t, t } end end) end end)
aether.on.subscribe("move", function() while true do table.move({}, 1, 2^31 - 2, 2, {}) end end)
aether.on.subscribe("sort", function() return table.sort(table.create(3000000, 0)) end)
aether.on.subscribe("good", function() local n = 0 for i = 1, 1000 do n += i end return n == 500500 end)
"#,
    );
    for channel in ["loop", "swallow", "quiet", "find", "bomb", "fill", "move", "sort"] {
        for _ in 0..3 {
            let started = Instant::now();
            let refusal = subscribe(&host, &nobody(), channel).unwrap_err();
            assert_eq!(refusal.kind, RefusalKind::Broken, "{channel}");
            assert!(started.elapsed() < DEADLINE, "{channel}");
            assert!(subscribe(&host, &nobody(), "good").is_ok(), "after {channel}");
        }
    }
    assert!(host.counters().killed_over_budget.load(Ordering::Relaxed) >= 12);
    let log = logged(|| drop(subscribe(&host, &nobody(), "loop")));
    assert!(
        log.contains("rules.lua:2: the time budget of this call is used up (on.subscribe loop may take 20ms)"),
        "{log}"
    );
}

#[test]
fn a_vm_whose_memory_stays_full_makes_room_for_a_new_one() {
    let dir = Dir::new();
    dir.write("rules.lua", "local kept = {} aether.on.subscribe('keep', function() kept[#kept + 1] = buffer.create(9000000) return true end)");
    let limits = Limits { call: DEADLINE, ..calm().limits };
    let host = Host::load(HostConfig { scripts: Some(dir.0.clone()), limits, ..calm() }).unwrap();
    let vms = || host.counters().vms.load(Ordering::Relaxed);
    assert!(subscribe(&host, &nobody(), "keep").is_ok() && vms() == 1);
    for _ in 0..8 {
        let _ = subscribe(&host, &nobody(), "keep");
    }
    assert!(vms() > 1);
}

#[test]
fn loading_has_an_end_too() {
    let errors = complaints("while true do end");
    assert!(
        errors.len() == 1 && errors[0].contains("rules.lua:1: the time budget of this call is used up"),
        "{errors:?}"
    );
}

#[test]
fn every_thread_has_its_own_vm_and_all_agree() {
    let (host, _dir) = script("aether.on.subscribe('a', function(s) return s.user == 'ann' end)");
    std::thread::scope(|threads| {
        for _ in 0..4 {
            threads.spawn(|| {
                let (ann, bob) = (client(Some("ann"), Grants::default()), client(Some("bob"), Grants::default()));
                for _ in 0..200 {
                    assert!(subscribe(&host, &ann, "a").is_ok() && subscribe(&host, &bob, "a").is_err());
                }
            });
        }
    });
    assert_eq!(host.counters().vms.load(Ordering::Relaxed), 4);
}

#[test]
fn a_vm_that_registers_other_hooks_than_the_checked_one_is_refused() {
    let (host, _dir) = script(
        "aether.on.subscribe('r' .. aether.crypto.uuid(), function() return true end)\naether.on.connect(function() return true end)",
    );
    assert_eq!(connect(&host, Some("x")).map(drop).unwrap_err().code, "rule_error");
    let log = logged(|| drop(connect(&host, Some("x"))));
    assert!(log.contains("is registered where the checked load had"), "{log}");
}

#[test]
fn scripts_reach_nothing_but_their_own() {
    let (host, _dir) = script(
        r#"
leak = 1
aether.on.subscribe("a", function()
	for _, name in { "loadstring", "getfenv", "setfenv", "io", "dofile", "loadfile", "load", "package" } do
		if getmetatable("").__index[name] or _G[name] then return false, name end
	end
	if os.execute or os.getenv or os.exit then return false, "os" end
	if pcall(function() _G.x = 1 end) then return false, "_G" end
	if pcall(function() getmetatable("").__index = nil end) then return false, "strings" end
	if pcall(collectgarbage, "stop") then return false, "collector" end
	return leak == 1
end)
"#,
    );
    subscribe(&host, &nobody(), "a").unwrap();
    let dir = Dir::new();
    dir.write("a.lua", "shared = 1 _G.string = string");
    dir.write("b.lua", "assert(shared == nil)");
    let error = Host::load(HostConfig { scripts: Some(dir.0.clone()), ..calm() }).err().unwrap();
    assert!(error.0.len() == 1 && error.0[0].contains("a.lua:1: attempt to modify a readonly table"), "{error}");
}

#[test]
fn a_secret_can_be_used_and_not_be_seen() {
    let dir = Dir::new();
    dir.write(
        "rules.lua",
        r#"
local key = aether.secret("key")
assert(tostring(key) == "<secret>" and aether.secret("other") == nil)
assert(not pcall(function() return "x" .. key end) and not pcall(string.rep, key, 1))
assert(aether.crypto.equal(key, "hunter2") and aether.crypto.hmac_sha256(key, "x") == aether.crypto.hmac_sha256("hunter2", "x"))
aether.on.subscribe("a", function() print(key, { key = key }) aether.log.warn("told", { key = key }) return true end)
"#,
    );
    let secrets = Arc::new(|name: &str| (name == "key").then(|| "hunter2".to_owned()));
    let host = Host::load(HostConfig { scripts: Some(dir.0.clone()), secrets, ..calm() }).unwrap();
    let log = logged(|| subscribe(&host, &nobody(), "a").unwrap());
    assert!(log.contains("rules.lua:6") && log.contains("<secret>") && !log.contains("hunter2"), "{log}");
}
