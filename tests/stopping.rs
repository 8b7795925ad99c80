//! Stopping: not ready, no new connections, what is in flight finished, everybody told, and an end in time.

use std::time::{Duration, Instant};

use crate::common::*;

/// Of the stop, and what readers with room have left to read is far less than that.
const TIMEOUT: Duration = Duration::from_secs(5);

#[tokio::test]
async fn sigterm_with_100_paused_sockets_ends_in_time_and_who_has_room_gets_everything_then_1001() {
    let dir = TempDir::new();
    dir.write("aether.toml", "[shutdown]\ntimeout = \"5s\"\n[server]\nwrite_timeout = \"5m\"\n");
    let mut hub = Spawned::start(dir.path());
    let token = hub.token(&["*"]);
    let mut paused = Vec::new();
    for n in 0..100 {
        if n % 4 == 0 {
            let path = format!("/sse?channel=c&token={token}");
            let stream = SseClient::open_with(hub.address, &path, &[], Some(4096)).await.unwrap();
            paused.push((None, Some(stream)));
        } else {
            let mut ws = WsClient::narrow(hub.address, &token).await;
            ws.subscribe(&["c"]).await;
            paused.push((Some(ws), None));
        }
    }
    let mut readers = Vec::new();
    for _ in 0..5 {
        let mut ws = WsClient::connect(hub.address, Some(&token)).await;
        ws.subscribe(&["c"]).await;
        readers.push(ws);
    }
    let mut stream = SseClient::open(hub.address, &format!("/sse?channel=c&token={token}"), None).await.unwrap();

    let mut http = Http::connect(hub.address, Some(&hub.admin_key)).await;
    let body = |n: u64| json!({"channel": "c", "payload": [n, "x".repeat(60_000)]}).to_string();
    for n in 1..=150 {
        assert_eq!(http.post("/api/v1/publish", body(n)).await.ok()["seq_id"], n);
    }
    for ws in &mut readers {
        ws.read_to("c", 145).await.assert_exactly(1, 145);
    }
    stream.read_to("c", 145).await.assert_exactly(1, 145);
    hub.signal("TERM");
    let began = Instant::now();
    let reading = futures_util::future::join_all(readers.iter_mut().map(async |ws| ws.read_to_end("c").await));
    let streaming = async {
        let seen = stream.read_to("c", 150).await;
        let bye = stream.expect("bye").await;
        assert_eq!((&bye.json()["code"], stream.next().await), (&json!(1001), None));
        seen
    };
    let (ends, streamed, status) = tokio::join!(reading, streaming, hub.wait());
    assert!(began.elapsed() < TIMEOUT + DEADLINE / 2, "{:?}", began.elapsed());
    assert!(status.success(), "{status}");
    streamed.assert_exactly(146, 150);
    for (seen, rest, end) in ends {
        seen.assert_exactly(146, 150);
        assert_eq!((rest.len(), &rest[0]["type"], &rest[0]["code"]), (1, &json!("bye"), &json!(1001)));
        let retry = rest[0]["retry_ms"].as_u64().unwrap();
        assert!((500..5000).contains(&retry), "{retry}");
        assert!(matches!(end, End::Closed(1001, _)), "{end:?}");
    }
    drop(paused);
}

#[tokio::test]
async fn without_stuck_clients_it_ends_at_once_on_either_signal() {
    for signal in ["TERM", "INT"] {
        let dir = TempDir::new();
        dir.write("aether.toml", "[shutdown]\ntimeout = \"5m\"\n");
        let mut hub = Spawned::start(dir.path());
        let mut ws = WsClient::connect(hub.address, Some(&hub.token(&["*"]))).await;
        ws.subscribe(&["c"]).await;
        let _idle = Http::connect(hub.address, None).await;
        hub.signal(signal);
        let began = Instant::now();
        assert!(matches!(ws.end().await, End::Closed(1001, _)));
        ws.close().await;
        assert!(hub.wait().await.success());
        assert!(began.elapsed() < 2 * DEADLINE, "the timeout is 5 minutes: {:?}", began.elapsed());
        let said = hub.stderr();
        assert!(said.contains("stopped") && !said.contains("ERROR"), "{said}");
    }
}

#[tokio::test]
async fn a_publish_after_it_began_to_stop_hears_503_at_once_and_nobody_new_is_let_in() {
    let long = aether::config::Period(10 * DEADLINE);
    let mut hub =
        TestHub::plan().with(|config| (config.server.write_timeout, config.shutdown.timeout) = (long, long)).start();
    // One that is stuck keeps the hub from ending while we look.
    let mut stuck = WsClient::narrow(hub.address, &hub.token(&["*"])).await;
    stuck.subscribe(&["c"]).await;
    let mut http = hub.http().await;
    for _ in 0..150 {
        http.post("/api/v1/publish", json!({"channel": "c", "payload": "x".repeat(60_000)}).to_string()).await.ok();
    }
    assert_eq!(http.get("/readyz").await.status, 200);
    let mut later = hub.http().await;
    let token = hub.token(&["*"]);
    let thread = hub.begin_stop().unwrap();
    until("it is not ready any more", async || http.get("/readyz").await.status == 503).await;
    let one = http.post("/api/v1/publish", json!({"channel": "c", "payload": 1}).to_string()).await;
    assert_eq!((one.error(), one.header("retry-after")), ((503, 50300), Some("1")));
    let batch = json!({"messages": [{"channel": "c", "payload": 1}]}).to_string();
    assert_eq!(later.post("/api/v1/publish/batch", batch).await.error(), (503, 50300));
    assert_eq!(http.get("/healthz").await.status, 200);

    let (status, body) = WsClient::refusal(hub.address, &format!("/ws?token={token}"), &[]).await;
    assert_eq!((status, &body["error"]["code"]), (503, &json!(50300)));
    let refused = SseClient::open(hub.address, &format!("/sse?channel=c&token={token}"), None).await;
    assert_eq!(refused.err().unwrap().error(), (503, 50300));

    drop(stuck);
    let ended = tokio::task::spawn_blocking(move || thread.join().unwrap());
    within(DEADLINE, "the end, long before the timeout", ended).await.unwrap();
    assert!(http.is_closed().await);
    hub.restart();
    assert_eq!(hub.history("channel=c&after_seq=149").await["last_seq"], 150, "what was refused was not taken in");
}

#[tokio::test]
async fn what_was_taken_in_before_the_stop_is_answered_and_kept() {
    let mut hub = TestHub::start();
    let answered: Vec<u64> = {
        let writers = (0..8).map(|_| {
            let hub = &hub;
            async move {
                let mut http = hub.http().await;
                let mut answered = Vec::new();
                loop {
                    let body = json!({"channel": "c", "payload": 1}).to_string();
                    match http.try_send("POST", "/api/v1/publish", &[], body.as_bytes()).await {
                        Ok(answer) if answer.status == 200 => answered.push(answer.json()["seq_id"].as_u64().unwrap()),
                        Ok(answer) => {
                            assert_eq!(answer.error(), (503, 50300));
                            return answered;
                        }
                        Err(_) => return answered,
                    }
                }
            }
        });
        let writing = futures_util::future::join_all(writers);
        let stop = async {
            until("some are in", async || hub.metric("aether_messages_published_total").await > 100.0).await;
        };
        let mut writing = std::pin::pin!(writing);
        tokio::select! {
            _ = &mut writing => panic!("nobody stopped it"),
            () = stop => {}
        }
        hub.ask_to_stop();
        within(DEADLINE, "the writers' last answers", writing).await.into_iter().flatten().collect()
    };
    hub.restart();
    let page = hub.history("channel=c&limit=1").await;
    let highest = answered.iter().max().unwrap();
    assert_eq!(page["last_seq"].as_u64().unwrap(), *highest, "nothing but what was answered, and all of that");
    assert_eq!(answered.len() as u64, *highest);
}
