//! `aether.test`: what the plugins have done meanwhile.

use super::stage;
use crate::plugins::Entry;
use crate::plugins::api::function;
use crate::plugins::authors::testing::answers;
use crate::plugins::vm::value::{frozen, json_to_lua};

pub const ENTRIES: &[Entry] = &[
    Entry {
        name: "test.published",
        args: "",
        gives: "{ {channels, payload, text, event, user} }",
        doc: "What the plugins have published in this case; nothing goes out.",
        kind: "() -> { any }",
        may_wait: false,
        since: "0.1.0",
        example: r#"t.publish("alice", "room.42", "fire", { event = "alarm" })
t.equal(t.published()[1].channels, { "alarms" })"#,
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
        kind: "() -> { any }",
        may_wait: false,
        since: "0.1.0",
        example: r#"t.connect({ bearer = "alice" })
t.route("DELETE", "/users/alice")
t.equal(t.kicked()[1].user, "alice")"#,
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
        kind: "() -> { any }",
        may_wait: false,
        since: "0.1.0",
        example: r#"t.disconnect("alice", { cause = "lag" })
t.equal(t.logs()[1].message, "lost")"#,
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
];
