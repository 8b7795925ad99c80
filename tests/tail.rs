//! An operator looks on: messages and decisions as they happen, unseen by everybody, and without what payloads say.

use std::io::{BufRead, BufReader};
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use crate::common::spawned::{Spawned, aether};
use crate::common::*;

const RULES: &str = r#"
aether.on.subscribe("room.*", function(s, ch) return s.user ~= nil end)
aether.on.publish("room.*", function(s, ch, msg)
	local body = msg:json()
	if body.bad then return aether.deny("bad", "nobody may say " .. body.text) end
	return true
end)
aether.on.view("room.*", "public", { drop = { "text" } })
aether.on.join("room.*", function(ch, who) aether.announce(ch, who) end)
"#;

async fn tail(hub: &TestHub, query: &str) -> Result<SseClient, Response> {
    let bearer = format!("Bearer {}", hub.keys.admin_key());
    let path = format!("/api/v1/rules/tail?{query}");
    SseClient::open_with(hub.address, &path, &[("authorization", &bearer)], None).await
}

/// Reads on until an event comes that is wanted, and gives all up to it.
async fn read_until(sse: &mut SseClient, wanted: impl Fn(&Event) -> bool) -> Vec<Event> {
    let mut all = Vec::new();
    loop {
        let event = sse.next().await.expect("the tail goes on");
        let done = wanted(&event);
        all.push(event);
        if done {
            return all;
        }
    }
}

async fn publish(hub: &TestHub, channel: &str, payload: Json) -> u16 {
    let body =
        json!({"channel": channel, "payload": payload, "event": "said", "meta": {"from": "sentinel"}}).to_string();
    hub.http().await.post("/api/v1/publish", body).await.status
}

#[tokio::test]
async fn no_masked_byte_is_in_what_a_tail_says_and_no_credential() {
    let hub = TestHub::plan().rules(RULES).start();
    let mut sse = tail(&hub, "channel=room.*").await.unwrap_or_else(|answer| panic!("{}", answer.text()));
    let token = hub.token_for("ann", &["room.*"], &[]);
    let mut ws = hub.ws_as(Some(&token)).await;
    ws.subscribe(&["room.1"]).await;
    assert_eq!(publish(&hub, "room.1", json!({"text": "sentinel", "n": 4711})).await, 200);
    assert_eq!(publish(&hub, "room.1", json!({"text": "sentinel", "bad": true})).await, 403);
    let refused = |event: &Event| event.name == "decision" && event.json()["allowed"] == false;
    let mut all = read_until(&mut sse, refused).await;
    let denied = all.last().unwrap().json();
    assert_eq!(
        (&denied["code"], &denied["event"], &denied["channel"]),
        (&json!("bad"), &json!("publish"), &json!("room.1"))
    );
    assert!(denied["place"].as_str().unwrap().ends_with("rules.lua:5"), "{denied}");
    assert_eq!(denied["why"], format!("<{} characters>", "nobody may say sentinel".len()));
    if !all.iter().any(|event| event.name == "message") {
        all.extend(read_until(&mut sse, |event| event.name == "message").await);
    }
    let message = all.iter().find(|event| event.name == "message").unwrap().json();
    assert_eq!(message["payload"], json!({"text": "<string of 8>", "n": "<number>"}));
    assert_eq!((&message["seq_id"], &message["event"]), (&json!(1), &json!("said")));
    let subscribed = all.iter().find(|event| event.name == "decision" && event.json()["event"] == "subscribe");
    assert_eq!(subscribed.unwrap().json()["user"], "ann");
    for event in &all {
        for secret in ["sentinel", "4711", &token, hub.keys.admin_key()] {
            assert!(!event.data.contains(secret), "{event:?}");
        }
    }
}

#[tokio::test]
async fn a_tail_sees_through_a_view_or_in_full_if_it_says_so() {
    let hub = TestHub::plan().rules(RULES).start();
    let mut view = tail(&hub, "channel=room.1&view=public").await.ok().unwrap();
    let mut full = tail(&hub, "channel=room.1&full=1").await.ok().unwrap();
    publish(&hub, "room.1", json!({"text": "sentinel", "n": 4711})).await;
    let is_message = |event: &Event| event.name == "message";
    let seen = read_until(&mut view, is_message).await.pop().unwrap().json();
    assert_eq!(seen["payload"], json!({"n": 4711}));
    let seen = read_until(&mut full, is_message).await.pop().unwrap().json();
    assert_eq!(seen["payload"], json!({"text": "sentinel", "n": 4711}));
    publish(&hub, "room.1", json!({"text": "sentinel", "bad": true})).await;
    let refused = |event: &Event| event.name == "decision" && event.json()["allowed"] == false;
    assert_eq!(read_until(&mut full, refused).await.pop().unwrap().json()["why"], "nobody may say sentinel");
    assert_ne!(read_until(&mut view, refused).await.pop().unwrap().json()["why"], "nobody may say sentinel");
    // A channel without that view is masked all the same.
    let mut other = tail(&hub, "channel=hall&view=public").await.ok().unwrap();
    publish(&hub, "hall", json!("sentinel")).await;
    assert_eq!(read_until(&mut other, is_message).await.pop().unwrap().json()["payload"], "<string of 8>");
}

#[tokio::test]
async fn nobody_sees_that_somebody_looks_on_and_only_admins_do() {
    let hub = TestHub::plan().rules(RULES).start();
    let mut sse = tail(&hub, "channel=room.1").await.ok().unwrap();
    let mut ws = hub.ws_as(Some(&hub.token_for("ann", &["room.*"], &[]))).await;
    ws.subscribe(&["room.1"]).await;
    let mut http = hub.http().await;
    let channels = http.get("/api/v1/channels?match=room.*").await.ok();
    assert_eq!(channels["channels"][0]["subscribers"], 1, "the operator does not count");
    assert_eq!(http.get("/api/v1/presence?channel=room.1").await.ok()["sessions"].as_array().unwrap().len(), 1);
    assert_eq!(http.get("/api/v1/sessions").await.ok()["sessions"].as_array().unwrap().len(), 1);
    assert_eq!(
        (hub.metric("aether_connections_active").await, hub.metric("aether_subscriptions_active").await),
        (1.0, 1.0)
    );
    publish(&hub, "room.1", json!({"text": "x"})).await;
    read_until(&mut sse, |event| event.name == "message").await;

    let stranger = format!("Bearer {}", hub.token(&["*"]));
    let path = "/api/v1/rules/tail?channel=room.1";
    let refused = SseClient::open_with(hub.address, path, &[("authorization", &stranger)], None).await;
    assert_eq!(refused.err().unwrap().error(), (403, 40302));
    for (query, status) in
        [("", 400), ("channel=a..b**", 400), ("channel=a&full=2", 400), ("channel=a&view=x&full=1", 400)]
    {
        assert_eq!(tail(&hub, query).await.err().unwrap().status, status, "{query}");
    }
    let unknown = tail(&hub, "channel=room.1&view=pubic").await.err().unwrap();
    assert!(unknown.status == 422 && unknown.text().contains("public"), "{}", unknown.text());
}

#[tokio::test]
async fn a_pattern_finds_channels_as_they_come_from_their_first_message_on() {
    let hub = TestHub::plan().rules(RULES).start();
    let mut sse = tail(&hub, "channel=room.*").await.ok().unwrap();
    for channel in ["room.1", "room.2", "room.3"] {
        for n in 1..=5 {
            assert_eq!(publish(&hub, channel, json!({"n": n})).await, 200);
        }
    }
    let mut seen = std::collections::BTreeMap::<String, Vec<u64>>::new();
    while seen.values().map(Vec::len).sum::<usize>() < 15 {
        let event = sse.next().await.expect("the tail goes on");
        if event.name == "message" {
            let it = event.json();
            seen.entry(it["channel"].as_str().unwrap().into()).or_default().push(it["seq_id"].as_u64().unwrap());
        }
    }
    assert!(seen.len() == 3 && seen.values().all(|numbers| *numbers == [1, 2, 3, 4, 5]), "{seen:?}");
}

#[tokio::test]
async fn a_users_tail_has_its_channels_and_the_votes_that_a_reload_asks_again() {
    let hub = TestHub::plan().rules(RULES).start();
    let mut sse = tail(&hub, "user=ann").await.ok().unwrap();
    let mut ann = hub.ws_as(Some(&hub.token_for("ann", &["room.*"], &[]))).await;
    ann.subscribe(&["room.1"]).await;
    let mut bob = hub.ws_as(Some(&hub.token_for("bob", &["room.*"], &[]))).await;
    bob.subscribe(&["room.2"]).await;
    let mut http = hub.http().await;
    let mut next = 0;
    let all = loop {
        // Whose channels they are is looked up every now and then.
        publish(&hub, "room.2", json!({"n": "bobs"})).await;
        publish(&hub, "room.1", json!({"n": next})).await;
        next += 1;
        let next_event = tokio::time::timeout(Duration::from_millis(100), sse.next()).await;
        if let Ok(Some(event)) = next_event
            && event.name == "message"
        {
            break event.json();
        }
        assert!(next < 200, "no message of ann's channel");
    };
    assert_eq!(all["channel"], "room.1");
    http.post("/api/v1/rules/reload", "{}").await.ok();
    let again = |event: &Event| event.name == "decision" && event.json()["again"] == true;
    let told = read_until(&mut sse, again).await;
    assert!(told.iter().all(|event| event.name == "decision" || event.json()["channel"] == "room.1"), "{told:?}");
    assert!(told.iter().all(|event| event.name == "message" || event.json()["user"] == "ann"), "{told:?}");
}

#[tokio::test]
async fn the_command_line_prints_lines_until_it_is_interrupted_and_the_log_names_who_saw_all() {
    let dir = TempDir::new();
    dir.write("scripts/rules.lua", RULES);
    let mut hub = Spawned::start_with(dir.path(), "127.0.0.1:0", &[("AETHER_PLUGINS_SCRIPTS", "scripts")]);
    let url = format!("http://{}", hub.address);
    let begin = |arguments: &[&str]| {
        let mut command = aether(dir.path());
        command.args(["tail", "--url", &url, "--key", &hub.admin_key]).args(arguments);
        command.stdout(Stdio::piped()).spawn().unwrap()
    };
    let read = |child: &mut std::process::Child| {
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        std::thread::spawn(move || {
            lines.find_map(|line| line.ok().filter(|line| line.contains("<string of 8>") || line.contains("sentinel")))
        })
    };
    let (mut masked, mut full) = (begin(&["room.1"]), begin(&["room.1", "--full", "--json"]));
    let found = [read(&mut masked), read(&mut full)];
    let mut http = Http::connect(hub.address, Some(&hub.admin_key)).await;
    let body = json!({"channel": "room.1", "payload": {"text": "sentinel"}}).to_string();
    until("both have said it", async || {
        http.post("/api/v1/publish", body.as_str()).await.ok();
        found.iter().all(|found| found.is_finished())
    })
    .await;
    let [line, json] = found.map(|found| found.join().unwrap().unwrap());
    assert!(line.starts_with("room.1 ") && line.ends_with(r#" {"text":"<string of 8>"}"#), "{line}");
    let json: Json = serde_json::from_str(&json).unwrap();
    assert_eq!((&json["type"], &json["payload"]["text"]), (&json!("message"), &json!("sentinel")));
    for child in [&mut masked, &mut full] {
        let pid = child.id().to_string();
        assert!(std::process::Command::new("kill").args(["-INT", &pid]).status().unwrap().success());
        assert_eq!(child.wait().unwrap().code(), Some(0));
    }
    hub.signal("TERM");
    assert!(hub.wait().await.success());
    let log = hub.stderr();
    let audit: Vec<_> = log.lines().filter(|line| line.contains("aether::audit")).collect();
    assert_eq!(audit.len(), 2, "{log}");
    assert!(
        audit.iter().any(|line| line.contains("in full") && line.contains("by=") && line.contains("127.0.0.1")),
        "{audit:?}"
    );
    assert!(!log.contains("sentinel") && !log.contains(&hub.admin_key), "{log}");
}

/// Decision ids are new each time.
fn without_ids(lines: &str) -> Vec<String> {
    lines.lines().map(|line| line.rsplit_once(" [").map_or(line, |(before, _)| before).to_owned()).collect()
}

#[tokio::test]
async fn the_example_of_the_manual_comes_out_as_it_says() {
    let (rules, text) = manual("### Looking on");
    let dir = TempDir::new();
    dir.write("scripts/rules.lua", &rules);
    let hub = Spawned::start_with(dir.path(), "127.0.0.1:0", &[("AETHER_PLUGINS_SCRIPTS", "scripts")]);
    let url = format!("http://{}", hub.address);
    let mut command = aether(dir.path());
    command.args(["tail", "room.1", "--url", &url, "--key", &hub.admin_key]).stdout(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut http = Http::connect(hub.address, Some(&hub.admin_key)).await;
    until("it looks on", async || http.get("/api/v1/channels?match=room.1").await.ok()["channels"] != json!([])).await;
    let short = json!({"channel": "room.1", "payload": {"text": "hello", "n": 7}}).to_string();
    http.post("/api/v1/publish", short).await.ok();
    let expected = without_ids(&text);
    let stdout = BufReader::new(child.stdout.take().unwrap());
    let (lines, count) = (stdout.lines(), expected.len());
    let read = Arc::new(AtomicUsize::new(0));
    let so_far = read.clone();
    let counted = move |line: std::io::Result<String>| {
        so_far.fetch_add(1, Ordering::SeqCst);
        line.unwrap()
    };
    let reading = std::thread::spawn(move || lines.take(count).map(counted).collect::<Vec<_>>());
    // One after the other: decisions and messages come to a tail by two ways, and those of one moment in either order.
    until("the first is said", async || read.load(Ordering::SeqCst) == count - 1).await;
    let long = json!({"channel": "room.1", "payload": {"text": "hello".repeat(50)}}).to_string();
    assert_eq!(http.post("/api/v1/publish", long).await.status, 403);
    until("all is said", async || reading.is_finished()).await;
    let mut said = without_ids(&reading.join().unwrap().join("\n"));
    if said[0] == expected[1] {
        said.swap(0, 1);
    }
    assert_eq!(said, expected);
    child.kill().unwrap();
    child.wait().unwrap();
}
