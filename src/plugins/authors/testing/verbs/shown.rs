//! `aether.test`: what readers see, and what channels keep.

use mlua::{Table, Value};

use super::{channel_name, host, stage};
use crate::kernel::hooks::Hooks;
use crate::kernel::message::Publication;
use crate::plugins::Entry;
use crate::plugins::api::function;
use crate::plugins::authors::testing::answers;
use crate::plugins::authors::testing::reading::read_draft;
use crate::plugins::vm::value::raise;

pub const ENTRIES: &[Entry] = &[
    Entry {
        name: "test.view",
        args: "channel, name, payload, {event, id, media}?",
        gives: "{payload, text, ..} or nil",
        doc: "A message as those see it who see the channel through this view; nil if it is withheld from them.",
        kind: "(channel: string, name: string, payload: any, options: { [string]: any }?) -> Answer?",
        may_wait: false,
        since: "0.1.0",
        example: r#"t.equal(t.view("room.42", "public", { text = "hi", email = "a@b.c" }).payload, { text = "hi" })"#,
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
        kind: "(channel: string) -> { [string]: any }",
        may_wait: false,
        since: "0.1.0",
        example: r#"t.equal(t.retention("iot.door").age, 3600)"#,
        make: |lua, seat| {
            function(lua, seat, |lua, seat, channel: String| {
                let (stage, channel) = (stage(lua, seat)?, channel_name(lua, &channel)?);
                answers::policy(lua, &host(lua, stage)?.policy(&channel))
            })
        },
    },
];
