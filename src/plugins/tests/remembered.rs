//! Credentials and votes that are remembered, and how they are forgotten.

use super::*;
use crate::plugins::Forget;

const KEYS: &str = "aether.on.connect(function(req)
	local key = req:bearer()
	if key == 'never' then return aether.allow({ user = key }) end
	if key == 'short' then return aether.allow({ user = key, ttl = '1m', expires = 1e9 + 30 }) end
	if key == 'bad' then return aether.deny('bad_key') end
	return aether.allow({ user = key, ttl = '1m', grants = { publish = 'a' } })
end)
aether.on.publish('wipe.{user}', function(s, ch) aether.forget({ user = ch.user }) return true end)
";

fn http(host: &Host, key: &str) -> Result<Identity, Refusal> {
    connect_by("http", host, Some(key))
}

/// Whether Lua ran.
fn enters(host: &Host, act: impl FnOnce()) -> bool {
    let before = entries(host);
    act();
    entries(host) > before
}

#[test]
fn a_publish_with_a_known_key_runs_no_lua() {
    let hand = Hand::new();
    let (host, _dir) = script_with(KEYS, hand.config());
    assert!(enters(&host, || drop(http(&host, "k").unwrap())));
    let runs = enters(&host, || {
        for _ in 0..100 {
            let client = Client { identity: http(&host, "k").unwrap(), ..nobody() };
            assert_eq!(client.identity.user.as_deref(), Some("k"));
            publish(&host, &client, "a", "1").unwrap();
        }
    });
    assert!(!runs);
    assert_eq!(host.counters().credentials_known.load(Ordering::Relaxed), 100);
    hand.pass(59);
    assert!(!enters(&host, || drop(http(&host, "k").unwrap())));
    hand.pass(1);
    assert!(enters(&host, || drop(http(&host, "k").unwrap())), "its time is over");
}

#[test]
fn only_what_says_so_is_remembered_and_never_beyond_its_end() {
    let hand = Hand::new();
    let (host, _dir) = script_with(KEYS, hand.config());
    for key in ["never", "bad"] {
        for _ in 0..2 {
            assert!(enters(&host, || drop(http(&host, key))), "{key}");
        }
    }
    for _ in 0..2 {
        assert!(enters(&host, || drop(connect(&host, Some("k")).unwrap())), "a connection is asked about each time");
        assert!(enters(&host, || drop(connect_by("http", &host, None))), "no credential");
    }
    assert!(enters(&host, || drop(http(&host, "short").unwrap())));
    hand.pass(29);
    assert!(!enters(&host, || drop(http(&host, "short").unwrap())));
    hand.pass(1);
    assert!(enters(&host, || drop(http(&host, "short").unwrap())), "it has expired");
}

#[test]
fn a_revoked_user_is_forgotten_from_rust_and_from_lua() {
    let (host, _dir) = script(KEYS);
    for forget in [
        &(|| assert_eq!(host.forget(&Forget { user: Some("k".into()), ..Forget::default() }), 1)) as &dyn Fn(),
        &|| publish(&host, &nobody(), "wipe.k", "1").unwrap(),
    ] {
        http(&host, "k").unwrap();
        http(&host, "other").unwrap();
        forget();
        assert!(enters(&host, || drop(http(&host, "k").unwrap())));
        assert!(!enters(&host, || drop(http(&host, "other").unwrap())));
        host.forget(&Forget { user: Some("k".into()), ..Forget::default() });
    }
    assert_eq!(host.forget(&Forget::default()), 0, "nothing given fits nothing");
}

#[test]
fn ever_new_credentials_do_not_fill_the_memory() {
    let (host, _dir) = script(KEYS);
    for number in 0..12_000 {
        http(&host, &format!("k{number}")).unwrap();
    }
    assert!(!enters(&host, || drop(http(&host, "k11999").unwrap())));
    let forgotten = host.forget(&Forget { user: Some("k11999".into()), ..Forget::default() });
    assert_eq!(forgotten, 1);
}

const VOTES: &str = "
aether.on.subscribe('room.{room}', function(s, ch)
	if s.user == 'mallory' then return aether.deny('no') end
	return aether.allow({ ttl = '5m', tags = { 'room' .. ch.room } })
end)
aether.on.subscribe('room.closed', function() return aether.deny('closed') end)
aether.on.publish('forget', function(s, ch, msg) return aether.forget(msg:json()) > 0 end)
";

#[test]
fn a_remembered_vote_runs_no_lua_until_it_ends() {
    let hand = Hand::new();
    let (host, _dir) = script_with(VOTES, hand.config());
    let ann = client(Some("ann"), Grants::default());
    let ann_again = client(Some("ann"), Grants::default());
    let (guest, other_guest) = (nobody(), nobody());
    let asks = |client: &Client, channel: &str| enters(&host, || subscribe(&host, client, channel).unwrap());
    assert!(asks(&ann, "room.1") && !asks(&ann, "room.1") && !asks(&ann_again, "room.1"), "by user");
    assert!(asks(&ann, "room.2") && asks(&guest, "room.1") && !asks(&guest, "room.1"), "by channel");
    assert!(asks(&other_guest, "room.1"), "a session without a user is alone");
    let mut elsewhere = client(Some("ann"), Grants::default());
    elsewhere.identity.tenant = Some("t".into());
    assert!(asks(&elsewhere, "room.1"), "the same name of another tenant is somebody else");
    for _ in 0..2 {
        assert_eq!(subscribe(&host, &client(Some("mallory"), Grants::default()), "room.1").unwrap_err().code, "no");
        assert_eq!(
            subscribe(&host, &ann, "room.closed").unwrap_err().code,
            "closed",
            "other hooks are asked all the same"
        );
    }
    hand.pass(301);
    assert!(asks(&ann, "room.1"));
}

#[test]
fn votes_are_forgotten_by_user_channel_and_tag() {
    let (host, _dir) = script(VOTES);
    let all = ["ann", "bob"].map(|user| client(Some(user), Grants::default()));
    let known = || {
        let vote = |user: usize, channel: &str| !enters(&host, || subscribe(&host, &all[user], channel).unwrap());
        [vote(0, "room.1"), vote(0, "room.2"), vote(1, "room.1"), vote(1, "room.2")]
    };
    for (what, left) in [
        (r#"{"user": "ann"}"#, [false, false, true, true]),
        (r#"{"channel": "room.2"}"#, [true, false, true, false]),
        (r#"{"tag": "room1"}"#, [false, true, false, true]),
        (r#"{"user": "bob", "tag": "room1"}"#, [true, true, false, true]),
    ] {
        known();
        assert_eq!(known(), [true; 4]);
        publish(&host, &nobody(), "forget", what).unwrap();
        assert_eq!(known(), left, "{what}");
    }
    let patterns = Patterns::from_strings(["room.*"]).unwrap();
    assert_eq!(host.forget(&Forget { channel: Some(patterns), ..Forget::default() }), 4);
    for (bad, why) in
        [("{}", "say what"), (r#"{"usr": "x"}"#, "did you mean user?"), (r#"{"user": 7}"#, "expected a string")]
    {
        let log = logged(|| assert!(publish(&host, &nobody(), "forget", bad).is_err()));
        assert!(log.contains(why), "{bad}: {log}");
    }
}

#[test]
fn tags_without_ttl_and_views_that_are_not_there_are_refused_with_a_reason() {
    for (options, why) in [
        ("view = 'fulll', ttl = '1m'", "no view \\\"fulll\\\" of a; did you mean full?; it has full"),
        ("tags = { 'a' }", "without ttl nothing is"),
        ("ttl = 'soon'", "expected a duration"),
        ("ttl = '1m', tags = { 7 }", "expected a list of at most 16 short strings"),
        ("user = 'x'", "takes only ttl, tags, view here, got user"),
    ] {
        let (host, _dir) =
            script(&format!("aether.on.subscribe('a', function() return aether.allow({{ {options} }}) end)"));
        let log = logged(|| assert!(subscribe(&host, &nobody(), "a").is_err()));
        assert!(log.contains(why), "{options}: {log}");
    }
}

#[test]
fn a_refresh_asks_its_own_hook_or_the_connect_hooks_and_keeps_the_user() {
    let refresh = |host: &Host, client: &Client, token: &str| now(host.refresh(client, token)).map_err(|no| no.code);
    let connect_only = "aether.on.connect(function(req) return aether.allow({ user = req:bearer(), expires = 7 }) end)";
    let (host, _dir) = script(connect_only);
    let ann = client(Some("ann"), Grants::default());
    assert_eq!(refresh(&host, &ann, "ann").unwrap().expires, Some(7_000_000));
    assert_eq!(refresh(&host, &ann, "bob").err().as_deref(), Some("other_user"));
    assert_eq!(refresh(&host, &nobody(), "bob").unwrap().user.as_deref(), Some("bob"));

    let own = "
aether.on.refresh(function(s, token)
	if token == 'late' then return aether.deny('too_late', 'sign in again') end
	if token == 'none' then return nil end
	if token == 'break' then error('bad token ' .. token) end
	return aether.allow({ user = s.user, expires = 9 })
end)";
    let (host, _dir) = script(&format!("{VOTES}{connect_only}{own}"));
    assert_eq!(refresh(&host, &ann, "x").unwrap().expires, Some(9_000_000));
    for (token, code) in [("late", "too_late"), ("none", "unauthorized"), ("break", "rule_error")] {
        assert_eq!(refresh(&host, &ann, token).err().as_deref(), Some(code));
    }
    subscribe(&host, &ann, "room.1").unwrap();
    refresh(&host, &ann, "x").unwrap();
    assert!(enters(&host, || subscribe(&host, &ann, "room.1").unwrap()), "votes are asked anew after a refresh");
}
