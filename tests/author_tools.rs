//! What an author has beside the hub: tests of plugins without one.

use std::path::Path;
use std::process::{Command, Output};
use std::time::Instant;

use crate::common::DEADLINE;

use super::common::{TempDir, repository};

fn aether(dir: &Path, args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_aether")).current_dir(dir).args(args).output().expect("aether runs")
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

fn write(dir: &Path, path: &str, text: &str) {
    let path = dir.join(path);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, text).unwrap();
}

const MANIFEST: &str = r#"
[plugin]
name = "p"
version = "0.1.0"
[permissions]
channels = ["room.*"]
kv = ["seen"]
[config.most]
type = "number"
default = 2
max = 5
"#;

const MAIN: &str = r#"local seen = aether.kv("seen")
local pace = aether.limiter({ rate = 1, per = "1s", burst = aether.config.most })

aether.on.subscribe("room.{room}", function(s, ch)
	if ch.room == "crash" then return nil + 1 end
	if not pace:take(s.user or s.id) then
		return aether.deny("too_fast", "slow down")
	end
	aether.log.warn("came", { room = ch.room })
	seen:set(ch.room, s.user, { ttl = "1m" })
	return aether.allow()
end)

local function never()
	return 1
end
"#;

/// A plugin `p` with these tests, in a directory of its own.
fn plugin(tests: &str) -> TempDir {
    let dir = TempDir::new();
    write(dir.path(), "plugins/p/plugin.toml", MANIFEST);
    write(dir.path(), "plugins/p/main.lua", MAIN);
    write(dir.path(), "plugins/p/tests/main.lua", &format!("local t = aether.test\n{tests}"));
    dir
}

#[test]
fn the_shipped_plugins_and_scripts_pass_their_tests() {
    let output = aether(repository(), &["test", "--coverage"]);
    let said = said(&output);
    assert!(output.status.success(), "{said}");
    for file in ["plugins/jwt-auth/main.lua", "plugins/api-keys/main.lua", "scripts/rules.lua"] {
        assert!(said.contains(file), "{said}");
    }
    assert!(said.contains(", 0 failed in"), "{said}");
}

#[test]
fn every_hook_and_every_function_of_the_library_has_a_case_in_lua() {
    let output = aether(repository(), &["test", "tests/lua/library", "--library"]);
    assert!(output.status.success(), "{}", said(&output));
}

#[test]
fn what_of_the_library_no_case_uses_is_named_and_fails() {
    let dir = plugin("t.case(\"it\", function() t.equal(aether.crypto.sha256(\"\"):sub(1, 4), \"e3b0\") end)");
    let output = aether(dir.path(), &["test", "--library"]);
    let said = said(&output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("1 passed, 0 failed"), "{said}");
    // Loading registers the hook, and that is no use of it.
    for unused in ["on.subscribe", "crypto.md5", "limiter", "config"] {
        assert!(said.contains(&format!("  aether.{unused} is used by no case")), "{unused} in {said}");
    }
    assert!(!said.contains("aether.crypto.sha256"), "{said}");
}

#[test]
fn a_call_that_no_stub_answers_fails_the_case_and_says_how_to_answer_it() {
    let dir = plugin(
        r#"
t.case("forgets the back end", function() t.allowed(t.subscribe("bob", "room.1")) end)
t.case("knows it", function()
	t.http.stub("GET", "https://auth.internal/*", { json = { member = true } })
	t.allowed(t.subscribe("bob", "room.1"))
	t.equal(#t.http.calls(), 1)
end)
t.case("asks with a function that is wrong", function()
	t.http.stub("GET", "https://auth.internal/*", function(req) return req.nothing.at.all end)
	t.denied(t.subscribe("bob", "room.1"), "no", "attempt to index nil")
end)
"#,
    );
    dir.write("plugins/p/plugin.toml", &MANIFEST.replace("kv = [", "http = [\"https://auth.internal/*\"]\nkv = ["));
    dir.write(
        "plugins/p/main.lua",
        r#"aether.on.subscribe("room.{room}", function(s, ch)
	local res, why = aether.http.get("https://auth.internal/rooms/" .. ch.room)
	return if res then res:json().member else aether.deny("no", why)
end)"#,
    );
    let output = aether(dir.path(), &["test"]);
    let said = said(&output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    for line in [
        "plugins/p/tests/main.lua:3: p asks GET https://auth.internal/rooms/1, and no stub answers",
        "t.http.stub(\"GET\", \"https://auth.internal/rooms/1\", { status = 200 })",
        "2 passed, 1 failed",
    ] {
        assert!(said.contains(line), "{line:?} is not in\n{said}");
    }
}

#[test]
fn watching_plays_the_tests_again_when_a_file_has_changed() {
    let dir = plugin("t.case(\"it\", function() t.fail(\"at first\") end)");
    let mut watching = Watching::start(dir.path());
    watching.until("0 passed, 1 failed");
    watching.until("waiting for a file to change");
    dir.write("plugins/p/tests/main.lua", "aether.test.case(\"it\", function() end)");
    watching.until("1 passed, 0 failed");
    dir.write("plugins/p/main.lua", "this is no Luau");
    dir.write("plugins/p/tests/main.lua", "aether.test.case(\"it\", function() assert(aether.test.load()) end)");
    watching.until("plugins/p/main.lua:1");
}

/// `aether test --watch`, killed when it is dropped.
struct Watching {
    program: std::process::Child,
    said: std::sync::mpsc::Receiver<String>,
}

impl Watching {
    fn start(dir: &Path) -> Watching {
        let mut program = Command::new(env!("CARGO_BIN_EXE_aether"))
            .current_dir(dir)
            .args(["test", "--watch"])
            .stdout(std::process::Stdio::piped())
            .spawn()
            .expect("aether runs");
        let lines = std::io::BufRead::lines(std::io::BufReader::new(program.stdout.take().expect("it is piped")));
        let (tell, said) = std::sync::mpsc::sync_channel(1000);
        std::thread::spawn(move || {
            lines.map_while(Result::ok).take_while(|line| tell.send(line.clone()).is_ok()).count()
        });
        Watching { program, said }
    }

    /// Reads on until a line contains this.
    fn until(&mut self, text: &str) {
        let end = Instant::now() + DEADLINE;
        let mut seen = String::new();
        while !seen.contains(text) {
            let left = end.saturating_duration_since(Instant::now());
            let line = self.said.recv_timeout(left).unwrap_or_else(|_| panic!("{text:?} did not come:\n{seen}"));
            seen = seen + &line + "\n";
        }
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        let _ = self.program.kill();
        let _ = self.program.wait();
    }
}

#[test]
fn every_case_has_a_line_and_a_failing_one_says_where_and_what_and_stops_no_other() {
    let dir = plugin(
        r#"
t.case("passes", function() t.allowed(t.subscribe("bob", "room.1")) end)
t.case("expects a no", function()
	t.denied(t.subscribe("bob", "room.1"), "not_member")
end)
t.case("errs", function() return (nil).x end)
t.case("differs", function() t.equal({ a = { 1, 2 } }, { a = { 1, 3 } }, "the list") end)
t.case("meets a rule that breaks", function() t.denied(t.subscribe("bob", "room.crash"), "not_member") end)
t.case("passes too", function() t.denied(t.subscribe("bob", "room.crash"), "rule_error") end)
"#,
    );
    let output = aether(dir.path(), &["test"]);
    let said = said(&output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    for line in [
        "  ok    passes (",
        "  ok    passes too (",
        "plugins/p/tests/main.lua:5: expected the no not_member, got a yes",
        "log WARN plugins/p/main.lua:9: came {\"room\":\"1\"}",
        "plugins/p/tests/main.lua:7: attempt to index nil",
        "plugins/p/tests/main.lua:8: the list: not the same:",
        "  .a[2]: got 2, expected 3",
        "got a rule that broke: plugins/p/main.lua:5: attempt to perform arithmetic",
        "2 passed, 4 failed in",
    ] {
        assert!(said.contains(line), "{line:?} is not in\n{said}");
    }
}

#[test]
fn a_case_that_hangs_is_killed_and_named_and_the_next_one_runs() {
    let dir = plugin(
        r#"
t.case("hangs", function() while true do pcall(function() while true do end end) end end)
t.case("fills the memory", function() local x = {} while true do x[#x + 1] = string.rep("x", 1e6) .. #x end end)
t.case("passes", function() end)
"#,
    );
    let began = Instant::now();
    let output = aether(dir.path(), &["test"]);
    let said = said(&output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("FAIL  hangs\n        plugins/p/tests/main.lua:3: the time budget"), "{said}");
    assert!(said.contains("FAIL  fills the memory") && said.contains("not enough memory"), "{said}");
    assert!(said.contains("ok    passes"), "{said}");
    assert!(began.elapsed() < 2 * DEADLINE);
}

#[test]
fn the_clock_in_hand_is_the_one_that_stores_limiters_and_tokens_follow() {
    let dir = plugin(
        r#"
t.case("it", function()
	t.equal(aether.now_ms(), t.clock.now())
	for _ = 1, 2 do t.allowed(t.subscribe("bob", "room.1")) end
	t.denied(t.subscribe("bob", "room.1"), "too_fast", "slow down")
	t.clock.advance("1s")
	t.allowed(t.subscribe("bob", "room.2"))
	t.equal(aether.kv("seen"):get("2"), "bob")
	t.clock.advance("61s")
	t.equal(aether.kv("seen"):get("2"), nil)

	local key = string.rep("k", 32)
	local tokens = aether.jwt.verifier({ alg = "HS256", key = key, leeway = 0 })
	local token = aether.jwt.sign({ exp = aether.now_ms() / 1000 + 10 }, { alg = "HS256", key = key })
	t.clock.advance("9s")
	assert(tokens:verify(token))
	t.clock.advance("1s")
	local claims, why = tokens:verify(token)
	t.equal({ claims, why }, { nil, "the token has expired" })
	t.clock.set(1e12)
	t.equal(aether.now_ms(), 1e12)
end)
t.case("and begins anew, with empty stores", function()
	t.equal(t.clock.now(), 1767225600000)
	t.equal(aether.kv("seen"):scan(), {})
	t.equal(t.logs(), {})
end)
t.case("settings are checked, and a reload keeps what is stored", function()
	t.config({ most = 1 })
	t.allowed(t.subscribe("bob", "room.1"))
	t.denied(t.subscribe("bob", "room.1"), "too_fast")
	local ok, why = t.reload({ most = 6 })
	t.equal(ok, false)
	t.matches(why, "most: 6 is more than the most, 5")
	assert(t.reload({ most = 3 }))
	t.equal(aether.kv("seen"):get("1"), "bob")
	t.equal(t.logs()[1].fields, { room = "1" })
end)
"#,
    );
    let output = aether(dir.path(), &["test"]);
    assert!(output.status.success(), "{}", said(&output));
}

#[test]
fn a_test_sees_what_transforms_make_what_views_leave_and_what_is_kept() {
    let dir = TempDir::new();
    dir.write(
        "scripts/rules.lua",
        r#"
aether.on.publish("room.*", function() return true end)
aether.on.subscribe("room.*", function() return aether.allow({ view = "public" }) end)
aether.on.transform("room.{room}", function(ch, msg)
	if msg:get("drop") then return nil end
	return msg:with_json({ text = msg:get("text"), room = ch.room, email = "a@b.c" })
end)
aether.on.view("room.*", "public", { drop = { "email" } })
aether.on.view("room.*", "blind", function() return nil end)
aether.on.retention("room.*", function() return { count = 5, age = "1h" } end)
"#,
    );
    dir.write(
        "scripts/tests/rules.lua",
        r#"
local t = aether.test
t.case("it", function()
	t.equal(t.publish("bob", "room.1", { text = "hi" }).payload, { text = "hi", room = "1", email = "a@b.c" })
	t.equal(t.publish("bob", "room.1", { drop = true }).allowed, false)
	t.equal(t.allowed(t.subscribe("bob", "room.1")).view, "public")
	t.equal(t.view("room.1", "public", { text = "hi", email = "x" }).payload, { text = "hi" })
	t.equal(t.view("room.1", "blind", { text = "hi" }), nil)
	t.raises(function() t.view("room.1", "blnd", {}) end, "blnd")
	local kept = t.retention("room.1")
	t.equal({ kept.count, kept.age }, { 5, 3600 })
end)
"#,
    );
    let output = aether(dir.path(), &["test"]);
    assert!(output.status.success(), "{}", said(&output));
    dir.write("aether.toml", "plugin = []");
    dir.write("scripts/again.lua", "aether.on.view(\"room.1\", \"public\", { drop = { \"x\" } })");
    let output = aether(dir.path(), &["check"]);
    assert!(said(&output).contains("scripts/again.lua:1"), "{}", said(&output));
}

#[test]
fn a_test_sees_what_rules_publish_and_whom_they_send_away() {
    let dir = TempDir::new();
    dir.write(
        "scripts/rules.lua",
        r#"
aether.on.subscribe("room.*", function() return true end)
aether.on.publish("room.{room}", function(s, ch, msg)
	aether.publish({ "log.a", "log.b" }, { room = ch.room, there = #aether.presence(ch.name) }, { event = "seen" })
	if msg:get("ban") then aether.kick({ user = msg:get("ban"), why = "banned" }) end
	return true
end)
"#,
    );
    dir.write(
        "scripts/tests/rules.lua",
        r#"
local t = aether.test
t.case("it", function()
	t.subscribe("bob", "room.1")
	t.allowed(t.publish("alice", "room.1", { ban = "bob" }))
	local said = t.published()[1]
	t.equal(said.channels, { "log.a", "log.b" })
	t.equal(said.payload, { room = "1", there = 1 })
	t.equal(said.event, "seen")
	t.equal({ t.kicked()[1].user, t.kicked()[1].why }, { "bob", "banned" })
	t.equal(aether.presence("room.1"), {})
end)
t.case("and nothing of it in the next case", function() t.equal({ t.published(), t.kicked() }, { {}, {} }) end)
"#,
    );
    let output = aether(dir.path(), &["test"]);
    assert!(output.status.success(), "{}", said(&output));
}

#[test]
fn routes_answer_in_a_test_as_they_do_over_http() {
    let dir = plugin(
        r#"
t.case("anybody", function()
	local answer = t.allowed(t.route("POST", "/rooms/42", { json = { user = "bob" }, headers = { ["X-Trace"] = "7" } }))
	t.equal(answer.status, 201)
	t.equal(answer.json, { room = "42", user = "bob", trace = "7" })
	t.matches(answer.headers["content-type"], "json")
	t.denied(t.route("POST", "/rooms/closed", { json = {} }), "closed")
end)
t.case("admins", function()
	t.raises(function() t.route("GET", "/rooms/42", { who = "bob" }) end, "is for admins")
	t.equal(t.route("GET", "/rooms/42", { who = { user = "op", grants = { admin = true } } }).body, "op")
	t.denied(t.route("GET", "/rooms/42"), "unauthorized")
	t.raises(function() t.route("PUT", "/rooms/42") end, "answers only to")
	t.raises(function() t.route("GET", "/elsewhere") end, "no route")
end)
"#,
    );
    dir.write("plugins/p/plugin.toml", &MANIFEST.replace("kv = [", "routes = [\"/rooms/*\"]\nkv = ["));
    let routes = r#"
aether.http.route("POST", "/rooms/{room}", { auth = "none" }, function(req)
	if req.params.room == "closed" then return aether.deny("closed", "not now") end
	return { status = 201, json = { room = req.params.room, user = req:json().user, trace = req:header("x-trace") } }
end)
aether.http.route("GET", "/rooms/{room}", function(req) return { body = req.user } end)
"#;
    dir.write("plugins/p/main.lua", &format!("{MAIN}{routes}"));
    let output = aether(dir.path(), &["test"]);
    assert!(output.status.success(), "{}", said(&output));
}

#[test]
fn coverage_names_the_lines_that_did_not_run() {
    let dir = plugin(r#"t.case("one", function() t.allowed(t.subscribe("bob", "room.1")) end)"#);
    let output = aether(dir.path(), &["test", "p", "--coverage"]);
    let text = said(&output);
    let row = text.lines().find(|line| line.starts_with("plugins/p/main.lua")).unwrap_or_else(|| panic!("{text}"));
    let words: Vec<&str> = row.split_whitespace().collect();
    assert_eq!(words[4..], ["7,", "15"], "{text}");
    let (lines, ran): (usize, usize) = (words[1].parse().unwrap(), words[2].parse().unwrap());
    assert_eq!(lines - ran, 2, "{text}");
    assert!(!text.contains("tests/main.lua  "), "{text}");
}

#[test]
fn a_program_can_read_the_outcome() {
    let dir = plugin(
        "t.case(\"good\", function() end)\nt.case(\"bad\", function() t.fail(\"so it is\") end)\nt.case(\"other\", function() end)",
    );
    let output = aether(dir.path(), &["test", "p", "--json", "--coverage", "--filter", "d"]);
    assert_eq!(output.status.code(), Some(1));
    let outcome: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&outcome["passed"], &outcome["failed"]), (&1.into(), &1.into()), "{outcome}");
    assert_eq!(outcome["cases"][1]["place"], "plugins/p/tests/main.lua:3");
    assert_eq!(outcome["cases"][1]["why"], "so it is");
    assert_eq!(outcome["coverage"][0]["file"], "plugins/p/main.lua");
}

#[test]
fn what_cannot_be_tested_is_a_wrong_command_line() {
    let dir = TempDir::new();
    for (args, why) in [
        (vec!["test"], "there are no tests"),
        (vec!["test", "nope"], "nope is neither a directory nor a plugin"),
        (vec!["test", "--nope"], "--nope"),
    ] {
        let output = aether(dir.path(), &args);
        assert_eq!(output.status.code(), Some(2), "{args:?}: {}", said(&output));
        assert!(said(&output).contains(why), "{args:?}: {}", said(&output));
    }
    let dir = plugin("error('broken file')");
    let output = aether(dir.path(), &["test"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(said(&output).contains("plugins/p/tests/main.lua:2: broken file"), "{}", said(&output));
}

const RULES: &str = r#"local seen, count = {}, 0
local http = aether.http

local function remember(user) seen[user] = true end

aether.on.publish("room.{room}", function(s, ch)
	count += 1
	remember(s.user)
	return aether.allow()
end)

aether.on.subscribe("no space", function() return true end)
aether.on.history("room.{room}", function() return true end)
"#;

#[test]
fn check_names_what_can_never_match_what_gets_lost_and_what_nobody_uses() {
    let dir = TempDir::new();
    dir.write(
        "plugins/p/plugin.toml",
        &MANIFEST.replace("kv = [", "secrets = [\"token\"]\nshared = [\"muted\"]\nkv = ["),
    );
    dir.write("plugins/p/main.lua", &format!("{MAIN}\nprint(aether.secret('token'))\n"));
    dir.write("scripts/rules.lua", RULES);
    dir.write("aether.toml", "[[plugin]]\nuse = \"p\"\nchannels = [\"room.lobby.*\"]\n");
    let output = aether(dir.path(), &["check"]);
    let text = said(&output);
    assert_eq!(output.status.code(), Some(1), "{text}");
    for line in [
        "scripts/rules.lua:12: on.subscribe no space can never match",
        "scripts/rules.lua:4: warning: seen outlives on.publish room.{room}",
        "scripts/rules.lua:7: warning: count outlives on.publish room.{room}",
        "plugins/p/main.lua:4: warning: on.subscribe room.{room} never runs: the settings let p run only on room.lobby.*",
        "plugins/p/plugin.toml:8: warning: [permissions] shared: \"muted\" is not used by p",
        "plugins/p/plugin.toml:7: warning: p asks for the secret \"token\", which is not set: secrets.token",
        "error: one problem",
    ] {
        assert!(text.contains(line), "{line:?} is not in\n{text}");
    }

    dir.write("scripts/rules.lua", &RULES.replace("no space", "space"));
    let output = aether(dir.path(), &["check"]);
    assert!(output.status.success(), "{}", said(&output));
    let output = aether(dir.path(), &["check", "--strict"]);
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    let output = aether(dir.path(), &["check", "--json"]);
    let told: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((output.status.code(), &told["ok"]), (Some(0), &true.into()), "{told}");
    assert_eq!(told["warnings"].as_array().unwrap().len(), 5, "{told}");
    assert_eq!(told["warnings"][0]["place"], "plugins/p/main.lua:4");
    // Faults of the settings hide none of the plugins.
    dir.write(
        "aether.toml",
        "[server]\nadr = 7\n[publish]\nqueue = 0\n[[plugin]]\nuse = \"p\"\n[plugin.config]\nx = 1\n",
    );
    dir.write("scripts/rules.lua", "aether.on.publish('a b', 7)");
    let output = aether(dir.path(), &["check"]);
    let text = said(&output);
    for line in [
        "aether.toml:2:1: server.adr is not known here; did you mean addr?",
        "aether.toml:4:9: publish.queue must be between 1 and 1000000, not 0",
        "aether.toml:8:1: x is not known here",
        "scripts/rules.lua:1: on.publish takes a pattern and a function",
        "error: 4 problems",
    ] {
        assert!(text.contains(line), "{line:?} is not in\n{text}");
    }
    // But where the rules are is part of what is wrong here, so of them nothing is said.
    dir.write("aether.toml", "[[plugin]]\nuse = \"p\"\nchanels = []\n");
    let output = aether(dir.path(), &["check"]);
    assert!(said(&output).contains("error: one problem"), "{}", said(&output));
    let output = aether(dir.path(), &["check", "--json"]);
    let told: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((output.status.code(), &told["ok"]), (Some(1), &false.into()), "{told}");
    assert_eq!(told["errors"][0]["place"], "aether.toml:3:1", "{told}");
}

#[test]
fn what_ships_has_nothing_to_complain_about() {
    let dir = TempDir::new();
    let data = dir.path().display().to_string();
    let output = aether(repository(), &["check", "--strict", "--data", &data]);
    assert!(output.status.success(), "{}", said(&output));
}

#[test]
fn a_new_plugin_passes_its_tests_and_the_check_at_once_and_replaces_nothing() {
    let dir = TempDir::new();
    let output = aether(dir.path(), &["plugin", "new", "room-acl"]);
    assert!(output.status.success(), "{}", said(&output));
    let output = aether(dir.path(), &["test", "--coverage"]);
    assert!(output.status.success(), "{}", said(&output));
    assert!(said(&output).contains("100.0"), "{}", said(&output));
    dir.write("aether.toml", "[[plugin]]\nuse = \"room-acl\"\n");
    let output = aether(dir.path(), &["check", "--strict"]);
    assert!(output.status.success(), "{}", said(&output));

    let output = aether(dir.path(), &["plugin", "new", "room-acl"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(said(&output).contains("plugins/room-acl is there already"), "{}", said(&output));
    for bad in ["../x", "Room", "1a", ""] {
        assert_eq!(aether(dir.path(), &["plugin", "new", bad]).status.code(), Some(2), "{bad}");
    }
    let elsewhere = aether(dir.path(), &["plugin", "new", "other", "--dir", "mine"]);
    assert!(elsewhere.status.success() && dir.path().join("mine/other/tests/main.lua").is_file());
}

#[test]
fn plugins_are_listed_and_described_with_their_hooks_and_settings() {
    let output = aether(repository(), &["plugin", "list"]);
    let text = said(&output);
    assert!(output.status.success(), "{text}");
    assert!(text.contains("jwt-auth 0.1.0 (used at aether.toml:"), "{text}");
    assert!(text.contains("  on.connect (plugins/jwt-auth/main.lua:"), "{text}");

    let dir = plugin("");
    let output = aether(dir.path(), &["plugin", "info", "p"]);
    let text = said(&output);
    for line in [
        "p 0.1.0\n",
        "not used",
        "channels: room.*",
        "kv: seen",
        "most (a number, default 2)",
        "on.subscribe room.{room} (plugins/p/main.lua:4)",
    ] {
        assert!(text.contains(line), "{line:?} is not in\n{text}");
    }
    dir.write("plugins/p/main.lua", "error('no')");
    let text = said(&aether(dir.path(), &["plugin", "info", "p"]));
    assert!(text.contains("plugins/p/main.lua:1: no"), "{text}");
    assert_eq!(aether(dir.path(), &["plugin", "info", "q"]).status.code(), Some(2));
}

#[test]
fn editors_get_the_types_of_everything() {
    let dir = TempDir::new();
    let output = aether(dir.path(), &["plugin", "types"]);
    assert!(output.status.success(), "{}", said(&output));
    let read = |file: &str| std::fs::read_to_string(dir.path().join(file)).unwrap();
    assert!(read("aether.d.luau").contains("\t\tequal: (got: any, expected: any, what: string?) -> (),"));
    assert!(read("aether.lua").contains("function aether.on.subscribe(pattern, hook, waiting) end"));
}

#[test]
fn what_each_hook_costs_is_measured() {
    let output = aether(repository(), &["plugin", "bench", "jwt-auth", "--calls", "100"]);
    let text = said(&output);
    let row = text.lines().nth(1).unwrap_or_else(|| panic!("{text}"));
    assert!(row.contains("on.connect (plugins/jwt-auth/main.lua:"), "{text}");
    assert!(row.split_whitespace().next().unwrap().parse::<u64>().unwrap() > 0, "{text}");
}
