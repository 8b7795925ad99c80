//! Its conventions over HTTP: names of channels, errors and their order, limits.

use tokio::io::AsyncWriteExt;

use crate::common::http::read_head;
use crate::common::*;

#[tokio::test]
async fn names_of_channels_are_what_they_were() {
    let hub = TestHub::start();
    let mut http = hub.http().await;
    let longest = "x".repeat(128);
    for good in ["a", "a/b", "/", "-", "A-Z_0.9", &longest] {
        let answer = http.post("/api/v1/publish", json!({"channel": good, "payload": 1}).to_string()).await.ok();
        assert_eq!(answer["seq_id"], 1, "{good}");
    }
    for bad in [".a", "a.", "a..b", "a*", "*", "a b", "é"] {
        let answer = http.post("/api/v1/publish", json!({"channel": bad, "payload": 1}).to_string()).await;
        assert_eq!(answer.error(), (400, 40001), "{bad}");
        assert_eq!(answer.json()["error"]["message"], format!("invalid channel name: \"{bad}\""));
    }
    let long = json!({"channel": "x".repeat(129), "payload": 1}).to_string();
    let answer = http.post("/api/v1/publish", long).await;
    assert_eq!(
        (answer.error(), &answer.json()["error"]["message"]),
        ((400, 40001), &json!("channel name must be 1-128 characters"))
    );
}

#[tokio::test]
async fn a_body_is_json_whatever_its_type_says_and_at_most_65536_bytes() {
    let hub = TestHub::start();
    let mut http = hub.http().await;
    let body = |size: usize| {
        let frame = r#"{"channel":"a","payload":""}"#.len();
        format!(r#"{{"channel":"a","payload":"{}"}}"#, "x".repeat(size - frame))
    };
    for kind in ["text/plain", "application/octet-stream", "application/x-www-form-urlencoded"] {
        http.send("POST", "/api/v1/publish", &[("content-type", kind)], body(100).as_bytes()).await.ok();
    }
    http.post("/api/v1/publish", body(65536)).await.ok();
    let refused = http.post("/api/v1/publish", body(65537)).await;
    assert_eq!(refused.error(), (413, 41301));
    let message = refused.json()["error"]["message"].as_str().unwrap().to_owned();
    assert!(message.starts_with("payload exceeds maximum size"), "{message}");
}

#[tokio::test]
async fn a_batch_has_at_most_a_hundred() {
    let hub = TestHub::start();
    let mut http = hub.http().await;
    let batch = |count: usize| json!({"messages": vec![json!({"channel": "a", "payload": 1}); count]}).to_string();
    let results = http.post("/api/v2/publish/batch", batch(100)).await.ok()["results"].clone();
    let seqs: Vec<_> = results.as_array().unwrap().iter().map(|result| result["seq_id"].as_u64().unwrap()).collect();
    assert_eq!(seqs, (1..=100).collect::<Vec<_>>(), "in the order of the list");
    let refused = http.post("/api/v2/publish/batch", batch(101)).await;
    assert_eq!(
        (refused.error(), &refused.json()["error"]["message"]),
        ((400, 40002), &json!("too many messages in batch (max 100)"))
    );
}

/// They were plain text there; the statuses are what they were.
#[tokio::test]
async fn an_unknown_path_is_404_and_another_method_405_and_who_gets_may_head() {
    let hub = TestHub::start();
    let mut http = hub.http().await;
    assert_eq!(http.get("/nowhere").await.error().0, 404);
    assert_eq!(http.get("/api/v1/publish").await.error().0, 405);
    assert_eq!(http.send("PUT", "/api/v2/keys/x", &[], b"").await.error().0, 405);
    drop(http);
    for path in ["/healthz", "/api/v1/history?channel=a", "/api/v2/keys"] {
        let mut stream = tokio::net::TcpStream::connect(hub.address).await.unwrap();
        let request =
            format!("HEAD {path} HTTP/1.1\r\nhost: h\r\nauthorization: Bearer {}\r\n\r\n", hub.keys.admin_key());
        stream.write_all(request.as_bytes()).await.unwrap();
        let (status, _) = within(DEADLINE, path, read_head(&mut stream, &mut Vec::new())).await.unwrap();
        assert_eq!(status, 200, "{path}");
    }
}

#[tokio::test]
async fn a_repeated_key_is_one_message_for_subscribers_too() {
    let hub = TestHub::start();
    let mut ws = hub.ws().await;
    ws.subscribe(&["a"]).await;
    let mut http = hub.http().await;
    let mut publish = async |payload: &str| {
        let body = json!({"channel": "a", "payload": payload, "idempotency_key": "k"}).to_string();
        http.post("/api/v1/publish", body).await.ok()
    };
    let (first, second) = (publish("first").await, publish("SECOND-DIFFERENT").await);
    assert_eq!((&first["seq_id"], &first["timestamp"]), (&second["seq_id"], &second["timestamp"]));
    assert_eq!(ws.expect("message").await["payload"], "first");
    ws.assert_silent().await;
    assert_eq!(hub.metric("aether_messages_published_total").await, 1.0);
}

/// It gave whole seconds to publishers and fractions to subscribers; here they are the same.
#[tokio::test]
async fn a_message_has_one_time_wherever_it_is_told() {
    let hub = TestHub::start();
    let mut ws = hub.ws().await;
    ws.subscribe(&["a"]).await;
    let answer = hub.publish("a", json!(1)).await;
    let time = answer["timestamp"].as_str().unwrap();
    let parsed = time::OffsetDateTime::parse(time, &time::format_description::well_known::Rfc3339).unwrap();
    assert!((time::OffsetDateTime::now_utc() - parsed).abs() < time::Duration::minutes(2), "{time}");
    assert_eq!(ws.expect("message").await["timestamp"], time);
    assert_eq!(hub.history("channel=a").await["messages"][0]["timestamp"], time);
}
