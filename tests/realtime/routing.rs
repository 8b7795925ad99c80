//! Handlers and what stands around them.

use super::*;

const WHO: &str =
    "aether.on.connect(function(req) return aether.allow({ user = 'alice' }) end)\nlocal rt = require('@realtime')\n";

fn hub(settings: &str, lua: &str) -> TestHub {
    plan_with(settings, &format!("{WHO}{lua}")).start()
}

#[tokio::test]
async fn the_middleware_that_is_registered_first_is_the_outermost() {
    let hub = hub(
        "",
        "rt.handle('a', function(s) return s:send('handler') end)
         for _, name in { 'one', 'two' } do
            rt.use(function(s, env, next) s:send('before ' .. name) next() return s:send('after ' .. name) end)
         end",
    );
    let mut alice = Client::at(&hub, "/rt").await;
    alice.say(r#"{"route":"a"}"#).await;
    for route in ["before one", "before two", "handler", "after two", "after one"] {
        alice.hears(&format!(r#"{{"route":"{route}"}}"#)).await;
    }
}

#[tokio::test]
async fn recovery_timeout_and_logger_tell_what_failed_and_the_connection_goes_on() {
    let hub = hub(
        "",
        "rt.use(rt.logger())
         rt.use(rt.timeout(0.001))
         rt.use(rt.recovery())
         rt.handle('raises', function() error('boom', 0) end)
         rt.handle('slow', function() local until_ms = aether.now_ms() + 3 repeat until aether.now_ms() > until_ms end)
         rt.handle('fine', function(s, env) return s:send('left', env.deadline_ms > aether.now_ms() - 1) end)
         rt.on_error(function(s, why, env) s:send('failed', { why = why, route = env.route }) end)",
    );
    let mut alice = Client::at(&hub, "/rt").await;
    for (route, why) in [("raises", "boom"), ("slow", "timeout"), ("nowhere", "unknown_route")] {
        alice.say(&format!(r#"{{"route":"{route}"}}"#)).await;
        alice.hears(&format!(r#"{{"route":"failed","data":{{"route":"{route}","why":"{why}"}}}}"#)).await;
    }
    alice.say(r#"{"route":"fine"}"#).await;
    alice.hears(r#"{"route":"left","data":true}"#).await;
    let metrics = hub.metrics().await;
    let counted = |result: &str| metrics[&format!("aether_plugin_realtime_messages_total{{result=\"{result}\"}}")];
    assert_eq!((counted("failed"), counted("unknown_route"), counted("ok")), (2.0, 1.0, 1.0));
}

#[tokio::test]
async fn with_an_error_route_a_client_hears_what_became_of_its_message() {
    let hub = hub("error_route = \"err\"", "rt.handle('fails', function() return nil, 'it cannot be' end)");
    let mut alice = Client::at(&hub, "/rt").await;
    alice.say(r#"{"id":"1","route":"fails"}"#).await;
    alice.hears(r#"{"id":"1","route":"err","data":{"code":"failed","message":"it cannot be"}}"#).await;
    alice.say(r#"{"id":"2","route":"nowhere"}"#).await;
    alice.hears(r#"{"id":"2","route":"err","data":{"code":"unknown_route","message":"unknown_route"}}"#).await;
    alice.say("[]").await;
    let heard = alice.next().await.unwrap();
    assert!(heard.starts_with(r#"{"route":"err","data":{"code":"bad_envelope","message":"#), "{heard}");
}

#[tokio::test]
async fn a_handler_that_never_returns_is_stopped_and_the_connection_goes_on() {
    let hub = hub(
        "",
        "rt.handle('loops', function() while true do end end)
         rt.handle('fine', function(s) return s:send('fine') end)",
    );
    let mut alice = Client::at(&hub, "/rt").await;
    alice.say(r#"{"route":"loops"}"#).await;
    alice.say(r#"{"route":"fine"}"#).await;
    alice.hears(r#"{"route":"fine"}"#).await;
}

#[tokio::test]
async fn with_async_a_handler_may_wait_and_its_messages_keep_their_order() {
    let hub = hub(
        "async = true",
        "local slow = aether.memo(function(n) return n + 1 end, { name = 'slow', ttl = '1s' })
         rt.handle('count', function(s, env) return s:send('counted', slow(env.data:json())) end)",
    );
    let mut alice = Client::at(&hub, "/rt").await;
    for n in 0..20 {
        alice.say(&format!(r#"{{"route":"count","data":{n}}}"#)).await;
    }
    for n in 1..=20 {
        alice.hears(&format!(r#"{{"route":"counted","data":{n}}}"#)).await;
    }
}

#[test]
fn a_route_with_two_handlers_does_not_load() {
    let dir = TempDir::new();
    dir.write("scripts/a.lua", "local rt = require('@realtime')\nrt.handle('a', print)\nrt.handle('a', print)");
    let toml = format!(
        "[plugins]\ndir = {:?}\nscripts = {:?}\n[[plugin]]\nuse = \"realtime\"",
        repository().join("plugins"),
        dir.path().join("scripts")
    );
    let file = dir.write("aether.toml", &toml);
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_aether"))
        .args(["check", "--config"])
        .arg(file)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && said.contains("scripts/a.lua:3: rt.handle: a has a handler already"), "{said}");
}
