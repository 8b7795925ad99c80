//! What becomes of a message that was let in: transforms and retain hooks.

use std::time::Duration;

use super::*;
use crate::kernel::message::Media;

/// The draft as the rules let it in.
fn admitted(host: &Host, draft: Draft) -> Result<Draft, Refusal> {
    now(host.publish(&client(Some("ann"), granted(&["*"])), draft)).map(|admission| admission.draft)
}

fn text(draft: &Draft) -> &str {
    std::str::from_utf8(&draft.message.payload).unwrap()
}

#[test]
fn transforms_change_a_message_one_after_the_other() {
    let (host, _dir) = script(
        "aether.on.transform('chat.{room}', function(ch, msg)
            assert(msg.sender == 'ann' and msg.id == 'key-1' and ch.room == '7')
            local body = table.clone(msg:json())
            body.by = msg.sender
            return msg:with_json(body):with_meta({ room = ch.room }):with_event('said')
         end)
         aether.on.transform('chat.*', function(ch, msg)
            assert(msg:get('by') == 'ann' and msg:json().by == 'ann' and msg.event == 'said' and msg:meta().room == '7')
            return msg:with_text(string.upper(msg:get('text')))
         end)
         aether.on.transform('chat.*', function(ch, msg) return msg end)
         aether.on.transform('other', function(ch, msg) error('not asked') end)",
    );
    let mut draft = draft("chat.7", r#"{"text":"hello"}"#);
    draft.idempotency_key = Some("key-1".into());
    draft.message.content_type = Some("application/x".into());
    let draft = admitted(&host, draft).unwrap();
    assert_eq!((text(&draft), draft.message.media), ("HELLO", Media::Text));
    assert_eq!(draft.message.meta.as_deref(), Some(&br#"{"room":"7"}"#[..]));
    assert_eq!((draft.message.event.as_deref(), draft.message.content_type), (Some("said"), None));
    assert_eq!(draft.idempotency_key.as_deref(), Some("key-1"));
}

#[test]
fn a_message_that_nobody_changes_stays_byte_for_byte_and_one_that_no_hook_concerns_enters_no_lua() {
    let (host, _dir) = script("aether.on.transform('a.*', function(ch, msg) return msg end)");
    let odd = "{ \"n\" : 1.50, \"n\": 9007199254740993 }";
    assert_eq!(text(&admitted(&host, draft("a.1", odd)).unwrap()), odd);
    let before = entries(&host);
    admitted(&host, draft("b", odd)).unwrap();
    assert_eq!((before, entries(&host)), (1, 1));
}

#[test]
fn a_transform_rejects_by_nil_or_deny_and_what_breaks_rejects() {
    let (host, _dir) = script(
        "aether.on.transform('nil', function(ch, msg) return nil end)
         aether.on.transform('why', function(ch, msg) return nil, 'too rude' end)
         aether.on.transform('deny', function(ch, msg) return aether.deny('spam', 'looks like spam') end)
         aether.on.transform('error', function(ch, msg) msg:with_text('half done') error('oops') end)
         aether.on.transform('true', function(ch, msg) return true end)
         aether.on.transform('loop', function(ch, msg) while true do end end)
         aether.on.transform('event', function(ch, msg) return msg:with_event('a\\nb') end)
         aether.on.transform('nan', function(ch, msg) return msg:with_json({ n = 0/0 }) end)
         aether.on.transform('large', function(ch, msg) return msg:with_text(string.rep('x', 2^20 + 1)) end)",
    );
    let no = |channel: &str| {
        let mut refusal = None;
        let log = logged(|| refusal = Some(admitted(&host, draft(channel, "{}")).unwrap_err()));
        let refusal = refusal.unwrap();
        (refusal.code, refusal.why, log)
    };
    for (channel, code, why) in [
        ("nil", "rejected", "a rule rejects this message"),
        ("why", "rejected", "too rude"),
        ("deny", "spam", "looks like spam"),
    ] {
        let (got, said, log) = no(channel);
        assert_eq!((got.as_str(), said.as_str()), (code, why));
        assert!(log.contains(&format!("on.transform {channel}")) && log.contains("rules.lua:"), "{log}");
    }
    for (channel, wrong) in [
        ("error", "rules.lua:4: oops"),
        ("true", "rules.lua:5: on.transform true: expected msg, nil or aether.deny, got `true`"),
        ("loop", "the time budget of this call is used up"),
        ("event", "an event's name is one line"),
        ("nan", "has no JSON"),
        ("large", "is too large, at most 1048576"),
    ] {
        let (code, _, log) = no(channel);
        assert!(code == "rule_error" && log.contains(wrong), "{channel}: {log}");
    }
}

#[test]
fn a_vote_does_not_change_what_it_votes_on_and_a_no_spares_the_transform() {
    let (host, _dir) = script(
        "aether.on.publish('vote', function(s, ch, msg) msg:with_text('other') return true end)
         aether.on.publish('no', function() return false end)
         aether.on.transform('no', function(ch, msg) error('not asked') end)
         aether.on.retain('kept', function(ch, msg) msg:with_text('other') return false end)
         local stolen
         aether.on.transform('steal', function(ch, msg) stolen = msg return msg end)
         aether.on.publish('use', function() return stolen:with_text('x') ~= nil end)",
    );
    let log = logged(|| assert_eq!(admitted(&host, draft("vote", "1")).unwrap_err().code, "rule_error"));
    assert!(log.contains("rules.lua:1: msg can be changed in on.transform and on.view only"), "{log}");
    assert_eq!(admitted(&host, draft("no", "1")).unwrap_err().code, "denied");
    assert_eq!(text(&admitted(&host, draft("kept", "1")).unwrap()), "1");
    admitted(&host, draft("steal", "1")).unwrap();
    assert_eq!(admitted(&host, draft("use", "1")).unwrap_err().code, "rule_error");
}

#[test]
fn names_of_the_streams_own_events_are_not_given_to_messages() {
    let config = HostConfig { reserved_events: &["gap"], ..calm() };
    let (host, _dir) = script_with("aether.on.transform('a', function(ch, m) return m:with_event('gap') end)", config);
    assert_eq!(admitted(&host, draft("a", "1")).unwrap_err().code, "rule_error");
}

#[test]
fn any_false_makes_a_message_fleeting_and_the_shortest_ttl_counts() {
    let (host, _dir) = script(
        "aether.on.retain('a', function(ch, msg) return msg:get('keep') end)
         aether.on.retain('a', function(ch, msg) return { ttl = msg:get('ttl') } end)
         aether.on.retain('a', function(ch, msg) return { ttl = '10m' } end)
         aether.on.retain('bad', function() return { tll = '1m' } end)
         aether.on.retain('bad', function() error('oops') end)
         aether.on.retain('bad', function() return { ttl = '1m' } end)",
    );
    let kept = |payload: &str, ttl: Option<u64>| {
        let draft = Draft { ttl: ttl.map(Duration::from_secs), ..draft("a", payload) };
        let draft = admitted(&host, draft).unwrap();
        (draft.fleeting, draft.ttl.map(|ttl| ttl.as_secs()))
    };
    assert_eq!(kept(r#"{"keep":true,"ttl":"5m"}"#, None), (false, Some(300)));
    assert_eq!(kept(r#"{"keep":false,"ttl":"1h"}"#, None), (true, Some(600)));
    assert_eq!(kept(r#"{}"#, Some(60)), (false, Some(60)));
    // What breaks keeps the message, and says so.
    let log = logged(|| {
        let draft = admitted(&host, draft("bad", "{}")).unwrap();
        assert_eq!((draft.fleeting, draft.ttl), (false, Some(Duration::from_secs(60))));
    });
    assert!(log.contains("tll is not known here") && log.contains("rules.lua:5: oops"), "{log}");
    assert!(log.contains("so the message is kept"), "{log}");
}
