//! The registry is true: each example runs, and what is said to wait waits.

use super::*;
use crate::plugins::authors::testing::{Suite, Troupe};
use crate::plugins::{registry, testing};

const PERMISSIONS: &str = r#"
channels = ["*"]
kv = ["members"]
shared = ["muted"]
secrets = ["signing_key"]
http = ["https://auth.internal/*"]
routes = ["/rooms/*", "/users/*", "/lines"]
dialects = ["lines"]
sessions = ["list", "kick", "announce"]
[config.most]
type = "integer"
default = 5
"#;

/// What loading a plugin of this code says.
fn load(code: &str) -> Result<Arc<Host>, LoadError> {
    let dir = Dir::new();
    dir.write(
        "example/plugin.toml",
        format!("[plugin]\nname = \"example\"\nversion = \"1\"\n[permissions]{PERMISSIONS}"),
    );
    dir.write("example/main.lua", code);
    let plugins = vec![plugin_use("example", &dir.path("example"), serde_json::json!({}))];
    let secrets: crate::plugins::Secrets = Arc::new(|_| Some("k".repeat(32)));
    let host = Host::load(HostConfig { plugins, secrets, ..calm() })?;
    host.begin()?;
    Ok(host)
}

#[test]
fn each_example_of_the_library_runs_and_shows_what_it_is_the_example_of() {
    for entry in registry() {
        let shown = format!("aether.{}", entry.name);
        assert!(entry.example.contains(&shown), "{shown} is not in its example:\n{}", entry.example);
        load(entry.example).unwrap_or_else(|error| panic!("the example of {shown}: {error}\n{}", entry.example));
    }
}

#[test]
fn each_example_of_the_tests_library_passes_on_the_fixture() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let (dir, fixture) = (Dir::new(), root.join("tests/lua/library"));
    for file in ["plugin.toml", "main.lua"] {
        dir.write(&format!("library/{file}"), std::fs::read(fixture.join(file)).unwrap());
    }
    let mut cases = String::from(
        "local t = aether.test\nt.http.stub('GET', 'https://auth.internal/keys.json', { json = { keys = aether.json.array({}) } })\n",
    );
    for entry in testing::registry() {
        let shown = format!("t.{}", entry.name.trim_start_matches("test."));
        assert!(entry.example.contains(&shown), "{shown} is not in its example:\n{}", entry.example);
        cases += &match entry.name {
            "test.case" => format!("{}\n", entry.example),
            name => format!("t.case({name:?}, function()\n{}\nend)\n", entry.example),
        };
    }
    dir.write("library/tests/examples.lua", cases);
    let suite = Suite { dir: dir.path("library"), is_plugin: true, plugins: root.join("plugins") };
    let mut played = 0;
    Troupe::new(suite, None).unwrap().play("tests/examples.lua", None, |case| {
        played += 1;
        let failed = case.failed.map(|failed| format!("{} {}", failed.place, failed.why));
        assert_eq!(failed, None, "the example of {}", case.case);
    });
    assert_eq!(played, testing::registry().count());
}

#[test]
fn what_waits_is_an_error_in_a_hot_hook_and_nothing_else_is_said_to_wait() {
    let waiting: Vec<_> = registry().filter(|entry| entry.may_wait).map(|entry| entry.name).collect();
    // `memo` waits in what it makes, the others as they are.
    let calls = [
        ("http.get", "aether.http.get('https://auth.internal/x')"),
        ("http.post", "aether.http.post('https://auth.internal/x', {})"),
        ("http.request", "aether.http.request('https://auth.internal/x')"),
        ("memo", "memo()"),
        ("errand", "aether.errand(print)"),
        ("publish_now", "aether.publish_now('b', 1)"),
    ];
    let mut known: Vec<_> = calls.iter().map(|(name, _)| *name).collect();
    let mut told = waiting.clone();
    known.sort_unstable();
    told.sort_unstable();
    assert_eq!(told, known, "what the registry says waits, and what this test calls");
    for (name, call) in calls {
        let host = load(&format!(
            "local memo = aether.memo(function() return 1 end, {{ name = 'm', ttl = '1s' }})
aether.on.publish('a', function()
	{call}
end)"
        ))
        .unwrap();
        let refused = waiting::wait(host.publish(&nobody(), draft("a", "1"))).err().unwrap();
        let record = host.decisions(&Default::default()).pop().unwrap();
        assert_eq!(refused.code, "rule_error", "{name}");
        assert!(record.why.contains("main.lua:3: ") && record.why.contains("{async = true}"), "{name}: {}", record.why);
    }
}
