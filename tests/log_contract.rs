//! What every store must do: one suite, run for each of them. A new store joins by a line at the end.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use aether::kernel::log::{Appended, Entry, Extent, From, Log, Page, Range};
use aether::kernel::message::{ChannelName, Media, Message, Micros, Offset};
use aether::kernel::policy::{Ack, Policy, Retention};
use aether::stores::memory::MemoryLog;
use aether::stores::sled::{OpenError, SledLog};

use crate::common::{DEADLINE, TempDir, within};

const SECOND: Micros = 1_000_000;
/// When the tests begin: stores are told the time, they have no clock.
const START: Micros = 1_800_000_000 * SECOND;
/// How long keys are remembered here.
const WINDOW: Duration = Duration::from_secs(60);

trait Store: Log + Sized {
    fn begin(dir: &Path) -> Self;
}

impl Store for MemoryLog {
    fn begin(_dir: &Path) -> Self {
        MemoryLog::new(WINDOW)
    }
}

impl Store for SledLog {
    fn begin(dir: &Path) -> Self {
        open_sled(dir).unwrap()
    }
}

fn open_sled(dir: &Path) -> Result<SledLog, OpenError> {
    SledLog::open(&dir.join("store"), 8 << 20, Duration::from_millis(100), WINDOW)
}

fn name(text: &str) -> ChannelName {
    ChannelName::new(text).unwrap()
}

fn keep(count: Option<u64>, age: Option<Duration>, bytes: Option<u64>) -> Policy {
    Policy { history: Some(Retention { count, age, bytes }), ..Policy::default() }
}

fn keep_all() -> Policy {
    keep(None, None, None)
}

fn entry(channel: &str, payload: impl Into<Vec<u8>>, time: Micros) -> Entry {
    let message = Message { payload: payload.into().into(), ..Message::default() };
    Entry { channel: name(channel), message, key: None, time, expires: None, once: None }
}

fn keyed(channel: &str, key: &str, time: Micros) -> Entry {
    Entry { key: Some(key.into()), ..entry(channel, "x", time) }
}

/// Appends `count` messages in batches of seven; the payload is the offset.
async fn append_numbers(log: &impl Log, channel: &str, first: Offset, last: Offset) {
    for chunk in (first..=last).collect::<Vec<_>>().chunks(7) {
        let batch: Vec<_> = chunk.iter().map(|n| entry(channel, n.to_string(), START + n)).collect();
        let appended = log.append(&batch).await.unwrap();
        let expected: Vec<_> = chunk.iter().map(|n| Appended::New { offset: *n, time: START + n }).collect();
        assert_eq!(appended, expected);
    }
}

async fn read(log: &impl Log, channel: &str, from: From, count: usize, bytes: usize, now: Micros) -> Page {
    log.read(&name(channel), Range { from, count, bytes, now }).await.unwrap()
}

fn after(after: Offset) -> From {
    From::After { after, upto: Offset::MAX }
}

/// Everything that can be read.
async fn all(log: &impl Log, channel: &str, now: Micros) -> Page {
    let page = read(log, channel, after(0), usize::MAX, usize::MAX, now).await;
    assert!(!page.more);
    page
}

fn offsets(page: &Page) -> Vec<Offset> {
    page.publications.iter().map(|publication| publication.offset).collect()
}

fn range(first: Offset, last: Offset) -> Vec<Offset> {
    (first..=last).collect()
}

async fn offsets_go_1_2_3_per_channel_and_a_batch_is_taken_whole_or_not_at_all<S: Store>() {
    let dir = TempDir::new();
    let log = S::begin(dir.path());
    let extent = log.open(&name("a"), &keep_all()).await.unwrap();
    assert_eq!((extent.first, extent.last), (1, 0));
    log.open(&name("b"), &keep_all()).await.unwrap();
    let batch: Vec<_> = ["a", "b", "a", "a", "b"].map(|channel| entry(channel, channel, START)).into();
    let appended = log.append(&batch).await.unwrap();
    assert_eq!(appended, [1, 1, 2, 3, 2].map(|offset| Appended::New { offset, time: START }));
    let broken = [entry("a", "x", START), entry("never.opened", "x", START)];
    assert!(log.append(&broken).await.is_err());
    assert_eq!(offsets(&all(&log, "a", START).await), [1, 2, 3]);
    assert!(log.append(&[]).await.unwrap().is_empty());
    append_numbers(&log, "a", 4, 40).await;
    let page = all(&log, "a", START).await;
    assert_eq!(page.extent, Extent { first: 1, last: 40, ..extent });
    assert_eq!((offsets(&page), page.lost), (range(1, 40), vec![]));
    for publication in &page.publications[3..] {
        assert_eq!(publication.message.payload, publication.offset.to_string());
        assert_eq!(publication.time, START + publication.offset);
    }
    assert_eq!(log.open(&name("a"), &keep_all()).await.unwrap(), page.extent, "opening again is harmless");
}

async fn a_message_comes_back_whole<S: Store>() {
    let dir = TempDir::new();
    let log = S::begin(dir.path());
    log.open(&name("a"), &keep_all()).await.unwrap();
    let messages = [
        Message { payload: b"\0\xff any bytes"[..].into(), media: Media::Binary, ..Message::default() },
        Message {
            payload: "text".into(),
            media: Media::Text,
            content_type: Some("text/plain".into()),
            ..Message::default()
        },
        Message {
            payload: b"null"[..].into(),
            event: Some("é".into()),
            meta: Some(b"{}"[..].into()),
            ..Message::default()
        },
        Message { payload: b""[..].into(), ..Message::default() },
        Message { payload: vec![7; 300_000].into(), media: Media::Binary, ..Message::default() },
    ];
    let expires = Some(START + SECOND);
    let batch = messages.clone().map(|message| Entry { message, expires, ..entry("a", "", START) });
    log.append(&batch).await.unwrap();
    log.settle(Ack::Synced).await.unwrap();
    let page = all(&log, "a", START).await;
    let kept: Vec<_> = page.publications.iter().map(|publication| publication.message.clone()).collect();
    assert!(kept == messages);
    assert!(page.publications.iter().all(|publication| publication.expires == expires && publication.time == START));
    assert_eq!(offsets(&all(&log, "a", START + SECOND).await), [0; 0], "what has outlived its time is not shown");
}

async fn a_known_key_answers_the_first_place_until_its_window_ends<S: Store>() {
    let dir = TempDir::new();
    let log = S::begin(dir.path());
    for channel in ["a", "b"] {
        log.open(&name(channel), &keep_all()).await.unwrap();
    }
    let first = Appended::New { offset: 1, time: START };
    let repeat = Appended::Repeat { offset: 1, time: START };
    let batch = [keyed("a", "k", START), keyed("a", "k", START), keyed("b", "k", START), entry("a", "y", START)];
    let appended = log.append(&batch).await.unwrap();
    assert_eq!(appended, [first, repeat, first, Appended::New { offset: 2, time: START }]);
    let inside = START + 59 * SECOND;
    assert_eq!(log.append(&[keyed("a", "k", inside)]).await.unwrap(), [repeat]);
    log.sweep(inside, &|_| keep_all()).await.unwrap();
    log.forget(&name("a")).await.unwrap();
    assert_eq!(
        log.append(&[keyed("a", "k", inside)]).await.unwrap(),
        [repeat],
        "neither sweeping nor deleting forgets it"
    );
    let outside = START + 61 * SECOND;
    assert_eq!(log.append(&[keyed("a", "k", outside)]).await.unwrap(), [Appended::New { offset: 3, time: outside }]);
    log.sweep(outside, &|_| keep_all()).await.unwrap();
    let again = Appended::Repeat { offset: 3, time: outside };
    assert_eq!(log.append(&[keyed("a", "k", outside + SECOND)]).await.unwrap(), [again]);
    assert_eq!(all(&log, "a", outside).await.publications.len(), 1);
    assert_eq!(all(&log, "b", outside).await.publications.len(), 1);
}

async fn reading_forward_and_back_is_bounded_and_says_whether_there_is_more<S: Store>() {
    let dir = TempDir::new();
    let log = S::begin(dir.path());
    log.open(&name("a"), &keep_all()).await.unwrap();
    append_numbers(&log, "a", 1, 50).await;
    let ask = async |from: From, count: usize, bytes: usize| {
        let page = read(&log, "a", from, count, bytes, START).await;
        assert_eq!((page.extent.first, page.extent.last), (1, 50));
        (offsets(&page), page.more)
    };
    let far = usize::MAX;
    assert_eq!(ask(after(0), 10, far).await, (range(1, 10), true));
    assert_eq!(ask(after(40), 10, far).await, (range(41, 50), false));
    assert_eq!(ask(after(50), 10, far).await, (vec![], false));
    assert_eq!(ask(after(99), 10, far).await, (vec![], false));
    assert_eq!(ask(From::After { after: 3, upto: 7 }, 10, far).await, (range(4, 7), false));
    assert_eq!(ask(From::After { after: 3, upto: 7 }, 2, far).await, (range(4, 5), true));
    assert_eq!(ask(From::After { after: 3, upto: 7 }, 4, far).await, (range(4, 7), false));
    assert_eq!(ask(From::After { after: 7, upto: 3 }, 10, far).await, (vec![], false));
    assert_eq!(ask(From::Before { before: 51 }, 10, far).await, (range(41, 50), true));
    assert_eq!(ask(From::Before { before: Offset::MAX }, 10, far).await, (range(41, 50), true));
    assert_eq!(ask(From::Before { before: 11 }, 10, far).await, (range(1, 10), false));
    assert_eq!(ask(From::Before { before: 12 }, 10, far).await, (range(2, 11), true));
    assert_eq!(ask(From::Before { before: 1 }, 10, far).await, (vec![], false));
    assert_eq!(ask(From::Before { before: 0 }, 10, far).await, (vec![], false));
    // However few bytes are asked for, one comes.
    assert_eq!(ask(after(0), 10, 1).await, (vec![1], true));
    assert_eq!(ask(From::Before { before: 51 }, 10, 1).await, (vec![50], true));
    let (some, more) = ask(after(0), 50, 700).await;
    assert!(more && some.len() > 5 && some.len() < 20, "{}", some.len());
    assert_eq!(some, range(1, some.len() as u64));
}

async fn no_more_than_the_count_can_be_read_at_any_moment<S: Store>() {
    let dir = TempDir::new();
    let log = S::begin(dir.path());
    let policy = keep(Some(10), None, None);
    log.open(&name("a"), &policy).await.unwrap();
    for last in [3, 10, 11, 17, 60, 1000] {
        let before = all(&log, "a", START).await.extent.last;
        append_numbers(&log, "a", before + 1, last).await;
        let first = if last > 10 { last - 9 } else { 1 };
        let page = all(&log, "a", START).await;
        assert_eq!((offsets(&page), page.extent.first, page.extent.last), (range(first, last), first, last));
        let back = read(&log, "a", From::Before { before: Offset::MAX }, 100, usize::MAX, START).await;
        assert_eq!((offsets(&back), back.more), (range(first, last), false));
    }
    log.sweep(START, &|_| policy).await.unwrap();
    assert_eq!(offsets(&all(&log, "a", START).await), range(991, 1000));
}

async fn what_is_too_old_is_not_read_and_then_swept<S: Store>() {
    let dir = TempDir::new();
    let log = S::begin(dir.path());
    let policy = keep(None, Some(Duration::from_secs(10)), None);
    log.open(&name("a"), &policy).await.unwrap();
    for n in 1..=20u64 {
        log.append(&[entry("a", "x", START + n * SECOND)]).await.unwrap();
    }
    let now = START + 25 * SECOND + SECOND / 2;
    assert_eq!(offsets(&all(&log, "a", now).await), range(16, 20));
    log.sweep(now, &|_| policy).await.unwrap();
    let page = all(&log, "a", now).await;
    assert_eq!((offsets(&page), page.extent.first), (range(16, 20), 16));
    let later = START + 3600 * SECOND;
    log.sweep(later, &|_| policy).await.unwrap();
    let page = all(&log, "a", later).await;
    assert_eq!((page.extent.first, page.extent.last), (21, 20), "all of it has gone, and its numbers have not");
    assert_eq!(log.append(&[entry("a", "x", later)]).await.unwrap(), [Appended::New { offset: 21, time: later }]);
}

async fn what_is_too_much_leaves_the_oldest_first_and_the_newest_always_stays<S: Store>() {
    let dir = TempDir::new();
    let log = S::begin(dir.path());
    let policy = keep(None, None, Some(10_000));
    log.open(&name("a"), &policy).await.unwrap();
    for _ in 0..200 {
        log.append(&[entry("a", vec![b'x'; 1000], START)]).await.unwrap();
    }
    log.sweep(START, &|_| policy).await.unwrap();
    let page = all(&log, "a", START).await;
    let kept = page.publications.len() as u64;
    assert!((5..=10).contains(&kept), "{kept} of 1000 bytes in 10,000");
    assert_eq!((offsets(&page), page.extent.first), (range(201 - kept, 200), 201 - kept));
    log.append(&[entry("a", vec![b'x'; 50_000], START)]).await.unwrap();
    log.sweep(START, &|_| policy).await.unwrap();
    assert_eq!(offsets(&all(&log, "a", START).await), [201]);
}

async fn what_is_forgotten_is_gone_and_its_numbers_are_not<S: Store>() {
    let dir = TempDir::new();
    let log = S::begin(dir.path());
    log.open(&name("a"), &keep_all()).await.unwrap();
    log.open(&name("b"), &keep_all()).await.unwrap();
    assert_eq!(log.forget(&name("b")).await.unwrap().last, 0, "there was nothing");
    append_numbers(&log, "a", 1, 3000).await;
    append_numbers(&log, "b", 1, 5).await;
    let extent = log.forget(&name("a")).await.unwrap();
    assert_eq!((extent.first, extent.last), (3001, 3000));
    assert_eq!(offsets(&all(&log, "a", START).await), [0; 0]);
    assert_eq!(offsets(&all(&log, "b", START).await), range(1, 5));
    append_numbers(&log, "a", 3001, 3002).await;
    assert_eq!(offsets(&all(&log, "a", START).await), [3001, 3002]);
}

async fn a_channel_that_left_memory_comes_back_as_it_was<S: Store>() {
    let dir = TempDir::new();
    let log = S::begin(dir.path());
    let policy = keep(Some(10), None, None);
    let epoch = log.open(&name("a"), &policy).await.unwrap().epoch;
    append_numbers(&log, "a", 1, 25).await;
    log.append(&[keyed("a", "k", START)]).await.unwrap();
    log.close(&name("a"));
    log.close(&name("never.opened"));
    assert_eq!(log.open(&name("a"), &policy).await.unwrap(), Extent { epoch, first: 17, last: 26 });
    assert_eq!(log.append(&[keyed("a", "k", START)]).await.unwrap(), [Appended::Repeat { offset: 26, time: START }]);
    assert_eq!(offsets(&all(&log, "a", START).await), range(17, 26));
    log.forget(&name("a")).await.unwrap();
    log.close(&name("a"));
    assert_eq!(log.open(&name("a"), &policy).await.unwrap(), Extent { epoch, first: 27, last: 26 });
}

async fn readers_see_whole_batches_in_order_while_the_log_grows<S: Store>() {
    let dir = TempDir::new();
    let log = Arc::new(S::begin(dir.path()));
    log.open(&name("a"), &keep_all()).await.unwrap();
    let writer = {
        let log = log.clone();
        tokio::spawn(async move {
            for first in (1..2000).step_by(10) {
                append_numbers(&*log, "a", first, first + 9).await;
                tokio::task::yield_now().await;
            }
        })
    };
    let reader = async {
        let mut reached = 0;
        while reached < 2000 {
            let page = read(&*log, "a", after(reached), 64, usize::MAX, START).await;
            for publication in &page.publications {
                reached += 1;
                assert_eq!(publication.offset, reached);
            }
            tokio::task::yield_now().await;
        }
    };
    within(DEADLINE, "the reader's end", reader).await;
    writer.await.unwrap();
}

macro_rules! suite {
    ($store:ty: $($test:ident)*) => {
        $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $test() {
            super::$test::<$store>().await;
        })*
    };
}

macro_rules! stores {
    ($($module:ident = $store:ty,)*) => {
        $(mod $module {
            use super::*;
            suite! { $store:
                offsets_go_1_2_3_per_channel_and_a_batch_is_taken_whole_or_not_at_all
                a_message_comes_back_whole
                a_known_key_answers_the_first_place_until_its_window_ends
                reading_forward_and_back_is_bounded_and_says_whether_there_is_more
                no_more_than_the_count_can_be_read_at_any_moment
                what_is_too_old_is_not_read_and_then_swept
                what_is_too_much_leaves_the_oldest_first_and_the_newest_always_stays
                what_is_forgotten_is_gone_and_its_numbers_are_not
                a_channel_that_left_memory_comes_back_as_it_was
                readers_see_whole_batches_in_order_while_the_log_grows
            }
        })*
    };
}

stores! {
    memory = MemoryLog,
    sled = SledLog,
}

// What only a store on disk can promise.

/// Fills a store, ends it properly and says how far its channels reached.
async fn filled(dir: &Path) -> [Extent; 3] {
    let log = open_sled(dir).unwrap();
    let mut extents = Vec::new();
    for channel in ["a", "evicted", "forgotten"] {
        log.open(&name(channel), &keep(Some(500), None, None)).await.unwrap();
        append_numbers(&log, channel, 1, if channel == "evicted" { 3000 } else { 40 }).await;
        if channel == "forgotten" {
            log.forget(&name(channel)).await.unwrap();
        }
        extents.push(all(&log, channel, START).await.extent);
    }
    log.append(&[keyed("a", "k", START)]).await.unwrap();
    extents[0].last = 41;
    log.append(&[entry("a", vec![9; 200_000], START)]).await.unwrap();
    extents[0].last = 42;
    log.settle(Ack::Synced).await.unwrap();
    log.shut().await.unwrap();
    extents.try_into().unwrap()
}

#[tokio::test]
async fn a_store_that_is_opened_again_is_the_same() {
    let dir = TempDir::new();
    let extents = filled(dir.path()).await;
    for _ in 0..2 {
        let log = open_sled(dir.path()).unwrap();
        for (channel, extent) in ["a", "evicted", "forgotten"].into_iter().zip(extents) {
            let opened = log.open(&name(channel), &keep(Some(500), None, None)).await.unwrap();
            assert_eq!(opened, extent, "{channel}");
            let page = all(&log, channel, START).await;
            assert_eq!((offsets(&page), page.lost), (range(extent.first, extent.last), vec![]));
        }
        let repeat = log.append(&[keyed("a", "k", START + SECOND)]).await.unwrap();
        assert_eq!(repeat, [Appended::Repeat { offset: 41, time: START }]);
        assert_eq!(all(&log, "a", START).await.publications[41].message.payload, vec![9; 200_000]);
    }
}

#[tokio::test]
async fn a_store_that_is_lost_begins_a_new_life() {
    let dir = TempDir::new();
    let before = filled(dir.path()).await[0];
    std::fs::remove_dir_all(dir.path().join("store")).unwrap();
    let log = open_sled(dir.path()).unwrap();
    let now = log.open(&name("a"), &keep_all()).await.unwrap();
    assert_eq!((now.first, now.last), (1, 0));
    assert_ne!(now.epoch, before.epoch);
    assert!(now.epoch.0 > 0 && now.epoch.0 < 1 << 53);
}

#[tokio::test]
async fn a_store_in_use_is_refused_with_what_to_do() {
    let dir = TempDir::new();
    let first = open_sled(dir.path()).unwrap();
    let refused = open_sled(dir.path()).err().unwrap();
    assert!(matches!(refused, OpenError::Locked(_)), "{refused}");
    assert!(refused.to_string().contains("is in use") && refused.to_string().contains("--data"));
    drop(first);
    open_sled(dir.path()).unwrap();
}

#[tokio::test]
async fn a_damaged_store_is_refused_and_never_opened_as_a_new_or_a_shorter_one() {
    let garbage = |length: usize| -> Vec<u8> { (0..length).map(|n| ((n * 2_654_435_761) >> 7) as u8).collect() };
    for damage in ["the configuration", "the whole log", "the first page", "the middle", "no log at all", "its life"] {
        let dir = TempDir::new();
        filled(dir.path()).await;
        let store = dir.path().join("store");
        let log = store.join("db");
        let mut bytes = std::fs::read(&log).unwrap();
        match damage {
            "the configuration" => std::fs::write(store.join("conf"), garbage(200)).unwrap(),
            "the whole log" => std::fs::write(&log, garbage(bytes.len())).unwrap(),
            "its life" => std::fs::write(store.join("life"), garbage(20)).unwrap(),
            "no log at all" => std::fs::write(&log, []).unwrap(),
            "the first page" => {
                bytes[..8192].copy_from_slice(&garbage(8192));
                std::fs::write(&log, bytes).unwrap();
            }
            _ => {
                let middle = bytes.len() / 2;
                bytes[middle..middle + 8192].copy_from_slice(&garbage(8192));
                std::fs::write(&log, bytes).unwrap();
            }
        }
        // Trying again does not help it.
        for _ in 0..2 {
            let refused = match open_sled(dir.path()) {
                Err(refused) => refused.to_string(),
                Ok(log) => {
                    let extent = log.open(&name("a"), &keep_all()).await.unwrap();
                    panic!("{damage}: it was opened, and channel a reaches {extent:?}");
                }
            };
            assert!(refused.contains(store.to_str().unwrap()) && refused.len() < 600, "{damage}: {refused}");
            assert!(refused.contains("damaged") && refused.contains("restore a backup"), "{damage}: {refused}");
        }
    }
}

#[tokio::test]
async fn something_else_is_not_taken_for_a_store() {
    let dir = TempDir::new();
    let other = ::sled::open(dir.path().join("store")).unwrap();
    other.open_tree("something else").unwrap().insert("k", "v").unwrap();
    other.flush().unwrap();
    drop(other);
    let refused = open_sled(dir.path()).err().unwrap();
    assert!(matches!(refused, OpenError::Foreign(_)), "{refused}");
}

#[tokio::test]
async fn synced_is_one_fdatasync_per_group_and_weaker_promises_are_none() {
    let dir = TempDir::new();
    let log = open_sled(dir.path()).unwrap();
    log.open(&name("a"), &keep_all()).await.unwrap();
    for group in 0..5 {
        let before = log.syncs();
        append_numbers(&log, "a", group * 100 + 1, group * 100 + 100).await;
        assert_eq!(log.syncs(), before, "appending promises nothing");
        log.settle(Ack::Written).await.unwrap();
        log.settle(Ack::Memory).await.unwrap();
        assert_eq!(log.syncs(), before);
        log.settle(Ack::Synced).await.unwrap();
        assert_eq!(log.syncs(), before + 1);
    }
}

#[tokio::test]
async fn after_an_unclean_end_numbers_that_a_weak_ack_may_have_shown_are_not_given_again() {
    for ack in [Ack::Written, Ack::Memory] {
        let dir = TempDir::new();
        let policy = Policy { ack, ..keep_all() };
        let log = open_sled(dir.path()).unwrap();
        log.open(&name("weak"), &policy).await.unwrap();
        log.open(&name("strong"), &keep_all()).await.unwrap();
        append_numbers(&log, "weak", 1, 30).await;
        append_numbers(&log, "strong", 1, 30).await;
        log.settle(Ack::Synced).await.unwrap();
        drop(log); // No shut: what came after the last settle may be lost.

        let log = open_sled(dir.path()).unwrap();
        assert_eq!(log.open(&name("strong"), &keep_all()).await.unwrap().last, 30);
        let extent = log.open(&name("weak"), &policy).await.unwrap();
        assert!(extent.last > 30 && extent.last < 100_000, "{extent:?}");
        let page = all(&log, "weak", START).await;
        assert_eq!((offsets(&page), page.lost), (range(1, 30), vec![(31, extent.last)]));
        let next = extent.last + 1;
        append_numbers(&log, "weak", next, next + 3).await;
        let page = read(&log, "weak", after(29), 10, usize::MAX, START).await;
        assert_eq!(offsets(&page), [vec![30], range(next, next + 3)].concat());
        log.settle(Ack::Synced).await.unwrap();
        log.shut().await.unwrap();
        drop(log);

        let log = open_sled(dir.path()).unwrap();
        let page_extent = log.open(&name("weak"), &policy).await.unwrap();
        assert_eq!(page_extent.last, next + 3, "a proper end gives the reserve back");
        assert_eq!(
            all(&log, "weak", START).await.lost,
            vec![(31, extent.last)],
            "and what was lost stays known as lost"
        );
    }
}

#[tokio::test]
async fn two_crashes_in_a_row_are_both_remembered_as_such() {
    let dir = TempDir::new();
    let policy = Policy { ack: Ack::Memory, ..Policy::default() };
    let name = ChannelName::new("weak").unwrap();
    let mut lost = Vec::new();
    for round in 0..3 {
        let log = SledLog::open(&dir.path().join("store"), 1 << 20, Duration::from_secs(1), WINDOW).unwrap();
        let extent = log.open(&name, &policy).await.unwrap();
        let page = all(&log, "weak", START).await;
        assert_eq!(page.lost, lost, "round {round}");
        let appended = log.append(&[entry("weak", "x", START)]).await.unwrap();
        let Appended::New { offset, .. } = appended[0] else { panic!("{appended:?}") };
        assert_eq!(offset, extent.last + 1);
        log.settle(Ack::Synced).await.unwrap();
        // It is dropped without `shut`: what was reserved beyond the newest offset may have been seen.
        lost.push((offset + 1, offset + 4096));
    }
}

#[tokio::test]
async fn large_messages_lie_in_the_log_itself_and_come_and_go_whole() {
    let dir = TempDir::new();
    let policy = keep(Some(40), None, None);
    let log = open_sled(dir.path()).unwrap();
    log.open(&name("large"), &policy).await.unwrap();
    let text = |n: u64| if n % 7 == 1 { format!("{n}-").repeat(150_000) } else { n.to_string() };
    for n in 1..=100 {
        log.append(&[entry("large", text(n), START)]).await.unwrap();
        log.settle(Ack::Synced).await.unwrap();
    }
    let whole = |page: &Page| {
        page.publications.iter().all(|p| p.message.payload == text(p.offset).as_bytes())
            && !page.publications.is_empty()
    };
    let mut log = log;
    for _ in 0..2 {
        let page = all(&log, "large", START).await;
        assert_eq!((offsets(&page), whole(&page)), (range(61, 100), true));
        let back = read(&log, "large", From::Before { before: 95 }, 10, usize::MAX, START).await;
        assert_eq!((offsets(&back), whole(&back)), (range(85, 94), true));
        // Not in files of their own, which sled writes again and again and does not sync.
        assert_eq!(std::fs::read_dir(dir.path().join("store/blobs")).unwrap().count(), 0);
        log.shut().await.unwrap();
        drop(log);
        log = open_sled(dir.path()).unwrap();
        log.open(&name("large"), &policy).await.unwrap();
    }
    log.forget(&name("large")).await.unwrap();
    assert!(all(&log, "large", START).await.publications.is_empty());
}
