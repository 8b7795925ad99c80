//! Who may listen and publish: nobody without a word of the operator, and nobody of another protocol.

use super::*;

fn config(settings: &str) -> String {
    format!(
        "[[plugin]]\nuse = \"jwt-auth\"\n[[plugin]]\nuse = \"api-keys\"\n[[plugin]]\nuse = \"pushlet\"\n[plugin.config]\n{settings}"
    )
}

fn hub(settings: &str) -> TestHub {
    TestHub::plan().toml(&config(settings)).start()
}

async fn events(hub: &TestHub, query: &str) -> Result<SseClient, u16> {
    SseClient::open(hub.address, &format!("/events{query}"), None).await.map_err(|refused| refused.status)
}

async fn publish(hub: &TestHub, bearer: Option<&str>, path: &str) -> u16 {
    hub.http_as(bearer).await.get(path).await.status
}

#[tokio::test]
async fn without_a_word_of_the_operator_nobody_listens_and_nobody_publishes() {
    let hub = hub("");
    assert_eq!(events(&hub, "?topic=news").await.err(), Some(403));
    assert_eq!(WsClient::refusal(hub.address, "/pushlet/ws?topic=news", &[]).await.0, 403);
    // Not even what is said to everybody.
    assert_eq!(WsClient::refusal(hub.address, "/pushlet/ws", &[]).await.0, 403);
    assert_eq!(publish(&hub, None, "/send?topic=news&message=x").await, 403);
    assert_eq!(publish(&hub, None, "/send/all?message=x").await, 403);
}

#[tokio::test]
async fn topics_are_opened_by_name_or_by_what_they_begin_with() {
    let hub = hub("topics = [\"news\", \"users/*\"]\n");
    assert!(events(&hub, "?topic=news").await.is_ok());
    assert!(events(&hub, "?topic=users/123").await.is_ok());
    assert_eq!(events(&hub, "?topic=newsroom").await.err(), Some(403));
    assert_eq!(events(&hub, "").await.err(), Some(403));
    let mut line = Line::open(&hub, "?topic=users/7").await;
    line.says("SUB news").await;
    line.expects("OK").await;
    line.says("SUB secret").await;
    let no: Json = serde_json::from_str(&line.hears().await).unwrap();
    assert_eq!((&no["topic"], &no["event"]), (&json!("secret"), &json!("error")), "{no}");
    assert!(no["code"].is_string() && no["data"].is_string(), "{no}");
    line.says_text(r#"{"action":"subscribe","topic":"secret"}"#).await;
    assert!(line.hears().await.contains("\"event\":\"error\""));
    let admin = hub.keys.admin_key().to_owned();
    assert_eq!(publish(&hub, Some(&admin), "/send?topic=secret&message=x").await, 200);
    line.is_silent().await;
}

#[tokio::test]
async fn credentials_reach_the_topics_that_they_name() {
    let hub = hub("topics = [\"news\"]\n");
    let token = hub.token(&["pushlet.topic.vip"]);
    assert!(events(&hub, &format!("?topic=vip&token={token}")).await.is_ok());
    assert_eq!(events(&hub, &format!("?topic=other&token={token}")).await.err(), Some(403));
    assert_eq!(events(&hub, "?topic=vip").await.err(), Some(403));
    assert_eq!(events(&hub, "?topic=news&token=nonsense").await.err(), Some(401));
}

#[tokio::test]
async fn a_key_publishes_where_its_patterns_say() {
    let hub = hub("topics = [\"*\"]\n");
    let key = json!({"name": "shop", "publish": ["pushlet.topic.news"]});
    let made = hub.http().await.post("/api/v2/keys", key.to_string()).await;
    let made = if made.status == 200 { made.json() } else { panic!("{}", made.text()) };
    let key = made["key"].as_str().unwrap();
    let mut line = Line::open(&hub, "?topic=news").await;
    assert_eq!(publish(&hub, Some(key), "/send?topic=news&message=x").await, 200);
    assert!(line.hears().await.starts_with("news {"));
    assert_eq!(publish(&hub, Some(key), "/send?topic=other&message=x").await, 403);
    assert_eq!(publish(&hub, Some(key), "/send/all?message=x").await, 403);
    assert_eq!(publish(&hub, Some("nonsense"), "/send?topic=news&message=x").await, 401);
    line.is_silent().await;
}

#[tokio::test]
async fn clients_of_other_protocols_reach_no_topic_whatever_they_are_granted() {
    let hub = hub("topics = [\"*\"]\nopen = true\n");
    send(&hub, "news", "message", "x").await;
    let mut http = hub.http().await;
    let body = json!({"channel": "pushlet.topic.news", "payload": "x"}).to_string();
    assert_eq!(http.post("/api/v1/publish", &body).await.status, 403);
    assert_eq!(http.get("/api/v1/history?channel=pushlet.topic.news").await.status, 403);
    let mut ws = hub.ws().await;
    for channel in ["pushlet.topic.news", "pushlet.global"] {
        ws.send(json!({"type": "subscribe", "channels": [channel]})).await;
        assert_eq!(ws.expect("error").await["reason"], "other_protocol");
        assert_eq!(ws.expect("subscribed").await["channels"], json!([]));
    }
}

#[tokio::test]
async fn clients_of_other_protocols_share_the_topics_if_the_operator_says_so() {
    let hub = hub("topics = [\"*\"]\nopen = true\nnative = true\n");
    let mut stream = events(&hub, "?topic=news").await.unwrap();
    let mut line = Line::open(&hub, "?topic=news").await;
    let mut ws = hub.ws().await;
    ws.subscribe(&["pushlet.topic.news"]).await;
    stream.expect("connected").await;
    // A JSON string is its text; any other JSON stands as it was written.
    for (payload, event, text) in [
        (r#""a \"b\"\nc""#, "price", "a \"b\"\nc"),
        (r#"{ "id":9007199254740993,"f":1.0}"#, "message", r#"{ "id":9007199254740993,"f":1.0}"#),
        ("null", "message", "null"),
    ] {
        let body = format!(r#"{{"channel":"pushlet.topic.news","event":"{event}","payload":{payload}}}"#);
        hub.http().await.post("/api/v1/publish", body).await.ok();
        assert_eq!(stream.expect(event).await.data, text);
        let (topic, json) = push(&line.hears().await);
        assert_eq!((&*topic, &json["data"], &json["event"]), ("news", &json!(text), &json!(event)));
        assert_eq!(ws.expect("message").await["payload"], serde_json::from_str::<Json>(payload).unwrap());
    }
    send(&hub, "news", "price", "hello").await;
    let frame = ws.expect("message").await;
    assert_eq!((&frame["payload"], &frame["event"]), (&json!("hello"), &json!("price")));
}

#[tokio::test]
async fn pages_of_other_origins_connect_only_if_they_are_listed() {
    let hub = hub("topics = [\"*\"]\norigins = [\"https://app.example\"]\n");
    let from = |origin: &'static str| [("origin", origin)];
    let evil = SseClient::open_with(hub.address, "/events?topic=a", &from("https://evil.example"), None).await;
    assert_eq!(evil.err().map(|refused| refused.status), Some(403));
    assert_eq!(WsClient::refusal(hub.address, "/pushlet/ws", &from("https://evil.example")).await.0, 403);
    assert!(WsClient::open(hub.address, "/pushlet/ws", &from("https://app.example"), None).await.is_ok());
    let page = SseClient::open_with(hub.address, "/events?topic=a", &from("https://app.example"), None).await.unwrap();
    let allowed =
        page.headers.iter().find(|(name, _)| name == "access-control-allow-origin").map(|(_, value)| &**value);
    assert_eq!(allowed, Some("https://app.example"));
}
