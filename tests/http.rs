//! The HTTP API: what is answered to what, and history both ways.

use std::time::Instant;

use tokio::io::AsyncWriteExt;

use crate::common::*;

#[tokio::test]
async fn a_publish_says_what_was_promised() {
    let hub = TestHub::plan()
        .toml(
            "[[retention.rules]]\npattern = \"w\"\nack = \"written\"\n[[retention.rules]]\npattern = \"m\"\nack = \"memory\"\n\
             [[retention.rules]]\npattern = \"none\"\nhistory = false",
        )
        .start();
    for (channel, ack) in [("s", "synced"), ("w", "written"), ("m", "memory"), ("none", "memory")] {
        let answer = hub.publish(channel, json!(1)).await;
        assert_eq!((&answer["ok"], &answer["channel"], &answer["ack"]), (&json!(true), &json!(channel), &json!(ack)));
        assert_eq!((&answer["seq_id"], &answer["duplicate"]), (&json!(1), &json!(false)));
        let timestamp = answer["timestamp"].as_str().unwrap();
        assert!(timestamp.ends_with('Z') && timestamp.starts_with("20"), "{timestamp}");
        if channel != "none" {
            let page = hub.history(&format!("channel={channel}")).await;
            assert_eq!(page["messages"][0]["timestamp"], answer["timestamp"]);
            assert_eq!(page["epoch"], answer["epoch"]);
        }
    }
}

#[tokio::test]
async fn every_error_has_its_status_its_code_and_a_sentence_and_the_connection_goes_on() {
    let hub = TestHub::plan().toml("[publish]\nmax_batch = 3\n[server]\nmax_payload_size = \"1KiB\"").start();
    let mut http = hub.http().await;
    let publish = "/api/v1/publish";
    let batch = "/api/v2/publish/batch";
    let large = json!({"channel": "c", "payload": "x".repeat(2000)}).to_string();
    let four = json!({"messages": [{}, {}, {}, {}]}).to_string();
    for (method, path, body, expected) in [
        ("POST", publish, "", (400, 40003)),
        ("POST", publish, "nonsense", (400, 40003)),
        ("POST", publish, "[\"c\",1]", (400, 40003)),
        ("POST", publish, "{\"channel\":1,\"payload\":1}", (400, 40003)),
        ("POST", publish, "{\"channel\":\"c\",\"payload\":1} trailing", (400, 40003)),
        ("POST", publish, "{\"channel\":\"c\",\"payload\":\"\u{0}\"}", (400, 40003)),
        ("POST", publish, "{\"payload\":1}", (400, 40002)),
        ("POST", publish, "{\"channel\":\"\",\"payload\":1}", (400, 40002)),
        ("POST", publish, "{\"channel\":\"c\"}", (400, 40002)),
        ("POST", publish, "{\"channel\":\".c\",\"payload\":1}", (400, 40001)),
        ("POST", publish, "{\"channel\":\"a b\",\"payload\":1}", (400, 40001)),
        ("POST", publish, "{\"channel\":\"c\",\"payload\":1,\"ttl\":0}", (400, 40003)),
        ("POST", publish, "{\"channel\":\"c\",\"payload\":1,\"ttl\":1e300}", (400, 40003)),
        ("POST", "/api/v1/publish?channel=a*", "1", (400, 40001)),
        ("POST", "/api/v1/publish?channel=c&ttl=soon", "1", (400, 40003)),
        ("POST", batch, "{}", (400, 40006)),
        ("POST", batch, "[]", (400, 40003)),
        ("POST", batch, "{\"messages\":[]}", (400, 40006)),
        ("POST", batch, &four, (400, 40002)),
        ("GET", "/api/v1/history", "", (400, 40002)),
        ("GET", "/api/v1/history?channel=a..b", "", (400, 40001)),
        ("GET", "/api/v1/history?channel=c&after_seq=-1", "", (400, 40003)),
        ("GET", "/api/v1/history?channel=c&before_seq=x", "", (400, 40003)),
        ("GET", "/api/v1/history?channel=c&limit=0", "", (400, 40003)),
        ("GET", "/api/v1/history?channel=c&after_seq=1&before_seq=2", "", (400, 40003)),
        ("GET", "/nowhere", "", (404, 40400)),
        ("GET", "/api/v1/publish", "", (405, 40500)),
        ("PUT", "/api/v1/history?channel=c", "", (405, 40500)),
    ] {
        let answer = http.send(method, path, &[], body.as_bytes()).await;
        assert_eq!(answer.error(), expected, "{method} {path} {body}");
        assert_eq!(answer.header("content-type"), Some("application/json"));
    }
    let refused = http.post(publish, &large).await;
    assert_eq!((refused.error(), refused.header("connection")), ((413, 41301), Some("close")));
    let items = json!({"messages": [
        {"channel": "c", "payload": 1},
        {"channel": "c", "payload": "x".repeat(2000)},
        {"channel": "c", "payload": 2},
    ]});
    let results = hub.http().await.post(batch, items.to_string()).await.ok()["results"].clone();
    assert_eq!((&results[0]["seq_id"], &results[2]["seq_id"]), (&json!(1), &json!(2)));
    assert_eq!(
        (&results[1]["status"], &results[1]["index"], &results[1]["error"]["code"]),
        (&json!("error"), &json!(1), &json!(41301))
    );
}

#[tokio::test]
async fn history_reads_both_ways_and_says_truly_whether_there_is_more() {
    let hub = TestHub::start();
    hub.publish_numbers("c", 1, 25).await;
    let page = async |query: &str| {
        let page = hub.history(&format!("channel=c&{query}")).await;
        let seqs: Vec<_> = page["messages"].as_array().unwrap().iter().map(|m| m["seq_id"].as_u64().unwrap()).collect();
        assert_eq!((&page["first_seq"], &page["last_seq"]), (&json!(1), &json!(25)));
        (seqs, page["has_more"].as_bool().unwrap())
    };
    let range = |from: u64, to: u64| (from..=to).collect::<Vec<_>>();
    assert_eq!(page("").await, (range(1, 25), false));
    assert_eq!(page("limit=10").await, (range(1, 10), true));
    assert_eq!(page("after_seq=10&limit=10").await, (range(11, 20), true));
    assert_eq!(page("after_seq=15&limit=10").await, (range(16, 25), false), "exactly what was left");
    assert_eq!(page("after_seq=25").await, (vec![], false));
    assert_eq!(page("after_seq=99").await, (vec![], false));
    assert_eq!(page("before_seq=26&limit=10").await, (range(16, 25), true));
    assert_eq!(page("before_seq=11&limit=10").await, (range(1, 10), false));
    assert_eq!(page("before_seq=12&limit=10").await, (range(2, 11), true));
    assert_eq!(page("before_seq=1").await, (vec![], false));
    assert_eq!(page("before_seq=0").await, (vec![], false));
    assert_eq!(page(&format!("before_seq={}&limit=2", u64::MAX)).await, (vec![24, 25], true));
    let unknown = hub.history("channel=unknown").await;
    assert_eq!(
        (&unknown["messages"], &unknown["has_more"], &unknown["last_seq"]),
        (&json!([]), &json!(false), &json!(0))
    );
}

#[tokio::test]
async fn requests_may_be_sent_ahead_of_their_answers() {
    let hub = TestHub::start();
    let mut http = hub.http().await;
    let mut bytes = Vec::new();
    for n in 0..50 {
        let body = format!("{{\"channel\":\"c\",\"payload\":{n}}}");
        let key = hub.keys.admin_key();
        bytes.extend(
            format!("POST /api/v1/publish HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {key}\r\ncontent-length: {}\r\n\r\n{body}", body.len())
                .into_bytes(),
        );
    }
    let first = within(DEADLINE, "the first answer", http.raw(&bytes)).await.unwrap();
    assert_eq!(first.ok()["seq_id"], 1);
    for n in 2..=50 {
        assert_eq!(within(DEADLINE, "an answer", http.response()).await.unwrap().ok()["seq_id"], n);
    }
}

#[tokio::test]
async fn who_sends_a_head_or_a_body_too_slowly_is_let_go() {
    let hub = TestHub::plan().toml("[server]\nheader_timeout = \"3s\"").start();
    let began = Instant::now();
    let mut silent = hub.http().await;
    assert!(silent.is_closed().await);
    let mut half_a_head = tokio::net::TcpStream::connect(hub.address).await.unwrap();
    half_a_head.write_all(b"GET /healthz HTT").await.unwrap();
    let mut half = Vec::new();
    let end = within(DEADLINE, "an end", tokio::io::AsyncReadExt::read_to_end(&mut half_a_head, &mut half)).await;
    assert!(end.is_err() || !String::from_utf8_lossy(&half).contains("200"), "{half:?}");
    let mut slow = hub.http().await;
    let head = format!(
        "POST /api/v1/publish HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {}\r\ncontent-length: 100\r\n\r\n{{",
        hub.keys.admin_key()
    );
    let answer = within(DEADLINE, "an answer", slow.raw(head.as_bytes())).await.unwrap();
    assert_eq!(answer.error(), (408, 40801));
    assert!(slow.is_closed().await);
    assert!(began.elapsed() < 2 * DEADLINE, "{:?}", began.elapsed());
}

#[tokio::test]
async fn the_page_comes_from_the_hub_alone() {
    let hub = TestHub::start();
    let page = hub.http_as(None).await.get("/").await;
    assert_eq!(page.status, 200);
    assert!(page.header("content-security-policy").is_some_and(|policy| policy.contains("default-src 'none'")));
    for outside in ["src=\"http", "href=\"http", "@import", "url(http"] {
        assert!(!page.text().contains(outside), "{outside}");
    }
}
