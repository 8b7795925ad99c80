//! Slow hooks: beside the threads that serve, in order, bounded, and without harm to those that are fast.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use futures_util::stream::{FuturesUnordered, StreamExt};

use super::waiting::wait;
use super::*;
use crate::kernel::hooks::{RefusalKind, Sight};
use crate::kernel::message::Publication;

/// Takes a few milliseconds of a processor's time, however busy the machine is.
const SPIN: &str = "local function spin() for i = 1, 3e6 do end end\n";

/// A host whose hooks may take long enough to be slow in a test.
fn patient(code: &str) -> (Arc<Host>, Dir) {
    let limits = Limits { call: Duration::from_secs(2), ..Limits::default() };
    script_with(&format!("{SPIN}{code}"), HostConfig { limits, ..HostConfig::default() })
}

/// Asks until the log says that the hook has moved; what it says.
fn until_it_moves(mut ask: impl FnMut()) -> String {
    let until = Instant::now() + Duration::from_secs(30);
    loop {
        let log = logged(&mut ask);
        if log.contains("runs beside the others from now on") {
            return log;
        }
        assert!(Instant::now() < until, "it has not moved");
    }
}

fn publishes(host: &Host, channel: &str) -> Result<(), Refusal> {
    wait(host.publish(&nobody(), draft(channel, "1"))).map(drop)
}

#[test]
fn a_slow_hook_moves_aside_is_bounded_and_the_fast_ones_are_answered_meanwhile() {
    let (host, _dir) = patient(
        "aether.on.publish('slow', function() spin() return true end)
         aether.on.publish('fast', function() return true end)",
    );
    let log = until_it_moves(|| publishes(&host, "slow").unwrap());
    assert!(log.contains("rules.lua:2") && log.contains(" ms of processor time on average"), "{log}");
    publishes(&host, "slow").expect("it is answered there too");
    let log = logged(|| {
        wait(async {
            let who = nobody();
            let asked = (0..100).map(|_| host.publish(&who, draft("slow", "1")));
            // A turn ends when it is dropped.
            let mut answers = join_all(asked.map(|asked| async { asked.await.map(drop) }));
            // Those that run have taken their places; no processor is waited for.
            assert!(futures_util::poll!(&mut answers).is_pending());
            publish(&host, &nobody(), "fast", "1").expect("this thread is free");
            let answers = answers.await;
            let busy: Vec<_> = answers.iter().filter_map(|answer| answer.as_ref().err()).collect();
            assert!(answers.len() - busy.len() >= 16 && busy.len() >= 50, "{} busy", busy.len());
            assert!(busy.iter().all(|no| no.kind == RefusalKind::Busy && no.retry_ms.is_some()), "{busy:?}");
        });
    });
    assert!(log.contains("16 calls of rules are in line already"), "{log}");
}

#[test]
fn drafts_that_a_slow_transform_changes_keep_their_order_and_come_out_changed() {
    let (host, _dir) = patient(
        "aether.on.publish('c', function() return true end)
         aether.on.transform('c', function(ch, msg) spin() return msg:with_text(msg:text() .. '!') end)",
    );
    until_it_moves(|| publishes(&host, "c").unwrap());
    let (who, mut said) = (nobody(), Vec::new());
    wait(async {
        let mut asked = FuturesUnordered::new();
        for n in 0..8 {
            asked.push(host.publish(&who, draft("c", &n.to_string())));
        }
        while let Some(admission) = asked.next().await {
            said.push(String::from_utf8(admission.unwrap().draft.message.payload.to_vec()).unwrap());
        }
    });
    assert_eq!(said, (0..8).map(|n| format!("{n}!")).collect::<Vec<_>>());
}

#[test]
fn slow_connect_subscribe_and_history_hooks_are_answered_beside() {
    let (host, _dir) = patient(
        "aether.on.connect(function() spin() return aether.allow({ user = 'ann' }) end)
         aether.on.subscribe('c', function(s) spin() return s.user == 'ann', 'no' end)
         aether.on.history('c', function(s, ch, req) spin() return not req.resume end)",
    );
    let request = ConnectRequest::default();
    let log = until_it_moves(|| drop(wait(host.connect(&request)).unwrap()));
    assert!(log.contains("on.connect"), "{log}");
    assert_eq!(wait(host.connect(&request)).unwrap().user.as_deref(), Some("ann"));
    let (ann, bob, c) = (client(Some("ann"), Grants::default()), client(Some("bob"), Grants::default()), name("c"));
    until_it_moves(|| drop(wait(host.subscribe(&ann, &c)).unwrap()));
    assert!(wait(host.subscribe(&ann, &c)).is_ok());
    assert_eq!(wait(host.subscribe(&bob, &c)).map(drop).unwrap_err().kind, RefusalKind::Denied);
    until_it_moves(|| drop(wait(host.history(&ann, &c, false)).unwrap()));
    assert!(wait(host.history(&ann, &c, false)).is_ok() && wait(host.history(&ann, &c, true)).is_err());
}

#[test]
fn what_a_slow_view_leaves_of_a_message_is_made_before_it_is_published_or_read() {
    let (host, _dir) = patient(
        "local rendered = aether.shared('rendered')
         aether.on.publish('c', function() return true end)
         aether.on.subscribe('c', function() return aether.allow({ view = 'v' }) end)
         aether.on.view('c', 'v', function(ch, msg)
            spin() rendered:incr('n')
            if msg:text() == 'hide' then return nil end
            return msg:with_text(msg:text() .. '!')
         end)",
    );
    let sight: Sight = wait(host.subscribe(&nobody(), &name("c"))).unwrap();
    let view = sight.unwrap();
    let said = |message| Publication { offset: 1, time: 0, expires: None, once: None, message };
    let plain = |text: &str| said(draft("c", text).message);
    until_it_moves(|| drop(view.render(&name("c"), &plain("x"))));
    let text = |message: Option<Option<&Message>>| {
        message.map(|seen| seen.map(|seen| String::from_utf8(seen.payload.to_vec()).unwrap()))
    };
    for (say, shown) in [("x", Some("x!")), ("hide", None)] {
        let admission = wait(host.publish(&nobody(), draft("c", say))).unwrap();
        let seen = text(admission.draft.message.foreseen.through(&*view));
        assert_eq!(seen, Some(shown.map(str::to_owned)), "it is carried with the draft");
        let mut page = [plain(say)];
        let channel = name("c");
        wait(view.foresee(&channel, &mut page).expect("it is slow"));
        assert_eq!(text(page[0].message.foreseen.through(&*view)), Some(shown.map(str::to_owned)));
    }
}
