//! Its API keys: how they look, what they may, and that ending one ends it.

use sha2::{Digest, Sha256};

use crate::common::*;

const VECTOR: (&str, &str) = (
    "aek_AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8",
    "a367240204f98aaff0e54a180e09e2f1684df29d84649a4e4283ab413dc39285",
);

fn sha256(text: &str) -> String {
    Sha256::digest(text).iter().map(|byte| format!("{byte:02x}")).collect()
}

#[tokio::test]
async fn a_key_of_its_database_goes_on_under_its_hash() {
    assert_eq!(sha256(VECTOR.0), VECTOR.1);
    let keys = format!("keys = [{{ name = \"shop\", sha256 = \"{}\", publish = [\"order.*\"] }}]", VECTOR.1);
    let hub = TestHub::plan().toml(&format!("[[plugin]]\nuse = \"api-keys\"\n[plugin.config]\n{keys}")).start();
    let mut shop = hub.http_as(Some(VECTOR.0)).await;
    assert_eq!(shop.post("/api/v1/publish", r#"{"channel":"order.1","payload":1}"#).await.ok()["seq_id"], 1);
}

#[tokio::test]
async fn a_key_is_aek_and_43_characters_and_its_prefix_the_first_eight() {
    let hub = TestHub::start();
    let made = hub.http().await.post("/api/v2/keys", r#"{"name":"shop"}"#).await.ok();
    let key = made["key"].as_str().unwrap();
    assert!(key.len() == 47 && key.starts_with("aek_"), "{key}");
    assert!(key.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte)), "{key}");
    assert_eq!(made["meta"]["key_prefix"], key[..8]);
    let id = made["meta"]["id"].as_str().unwrap();
    assert!(id.len() == 36 && id.as_bytes()[14] == b'4', "a UUID of version 4: {id}");
    // Omitted, not null, where there is none.
    assert!(made["meta"].get("expires_at").is_none() && made["meta"].get("revoked_at").is_none());
    let listed = hub.http().await.get("/api/v2/keys").await.ok();
    assert_eq!(listed["keys"][0], made["meta"], "the newest first");
    assert!(!listed.to_string().contains(key));
}

#[tokio::test]
async fn every_route_with_a_key_refuses_what_is_no_good_key_with_40101_and_who_is_no_admin_with_40302() {
    let hub = TestHub::plan().toml(super::webhooks::CONFIG).start();
    let made = hub.http().await.post("/api/v2/keys", r#"{"name":"shop","publish":["*"],"subscribe":["*"]}"#).await.ok();
    let shop = made["key"].as_str().unwrap();
    let routes = [
        ("POST", "/api/v1/publish", false),
        ("POST", "/api/v2/publish/batch", false),
        ("GET", "/api/v1/history?channel=a", false),
        ("POST", "/api/v2/keys", true),
        ("GET", "/api/v2/keys", true),
        ("GET", "/api/v2/keys/x", true),
        ("DELETE", "/api/v2/keys/x", true),
        ("POST", "/api/v2/keys/x/rotate", true),
        ("POST", "/api/v2/webhooks", true),
        ("GET", "/api/v2/webhooks", true),
        ("GET", "/api/v2/webhooks/x", true),
        ("DELETE", "/api/v2/webhooks/x", true),
        ("POST", "/api/v2/webhooks/x/rotate-secret", true),
    ];
    // A good request each, so that nothing but the key is wrong with it.
    let body = |path: &str| match path {
        "/api/v2/publish/batch" => r#"{"messages":[{"channel":"a","payload":1}]}"#,
        _ => r#"{"channel":"a","payload":1}"#,
    };
    for (method, path, admin) in routes {
        for bearer in [Some("aek_unknown"), None] {
            let answer = hub.http_as(bearer).await.send(method, path, &[], body(path).as_bytes()).await;
            if path.ends_with("batch") && bearer.is_none() {
                // Here it is the messages that nobody may publish, each on its own.
                assert_eq!(answer.ok()["results"][0]["error"]["code"], 40101);
                continue;
            }
            assert_eq!(answer.error(), (401, 40101), "{method} {path} {bearer:?}");
            let message = answer.json()["error"]["message"].as_str().unwrap().to_owned();
            assert!(message.starts_with("invalid or missing api key"), "{method} {path} {bearer:?}: {message}");
        }
        let answer = hub.http_as(Some(shop)).await.send(method, path, &[], body(path).as_bytes()).await;
        match admin {
            true => assert_eq!(
                (answer.error(), answer.json()["error"]["message"].as_str()),
                ((403, 40302), Some("admin access required")),
                "{method} {path}"
            ),
            false => drop(answer.ok()),
        }
    }
}

/// There they were stored and never looked at.
#[tokio::test]
async fn what_a_key_may_is_asked_on_every_route() {
    let hub = TestHub::start();
    let made = hub.http().await.post("/api/v2/keys", r#"{"name":"a","publish":["a.*"]}"#).await.ok();
    let mut http = hub.http_as(made["key"].as_str()).await;
    http.post("/api/v1/publish", r#"{"channel":"a.x","payload":1}"#).await.ok();
    assert_eq!(http.post("/api/v1/publish", r#"{"channel":"b.x","payload":1}"#).await.error(), (403, 40301));
    let both = r#"{"messages":[{"channel":"a.x","payload":1},{"channel":"b.x","payload":1}]}"#;
    let results = http.post("/api/v2/publish/batch", both).await.ok()["results"].clone();
    assert_eq!((&results[0]["status"], &results[1]["error"]["code"]), (&json!("success"), &json!(40301)));
    assert_eq!(http.get("/api/v1/history?channel=a.x").await.error(), (403, 40301), "it may not subscribe");
}

#[tokio::test]
async fn a_key_ends_with_its_revocation_its_rotation_and_its_time() {
    let hub = TestHub::start();
    let mut admin = hub.http().await;
    let mut make = async |wanted: &str| {
        let made = admin.post("/api/v2/keys", wanted).await.ok();
        let text = |value: &Json| value.as_str().unwrap().to_owned();
        (text(&made["meta"]["id"]), text(&made["key"]))
    };
    let publish = async |key: &str| {
        hub.http_as(Some(key)).await.post("/api/v1/publish", r#"{"channel":"a","payload":1}"#).await.status
    };
    let (id, key) = make(r#"{"name":"one","publish":["a"]}"#).await;
    assert_eq!(publish(&key).await, 200);
    hub.http().await.send("DELETE", &format!("/api/v2/keys/{id}"), &[], b"").await.ok();
    assert_eq!(publish(&key).await, 401);
    let (id, old) = make(r#"{"name":"two","publish":["a"]}"#).await;
    assert_eq!(publish(&old).await, 200);
    let rotated = hub.http().await.post(&format!("/api/v2/keys/{id}/rotate"), "").await.ok();
    assert_eq!((rotated["meta"]["id"].as_str(), rotated["meta"]["name"].as_str()), (Some(id.as_str()), Some("two")));
    assert_eq!((publish(&old).await, publish(rotated["key"].as_str().unwrap()).await), (401, 200));
    let (_, short) = make(r#"{"name":"three","publish":["a"],"expires_in":"1s"}"#).await;
    assert_eq!(publish(&short).await, 200);
    until("its time is over", async || publish(&short).await == 401).await;
}
