//! No room: publishes are refused with what to do, readers go on, and so do publishers as soon as there is room again.

use std::process::Command;

use super::disk::Mount;
use super::storm::Loss;
use super::{dice, storm};
use crate::common::*;

#[tokio::test]
async fn a_disk_that_fills_up_is_left_with_the_room_that_the_operator_wants() {
    let dir = TempDir::new();
    let Some(disk) = Mount::memory(&dir.path().join("data"), 48) else { return };
    let mut hub = storm::hub(&dir, "min_free = \"8MiB\"").await;
    storm::ride(&mut hub, dice(), 3, Loss::Nothing, || disk.fill(6), || disk.make_room()).await;
    drop(hub);
}

#[tokio::test]
async fn a_disk_without_any_room_left_is_survived() {
    let dir = TempDir::new();
    let Some(disk) = Mount::memory(&dir.path().join("data"), 48) else { return };
    let mut hub = storm::hub(&dir, "min_free = \"0\"").await;
    storm::ride(&mut hub, dice(), 3, Loss::Nothing, || disk.fill(0), || disk.make_room()).await;
    drop(hub);
}

/// The limit of a file's size says no in the same way, and nobody needs to be root.
fn limit(pid: u32, bytes: &str) {
    let (pid, bytes) = (pid.to_string(), format!("--fsize={bytes}:unlimited"));
    let done = Command::new("prlimit").args(["--pid", &pid, &bytes]).status();
    assert!(done.is_ok_and(|ended| ended.success()), "prlimit is of util-linux");
}

#[tokio::test]
async fn a_file_that_may_not_grow_is_survived() {
    let dir = TempDir::new();
    let mut hub = storm::hub(&dir, "min_free = \"0\"").await;
    let pid = hub.pid();
    storm::ride(&mut hub, dice(), 3, Loss::Nothing, || limit(pid, "4096"), || limit(pid, "unlimited")).await;
}

/// sled splits a page of more than 16 values when somebody next comes by, even to read.
#[tokio::test]
async fn what_is_stored_is_read_though_the_last_message_that_was_written_has_filled_its_page() {
    let dir = TempDir::new();
    let hub = storm::hub(&dir, "min_free = \"0\"").await;
    let mut http = Http::connect(hub.address, Some(&hub.admin_key)).await;
    let message = |n: u64| json!({"channel": "a", "payload": n}).to_string();
    for n in 1..=16 {
        assert_eq!(http.post("/api/v1/publish", message(n)).await.ok()["seq_id"], n);
    }
    limit(hub.pid(), "1");
    assert_eq!(http.post("/api/v1/publish", message(17)).await.error(), (503, 50301));
    let past = http.get("/api/v1/history?channel=a&after_seq=0&limit=100").await;
    assert_eq!(past.ok()["messages"].as_array().unwrap().len(), 16);
}
