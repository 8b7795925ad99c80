//! Its inbound webhooks, which were documented and could not work: every call answered 500.

use hmac::{Hmac, Mac};
use sha2::Sha256;

use crate::common::*;

pub const CONFIG: &str =
    "[[plugin]]\nuse = \"jwt-auth\"\n[[plugin]]\nuse = \"api-keys\"\n[[plugin]]\nuse = \"webhooks\"";

/// The HMAC's key is the secret's text, not the bytes that it spells.
pub fn sign(secret: &str, body: &[u8]) -> String {
    let mut mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).unwrap();
    mac.update(body);
    mac.finalize().into_bytes().iter().map(|byte| format!("{byte:02x}")).collect()
}

#[tokio::test]
async fn a_signed_body_is_published_as_it_is_to_the_channel_that_the_template_makes_of_it() {
    let hub = TestHub::plan().toml(CONFIG).start();
    let wanted = json!({"name": "ci", "channel_template": "build.{repo.name}.{n}.{ok}.{none}"});
    let made = hub.http().await.post("/api/v2/webhooks", wanted.to_string()).await.ok();
    let (secret, url) = (made["secret"].as_str().unwrap(), made["webhook"]["url"].as_str().unwrap());
    assert!(secret.len() == 64 && secret.bytes().all(|byte| byte.is_ascii_hexdigit()), "{secret}");
    // 1234567 was printed as 1.234567e+06 there, which is no channel's name.
    let channel = "build.core.1234567.true.null";
    let mut ws = hub.ws().await;
    ws.subscribe(&[channel]).await;
    let body = r#"{"repo":{"name":"core"},"n":1234567,"ok":true,"none":null}"#;
    for prefix in ["sha256=", ""] {
        let signature = format!("{prefix}{}", sign(secret, body.as_bytes()));
        let mut sender = hub.http_as(None).await;
        let answer = sender.send("POST", url, &[("x-signature-256", &signature)], body.as_bytes()).await.ok();
        assert_eq!(answer["channel"], channel);
        let frame = ws.next_text().await;
        assert!(frame.contains(&format!("\"payload\":{body}")), "{frame}");
    }
    for (body, why) in [
        (r#"{"repo":{"name":["core"]},"n":1,"ok":true,"none":null}"#, "a list"),
        (r#"{"repo":{"name":{}},"n":1,"ok":true,"none":null}"#, "an object"),
        (r#"{"repo":{},"n":1,"ok":true,"none":null}"#, "nothing"),
        (r#"{"repo":{"name":"a b"},"n":1,"ok":true,"none":null}"#, "a name that is none"),
        ("[1]", "no object"),
    ] {
        let signature = sign(secret, body.as_bytes());
        let mut sender = hub.http_as(None).await;
        let refused = sender.send("POST", url, &[("x-signature-256", &signature)], body.as_bytes()).await;
        assert_eq!(refused.error(), (400, 40005), "{why}");
    }
    ws.assert_silent().await;
}

#[tokio::test]
async fn a_body_beyond_the_limit_is_41301() {
    let hub = TestHub::plan().toml(CONFIG).start();
    let wanted = json!({"name": "ci", "channel_template": "ci"});
    let made = hub.http().await.post("/api/v2/webhooks", wanted.to_string()).await.ok();
    let (secret, url) = (made["secret"].as_str().unwrap(), made["webhook"]["url"].as_str().unwrap());
    let body = format!("\"{}\"", "x".repeat(65536));
    let signature = sign(secret, body.as_bytes());
    let refused = hub.http_as(None).await.send("POST", url, &[("x-signature-256", &signature)], body.as_bytes()).await;
    assert_eq!(refused.error(), (413, 41301));
}
