//! Who sees through which view, and what is left there.

use super::*;
use crate::kernel::hooks::{RefusalKind, Sight};
use crate::kernel::message::{Media, Publication};

fn sees(host: &Host, client: &Client, channel: &str) -> Result<Sight, Refusal> {
    now(host.subscribe(client, &name(channel)))
}

fn reads(host: &Host, client: &Client, channel: &str) -> Result<Sight, Refusal> {
    now(host.history(client, &name(channel), false))
}

fn called(sight: Result<Sight, Refusal>) -> Result<String, String> {
    sight.map(|sight| sight.map_or("full".into(), |view| view.name().to_owned())).map_err(|no| no.code)
}

fn ok(view: &str) -> Result<String, String> {
    Ok(view.into())
}

fn no(code: &str) -> Result<String, String> {
    Err(code.into())
}

/// What the view leaves of a payload.
fn shown(sight: &Sight, channel: &str, payload: &str) -> Option<String> {
    shown_as(Media::Json, sight, channel, payload)
}

fn shown_as(media: Media, sight: &Sight, channel: &str, payload: &str) -> Option<String> {
    let message = Message { payload: Bytes::copy_from_slice(payload.as_bytes()), media, ..Message::default() };
    let publication = Publication { offset: 1, time: 0, expires: None, once: None, message };
    let seen = sight.as_ref().unwrap().render(&name(channel), &publication)?;
    Some(String::from_utf8(seen.payload.to_vec()).unwrap())
}

#[test]
fn a_declared_view_cuts_the_payload_in_rust() {
    let (host, _dir) = script(
        "aether.on.view('room.{room}', 'public', { drop = { 'author.email' }, mask = { ['author.phone'] = 'last4' } })
         aether.on.view('room.{room}', 'brief', { pick = { 'text' } })
         aether.on.subscribe('room.{room}', function(s) return aether.allow({ view = s.user }) end)",
    );
    let payload = r#"{"author":{"email":"e","phone":"+4912345678","name":"x"}, "text": 1.0}"#;
    let of = |view: &str| sees(&host, &client(Some(view), Grants::default()), "room.7").unwrap();
    let before = entries(&host);
    let (public, brief) = (of("public"), of("brief"));
    assert_eq!(
        shown(&public, "room.7", payload).unwrap(),
        r#"{"author":{"phone":"****5678","name":"x"}, "text": 1.0}"#
    );
    assert_eq!(shown(&brief, "room.7", payload).unwrap(), r#"{ "text": 1.0}"#);
    assert!(of("full").is_none());
    assert_eq!(entries(&host) - before, 3, "the views themselves run no Lua");
    for media in [Media::Text, Media::Binary] {
        assert_eq!(shown_as(media, &public, "room.7", payload), None, "what is not JSON is withheld");
    }
    assert_eq!(shown(&public, "room.7", "not json"), None);
    assert!(Arc::ptr_eq(&public.unwrap(), &of("public").unwrap()), "all sessions share one");
}

#[test]
fn a_scripted_view_changes_or_withholds_and_what_breaks_withholds() {
    let (host, _dir) = script(
        "aether.on.view('a.{what}', 'v', function(ch, msg)
            assert(msg.sender == nil)
            if ch.what == 'error' then error('oops') end
            if ch.what == 'loop' then while true do end end
            if ch.what == 'true' then return true end
            if msg:get('secret') then return nil end
            return msg:with_json({ short = msg:get('long'):sub(1, 2) })
         end)
         aether.on.subscribe('a.*', function() return aether.allow({ view = 'v' }) end)",
    );
    let sight = sees(&host, &nobody(), "a.x").unwrap();
    assert_eq!(shown(&sight, "a.x", r#"{"long":"abcdef"}"#).as_deref(), Some(r#"{"short":"ab"}"#));
    assert_eq!(shown(&sight, "a.x", r#"{"long":"abcdef","secret":1}"#), None);
    assert_eq!(shown(&sight, "a.x", "no json"), None, "get gave nil, so that it broke");
    for (what, wrong) in [("error", "rules.lua:3: oops"), ("loop", "time budget"), ("true", "expected msg, or nil")] {
        let log = logged(|| assert_eq!(shown(&sight, &format!("a.{what}"), r#"{"long":"abc"}"#), None));
        assert!(log.contains(wrong) && log.contains("on.view a.{what} v") && log.contains("rules.lua:1"), "{log}");
    }
    assert_eq!(shown(&sight, "a.x", r#"{"long":"abcdef"}"#).as_deref(), Some(r#"{"short":"ab"}"#));
}

#[test]
fn a_view_that_is_not_there_denies_and_names_the_nearest() {
    let (host, _dir) = script(
        "aether.on.view('a', 'public', { drop = { 'x' } })
         aether.on.connect(function(req) return aether.allow({ user = 'u', view = 'publik' }) end)
         aether.on.subscribe('a', function(s) return aether.allow(if s.user then {} else { view = 'publc' }) end)
         aether.on.subscribe('b', function(s) return true end)",
    );
    let log = logged(|| {
        let refusal = sees(&host, &nobody(), "a").err().unwrap();
        assert_eq!((refusal.code.as_str(), refusal.kind), ("rule_error", RefusalKind::Broken));
        assert!(!refusal.why.contains("publ"), "{refusal}");
    });
    let wrong =
        r#"rules.lua:3: on.subscribe a: there is no view \"publc\" of a; did you mean public?; it has public, full"#;
    assert!(log.contains(wrong), "{log}");
    // What the connect hook gave is for channels that have views.
    let mut client = nobody();
    client.identity = connect(&host, None).unwrap();
    let log = logged(|| assert_eq!(called(sees(&host, &client, "a")), no("rule_error")));
    assert!(log.contains("rules.lua:2: on.connect: there is no view") && log.contains("did you mean public?"), "{log}");
    assert_eq!(called(sees(&host, &client, "b")), ok("full"));
}

#[test]
fn two_votes_that_name_different_views_deny_in_whatever_order() {
    for (one, two) in [("'x'", "'y'"), ("'y'", "'x'"), ("'full'", "'x'"), ("'x'", "'full'")] {
        let (host, _dir) = script(&format!(
            "aether.on.view('a', 'x', {{ drop = {{ 'x' }} }})
             aether.on.view('a', 'y', {{ drop = {{ 'y' }} }})
             aether.on.subscribe('*', function() return aether.allow({{ view = {one}, ttl = '1h' }}) end)
             aether.on.subscribe('*', function() return true end)
             aether.on.subscribe('a', function() return aether.allow({{ view = {two} }}) end)",
        ));
        // The second time the first one is remembered.
        for _ in 0..2 {
            let log = logged(|| assert_eq!(called(sees(&host, &nobody(), "a")), no("rule_error")));
            assert!(
                log.contains("rules.lua:3: on.subscribe * names the view") && log.contains("rules.lua:5: "),
                "{log}"
            );
        }
    }
}

#[test]
fn a_vote_beats_what_the_connection_was_given_and_is_remembered_with_its_view() {
    let (host, _dir) = script(
        "aether.on.connect(function(req) return aether.allow({ user = 'u', view = 'poor',
            grants = { subscribe = aether.patterns({ '*' }) } }) end)
         aether.on.view('*', 'poor', { pick = { 'a' } })
         aether.on.view('*', 'rich', { drop = { 'a' } })
         aether.on.subscribe('vip', function() return aether.allow({ view = 'rich', ttl = '1h' }) end)",
    );
    let mut client = client(Some("u"), Grants::default());
    client.identity = connect(&host, None).unwrap();
    assert_eq!(called(sees(&host, &client, "any")), ok("poor"));
    assert_eq!(called(sees(&host, &client, "vip")), ok("rich"));
    let before = entries(&host);
    assert_eq!(called(sees(&host, &client, "vip")), ok("rich"));
    assert_eq!(entries(&host), before, "it is remembered");
}

#[test]
fn the_last_view_of_a_name_counts() {
    let (host, _dir) = script(
        "aether.on.view('a', 'v', { drop = { 'x' } })
         aether.on.view('*', 'v', { drop = { 'y' } })
         aether.on.subscribe('*', function() return aether.allow({ view = 'v' }) end)",
    );
    let sight = sees(&host, &nobody(), "a").unwrap();
    assert_eq!(shown(&sight, "a", r#"{"x":1,"y":2}"#).unwrap(), r#"{"x":1}"#);
}

#[test]
fn who_reads_the_past_sees_what_the_history_names_else_what_a_subscriber_would() {
    let (host, _dir) = script(
        "aether.on.view('a', 'public', { drop = { 'x' } })
         aether.on.view('h', 'public', { drop = { 'x' } })
         aether.on.view('h', 'old', { drop = { 'y' } })
         aether.on.subscribe('a', function(s)
            if s.user == 'mod' then return aether.allow({ view = 'full' }) end
            if s.user == 'out' then return false end
            if s.user == 'nil' then return nil end
            return aether.allow({ view = 'public' })
         end)
         aether.on.history('h', function(s) return aether.allow({ view = 'old' }) end)
         aether.on.subscribe('h', function(s) return aether.allow({ view = 'public' }) end)
         aether.on.history('admin.*', function(s) return true end)",
    );
    let history_only = || Grants { history: Patterns::from_strings(["*"]).unwrap(), ..Grants::default() };
    let may = |user: &str| client(Some(user), history_only());
    assert_eq!(called(reads(&host, &may("guest"), "a")), ok("public"));
    assert_eq!(called(reads(&host, &may("mod"), "a")), ok("full"));
    assert_eq!(called(reads(&host, &may("out"), "a")), no("denied"));
    assert_eq!(called(reads(&host, &may("nil"), "a")), no("not_allowed"), "nobody says what it would see");
    assert_eq!(called(reads(&host, &client(Some("guest"), Grants::default()), "a")), no("not_allowed"));
    assert_eq!(called(reads(&host, &may("guest"), "free")), ok("full"), "a channel without views");
    let admin = |channel: &str| {
        let grants = Grants { admin: true, ..history_only() };
        called(reads(&host, &client(Some("guest"), grants), channel))
    };
    assert_eq!((admin("a"), admin("h")), (ok("full"), ok("old")));
    assert_eq!(called(reads(&host, &may("guest"), "h")), ok("old"));
    // Who resumes sees what it sees live, unless the history says more.
    let resumes = |channel| called(now(host.history(&may("guest"), &name(channel), true)));
    assert_eq!((resumes("a"), resumes("h")), (ok("full"), ok("old")));
}

#[test]
fn a_reload_brings_other_views() {
    let code = |path: &str| {
        format!(
            "aether.on.view('a', 'v', {{ drop = {{ '{path}' }} }})
             aether.on.subscribe('a', function() return aether.allow({{ view = 'v' }}) end)"
        )
    };
    let (host, dir) = script(&code("x"));
    let before = sees(&host, &nobody(), "a").unwrap();
    dir.write("rules.lua", code("y"));
    host.reload().unwrap();
    let after = sees(&host, &nobody(), "a").unwrap();
    let shown = [&before, &after].map(|sight| shown(sight, "a", r#"{"x":1,"y":2}"#).unwrap());
    assert_eq!(shown, [r#"{"y":2}"#, r#"{"x":1}"#]);
    assert!(!Arc::ptr_eq(&before.unwrap(), &after.unwrap()));
}

#[test]
fn what_is_wrong_with_a_view_is_told_when_it_is_loaded() {
    for (args, wrong) in [
        ("'a', 'v'", "on.view takes a pattern, a name, and a table or a function"),
        ("'a', 'full', { drop = { 'x' } }", "\"full\" is the view of everything as it is"),
        ("'a', 'two words', { drop = { 'x' } }", "a view's name is one word"),
        ("'a', 'v', {}", "it names no path"),
        ("'a', 'v', { drpo = { 'x' } }", "drpo is not known here; did you mean drop?"),
        ("'a', 'v', { drop = 'x' }", "drop: expected a table, got the string \"x\""),
        ("'a', 'v', { drop = { 'x', y = 'z' } }", "drop: expected a list of paths"),
        ("'a', 'v', { drop = { 'x..y' } }", "a step is empty"),
        ("'a', 'v', { mask = { x = 'lasst4' } }", "\"lasst4\" is not known here; did you mean last4?"),
        ("'a', 'v', 7", "expected a table like {drop = {\"a.b\"}} or a function, got the number 7"),
        ("'{', 'v', { drop = { 'x' } }", "on.view: pattern"),
    ] {
        let errors = complaints(&format!("aether.on.view({args})"));
        let named = errors.iter().any(|error| error.starts_with("rules.lua:1: on.view") && error.contains(wrong));
        assert!(named, "{args}: {errors:?}");
    }
}
