//! `aether.presence`, `aether.sessions`, `aether.kick`, `aether.unsubscribe`: who is there, and sending some away.

use std::rc::Rc;
use std::sync::Arc;

use mlua::{Lua, Table, Value};
use serde_json::Value as Json;

use super::publish::read_channel;
use super::{Entry, Seat, function};
use crate::kernel::hooks::Client;
use crate::kernel::message::ChannelName;
use crate::plugins::asking::decision::sentence;
use crate::plugins::source::schema::hint;
use crate::plugins::vm::value::{describe, json_to_lua, raise};
use crate::plugins::why::trace::{self, Told};
use crate::plugins::world::{Nowhere, World};

pub const ENTRIES: &[Entry] = &[
    Entry {
        name: "presence",
        args: "channel",
        gives: "list, number",
        doc: "Who listens to a channel: {id, user, tenant, ip, transport, connected_ms, expires_ms} each, at most 1,000; and how many there are.",
        kind: "(channel: string) -> ({ any }, number)",
        may_wait: false,
        since: "0.1.0",
        example: r#"aether.http.route("GET", "/rooms/{room}/who", function(req)
	return { json = aether.json.array(aether.presence("room." .. req.params.room)) }
end)"#,
        make: |lua, seat| {
            if seat.unit().may.as_ref().is_some_and(|may| may.is_empty()) {
                return Ok(Value::Nil); // no permission: not there
            }
            function(lua, seat, |lua, seat, channel: Value| {
                let name = read_channel(seat, &channel).map_err(|why| raise(lua, format!("presence: {why}")))?;
                let world = world(lua, seat)?;
                list(lua, "presence", name.as_str(), || world.listeners(&name))
            })
        },
    },
    Entry {
        name: "sessions",
        args: "{user?, session?, tenant?, channel?}?",
        gives: "list, number",
        doc: "Who is connected and fits all that is given: as presence.",
        kind: "(wanted: { [string]: string }?) -> ({ any }, number)",
        may_wait: false,
        since: "0.1.0",
        example: r#"aether.http.route("GET", "/users/{user}/online", function(req)
	return { json = { online = #aether.sessions({ user = req.params.user }) > 0 } }
end)"#,
        make: |lua, seat| {
            permitted(
                seat,
                "list",
                function(lua, seat, |lua, seat, what: Option<Table>| {
                    let meant =
                        Meant::read(seat, what.as_ref(), &[]).map_err(|why| raise(lua, format!("sessions: {why}")))?;
                    let world = world(lua, seat)?;
                    let find = || match &meant.channel {
                        Some(channel) => {
                            let mut found = world.listeners(channel);
                            found.retain(|client| meant.means(client));
                            found
                        }
                        None => world.sessions(&|client| meant.means(client)),
                    };
                    list(lua, "sessions", &meant.shown(), find)
                })?,
            )
        },
    },
    Entry {
        name: "kick",
        args: "{user?, session?, tenant?, why?}",
        gives: "number",
        doc: "Closes the connections that fit all that is given, with 4403 and why; how many.",
        kind: "(meant: { [string]: string }) -> number",
        may_wait: false,
        since: "0.1.0",
        example: r#"aether.http.route("DELETE", "/users/{user}", function(req)
	return { json = { closed = aether.kick({ user = req.params.user, why = "your account is closed" }) } }
end)"#,
        make: |lua, seat| {
            permitted(
                seat,
                "kick",
                function(lua, seat, |lua, seat, what: Table| {
                    let fail = |why: String| raise(lua, format!("kick: {why}"));
                    let meant = Meant::read(seat, Some(&what), &["why"]).and_then(Meant::somebody).map_err(fail)?;
                    if meant.channel.is_some() {
                        return Err(fail("channel: who is to leave one channel is meant by aether.unsubscribe".into()));
                    }
                    let why = meant.why.as_deref().unwrap_or("disconnected by a rule");
                    if !trace::acts(|| format!("kick {}", meant.shown())) {
                        return Ok(0);
                    }
                    Ok(world(lua, seat)?.kick(&|client| meant.means(client), why))
                })?,
            )
        },
    },
    Entry {
        name: "unsubscribe",
        args: "{channel, user?, session?, tenant?}",
        gives: "number",
        doc: "Ends the subscriptions to a channel of the connections that fit all that is given; of how many.",
        kind: "(meant: { [string]: string }) -> number",
        may_wait: false,
        since: "0.1.0",
        example: r#"aether.http.route("DELETE", "/rooms/{room}/members/{user}", function(req)
	aether.unsubscribe({ channel = "room." .. req.params.room, user = req.params.user })
	return nil
end)"#,
        make: |lua, seat| {
            permitted(
                seat,
                "kick",
                function(lua, seat, |lua, seat, what: Table| {
                    let fail = |why: String| raise(lua, format!("unsubscribe: {why}"));
                    let meant = Meant::read(seat, Some(&what), &[]).and_then(Meant::somebody).map_err(fail)?;
                    let channel = meant.channel.as_ref().ok_or_else(|| fail("say which channel".into()))?;
                    if !trace::acts(|| format!("unsubscribe {}", meant.shown())) {
                        return Ok(0);
                    }
                    Ok(world(lua, seat)?.unsubscribe(&|client| meant.means(client), channel))
                })?,
            )
        },
    },
];

/// Connections that one list names.
const MAX_LISTED: usize = 1000;
/// What a close frame has room for.
const MAX_WHY: usize = 96;

fn permitted(seat: &Seat, what: &str, function: Value) -> mlua::Result<Value> {
    let may = seat.unit().sessions.as_ref().is_none_or(|may| may.iter().any(|one| one == what));
    Ok(if may { function } else { Value::Nil })
}

fn world<'a>(lua: &Lua, seat: &'a Rc<Seat>) -> mlua::Result<&'a dyn World> {
    if seat.loading.get() {
        return Err(raise(lua, "nobody is there while a file loads: ask in a hook"));
    }
    Ok(seat.program.commons.world.get().map_or(&Nowhere, |world| &**world))
}

/// Whom it is about: everything that is given must fit.
#[derive(Default)]
struct Meant {
    user: Option<String>,
    session: Option<String>,
    tenant: Option<String>,
    channel: Option<ChannelName>,
    why: Option<String>,
}

impl Meant {
    fn read(seat: &Seat, what: Option<&Table>, more: &[&str]) -> Result<Meant, String> {
        let known: Vec<&str> =
            ["user", "session", "tenant", "channel"].into_iter().chain(more.iter().copied()).collect();
        let mut meant = Meant::default();
        for pair in what.into_iter().flat_map(Table::pairs::<Value, Value>) {
            let (key, value) = pair.map_err(|error| error.to_string())?;
            let key = key.as_string().map(|key| key.to_string_lossy()).unwrap_or_else(|| describe(&key));
            if !known.contains(&key.as_str()) {
                return Err(format!("{key} is not known here{}", hint(&key, known)));
            }
            let Value::String(text) = &value else {
                return Err(format!("{key}: expected a string, got {}", describe(&value)));
            };
            let text = text.to_string_lossy();
            match key.as_str() {
                "user" => meant.user = Some(text),
                "session" => meant.session = Some(text),
                "tenant" => meant.tenant = Some(text),
                "channel" => meant.channel = Some(read_channel(seat, &value)?),
                _ => meant.why = Some(short(&sentence(&text))),
            }
        }
        Ok(meant)
    }

    /// What sends people away must say whom: an empty table is a mistake, not everybody.
    fn somebody(self) -> Result<Meant, String> {
        if self.user.is_none() && self.session.is_none() && self.tenant.is_none() {
            return Err("say whom: user, session or tenant".into());
        }
        Ok(self)
    }

    /// For whoever is to know what would be done.
    fn shown(&self) -> String {
        let channel = self.channel.as_ref().map(|channel| channel.as_str());
        let all = [
            ("user", self.user.as_deref()),
            ("session", self.session.as_deref()),
            ("tenant", self.tenant.as_deref()),
            ("channel", channel),
        ];
        let given = all.into_iter().filter_map(|(name, value)| Some(format!("{name} {}", value?)));
        given.collect::<Vec<_>>().join(", ")
    }

    fn means(&self, client: &Client) -> bool {
        let fits = |wanted: &Option<String>, is: Option<&str>| wanted.is_none() || wanted.as_deref() == is;
        fits(&self.session, Some(&client.id))
            && fits(&self.user, client.identity.user.as_deref())
            && fits(&self.tenant, client.identity.tenant.as_deref())
    }
}

fn short(text: &str) -> String {
    let mut end = text.len().min(MAX_WHY);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text[..end].to_owned()
}

/// Those that are found, as far as they are listed, and how many there are.
fn list(
    lua: &Lua,
    call: &'static str,
    of: &str,
    find: impl FnOnce() -> Vec<Arc<Client>>,
) -> mlua::Result<(Value, Value)> {
    let ask = || {
        let one = |client: &Arc<Client>| {
            let identity = &client.identity;
            let all = [
                ("id", Some(client.id.clone())),
                ("user", identity.user.clone()),
                ("tenant", identity.tenant.clone()),
                ("ip", client.ip.map(|ip| ip.to_string())),
                ("transport", Some(client.transport.to_owned())),
            ];
            let times = [
                ("connected_ms", Some(client.connected / 1000)),
                ("expires_ms", identity.expires.map(|expires| expires / 1000)),
            ];
            let texts = all.into_iter().filter_map(|(key, value)| Some((key.to_owned(), Json::from(value?))));
            let times = times.into_iter().filter_map(|(key, value)| Some((key.to_owned(), Json::from(value?))));
            texts.chain(times).collect::<Json>()
        };
        let all = find();
        let listed = all.iter().take(MAX_LISTED).map(one).collect();
        Ok(Some(Arc::new(Json::Array(vec![Json::Array(listed), Json::from(all.len())]))))
    };
    let found = trace::read(call, &of.into(), &[], Told::Nothing, ask).map_err(|why| raise(lua, why))?;
    let part = |at: usize| match found.as_ref().and_then(|found| found.get(at)) {
        Some(part) => json_to_lua(lua, part),
        None => Ok(Value::Nil),
    };
    Ok((part(0)?, part(1)?))
}
