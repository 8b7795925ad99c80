//! `examples/all.toml`: five systems and the hub's own protocol in one hub, each hearing its own and nothing of the others.

use crate::aphlict::{browser, free_address, heard as heard_of, post, status, subscribe as follow};
use crate::common::raw_ws::BINARY;
use crate::common::*;
use crate::xlvein;

const SECRET: &str = "an example secret that everybody knows";

/// The example as it stands, but for ports that may be taken.
fn start() -> (TestHub, std::net::SocketAddr, std::net::SocketAddr) {
    let (client, admin) = (free_address(), free_address());
    let example = std::fs::read_to_string(repository().join("examples/all.toml")).unwrap();
    let aphlict = "use = \"aphlict\"";
    assert!(example.contains(aphlict));
    let own = format!("{aphlict} # elsewhere\n[plugin.config]\nclient = [\"{client}\"]\nadmin = [\"{admin}\"]\n#");
    let plan = TestHub::plan().toml(&example.replace(aphlict, &own));
    let rules = std::fs::read_to_string(repository().join("examples/scripts/rules.lua")).unwrap();
    (plan.rules(&rules).start(), client, admin)
}

/// A client of a protocol that answers in JSON texts.
async fn open(hub: &TestHub, path: &str) -> WsClient {
    WsClient::open(hub.address, path, &[], None).await.unwrap_or_else(|error| panic!("{path}: {error}"))
}

#[tokio::test]
async fn all_five_run_at_once_and_each_hears_its_own_and_nothing_else() {
    let (hub, client, admin) = start();

    // Everybody is there before anybody speaks.
    let mut first = hub.ws().await;
    first.subscribe(&["order.1"]).await;
    let mut pushlet = RawWs::at(hub.address, "/pushlet/ws?topic=news/today").await;
    let hello = pushlet.next().await;
    assert!(String::from_utf8_lossy(&hello.payload).contains("\"event\":\"connected\""));
    let mut phorge = browser(client, "/").await;
    follow(&mut phorge, &["PHID-USER-1", "constructor"]).await;
    let token = hub.token_for("ann", &[], &[]);
    let mut realtime = open(&hub, &format!("/rt?token={token}")).await;
    let ann = xlvein::token(SECRET, &json!({"sub": "ann"}));
    let query = xlvein::form(&[("app_id", "shop"), ("token", &ann)]);
    let mut xlvein_ann = open(&hub, &format!("/ws/connect?{query}")).await;

    // Each system's back end says something.
    hub.publish("order.1", json!("of the first Aether")).await;
    let mut http = hub.http().await;
    let sent = http.send("POST", "/send?topic=news/today&event=tick&message=of+Pushlet", &[], b"").await;
    assert_eq!(sent.status, 200, "{}", sent.text());
    let posted = post(admin, "/", r#"{"type":"notification","key":"7","subscribers":["PHID-USER-1"]}"#).await;
    assert!(posted.ok()["fingerprint"].is_string());
    let form = xlvein::signed_form("shop", SECRET, "ann", r#"{"text":"of xlvein"}"#, "nonce-1");
    assert_eq!(xlvein::post_form(&mut http, &form).await.ok()["error"], 0);
    realtime.send(json!({"id": "1", "route": "echo", "data": {"n": 9007199254740993_i64}})).await;

    // Each client hears it in its own words.
    assert_eq!(first.expect("message").await["payload"], "of the first Aether");
    let heard = pushlet.next().await;
    assert_eq!(heard.opcode, BINARY);
    let heard = String::from_utf8(heard.payload).unwrap();
    assert!(
        heard.starts_with("news/today {\"topic\":\"news/today\",\"event\":\"tick\",\"data\":\"of Pushlet\""),
        "{heard}"
    );
    let told = heard_of(&mut phorge, 1).await;
    assert_eq!(told.len(), 1, "{told:?}");
    assert_eq!(told[0]["key"], "7");
    let echoed = realtime.hear().await.unwrap();
    assert!(echoed.contains("\"route\":\"echo\"") && echoed.contains("9007199254740993"), "{echoed}");
    let pushed: Json = serde_json::from_str(&xlvein_ann.hear().await.unwrap()).unwrap();
    assert_eq!((&pushed["to"], &pushed["data"]), (&json!("ann"), &json!({"text": "of xlvein"})));

    // Nothing of one has reached another, nor is it counted there.
    pushlet.send(BINARY, b"PING").await;
    assert_eq!(pushlet.next().await.payload, b"OK", "it heard nothing else");
    first.assert_silent().await;
    let counted = status(admin, "default").await;
    assert_eq!((&counted["messages.in"], &counted["clients.active"]), (&json!(1), &json!(1)));
    assert_eq!(status(admin, "other").await["clients.active"], 0);
}

#[tokio::test]
async fn a_token_of_the_hub_reaches_no_channel_of_another_system_and_history_is_as_closed() {
    let (hub, _client, admin) = start();
    post(admin, "/", r#"{"type":"notification","key":"7","subscribers":["PHID-USER-1"]}"#).await;
    let all = hub.token(&["*"]);
    let mut ws = WsClient::connect(hub.address, Some(&all)).await;
    for channel in ["aphlict.default.PHID-USER-1", "realtime.all", "pushlet.topic.news", "xlvein.shop.ann"] {
        ws.send(json!({"type": "subscribe", "channels": [channel]})).await;
        let refused = ws.expect("error").await;
        assert_eq!(refused["code"], 40301, "{channel}: {refused}");
        ws.expect("subscribed").await;
        let mut http = hub.http_as(Some(&all)).await;
        let read = http.get(&format!("/api/v1/history?channel={channel}")).await;
        assert_eq!(read.status, 403, "{channel}: {}", read.text());
    }
}
