//! What a host program did in its own process, over HTTP.

use super::*;

#[tokio::test]
async fn a_back_end_sends_to_all_and_to_an_identity_and_hears_if_nobody_is_there() {
    let hub = plan("").start();
    let mut http = hub.http().await;
    let mut alice = Client::open(&hub, "acme/alice").await;
    let mut bob = Client::open(&hub, "acme/bob").await;
    let body = r#"{"id":"7","route":"order.paid","data":{"id":9007199254740993,"sum":1.0},"metadata":{"trace":"x"}}"#;
    http.post("/rt/broadcast", body).await.ok();
    alice.hears(body).await;
    bob.hears(body).await;
    http.post("/rt/identities/acme/bob/send", body).await.ok();
    bob.hears(body).await;
    alice.is_silent().await;
    let answer = http.post("/rt/identities/umbrella/bob/send", body).await;
    assert_eq!((answer.status, answer.json()), (404, json!({"ok": false, "error": "session_closed"})));
    assert_eq!(http.post("/rt/broadcast", "[]").await.status, 400);
    assert_eq!(http.get("/rt/identities/acme/nobody/sessions").await.json(), json!([]));
    let sessions = http.get("/rt/identities/acme/bob/sessions").await.json();
    assert_eq!(sessions[0]["identity_id"], "bob");
    // No tenant is written % in a path, as in a channel's name.
    let mut alone = Client::open(&hub, "/carol").await;
    http.post("/rt/identities/%25/carol/send", body).await.ok();
    alone.hears(body).await;
    let mut nobody = hub.http_as(None).await;
    assert_eq!(nobody.post("/rt/broadcast", body).await.status, 401);
    alice.is_silent().await;
}

#[tokio::test]
async fn what_is_published_to_its_channels_natively_is_an_envelope_too() {
    let hub = plan("").start();
    let mut http = hub.http().await;
    let mut alice = Client::open(&hub, "acme/alice").await;
    let channel = "realtime.identity.acme.alice";
    let body =
        format!(r#"{{"channel":"{channel}","event":"order.paid","payload":{{"id":9007199254740993, "f":1.0}}}}"#);
    http.post("/api/v1/publish", body).await.ok();
    alice.hears(r#"{"route":"order.paid","data":{"id":9007199254740993, "f":1.0}}"#).await;
    let body = format!(r#"{{"channel":"{channel}","payload":{{"route":"r","data":null}}}}"#);
    http.post("/api/v1/publish", body).await.ok();
    alice.hears(r#"{"route":"r","data":null}"#).await;
    let body = format!(r#"{{"channel":"{channel}","payload":[1.0]}}"#);
    http.post("/api/v1/publish", body).await.ok();
    alice.hears(r#"{"data":[1.0]}"#).await;
}
