//! Rules that wait for another server: a slow one delays only those who ask it, and a channel keeps its order.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::watch;

use crate::common::*;

/// Answers each request with 200: after as many milliseconds as its path says, or once the gate is open.
async fn back_end(gate: watch::Receiver<bool>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut gate = gate.clone();
            tokio::spawn(async move {
                let mut head = Vec::new();
                while stream.read_buf(&mut head).await.is_ok_and(|read| read > 0) {
                    if !head.ends_with(b"\r\n\r\n") {
                        continue;
                    }
                    let text = String::from_utf8_lossy(&head).into_owned();
                    match text.split(['/', ' ']).nth(2).unwrap_or_default() {
                        "gate" => drop(gate.wait_for(|open| *open).await),
                        millis => tokio::time::sleep(Duration::from_millis(millis.parse().unwrap_or(0))).await,
                    }
                    if stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await.is_err() {
                        return;
                    }
                    head.clear();
                }
            });
        }
    });
    url
}

async fn hub(gate: watch::Receiver<bool>) -> TestHub {
    let rules = "
aether.on.subscribe('slow.{ms}.{n}', function(s, ch) return aether.http.get('URL/' .. ch.ms, {timeout = '30s'}).status == 200 end)
aether.on.publish('order.{n}', {async = true}, function(s, ch, msg) return aether.http.get('URL/' .. msg:text(), {timeout = '30s'}).status == 200 end)
aether.on.publish('fast', function() return true end)
";
    let url = back_end(gate).await;
    let rules = rules.replace("URL", &url);
    TestHub::plan().rules(&rules).with(|config| config.plugins.private_http = vec![format!("{url}/*")]).start()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_back_end_delays_only_those_who_ask_it() {
    let (gate, shut) = watch::channel(false);
    let hub = hub(shut).await;
    let mut slow = Vec::new();
    for n in 0..40 {
        let mut ws = hub.ws_as(Some(&hub.token(&[]))).await;
        slow.push(tokio::spawn(async move { ws.subscribe(&[&format!("slow.gate.{n}")]).await }));
    }
    let mut http = hub.http().await;
    // None of those has an answer before all of these have theirs.
    for _ in 0..100 {
        http.post("/api/v1/publish", r#"{"channel":"fast","payload":1}"#).await.ok();
    }
    assert!(slow.iter().all(|one| !one.is_finished()), "they do wait");
    gate.send(true).unwrap();
    for one in slow {
        within(DEADLINE, "an answer", one).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_whose_rules_wait_stand_in_the_log_in_the_order_in_which_they_came() {
    let hub = hub(watch::channel(true).1).await;
    let delays = [300, 1, 150, 80, 2, 200, 3];
    let messages: Vec<_> = delays.iter().map(|ms| json!({"channel": "order.1", "payload": ms})).collect();
    let said = hub.http().await.post("/api/v1/publish/batch", json!({"messages": messages}).to_string()).await;
    for result in said.ok()["results"].as_array().unwrap() {
        assert_eq!(result["status"], "success", "{result}");
    }
    let history = hub.history("channel=order.1").await;
    let stored: Vec<_> =
        history["messages"].as_array().unwrap().iter().map(|message| message["payload"].clone()).collect();
    assert_eq!(stored, delays.map(|ms| json!(ms)));
}

/// Waits until a rule waits at the gate, puts other rules in charge, and opens it.
async fn change_meanwhile(hub: &TestHub, gate: &watch::Sender<bool>, rules: &str) {
    let doors = gate.receiver_count();
    until("a rule has asked", async || gate.receiver_count() > doors).await;
    hub.dir().write("scripts/rules.lua", rules);
    hub.http().await.post("/api/v1/rules/reload", "{}").await.ok();
    gate.send(true).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_was_let_in_by_rules_that_changed_meanwhile_is_asked_about_again() {
    let (gate, shut) = watch::channel(false);
    let hub = hub(shut).await;
    let path = format!("/sse?channel=slow.gate.1&token={}", hub.token(&[]));
    let opening = SseClient::open(hub.address, &path, None);
    let (stream, ()) = tokio::join!(opening, change_meanwhile(&hub, &gate, "-- nobody may do anything"));
    let mut stream = stream.unwrap_or_else(|refused| panic!("{refused:?}"));
    stream.expect("subscribed").await;
    assert_eq!(stream.expect("error").await.json()["code"], 40301);
    stream.expect("unsubscribed").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_channel_that_is_opened_by_a_request_of_old_rules_has_the_policy_of_those_in_charge() {
    let (gate, shut) = watch::channel(false);
    let hub = hub(shut).await;
    let change =
        change_meanwhile(&hub, &gate, "aether.on.retention('order.*', function() return {ack = 'memory'} end)");
    let mut http = hub.http_as(Some(&hub.token(&[]))).await;
    let (said, ()) = tokio::join!(http.post("/api/v1/publish?channel=order.1", "gate"), change);
    assert_eq!(said.ok()["ack"], "memory");
}
