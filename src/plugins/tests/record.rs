//! The recorder of decisions.

use super::*;
use crate::plugins::DecisionFilter;

#[test]
fn every_no_is_found_by_what_is_known_of_it() {
    let hand = Hand::new();
    let (host, _dir) = script_with(
        "aether.on.subscribe('room.{room}', function(s, ch)
	if ch.room == '1' then return aether.deny('not_member', 'join first', { private = true }) end
	return true
end)",
        hand.config(),
    );
    let ann = Client { ip: Some([10, 0, 0, 1].into()), ..client(Some("ann"), Grants::default()) };
    let refusal = subscribe(&host, &ann, "room.1").unwrap_err();
    hand.pass(1);
    let _ = subscribe(&host, &ann, "elsewhere");
    let all = host.decisions(&DecisionFilter::default());
    assert_eq!(all.len(), 2);
    assert_eq!((&*all[0].code, &*all[0].channel), ("not_allowed", "elsewhere"));
    let by_id = host.decisions(&DecisionFilter { id: Some(refusal.decision), ..DecisionFilter::default() });
    assert_eq!(by_id, all[1..]);
    let it = &by_id[0];
    assert_eq!((&*it.hook, &*it.plugin, &*it.why), ("on.subscribe room.{room}", "rules", "join first"));
    assert!(it.place.ends_with("rules.lua:2") && !it.allowed);
    assert_eq!((&*it.user, it.ip, it.transport), ("ann", ann.ip, "ws"));
    let since = DecisionFilter { since: Some(it.time + 1), user: Some("ann".into()), ..DecisionFilter::default() };
    assert_eq!(host.decisions(&since), all[..1]);
}

#[test]
fn it_is_bounded_and_samples_what_was_allowed() {
    let (host, _dir) = script("aether.on.subscribe('a', function() return true end)");
    for _ in 0..3000 {
        let _ = (subscribe(&host, &nobody(), "a"), subscribe(&host, &nobody(), "b"));
    }
    let count = |allowed| host.decisions(&DecisionFilter { allowed: Some(allowed), ..DecisionFilter::default() }).len();
    assert_eq!((count(false), count(true)), (1000, 3000_usize.div_ceil(64)));
    let limited = DecisionFilter { limit: Some(3), allowed: Some(true), ..DecisionFilter::default() };
    let allowed = host.decisions(&limited);
    assert!(allowed.len() == 3 && allowed[0].hook == "on.subscribe a" && allowed[0].place.ends_with("rules.lua:1"));
}

#[test]
fn a_credential_is_in_no_record_and_no_log() {
    let (host, _dir) = script(
        "aether.on.connect(function(req)
	if req.path == '/ws' then error('cannot read ' .. req:bearer()) end
	return aether.deny('bad', 'what is ' .. req:bearer())
end)",
    );
    let log = logged(|| drop(connect(&host, Some("hunter2"))));
    let records = format!("{:?}", host.decisions(&DecisionFilter::default()));
    for text in [&log, &records] {
        assert!(text.contains("cannot read <secret>") && !text.contains("hunter2"), "{text}");
    }
}

#[test]
fn whatever_a_request_has_shown_is_hidden_wherever_it_stood() {
    let (host, _dir) = script(
        "aether.on.connect(function(req)
	error(`{req:header('authorization')} {req:header('sec-websocket-protocol')} {req.query.token} {req:header('cookie')}`)
end)",
    );
    let headers = [
        ("authorization", "Basic in-the-header"),
        ("sec-websocket-protocol", "aether.v1, bearer.in-the-protocol"),
        ("cookie", "theme=dark; sid=\"in-the-cookie\""),
    ];
    let request = ConnectRequest {
        transport: "ws",
        headers: headers.map(|(name, value)| (name.to_owned(), value.to_owned())).into(),
        query: vec![("token".into(), "in-the-query".into())],
        bearer: Some("in-the-protocol".into()),
        ..ConnectRequest::default()
    };
    let log = logged(|| drop(now(host.connect(&request))));
    let records = format!("{:?}", host.decisions(&DecisionFilter::default()));
    for text in [&log, &records] {
        assert!(text.contains("Basic <secret>") && text.contains("dark") && !text.contains("in-the"), "{text}");
    }
}

#[test]
fn an_answer_that_a_cookie_may_have_decided_is_not_remembered_for_the_credential_beside_it() {
    let (host, _dir) = script(
        "aether.on.connect(function(req)
	if req:cookie('sid') == 'ann-s-session' then return aether.allow({ user = 'ann', ttl = '1m' }) end
	return nil
end)",
    );
    let mut request =
        ConnectRequest { transport: "http", bearer: Some("anything".into()), ..ConnectRequest::default() };
    request.headers.push(("cookie".into(), "sid=ann-s-session".into()));
    assert_eq!(now(host.connect(&request)).unwrap().user.as_deref(), Some("ann"));
    request.headers.clear();
    assert!(now(host.connect(&request)).is_err(), "the credential alone is nobody");
}
