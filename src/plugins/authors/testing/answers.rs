//! What the host answered, as tables that a test can look at.

use std::sync::Arc;

use mlua::{Lua, Table, Value};

use super::Stage;
use crate::kernel::hooks::{Admission, Client, Identity, Refusal, RefusalKind, Sight};
use crate::kernel::message::{Draft, Media, Message};
use crate::kernel::pattern::Patterns;
use crate::kernel::policy::{Ack, Lag, Policy};
use crate::plugins::vm::value::{frozen, json_to_lua};
use crate::plugins::{DecisionFilter, Facts, Host, RouteAnswer};

/// A yes without more to it.
pub fn yes(lua: &Lua) -> mlua::Result<Table> {
    let table = lua.create_table()?;
    table.raw_set("allowed", true)?;
    Ok(table)
}

/// A no, with what the client hears and what the log has.
pub fn no(lua: &Lua, host: &Host, refusal: &Refusal) -> mlua::Result<Value> {
    let table = lua.create_table()?;
    table.raw_set("allowed", false)?;
    let kind = match refusal.kind {
        RefusalKind::Denied => "denied",
        RefusalKind::Broken => "broken",
        RefusalKind::Busy => "busy",
    };
    table.raw_set("kind", kind)?;
    table.raw_set("code", refusal.code.as_str())?;
    table.raw_set("why", refusal.why.as_str())?;
    table.raw_set("decision", refusal.decision.as_str())?;
    table.raw_set("retry_ms", refusal.retry_ms)?;
    let wanted = DecisionFilter { id: Some(refusal.decision.clone()), ..DecisionFilter::default() };
    if let Some(record) = host.decisions(&wanted).pop() {
        table.raw_set("hook", record.hook)?;
        table.raw_set("plugin", record.plugin)?;
        table.raw_set("place", record.place)?;
        // What stays in the log.
        table.raw_set("reason", record.why)?;
    }
    Ok(frozen(table))
}

/// The sentence that the log has.
pub fn reason(host: &Host, refusal: &Refusal) -> String {
    let wanted = DecisionFilter { id: Some(refusal.decision.clone()), ..DecisionFilter::default() };
    host.decisions(&wanted).pop().map_or_else(|| refusal.why.clone(), |record| record.why)
}

/// Who somebody is now; the table stands for it in what is asked next.
pub fn somebody(lua: &Lua, stage: &Stage, client: Arc<Client>) -> mlua::Result<Value> {
    let table = yes(lua)?;
    let Identity { user, tenant, expires, grants, attrs, .. } = &client.identity;
    table.raw_set("id", client.id.as_str())?;
    table.raw_set("user", user.as_deref())?;
    table.raw_set("tenant", tenant.as_deref())?;
    table.raw_set("expires", expires.map(|micros| micros as f64 / 1e6))?;
    table.raw_set("transport", client.transport)?;
    if let Some(facts) = attrs.as_ref().and_then(|attrs| attrs.downcast_ref::<Facts>()) {
        table.raw_set("attrs", json_to_lua(lua, &facts.attrs)?)?;
        table.raw_set("view", facts.view.as_deref())?;
        table.raw_set("ttl", facts.ttl.map(|ttl| ttl.as_secs_f64()))?;
    }
    let granted = lua.create_table()?;
    for (name, patterns) in
        [("subscribe", &grants.subscribe), ("publish", &grants.publish), ("history", &grants.history)]
    {
        granted.raw_set(name, texts(lua, patterns)?)?;
    }
    granted.raw_set("admin", grants.admin)?;
    table.raw_set("grants", frozen(granted))?;
    stage.people.introduce(table.clone(), client);
    Ok(frozen(table))
}

fn texts(lua: &Lua, patterns: &Patterns) -> mlua::Result<Value> {
    lua.create_sequence_from(patterns.iter().map(|pattern| pattern.to_string())).map(frozen)
}

/// A yes, and through which view one sees.
pub fn sight(lua: &Lua, sight: &Sight) -> mlua::Result<Value> {
    let table = yes(lua)?;
    table.raw_set("view", sight.as_ref().map(|view| view.name()))?;
    Ok(frozen(table))
}

/// A message as the rules let it in.
pub fn admitted(lua: &Lua, admission: &Admission) -> mlua::Result<Value> {
    let (table, draft) = (yes(lua)?, &admission.draft);
    table.raw_set("channel", draft.channel.as_str())?;
    table.raw_set("ttl", draft.ttl.map(|ttl| ttl.as_secs_f64()))?;
    table.raw_set("stored", !draft.fleeting)?;
    say(lua, &table, &draft.message)?;
    Ok(frozen(table))
}

/// A message.
pub fn message(lua: &Lua, message: &Message) -> mlua::Result<Value> {
    let table = lua.create_table()?;
    say(lua, &table, message)?;
    Ok(frozen(table))
}

/// What a plugin published: the same in each of its channels.
pub fn published(lua: &Lua, client: &Client, drafts: &[Draft]) -> mlua::Result<Value> {
    let table = lua.create_table()?;
    let channels = lua.create_sequence_from(drafts.iter().map(|draft| draft.channel.as_str()))?;
    table.raw_set("channels", frozen(channels))?;
    table.raw_set("user", client.identity.user.as_deref())?;
    if let Some(first) = drafts.first() {
        table.raw_set("ttl", first.ttl.map(|ttl| ttl.as_secs_f64()))?;
        table.raw_set("stored", !first.fleeting)?;
        say(lua, &table, &first.message)?;
    }
    Ok(frozen(table))
}

fn say(lua: &Lua, table: &Table, message: &Message) -> mlua::Result<()> {
    table.raw_set("text", lua.create_string(&message.payload)?)?;
    if message.media == Media::Json
        && let Ok(json) = serde_json::from_slice(&message.payload)
    {
        table.raw_set("payload", json_to_lua(lua, &json)?)?;
    }
    table.raw_set("event", message.event.as_deref())?;
    if let Some(meta) = &message.meta
        && let Ok(json) = serde_json::from_slice(meta)
    {
        table.raw_set("meta", json_to_lua(lua, &json)?)?;
    }
    Ok(())
}

/// What a route answered.
pub fn routed(lua: &Lua, answer: &RouteAnswer) -> mlua::Result<Value> {
    let (table, headers) = (yes(lua)?, lua.create_table()?);
    table.raw_set("status", answer.status)?;
    for (name, value) in answer.headers.iter().rev() {
        headers.raw_set(name.as_str(), value.as_str())?;
    }
    table.raw_set("headers", frozen(headers))?;
    table.raw_set("body", lua.create_string(&answer.body)?)?;
    if let Ok(json) = serde_json::from_slice(&answer.body) {
        table.raw_set("json", json_to_lua(lua, &json)?)?;
    }
    Ok(frozen(table))
}

/// What a channel keeps and promises, in the words of `on.retention`.
pub fn policy(lua: &Lua, policy: &Policy) -> mlua::Result<Value> {
    let table = lua.create_table()?;
    table.raw_set("history", policy.history.is_some())?;
    if let Some(kept) = &policy.history {
        table.raw_set("age", kept.age.map(|age| age.as_secs_f64()))?;
        table.raw_set("count", kept.count.map(|count| count as f64))?;
        table.raw_set("bytes", kept.bytes.map(|bytes| bytes as f64))?;
    }
    let ack = match policy.ack {
        Ack::Memory => "memory",
        Ack::Written => "written",
        Ack::Synced => "synced",
    };
    table.raw_set("ack", ack)?;
    let lag = match policy.lag {
        Lag::CatchUp => "catch_up",
        Lag::DropOldest => "drop_oldest",
        Lag::DropNewest => "drop_newest",
        Lag::Skip => "skip",
        Lag::Close => "close",
    };
    table.raw_set("lag", lag)?;
    table.raw_set("max_lag", policy.max_lag.map(|lag| lag as f64))?;
    Ok(frozen(table))
}
