//! `aether.test`: what a case does to the plugin under test. Each verb is a call of the host's own doors.

mod asking;
mod clock;
mod dialect;
mod network;
mod request;
mod seen;
mod setting;
mod shown;

use std::rc::Rc;
use std::sync::Arc;

use mlua::{Lua, Value};

use super::Stage;
use crate::kernel::hooks::{Answer, Client, ConnectRequest, Identity, Refusal};
use crate::kernel::message::ChannelName;
use crate::plugins::api::Seat;
use crate::plugins::vm::value::raise;
use crate::plugins::{Entry, Host};

/// Everything that tests have beside the assertions.
pub fn entries() -> impl Iterator<Item = &'static Entry> {
    [
        setting::ENTRIES,
        asking::ENTRIES,
        request::ENTRIES,
        dialect::ENTRIES,
        shown::ENTRIES,
        seen::ENTRIES,
        network::ENTRIES,
        clock::ENTRIES,
    ]
    .into_iter()
    .flatten()
}

fn known(stage: &Stage, request: &ConnectRequest, identity: Identity) -> Client {
    Client {
        id: stage.people.next_id(),
        ip: request.ip,
        dialect: request.dialect,
        transport: request.transport,
        credential: request.bearer.is_some() || identity.user.is_some(),
        identity,
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
