//! `aether.test`: what a case does to the plugin under test. Each verb is a call of the host's own doors.

use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use mlua::{Function, Lua, MultiValue, Table, Value};
use serde_json::{Map, Value as Json};

use super::reading::{fields, read_draft, read_farewell, read_request};
use super::{Stage, answers};
use crate::kernel::hooks::{Answer, Client, ConnectRequest, Hooks, Identity, Refusal};
use crate::kernel::message::{ChannelName, Micros, Publication};
use crate::plugins::api::{Seat, function};
use crate::plugins::departures;
use crate::plugins::schema::{hint, read_duration};
use crate::plugins::value::{describe, frozen, json_to_lua, lua_to_json, raise, to_number};
use crate::plugins::{Auth, Entry, Host, LoadError, Routed, Visit};

pub const ENTRIES: &[Entry] = &[
    Entry {
        name: "test.case",
        args: "name, fn()",
        gives: "",
        doc: "Tells one case. Each runs in a fresh VM, with a fresh plugin, empty stores and the clock at its beginning.",
        make: |lua, seat| {
            function(lua, seat, |lua, seat, (name, case): (String, Function)| {
                let stage = stage(lua, seat)?;
                let mut cases = stage.cases.borrow_mut();
                if !stage.loading.get() {
                    return Err(raise(lua, "t.case: cases are told while the file loads"));
                }
                if cases.iter().any(|(known, _)| *known == name) {
                    return Err(raise(lua, format!("t.case: there are two cases {name:?}")));
                }
                cases.push((name, case));
                Ok(())
            })
        },
    },
    Entry {
        name: "test.config",
        args: "settings",
        gives: "",
        doc: "The plugin's settings, as [plugin.config] in aether.toml would have them. At the top of a file they hold for all its cases.",
        make: |lua, seat| {
            function(lua, seat, |lua, seat, settings: Value| {
                stage(lua, seat)?.configure(object(lua, "t.config", &settings)?);
                Ok(())
            })
        },
    },
    Entry {
        name: "test.secret",
        args: "name, value",
        gives: "",
        doc: "Sets a secret that the plugin may read.",
        make: |lua, seat| {
            function(lua, seat, |lua, seat, (name, value): (String, String)| {
                stage(lua, seat)?.set_secret(name, value);
                Ok(())
            })
        },
    },
    Entry {
        name: "test.use",
        args: "plugin, settings?",
        gives: "",
        doc: "Loads another plugin of the plugins' directory before the one under test.",
        make: |lua, seat| {
            function(lua, seat, |lua, seat, (name, settings): (String, Value)| {
                stage(lua, seat)?.load_beside(name, object(lua, "t.use", &settings)?);
                Ok(())
            })
        },
    },
    Entry {
        name: "test.load",
        args: "",
        gives: "boolean, string?",
        doc: "Loads the plugin now: true, or false and everything that is wrong. Other verbs load it when they need it.",
        make: |lua, seat| function(lua, seat, |lua, seat, ()| loaded(lua, stage(lua, seat)?.host().map(drop))),
    },
    Entry {
        name: "test.reload",
        args: "settings?",
        gives: "boolean, string?",
        doc: "Reloads the plugin as a running hub does, with other settings if they are given: true, or false and what is wrong.",
        make: |lua, seat| {
            function(lua, seat, |lua, seat, settings: Value| {
                let stage = stage(lua, seat)?;
                let host = host(lua, stage)?;
                if !settings.is_nil() {
                    stage.prepare(object(lua, "t.reload", &settings)?);
                }
                loaded(lua, host.reload().map(drop))
            })
        },
    },
    Entry {
        name: "test.connect",
        args: "{bearer, headers, query, cookie, ip, path, method, transport}?",
        gives: "session or refusal",
        doc: "Asks the connect hooks. The answer shows who it is and what was granted, and is who asks in other verbs.",
        make: |lua, seat| {
            function(lua, seat, |lua, seat, request: Option<Table>| {
                let stage = stage(lua, seat)?;
                let request = read_request(request.as_ref()).map_err(|why| raise(lua, format!("t.connect: {why}")))?;
                let host = host(lua, stage)?;
                match wait(lua, stage, host.connect(&request))? {
                    Ok(identity) => {
                        let client = Arc::new(known(stage, &request, identity));
                        stage.witness().meets(&client, None);
                        answers::somebody(lua, stage, client)
                    }
                    Err(refusal) => answers::no(lua, &host, &refusal),
                }
            })
        },
    },
    Entry {
        name: "test.refresh",
        args: "who, token",
        gives: "session or refusal",
        doc: "Shows a new credential on an open connection.",
        make: |lua, seat| {
            function(lua, seat, |lua, seat, (who, token): (Value, String)| {
                let (stage, client) = asker(lua, seat, &who)?;
                let host = host(lua, stage)?;
                match wait(lua, stage, host.refresh(&client, &token))? {
                    Ok(identity) => answers::somebody(lua, stage, client.with(identity)),
                    Err(refusal) => answers::no(lua, &host, &refusal),
                }
            })
        },
    },
    Entry {
        name: "test.subscribe",
        args: "who, channel",
        gives: "{allowed, view} or refusal",
        doc: "Asks whether somebody may listen. who is what t.connect answered, a user's name, nil, or {user, tenant, attrs, grants, ..}.",
        make: |lua, seat| {
            function(lua, seat, |lua, seat, (who, channel): (Value, String)| {
                let (stage, client) = asker(lua, seat, &who)?;
                let (host, channel) = (host(lua, stage)?, channel_name(lua, &channel)?);
                match wait(lua, stage, host.subscribe(&client, &channel))? {
                    Ok(sight) => {
                        if stage.witness().meets(&client, Some(&channel)) {
                            host.joined(&client, &channel);
                            settle(lua, stage, &host)?;
                        }
                        answers::sight(lua, &sight)
                    }
                    Err(refusal) => answers::no(lua, &host, &refusal),
                }
            })
        },
    },
    Entry {
        name: "test.publish",
        args: "who, channel, payload, {event, id, media, ttl}?",
        gives: "{allowed, payload, text, ..} or refusal",
        doc: "Asks whether a message may go out, and shows it as the rules let it in. A table is JSON; a string is JSON if it can be read as such, else text.",
        make: |lua, seat| {
            function(lua, seat, |lua, seat, args: (Value, String, Value, Option<Table>)| {
                let (who, channel, payload, options) = args;
                let (stage, client) = asker(lua, seat, &who)?;
                let (host, channel) = (host(lua, stage)?, channel_name(lua, &channel)?);
                let draft = read_draft(channel, &payload, options.as_ref());
                let draft = draft.map_err(|why| raise(lua, format!("t.publish: {why}")))?;
                match wait(lua, stage, host.publish(&client, draft))? {
                    Ok(admission) => answers::admitted(lua, &admission),
                    Err(refusal) => answers::no(lua, &host, &refusal),
                }
            })
        },
    },
    Entry {
        name: "test.history",
        args: "who, channel, {resume}?",
        gives: "{allowed, view} or refusal",
        doc: "Asks whether somebody may read back.",
        make: |lua, seat| {
            function(lua, seat, |lua, seat, (who, channel, options): (Value, String, Option<Table>)| {
                let (stage, client) = asker(lua, seat, &who)?;
                let (host, channel) = (host(lua, stage)?, channel_name(lua, &channel)?);
                let resume = options.map_or(Ok(Value::Nil), |options| options.raw_get::<Value>("resume"))?;
                match wait(lua, stage, host.history(&client, &channel, resume.as_boolean().unwrap_or(false)))? {
                    Ok(sight) => answers::sight(lua, &sight),
                    Err(refusal) => answers::no(lua, &host, &refusal),
                }
            })
        },
    },
    Entry {
        name: "test.disconnect",
        args: "who, {cause = \"client\", code}?",
        gives: "",
        doc: "Tells the disconnect hooks that a session has ended; an error if one of them breaks.",
        make: |lua, seat| {
            function(lua, seat, |lua, seat, (who, why): (Value, Option<Table>)| {
                let (stage, client) = asker(lua, seat, &who)?;
                let why = read_farewell(why.as_ref()).map_err(|why| raise(lua, format!("t.disconnect: {why}")))?;
                let host = host(lua, stage)?;
                stage.witness().misses(&client).iter().for_each(|channel| host.left(&client, channel));
                settle(lua, stage, &host)?;
                // The hub tells them on a thread of their own, later; a test wants to see what came of it.
                let broke = departures::tell(&host.rules().generation, &client, &why);
                let broke: Vec<_> = broke.into_iter().map(|failure| failure.why).collect();
                if broke.is_empty() { Ok(()) } else { Err(raise(lua, format!("t.disconnect: {}", broke.join("; ")))) }
            })
        },
    },
    Entry {
        name: "test.route",
        args: "method, path, {who, headers, query, body, json, ip}?",
        gives: "{allowed, status, headers, body, json} or refusal",
        doc: "Makes a request over HTTP that the plugin answers. who is whom the route sees; without it the connect hooks are asked, where the route wants to know.",
        make: |lua, seat| {
            function(lua, seat, |lua, seat, (method, path, options): (String, String, Option<Table>)| {
                let stage = stage(lua, seat)?;
                request(lua, stage, &method, &path, options.as_ref())
            })
        },
    },
    Entry {
        name: "test.view",
        args: "channel, name, payload, {event, id, media}?",
        gives: "{payload, text, ..} or nil",
        doc: "A message as those see it who see the channel through this view; nil if it is withheld from them.",
        make: |lua, seat| {
            function(lua, seat, |lua, seat, args: (String, String, Value, Option<Table>)| {
                let (channel, name, payload, options) = args;
                let (stage, channel) = (stage(lua, seat)?, channel_name(lua, &channel)?);
                let host = host(lua, stage)?;
                let draft = read_draft(channel, &payload, options.as_ref());
                let draft = draft.map_err(|why| raise(lua, format!("t.view: {why}")))?;
                let rules = host.rules();
                let (viewer, concern) = (stage.people.viewer(&name, stage.now()), rules.concern(&draft.channel));
                match rules.sight(&viewer, &draft.channel, &concern.views, &[]) {
                    Err(refusal) => Err(raise(lua, format!("t.view: {}", answers::reason(&host, &refusal)))),
                    Ok(None) if name != "full" => Err(raise(lua, format!("t.view: {} has no views", draft.channel))),
                    Ok(None) => answers::message(lua, &draft.message),
                    Ok(Some(view)) => {
                        let (time, message) = (stage.now(), draft.message);
                        let whole = Publication { offset: 1, time, expires: None, once: None, message };
                        match view.render(&draft.channel, &whole) {
                            Some(seen) => answers::message(lua, &seen),
                            None => Ok(Value::Nil),
                        }
                    }
                }
            })
        },
    },
    Entry {
        name: "test.retention",
        args: "channel",
        gives: "{history, age, count, bytes, ack, lag, max_lag}",
        doc: "What a channel keeps and promises; age in seconds.",
        make: |lua, seat| {
            function(lua, seat, |lua, seat, channel: String| {
                let (stage, channel) = (stage(lua, seat)?, channel_name(lua, &channel)?);
                answers::policy(lua, &host(lua, stage)?.policy(&channel))
            })
        },
    },
    Entry {
        name: "test.published",
        args: "",
        gives: "{ {channels, payload, text, event, user} }",
        doc: "What the plugins have published in this case; nothing goes out.",
        make: |lua, seat| {
            function(lua, seat, |lua, seat, ()| {
                let list = lua.create_table()?;
                for (client, drafts) in stage(lua, seat)?.witness().published() {
                    list.raw_push(answers::published(lua, &client, &drafts)?)?;
                }
                Ok(frozen(list))
            })
        },
    },
    Entry {
        name: "test.kicked",
        args: "",
        gives: "{ {id, user, channel, why} }",
        doc: "Whom the plugins have sent away: from everything, or from the channel that is named.",
        make: |lua, seat| {
            function(lua, seat, |lua, seat, ()| {
                let list = lua.create_table()?;
                for sent in stage(lua, seat)?.witness().sent() {
                    let one = lua.create_table()?;
                    one.raw_set("id", sent.client.id.as_str())?;
                    one.raw_set("user", sent.client.identity.user.as_deref())?;
                    one.raw_set("channel", sent.channel.as_ref().map(|channel| channel.as_str()))?;
                    one.raw_set("why", sent.why)?;
                    list.raw_push(frozen(one))?;
                }
                Ok(frozen(list))
            })
        },
    },
    Entry {
        name: "test.logs",
        args: "",
        gives: "{ {level, plugin, place, message, fields} }",
        doc: "What the plugins have logged in this case.",
        make: |lua, seat| {
            function(lua, seat, |lua, seat, ()| {
                let lines = lua.create_table()?;
                for said in stage(lua, seat)?.witness().said() {
                    let line = lua.create_table()?;
                    line.raw_set("level", said.level.to_ascii_lowercase())?;
                    line.raw_set("plugin", said.plugin)?;
                    line.raw_set("place", said.place)?;
                    line.raw_set("message", said.message)?;
                    if let Ok(fields) = serde_json::from_str(&said.fields) {
                        line.raw_set("fields", json_to_lua(lua, &fields)?)?;
                    }
                    lines.raw_push(frozen(line))?;
                }
                Ok(frozen(lines))
            })
        },
    },
    Entry {
        name: "test.clock.now",
        args: "",
        gives: "number",
        doc: "Milliseconds since the Unix epoch. Each case begins at 2026-01-01T00:00:00Z.",
        make: |lua, seat| function(lua, seat, |lua, seat, ()| Ok(stage(lua, seat)?.now() as f64 / 1000.0)),
    },
    Entry {
        name: "test.clock.set",
        args: "ms",
        gives: "",
        doc: "Sets the clock, which everything of the plugin follows.",
        make: |lua, seat| {
            function(lua, seat, |lua, seat, ms: Value| {
                let ms = to_number(&ms).filter(|ms| ms.is_finite() && *ms >= 0.0);
                let ms = ms.ok_or_else(|| raise(lua, "t.clock.set: expected milliseconds since the Unix epoch"))?;
                let (stage, then) = (stage(lua, seat)?, (ms * 1000.0) as Micros);
                match then > stage.now() {
                    true => stage.pass_to(then).map_err(|why| raise(lua, why)),
                    false => {
                        stage.set_time(then);
                        Ok(())
                    }
                }
            })
        },
    },
    Entry {
        name: "test.clock.advance",
        args: "duration",
        gives: "",
        doc: "Lets time pass: \"5m\", or a number of seconds. Timers that are due meanwhile run, each at its time.",
        make: |lua, seat| {
            function(lua, seat, |lua, seat, time: Value| {
                let passed = lua_to_json(&time).ok().and_then(|json| read_duration(&json)).ok_or_else(|| {
                    raise(lua, format!("t.clock.advance: expected a duration like \"5m\", got {}", describe(&time)))
                })?;
                let stage = stage(lua, seat)?;
                let then = stage.now().saturating_add(passed.as_micros().try_into().unwrap_or(Micros::MAX));
                stage.pass_to(then).map_err(|why| raise(lua, why))
            })
        },
    },
];

fn request(lua: &Lua, stage: &Stage, method: &str, path: &str, options: Option<&Table>) -> mlua::Result<Value> {
    let host = host(lua, stage)?;
    let wrong = |why: String| raise(lua, format!("t.route: {why}"));
    let mut who = None;
    let (mut body, asks) = (Bytes::new(), lua.create_table()?);
    for (key, value) in fields(options).map_err(wrong)? {
        match (key.as_str(), &value) {
            ("who", who_asks) => who = Some(stage.people.who(who_asks, stage.now()).map_err(wrong)?),
            ("body", Value::String(text)) => body = Bytes::copy_from_slice(&text.as_bytes()),
            ("json", value) => body = lua_to_json(value).map_err(wrong)?.to_string().into(),
            ("headers" | "query" | "ip" | "bearer", _) => asks.raw_set(key, value)?,
            _ => {
                let known = ["who", "headers", "query", "body", "json", "ip", "bearer"];
                return Err(wrong(format!("{key} is not known here{}", hint(&key, known))));
            }
        }
    }
    asks.raw_set("method", method)?;
    asks.raw_set("path", path)?;
    asks.raw_set("transport", "http")?;
    let request = read_request(Some(&asks)).map_err(wrong)?;
    let call = match host.route(method, path) {
        Routed::Route(call) => call,
        Routed::Methods(methods) => return Err(wrong(format!("{path} answers only to {}", methods.join(" ")))),
        Routed::Nothing => return Err(wrong(format!("no route of the plugin is for {path}"))),
    };
    let client = match (call.auth(), who) {
        (Auth::None, _) => None,
        (_, Some(who)) => Some(who.with(who.identity.clone())),
        (_, None) => match wait(lua, stage, host.connect(&request))? {
            Ok(identity) => Some(Arc::new(known(stage, &request, identity))),
            Err(refusal) => return answers::no(lua, &host, &refusal),
        },
    };
    if call.auth() == Auth::Admin && !client.as_ref().is_some_and(|client| client.identity.grants.admin) {
        return Err(wrong(format!(
            "{path} is for admins: give it a who with grants = {{ admin = true }}, or the route auth = \"none\" or \"connect\""
        )));
    }
    let client = client.and_then(Arc::into_inner);
    match stage.wait(call.answer(Visit { request, body, client })).map_err(wrong)? {
        Ok(answer) => answers::routed(lua, &answer),
        Err(refusal) => answers::no(lua, &host, &refusal),
    }
}

fn known(stage: &Stage, request: &ConnectRequest, identity: Identity) -> Client {
    Client {
        id: stage.people.next_id(),
        identity,
        ip: request.ip,
        dialect: "native",
        transport: request.transport,
        credential: request.bearer.is_some(),
        connected: stage.now(),
    }
}

fn stage<'a>(lua: &Lua, seat: &'a Rc<Seat>) -> mlua::Result<&'a Rc<Stage>> {
    seat.stage.as_ref().ok_or_else(|| raise(lua, "aether.test is there in tests only"))
}

fn host(lua: &Lua, stage: &Stage) -> mlua::Result<Arc<Host>> {
    stage.host().map_err(|error| raise(lua, format!("the plugin does not load:\n{error}")))
}

fn asker<'a>(lua: &Lua, seat: &'a Rc<Seat>, who: &Value) -> mlua::Result<(&'a Rc<Stage>, Arc<Client>)> {
    let stage = stage(lua, seat)?;
    let client = stage.people.who(who, stage.now()).map_err(|why| raise(lua, why))?;
    Ok((stage, client))
}

fn wait<T>(lua: &Lua, stage: &Stage, answer: Answer<'_, T>) -> mlua::Result<Result<T, Refusal>> {
    stage.wait(answer).map_err(|why| raise(lua, why))
}

/// Join and leave hooks are told by a thread, later; a test wants to see what came of it.
fn settle(lua: &Lua, stage: &Stage, host: &Host) -> mlua::Result<()> {
    stage.settle(host).map_err(|why| raise(lua, why))
}

fn channel_name(lua: &Lua, text: &str) -> mlua::Result<ChannelName> {
    ChannelName::new(text).map_err(|error| raise(lua, error))
}

fn loaded(lua: &Lua, outcome: Result<(), LoadError>) -> mlua::Result<MultiValue> {
    Ok(match outcome {
        Ok(()) => MultiValue::from_iter([Value::Boolean(true)]),
        Err(error) => {
            MultiValue::from_iter([Value::Boolean(false), Value::String(lua.create_string(error.to_string())?)])
        }
    })
}

/// A table of settings; nil and an empty one have none.
fn object(lua: &Lua, whose: &str, value: &Value) -> mlua::Result<Map<String, Json>> {
    match lua_to_json(value) {
        Ok(Json::Object(settings)) => Ok(settings),
        Ok(Json::Null) => Ok(Map::new()),
        Ok(_) => Err(raise(lua, format!("{whose}: expected a table of settings, got {}", describe(value)))),
        Err(why) => Err(raise(lua, format!("{whose}: {why}"))),
    }
}
