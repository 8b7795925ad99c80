//! What plugins lend each other: `aether.export` and `require("@name")`.

use serde_json::json;

use super::*;
use crate::plugins::DecisionFilter;

const LENDER: &str = r#"
local count = 0
aether.export({
	count = function() count += 1; return count end,
	permit = function(on, pattern)
		on.subscribe(pattern, function() return false, "closed" end)
	end,
	deeper = { list = { 1, 2 } },
})
"#;

/// A plugin `lender` with this code, and a script with that.
fn load(lender: &str, script: &str) -> (Dir, Result<Arc<Host>, LoadError>) {
    let dir = Dir::new();
    dir.write("lender/plugin.toml", "[plugin]\nname = \"lender\"\nversion = \"1.0.0\"\n");
    dir.write("lender/main.lua", lender);
    dir.write("scripts/rules.lua", script);
    let host = Host::load(HostConfig {
        plugins: vec![plugin_use("lender", &dir.path("lender"), json!({}))],
        scripts: Some(dir.path("scripts")),
        ..HostConfig::default()
    });
    (dir, host)
}

#[test]
fn what_a_plugin_lends_is_used_by_those_after_it_and_changed_by_nobody() {
    let (_dir, host) = load(
        LENDER,
        r#"
        local lent = require("@lender")
        assert(lent == require("@lender") and lent.count() == 1 and lent.count() == 2)
        for _, change in { function() lent.count = nil end, function() lent.deeper.list[1] = 7 end } do
            assert(not pcall(change))
        end
        "#,
    );
    host.unwrap();
}

#[test]
fn a_hook_that_is_registered_through_a_lent_function_is_the_callers_and_says_so() {
    let script = "-- first line\nlocal lent = require('@lender')\nlent.permit(aether.on, 'room.*')";
    let (dir, host) = load(LENDER, script);
    let host = host.unwrap();
    let refusal = subscribe(&host, &nobody(), "room.1").unwrap_err();
    assert_eq!((refusal.code.as_str(), refusal.why.as_str()), ("denied", "closed"));
    let record = &host.decisions(&DecisionFilter::default())[0];
    assert_eq!(record.place, format!("{}/scripts/rules.lua:3", dir.0.display()));
    assert_eq!(record.plugin, "rules");
}
