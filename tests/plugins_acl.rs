//! The plugin `acl`: rules as a table in the operator's own scripts, and mistakes told at their lines.

use crate::common::*;

const CONFIG: &str = "[[plugin]]\nuse = \"acl\"\n[[plugin]]\nuse = \"jwt-auth\"\n[[plugin]]\nuse = \"api-keys\"";

const RULES: &str = r#"local acl = require("@acl")

aether.on.connect(function(req)
	local role = req:header("x-role")
	return role and aether.allow({ user = req:header("x-user"), attrs = { roles = { role } } })
end)

acl.rules(aether.on, {
	["order.*"]           = { subscribe = { "staff" }, publish = { "shop" } },
	["user.{user}.inbox"] = { subscribe = { "user:{user}" } },
	["news"]              = { subscribe = { "*" } },
	["vault"]             = { subscribe = { "staff" }, only = true },
})
"#;

async fn reads(hub: &TestHub, user: &str, role: &str, channel: &str) -> Result<(), (u16, u64)> {
    let headers = [("x-user", user), ("x-role", role)];
    let stream = SseClient::open_with(hub.address, &format!("/sse?channel={channel}"), &headers, None).await;
    stream.map(drop).map_err(|refused| refused.error())
}

#[tokio::test]
async fn a_table_says_who_may_what_where() {
    let hub = TestHub::plan().toml(CONFIG).rules(RULES).start();
    for (user, role, channel, may) in [
        ("ann", "staff", "order.1.x", true),
        ("bob", "guest", "order.1.x", false),
        ("bob", "guest", "user.bob.inbox", true),
        ("bob", "staff", "user.ann.inbox", false),
        ("bob", "guest", "news", true),
        ("bob", "guest", "elsewhere", false),
    ] {
        assert_eq!(reads(&hub, user, role, channel).await.is_ok(), may, "{user} {role} {channel}");
    }
    let message = json!({"channel": "order.1", "payload": 1}).to_string();
    let mut http = hub.http_as(None).await;
    let shop = [("x-user", "till"), ("x-role", "shop")];
    http.send("POST", "/api/v1/publish", &shop, message.as_bytes()).await.ok();
    let staff = [("x-user", "ann"), ("x-role", "staff")];
    assert_eq!(http.send("POST", "/api/v1/publish", &staff, message.as_bytes()).await.error(), (403, 40301));
    // `only` turns away whoever is let in by something else, and says why in the operator's words.
    let mut ws = hub.ws().await;
    ws.send(json!({"type": "subscribe", "channels": ["vault"]})).await;
    let error = ws.expect("error").await;
    assert_eq!((&error["code"], &error["reason"]), (&json!(40301), &json!("denied")));
    assert!(error["message"].as_str().unwrap().ends_with("vault: subscribe is for staff"), "{error}");
}

#[test]
fn a_wrong_table_is_told_at_the_operators_own_line() {
    let check = |table: &str| {
        let dir = TempDir::new();
        dir.write("aether.toml", &format!("[plugins]\ndir = {:?}\n{CONFIG}", repository().join("plugins")));
        dir.write("scripts/acl.lua", &format!("local acl = require(\"@acl\")\n\nacl.rules(aether.on, {table})"));
        let hub = std::process::Command::new(env!("CARGO_BIN_EXE_aether"));
        let output = { hub }.current_dir(dir.path()).arg("check").output().unwrap();
        assert!(!output.status.success(), "{table}");
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    for (table, why) in [
        (
            "{ ['order.*'] = { subscribe = 'staff' } }",
            "scripts/acl.lua:3: order.*: subscribe: expected a list of roles, got a string",
        ),
        (
            "{ ['order.*'] = { subscribed = { 'staff' } } }",
            "scripts/acl.lua:3: order.*: subscribed is not known here: it takes subscribe",
        ),
        (
            "{ ['order.*'] = { subscribe = { 7 } } }",
            "scripts/acl.lua:3: order.*: subscribe: expected a role, got a number",
        ),
        ("{ ['order.*'] = 'staff' }", "scripts/acl.lua:3: order.*: expected a table with subscribe"),
        ("{ { subscribe = {} } }", "scripts/acl.lua:3: 1: expected a channel pattern"),
        ("{ ['or*der'] = { subscribe = { '*' } } }", "scripts/acl.lua:3: on.subscribe: pattern \"or*der\""),
        ("'order.*'", "scripts/acl.lua:3: say acl.rules(aether.on, {"),
    ] {
        let said = check(table);
        assert!(said.contains(why), "{table}: {said}");
    }
}
