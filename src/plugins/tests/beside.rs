//! Slow hooks: beside the threads that serve, in order, bounded, and without harm to those that are fast.

use futures_util::stream::{FuturesUnordered, StreamExt};

use super::waiting::wait;
use super::*;
use crate::kernel::hooks::{RefusalKind, Sight};
use crate::kernel::message::Publication;
use crate::plugins::waiting::beside::IN_LINE;

/// Takes a few milliseconds of a processor's time, however busy the machine is, and ten times as much as is slow.
const SPIN: &str = "local function spin() for i = 1, 3e6 do end end\n";

/// A host whose hooks may take as long as a test wants them to.
fn patient(code: &str) -> (Arc<Host>, Dir) {
    let limits = Limits { call: DEADLINE, slow: Limits::default().slow, ..calm().limits };
    script_with(&format!("{SPIN}{code}"), HostConfig { limits, ..calm() })
}

/// Asks until the log says that the hook has moved; what it says.
#[track_caller]
fn until_it_moves(mut ask: impl FnMut()) -> String {
    let mut log = String::new();
    until("it has moved", || {
        log = logged(&mut ask);
        log.contains("runs beside the others from now on")
    });
    log
}

fn publishes(host: &Host, channel: &str) -> Result<(), Refusal> {
    wait(host.publish(&nobody(), draft(channel, "1"))).map(drop)
}

#[test]
fn a_slow_hook_moves_aside_is_bounded_and_the_fast_ones_are_answered_meanwhile() {
    let (host, _dir) = patient(
        "local gate = aether.shared('gate')
         aether.on.publish('slow', function() spin() while gate:get('shut') do end return true end)
         aether.on.publish('shut', function() gate:set('shut', true) return true end)
         aether.on.publish('open', function() gate:set('shut', false) return true end)",
    );
    let log = until_it_moves(|| publishes(&host, "slow").unwrap());
    assert!(log.contains("rules.lua:3") && log.contains(" ms of processor time on average"), "{log}");
    publishes(&host, "slow").expect("it is answered there too");
    publish(&host, &nobody(), "shut", "1").unwrap();
    let who = nobody();
    let log = logged(|| {
        wait(async {
            // The first runs for as long as we like, and the others stand behind it.
            let mut asked: Vec<_> = (0..IN_LINE).map(|_| host.publish(&who, draft("slow", "1"))).collect();
            for one in &mut asked {
                assert!(futures_util::poll!(one).is_pending());
            }
            for _ in 0..50 {
                let no = now(host.publish(&who, draft("slow", "1"))).map(drop).unwrap_err();
                assert!(no.kind == RefusalKind::Busy && no.retry_ms.is_some(), "{no:?}");
            }
            publish(&host, &nobody(), "open", "1").expect("this thread is free");
            // A turn ends when it is dropped.
            for one in asked {
                one.await.map(drop).unwrap();
            }
        });
    });
    assert!(log.contains("16 calls of rules are in line already"), "{log}");
    publishes(&host, "slow").expect("there is room again");
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
        assert!(view.is_slow());
        wait(view.foresee(&channel, &mut page));
        assert_eq!(text(page[0].message.foreseen.through(&*view)), Some(shown.map(str::to_owned)));
    }
}
