//! Long poll: the same cursor, the same promises, one answer at a time.

use crate::common::*;

async fn poll(http: &mut Http, query: &str) -> Json {
    let response = http.get(&format!("/poll?{query}")).await;
    assert_eq!(response.status, 200, "{}", response.text());
    serde_json::from_str(response.text()).unwrap()
}

#[tokio::test]
async fn a_poller_gets_everything_once_across_answers_and_a_restart() {
    let mut hub = TestHub::start();
    let token = hub.token(&["*"]);
    let mut http = hub.http_as(None).await;
    let query = format!("token={token}&channel=a&channel=b");
    let first = poll(&mut http, &query).await;
    assert_eq!(first["messages"], json!([]), "the first answer is a place to begin at, and does not wait");
    let mut cursor = first["cursor"].as_str().unwrap().to_owned();
    let mut seen = Vec::new();
    for round in 0..3u64 {
        if round == 2 {
            hub.restart();
            http = hub.http_as(None).await;
        }
        for n in 1..=20 {
            hub.publish(if n % 2 == 0 { "a" } else { "b" }, json!(round * 20 + n)).await;
        }
        while seen.len() < (round as usize + 1) * 20 {
            let answer = poll(&mut http, &format!("{query}&cursor={cursor}")).await;
            cursor = answer["cursor"].as_str().unwrap().to_owned();
            for message in answer["messages"].as_array().unwrap() {
                if message["type"] == "message" {
                    seen.push((message["channel"].as_str().unwrap().to_owned(), message["seq_id"].as_u64().unwrap()));
                }
            }
        }
    }
    for channel in ["a", "b"] {
        let seqs: Vec<_> = seen.iter().filter(|(of, _)| of == channel).map(|(_, seq)| *seq).collect();
        assert_eq!(seqs, (1..=30).collect::<Vec<_>>(), "{channel}");
    }
}

#[tokio::test]
async fn a_waiting_poll_is_answered_by_the_next_message_by_its_time_or_by_a_shutdown() {
    let mut hub = TestHub::start();
    let token = hub.token(&["*"]);
    let query = format!("token={token}&channel=a&after_seq=0");
    let (mut http, mut late) = (hub.http_as(None).await, hub.http_as(None).await);
    let waiting = async { poll(&mut http, &format!("{query}&wait=20")).await };
    let publishing = async {
        until("the poll listens", async || hub.metric("aether_subscriptions_active").await == 1.0).await;
        hub.publish("a", json!("x")).await;
    };
    let (answer, ()) = tokio::join!(waiting, publishing);
    assert_eq!((&answer["messages"][0]["payload"], &answer["messages"][0]["seq_id"]), (&json!("x"), &json!(1)));
    let cursor = answer["cursor"].as_str().unwrap().to_owned();
    let rest = poll(&mut http, &format!("token={token}&channel=a&cursor={cursor}&wait=0")).await;
    assert_eq!((&rest["messages"], &rest["cursor"]), (&json!([]), &json!(cursor)));

    let asked = format!("/poll?token={token}&channel=a&cursor={cursor}&wait=99");
    assert_eq!(late.get(&asked).await.error(), (400, 40003));
    let refused = late.get("/poll?channel=a").await;
    assert_eq!(refused.status, 401);

    let query = format!("token={token}&channel=a&cursor={cursor}&wait=60");
    let waiting = async { poll(&mut http, &query).await };
    let stopping = async {
        until("the poll listens", async || hub.metric("aether_subscriptions_active").await == 1.0).await;
        hub.ask_to_stop();
    };
    let (answer, ()) = tokio::join!(waiting, stopping);
    assert_eq!(answer["messages"], json!([]), "nobody waits for a hub that goes");
    hub.stop();
}
