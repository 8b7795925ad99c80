//! A change of rules against what was.

use serde_json::{Value as Json, json};

use super::*;
use crate::kernel::message::{Offset, Publication};
use crate::plugins::World;

/// One channel with a past.
struct Past(Vec<Publication>);

impl Past {
    fn of(count: u64, said: impl Fn(u64) -> String) -> Past {
        let one = |offset| Publication {
            offset,
            time: 1_000_000_000_000_000 + offset * 1_000_000,
            expires: None,
            once: None,
            message: Message { payload: said(offset).into(), ..Message::default() },
        };
        Past((1..=count).map(one).collect())
    }
}

impl World for Past {
    fn channels(&self) -> Vec<ChannelName> {
        vec![name("room.1"), name("other")]
    }
    fn stored(&self, channel: &ChannelName, before: Offset) -> Result<Vec<Publication>, String> {
        if channel.as_str() != "room.1" {
            return Err("nobody asked for it".into());
        }
        let below: Vec<_> = self.0.iter().filter(|publication| publication.offset < before).cloned().collect();
        Ok(below[below.len().saturating_sub(7)..].to_vec())
    }
    fn rules_changed(&self, _: &[std::net::SocketAddr]) {}
    fn policies_changed(&self, _: Patterns) {}
    fn publish(&self, _: crate::plugins::Said) -> bool {
        false
    }
    fn listeners(&self, _: &ChannelName) -> Vec<Arc<Client>> {
        Vec::new()
    }
    fn sessions(&self, _: &dyn Fn(&Client) -> bool) -> Vec<Arc<Client>> {
        Vec::new()
    }
    fn kick(&self, _: &dyn Fn(&Client) -> bool, _: &str) -> usize {
        0
    }
    fn unsubscribe(&self, _: &dyn Fn(&Client) -> bool, _: &ChannelName) -> usize {
        0
    }
}

fn replay(host: &Host, with: Json) -> Json {
    host.answer("replay", with.to_string().as_bytes()).unwrap_or_else(|trouble| panic!("{trouble:?}"))
}

#[test]
fn stored_messages_tell_what_other_rules_would_refuse_and_change() {
    let hand = Hand::new();
    let (host, dir) = script_with("aether.on.publish('room.*', function(s, ch, msg) return true end)", hand.config());
    dir.write(
        "next/rules.lua",
        "aether.on.publish('room.*', function(s, ch, msg)
	if msg:get('n') % 10 == 0 then return aether.deny('round', 'no round numbers') end
	return true
end)
aether.on.transform('room.*', function(ch, msg)
	if msg:get('n') <= 3 then return msg:with_json({ n = 0 }) end
	return msg
end)",
    );
    host.live_in(Past::of(40, |n| format!("{{\"n\":{n}}}")));
    hand.pass(50);
    let next = dir.path("next");
    let said = replay(&host, json!({"scripts": next, "channels": ["room.*"]}));
    assert_eq!((&said["whole"], &said["failed"]), (&json!(true), &json!([])), "{said:#}");
    let messages = &said["messages"];
    assert_eq!(messages["replayed"], 40);
    assert_eq!((&messages["would_be_refused"], &messages["would_be_changed"]), (&json!(4), &json!(3)), "{said:#}");
    let kind = &messages["differences"][0];
    assert_eq!((&kind["count"], &kind["after"]), (&json!(4), &json!("deny round")));
    assert!(kind["examples"][0]["after"]["place"].as_str().unwrap().ends_with("next/rules.lua:2"));
    assert_eq!(messages["differences"][1]["examples"][0]["after"]["gives"]["payload"], json!({"n": 0}));
    let some = replay(&host, json!({"scripts": next, "channels": ["room.*"], "since": "21s"}));
    assert_eq!((&some["messages"]["replayed"], &some["messages"]["would_be_refused"]), (&json!(12), &json!(2)));
    let few = replay(&host, json!({"scripts": next, "channels": ["room.*"], "limit": 5}));
    assert_eq!((&few["messages"]["replayed"], &few["messages"]["would_be_refused"]), (&json!(5), &json!(1)));
    assert_eq!(replay(&host, json!({"scripts": next}))["messages"]["replayed"], 0);
    let failed = replay(&host, json!({"channels": ["other"]}));
    assert_eq!(failed["failed"], json!(["other: nobody asked for it"]));
    for wrong in [json!({"since": "long"}), json!({"channels": ["a*b"]}), json!({"limit": 10_000_000})] {
        assert!(host.answer("replay", wrong.to_string().as_bytes()).is_err(), "{wrong}");
    }
    assert!(host.answer("replay_stop", b"").is_err(), "none is running");
}

#[test]
fn recorded_decisions_come_out_as_they_did_or_flip() {
    let code = "local pace = aether.limiter({ rate = 1, per = '1h' })
aether.on.subscribe('room.*', function(s, ch)
	if not pace:take(s.user) then return aether.deny('too_fast') end
	return true
end)
aether.on.publish('room.*', function(s, ch, msg) return aether.deny('never') end)";
    let (host, dir) = script(code);
    for n in 0..200 {
        let _ = subscribe(&host, &client(Some(&format!("u{}", n % 4)), Grants::default()), "room.1");
    }
    let _ = publish(&host, &nobody(), "room.1", &format!("\"{}\"", "x".repeat(5000)));
    let _ = connect(&host, None);
    let same = replay(&host, json!({}));
    assert_eq!((&same["decisions"]["flipped"], &same["decisions"]["not_whole"]), (&json!(0), &json!(2)), "{same:#}");
    // 196 refusals, and of what was allowed one in 64.
    assert_eq!(same["decisions"]["replayed"], 197);
    dir.write("next/rules.lua", code.replace("'too_fast'", "'slow_down'"));
    let next = replay(&host, json!({"scripts": dir.path("next"), "channels": ["room.*"]}));
    assert_eq!((&next["decisions"]["flipped"], &next["decisions"]["replayed"]), (&json!(196), &json!(197)), "{next:#}");
    assert_eq!(next["decisions"]["differences"][0]["before"], "deny too_fast");
}
