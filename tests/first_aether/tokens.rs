//! Its JSON Web Tokens: what is accepted, and what a pattern covers.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::webhooks::sign;
use crate::common::*;

const KEY: &str = "0123456789abcdef0123456789abcdef";
const VECTOR: &str = "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJzdWIiOiJ1MSIsImNoYW5uZWxzIjpbIm9yZGVyLioiXSwiZXhwIjo0MTAyNDQ0ODAwfQ.bGpaH2lyyywBrL0CajvbRm2Lf0-ZxHMaDWtyYTCfUCc";

fn hub(more: &str) -> TestHub {
    TestHub::plan().toml(&format!("[auth]\njwt_signing_key = \"{KEY}\"\n{more}")).start()
}

fn token(header: &str, claims: Json) -> String {
    let part = |text: &str| URL_SAFE_NO_PAD.encode(text);
    let signed = format!("{}.{}", part(header), part(&claims.to_string()));
    let hex = sign(KEY, signed.as_bytes());
    let bytes: Vec<u8> =
        (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect();
    format!("{signed}.{}", URL_SAFE_NO_PAD.encode(bytes))
}

fn hs256(claims: Json) -> String {
    token(r#"{"alg":"HS256","typ":"JWT"}"#, claims)
}

fn now() -> u64 {
    std::time::UNIX_EPOCH.elapsed().unwrap().as_secs()
}

/// Which of the channels a token may listen to.
async fn covered<'a>(hub: &TestHub, token: &str, channels: &[&'a str]) -> Vec<&'a str> {
    let mut ws = hub.ws_as(Some(token)).await;
    let mut held = Vec::new();
    for channel in channels {
        ws.send(json!({"type": "subscribe", "channels": [channel]})).await;
        let mut frame = ws.next().await.unwrap();
        if frame["type"] == "error" {
            assert_eq!((&frame["code"], &frame["channel"]), (&json!(40301), &json!(channel)));
            frame = ws.next().await.unwrap();
        }
        held.extend((frame["channels"] == json!([channel])).then_some(*channel));
    }
    held
}

async fn refused(hub: &TestHub, token: &str) -> bool {
    let (status, body) = match WsClient::open(hub.address, &format!("/ws?token={token}"), &[], None).await {
        Ok(_) => return false,
        Err(_) => WsClient::refusal(hub.address, &format!("/ws?token={token}"), &[]).await,
    };
    assert_eq!((status, &body["error"]["code"]), (401, &json!(40102)), "{body}");
    true
}

#[tokio::test]
async fn its_own_token_covers_here_what_it_covered_there() {
    let hub = hub("");
    let names = ["order.1", "order.1.x", "order", "orders.1"];
    assert_eq!(covered(&hub, VECTOR, &names).await, ["order.1", "order.1.x"]);
}

#[tokio::test]
async fn a_pattern_is_every_channel_or_all_below_a_name_or_one_name() {
    let hub = hub("");
    let names = ["a", "a.b", "a.b.c", "a.b/c", "ab", "x/y", "-"];
    for (patterns, expected) in [
        (json!(["*"]), &names[..]),
        (json!(["a.*"]), &["a.b", "a.b.c", "a.b/c"]),
        (json!(["a.b.*"]), &["a.b.c"]),
        (json!(["a"]), &["a"]),
        (json!(["x/y", "-"]), &["x/y", "-"]),
        (json!([".*"]), &[]),
        (json!(["a*"]), &[]),
        (json!([]), &[]),
    ] {
        let token = hs256(json!({"sub": "u", "channels": patterns, "exp": now() + 60}));
        assert_eq!(covered(&hub, &token, &names).await, expected, "{patterns}");
    }
    let nameless = hs256(json!({"channels": ["a"], "exp": now() + 60}));
    assert_eq!(covered(&hub, &nameless, &["a"]).await, ["a"], "sub may be absent");
    let nothing = hs256(json!({"sub": "u", "exp": now() + 60}));
    assert!(covered(&hub, &nothing, &["a"]).await.is_empty(), "no channels are no rights");
}

#[tokio::test]
async fn only_hs256_with_this_key_and_within_its_time_is_accepted() {
    let hub = hub("");
    let good = json!({"sub": "u", "channels": ["*"], "exp": now() + 60});
    assert!(!refused(&hub, &hs256(good.clone())).await);
    assert!(!refused(&hub, &hs256(json!({"sub": "u", "exp": now() - 20}))).await, "the clocks may be 30 s apart");
    assert!(refused(&hub, &hs256(json!({"sub": "u", "exp": now() - 40}))).await);
    assert!(!refused(&hub, &hs256(json!({"sub": "u", "nbf": now() + 20, "exp": now() + 60}))).await);
    assert!(refused(&hub, &hs256(json!({"sub": "u", "nbf": now() + 40, "exp": now() + 60}))).await);
    for alg in ["none", "HS384", "HS512", "RS256"] {
        let header = format!("{{\"alg\":\"{alg}\",\"typ\":\"JWT\"}}");
        assert!(refused(&hub, &token(&header, good.clone())).await, "{alg}");
    }
    let mut forged = hs256(good);
    forged.replace_range(forged.len() - 4.., "AAAA");
    assert!(refused(&hub, &forged).await);
    assert!(refused(&hub, "not-a-token").await);
}

#[tokio::test]
async fn the_skew_of_clocks_is_a_setting_under_its_old_name() {
    let hub = hub("jwt_clock_skew = \"120s\"");
    assert!(!refused(&hub, &hs256(json!({"sub": "u", "exp": now() - 90}))).await);
    assert!(refused(&hub, &hs256(json!({"sub": "u", "exp": now() - 130}))).await);
}

/// It let in tokens without an end, and a connection outlived its token. Here both are settings, and off.
#[tokio::test]
async fn a_token_without_an_end_and_a_connection_that_outlives_its_token_are_settings() {
    let endless = hs256(json!({"sub": "u", "channels": ["a"]}));
    let short = || hs256(json!({"sub": "u", "channels": ["a"], "exp": now() + 2}));
    let strict = hub("jwt_clock_skew = \"0s\"");
    assert!(refused(&strict, &endless).await);
    let mut ends = strict.ws_as(Some(&short())).await;
    assert_eq!(ends.end().await, End::Closed(4401, "credential expired".into()));

    let config = "[plugin.config]\nrequire_exp = false\nend_with_token = false";
    let lenient = hub(&format!(
        "jwt_clock_skew = \"0s\"\n[[plugin]]\nuse = \"api-keys\"\n[[plugin]]\nuse = \"jwt-auth\"\n{config}"
    ));
    assert!(!refused(&lenient, &endless).await);
    let token = short();
    let mut stays = lenient.ws_as(Some(&token)).await;
    stays.subscribe(&["a"]).await;
    until("the token has ended", async || refused(&lenient, &token).await).await;
    lenient.publish("a", json!("still here")).await;
    assert_eq!(stays.expect("message").await["payload"], "still here");
}
