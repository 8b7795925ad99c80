//! An event stream that comes back with `Last-Event-ID` has every message once, of its topic and of what is said to everybody.

use super::*;

async fn stream(hub: &TestHub, last_id: Option<&str>) -> SseClient {
    let mut stream = SseClient::open(hub.address, "/events?topic=news", last_id).await.unwrap();
    assert_eq!(stream.expect("connected").await.data, "Connection established");
    stream
}

async fn read(stream: &mut SseClient, count: usize) -> Vec<String> {
    let mut seen = Vec::new();
    for _ in 0..count {
        seen.push(stream.expect("message").await.data);
    }
    seen
}

async fn say(hub: &TestHub, http: &mut Http, number: usize) {
    // Every third is for everybody.
    let path = if number.is_multiple_of(3) { "/send/all" } else { "/send" };
    let answer = http.get(&format!("{path}?topic=news&message={number}")).await;
    assert_eq!(answer.status, 200, "{} {}", hub.address, answer.text());
}

fn numbers(range: std::ops::RangeInclusive<usize>) -> Vec<String> {
    range.map(|number| number.to_string()).collect()
}

#[tokio::test]
async fn a_stream_that_ends_with_the_hub_is_told_when_to_come_back() {
    let mut hub = TestHub::plan().toml(&format!("{OPEN}\n[limits]\nreturns_per_second = 2")).start();
    let mut told = [stream(&hub, None).await, stream(&hub, None).await];
    hub.ask_to_stop();
    for stream in &mut told {
        assert!(stream.next().await.is_none(), "and hears nothing that Pushlet did not say");
    }
    let [one, other] = told.map(|stream| stream.retry().unwrap());
    assert!(one != other && one.min(other) >= 500, "each its own: {one} {other}");
    hub.stop();
}

#[tokio::test]
async fn what_was_said_meanwhile_comes_once_and_in_order() {
    let hub = open();
    let mut http = hub.http_as(None).await;
    let mut first = stream(&hub, None).await;
    for number in 1..=20 {
        say(&hub, &mut http, number).await;
    }
    let mut seen = read(&mut first, 20).await;
    let mut last_id = first.last_event_id();
    drop(first);
    for again in 1..5 {
        for number in again * 20 + 1..=again * 20 + 20 {
            say(&hub, &mut http, number).await;
        }
        let mut back = stream(&hub, Some(&last_id)).await;
        // Cut off in the middle: what came is what its id says.
        let some = read(&mut back, 10).await;
        seen.extend(some);
        let mut rest = stream(&hub, Some(&back.last_event_id())).await;
        seen.extend(read(&mut rest, 10).await);
        last_id = rest.last_event_id();
    }
    // A topic and what is for everybody are two channels: each is in order, and nothing is missing or twice.
    let (all, topic): (Vec<_>, Vec<_>) = seen.iter().cloned().partition(|n| n.parse::<usize>().unwrap() % 3 == 0);
    let wanted = |keep: fn(usize) -> bool| numbers(1..=100).into_iter().filter(move |n| keep(n.parse().unwrap()));
    assert_eq!(all, wanted(|n| n % 3 == 0).collect::<Vec<_>>());
    assert_eq!(topic, wanted(|n| n % 3 != 0).collect::<Vec<_>>());
}

#[tokio::test]
async fn whoever_lost_the_stream_before_its_first_message_has_that_too() {
    let hub = open();
    let mut begun = Blocks::open(&hub, "/events?topic=news").await;
    assert_eq!(begun.next().await, "event: connected\ndata: Connection established\n\n");
    let block = begun.next().await;
    let last_id = block.strip_prefix("id: ").unwrap().trim_end().to_owned();
    drop(begun);
    send(&hub, "news", "message", "missed").await;
    assert_eq!(read(&mut stream(&hub, Some(&last_id)).await, 1).await, ["missed"]);
}

#[tokio::test]
async fn a_restart_of_the_hub_loses_nothing_that_was_answered() {
    let mut hub = open();
    let mut first = stream(&hub, None).await;
    send(&hub, "news", "message", "1").await;
    assert_eq!(read(&mut first, 1).await, ["1"]);
    send(&hub, "news", "message", "2").await;
    hub.restart();
    send(&hub, "news", "message", "3").await;
    assert_eq!(read(&mut stream(&hub, Some(&first.last_event_id())).await, 2).await, ["2", "3"]);
}

#[tokio::test]
async fn what_is_kept_no_longer_is_told_as_a_gap() {
    let hub = open_with("keep = \"0s\"\n[channels]\ntail_count = 2\n");
    let mut first = stream(&hub, None).await;
    send(&hub, "news", "message", "1").await;
    assert_eq!(read(&mut first, 1).await, ["1"]);
    for number in 2..=6 {
        send(&hub, "news", "message", &number.to_string()).await;
    }
    let mut back = stream(&hub, Some(&first.last_event_id())).await;
    let gap = back.expect("gap").await.json();
    assert_eq!((&gap["cause"], &gap["first"]), (&json!("evicted"), &json!(2)), "{gap}");
    let next = gap["last"].as_u64().unwrap() as usize + 1;
    assert_eq!(read(&mut back, 7 - next).await, numbers(next..=6));
}

#[tokio::test]
async fn an_id_that_is_none_of_ours_begins_with_what_comes_next() {
    let hub = open();
    send(&hub, "news", "message", "before").await;
    for strange in ["7", "%", "AQ", "Á"] {
        let mut stream = stream(&hub, Some(strange)).await;
        send(&hub, "news", "message", strange).await;
        assert_eq!(read(&mut stream, 1).await, [strange]);
    }
}
