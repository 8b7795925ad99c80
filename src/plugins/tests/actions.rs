//! What rules do beside answering: they speak, look who is there, and send away.

use parking_lot::Mutex;

use super::*;
use crate::kernel::hooks::RefusalKind;
use crate::kernel::hub::PublishError;
use crate::plugins::world::Publishing;
use crate::plugins::{Said, World};

/// Hears what is done to it.
#[derive(Clone, Default)]
struct Ear {
    said: Arc<Mutex<Vec<Said>>>,
    ordered: Arc<Mutex<Vec<String>>>,
    /// Sessions that are there.
    clients: Arc<Mutex<Vec<Arc<Client>>>>,
    full: Arc<std::sync::atomic::AtomicBool>,
}

impl Ear {
    fn find(&self, wanted: &dyn Fn(&Client) -> bool) -> Vec<Arc<Client>> {
        self.clients.lock().iter().filter(|client| wanted(client)).cloned().collect()
    }
}

impl World for Ear {
    fn channels(&self) -> Vec<ChannelName> {
        Vec::new()
    }
    fn rules_changed(&self, _: &[std::net::SocketAddr]) {}
    fn policies_changed(&self, _channels: Patterns) {}
    fn publish(&self, said: Said) -> bool {
        let full = self.full.load(Ordering::Relaxed);
        if !full {
            self.said.lock().push(said);
        }
        !full
    }
    fn publish_now(&self, _: Arc<Client>, drafts: Vec<Draft>) -> Publishing {
        let full = drafts.iter().map(|_| Err(PublishError::Busy(Duration::from_micros(1500))));
        Box::pin(std::future::ready(full.collect()))
    }
    fn listeners(&self, _channel: &ChannelName) -> Vec<Arc<Client>> {
        self.clients.lock().clone()
    }
    fn sessions(&self, wanted: &dyn Fn(&Client) -> bool) -> Vec<Arc<Client>> {
        self.find(wanted)
    }
    fn kick(&self, meant: &dyn Fn(&Client) -> bool, why: &str) -> usize {
        self.ordered.lock().push(format!("kick: {why}"));
        self.find(meant).len()
    }
    fn unsubscribe(&self, meant: &dyn Fn(&Client) -> bool, channel: &ChannelName) -> usize {
        self.ordered.lock().push(format!("unsubscribe {channel}"));
        self.find(meant).len()
    }
}

/// A host in whose world everything is heard.
fn heard(code: &str) -> (Arc<Host>, Ear, Dir) {
    let (host, dir) = script(code);
    let ear = Ear::default();
    host.live_in(ear.clone());
    (host, ear, dir)
}

/// What the log says of a hook of channel `a` that runs `code`.
fn why(code: &str) -> String {
    let (host, _ear, _dir) = heard(&format!("aether.on.publish('a', function(s, ch, msg) {code} return true end)"));
    logged(|| drop(publish(&host, &nobody(), "a", "{}")))
}

#[test]
fn a_plugin_publishes_tables_texts_and_bytes_with_all_that_a_message_has() {
    let (host, ear, _dir) = heard(
        "aether.on.publish('a', function(s, ch, msg)
            assert(aether.publish('b', { n = 1 }, { event = 'moved', meta = { by = s.user }, ttl = '5m', idempotency_key = 'k' }))
            assert(aether.publish({ 'b', '$inner.1' }, 'hello', { once = true, as = 'ann', fleeting = true }))
            assert(aether.publish('b', buffer.fromstring('\\0\\1')))
            assert(aether.publish('b', aether.json.null))
            return true
         end)",
    );
    publish(&host, &client(Some("bob"), Grants::default()), "a", "{}").unwrap();
    let said = ear.said.lock();
    let drafts: Vec<_> = said.iter().flat_map(|said| &said.drafts).collect();
    assert_eq!(drafts.iter().map(|draft| draft.channel.as_str()).collect::<Vec<_>>(), ["b", "b", "$inner.1", "b", "b"]);
    let first = &drafts[0];
    assert_eq!((&*first.message.payload, first.message.event.as_deref()), (&b"{\"n\":1}"[..], Some("moved")));
    assert_eq!(first.message.meta.as_deref(), Some(&b"{\"by\":\"bob\"}"[..]));
    assert_eq!((first.ttl, first.idempotency_key.as_deref()), (Some(std::time::Duration::from_secs(300)), Some("k")));
    assert!(drafts[1].once.is_some() && drafts[1].once == drafts[2].once && drafts[1].fleeting && !first.fleeting);
    assert_eq!(said[1].client.identity.user.as_deref(), Some("ann"));
    assert_eq!((&*drafts[3].message.payload, &*drafts[4].message.payload), (&b"\0\x01"[..], &b"null"[..]));
}

#[test]
fn what_cannot_be_published_is_an_error_with_its_place() {
    for (args, wrong) in [
        ("'b'", "rules.lua:1: publish: the payload is missing"),
        ("'b c', 1", "invalid channel name"),
        ("7, 1", "expected a channel, got the number 7"),
        ("'b', 1, { evnt = 'x' }", "evnt is not known here; did you mean event?"),
        ("'b', 1, { event = 'a\\nb' }", "event: expected a text of at most 128 bytes"),
        ("'b', 1, { ttl = 'soon' }", "ttl: expected a duration"),
        ("'b', string.rep('x', 2^20 + 1)", "is larger than 1 MiB"),
    ] {
        let log = why(&format!("aether.publish({args})"));
        assert!(log.contains(wrong), "{args}: {log}");
    }
    assert!(complaints("aether.publish('b', 1)")[0].contains("nothing is published while a file loads"));
}

#[test]
fn who_publishes_where_there_is_no_room_hears_when_there_will_be() {
    let (host, _ear, _dir) = heard(
        "aether.on.publish('a', {async = true}, function()
            local receipt, code, why, retry_ms = aether.publish_now('b', 1)
            return aether.deny(code, why, {retry_ms = retry_ms})
        end)",
    );
    let refused = waiting::wait(host.publish(&nobody(), draft("a", "1"))).err().unwrap();
    assert_eq!((refused.kind, refused.code.as_str(), refused.retry_ms), (RefusalKind::Busy, "busy", Some(2)));
}

#[test]
fn who_publishes_too_much_at_once_hears_busy() {
    let (host, ear, _dir) = heard(
        "aether.on.publish('a', function() local ok, why = aether.publish('b', 1) return aether.deny(why or 'fine') end)",
    );
    assert_eq!(publish(&host, &nobody(), "a", "1").unwrap_err().code, "fine");
    ear.full.store(true, Ordering::Relaxed);
    assert_eq!(publish(&host, &nobody(), "a", "1").unwrap_err().code, "busy");
}

#[test]
fn a_plugin_is_not_asked_about_itself_and_hooks_that_answer_each_other_come_to_an_end() {
    let dir = Dir::new();
    for (name, from, to) in [("one", "ping", "pong"), ("two", "pong", "ping")] {
        let code = format!("aether.on.publish('{from}', function() aether.publish('{to}', 1) return true end)");
        dir.write(&format!("{name}.lua"), code);
    }
    dir.write("three.lua", "aether.on.publish('own', function() aether.publish('own', 1) return true end)");
    let host = Host::load(HostConfig { scripts: Some(dir.0.clone()), ..calm() }).unwrap();
    let ear = Ear::default();
    host.live_in(ear.clone());
    let publications = |first: &str| {
        publish(&host, &nobody(), first, "1").unwrap();
        let mut count = 0;
        while let Some(Said { client, drafts }) = { ear.said.lock().pop() } {
            for draft in drafts {
                count += 1;
                assert!(count < 100, "without end");
                now(host.publish(&client, draft)).unwrap();
            }
        }
        count
    };
    assert_eq!(publications("own"), 1, "its own hook is not asked about what it says");
    let mut count = 0;
    let log = logged(|| count = publications("ping"));
    assert_eq!(count, 4);
    assert!(log.contains("without end") && log.contains("plugin=\"one\""), "{log}");
    // The chain has ended; the next message begins another.
    assert_eq!(publications("pong"), 4);
}

#[test]
fn other_rules_are_asked_about_what_a_plugin_says() {
    let dir = Dir::new();
    dir.write("a.lua", "aether.on.publish('in', function() aether.publish('out', 1) return true end)");
    dir.write("b.lua", "aether.on.publish('out', function(s) if s.transport == 'plugin' then return aether.deny('not_you', s.id) end return nil end)");
    let host = Host::load(HostConfig { scripts: Some(dir.0.clone()), ..calm() }).unwrap();
    let ear = Ear::default();
    host.live_in(ear.clone());
    publish(&host, &nobody(), "in", "1").unwrap();
    let Said { client, mut drafts } = ear.said.lock().remove(0);
    let refused = now(host.publish(&client, drafts.remove(0))).map(drop).unwrap_err();
    assert_eq!((refused.code.as_str(), refused.why.as_str()), ("not_you", "plugin:a"));
}

#[test]
fn rules_see_who_is_there_and_send_some_of_them_away() {
    let (host, ear, _dir) = heard(
        "aether.on.publish('a', function()
            local there = aether.presence('room.1')
            assert(#there == 2 and there[1].user == 'ann' and there[1].transport == 'ws' and there[1].id)
            assert(#aether.sessions({ user = 'bob' }) == 1 and #aether.sessions() == 2)
            assert(select(2, aether.sessions()) == 2 and select(2, aether.presence('room.1')) == 2)
            assert(#aether.sessions({ user = 'bob', channel = 'room.1' }) == 1)
            assert(aether.kick({ user = 'bob', why = 'spam' }) == 1)
            assert(aether.unsubscribe({ user = 'ann', channel = 'room.1' }) == 1)
            return true
         end)",
    );
    *ear.clients.lock() = ["ann", "bob"].map(|user| Arc::new(client(Some(user), Grants::default()))).into();
    publish(&host, &nobody(), "a", "1").unwrap();
    assert_eq!(*ear.ordered.lock(), ["kick: spam", "unsubscribe room.1"]);
    for (code, wrong) in [
        ("aether.kick({})", "kick: say whom: user, session or tenant"),
        ("aether.kick({ usr = 'x' })", "usr is not known here; did you mean user?"),
        ("aether.kick({ user = 'x', channel = 'a' })", "is meant by aether.unsubscribe"),
        ("aether.unsubscribe({ channel = 'a' })", "say whom"),
        ("aether.unsubscribe({ user = 'a' })", "say which channel"),
        ("aether.sessions({ user = 1 })", "user: expected a string, got the number 1"),
    ] {
        let log = why(code);
        assert!(log.contains(wrong), "{code}: {log}");
    }
}

#[test]
fn a_plugin_does_only_what_its_manifest_says() {
    let dir = Dir::new();
    let load = |permissions: &str, code: &str| {
        dir.write("p/plugin.toml", format!("[plugin]\nname = \"p\"\nversion = \"1\"\n[permissions]\n{permissions}"));
        dir.write("p/main.lua", format!("aether.on.load(function() {code} end)"));
        let plugins = vec![plugin_use("p", &dir.path("p"), serde_json::json!({}))];
        let host = Host::load(HostConfig { plugins, ..calm() }).map_err(|error| error.to_string())?;
        host.live_in(Ear::default());
        host.begin().map_err(|error| error.to_string())
    };
    let rooms = "channels = [\"room.*\"]\nsessions = [\"list\"]";
    assert_eq!(load(rooms, "assert(aether.publish('room.1', 1)) aether.presence('room.1') aether.sessions()"), Ok(()));
    let nothing = "assert(not aether.publish and not aether.presence and not aether.sessions and not aether.kick)";
    assert_eq!(load("", nothing), Ok(()));
    assert_eq!(load(rooms, "assert(not aether.kick and not aether.unsubscribe)"), Ok(()));
    for code in ["aether.publish('hall', 1)", "aether.publish('$room.1', 1)", "aether.presence('hall')"] {
        assert!(load(rooms, code).unwrap_err().contains("is not within [permissions] channels of p's plugin.toml"));
    }
    let wrong = load("sessions = [\"kik\"]", "").unwrap_err();
    assert!(
        wrong.contains(
            "p/plugin.toml:5:13: permissions.sessions: \"kik\" is none of list, kick, announce; did you mean kick?"
        ),
        "{wrong}"
    );
}

#[test]
fn a_log_line_says_which_plugin_hook_and_line_spoke() {
    let log = why("aether.log.warn('slow down', { n = 1 })");
    for part in ["plugin=\"rules\"", "hook=\"on.publish\"", "rules.lua:1\"", "fields=\"{\\\"n\\\":1}\"", "slow down"] {
        assert!(log.contains(part), "{part}: {log}");
    }
}
