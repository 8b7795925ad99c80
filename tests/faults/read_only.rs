//! A store that may be read and not written: as a disk that fills up, with another word from the system.

use super::disk::{Mount, lock};
use super::storm::Loss;
use super::{dice, storm};
use crate::common::*;

#[tokio::test]
async fn a_store_that_becomes_read_only_is_survived() {
    let dir = TempDir::new();
    let Some(memory) = Mount::memory(&dir.path().join("memory"), 300) else { return };
    // A file system that knows files which nobody may change.
    let Some(_disk) = Mount::thin(&dir.path().join("data"), &memory, 256) else { return };
    let mut hub = storm::hub(&dir, "").await;
    let store = dir.path().join("data/store");
    let paths = ["db", "blobs", "journal.0", "journal.1", "."].map(|name| store.join(name));
    storm::ride(&mut hub, dice(), 3, Loss::Nothing, || assert!(lock(&paths, true)), || assert!(lock(&paths, false)))
        .await;
    drop(hub);
}
