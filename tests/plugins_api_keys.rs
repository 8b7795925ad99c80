//! The plugin `api-keys`: keys that are made, changed and revoked over HTTP, and what they open at each moment.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};

use sha2::{Digest, Sha256};

use crate::common::*;

fn message(channel: &str) -> String {
    json!({"channel": channel, "payload": 1}).to_string()
}

async fn make(hub: &TestHub, wanted: Json) -> (String, Json) {
    let made = hub.http().await.post("/api/v2/keys", wanted.to_string()).await.ok();
    (made["key"].as_str().unwrap().to_owned(), made["meta"].clone())
}

/// What a publish to `channel` with this key is answered with.
async fn publish(hub: &TestHub, key: &str, channel: &str) -> Response {
    hub.http_as(Some(key)).await.post("/api/v1/publish", message(channel)).await
}

#[tokio::test]
async fn a_key_is_made_read_listed_and_opens_what_it_was_made_for() {
    let hub = TestHub::start();
    let wanted = json!({"name": "shop", "publish": ["a.*"], "subscribe": ["r.*"], "expires_in": "1h30m"});
    let (key, meta) = make(&hub, wanted).await;
    assert!(key.starts_with("aek_") && key.len() == 47, "{key}");
    assert_eq!(meta["key_prefix"], key[..8]);
    assert_eq!(meta["permissions"], json!({"publish": ["a.*"], "subscribe": ["r.*"], "admin": false}));
    assert!(meta["created_at"].as_str().is_some_and(|time| time.len() == 24 && time.ends_with('Z')), "{meta}");
    assert!(meta["expires_at"].is_string() && meta.get("revoked_at").is_none(), "{meta}");
    let id = meta["id"].as_str().unwrap();
    assert_eq!((id.len(), &id[14..15]), (36, "4"));

    let mut http = hub.http().await;
    assert_eq!(http.get(&format!("/api/v2/keys/{id}")).await.ok(), json!({"ok": true, "meta": meta}));
    let (_, other) = make(&hub, json!({"name": "nothing"})).await;
    assert_eq!(other["permissions"], json!({"publish": null, "subscribe": null, "admin": false}));
    let listed = http.get("/api/v2/keys").await.ok()["keys"].clone();
    let names: Vec<_> = listed.as_array().unwrap().iter().map(|key| key["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["nothing", "shop", "admin"], "the newest first");

    // On every way in: publish, batch, history, a subscription; and nothing else (A6).
    assert_eq!(publish(&hub, &key, "a.b").await.ok()["seq_id"], 1);
    assert_eq!(publish(&hub, &key, "b.x").await.error(), (403, 40301));
    let mut shop = hub.http_as(Some(&key)).await;
    let batch = json!({"messages": [{"channel": "b.x", "payload": 1}, {"channel": "a.b", "payload": 1}]});
    let results = shop.post("/api/v2/publish/batch", batch.to_string()).await.ok()["results"].clone();
    assert_eq!((&results[0]["error"]["code"], &results[1]["seq_id"]), (&json!(40301), &json!(2)));
    assert_eq!(shop.get("/api/v1/history?channel=a.b").await.error(), (403, 40301));
    shop.get("/api/v1/history?channel=r.1").await.ok();
    hub.ws_as(Some(&key)).await.subscribe(&["r.1"]).await;
    assert_eq!(shop.get("/api/v2/keys").await.error(), (403, 40302));
    assert_eq!(hub.http_as(None).await.get("/api/v2/keys").await.error(), (401, 40101));

    let (admin, _) = make(&hub, json!({"name": "second", "admin": true})).await;
    hub.http_as(Some(&admin)).await.get("/api/v2/keys").await.ok();
    assert_eq!(publish(&hub, &admin, "a.b").await.error(), (403, 40301), "an admin may administer, and no more");
}

#[tokio::test]
async fn what_is_wrong_with_a_request_is_told_by_the_codes_of_the_first_aether() {
    let hub = TestHub::start();
    make(&hub, json!({"name": "taken"})).await;
    let mut http = hub.http().await;
    for (body, expected, message) in [
        ("nonsense", (400, 40003), "invalid json"),
        ("7", (400, 40003), "invalid json"),
        ("{}", (400, 40002), "name is required"),
        (r#"{"name":""}"#, (400, 40002), "name is required"),
        (r#"{"name":7}"#, (400, 40003), "invalid json: name"),
        (r#"{"name":"x","publish":"a.*"}"#, (400, 40003), "publish is a list"),
        (r#"{"name":"x","publish":["ro*om"]}"#, (400, 40003), "publish: item 1"),
        (r#"{"name":"x","subscribe":["a","$user.*"]}"#, (400, 40003), "subscribe: item 2"),
        (r#"{"name":"x","admin":"yes"}"#, (400, 40003), "admin is true or false"),
        (r#"{"name":"x","expires_in":"1d"}"#, (400, 40003), "invalid expires_in format"),
        (r#"{"name":"x","expires_in":"soon"}"#, (400, 40003), "invalid expires_in format"),
        (r#"{"name":"x","expires_in":7}"#, (400, 40003), "invalid expires_in format"),
        (r#"{"name":"taken"}"#, (409, 40901), "key name already exists"),
        (r#"{"name":"admin"}"#, (409, 40901), "key name already exists"),
    ] {
        let refused = http.post("/api/v2/keys", body).await;
        assert_eq!(refused.error(), expected, "{body}");
        assert!(refused.text().contains(message), "{body}: {}", refused.text());
    }
    for (method, path) in [("GET", "/api/v2/keys/x"), ("DELETE", "/api/v2/keys/x"), ("POST", "/api/v2/keys/x/rotate")] {
        let unknown = http.send(method, path, &[], b"").await;
        assert_eq!((unknown.error(), &unknown.json()["error"]["message"]), ((404, 40401), &json!("key not found")));
    }
    assert_eq!(http.send("PUT", "/api/v2/keys", &[], b"").await.error(), (405, 40500));
}

#[tokio::test]
async fn a_key_ends_when_it_was_to_end() {
    let hub = TestHub::start();
    let (key, _) =
        make(&hub, json!({"name": "short", "publish": ["a"], "subscribe": ["a"], "expires_in": "1500ms"})).await;
    assert_eq!(publish(&hub, &key, "a").await.status, 200);
    let mut ws = hub.ws_as(Some(&key)).await;
    ws.expect("expiring").await;
    assert_eq!(ws.expect("bye").await["code"], 4401, "a connection ends with its key");
    assert_eq!(publish(&hub, &key, "a").await.error(), (401, 40101), "and it is not remembered for longer");
}

#[tokio::test]
async fn a_key_that_is_revoked_under_load_opens_nothing_from_the_answer_on() {
    let hub = TestHub::start();
    let (key, meta) = make(&hub, json!({"name": "busy", "publish": ["a"], "subscribe": ["a"]})).await;
    let revoked = Arc::new(AtomicBool::new(false));
    let (before, after, refused) =
        (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let mut clients = Vec::new();
    for _ in 0..100 {
        let mut http = hub.http_as(Some(&key)).await;
        let (revoked, before, after, refused) = (revoked.clone(), before.clone(), after.clone(), refused.clone());
        clients.push(tokio::spawn(async move {
            let mut asked_after = 0;
            while asked_after < 3 {
                let was_revoked = revoked.load(SeqCst);
                asked_after += u32::from(was_revoked);
                let answer = http.post("/api/v1/publish", message("a")).await;
                match (answer.status, was_revoked) {
                    (200, false) => before.fetch_add(1, SeqCst),
                    (200, true) => after.fetch_add(1, SeqCst),
                    _ => {
                        assert_eq!(answer.error(), (401, 40101));
                        refused.fetch_add(1, SeqCst)
                    }
                };
            }
        }));
    }
    until("the clients publish", async || before.load(SeqCst) > 500).await;
    let mut connected = hub.ws_as(Some(&key)).await;
    connected.subscribe(&["a"]).await;
    let path = format!("/api/v2/keys/{}", meta["id"].as_str().unwrap());
    hub.http().await.send("DELETE", &path, &[], b"").await.ok();
    revoked.store(true, SeqCst);
    assert_eq!(connected.read_to_end("a").await.2, End::Closed(4403, "the key was changed or revoked".into()));
    for client in clients {
        within(DEADLINE, "every client ends", client).await.unwrap();
    }
    assert_eq!(after.load(SeqCst), 0, "accepted after the answer");
    assert!(refused.load(SeqCst) >= 300);
    let mut http = hub.http().await;
    let read = http.get(&path).await.ok();
    assert!(read["meta"]["revoked_at"].is_string(), "{read}");
    // Again is no fault; what has ended is not brought back.
    http.send("DELETE", &path, &[], b"").await.ok();
    assert_eq!(http.post(&format!("{path}/rotate"), "").await.error(), (409, 40903));
}

const SETTINGS: &str = r#"
[[plugin]]
use = "api-keys"
[[plugin.config.keys]]
name = "old"
sha256 = "@"
publish = ["a"]
[[plugin.config.keys]]
name = "old"
sha256 = "a367240204f98aaff0e54a180e09e2f1684df29d84649a4e4283ab413dc39285"
admin = true
"#;

#[tokio::test]
async fn a_rotated_key_of_the_settings_stays_rotated_over_a_restart_and_ends_with_its_entry() {
    let hash: String = Sha256::digest(b"aek_of_the_settings").iter().map(|byte| format!("{byte:02x}")).collect();
    let mut hub = TestHub::plan().toml(&SETTINGS.replace('@', &hash)).start();
    assert_eq!(publish(&hub, "aek_of_the_settings", "a").await.status, 200);
    // The vector of the first Aether: its bytes are 00 to 1f.
    let vector = "aek_AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8";
    let mut http = hub.http_as(Some(vector)).await;
    let keys = http.get("/api/v2/keys").await.ok()["keys"].clone();
    let id = |admin: bool| {
        let found =
            keys.as_array().unwrap().iter().find(|key| key["name"] == "old" && key["permissions"]["admin"] == admin);
        found.unwrap_or_else(|| panic!("{keys}"))["id"].as_str().unwrap().to_owned()
    };
    let rotated = http.post(&format!("/api/v2/keys/{}/rotate", id(false)), "").await.ok();
    let fresh = rotated["key"].as_str().unwrap().to_owned();
    assert_eq!((&rotated["meta"]["id"], &rotated["meta"]["name"]), (&json!(id(false)), &json!("old")));
    http.send("DELETE", &format!("/api/v2/keys/{}", id(true)), &[], b"").await.ok();
    for restarted in [false, true] {
        if restarted {
            hub.restart();
        }
        assert_eq!(publish(&hub, "aek_of_the_settings", "a").await.error(), (401, 40101), "{restarted}");
        assert_eq!(publish(&hub, &fresh, "a").await.status, 200, "{restarted}");
        assert_eq!(hub.http_as(Some(vector)).await.get("/api/v2/keys").await.error(), (401, 40101), "{restarted}");
    }
    hub.config.plugin[0].config.clear();
    hub.restart();
    assert_eq!(publish(&hub, &fresh, "a").await.error(), (401, 40101), "its entry is gone");
}

#[tokio::test]
async fn somebody_can_always_administer_the_hub() {
    let hub = TestHub::start();
    let mut http = hub.http().await;
    let keys = http.get("/api/v2/keys").await.ok()["keys"].clone();
    assert_eq!(keys[0]["name"], "admin");
    let path = format!("/api/v2/keys/{}", keys[0]["id"].as_str().unwrap());
    for (method, path) in [("DELETE", path.clone()), ("POST", format!("{path}/rotate"))] {
        let refused = http.send(method, &path, &[], b"").await;
        assert_eq!((refused.error(), &refused.json()["error"]["reason"]), ((409, 40903), &json!("hub_key")));
    }
    http.get("/api/v2/keys").await.ok();
}

#[tokio::test]
async fn no_key_lies_on_the_disk() {
    let mut hub = TestHub::start();
    let (key, meta) = make(&hub, json!({"name": "shop", "publish": ["a"]})).await;
    let path = format!("/api/v2/keys/{}/rotate", meta["id"].as_str().unwrap());
    let fresh = hub.http().await.post(&path, "").await.ok()["key"].as_str().unwrap().to_owned();
    assert_eq!(publish(&hub, &key, "a").await.error(), (401, 40101), "its old secret is dead at once");
    assert_eq!(publish(&hub, &fresh, "a").await.status, 200);
    hub.stop();
    let (mut files, mut dirs) = (0, vec![hub.data().to_owned()]);
    while let Some(dir) = dirs.pop() {
        for entry in std::fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                dirs.push(path);
                continue;
            }
            let bytes = std::fs::read(&path).unwrap();
            files += 1;
            for secret in [&key, &fresh] {
                let found = bytes.windows(secret.len()).any(|window| window == secret.as_bytes());
                assert!(!found, "{} holds a key", path.display());
            }
        }
    }
    assert!(files > 3);
}
