//! Routes: which there may be, which request is whose, and what is answered.

use super::*;
use crate::kernel::hooks::RefusalKind;
use crate::plugins::{Auth, RouteAnswer, Routed, Visit};

const OWN: &[&str] = &["/", "/ws", "/api/v1/rules/{verb}"];

/// What a route answers; `Pending` is waited for, because its hook has a thread of its own.
fn ask(host: &Host, method: &str, path: &str, body: &str) -> Result<RouteAnswer, Refusal> {
    let Routed::Route(call) = host.route(None, method, path) else { panic!("{method} {path} is no route") };
    let request = ConnectRequest {
        dialect: "native",
        transport: "http",
        method: method.into(),
        path: path.into(),
        query: vec![("a".into(), "1".into())],
        headers: vec![("x-test".into(), "yes".into()), ("cookie".into(), "c=2".into())],
        ip: Some([127, 0, 0, 1].into()),
        bearer: Some("tok".into()),
    };
    let client = (call.auth() != Auth::None).then(|| client(Some("ann"), Grants::default()));
    let visit = Visit { request, body: Bytes::copy_from_slice(body.as_bytes()), client };
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(call.answer(visit))
}

fn text(answer: &RouteAnswer) -> &str {
    std::str::from_utf8(&answer.body).unwrap()
}

#[test]
fn a_route_is_shown_the_whole_request_and_its_answer_is_read() {
    let (host, _dir) = script(
        "aether.http.route('post', '/rooms/{id}/*', function(req)
            return { status = 201, headers = { ['X-Who'] = req.user, ['set-cookie'] = { 'a=1', 'b=2' } }, json = {
                id = req.params.id, rest = req.params.rest, a = req.query.a, method = req.method, path = req.path, ip = req.ip,
                header = req:header('X-Test'), same = req.headers['x-test'], cookie = req:cookie('c'), bearer = req:bearer(),
                text = req:text(), n = req:json().n, size = req.size, buffer = buffer.len(req:buffer()),
            } }
         end)
         aether.http.route('GET', '/plain', { auth = 'none' }, function(req) return { body = tostring(req.user) } end)
         aether.http.route('GET', '/nothing', function() end)
         aether.http.route('GET', '/no', function() return aether.deny('not_yours', 'it is not') end)",
    );
    let answer = ask(&host, "POST", "/rooms/7/a/b", r#"{"n":5}"#).unwrap();
    assert_eq!(answer.status, 201);
    let headers: Vec<_> = answer.headers.iter().map(|(name, value)| format!("{name}: {value}")).collect();
    for header in ["x-who: ann", "set-cookie: a=1", "set-cookie: b=2", "content-type: application/json"] {
        assert!(headers.iter().any(|one| one == header), "{headers:?}");
    }
    let said: serde_json::Value = serde_json::from_slice(&answer.body).unwrap();
    assert_eq!(
        said,
        serde_json::json!({
            "id": "7", "rest": "a/b", "a": "1", "method": "POST", "path": "/rooms/7/a/b", "ip": "127.0.0.1", "header": "yes",
            "same": "yes", "cookie": "2", "bearer": "tok", "text": "{\"n\":5}", "n": 5, "size": 7, "buffer": 7
        })
    );
    let plain = ask(&host, "GET", "/plain", "").unwrap();
    assert_eq!((plain.status, text(&plain)), (200, "nil"));
    assert_eq!(plain.headers, [("content-type".to_owned(), "text/plain; charset=utf-8".to_owned())]);
    assert_eq!(ask(&host, "HEAD", "/nothing", "").unwrap().status, 204);
    let denied = ask(&host, "GET", "/no", "").unwrap_err();
    assert_eq!(
        (denied.kind, denied.code.as_str(), denied.why.as_str()),
        (RefusalKind::Denied, "not_yours", "it is not")
    );
    assert!(host.summary().iter().any(|line| line.contains("http.route POST /rooms/{id}/*")), "{:?}", host.summary());
}

#[test]
fn the_path_that_says_most_answers_and_other_methods_are_named() {
    let (host, _dir) = script(
        "for _, path in {'/a/*', '/a/{x}', '/a/list'} do
            aether.http.route('GET', path, function() return { body = path } end)
         end
         aether.http.route('DELETE', '/a/{x}', function() return { body = 'gone' } end)",
    );
    for (path, by) in [("/a/list", "/a/list"), ("/a/7", "/a/{x}"), ("/a/7/8", "/a/*")] {
        assert_eq!(text(&ask(&host, "GET", path, "").unwrap()), by);
    }
    assert_eq!(text(&ask(&host, "DELETE", "/a/list", "").unwrap()), "gone");
    assert!(matches!(host.route(None, "GET", "/b"), Routed::Nothing));
    let Routed::Methods(methods) = host.route(None, "PUT", "/a/7/8") else { panic!("it has no PUT") };
    assert_eq!(methods, ["GET"]);
}

#[test]
fn what_is_no_answer_breaks_and_is_named_with_its_place() {
    for (code, wrong) in [
        ("return 'hello'", "rules.lua:1: http.route GET /a: expected {status, headers, body or json}"),
        ("return { status = 99 }", "status: expected a number from 200 to 599, got the number 99"),
        ("return { statu = 200 }", "statu is not known here; did you mean status?"),
        ("return { body = 'x', json = {} }", "body and json are one too many"),
        ("return { body = {} }", "body: expected a string or a buffer, got a table"),
        ("return { headers = { ['a b'] = 'x' } }", "is no header's name"),
        ("return { headers = { a = 'x\\r\\nb: y' } }", "is no header's value"),
        ("return { headers = { ['Content-Length'] = '5' } }", "content-length is written by the server"),
        ("return aether.allow()", "expected {status"),
        ("local x = nil + 1", "attempt to perform arithmetic"),
    ] {
        let (host, _dir) = script(&format!("aether.http.route('GET', '/a', function(req) {code} end)"));
        let refusal = ask(&host, "GET", "/a", "").unwrap_err();
        assert_eq!((refusal.kind, refusal.code.as_str()), (RefusalKind::Broken, "rule_error"), "{code}");
        let filter = crate::plugins::DecisionFilter { id: Some(refusal.decision), ..Default::default() };
        let why = host.decisions(&filter).remove(0).why;
        assert!(why.contains(wrong), "{code}: {why}");
    }
}

#[test]
fn a_route_that_never_ends_is_stopped_and_the_next_request_is_answered() {
    let (host, _dir) = script(
        "aether.http.route('GET', '/spin', function() while true do end end)
         aether.http.route('GET', '/ok', function() return { body = 'ok' } end)",
    );
    assert_eq!(ask(&host, "GET", "/spin", "").unwrap_err().kind, RefusalKind::Broken);
    assert_eq!(text(&ask(&host, "GET", "/ok", "").unwrap()), "ok");
    assert_eq!(host.counters().killed_over_budget.load(Ordering::Relaxed), 1);
}

#[test]
fn a_route_that_cannot_be_is_refused_at_load() {
    for (args, wrong) in [
        ("'GET', '/a'", "rules.lua:1: http.route takes a method, a path and a function"),
        ("'FETCH', '/a', print", "FETCH is none of GET, POST"),
        ("'GET', 'a', print", "path \"a\": it begins with /"),
        (
            "'GET', '/a', { auth = 'root' }, print",
            "auth: expected one of admin, connect, none, got the string \"root\"",
        ),
        ("'GET', '/a', { aut = 'none' }, print", "aut is not known here; did you mean auth?"),
    ] {
        let errors = complaints(&format!("aether.http.route({args})"));
        assert!(errors.iter().any(|error| error.contains(wrong)), "{args}: {errors:?}");
    }
    let twice = "aether.http.route('GET', '/a/{x}', print)\naether.http.route('GET', '/a/{y}', print)";
    assert!(
        complaints(twice)[0].contains("rules.lua:2: http.route GET /a/{y}: GET /a/{x} at"),
        "{:?}",
        complaints(twice)
    );
    for path in ["/ws", "/{x}", "/api/v1/rules/x", "/*"] {
        let config = HostConfig { own_paths: OWN, ..calm() };
        let code = format!("aether.http.route('POST', '{path}', print)");
        let error = try_script_with(&code, config).err().unwrap().to_string();
        assert!(error.contains("a path of the hub itself"), "{error}");
    }
}

fn plugin(dir: &Dir, name: &str, routes: &str, code: &str) -> PluginUse {
    dir.write(
        &format!("{name}/plugin.toml"),
        format!("[plugin]\nname = \"{name}\"\nversion = \"1\"\n[permissions]\nroutes = {routes}"),
    );
    dir.write(&format!("{name}/main.lua"), code);
    plugin_use(name, &dir.path(name), serde_json::json!({}))
}

#[test]
fn a_plugin_answers_only_where_its_manifest_says_and_where_no_other_does() {
    let dir = Dir::new();
    let load = |plugins| Host::load(HostConfig { plugins, ..calm() }).map_err(|error| error.to_string());
    let route = |path: &str| format!("aether.http.route('GET', '{path}', function() return {{}} end)");
    assert!(load(vec![plugin(&dir, "a", r#"["/rooms/*"]"#, &route("/rooms/{id}"))]).is_ok());
    let error = load(vec![plugin(&dir, "a", r#"["/rooms/*"]"#, &route("/users"))]).err().unwrap();
    assert!(error.contains("a/main.lua:1: http.route: /users is not within [permissions] routes"), "{error}");
    let error = load(vec![plugin(&dir, "a", "[]", &route("/users"))]).err().unwrap();
    assert!(error.contains("a/main.lua:1:") && error.contains("list routes under [permissions]"), "{error}");
    let error = load(vec![plugin(&dir, "a", r#"["rooms"]"#, "")]).err().unwrap();
    assert!(error.contains("a/plugin.toml:5:11: permissions.routes: path \"rooms\": it begins with /"), "{error}");
    let both = vec![
        plugin(&dir, "a", r#"["/rooms/*"]"#, &route("/rooms/{id}")),
        plugin(&dir, "b", r#"["/rooms/*"]"#, &route("/rooms/{room}").replace("GET", "POST")),
    ];
    let error = load(both).err().unwrap();
    for part in
        ["b/main.lua:1: http.route POST /rooms/{room}", "GET /rooms/{id} at", "a/main.lua:1 belongs to another plugin"]
    {
        assert!(error.contains(part), "{error}");
    }
}
