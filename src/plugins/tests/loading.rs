//! What is found before anything runs.

use super::*;

const MANIFEST: &str = "[plugin]\nname = \"acl\"\nversion = \"1.0.0\"\n[permissions]\nchannels = [\"room.*\"]\nsecrets = [\"k\"]\n[config.msgs_per_sec]\ntype = \"number\"\ndefault = 5\nmax = 100\ndoc = \"messages\"\n";

/// Loads a plugin `acl` with this code.
fn plugin(code: &str, with: impl FnOnce(&mut PluginUse)) -> (Dir, Result<Arc<Host>, LoadError>) {
    let dir = Dir::new();
    dir.write("acl/plugin.toml", MANIFEST);
    dir.write("acl/main.lua", code);
    let mut used = plugin_use("acl", &dir.path("acl"), serde_json::json!({}));
    with(&mut used);
    let host = Host::load(HostConfig { plugins: vec![used], ..calm() });
    (dir, host)
}

fn errors(code: &str, with: impl FnOnce(&mut PluginUse)) -> Vec<String> {
    let (dir, host) = plugin(code, with);
    let LoadError(errors) = host.err().unwrap_or(LoadError(vec![]));
    errors.into_iter().map(|error| error.replace(&format!("{}/", dir.0.display()), "")).collect()
}

#[test]
fn all_faults_are_told_at_once_with_their_places() {
    let found = complaints(
        "aether.on.subscribe('a*', print)\naether.on.publish('a')\naether.on.connect('x')\naether.on.publish('a', { asinc = true }, print)\naether.on.subscribee('a', print)",
    );
    let expected = [
        "rules.lua:1: on.subscribe: pattern \"a*\": `*` stands for a whole segment",
        "rules.lua:2: on.publish takes a pattern and a function, got the string \"a\"",
        "rules.lua:3: on.connect takes one function, got the string \"x\"",
        "rules.lua:4: on.publish: asinc is not known here; did you mean async?",
        "rules.lua:5: aether.on has no subscribee; did you mean subscribe?",
    ];
    assert_eq!(found.len(), expected.len(), "{found:?}");
    found.iter().zip(expected).for_each(|(found, expected)| assert!(found.starts_with(expected), "{found}"));
    assert!(complaints("local x = ")[0].starts_with("rules.lua:1: "), "{:?}", complaints("local x = "));
}

#[test]
fn a_wrong_setting_names_the_operators_line_and_the_nearest_key() {
    let found = errors("", |used| {
        used.config = serde_json::json!({"msgs_per_second": 1, "msgs_per_sec": 1000}).as_object().unwrap().clone();
    });
    assert_eq!(
        found,
        [
            "aether.toml:41: msgs_per_second is not known here; did you mean msgs_per_sec?",
            "aether.toml:41: msgs_per_sec: 1000 is more than the most, 100"
        ]
    );
    assert!(errors("", |used| used.dir.push("nowhere"))[0].starts_with("aether.toml:41: there is no plugin in"));
    assert!(errors("", |used| used.name = "acl2".into())[0].contains("calls itself acl, not acl2"));
}

#[test]
fn a_plugin_registers_only_where_its_manifest_says() {
    let found = errors(
        "aether.on.subscribe('room.{id}', print)\naether.on.subscribe('*', print)\naether.secret('other')",
        |_| (),
    );
    assert_eq!(
        found[0],
        "acl/main.lua:2: on.subscribe *: not within [permissions] channels of plugin.toml; add \"*\" there"
    );
    assert!(found[1].starts_with("acl/main.lua:3: secret \"other\" is not in [permissions] secrets"), "{found:?}");
}

#[test]
fn an_operator_narrows_a_plugin_and_cannot_widen_it() {
    let code =
        "assert(aether.config.msgs_per_sec == 5 and aether.plugin.name == 'acl' and aether.plugin.version == '1.0.0')
        aether.on.subscribe('room.{id}', function() return true end)";
    let (_dir, host) = plugin(code, |used| used.channels = Some(vec!["room.1".into()]));
    let host = host.unwrap();
    assert!(subscribe(&host, &nobody(), "room.1").is_ok());
    assert!(subscribe(&host, &nobody(), "room.2").is_err());
    assert_eq!(entries(&host), 1);
    let summary = host.summary();
    assert!(
        summary[0].starts_with("acl 1.0.0 (") && summary[1].starts_with("  on.subscribe room.{id} ("),
        "{summary:?}"
    );
    let wide = errors(code, |used| used.channels = Some(vec!["*".into()]));
    assert_eq!(wide, ["aether.toml:41: channels: * is wider than the plugin's own [permissions] channels"]);
}

#[test]
fn require_finds_what_belongs_to_the_plugin_and_nothing_else() {
    let load = |code: &str| {
        let dir = Dir::new();
        dir.write("secret.lua", "return 1");
        dir.write("acl/plugin.toml", MANIFEST);
        dir.write("acl/lib/a.lua", "n = (n or 0) + 1 return { b = require('./b'), n = n }");
        dir.write("acl/lib/b.luau", "return 7");
        dir.write("acl/lib/me.lua", "return require('./me')");
        dir.write("acl/main.lua", code);
        #[cfg(unix)]
        std::os::unix::fs::symlink(dir.path("secret.lua"), dir.path("acl/lib/out.lua")).unwrap();
        let used = plugin_use("acl", &dir.path("acl"), serde_json::json!({}));
        Host::load(HostConfig { plugins: vec![used], ..calm() }).map(drop).map_err(|error| error.to_string())
    };
    load("local a = require('./lib/a') assert(a.b == 7 and require('./lib/a.lua') == a and a.n == 1)").unwrap();
    for (wanted, why) in [
        ("../secret", "leaves"),
        ("./lib/../../secret", "leaves"),
        ("/etc/passwd", "begins with ./"),
        ("./lib/out", "there is no"),
        ("./lib/none", "there is no"),
        ("./lib/me", "requires itself"),
        ("string", "begins with ./"),
    ] {
        let error = load(&format!("require('{wanted}')")).unwrap_err();
        assert!(error.contains(why) && error.contains(".lua:1: "), "{wanted}: {error}");
    }
}

#[test]
fn bytecode_is_refused() {
    let bytecode = mlua::chunk::Compiler::new().compile("return 1").unwrap();
    let dir = Dir::new();
    dir.write("rules.lua", &bytecode);
    let load = || Host::load(HostConfig { scripts: Some(dir.0.clone()), ..calm() });
    assert!(load().is_err());
    // The same in bytes that are a text.
    dir.write("rules.lua", [6, 3, 0, 0, 1, 1, 0, 0]);
    assert!(load().is_err());
}

#[test]
fn scripts_come_in_order_and_their_tests_are_left_out() {
    let dir = Dir::new();
    dir.write("b.lua", "aether.on.connect(function() return aether.allow({ user = 'b' }) end)");
    dir.write("a.luau", "aether.on.connect(function() return aether.allow({ user = require('./lib/x') }) end)");
    dir.write("lib/x.lua", "return 'a'");
    dir.write("tests/t.lua", "error('never')");
    dir.write("notes.txt", "error('never')");
    let host = Host::load(HostConfig { scripts: Some(dir.0.clone()), ..calm() }).unwrap();
    assert_eq!(connect(&host, Some("x")).unwrap().user.as_deref(), Some("a"));
    assert!(Host::load(HostConfig { scripts: Some(dir.path("none")), ..calm() }).is_err());
    let empty = Host::load(calm()).unwrap();
    assert_eq!(connect(&empty, Some("x")).map(drop).unwrap_err().code, "unauthorized");
}

#[test]
fn everything_in_the_registry_has_a_name_of_its_own_and_a_sentence() {
    let mut names: Vec<_> = crate::plugins::registry().map(|entry| entry.name).collect();
    let all = names.len();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), all);
    assert!(crate::plugins::registry().all(|entry| entry.doc.ends_with('.') && !entry.doc.is_empty()));
}

#[test]
fn a_name_that_aether_never_has_is_told_and_one_that_is_not_permitted_is_nil() {
    let told = |code: &str| complaints(code).concat();
    assert_eq!(told("aether.alow()"), "rules.lua:1: aether has no alow; did you mean allow?");
    assert_eq!(
        told("local x = aether.crypto.base64.enc"),
        "rules.lua:1: aether.crypto.base64 has no enc; did you mean encode?"
    );
    assert_eq!(errors("assert(aether.kv == nil and aether.test == nil and aether.presence)", |_| ()), [""; 0]);
    let host = script("aether.on.publish('a', function() return aether.alow() end)").0;
    let log = logged(|| drop(publish(&host, &nobody(), "a", "1").unwrap_err()));
    assert!(log.contains("rules.lua:1: aether has no alow; did you mean allow?"), "{log}");
}

/// A plugin that may nothing, and says so.
const BARE: &str = "[plugin]\nname = \"bare\"\nversion = \"1.0.0\"";

fn bare(code: &str) -> Result<(Arc<Host>, Dir), String> {
    let dir = Dir::new();
    dir.write("bare/plugin.toml", BARE);
    dir.write("bare/main.lua", code);
    let used = plugin_use("bare", &dir.path("bare"), serde_json::json!({}));
    let config = HostConfig { plugins: vec![used], ..calm() };
    let host = Host::load(config).map_err(|error| error.to_string().replace(&format!("{}/", dir.0.display()), ""))?;
    host.begin().unwrap();
    Ok((host, dir))
}

#[test]
fn what_uses_a_name_that_is_not_permitted_is_told_the_permission() {
    let lacks = |line: u8, name: &str, permission: &str| {
        format!(
            "bare/main.lua:{line}: aether.{name}: bare lacks the permission for it: list {permission} under [permissions] in its plugin.toml"
        )
    };
    for (code, expected) in [
        ("aether.kv('x')", lacks(1, "kv", "kv")),
        ("\nlocal seen = aether.shared('x'):get('y')", lacks(2, "shared", "shared")),
        ("local open = aether.kv\n\nlocal kv = open('x')", lacks(3, "kv", "kv")),
        ("local a = aether\nlocal key = a.secret('x')", lacks(2, "secret", "secrets")),
        ("local lib = { open = aether.kv }\nlib.open('x')", lacks(2, "kv", "kv")),
        ("aether.http.get('http://a')", lacks(1, "http.get", "http")),
        ("local http = aether.http\nhttp.route('GET', '/x', print)", lacks(2, "http.route", "routes")),
        ("aether.publish('a', {})", lacks(1, "publish", "channels")),
        ("aether.kick({ user = 'x' })", lacks(1, "kick", "sessions = [\"kick\"]")),
        // Something else is nil here.
        ("if aether.kv then end\nlocal x = nil\nx()", "bare/main.lua:3: attempt to call a nil value".into()),
        ("local y = aether.kv\nlocal x = nil\nx.y.z = 1", "bare/main.lua:3: attempt to index nil with 'y'".into()),
    ] {
        assert_eq!(bare(code).err().as_deref(), Some(&*expected), "{code}");
    }
    let hooks = "local names = aether.shared\naether.on.connect(function(req)\n\tnames('x')\nend)
        aether.on.disconnect(function(req) aether.kv('x') end)
        if aether.kv and aether.http then error('it has them') end";
    let (host, dir) = bare(hooks).unwrap();
    let ear = heard_about(&dir);
    assert!(super::waiting::wait(host.connect(&ConnectRequest::default())).is_err(), "it waits, and there is none");
    assert!(ear.lock().contains(&lacks(3, "shared", "shared")), "{}", ear.lock());
    let why = crate::kernel::hooks::Farewell { cause: "client", code: None, reason: String::new() };
    host.disconnected(&Arc::new(nobody()), &why);
    until("the disconnect hook is told too", || ear.lock().contains(&lacks(5, "kv", "kv")));
}

#[test]
fn every_name_that_a_plugin_without_permissions_lacks_is_known_by_its_permission() {
    for entry in crate::plugins::registry() {
        let code = entry.name.split('.').scan("aether".to_owned(), |path, part| {
            *path = format!("{path}.{part}");
            Some(path.clone())
        });
        let code: Vec<_> = code.collect();
        let is_there = bare(&format!("assert({})", code.join(" and "))).is_ok();
        // A name of the configuration is there when somebody set it.
        if !is_there && crate::plugins::api::absent::permission(entry.name).is_none() {
            panic!("{} is not there, and nothing is known that it lacks", entry.name);
        }
        if is_there {
            assert_eq!(crate::plugins::api::absent::permission(entry.name), None, "{}", entry.name);
        }
    }
}

#[test]
fn an_argument_that_does_not_fit_is_told_in_our_words() {
    for (call, told) in [
        ("aether.shared()", "aether.shared(name): expected a string, got nothing"),
        ("aether.shared({})", "aether.shared(name): expected a string, got a table"),
        ("aether.forget('bob')", "aether.forget({user?, channel?, tag?, session?}): expected a table, got a string"),
        ("aether.crypto.sha256({})", "expected a string, a buffer or a secret, got a table"),
        ("aether.allow(7)", "allow: expected a table of options, got the number 7"),
        ("aether.shared('t'):keys(nil, 7)", "keys: argument 2: expected a table, got a number"),
        ("aether.shared('t'):set('a', 1, 7)", "options: expected a table, got the number 7"),
        ("aether.shared('t').get()", "get is called with a colon: `it:get(..)`"),
        ("aether.patterns({'a'}):matches()", "matches: argument 1: expected a string, got nothing"),
        ("error(select(2, pcall(aether.secret)))", "aether.secret(name): expected a string, got nothing"),
    ] {
        let found = complaints(call);
        assert!(found.len() == 1 && found[0].ends_with(told), "{call}: {found:?}");
        assert!(found[0].starts_with("rules.lua:1: ") || call.contains("pcall"), "{call}: {found:?}");
    }
}

#[test]
fn an_error_that_is_no_text_is_told_with_its_line_and_no_address() {
    let (host, _dir) = script("aether.on.publish('a', function()\n\terror({ code = 1 })\nend)");
    let log = logged(|| drop(publish(&host, &nobody(), "a", "1").unwrap_err()));
    assert!(log.contains("error(..) was given no text") && !log.contains("0x"), "{log}");
}
