//! Clients that are too slow: three policies, each with a notice to the client and a counter.

use super::*;

/// Large enough that a client which stands still is stuck after some hundreds.
const LARGE: usize = 16 * 1024;
const COUNT: u64 = 700;
const QUEUE: u64 = 20;

async fn hub(policy: &str) -> TestHub {
    plan(&format!("backpressure = \"{policy}\"\nsend_queue = {QUEUE}\nwrite_timeout = \"2m\"")).start()
}

async fn say(http: &mut Http, n: u64) {
    let payload = json!({"route": "n", "data": [n, "x".repeat(LARGE)]});
    http.post("/api/v1/publish", json!({"channel": "realtime.all", "payload": payload}).to_string()).await.ok();
}

/// What it hears until it has been told of everything up to `last`: runs of numbers, each with what was dropped before it.
async fn runs(client: &mut Client, last: u64) -> (Vec<(u64, u64)>, u64) {
    let (mut runs, mut next, mut dropped) = (Vec::new(), 1, 0);
    while next <= last {
        let heard: Json = serde_json::from_str(&client.next().await.unwrap()).unwrap();
        match heard["route"].as_str().unwrap() {
            "realtime.dropped" => {
                let count = heard["data"]["dropped"].as_u64().unwrap();
                assert!(count > 0);
                (next, dropped) = (next + count, dropped + count);
            }
            _ => {
                assert_eq!(heard["data"][0], next, "a notice says how many are missing, and nothing else is");
                match runs.last_mut() {
                    Some((_, end)) if *end + 1 == next => *end = next,
                    _ => runs.push((next, next)),
                }
                next += 1;
            }
        }
    }
    (runs, dropped)
}

async fn stuck(hub: &TestHub) -> Client {
    let client = Client::narrow(hub, "acme/slow").await;
    let mut http = hub.http().await;
    for n in 1..=COUNT {
        say(&mut http, n).await;
    }
    client
}

#[tokio::test]
async fn drop_oldest_keeps_the_newest_and_says_how_many_are_gone() {
    let hub = hub("drop-oldest").await;
    let mut slow = stuck(&hub).await;
    let (runs, dropped) = runs(&mut slow, COUNT).await;
    assert!(runs.len() >= 2 && dropped > 0, "{runs:?}");
    assert_eq!(runs.last().unwrap().1, COUNT, "the newest are there: {runs:?}");
    assert_eq!(hub.metric("aether_messages_skipped_total").await, dropped as f64);
    slow.is_silent().await;
}

#[tokio::test]
async fn drop_newest_keeps_what_waited_and_says_how_many_are_gone() {
    let hub = hub("drop-newest").await;
    let mut slow = stuck(&hub).await;
    let (runs, dropped) = runs(&mut slow, COUNT).await;
    assert!(dropped > 0 && runs.last().unwrap().1 < COUNT, "the newest are gone: {runs:?}");
    let (first, last) = runs[0];
    assert!(first == 1 && last >= QUEUE, "{runs:?}");
    assert_eq!(hub.metric("aether_messages_skipped_total").await, dropped as f64);
    // There is room again, so what comes now comes.
    say(&mut hub.http().await, COUNT + 1).await;
    let heard: Json = serde_json::from_str(&slow.next().await.unwrap()).unwrap();
    assert_eq!(heard["data"][0], COUNT + 1);
}

#[tokio::test]
async fn close_ends_the_connection_and_the_report_says_backpressure() {
    let hub = hub("close").await;
    let mut reports = hub.ws().await;
    reports.subscribe(&["reports"]).await;
    let mut slow = stuck(&hub).await;
    assert_eq!(slow.end().await.map(|end| end.0), Some(1012));
    let report = reports.expect("message").await["payload"].clone();
    assert_eq!((&report["id"], &report["initiator"]), (&json!("slow"), &json!("backpressure")));
    assert_eq!((&report["code"], &report["expected"]), (&json!(1012), &json!(false)));
    assert_eq!(hub.metric("aether_lagged_total").await, 1.0);
}

#[tokio::test]
async fn one_stuck_client_holds_up_nobody() {
    let hub = hub("close").await;
    let _slow = Client::narrow(&hub, "acme/slow").await;
    let mut others = Vec::new();
    for n in 0..10 {
        others.push(Client::open(&hub, &format!("acme/{n}")).await);
    }
    let mut http = hub.http().await;
    for n in 1..=COUNT {
        say(&mut http, n).await;
        for other in &mut others {
            let heard: Json = serde_json::from_str(&other.next().await.unwrap()).unwrap();
            assert_eq!(heard["data"][0], n);
        }
    }
}
