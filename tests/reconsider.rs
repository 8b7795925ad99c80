//! **New rules hold for old subscriptions**: each is voted on again, at a bounded rate; those that are denied end with a word.

use std::sync::Arc;
use std::time::{Duration, Instant};

use aether::edges::frames::SseFormat;
use aether::edges::frames::WsFormat;
use aether::edges::load::{self, Load};
use aether::edges::native::{Limits, SseDialect, WsDialect};
use aether::edges::pulse::Pulse;
use aether::edges::roster::{Order, Roster};
use aether::edges::session::{self, Shared};
use aether::kernel::format::Format;
use aether::kernel::session::{Session, Start};

use crate::common::kernel::{Kernel, Rules, client, listen};
use crate::common::line::Line;
use crate::common::until;

fn shared() -> Arc<Shared> {
    let second = Duration::from_secs(1);
    let pulse = Pulse { interval: 30 * second, timeout: None, write_timeout: 10 * second, drain: second };
    Arc::new(Shared { pulse, roster: Arc::new(Roster::default()), load: Load::new(load::Limits::default()) })
}

fn order_of(text: &str, words: &[&str]) -> bool {
    let mut rest = text;
    words.iter().all(|word| match rest.find(word) {
        Some(at) => {
            rest = &rest[at + word.len()..];
            true
        }
        None => false,
    })
}

/// A connection that listens to `a` and `b`, of which `a` is closed while it is open.
async fn what_is_told(sse: bool) -> String {
    let rules = Arc::new(Rules::default());
    let kernel = Kernel::start(rules.clone());
    let (line, shared) = (Line::default(), shared());
    let format: Arc<dyn Format> =
        if sse { Arc::new(SseFormat { several: true, bare: false }) } else { Arc::new(WsFormat) };
    let mut session = Session::new(kernel.hub.clone(), client("ann"), format);
    listen(&mut session, "a", Start::Now).await;
    listen(&mut session, "b", Start::Now).await;
    let limits = Limits { channels_per_request: 10, channels_per_connection: 10, refusals_per_minute: 10 };
    let running = if sse {
        tokio::spawn(session::run(line.clone(), SseDialect { heartbeat: false }, session, shared.clone(), Vec::new()))
    } else {
        tokio::spawn(session::run(line.clone(), WsDialect::new(limits, false), session, shared.clone(), Vec::new()))
    };
    kernel.say("a", &["1"]).await;
    kernel.say("b", &["1"]).await;
    until("both have come", async || line.text().matches("\"type\":\"message\"").count() == 2).await;
    rules.closed.lock().insert("a".into());
    assert_eq!(shared.roster.each_slowly(&Order::Reconsider, 1000).await, 1);
    until("it is told", async || line.text().contains("unsubscribed")).await;
    kernel.say("a", &["2"]).await;
    kernel.say("b", &["2"]).await;
    until("the other goes on", async || line.text().matches("\"type\":\"message\"").count() == 3).await;
    running.abort();
    line.text()
}

#[tokio::test]
async fn a_websocket_is_told_what_ended_and_why_and_the_rest_goes_on() {
    let text = what_is_told(false).await;
    let words = [
        "\"type\":\"error\"",
        "\"reason\":\"closed\"",
        "\"channel\":\"a\"",
        "\"type\":\"unsubscribed\",\"channels\":[\"a\"]",
        "\"channel\":\"b\",\"seq_id\":2",
    ];
    assert!(order_of(&text, &words), "{text}");
}

#[tokio::test]
async fn an_event_stream_is_told_the_same() {
    let text = what_is_told(true).await;
    let words = [
        "event: error\ndata: {",
        "\"reason\":\"closed\"",
        "event: unsubscribed\ndata: {",
        "[\"a\"]",
        "\"channel\":\"b\",\"seq_id\":2",
    ];
    assert!(order_of(&text, &words), "{text}");
}

#[tokio::test]
async fn an_order_is_given_at_a_bounded_rate_and_waits_once_however_often_it_is_given() {
    let roster = Arc::new(Roster::default());
    let members: Vec<_> = (0..100).map(|n| roster.enter(client(&n.to_string()))).collect();
    let began = Instant::now();
    let giving = roster.each_slowly(&Order::Reconsider, 40);
    let mut told_early = 0;
    let watching = async {
        // Looks each time that the giving rests.
        while told_early == 0 {
            told_early = members.iter().filter(|member| !member.orders().is_empty()).count();
            tokio::task::yield_now().await;
        }
    };
    let (told, ()) = tokio::join!(giving, watching);
    assert_eq!(told, 100);
    assert!(began.elapsed() >= Duration::from_secs(2), "100 at 40 a second took {:?}", began.elapsed());
    assert!((1..100).contains(&told_early), "{told_early} of 100 were told in the first part");
    for _ in 0..200 {
        roster.order(|_| true, &Order::Reconsider);
    }
    assert!(members.iter().all(|member| member.orders() == [Order::Reconsider]), "nobody is sent away for that");
}
