//! Faults that systems of this kind have, each as a test that would find it.

use super::*;

#[tokio::test]
async fn a_disconnect_says_who_began_it_with_code_and_reason() {
    let mut hub = plan("").start();
    let mut reports = hub.ws().await;
    reports.subscribe(&["reports"]).await;
    let report = |initiator: &str, code: u16, reason: &str, expected: bool| json!({"id": "alice", "initiator": initiator, "code": code, "reason": reason, "expected": expected});
    let mut alice = Client::open(&hub, "acme/alice").await;
    alice.say(r#"{"route":"close"}"#).await;
    assert_eq!(alice.end().await, Some((4001, "as you wish".into())), "the first call wins");
    assert_eq!(reports.expect("message").await["payload"], report("server", 4001, "as you wish", true));

    let mut alice = Client::open(&hub, "acme/alice").await;
    let goodbye = tokio_tungstenite::tungstenite::protocol::CloseFrame { code: 3001.into(), reason: "bye".into() };
    alice.socket.close(Some(goodbye)).await.unwrap();
    assert_eq!(reports.expect("message").await["payload"], report("client", 3001, "bye", true));

    drop(Client::open(&hub, "acme/alice").await);
    assert_eq!(reports.expect("message").await["payload"], report("client", 0, "gone", false));

    let mut alice = Client::open(&hub, "acme/alice").await;
    alice.send(Message::binary(vec![b' '; (1 << 20) + 1])).await;
    assert_eq!(alice.end().await.map(|end| end.0), Some(1009));
    assert_eq!(reports.expect("message").await["payload"]["initiator"], "error");

    let mut alice = Client::open(&hub, "acme/alice").await;
    hub.ask_to_stop();
    assert_eq!(alice.end().await.map(|end| end.0), Some(1001));
    hub.stop();
}

#[tokio::test]
async fn the_tenants_do_not_hear_each_other_whatever_they_are_called() {
    let hub = plan("").start();
    let names = ["a/b.c", "a.b/c", "a%2Eb/c", "A/b.c", "/a.b.c", "constructor/b.c"];
    let mut people = Vec::new();
    for name in names {
        people.push(Client::open(&hub, &name.replace('%', "%25")).await);
    }
    let mut sender = Client::open(&hub, "x/sender").await;
    for (at, name) in names.iter().enumerate() {
        let (tenant, id) = name.split_once('/').unwrap();
        let whom = json!({"tenant": tenant, "id": id});
        sender.say(&format!(r#"{{"route":"dm","data":{whom}}}"#)).await;
        sender.hears(r#"{"route":"sent","data":{"ok":true}}"#).await;
        people[at].hears(r#"{"route":"dm","data":{"from":"sender"}}"#).await;
        for person in &mut people {
            person.is_silent().await;
        }
    }
}

#[tokio::test]
async fn an_identity_too_long_for_a_channel_is_reached_all_the_same_and_alone() {
    let hub = plan("").start();
    let long = "x".repeat(300);
    let mut one = Client::open(&hub, &format!("t/{long}1")).await;
    let mut two = Client::open(&hub, &format!("t/{long}2")).await;
    two.say(&format!(r#"{{"route":"dm","data":{{"tenant":"t","id":"{long}1"}}}}"#)).await;
    two.hears(r#"{"route":"sent","data":{"ok":true}}"#).await;
    one.hears(&format!(r#"{{"route":"dm","data":{{"from":"{long}2"}}}}"#)).await;
    two.is_silent().await;
}

#[tokio::test]
async fn clients_of_other_dialects_reach_none_of_its_channels_whatever_they_were_granted() {
    let hub = plan("").start();
    let mut alice = Client::open(&hub, "acme/alice").await;
    let mut native = WsClient::connect(hub.address, Some(&hub.token_for("eve", &["*"], &["*"]))).await;
    for channel in ["realtime.all", "realtime.identity.acme.alice", "realtime.room.acme.lobby"] {
        native.send(json!({"type": "subscribe", "channels": [channel]})).await;
        let no = native.expect("error").await;
        assert_eq!(no["reason"], "not_yours", "{no}");
        assert_eq!(native.expect("subscribed").await["channels"], json!([]));
        native.send(json!({"type": "publish", "channel": channel, "payload": {"route": "forged"}})).await;
        let no = native.expect("error").await;
        assert_eq!(no["reason"], "back_end_only", "{no}");
        let answer = hub.http().await.get(&format!("/api/v1/history?channel={channel}")).await;
        assert_eq!(answer.status, 403, "{}", answer.text());
    }
    alice.is_silent().await;
}

#[tokio::test]
async fn a_session_that_broke_is_offline_at_once_and_a_send_to_it_says_so() {
    let hub = plan("").start();
    let mut bob = Client::open(&hub, "acme/bob").await;
    drop(Client::open(&hub, "acme/alice").await);
    // No lease has to run out.
    until("alice is offline", async || {
        bob.say(r#"{"route":"online","data":{"tenant":"acme","id":"alice"}}"#).await;
        bob.next().await.unwrap().ends_with("false}")
    })
    .await;
    bob.say(r#"{"route":"dm","data":{"tenant":"acme","id":"alice"}}"#).await;
    bob.hears(r#"{"route":"sent","data":{"ok":false,"why":"session_closed"}}"#).await;
}

#[tokio::test]
async fn a_thousand_connections_that_come_and_go_leave_nothing_behind() {
    let hub = plan("").start();
    let before = hub.metric("aether_subscriptions_active").await;
    for _ in 0..25 {
        let connects = (0..40).map(|n| Client::owned(&hub, format!("/rt?as=acme/{n}")));
        let people = within(DEADLINE, "connects", futures_util::future::join_all(connects)).await;
        assert!(hub.metric("aether_connections_active").await >= 40.0);
        drop(people);
    }
    until("they are gone", async || hub.metric("aether_connections_active").await == 0.0).await;
    assert_eq!(hub.metric("aether_subscriptions_active").await, before);
}
