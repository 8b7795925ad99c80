//! The plugin `http-auth`: a back end is asked who somebody is and what they may; when it fails, nobody gets in.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU16, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::common::*;

/// A back end: knows who shows `good-<name>`, and lets everybody into `room.<their name>`.
#[derive(Default)]
struct BackEnd {
    /// Answers with this instead, unless it is 0; 1 says nothing at all, 2 what is no answer.
    broken: AtomicU16,
    asked: AtomicU64,
    questions: Mutex<Vec<(String, Json)>>,
}

const SILENT: u16 = 1;
const BABBLES: u16 = 2;

impl BackEnd {
    async fn start() -> (Arc<BackEnd>, String) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/hub", listener.local_addr().unwrap());
        let back_end = Arc::new(BackEnd::default());
        let shared = back_end.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(shared.clone().serve(stream));
            }
        });
        (back_end, url)
    }

    async fn serve(self: Arc<Self>, mut stream: TcpStream) {
        let mut bytes = Vec::new();
        loop {
            let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") else {
                match stream.read_buf(&mut bytes).await {
                    Ok(1..) => continue,
                    _ => return,
                }
            };
            let head = String::from_utf8(bytes.drain(..end + 4).collect()).unwrap();
            let headers: BTreeMap<String, &str> =
                head.lines().filter_map(|line| line.split_once(": ")).map(|(k, v)| (k.to_lowercase(), v)).collect();
            let length: usize = headers["content-length"].parse().unwrap();
            while bytes.len() < length {
                if !matches!(stream.read_buf(&mut bytes).await, Ok(1..)) {
                    return;
                }
            }
            let body: Json = serde_json::from_slice(&bytes.drain(..length).collect::<Vec<_>>()).unwrap();
            self.asked.fetch_add(1, SeqCst);
            let path = head.split(' ').nth(1).unwrap().to_owned();
            let authorized = headers.get("authorization") == Some(&"Bearer of-the-hub");
            let (status, said) = match self.broken.load(SeqCst) {
                SILENT => {
                    // Until the other side has had enough.
                    let _ = stream.read_buf(&mut bytes).await;
                    return;
                }
                BABBLES => (200, json!("it works!")),
                0 if !authorized => (500, json!({})),
                0 => answer(&path, &body),
                status => (status, json!({"oh": "no"})),
            };
            self.questions.lock().unwrap().push((path, body));
            let said = said.to_string();
            let answer = format!("HTTP/1.1 {status} X\r\ncontent-length: {}\r\n\r\n{said}", said.len());
            if stream.write_all(answer.as_bytes()).await.is_err() {
                return;
            }
        }
    }

    fn asked(&self) -> u64 {
        self.asked.load(SeqCst)
    }
}

fn answer(path: &str, question: &Json) -> (u16, Json) {
    match path {
        "/hub/connect" => match question["credential"].as_str().unwrap().strip_prefix("good-") {
            Some(user) => {
                (200, json!({"user": user, "attrs": {"role": "guest"}, "subscribe": ["news.*"], "publish": ["in"]}))
            }
            None => (401, json!({"code": "who_are_you", "message": "never heard of you"})),
        },
        "/hub/subscribe" => {
            let own = question["channel"] == format!("room.{}", question["user"].as_str().unwrap_or_default());
            if own { (200, json!({})) } else { (403, json!({"message": "not your room"})) }
        }
        _ => (404, json!({})),
    }
}

fn hub(url: &str, more: &str) -> TestHub {
    let config = format!(
        "[plugins]\nprivate_http = [\"http://127.0.0.1:*/*\"]\n[secrets]\nhttp_auth_key = \"Bearer of-the-hub\"\n\
         [[plugin]]\nuse = \"http-auth\"\n[plugin.config]\nurl = {url:?}\nsubscribe = [\"room.*\"]\nheaders = [\"X-Device\"]\n{more}"
    );
    TestHub::plan().toml(&config).start()
}

async fn knock(hub: &TestHub, credential: &str) -> (u16, Json) {
    WsClient::refusal(hub.address, &format!("/ws?token={credential}"), &[]).await
}

#[tokio::test]
async fn the_back_end_says_who_somebody_is_and_what_they_may() {
    let (back_end, url) = BackEnd::start().await;
    let hub = hub(&url, "");
    let headers = [("authorization", "Bearer good-ann"), ("x-device", "lamp"), ("x-other", "secret")];
    SseClient::open_with(hub.address, "/sse?channel=room.ann", &headers, None)
        .await
        .unwrap()
        .expect("subscribed")
        .await;
    let (path, question) = back_end.questions.lock().unwrap()[0].clone();
    let shown =
        json!({"credential": "good-ann", "transport": "sse", "ip": "127.0.0.1", "headers": {"x-device": "lamp"}});
    assert_eq!((path.as_str(), question), ("/hub/connect", shown));

    let mut ws = hub.ws_as(Some("good-ann")).await;
    ws.send(json!({"type": "subscribe", "channels": ["news.1", "room.ann", "room.bob", "other"]})).await;
    let error = ws.expect("error").await;
    assert_eq!((&error["channel"], &error["reason"]), (&json!("room.bob"), &json!("not_allowed")));
    assert!(error["message"].as_str().unwrap().ends_with("not your room"), "{error}");
    assert_eq!(ws.expect("error").await["channel"], "other");
    assert_eq!(ws.expect("subscribed").await["channels"], json!(["news.1", "room.ann"]));
    let mut http = hub.http_as(Some("good-ann")).await;
    http.post("/api/v1/publish", r#"{"channel":"in","payload":1}"#).await.ok();

    let (status, body) = knock(&hub, "stranger").await;
    assert_eq!((status, &body["error"]["reason"]), (401, &json!("who_are_you")));
    assert_eq!(body["error"]["message"], "never heard of you");
}

#[tokio::test]
async fn what_was_asked_of_late_is_not_asked_again_and_a_crowd_asks_once() {
    let (back_end, url) = BackEnd::start().await;
    let hub = hub(&url, "remember = \"1m\"");
    let mut crowd = Vec::new();
    for _ in 0..50 {
        let address = hub.address;
        crowd.push(tokio::spawn(async move { WsClient::connect(address, Some("good-ann")).await }));
    }
    for one in crowd {
        within(DEADLINE, "the crowd gets in", one).await.unwrap().subscribe(&["room.ann"]).await;
    }
    assert_eq!(back_end.asked(), 2, "once who it is, once what it may");
    let mut http = hub.http_as(Some("good-bob")).await;
    for _ in 0..5 {
        http.post("/api/v1/publish", r#"{"channel":"in","payload":1}"#).await.ok();
    }
    assert_eq!(back_end.asked(), 3);
}

#[tokio::test]
async fn a_back_end_that_fails_lets_nobody_in_and_is_left_alone_until_it_works_again() {
    let (back_end, url) = BackEnd::start().await;
    let hub = hub(&url, "failures = 3\nrest = \"700ms\"");
    let mut inside = hub.ws_as(Some("good-ann")).await;
    back_end.broken.store(500, SeqCst);
    let before = back_end.asked();
    for n in 0..10 {
        let (status, body) = knock(&hub, &format!("good-{n}")).await;
        assert_eq!((status, &body["error"]["code"]), (429, &json!(42901)), "{body}");
        assert_eq!((&body["error"]["reason"], &body["error"]["retry_ms"]), (&json!("unavailable"), &json!(700)));
    }
    assert_eq!(back_end.asked() - before, 3, "then it is left alone");
    inside.send(json!({"type": "subscribe", "channels": ["room.ann", "news.1"]})).await;
    assert_eq!(inside.expect("error").await["reason"], "unavailable");
    assert_eq!(inside.expect("subscribed").await["channels"], json!(["news.1"]), "what was granted stays");
    back_end.broken.store(0, SeqCst);
    until("it is asked again", async || knock_in(&hub, "good-ann2").await).await;
    inside.subscribe(&["room.ann"]).await;
}

async fn knock_in(hub: &TestHub, credential: &str) -> bool {
    hub.http_as(Some(credential)).await.post("/api/v1/publish", r#"{"channel":"in","payload":1}"#).await.status == 200
}

#[tokio::test]
async fn a_back_end_whose_yes_says_nobody_is_out_of_order_and_nobody_is_told_that_they_are_wrong() {
    let (back_end, url) = BackEnd::start().await;
    back_end.broken.store(BABBLES, SeqCst);
    let hub = hub(&url, "");
    let (status, body) = knock(&hub, "good-ann").await;
    assert_eq!((status, &body["error"]["reason"]), (429, &json!("unavailable")), "{body}");
    back_end.broken.store(0, SeqCst);
    assert!(knock_in(&hub, "good-ann").await, "it was not remembered");
}

#[tokio::test]
async fn a_back_end_that_is_silent_or_gone_is_a_no_in_time() {
    let (back_end, url) = BackEnd::start().await;
    back_end.broken.store(SILENT, SeqCst);
    let gone = {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        format!("http://{}", listener.local_addr().unwrap())
    };
    for url in [url, gone] {
        let hub = hub(&url, "timeout = \"300ms\"");
        let began = Instant::now();
        let (status, body) = knock(&hub, "good-ann").await;
        assert_eq!((status, &body["error"]["reason"]), (429, &json!("unavailable")), "{body}");
        assert!(began.elapsed() < DEADLINE, "{:?}", began.elapsed());
        assert!(!body.to_string().contains("good-ann"));
    }
}

#[tokio::test]
async fn a_private_address_that_the_operator_did_not_open_is_not_asked() {
    let (back_end, url) = BackEnd::start().await;
    let hub = TestHub::plan().toml(&format!("[[plugin]]\nuse = \"http-auth\"\n[plugin.config]\nurl = {url:?}")).start();
    assert_eq!(knock(&hub, "good-ann").await.0, 429);
    assert_eq!(back_end.asked(), 0);
}
