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
#[tokio::test]
async fn a_file_that_may_not_grow_is_survived() {
    let dir = TempDir::new();
    let mut hub = storm::hub(&dir, "min_free = \"0\"").await;
    let pid = hub.pid().to_string();
    let limit = |bytes: &str| {
        let done = Command::new("prlimit").args(["--pid", &pid, &format!("--fsize={bytes}:unlimited")]).status();
        assert!(done.is_ok_and(|ended| ended.success()), "prlimit is of util-linux");
    };
    storm::ride(&mut hub, dice(), 3, Loss::Nothing, || limit("4096"), || limit("unlimited")).await;
}
