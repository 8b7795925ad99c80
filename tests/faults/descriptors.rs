//! No more files may be open: strangers wait or are turned away, and those who are inside notice nothing.

use std::process::Command;
use std::time::Duration;

use tokio::net::TcpStream;

use crate::common::*;

/// Sets how many files a process may have open; it can have more already.
fn limit(hub: &Spawned, files: usize) {
    let arguments = ["--pid".to_owned(), hub.pid().to_string(), format!("--nofile={files}:")];
    let done = Command::new("prlimit").args(arguments).status();
    assert!(done.is_ok_and(|ended| ended.success()), "prlimit is of util-linux");
}

fn open_files(hub: &Spawned) -> usize {
    std::fs::read_dir(format!("/proc/{}/fd", hub.pid())).unwrap().count()
}

async fn figure(http: &mut Http, name: &str) -> f64 {
    parse_metrics(http.get("/metrics").await.text())[name]
}

#[tokio::test]
async fn without_files_accepting_rests_says_so_once_and_goes_on_by_itself() {
    let dir = TempDir::new();
    dir.write("aether.toml", "[server]\nmax_payload_size = \"1MiB\"\n");
    let at = dir.path().to_owned();
    let mut hub = tokio::task::spawn_blocking(move || Spawned::start(&at)).await.unwrap();
    let token = hub.token(&["*"]);
    let mut readers = Vec::new();
    for _ in 0..10 {
        let mut ws = WsClient::connect(hub.address, Some(&token)).await;
        ws.subscribe(&["c"]).await;
        readers.push(ws);
    }
    let mut http = Http::connect(hub.address, Some(&hub.admin_key)).await;
    let large = "x".repeat(150_000);
    let mut published = 0;
    let mut publish = async |http: &mut Http| {
        published += 1;
        let body = json!({"channel": "c", "payload": large}).to_string();
        assert_eq!(http.post("/api/v1/publish", body).await.ok()["seq_id"], published);
    };
    publish(&mut http).await;

    // Some may come in, and the last files are the hub's own: a large message takes one.
    limit(&hub, open_files(&hub) + 40);
    let mut strangers = Vec::new();
    for _ in 0..80 {
        strangers.push(TcpStream::connect(hub.address).await.unwrap());
    }
    until("some are turned away", async || figure(&mut http, "aether_connections_refused_total").await > 0.0).await;
    assert_eq!(figure(&mut http, "aether_accept_rests_total").await, 0.0);
    // As long as there are files for that, with a word.
    until("a stranger hears why", async || {
        let mut stranger = Http::connect(hub.address, None).await;
        let answer = stranger.try_send("GET", "/healthz", &[], b"").await;
        answer.is_ok_and(|answer| answer.error() == (503, 50303))
    })
    .await;
    publish(&mut http).await;
    drop(strangers);
    until("there is room again", async || {
        let mut http = Http::connect(hub.address, None).await;
        http.try_send("GET", "/healthz", &[], b"").await.is_ok_and(|answer| answer.status == 200)
    })
    .await;

    // And now there is not one left.
    limit(&hub, 16);
    let mut waiting = Http::connect(hub.address, None).await;
    until("accepting rests", async || figure(&mut http, "aether_accept_rests_total").await > 3.0).await;
    for n in 0..20 {
        http.post("/api/v1/publish", json!({"channel": "c", "payload": n}).to_string()).await.ok();
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    limit(&hub, 1024);
    assert_eq!(waiting.get("/healthz").await.status, 200, "who waited is served");
    for ws in &mut readers {
        let seen = ws.read_to("c", 22).await;
        seen.assert_exactly(1, 22);
    }
    assert!(hub.try_wait().is_none());
    hub.signal("TERM");
    hub.wait().await;
    let log = hub.stderr();
    assert_eq!(log.matches("no connection can be accepted").count(), 1, "{log}");
}
