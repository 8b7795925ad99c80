//! The command line and the settings, as an operator meets them.

use std::os::unix::fs::PermissionsExt;
use std::process::Output;

use crate::common::spawned::run;
use crate::common::*;

fn said(output: &Output) -> (Option<i32>, String, String) {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

fn check(dir: &TempDir, toml: &str, env: &[(&str, &str)]) -> (Option<i32>, String, String) {
    let here =
        format!("[plugins]\ndir = {:?}\nscripts = {:?}\n", repository().join("plugins"), repository().join("scripts"));
    dir.write("aether.toml", &format!("{toml}\n{here}"));
    said(&run(dir.path(), &["check"], env))
}

#[test]
fn check_says_ok_and_0_or_what_is_wrong_and_1_and_writes_nothing() {
    let dir = TempDir::new();
    let (code, out, err) = check(&dir, "[server]\naddr = \"127.0.0.1:9999\"", &[]);
    assert_eq!((code, err.as_str()), (Some(0), ""));
    assert!(out.starts_with("ok: would listen on 127.0.0.1:9999"), "{out}");
    assert!(!dir.path().join("data").exists());

    let (code, out, err) = check(&dir, "[server]\naddr = \"nowhere\"\n[websocket]\nping_intervall = \"1s\"", &[]);
    assert_eq!((code, out.as_str()), (Some(1), ""));
    let lines: Vec<_> = err.lines().collect();
    assert!(lines[0].starts_with("aether.toml:2:8: server.addr"), "{err}");
    assert_eq!(lines[1], "aether.toml:4:1: websocket.ping_intervall is not known here; did you mean ping_interval?");

    let (code, _, err) = check(&dir, "[[plugin]]\nuse = \"no-such-plugin\"", &[]);
    assert_eq!(code, Some(1));
    assert!(err.starts_with("aether.toml:1:1:") && err.contains("no-such-plugin"), "{err}");
    dir.write("bad/rules.lua", "aether.on.publish('a', function( end)");
    let scripts = dir.path().join("bad");
    let (code, _, err) = check(&dir, "", &[("AETHER_PLUGINS_SCRIPTS", scripts.to_str().unwrap())]);
    assert_eq!(code, Some(1));
    assert!(err.contains("rules.lua:1"), "{err}");
}

#[test]
fn a_hub_with_bad_settings_does_not_start() {
    let dir = TempDir::new();
    dir.write("aether.toml", "[server]\nadr = \"x\"\n");
    for arguments in [&["serve"][..], &[]] {
        let (code, out, err) = said(&run(dir.path(), arguments, &[]));
        assert_eq!((code, out.as_str()), (Some(1), ""));
        assert_eq!(err.trim(), "aether.toml:2:1: server.adr is not known here; did you mean addr?");
    }
    let (code, _, err) = said(&run(dir.path(), &["serve", "--config", "absent.toml"], &[]));
    assert_eq!(code, Some(1));
    assert!(err.contains("absent.toml"), "{err}");
    assert_eq!(said(&run(dir.path(), &["sreve"], &[])).0, Some(2));
    assert_eq!(said(&run(dir.path(), &["--no-such-flag"], &[])).0, Some(2));
}

#[test]
fn the_environment_wins_over_the_file_and_an_empty_variable_is_none() {
    let dir = TempDir::new();
    let file = "[server]\naddr = \"127.0.0.1:1001\"";
    let listens = |env: &[(&str, &str)]| check(&dir, file, env).1.split(',').next().unwrap().to_owned();
    assert_eq!(listens(&[]), "ok: would listen on 127.0.0.1:1001");
    assert_eq!(listens(&[("AETHER_SERVER_ADDR", "127.0.0.1:1002")]), "ok: would listen on 127.0.0.1:1002");
    assert_eq!(listens(&[("AETHER_SERVER_ADDR", "")]), "ok: would listen on 127.0.0.1:1001");
    let (code, _, err) = check(&dir, file, &[("AETHER_SERVER_ADRR", "x")]);
    assert_eq!(code, Some(1));
    assert!(err.starts_with("AETHER_SERVER_ADRR: is not known; did you mean AETHER_SERVER_ADDR?"), "{err}");
    let (code, _, err) = check(&dir, file, &[("AETHER_WEBSOCKET_PING_INTERVAL", "often")]);
    assert_eq!(code, Some(1));
    assert!(err.starts_with("AETHER_WEBSOCKET_PING_INTERVAL: "), "{err}");
}

#[test]
fn the_shipped_settings_are_good_and_help_teaches() {
    let (code, out, err) = said(&run(repository(), &["check"], &[]));
    assert_eq!((code, err.as_str()), (Some(0), ""), "{out}");
    let (code, out, _) = said(&run(repository(), &["--help"], &[]));
    assert_eq!(code, Some(0));
    for word in ["serve", "check", "token", "key", "curl", "aether.toml", "AETHER_"] {
        assert!(out.contains(word), "{word} is not in {out}");
    }
    for verb in ["serve", "check", "token", "key"] {
        assert_eq!(said(&run(repository(), &[verb, "--help"], &[])).0, Some(0));
    }
}

#[tokio::test]
async fn a_token_and_a_key_from_the_command_line_work_against_a_hub() {
    let dir = TempDir::new();
    let arguments = ["token", "--sub", "alice", "--channel", "room.*", "--expires", "1h", "--data", "data"];
    let (code, token, err) = said(&run(dir.path(), &arguments, &[]));
    assert_eq!((code, err.as_str()), (Some(0), ""));
    let token = token.trim();
    assert_eq!(token.split('.').count(), 3);

    let (code, out, _) = said(&run(dir.path(), &["key", "--name", "shop", "--publish", "room.*"], &[]));
    assert_eq!(code, Some(0));
    let (key, settings) = out.split_once("\n\n").unwrap();
    dir.write("aether.toml", &format!("[[plugin]]\nuse = \"jwt-auth\"\n{settings}"));

    let hub = Spawned::start(dir.path());
    let mut ws = WsClient::connect(hub.address, Some(token)).await;
    ws.subscribe(&["room.1"]).await;
    let mut http = Http::connect(hub.address, Some(key)).await;
    http.post("/api/v1/publish", r#"{"channel":"room.1","payload":"hello"}"#).await.ok();
    assert_eq!(ws.expect("message").await["payload"], "hello");
    assert_eq!(http.post("/api/v1/publish", r#"{"channel":"else","payload":1}"#).await.error(), (403, 40301));

    // Who would get nothing is told so.
    assert_eq!(said(&run(dir.path(), &["key", "--name", "x"], &[])).0, Some(1));
    assert_eq!(said(&run(dir.path(), &["token", "--sub", "", "--channel", "a"], &[])).0, Some(1));
    assert_eq!(said(&run(dir.path(), &["token", "--sub", "x", "--channel", "a**"], &[])).0, Some(2));
}

#[tokio::test]
async fn the_first_start_makes_keys_that_only_their_owner_reads() {
    let dir = TempDir::new();
    let hub = Spawned::start(dir.path());
    let keys = dir.path().join("data/keys");
    assert_eq!(std::fs::metadata(&keys).unwrap().permissions().mode() & 0o777, 0o700);
    for name in ["signing_key", "admin_key", "demo_token"] {
        assert_eq!(std::fs::metadata(keys.join(name)).unwrap().permissions().mode() & 0o777, 0o600, "{name}");
    }
    let demo = std::fs::read_to_string(keys.join("demo_token")).unwrap();
    let mut ws = WsClient::connect(hub.address, Some(demo.trim())).await;
    ws.subscribe(&["demo.hello"]).await;
    let mut http = Http::connect(hub.address, Some(&hub.admin_key)).await;
    http.post("/api/v1/publish", r#"{"channel":"demo.hello","payload":{"text":"hello"}}"#).await.ok();
    assert_eq!(ws.expect("message").await["payload"], json!({"text": "hello"}));
}

#[test]
fn a_second_hub_on_the_same_store_or_port_is_refused_with_what_to_do() {
    let dir = TempDir::new();
    let hub = Spawned::start(dir.path());
    let data = dir.path().join("data");
    let plugins = repository().join("plugins");
    let env = [("AETHER_PLUGINS_DIR", plugins.to_str().unwrap())];
    let arguments = ["serve", "--addr", "127.0.0.1:0", "--data", data.to_str().unwrap()];
    let (code, _, err) = said(&run(dir.path(), &arguments, &env));
    assert_eq!(code, Some(1));
    assert!(err.contains("is in use") && err.contains("--data"), "{err}");
    let address = hub.address.to_string();
    let arguments = ["serve", "--addr", &address, "--data", "other"];
    let (code, _, err) = said(&run(dir.path(), &arguments, &env));
    assert_eq!(code, Some(1));
    assert!(err.contains("another hub running") && err.contains("--addr"), "{err}");
}

#[test]
fn what_is_wrong_with_a_plugins_settings_is_told_at_once_and_where_each_stands() {
    let dir = TempDir::new();
    dir.write(
        "plugins/room-acl/plugin.toml",
        "[plugin]\nname = \"room-acl\"\nversion = \"1.0.0\"\n\n[config.msgs_per_sec]\ntype = \"number\"\nmax = 100\n\n\
         [config.rooms]\ntype = \"list<duration>\"\n",
    );
    dir.write("plugins/room-acl/main.lua", "");
    dir.write(
        "aether.toml",
        "[[plugin]]\nuse = \"room-acl\"\n[plugin.config]\nmsgs_per_sec = 1000\nmsgs_per_second = 20\n\
         rooms = [\"5m\", \"5 bananas\"]\n",
    );
    let output = run(dir.path(), &["check"], &[]);
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1));
    for line in [
        "aether.toml:4:1: msgs_per_sec: 1000 is more than the most, 100",
        "aether.toml:5:1: msgs_per_second is not known here; did you mean msgs_per_sec?",
        "aether.toml:6:16: rooms[2]: expected a duration",
    ] {
        assert!(said.contains(line), "{line}\n{said}");
    }
}
