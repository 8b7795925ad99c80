//! `aether.forget`: remembered answers go before their time.

use mlua::{Table, Value};

use super::pattern::read_grant;
use super::{Entry, function};
use crate::plugins::asking::remembered::Forget;
use crate::plugins::source::schema::hint;
use crate::plugins::vm::value::{describe, raise};
use crate::plugins::why::trace;

pub const ENTRIES: &[Entry] = &[Entry {
    name: "forget",
    args: "{user?, channel?, tag?, session?}",
    gives: "number",
    doc: "Drops the remembered answers that fit all that is given: votes, and with user alone its credentials too.",
    kind: "(what: { user: string?, channel: any, tag: string?, session: string? }) -> number",
    may_wait: false,
    since: "0.1.0",
    example: r#"aether.on.publish("admin.room.{room}.changed", function(s, ch)
	aether.forget({ tag = "room:" .. ch.room })
	return nil
end)"#,
    make: |lua, seat| {
        function(lua, seat, |lua, seat, what: Table| {
            let what = read(&what).map_err(|why| raise(lua, format!("aether.forget: {why}")))?;
            Ok(if trace::acts(|| format!("forget {what:?}")) {
                seat.program.commons.remembered.forget(&what)
            } else {
                0
            })
        })
    },
}];

const KEYS: [&str; 4] = ["user", "channel", "tag", "session"];

fn read(options: &Table) -> Result<Forget, String> {
    let mut forget = Forget::default();
    for pair in options.pairs::<Value, Value>() {
        let (key, value) = pair.map_err(|e| e.to_string())?;
        let key = key.as_string().map(|key| key.to_string_lossy()).unwrap_or_else(|| describe(&key));
        let text = || match &value {
            Value::String(text) => Ok(Some(text.to_string_lossy())),
            other => Err(format!("{key}: expected a string, got {}", describe(other))),
        };
        match key.as_str() {
            "user" => forget.user = text()?,
            "tag" => forget.tag = text()?,
            "session" => forget.session = text()?,
            "channel" => forget.channel = Some(read_grant(&value).map_err(|why| format!("channel: {why}"))?),
            _ => return Err(format!("{key} is not known here{}", hint(&key, KEYS))),
        }
    }
    if KEYS.iter().all(|key| options.raw_get::<Value>(*key).is_ok_and(|value| value.is_nil())) {
        return Err("say what: user, channel, tag or session".into());
    }
    Ok(forget)
}
