//! `aether pub` and `aether sub`, as a shell meets them: exact counts over a hub that is killed, and honest ends.

use crate::common::spawned::{aether, run};
use crate::common::*;

/// A verb whose hub is the one in this directory.
fn start(dir: &TempDir, hub: &Spawned, arguments: &[&str]) -> Program {
    let url = format!("http://{}", hub.address);
    Program::start(aether(dir.path()).args(arguments).args(["--url", &url]))
}

/// The same, to its end: exit code, standard output, standard error.
fn finish(dir: &TempDir, hub: &Spawned, arguments: &[&str]) -> (Option<i32>, String, String) {
    let url = format!("http://{}", hub.address);
    let output = run(dir.path(), &[arguments, &["--url", &url]].concat(), &[]);
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

fn seqs(frames: &[String], channel: &str) -> Vec<u64> {
    let frames = frames.iter().map(|line| serde_json::from_str::<Json>(line).unwrap());
    let messages = frames.filter(|frame| frame["type"] == "message" && frame["channel"] == channel);
    messages.map(|frame| frame["seq_id"].as_u64().unwrap()).collect()
}

#[tokio::test]
async fn pub_and_sub_lose_and_double_nothing_when_their_hub_is_killed() {
    const EACH: u64 = 300;
    let dir = TempDir::new();
    let mut hub = Spawned::start(dir.path());
    let count = (2 * EACH).to_string();
    let mut sub = start(&dir, &hub, &["sub", "demo.a", "demo.b", "--json", "--strict", "--count", &count]);
    sub.until_err("listening: demo.a after 0, demo.b after 0").await;
    let mut pubs: Vec<_> =
        ["demo.a", "demo.b"].map(|channel| start(&dir, &hub, &["pub", channel, "--lines"])).into_iter().collect();
    for n in 1..=EACH {
        for publisher in &mut pubs {
            publisher.type_line(&n.to_string());
        }
        if n % (EACH / 3) == EACH / 6 {
            sub.until_lines(n as usize / 2).await;
            hub.kill_and_restart(dir.path());
        }
    }
    for publisher in &mut pubs {
        assert_eq!(publisher.end().await, Some(0), "{}", publisher.err());
        let answered: Vec<Json> = publisher.out().iter().map(|line| serde_json::from_str(line).unwrap()).collect();
        let seqs: Vec<_> = answered.iter().map(|answer| answer["seq_id"].as_u64().unwrap()).collect();
        assert_eq!(seqs, (1..=EACH).collect::<Vec<_>>());
    }
    assert_eq!(sub.end().await, Some(0), "{}", sub.err());
    for channel in ["demo.a", "demo.b"] {
        assert_eq!(seqs(&sub.out(), channel), (1..=EACH).collect::<Vec<_>>(), "{}", sub.err());
    }
    assert!(sub.err().matches("resumed: ").count() >= 3, "{}", sub.err());
}

#[tokio::test]
async fn since_begins_after_a_number_and_payloads_come_out_byte_for_byte() {
    let dir = TempDir::new();
    let hub = Spawned::start(dir.path());
    let odd = r#"{"n": 9007199254740993,"n":1.0e2}"#;
    for arguments in [
        &["pub", "demo.a", "1"][..],
        &["pub", "demo.a", odd, "--event", "odd"],
        &["pub", "demo.a", "plain text"],
        &["pub", "demo.a", "[1,\n2]"],
        &["pub", "demo.b", "-1"],
    ] {
        assert_eq!(finish(&dir, &hub, arguments).0, Some(0), "{arguments:?}");
    }
    let (code, out, err) = finish(&dir, &hub, &["sub", "demo.a", "--since", "1", "--count", "3"]);
    assert_eq!(code, Some(0), "{err}");
    assert_eq!(out, format!("demo.a 2 odd: {odd}\ndemo.a 3 plain text\ndemo.a 4 [1,\n2]\n"));

    let (_, out, _) = finish(&dir, &hub, &["sub", "demo.a", "demo.b", "--since", "0", "--count", "5", "--json"]);
    let frames: Vec<String> = out.lines().map(str::to_owned).collect();
    assert_eq!((seqs(&frames, "demo.a"), seqs(&frames, "demo.b")), (vec![1, 2, 3, 4], vec![1]));
    // A line is the frame: number spelling, white space and doubled names are the publisher's.
    assert!(frames.iter().any(|frame| frame.ends_with(&format!(r#""payload":{odd},"event":"odd"}}"#))), "{out}");
    assert!(frames.iter().any(|frame| frame.ends_with(r#""payload":[1, 2]}"#)), "{out}");
}

#[tokio::test]
async fn standard_input_is_published_as_it_is_and_a_key_only_once() {
    let dir = TempDir::new();
    let hub = Spawned::start(dir.path());
    let mut whole = start(&dir, &hub, &["pub", "demo.a", "-"]);
    whole.type_line("two");
    whole.type_line("lines");
    assert_eq!(whole.end().await, Some(0), "{}", whole.err());
    for duplicate in [false, true] {
        let mut lines = start(&dir, &hub, &["pub", "demo.a", "--lines", "--idempotency-key", "import"]);
        lines.type_line("3");
        lines.type_line("");
        assert_eq!(lines.end().await, Some(0), "{}", lines.err());
        let expected = format!("\"duplicate\":{duplicate}}}");
        assert!(lines.out().iter().all(|answer| answer.ends_with(&expected)), "{:?}", lines.out());
    }
    let mut http = Http::connect(hub.address, Some(&hub.admin_key)).await;
    let history = http.get("/api/v1/history?channel=demo.a").await.ok();
    let payloads: Vec<_> = history["messages"].as_array().unwrap().iter().map(|message| &message["payload"]).collect();
    assert_eq!(payloads, [&json!("two\nlines\n"), &json!(3), &json!("")]);
}

#[tokio::test]
async fn a_gap_is_told_in_its_place_and_strict_ends_with_3() {
    let dir = TempDir::new();
    dir.write("aether.toml", "[[retention.rules]]\npattern = \"demo.few\"\nmax_count = 5\n");
    let hub = Spawned::start(dir.path());
    publish_stubbornly(hub.address, hub.admin_key.clone(), "demo.few", 20).await;

    let (code, out, err) = finish(&dir, &hub, &["sub", "demo.few", "--since", "2", "--count", "5", "--json"]);
    assert_eq!(code, Some(0), "{err}");
    assert!(err.contains("gap: 3 to 15 of demo.few will not come (evicted); it goes on with 16"), "{err}");
    let kinds: Vec<_> =
        out.lines().map(|line| serde_json::from_str::<Json>(line).unwrap()["type"].to_string()).collect();
    assert_eq!(&kinds[..3], ["\"subscribed\"", "\"gap\"", "\"message\""], "{out}");

    let (code, out, err) = finish(&dir, &hub, &["sub", "demo.few", "--since", "2", "--strict"]);
    assert_eq!((code, out.as_str()), (Some(3), ""), "{err}");
    let (code, _, err) = finish(&dir, &hub, &["sub", "demo.few", "--since", "15", "--strict", "--count", "5"]);
    assert_eq!(code, Some(0), "{err}");
}

#[tokio::test]
async fn another_life_of_the_log_is_a_gap_to_a_sub_that_comes_back() {
    let dir = TempDir::new();
    let mut hub = Spawned::start(dir.path());
    assert_eq!(finish(&dir, &hub, &["pub", "demo.a", "1"]).0, Some(0));
    let mut sub = start(&dir, &hub, &["sub", "demo.a", "--since", "0", "--count", "2"]);
    sub.until_lines(1).await;
    hub.kill_9();
    std::fs::remove_dir_all(dir.path().join("data/store")).unwrap();
    hub = Spawned::start_at(dir.path(), &hub.address.to_string());
    assert_eq!(finish(&dir, &hub, &["pub", "demo.a", "2"]).0, Some(0));
    assert_eq!(sub.end().await, Some(0), "{}", sub.err());
    // Both have the number 1; only the epoch tells them apart.
    assert_eq!(sub.out(), ["demo.a 1 1", "demo.a 1 2"]);
    assert!(sub.err().contains("(epoch)"), "{}", sub.err());
}

#[tokio::test]
async fn who_is_refused_is_told_why_and_what_to_do_and_ends_with_1() {
    let dir = TempDir::new();
    let hub = Spawned::start(dir.path());
    for (arguments, words) in [
        (&["sub", "secret"][..], ["40301", "--token"]),
        (&["sub", "demo.a", "secret"], ["40301", "secret"]),
        (&["sub", "demo.a", "--token", "bad"], ["40102", "AETHER_TOKEN"]),
        (&["pub", "demo.a", "1", "--key", "aek_bad"], ["40101", "AETHER_KEY"]),
        (&["pub", "demo.a", "1", "--event", "gap"], ["40003", "event"]),
    ] {
        let (code, out, err) = finish(&dir, &hub, arguments);
        assert_eq!((code, out.as_str()), (Some(1), ""), "{arguments:?}: {err}");
        assert!(words.iter().all(|word| err.contains(word)), "{arguments:?}: {err}");
    }
    for arguments in [&["sub"][..], &["sub", "a..b"], &["sub", "a", "--count", "0"], &["pub", "a", "b", "--lines"]] {
        assert_eq!(finish(&dir, &hub, arguments).0, Some(2), "{arguments:?}");
    }
}

#[tokio::test]
async fn a_token_that_ends_ends_its_sub() {
    let dir = TempDir::new();
    dir.write("aether.toml", "[[plugin]]\nuse = \"jwt-auth\"\n[plugin.config]\nleeway = \"0s\"\n");
    let hub = Spawned::start(dir.path());
    let token = run(dir.path(), &["token", "--sub", "x", "--channel", "demo.*", "--expires", "2s"], &[]).stdout;
    let token = String::from_utf8(token).unwrap();
    let mut sub = start(&dir, &hub, &["sub", "demo.a", "--token", token.trim()]);
    assert_eq!(sub.end().await, Some(1));
    assert!(sub.err().contains("sent away: credential expired; show another"), "{}", sub.err());
}

#[tokio::test]
async fn a_hub_that_goes_down_says_when_to_come_back_and_ctrl_c_ends_with_0() {
    let dir = TempDir::new();
    let mut hub = Spawned::start(dir.path());
    let mut sub = start(&dir, &hub, &["sub", "demo.a"]);
    sub.until_err("listening").await;
    hub.signal("TERM");
    assert!(hub.wait().await.success());
    hub = Spawned::start_at(dir.path(), &hub.address.to_string());
    sub.until_err("the hub says: server shutting down; trying again in ").await;
    sub.until_err("resumed: demo.a after 0").await;
    assert_eq!(finish(&dir, &hub, &["pub", "demo.a", "1"]).0, Some(0));
    sub.until_lines(1).await;
    sub.signal("INT");
    assert_eq!(sub.end().await, Some(0));
}

#[test]
fn nobody_there_is_a_failure_at_once_and_keys_stay_on_their_machine() {
    let dir = TempDir::new();
    dir.write("data/keys/admin_key", "aek_0123456789012345678901234567890123456789012\n");
    let said = |arguments: &[&str]| {
        let output = run(dir.path(), arguments, &[]);
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    for verb in [&["pub", "demo.a", "1"][..], &["sub", "demo.a"]] {
        let (code, err) = said(&[verb, &["--url", "http://127.0.0.1:1"]].concat());
        assert_eq!(code, Some(1));
        assert!(err.contains("there is no hub at 127.0.0.1:1") && err.contains("--url"), "{err}");
    }
    // An address of documentation: were the key sent there, this would wait for an answer.
    let (code, err) = said(&["pub", "demo.a", "1", "--url", "http://192.0.2.1"]);
    assert_eq!(code, Some(1));
    assert!(err.contains("there is no key to show") && err.contains("--key"), "{err}");
}

#[tokio::test]
async fn credentials_come_from_the_environment_and_a_hub_does_not_mind_them() {
    let dir = TempDir::new();
    let hub = Spawned::start(dir.path());
    let url = format!("http://{}", hub.address);
    let elsewhere = TempDir::new();
    let env = [("AETHER_KEY", hub.admin_key.as_str()), ("AETHER_TOKEN", &hub.token(&["room.*"]))];
    let said = |arguments: &[&str]| run(elsewhere.path(), arguments, &env);
    assert!(said(&["pub", "room.1", "1", "--url", &url]).status.success());
    let sub = said(&["sub", "room.1", "--since", "0", "--count", "1", "--url", &url]);
    assert_eq!(String::from_utf8(sub.stdout).unwrap(), "room.1 1 1\n");
    let help = said(&["pub", "--help"]);
    assert!(!String::from_utf8(help.stdout).unwrap().contains(&hub.admin_key));
    // The settings of the machine are read with them around.
    let token = said(&["token", "--sub", "x", "--channel", "a"]);
    assert!(token.status.success(), "{}", String::from_utf8_lossy(&token.stderr));
}

#[test]
fn shells_can_read_their_completions_and_help_has_the_exit_codes() {
    let dir = TempDir::new();
    for shell in ["bash", "zsh", "fish"] {
        let script = run(dir.path(), &["completions", shell], &[]);
        let text = String::from_utf8(script.stdout).unwrap();
        assert!(script.status.success() && text.contains("idempotency-key"), "{shell}");
        if shell == "bash" {
            let file = dir.write("aether.bash", &text);
            assert!(std::process::Command::new("bash").arg("-n").arg(file).status().unwrap().success());
        }
    }
    assert_eq!(run(dir.path(), &["completions", "tcsh"], &[]).status.code(), Some(2));
    for verb in ["pub", "sub"] {
        let help = String::from_utf8(run(dir.path(), &[verb, "--help"], &[]).stdout).unwrap();
        assert!(help.contains("Exit codes: 0 done, 1 failed"), "{help}");
    }
}

#[tokio::test]
async fn a_reader_that_has_seen_enough_is_no_failure() {
    let dir = TempDir::new();
    let hub = Spawned::start(dir.path());
    publish_stubbornly(hub.address, hub.admin_key.clone(), "demo.a", 2000).await;
    let script = format!(
        "{} sub demo.a --since 0 --count 2000 --url http://{} | head -1; echo ${{PIPESTATUS[0]}}",
        env!("CARGO_BIN_EXE_aether"),
        hub.address
    );
    let mut shell = std::process::Command::new("bash");
    let mut shell = Program::start(shell.current_dir(dir.path()).args(["-c", &script]));
    tokio::time::timeout(3 * DEADLINE, shell.end()).await.unwrap();
    assert_eq!(shell.out(), ["demo.a 1 1", "0"], "{}", shell.err());
}
