//! What a store has acknowledged is in its journal before sled has written any of it, and comes back from there after a crash.
//!
//! A crash is a copy of the store's files while it is in use, made at a moment when nothing is written.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use std::{fs, io};

use aether::kernel::kv::Kv;
use aether::kernel::log::{Appended, Entry, From, Log, Page, Range};
use aether::kernel::message::{ChannelName, Message, Offset};
use aether::kernel::policy::{Ack, Policy, Retention};
use aether::stores::sled::{Disk, OpenError, RealDisk, SledLog};

use crate::common::{DEADLINE, TempDir, until, within};

const HOUR: Duration = Duration::from_secs(3600);
const NOW: u64 = 1_800_000_000_000_000;
const FILES: [&str; 2] = ["journal.0", "journal.1"];

/// sled writes nothing by itself.
fn open(store: &Path) -> Result<SledLog, OpenError> {
    SledLog::open(store, 8 << 20, HOUR, HOUR)
}

fn name(text: &str) -> ChannelName {
    ChannelName::new(text).unwrap()
}

fn keep(count: Option<u64>) -> Policy {
    Policy { history: Some(Retention { count, age: None, bytes: None }), ..Policy::default() }
}

fn entry(channel: &str, payload: Vec<u8>, key: Option<&str>) -> Entry {
    let message = Message { payload: payload.into(), ..Message::default() };
    Entry { channel: name(channel), message, key: key.map(Into::into), time: NOW, expires: None, once: None }
}

async fn publish(log: &SledLog, batch: &[Entry]) -> Vec<Appended> {
    let appended = log.append(batch).await.unwrap();
    log.settle(Ack::Synced).await.unwrap();
    appended
}

/// An open store with a publication, `1`.
async fn with_one(store: &Path, channel: &str) -> SledLog {
    let log = open(store).unwrap();
    log.open(&name(channel), &keep(None)).await.unwrap();
    publish(&log, &[entry(channel, b"1".to_vec(), None)]).await;
    log
}

async fn all(log: &SledLog, channel: &str) -> Page {
    let range =
        Range { from: From::After { after: 0, upto: Offset::MAX }, count: usize::MAX, bytes: usize::MAX, now: NOW };
    log.read(&name(channel), range).await.unwrap()
}

fn copy(from: &Path, to: PathBuf) -> PathBuf {
    fs::create_dir_all(&to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let target = to.join(path.file_name().unwrap());
        if path.is_dir() {
            copy(&path, target);
        } else {
            fs::copy(&path, target).unwrap();
        }
    }
    to
}

/// What the journal of a store in use has, and nothing of what sled has been given since `before` was copied.
fn crash(store: &Path, before: &Path, to: PathBuf) -> PathBuf {
    let to = copy(before, to);
    for file in FILES {
        fs::copy(store.join(file), to.join(file)).unwrap();
    }
    to
}

#[tokio::test]
async fn what_was_acknowledged_comes_back_though_sled_has_written_nothing_of_it() {
    let dir = TempDir::new();
    let store = dir.path().join("store");
    let log = open(&store).unwrap();
    let before = copy(&store, dir.path().join("before"));
    for (channel, policy) in [("plain", keep(None)), ("few", keep(Some(3))), ("gone", keep(None))] {
        log.open(&name(channel), &policy).await.unwrap();
    }
    for n in 0..60 {
        let large = vec![n; 20_000];
        let key = n.to_string();
        let batch = ["plain", "few", "gone"].map(|channel| entry(channel, vec![n], None));
        publish(&log, &batch).await;
        publish(&log, &[entry("plain", large, None), entry("plain", vec![n], Some(&key))]).await;
    }
    log.forget(&name("gone")).await.unwrap();
    publish(&log, &[entry("gone", b"after".to_vec(), None)]).await;
    log.kv().put(b"rule", b"kept").unwrap();
    log.kv().put(b"other", b"dropped").unwrap();
    log.kv().delete(b"other").unwrap();
    log.kv().sync().unwrap();

    let crashed = crash(&store, &before, dir.path().join("crashed"));
    let again = open(&crashed).unwrap();
    for (channel, policy) in [("plain", keep(None)), ("few", keep(Some(3))), ("gone", keep(None))] {
        let extent = log.open(&name(channel), &policy).await.unwrap();
        assert_eq!(again.open(&name(channel), &policy).await.unwrap(), extent, "{channel}");
        let (page, expected) = (all(&again, channel).await, all(&log, channel).await);
        assert_eq!(page.publications, expected.publications, "{channel}");
        assert!(page.lost.is_empty() && !page.publications.is_empty(), "{channel}");
    }
    let repeat = publish(&again, &[entry("plain", vec![7], Some("7"))]).await;
    assert_eq!(repeat, [Appended::Repeat { offset: 24, time: NOW }], "its key came back with it");
    let kept = again.kv().scan(b"", None, 9).unwrap();
    assert_eq!(kept, [(b"rule".to_vec(), b"kept".to_vec())]);

    // The same again from where that has come to: what was done again is on disk.
    publish(&again, &[entry("plain", b"second life".to_vec(), None)]).await;
    let twice = crash(&crashed, &crashed, dir.path().join("twice"));
    let third = open(&twice).unwrap();
    assert_eq!(third.open(&name("plain"), &keep(None)).await.unwrap().last, 181);
}

/// A store of thirty groups, in its journal alone; where that ends.
async fn thirty(dir: &TempDir, ack: Ack) -> (PathBuf, Vec<u8>, usize) {
    let store = dir.path().join("store");
    let log = open(&store).unwrap();
    log.open(&name("a"), &keep(None)).await.unwrap();
    let before = copy(&store, dir.path().join("before"));
    for n in 1..=30u8 {
        log.append(&[entry("a", vec![n; 50], None)]).await.unwrap();
        log.settle(ack).await.unwrap();
    }
    let journal = fs::read(store.join("journal.0")).unwrap();
    let end = journal.iter().rposition(|byte| *byte != 0).unwrap() + 1;
    (before, journal, end)
}

/// Opens what a crash has left of it, and says how many groups came back: the first ones.
async fn come_back(before: &Path, journal: &[u8]) -> Result<u64, OpenError> {
    let crashed = copy(before, before.with_file_name("crashed"));
    fs::write(crashed.join("journal.0"), journal).unwrap();
    let outcome = match open(&crashed) {
        Err(refused) => Err(refused),
        Ok(again) => {
            let last = again.open(&name("a"), &keep(None)).await.unwrap().last;
            let page = all(&again, "a").await;
            let payloads: Vec<u8> = page.publications.iter().map(|p| p.message.payload[0]).collect();
            assert_eq!(payloads, (1..=last as u8).collect::<Vec<_>>());
            let next = publish(&again, &[entry("a", vec![0], None)]).await;
            assert_eq!(next, [Appended::New { offset: last + 1, time: NOW }]);
            Ok(last)
        }
    };
    fs::remove_dir_all(crashed).unwrap();
    outcome
}

#[tokio::test]
async fn a_journal_that_ends_within_a_record_is_taken_up_to_there() {
    let dir = TempDir::new();
    let (before, journal, end) = thirty(&dir, Ack::Synced).await;
    let mut reached = 0;
    for at in (20..end).step_by(end / 97).chain([end]) {
        let torn: Vec<u8> = journal[..at].iter().copied().chain(journal[at..].iter().map(|_| 0)).collect();
        let (short, zeros) =
            (come_back(&before, &journal[..at]).await.unwrap(), come_back(&before, &torn).await.unwrap());
        assert!(short == zeros && short >= reached, "at {at} of {end}: {short}, {zeros}");
        reached = short;
    }
    assert_eq!(reached, 30);
}

#[tokio::test]
async fn what_was_on_the_disk_and_has_changed_there_is_damage_and_what_never_was_is_not() {
    for (ack, refused_at_least) in [(Ack::Synced, 90), (Ack::Written, 0)] {
        let dir = TempDir::new();
        let (before, journal, end) = thirty(&dir, ack).await;
        let mut refused = 0;
        for at in (0..end).step_by(end / 97) {
            let mut changed = journal.clone();
            changed[at] ^= 0x40;
            match come_back(&before, &changed).await {
                Err(error) => {
                    refused += 1;
                    assert!(error.to_string().contains("damaged"), "{error}");
                }
                Ok(last) => assert!(ack == Ack::Written || last == 29, "{ack:?} at {at} of {end}: {last}"),
            }
        }
        assert!(refused >= refused_at_least && (ack == Ack::Synced || refused < 3), "{ack:?}: {refused}");
    }
}

#[tokio::test]
async fn its_files_take_turns_and_what_is_in_neither_is_in_sled() {
    let dir = TempDir::new();
    let store = dir.path().join("store");
    let log = open(&store).unwrap();
    log.open(&name("a"), &keep(None)).await.unwrap();
    let before = copy(&store, dir.path().join("before"));
    let group = |n: u8| -> Vec<Entry> { (0..15).map(|_| entry("a", vec![n; 60_000], None)).collect() };
    let halfway = dir.path().join("halfway");
    for n in 0..60 {
        publish(&log, &group(n)).await;
        if n == 25 {
            copy(&store, halfway.clone());
        }
    }
    let longest = 17 << 20;
    let sizes = FILES.map(|file| fs::metadata(store.join(file)).unwrap().len());
    assert!(sizes.iter().all(|size| *size <= longest), "{sizes:?}: they begin anew");

    for (crashed, groups) in [(halfway, 26), (copy(&store, dir.path().join("crashed")), 60)] {
        let again = open(&crashed).unwrap();
        let extent = again.open(&name("a"), &keep(None)).await.unwrap();
        assert_eq!((extent.first, extent.last), (1, groups * 15));
        let page = all(&again, "a").await;
        let as_published = |at: usize| page.publications[at].message.payload == vec![(at / 15) as u8; 60_000];
        assert!(page.publications.len() as u64 == extent.last && (0..extent.last as usize).all(as_published));
    }

    // A sled that has lost what it had been given before the journal began anew.
    let lost = crash(&store, &before, dir.path().join("lost"));
    let refused = open(&lost).err().unwrap().to_string();
    assert!(refused.contains("damaged") && refused.contains("missing in its journal"), "{refused}");
}

#[tokio::test]
async fn after_a_proper_end_there_is_no_journal_and_after_another_one_it_must_be_there() {
    let dir = TempDir::new();
    let store = dir.path().join("store");
    let log = with_one(&store, "a").await;
    let crashed = copy(&store, dir.path().join("crashed"));
    log.shut().await.unwrap();
    drop(log);
    assert!(FILES.iter().all(|file| !store.join(file).exists()));
    assert_eq!(open(&store).unwrap().open(&name("a"), &keep(None)).await.unwrap().last, 1);

    for how in ["emptied", "removed"] {
        let journal = crashed.join("journal.0");
        if how == "emptied" {
            fs::write(journal, []).unwrap()
        } else {
            fs::remove_file(journal).unwrap()
        }
        let refused = open(&crashed).err().unwrap().to_string();
        assert!(refused.contains("damaged (its journal is missing)"), "{how}: {refused}");
    }
}

#[tokio::test]
async fn a_channel_that_came_back_from_the_journal_shares_its_number_with_no_later_one() {
    let dir = TempDir::new();
    let store = dir.path().join("store");
    let log = with_one(&store, "first").await;
    log.shut().await.unwrap();
    drop(log);
    let log = open(&store).unwrap();
    let before = copy(&store, dir.path().join("before"));
    log.open(&name("second"), &keep(None)).await.unwrap();
    publish(&log, &[entry("second", b"2".to_vec(), None)]).await;

    let again = open(&crash(&store, &before, dir.path().join("crashed"))).unwrap();
    for channel in ["first", "second", "third"] {
        again.open(&name(channel), &keep(None)).await.unwrap();
    }
    publish(&again, &[entry("third", b"3".to_vec(), None)]).await;
    for (channel, payload) in [("first", "1"), ("second", "2"), ("third", "3")] {
        let page = all(&again, channel).await;
        let payloads: Vec<_> = page.publications.iter().map(|p| p.message.payload.clone()).collect();
        assert_eq!(payloads, [payload], "{channel}");
    }
}

#[tokio::test]
async fn a_store_from_before_there_was_a_journal_opens_as_it_is() {
    for proper in [true, false] {
        let dir = TempDir::new();
        let store = dir.path().join("store");
        let log = with_one(&store, "a").await;
        if proper {
            log.shut().await.unwrap();
        }
        drop(log);
        let old = sled::open(&store).unwrap();
        let meta = old.open_tree("meta").unwrap();
        meta.insert("format", "aether-log-1").unwrap();
        meta.remove("noted").unwrap();
        drop((meta, old));
        FILES.iter().for_each(|file| drop(fs::remove_file(store.join(file))));
        for _ in 0..2 {
            let log = open(&store).unwrap();
            assert_eq!(log.open(&name("a"), &keep(None)).await.unwrap().last, 1);
        }
    }
}

/// While it is held, whoever syncs waits.
#[derive(Default)]
struct Held {
    is_held: AtomicBool,
    is_asked: AtomicBool,
}

impl Disk for Held {
    fn sync(&self, file: &fs::File) -> io::Result<()> {
        self.is_asked.store(true, Ordering::SeqCst);
        while self.is_held.load(Ordering::SeqCst) {
            std::thread::sleep(Duration::from_millis(1));
        }
        RealDisk.sync(file)
    }

    fn room(&self, directory: &Path) -> io::Result<u64> {
        RealDisk.room(directory)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rules_write_to_their_store_while_a_slow_disk_syncs_a_group() {
    let dir = TempDir::new();
    let disk = Arc::new(Held::default());
    let log = SledLog::open_on(disk.clone(), &dir.path().join("store"), 8 << 20, HOUR, HOUR).unwrap();
    log.open(&name("a"), &keep(None)).await.unwrap();
    log.append(&[entry("a", b"1".to_vec(), None)]).await.unwrap();
    disk.is_asked.store(false, Ordering::SeqCst);
    disk.is_held.store(true, Ordering::SeqCst);
    let settling = tokio::task::spawn_blocking({
        let log = log.clone();
        move || tokio::runtime::Handle::current().block_on(log.settle(Ack::Synced))
    });
    until("the group is being synced", async || disk.is_asked.load(Ordering::SeqCst)).await;
    let written = tokio::task::spawn_blocking({
        let log = log.clone();
        move || log.kv().put(b"rule", b"kept")
    });
    within(DEADLINE, "a rule's write", written).await.unwrap().unwrap();
    disk.is_held.store(false, Ordering::SeqCst);
    within(DEADLINE, "the group", settling).await.unwrap().unwrap();
    assert_eq!(log.kv().get(b"rule").unwrap().as_deref(), Some(&b"kept"[..]));
}
