//! `aether.test`: asks the hooks, through the host's own doors.

use std::sync::Arc;

use mlua::{Table, Value};

use super::{asker, channel_name, host, known, settle, stage, wait};
use crate::kernel::hooks::Hooks;
use crate::plugins::Entry;
use crate::plugins::api::function;
use crate::plugins::authors::testing::answers;
use crate::plugins::authors::testing::reading::{read_draft, read_farewell, read_request};
use crate::plugins::told::departures;
use crate::plugins::vm::value::raise;

pub const ENTRIES: &[Entry] = &[
    Entry {
        name: "test.connect",
        args: "{bearer, headers, query, cookie, ip, path, method, transport}?",
        gives: "session or refusal",
        doc: "Asks the connect hooks. The answer shows who it is and what was granted, and is who asks in other verbs.",
        kind: "(request: { [string]: any }?) -> Answer",
        may_wait: false,
        since: "0.1.0",
        example: r#"local alice = t.allowed(t.connect({ bearer = "alice" }))
t.equal(alice.user, "alice")"#,
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
        kind: "(who: Who, token: string) -> Answer",
        may_wait: false,
        since: "0.1.0",
        example: r#"t.denied(t.refresh("bob", "stale"), "bad_token")"#,
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
        kind: "(who: Who, channel: string) -> Answer",
        may_wait: false,
        since: "0.1.0",
        example: r#"t.allowed(t.subscribe({ user = "alice", grants = { subscribe = { "news" } } }, "news"))"#,
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
        kind: "(who: Who, channel: string, payload: any, options: { [string]: any }?) -> Answer",
        may_wait: false,
        since: "0.1.0",
        example: r#"local answer = t.allowed(t.publish("alice", "room.42", { text = "hello" }))
t.equal(answer.payload.text, "hello")"#,
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
        kind: "(who: Who, channel: string, options: { resume: boolean? }?) -> Answer",
        may_wait: false,
        since: "0.1.0",
        example: r#"t.denied(t.history("bob", "room.42", { resume = true }), "not_member")"#,
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
        kind: "(who: Who, why: { cause: string?, code: number? }?) -> ()",
        may_wait: false,
        since: "0.1.0",
        example: r#"t.disconnect("alice", { cause = "lag" })"#,
        make: |lua, seat| {
            function(lua, seat, |lua, seat, (who, why): (Value, Option<Table>)| {
                let (stage, client) = asker(lua, seat, &who)?;
                let why = read_farewell(why.as_ref()).map_err(|why| raise(lua, format!("t.disconnect: {why}")))?;
                let host = host(lua, stage)?;
                stage.witness().misses(&client).iter().for_each(|channel| host.left(&client, channel));
                settle(lua, stage, &host)?;
                // The hub tells them on a thread of their own, later; a test wants to see what came of it.
                let broke = stage.aside(|| departures::tell(&host.rules().generation, &client, &why));
                stage.met().map_err(|why| raise(lua, why))?;
                let broke: Vec<_> = broke.into_iter().map(|failure| failure.why).collect();
                if broke.is_empty() { Ok(()) } else { Err(raise(lua, format!("t.disconnect: {}", broke.join("; ")))) }
            })
        },
    },
];
