//! **What a view hides reaches nobody who sees through it**: live, resumed, or read as history; and it is told as a gap.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use aether::kernel::format::{Foreseeing, Format, Notice, View};
use aether::kernel::hooks::Sight;
use aether::kernel::hub::HistoryFrom;
use aether::kernel::message::{ChannelName, Epoch, Message, Position, Publication};
use aether::kernel::policy::Policy;
use aether::kernel::session::{Session, Start};

use crate::common::kernel::{Kernel, Lines, Rules, client, listen, read};

/// Shows the first half of a payload, and nothing of one that begins with `secret`.
#[derive(Default)]
struct Half {
    renders: AtomicU64,
}

impl View for Half {
    fn name(&self) -> &str {
        "half"
    }
    fn render(&self, _: &ChannelName, publication: &Publication) -> Option<Message> {
        self.renders.fetch_add(1, Ordering::SeqCst);
        let payload = &publication.message.payload;
        let seen = Message { payload: payload.slice(..payload.len() / 2), ..publication.message.clone() };
        (!payload.starts_with(b"secret")).then_some(seen)
    }
}

/// Everybody whose id begins with `guest` sees half.
fn rules(guests: &[&str]) -> (Arc<Rules>, Arc<Half>) {
    let (rules, half) = (Arc::new(Rules::default()), Arc::new(Half::default()));
    for guest in guests {
        rules.sights.lock().insert((*guest).to_owned(), Some(half.clone()));
    }
    (rules, half)
}

#[tokio::test]
async fn a_view_is_what_its_readers_see_live_and_others_see_the_whole() {
    let (rules, _) = rules(&["guest"]);
    let kernel = Kernel::start(rules);
    let (mut guest, mut member) = (kernel.session("guest"), kernel.session("member"));
    listen(&mut guest, "a", Start::Now).await;
    listen(&mut member, "a", Start::Now).await;
    kernel.say("a", &["abcd", "secret1", "secret2", "wxyz"]).await;
    assert_eq!(read(&mut guest).await, ["P a 1 ab", "G a denied 2 2", "G a denied 3 3", "P a 4 wx"]);
    assert_eq!(read(&mut member).await, ["P a 1 abcd", "P a 2 secret1", "P a 3 secret2", "P a 4 wxyz"]);
}

#[tokio::test]
async fn what_was_missed_is_seen_through_the_view_from_the_tail_and_from_the_log() {
    let (rules, _) = rules(&["guest"]);
    let kernel = Kernel::start(rules);
    let said: Vec<_> = (1..=30).map(|n| if n % 3 == 0 { format!("secret{n}") } else { format!("n{n}..") }).collect();
    kernel.say("a", &said.iter().map(String::as_str).collect::<Vec<_>>()).await;
    let expected = |from: usize| -> Vec<String> {
        let line = |n: usize| match said[n - 1].strip_prefix("secret") {
            Some(_) => format!("G a denied {n} {n}"),
            None => format!("P a {n} {}", &said[n - 1][..said[n - 1].len() / 2]),
        };
        (from..=30).map(line).chain(["L a 30".to_owned()]).collect()
    };
    for after in [0, 20, 27, 29] {
        let mut guest = kernel.session("guest");
        listen(&mut guest, "a", Start::After(after, None)).await;
        assert_eq!(read(&mut guest).await, expected(after as usize + 1), "after {after}");
    }
}

#[tokio::test]
async fn history_leaves_out_what_is_withheld_and_names_it() {
    let (rules, half) = rules(&[]);
    rules.past.lock().insert("guest".into(), Some(half));
    let kernel = Kernel::start(rules);
    kernel.say("a", &["abcd", "secret1", "wxyz"]).await;
    let name = ChannelName::new("a").unwrap();
    let past = kernel.hub.history(&client("guest"), &name, HistoryFrom::After(0), 10, 1 << 20).await.unwrap();
    let seen: Vec<_> = past.page.publications.iter().map(|p| (p.offset, &p.message.payload[..])).collect();
    assert_eq!(seen, [(1, &b"ab"[..]), (3, b"wx")]);
    assert_eq!((past.withheld, past.page.extent.first, past.page.extent.last, past.page.more), (vec![2], 1, 3, false));
}

#[tokio::test]
async fn a_view_that_only_the_history_names_narrows_who_comes_back() {
    let (rules, half) = rules(&[]);
    rules.past.lock().insert("guest".into(), Some(half));
    let kernel = Kernel::start(rules);
    kernel.say("a", &["abcd"]).await;
    let mut back = kernel.session("guest");
    listen(&mut back, "a", Start::After(0, None)).await;
    assert_eq!(read(&mut back).await, ["P a 1 ab", "L a 1"]);
}

/// The same in other bytes.
struct Shouts;

impl Format for Shouts {
    fn publication(&self, channel: &ChannelName, epoch: Epoch, publication: &Publication, out: &mut Vec<u8>) {
        Lines.publication(channel, epoch, publication, out);
        out.make_ascii_uppercase();
    }
    fn notice(&self, channel: &ChannelName, at: Position, notice: &Notice, out: &mut Vec<u8>) {
        Lines.notice(channel, at, notice, out);
    }
}

#[tokio::test]
async fn a_thousand_readers_of_one_view_cost_one_rendering_and_an_encoding_per_format() {
    let guests: Vec<String> = (0..1000).map(|n| format!("guest{n}")).collect();
    let (rules, half) = rules(&guests.iter().map(String::as_str).collect::<Vec<_>>());
    let kernel = Kernel::start(rules);
    let shouts: Arc<dyn Format> = Arc::new(Shouts);
    let mut sessions = Vec::new();
    for (n, guest) in guests.iter().enumerate() {
        let format = if n % 2 == 0 { &kernel.format } else { &shouts };
        let mut session = Session::new(kernel.hub.clone(), client(guest), format.clone());
        listen(&mut session, "a", Start::Now).await;
        sessions.push(session);
    }
    kernel.say("a", &["abcd", "efgh", "ijkl", "secret", "mnop"]).await;
    for (n, session) in sessions.iter_mut().enumerate() {
        let said = read(session).await;
        let shown = if n % 2 == 0 { ["P a 1 ab", "P a 2 ef"] } else { ["P A 1 AB", "P A 2 EF"] };
        assert_eq!((&said[..2], said.len()), (&shown.map(String::from)[..], 5), "reader {n}");
    }
    let counters = kernel.hub.counters();
    assert_eq!(half.renders.load(Ordering::SeqCst), 5);
    assert_eq!((counters.rendered.get(), counters.encoded.get()), (5, 2 * 4));
}

/// Turns out to be slow when it has rendered three times; from then on it may only be foreseen.
struct Sloth {
    itself: Weak<Sloth>,
    here: AtomicU64,
    foreseen: AtomicU64,
}

impl Sloth {
    const SLOW_AFTER: u64 = 3;

    fn new() -> Arc<Sloth> {
        Arc::new_cyclic(|itself| Sloth { itself: itself.clone(), here: AtomicU64::new(0), foreseen: AtomicU64::new(0) })
    }

    fn shown(publication: &Publication) -> Option<Message> {
        let message = publication.message.clone();
        (!message.payload.starts_with(b"secret")).then_some(message)
    }

    /// How often it was rendered by whom it serves, and elsewhere.
    fn renderings(&self) -> (u64, u64) {
        (self.here.load(Ordering::SeqCst), self.foreseen.load(Ordering::SeqCst))
    }
}

impl View for Sloth {
    fn name(&self) -> &str {
        "sloth"
    }
    fn render(&self, _: &ChannelName, publication: &Publication) -> Option<Message> {
        self.here.fetch_add(1, Ordering::SeqCst);
        Sloth::shown(publication)
    }
    fn is_slow(&self) -> bool {
        self.here.load(Ordering::SeqCst) >= Sloth::SLOW_AFTER
    }
    fn foresee<'a>(&'a self, _: &'a ChannelName, page: &'a mut [Publication]) -> Foreseeing<'a> {
        Box::pin(async move {
            for publication in page.iter_mut().filter(|it| it.message.foreseen.through(self).is_none()) {
                tokio::task::yield_now().await;
                self.foreseen.fetch_add(1, Ordering::SeqCst);
                let seen = Sloth::shown(publication);
                publication.message.foreseen.add(self.itself.upgrade().unwrap(), seen);
            }
        })
    }
}

/// Reads until the replay is over.
async fn read_to_the_end(session: &mut Session) -> Vec<String> {
    let mut said = Vec::new();
    while !said.last().is_some_and(|line: &String| line.starts_with("L ")) {
        said.extend(read(session).await);
    }
    said
}

#[tokio::test]
async fn no_thread_that_serves_renders_a_view_that_is_slow_and_its_readers_share_what_is_foreseen() {
    let (rules, sloth) = (Arc::new(Rules::default()), Sloth::new());
    for guest in ["one", "two", "late"] {
        rules.sights.lock().insert(guest.to_owned(), Some(sloth.clone()));
    }
    rules.past.lock().insert("past".into(), Some(sloth.clone()));
    let kernel = Kernel::start(rules);
    kernel.say("a", &["n1", "secret", "n3", "n4", "n5", "secret", "n7", "n8"]).await;
    let expected = [
        "P a 1 n1",
        "G a denied 2 2",
        "P a 3 n3",
        "P a 4 n4",
        "P a 5 n5",
        "G a denied 6 6",
        "P a 7 n7",
        "P a 8 n8",
        "L a 8",
    ];
    let (mut one, mut two) = (kernel.session("one"), kernel.session("two"));
    listen(&mut one, "a", Start::After(0, None)).await;
    listen(&mut two, "a", Start::After(0, None)).await;
    let (first, second) = tokio::join!(read_to_the_end(&mut one), read_to_the_end(&mut two));
    assert_eq!((first, second), (expected.map(String::from).to_vec(), expected.map(String::from).to_vec()));
    assert_eq!(sloth.renderings(), (Sloth::SLOW_AFTER, 5), "once for both, and not where they are served");

    // What has left the tail is read from the log and made for whoever asks.
    let more: Vec<String> = (9..=40).map(|n| format!("n{n}")).collect();
    kernel.say("a", &more.iter().map(String::as_str).collect::<Vec<_>>()).await;
    let mut late = kernel.session("late");
    listen(&mut late, "a", Start::After(0, None)).await;
    let said = read_to_the_end(&mut late).await;
    let lines = expected[..8].iter().map(|line| (*line).to_owned()).chain((9..=40).map(|n| format!("P a {n} n{n}")));
    assert_eq!(said, lines.chain(["L a 40".to_owned()]).collect::<Vec<_>>());
    let name = ChannelName::new("a").unwrap();
    let past = kernel.hub.history(&client("past"), &name, HistoryFrom::After(0), 50, 1 << 20).await.unwrap();
    assert_eq!((past.page.publications.len(), past.withheld), (38, vec![2, 6]));
    assert_eq!(sloth.renderings().0, Sloth::SLOW_AFTER);
}

/// Found by the simulation: seed 407. What had been said for the one who lags lay dark between them, nobody was to ask about
/// it, and a channel without history has no log to read instead: the thread that served them never came back.
#[tokio::test]
async fn who_is_further_than_another_reader_of_a_slow_view_does_not_wait_for_it() {
    let (rules, sloth) = (Arc::new(Rules::default()), Sloth::new());
    for guest in ["lags", "comes"] {
        rules.sights.lock().insert(guest.to_owned(), Some(sloth.clone()));
    }
    rules.policy("a", Policy { history: None, ..Policy::default() });
    let kernel = Kernel::start(rules);
    let (mut lags, mut comes) = (kernel.session("lags"), kernel.session("comes"));
    listen(&mut lags, "a", Start::Now).await;
    kernel.say("a", &["n1", "n2", "n3"]).await;
    assert_eq!(read(&mut lags).await, ["P a 1 n1", "P a 2 n2", "P a 3 n3"]);
    assert!(sloth.is_slow());
    kernel.say("a", &["n4"]).await;
    listen(&mut comes, "a", Start::Now).await;
    kernel.say("a", &["n5"]).await;
    assert_eq!(read(&mut comes).await, ["P a 5 n5"]);
    assert_eq!(read(&mut lags).await, ["P a 4 n4", "P a 5 n5"]);
    assert_eq!(sloth.renderings(), (Sloth::SLOW_AFTER, 2));
}

#[tokio::test]
async fn a_history_that_finds_out_that_its_view_is_slow_goes_on_elsewhere() {
    let (rules, sloth) = (Arc::new(Rules::default()), Sloth::new());
    rules.past.lock().insert("past".into(), Some(sloth.clone()));
    let kernel = Kernel::start(rules);
    kernel.say("a", &["n1", "secret", "n3", "n4", "secret"]).await;
    let name = ChannelName::new("a").unwrap();
    let past = kernel.hub.history(&client("past"), &name, HistoryFrom::After(0), 50, 1 << 20).await.unwrap();
    assert_eq!((past.page.publications.len(), past.withheld), (3, vec![2, 5]));
    assert_eq!(sloth.renderings(), (Sloth::SLOW_AFTER, 2));
}

#[tokio::test]
async fn another_view_after_a_new_vote_takes_over_at_the_cursor() {
    let (rules, half) = rules(&[]);
    let kernel = Kernel::start(rules.clone());
    let mut session = kernel.session("ann");
    listen(&mut session, "a", Start::Now).await;
    kernel.say("a", &["abcd"]).await;
    assert_eq!(read(&mut session).await, ["P a 1 abcd"]);
    kernel.say("a", &["efgh"]).await;
    let half: Sight = Some(half);
    rules.sights.lock().insert("ann".into(), half);
    assert!(session.becomes(client("ann")).await.is_empty());
    kernel.say("a", &["secret"]).await;
    assert_eq!(read(&mut session).await, ["P a 2 ef", "G a denied 3 3"]);
    rules.sights.lock().clear();
    session.becomes(client("ann")).await;
    kernel.say("a", &["ijkl"]).await;
    assert_eq!(read(&mut session).await, ["P a 4 ijkl"]);
}

#[tokio::test]
async fn what_was_deleted_is_gone_from_the_view_too() {
    let (rules, half) = rules(&["guest"]);
    rules.policy("a", Policy { history: None, ..Policy::default() });
    let kernel = Kernel::start(rules);
    let mut guest = kernel.session("guest");
    listen(&mut guest, "a", Start::Now).await;
    kernel.say("a", &["abcd"]).await;
    assert_eq!(read(&mut guest).await, ["P a 1 ab"]);
    kernel.hub.forget(&ChannelName::new("a").unwrap()).await.unwrap();
    let mut late = kernel.session("guest");
    listen(&mut late, "a", Start::After(0, None)).await;
    assert_eq!(read(&mut late).await, ["G a evicted 1 1", "L a 1"]);
    assert_eq!(half.renders.load(Ordering::SeqCst), 1);
}
