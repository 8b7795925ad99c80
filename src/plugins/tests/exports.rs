//! What a plugin exports, others require.

use super::*;

/// A host of plugins, each `(name, permissions, code)` in this order, and of one script.
fn plugins(plugins: &[(&str, &str, &str)], script: &str) -> Result<(Arc<Host>, Dir), String> {
    let dir = Dir::new();
    let mut uses = Vec::new();
    for (name, permissions, code) in plugins {
        let manifest = format!("[plugin]\nname = \"{name}\"\nversion = \"1\"\n[permissions]\n{permissions}\n");
        dir.write(&format!("{name}/plugin.toml"), manifest);
        dir.write(&format!("{name}/main.lua"), code);
        uses.push(plugin_use(name, &dir.path(name), serde_json::json!({})));
    }
    dir.write("scripts/rules.lua", script);
    let scripts = Some(dir.path("scripts"));
    let host = Host::load(HostConfig { plugins: uses, scripts, ..calm() });
    let host = host.map_err(|error| error.to_string().replace(&format!("{}/", dir.0.display()), ""))?;
    host.begin().map_err(|error| error.to_string())?;
    Ok((host, dir))
}

const ACL: &str = "
    local muted = aether.shared('muted')
    aether.export({
        words = { 'spam' },
        mute = function(user) muted:set(user, true) end,
        is_muted = function(user) return muted:get(user) == true end,
        spin = function() while true do end end,
    })";

#[test]
fn a_script_and_another_plugin_use_what_a_plugin_exports_with_its_permissions() {
    let (host, _dir) = plugins(
        &[
            ("acl", "shared = [\"muted\"]", ACL),
            ("bot", "channels = [\"a\"]", "
                local acl = require('@acl')
                assert(not aether.shared)
                aether.on.publish('a', function(s) if acl.is_muted(s.user) then return aether.deny('muted') end end)"),
        ],
        "local acl = require('@acl')
         aether.on.publish('a', function(s, ch, msg) if msg:text() == acl.words[1] then acl.mute(s.user) end return true end)",
    )
    .unwrap();
    let ann = client(Some("ann"), Grants::default());
    publish(&host, &ann, "a", "hello").unwrap();
    publish(&host, &ann, "a", "spam").unwrap();
    assert_eq!(publish(&host, &ann, "a", "hello").unwrap_err().code, "muted");
    publish(&host, &client(Some("bob"), Grants::default()), "a", "hello").unwrap();
}

#[test]
fn a_plugin_that_is_required_before_its_turn_is_loaded_first_and_hooks_keep_the_order_of_the_plugins() {
    let transform = |name: &str| {
        format!("aether.on.transform('a', function(ch, msg) return msg:with_text(msg:text() .. '{name}') end)")
    };
    let first = format!("local second = require('@second') assert(second.one == 1) {}", transform("1"));
    let second = format!("aether.export({{ one = 1 }}) {}", transform("2"));
    let rooms = "channels = [\"a\"]";
    let (host, _dir) = plugins(
        &[("first", rooms, &first), ("second", rooms, &second)],
        "aether.on.publish('a', function() return true end)",
    )
    .unwrap();
    let admitted = now(host.publish(&nobody(), draft("a", "0"))).unwrap();
    assert_eq!(&*admitted.draft.message.payload, b"012");
}

#[test]
fn what_is_exported_cannot_be_changed_by_those_who_use_it() {
    let export = "
        local inner = table.freeze({ deep = {} })
        local mold = {}
        local thing = setmetatable({}, mold)
        local round = {}
        round.round = round
        aether.export({ list = {}, inner = inner, thing = thing, round = round })";
    for (change, wrong) in [
        ("acl.list = 1", true),
        ("acl.list[1] = 1", true),
        ("acl.inner.deep.x = 1", true),
        ("acl.thing.x = 1", true),
        ("getmetatable(acl.thing).__index = function() end", true),
        ("acl.round.round.x = 1", true),
        ("local copy = table.clone(acl.list) copy[1] = 1", false),
    ] {
        let loaded = plugins(&[("acl", "", export)], &format!("local acl = require('@acl')\n{change}"));
        let told = loaded.map(drop).err().unwrap_or_default();
        assert_eq!(told.contains("scripts/rules.lua:2: attempt to modify a readonly table"), wrong, "{change}: {told}");
    }
}

#[test]
fn what_cannot_be_required_or_exported_is_an_error_at_load_with_its_place() {
    let script = |code: &str| plugins(&[("room-acl", "", "aether.export({ x = 1 })"), ("mute", "", "")], code);
    for (code, wrong) in [
        (
            "require('@rom-acl')",
            "scripts/rules.lua:1: require(\"@rom-acl\"): no plugin of this name is used in aether.toml; did you mean room-acl?",
        ),
        ("\nrequire('@mute')", "scripts/rules.lua:2: require(\"@mute\"): mute exports nothing"),
        ("aether.export({ x = 1 })", "scripts/rules.lua:1: export: scripts share by require(\"./file\")"),
        ("require('room-acl')", "a path that begins with ./, or a plugin's name as @name"),
    ] {
        let told = script(code).map(drop).unwrap_err();
        assert!(told.contains(wrong), "{code}: {told}");
    }
    for (code, wrong) in [
        ("aether.export(7)", "p/main.lua:1: export: expected a table of functions and values, got the number 7"),
        ("aether.export({})", "export: the table is empty"),
        ("aether.export({ 1 })", "export: expected names of functions and values, got the number 1"),
        (
            "aether.export({ x = 1 })\naether.export({ x = 1 })",
            "p/main.lua:2: export: a plugin exports one table, once",
        ),
        ("require('@p')", "a plugin requires its own files by their path"),
        ("aether.on.load(function() aether.export({ x = 1 }) end)", "is said while its file loads"),
    ] {
        let told = plugins(&[("p", "", code)], "").map(drop).unwrap_err();
        assert!(told.contains(wrong), "{code}: {told}");
    }
}

#[test]
fn plugins_that_require_each_other_are_told_the_whole_circle() {
    let one = "require('@two') aether.export({ x = 1 })";
    let two = "\nrequire('@three') aether.export({ x = 1 })";
    let three = "require('@two') aether.export({ x = 1 })";
    let told = plugins(&[("one", "", one), ("two", "", two), ("three", "", three)], "").map(drop).unwrap_err();
    let circle = "three/main.lua:1: require(\"@two\"): they require each other: @two -> @three -> @two";
    assert!(told.contains(circle), "{told}");
    assert!(told.contains("two/main.lua:2: require(\"@three\"): three does not load"), "{told}");
    assert!(told.contains("one/main.lua:1: require(\"@two\"): two does not load"), "{told}");
}

#[test]
fn an_exported_function_runs_within_the_budget_of_the_hook_that_calls_it() {
    let script = "local acl = require('@acl') aether.on.publish('a', function() acl.spin() return true end)";
    let (host, _dir) = plugins(&[("acl", "shared = [\"muted\"]", ACL)], script).unwrap();
    let log = logged(|| assert_eq!(publish(&host, &nobody(), "a", "1").unwrap_err().code, "rule_error"));
    assert!(log.contains("on.publish a may take 250ms"), "{log}");
}
