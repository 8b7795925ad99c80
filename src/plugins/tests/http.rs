//! `aether.http`: whom a script may ask, what it sends and what it gets.

use super::backend::{Backend, Gate, Reply};
use super::waiting::{config, wait};
use super::*;

/// What `code` returns in a hook that waits: a text.
fn told(code: &str, config: HostConfig) -> String {
    let (host, _dir) = script_with(&format!("aether.on.subscribe('a', function()\n{code}\nend)"), config);
    told_by(&host)
}

fn told_by(host: &Host) -> String {
    let mut refusal = None;
    let log = logged(|| refusal = wait(host.subscribe(&nobody(), &name("a"))).err());
    let refusal = refusal.expect("the text comes as a no");
    if refusal.code == "rule_error" { log } else { refusal.why }
}

#[test]
fn a_request_has_its_method_headers_and_body_and_the_answer_too() {
    let backend = Backend::start(|seen| {
        let header =
            |name: &str| seen.headers.iter().find(|(n, _)| n == name).map_or("", |(_, value)| value).to_owned();
        let told = format!("{} {} {} {} {}", seen.method, seen.path, header("x-a"), header("content-type"), seen.body);
        let json = serde_json::json!({ "told": told }).to_string();
        Reply { status: 201, headers: "X-B: 1\r\nx-b: 2\r\n".into(), ..Reply::ok(json) }
    });
    let code = |call: &str| {
        format!(
            "local res = assert({})\nreturn false, `{{res.status}} {{res:json().told}} {{res.headers['x-b']}}`",
            call.replace("URL", &backend.url)
        )
    };
    let get = told(&code("aether.http.get('URL/x?y=1', {headers = {['X-A'] = 'b'}})"), config());
    assert_eq!(get, "201 GET /x?y=1 b   1, 2");
    let post = told(&code("aether.http.post('URL/', {json = {a = 1}})"), config());
    assert_eq!(post, "201 POST /  application/json {\"a\":1} 1, 2");
    let put =
        told(&code("aether.http.request('URL/', {method = 'PUT', body = 'x', headers = {['x-a'] = 7}})"), config());
    assert_eq!(put, "201 PUT / 7  x 1, 2");
}

#[test]
fn what_goes_wrong_outside_is_an_answer_and_says_what() {
    let backend = Backend::start(|seen| match seen.path.split('?').next().unwrap() {
        "/slow" => Reply::ok("").after(600_000),
        "/large" => Reply::ok("x".repeat(2000)),
        "/away" => Reply { status: 302, headers: "location: http://10.0.0.1/\r\n".into(), ..Reply::ok("") },
        "/here" => Reply { status: 302, headers: "location: /x\r\n".into(), ..Reply::ok("") },
        _ => Reply::ok("not json"),
    });
    let why = |call: &str| {
        told(
            &format!("local res, why = {} return false, why or `{{res.status}}`", call.replace("URL", &backend.url)),
            config(),
        )
    };
    let slow = why("aether.http.get('URL/slow?secret=1', {timeout = '50ms'})");
    assert!(slow.ends_with("/slow: 127.0.0.1 did not answer within 50ms"), "{slow}");
    assert!(why("aether.http.get('URL/large', {max_body = 1000})").contains("larger than 1000 bytes (max_body)"));
    assert!(why("aether.http.get('http://127.0.0.1:1/')").contains("cannot connect to 127.0.0.1 (127.0.0.1:1): "));
    assert!(why("aether.http.get('URL/away')") == "302", "a redirect is an answer");
    assert!(why("aether.http.get('URL/away', {follow = true})").contains("10.0.0.1, a private address"));
    assert!(why("aether.http.get('URL/here', {follow = true})") == "200");
    let json = told(&format!("local _, why = aether.http.get('{}/'):json() return false, why", backend.url), config());
    assert!(json.starts_with("the body is not JSON"), "{json}");
}

#[test]
fn a_script_reaches_private_addresses_only_where_the_operator_says_so_however_they_are_written() {
    let backend = Backend::start(|_| Reply::ok("secret"));
    let port = backend.url.rsplit(':').next().unwrap();
    let nothing = HostConfig { private_http: Vec::new(), ..config() };
    for host in ["127.0.0.1", "localhost", "[::ffff:127.0.0.1]", "0.0.0.0", "127.1"] {
        let code = format!("local res, why = aether.http.get('http://{host}:{port}/') return false, why or res.body");
        let why = told(&code, nothing.clone());
        assert!(
            why.contains("private address") || why.contains("no address") || why.contains("cannot be resolved"),
            "{host}: {why}"
        );
    }
    // A pattern that does not name the host does not open it either.
    let wide = HostConfig { private_http: vec!["http://*:*/*".into()], ..config() };
    let why =
        told(&format!("local res, why = aether.http.get('{}/') return false, why or res.body", backend.url), wide);
    assert!(why.contains("127.0.0.1, a private address"), "{why}");
    assert_eq!(backend.connections(), 0);
    let named = HostConfig { private_http: vec![format!("http://localhost:{port}/*")], ..config() };
    let code = format!("local res, why = aether.http.get('http://localhost:{port}/') return false, why or res.body");
    assert_eq!(told(&code, named), "secret");
    let error = try_script_with("", HostConfig { private_http: vec!["127.0.0.1".into()], ..config() }).err().unwrap();
    assert!(error.to_string().contains("plugins.private_http: \"127.0.0.1\" has no scheme"), "{error}");
}

fn plugin(permissions: &str, code: &str) -> (Result<Arc<Host>, LoadError>, Dir) {
    let dir = Dir::new();
    dir.write(
        "acl/plugin.toml",
        format!("[plugin]\nname = \"acl\"\nversion = \"1\"\n[permissions]\nchannels = [\"*\"]\n{permissions}"),
    );
    dir.write("acl/main.lua", code);
    let plugins = vec![plugin_use("acl", &dir.path("acl"), serde_json::json!({}))];
    (Host::load(HostConfig { plugins, ..config() }), dir)
}

#[test]
fn a_plugin_asks_only_whom_its_manifest_names() {
    let backend = Backend::start(|_| Reply::ok("yes"));
    let code = format!(
        "aether.on.subscribe('a', function()
	local res, why = aether.http.get('{}/ok/1') return false, why or res.body
end)
aether.on.subscribe('b', function()
	return aether.http.get('{0}/other') ~= nil
end)",
        backend.url
    );
    let (host, _dir) = plugin(&format!("http = [\"{}/ok/*\"]", backend.url), &code);
    let host = host.unwrap();
    assert_eq!(told_by(&host), "yes");
    let log = logged(|| assert!(wait(host.subscribe(&nobody(), &name("b"))).is_err()));
    let why = format!("acl/main.lua:5: aether.http.get: {0}/other is not in [permissions] http of", backend.url);
    assert!(log.contains(&why) && log.contains(&format!("add \\\"{}/*\\\" there", backend.url)), "{log}");
    let (host, _dir) = plugin("", "aether.on.subscribe('a', function() return aether.http == nil end)");
    assert!(wait(host.unwrap().subscribe(&nobody(), &name("a"))).is_ok(), "what is not listed is not there");
    let (host, _dir) = plugin("http = [\"auth.internal/*\"]", "");
    let error = host.err().unwrap().to_string();
    assert!(error.contains("plugin.toml:6:9: permissions.http: \"auth.internal/*\" has no scheme"), "{error}");
}

#[test]
fn what_a_script_must_not_say_is_an_error_with_its_line() {
    for (call, why) in [
        ("get(7)", "expected a URL, got the number 7"),
        ("get('ftp://x/')", "is not a URL that begins with http:// or https://"),
        ("get('http://a:b@x/')", "a name or password in a URL is sent to nobody"),
        ("get('http://x/', {metod = 'GET'})", "metod is not known here"),
        ("get('http://x/', {headers = {Host = 'y'}})", "host is set by the hub"),
        ("get('http://x/', {headers = {a = 'x\\r\\ny'}})", "is no header's value"),
        ("get('http://x/', {timeout = '1h'})", "at most 30s"),
        ("post('http://x/', {json = print})", "json: a function has no JSON"),
    ] {
        let log = told(&format!("return aether.http.{call} ~= nil"), config());
        assert!(log.contains("rules.lua:2: aether.http.") && log.contains(why), "{call}: {log}");
    }
}

#[test]
fn more_than_64_requests_of_a_plugin_are_not_under_way_at_once() {
    let gate = Gate::default();
    let shut = gate.clone();
    let backend = Backend::start(move |_| {
        shut.pass();
        Reply::ok("")
    });
    let get = format!("aether.http.get('{}/', {{ timeout = '30s' }})", backend.url);
    let code = format!("aether.on.subscribe('*', function() return {get} ~= nil end)");
    let (host, _dir) = script_with(&code, config());
    wait(async {
        let (ann, a) = (nobody(), name("a"));
        let mut all = futures_util::future::join_all((0..150).map(|_| host.subscribe(&ann, &a)));
        assert!(futures_util::poll!(&mut all).is_pending());
        until("as many as may are under way", || backend.at_once() == 64);
        gate.open();
        assert!(all.await.iter().all(Result::is_ok));
    });
    assert_eq!(backend.most_at_once(), 64);
}
