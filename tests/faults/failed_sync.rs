//! An fsync that fails: what it was for is not acknowledged, and not believed to be on the disk either, though Linux shows it.

use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use aether::kernel::log::{Appended, Entry, Log, Range};
use aether::kernel::message::{ChannelName, Message};
use aether::kernel::policy::{Ack, Policy, Retention};
use aether::stores::sled::{Disk, RealDisk, SledLog};

use super::disk::Mount;
use super::storm::Loss;
use super::{dice, storm};
use crate::common::*;

/// Behind the file system there is less room than it claims: writes succeed, and their fsync says that they did not.
async fn survives(loss: Loss) {
    let dir = TempDir::new();
    let Some(behind) = Mount::memory(&dir.path().join("behind"), 96) else { return };
    let Some(mut disk) = Mount::thin(&dir.path().join("data"), &behind, 256) else { return };
    if loss == Loss::Nothing {
        let Some(honest) = disk.honest() else { return };
        disk = honest;
    }
    let mut hub = storm::hub(&dir, "").await;
    storm::ride(&mut hub, dice(), 3, loss, || behind.fill(0), || behind.make_room()).await;
    drop((hub, disk));
}

#[tokio::test]
async fn a_disk_that_takes_what_it_cannot_keep_and_says_so_loses_nothing() {
    survives(Loss::Nothing).await;
}

/// At the end of its room it says of one write that it is kept, and it is not.
#[tokio::test]
async fn what_a_disk_that_lies_has_lost_is_told() {
    survives(Loss::Told).await;
}

/// Syncs as long as it is told to.
#[derive(Default)]
struct Moody(AtomicBool);

impl Disk for Moody {
    fn sync(&self, file: &File) -> io::Result<()> {
        if self.0.load(Ordering::Relaxed) {
            return Err(io::Error::other("no"));
        }
        RealDisk.sync(file)
    }

    fn room(&self, directory: &Path) -> io::Result<u64> {
        RealDisk.room(directory)
    }
}

fn entry(channel: &ChannelName, text: &str) -> Entry {
    let message = Message { payload: text.to_owned().into(), ..Message::default() };
    Entry { channel: channel.clone(), message, key: None, time: 1, expires: None, once: None }
}

#[tokio::test]
async fn after_a_failed_sync_nothing_is_acknowledged_until_the_store_was_read_anew() {
    let dir = TempDir::new();
    let disk = Arc::new(Moody::default());
    let second = Duration::from_secs(1);
    let log = SledLog::open_on(disk.clone(), &dir.path().join("store"), 1 << 20, second, 60 * second).unwrap();
    let keep_all = Retention { count: None, age: None, bytes: None };
    let synced = Policy { history: Some(keep_all), ack: Ack::Synced, ..Policy::default() };
    let weak = Policy { ack: Ack::Memory, ..synced };
    let (a, b) = (ChannelName::new("a").unwrap(), ChannelName::new("b").unwrap());
    log.open(&a, &synced).await.unwrap();
    log.open(&b, &weak).await.unwrap();
    let one_each = [entry(&a, "1"), entry(&b, "1")];
    log.append(&one_each).await.unwrap();
    log.settle(Ack::Synced).await.unwrap();

    disk.0.store(true, Ordering::Relaxed);
    log.append(&[entry(&a, "2"), entry(&b, "2")]).await.unwrap();
    let error = log.settle(Ack::Synced).await.unwrap_err().to_string();
    assert!(error.contains("fdatasync"), "{error}");
    // A second one would succeed on Linux, for what the first one was for: it is not even tried.
    disk.0.store(false, Ordering::Relaxed);
    assert!(log.settle(Ack::Synced).await.is_err());
    assert!(log.append(&one_each).await.is_err());
    assert!(log.failure().unwrap().contains("by itself"));
    let range = |after| Range {
        from: aether::kernel::log::From::After { after, upto: u64::MAX },
        count: 10,
        bytes: usize::MAX,
        now: 1,
    };
    assert_eq!(log.read(&a, range(0)).await.unwrap().publications[0].message.payload, "1", "it can be read");

    disk.0.store(true, Ordering::Relaxed);
    assert!(!log.mend().await.unwrap(), "the disk still says no");
    assert!(log.failure().unwrap().contains("nothing can be written"), "{:?}", log.failure());
    disk.0.store(false, Ordering::Relaxed);
    until("it is mended", async || log.mend().await.unwrap()).await;
    assert_eq!(log.failure(), None);

    let extent = log.open(&a, &synced).await.unwrap();
    let page = log.read(&a, range(0)).await.unwrap();
    assert_eq!(page.publications.len() as u64, extent.last, "what is there is there, and nothing else is claimed");
    let reserved = log.open(&b, &weak).await.unwrap();
    assert!(reserved.last > 2 && reserved.epoch == extent.epoch, "{reserved:?}: a reader may have seen some");
    let appended = log.append(&one_each).await.unwrap();
    log.settle(Ack::Synced).await.unwrap();
    let offsets: Vec<u64> = appended
        .into_iter()
        .map(|appended| match appended {
            Appended::New { offset, .. } | Appended::Repeat { offset, .. } => offset,
        })
        .collect();
    assert_eq!(offsets, [extent.last + 1, reserved.last + 1]);
}
