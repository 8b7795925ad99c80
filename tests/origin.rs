//! Which web pages may connect.

use crate::common::*;

async fn ws(hub: &TestHub, origin: &str) -> u16 {
    let path = format!("/ws?token={}", hub.token(&["*"]));
    match WsClient::open(hub.address, &path, &[("origin", origin)], None).await {
        Ok(_) => 101,
        Err(_) => WsClient::refusal(hub.address, &path, &[("origin", origin)]).await.0,
    }
}

async fn sse(hub: &TestHub, origin: &str) -> Result<Option<String>, (u16, u64)> {
    let path = format!("/sse?channel=c&token={}", hub.token(&["*"]));
    let opened = SseClient::open_with(hub.address, &path, &[("origin", origin)], None).await;
    let allowed = |stream: SseClient| {
        let mut headers = stream.headers.into_iter();
        headers.find(|(name, _)| name == "access-control-allow-origin").map(|(_, value)| value)
    };
    opened.map(allowed).map_err(|refused| refused.error())
}

#[tokio::test]
async fn by_default_only_the_hubs_own_pages_and_clients_that_are_no_browser() {
    let hub = TestHub::start();
    let mut without = hub.ws().await;
    without.subscribe(&["c"]).await;
    hub.sse("channel=c", None).await.expect("subscribed").await;
    let own = format!("http://{}", hub.address);
    assert_eq!(ws(&hub, &own).await, 101);
    assert_eq!(sse(&hub, &own).await, Ok(None));
    for other in ["https://evil.example", "null", "http://127.0.0.1:1", "http://127.0.0.1.evil.example"] {
        assert_eq!(ws(&hub, other).await, 403, "{other}");
        assert_eq!(sse(&hub, other).await, Err((403, 40303)), "{other}");
    }
    let path = format!("/ws?token={}", hub.token(&["*"]));
    let (_, body) = WsClient::refusal(hub.address, &path, &[("origin", "https://evil.example")]).await;
    assert_eq!((&body["error"]["code"], &body["error"]["reason"]), (&json!(40303), &json!("origin")));
}

#[tokio::test]
async fn listed_pages_may_connect_and_read_and_others_still_may_not() {
    let config = "[websocket]\nallowed_origins = [\"https://app.example\", \"https://*.good.example\"]";
    let hub = TestHub::plan().toml(config).start();
    for good in ["https://app.example", "https://a.good.example"] {
        assert_eq!(ws(&hub, good).await, 101);
        assert_eq!(sse(&hub, good).await, Ok(Some(good.to_owned())));
    }
    assert_eq!(ws(&hub, &format!("http://{}", hub.address)).await, 101);
    for bad in ["http://app.example", "https://app.example.evil.example", "https://evil.example"] {
        assert_eq!(ws(&hub, bad).await, 403, "{bad}");
        assert_eq!(sse(&hub, bad).await, Err((403, 40303)), "{bad}");
    }
    let open = TestHub::plan().toml("[websocket]\nallowed_origins = [\"*\"]").start();
    assert_eq!(ws(&open, "https://evil.example").await, 101);
}
