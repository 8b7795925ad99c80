//! `c`: a connection as its dialect's hooks have it. What they want done is noted, and done when the hook is through.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use mlua::{AnyUserData, Lua, MultiValue, Table, UserData, UserDataFields, UserDataMethods, Value};
use serde_json::Value as Json;

use crate::kernel::dialect::{Act, Heard, Memory, Speech, Tag};
use crate::kernel::hooks::{Client, Farewell};
use crate::kernel::message::{ChannelName, Epoch};
use crate::kernel::session::{Pace, Start};
use crate::plugins::api::publish::Written;
use crate::plugins::source::generation::Generation;
use crate::plugins::source::schema::{hint, read_duration};
use crate::plugins::vm::handles::{Request, farewell};
use crate::plugins::vm::resident::with_vm;
use crate::plugins::vm::value::{describe, json_to_open_lua, lua_to_json, raise, to_number};
use crate::plugins::vm::{Failure, Vm};
use crate::plugins::waiting::lanes::Unheard;

/// What one hook may want done.
const MAX_ACTS: usize = 10_000;
/// What a dialect may keep with a connection, as JSON.
const MAX_STATE: usize = 16 * 1024;
const MAX_TAG: usize = 1024;
const PUBLISH_KEYS: [&str; 7] = ["event", "meta", "ttl", "idempotency_key", "fleeting", "media", "tag"];

/// A hook's question, for whatever thread.
pub struct Brought {
    pub hook: usize,
    pub client: Arc<Client>,
    pub heard: Heard,
    pub memory: Memory,
}

pub type Answered = (Vec<Act>, Memory);

pub fn ask(generation: &Arc<Generation>, brought: Brought) -> Result<Answered, Failure> {
    let budget = generation.program.limits.connect;
    with_vm(generation, |vm| {
        let Brought { hook, client, heard, memory } = brought;
        let line = Line::new(vm, client, memory);
        vm.call(hook, budget, |lua| line.args(lua, heard), |_, _| line.end())
    })
}

pub async fn ask_waiting(vm: Rc<Vm>, brought: Brought) -> Result<Answered, Failure> {
    let Brought { hook, client, heard, memory } = brought;
    let line = Line::new(&vm, client, memory);
    vm.call_waiting(hook, |lua| line.args(lua, heard), |_, _| line.end()).await
}

/// Tells a dialect that a connection of its has gone.
pub fn tell_gone(
    generation: &Arc<Generation>,
    hook: usize,
    client: &Arc<Client>,
    memory: Memory,
    why: &Farewell,
) -> Result<(), Failure> {
    if !generation.waits(hook) {
        return with_vm(generation, |vm| {
            let line = Line::new(vm, client.clone(), memory);
            let args = |lua: &Lua| Ok((line.handle(lua)?, farewell(lua, why)?));
            vm.call(hook, generation.program.limits.connect, args, |_, _| Ok(()))
        });
    }
    let (client, why) = (client.clone(), why.clone());
    let told = move |vm| hear_of_gone(vm, hook, client, memory, why);
    match generation.program.commons.lanes.tell(generation, hook, told) {
        true => Ok(()),
        false => Err(Failure { why: "too many hooks wait already".into(), rests: false }),
    }
}

/// The same, and waits until it has heard.
pub fn tell_gone_here(
    generation: &Arc<Generation>,
    hook: usize,
    client: &Arc<Client>,
    memory: Memory,
    why: &Farewell,
) -> Result<(), Failure> {
    if !generation.waits(hook) {
        return tell_gone(generation, hook, client, memory, why);
    }
    let (client, why) = (client.clone(), why.clone());
    let told = move |vm| hear_of_gone(vm, hook, client, memory, why);
    generation.program.commons.lanes.run_here(generation, hook, told).map_err(Unheard::into_failure)
}

async fn hear_of_gone(
    vm: Rc<Vm>,
    hook: usize,
    client: Arc<Client>,
    memory: Memory,
    why: Farewell,
) -> Result<(), Failure> {
    let line = Line::new(&vm, client, memory);
    let args = |lua: &Lua| Ok((line.handle(lua)?, farewell(lua, &why)?));
    vm.call_waiting(hook, args, |_, _| Ok(())).await
}

/// What a hook has of a connection, and what it wants. Empty when the hook is through.
struct Desk {
    client: Arc<Client>,
    session: Option<Table>,
    reserved_events: &'static [&'static str],
    acts: Vec<Act>,
    memory: Memory,
    /// Made when it is asked for.
    state: Option<Table>,
}

struct Line {
    desk: Rc<RefCell<Option<Desk>>>,
    session: Option<Table>,
}

impl Line {
    fn new(vm: &Vm, client: Arc<Client>, memory: Memory) -> Line {
        // Without it `c.user` is nil, which no hook takes for somebody.
        let session = vm.handles.session(vm.lua(), &client).ok();
        let reserved_events = vm.program.reserved_events;
        let desk = Desk { client, session: session.clone(), reserved_events, acts: Vec::new(), memory, state: None };
        Line { desk: Rc::new(RefCell::new(Some(desk))), session }
    }

    fn handle(&self, lua: &Lua) -> mlua::Result<AnyUserData> {
        if self.session.is_none() {
            return Err(mlua::Error::runtime("there is no memory for the session"));
        }
        lua.create_userdata(Handle(self.desk.clone()))
    }

    fn args(&self, lua: &Lua, heard: Heard) -> mlua::Result<MultiValue> {
        let handle = Value::UserData(self.handle(lua)?);
        Ok(match heard {
            Heard::Came(request) => {
                MultiValue::from_iter([handle, Value::UserData(lua.create_userdata(Request(request))?)])
            }
            Heard::Said(Speech { bytes, binary }) => {
                let kind = lua.create_string(if binary { "binary" } else { "text" })?;
                MultiValue::from_iter([handle, Value::String(lua.create_string(&bytes)?), Value::String(kind)])
            }
        })
    }

    /// What the hook wants done, and what is kept until the next.
    fn end(&self) -> Result<Answered, String> {
        let Some(desk) = self.desk.borrow_mut().take() else { return Ok((Vec::new(), None)) };
        let memory = match desk.state {
            None => desk.memory,
            Some(state) => {
                let json = lua_to_json(&Value::Table(state)).map_err(|why| format!("c:state(): {why}"))?;
                let text = json.to_string();
                if text.len() > MAX_STATE {
                    return Err(format!("c:state() holds {} bytes as JSON, at most {MAX_STATE}", text.len()));
                }
                let is_empty = matches!(text.as_str(), "{}" | "[]");
                (!is_empty).then(|| text.into_boxed_str())
            }
        };
        Ok((desk.acts, memory))
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        *self.desk.borrow_mut() = None;
    }
}

struct Handle(Rc<RefCell<Option<Desk>>>);

impl Handle {
    fn with<R>(&self, lua: &Lua, read: impl FnOnce(&mut Desk) -> mlua::Result<R>) -> mlua::Result<R> {
        match &mut *self.0.borrow_mut() {
            Some(desk) => read(desk),
            None => Err(raise(lua, "c is valid only during the hook it was given to; keep c.id and c:state() instead")),
        }
    }

    fn want(&self, lua: &Lua, act: Act) -> mlua::Result<()> {
        self.with(lua, |desk| {
            if desk.acts.len() >= MAX_ACTS {
                return Err(raise(lua, format!("one hook may want at most {MAX_ACTS} things done")));
            }
            desk.acts.push(act);
            Ok(())
        })
    }

    /// A channel that a client named may be no channel: it hears so, the hook goes on.
    fn channel(&self, lua: &Lua, name: &Value, tag: &Tag) -> mlua::Result<Option<ChannelName>> {
        let Value::String(name) = name else {
            return Err(raise(lua, format!("expected a channel, got {}", describe(name))));
        };
        match ChannelName::new(&name.to_string_lossy()) {
            Ok(channel) => Ok(Some(channel)),
            Err(error) => {
                let act = Act::Fail { code: "bad_channel".into(), why: error.to_string(), tag: tag.clone() };
                self.want(lua, act)?;
                Ok(None)
            }
        }
    }
}

impl UserData for Handle {
    fn add_fields<F: UserDataFields<Self>>(fields: &mut F) {
        for field in ["id", "user", "tenant", "attrs", "ip", "dialect", "transport", "connected_ms", "view"] {
            fields.add_field_method_get(field, move |lua, c| {
                c.with(lua, |desk| desk.session.as_ref().map_or(Ok(Value::Nil), |session| session.raw_get(field)))
            });
        }
    }

    fn add_methods<M: UserDataMethods<Self>>(methods: &mut M) {
        methods.add_method("reply", |lua, c, (bytes, kind): (Value, Option<String>)| {
            let speech = speech(&bytes, kind.as_deref()).map_err(|why| raise(lua, format!("c:reply: {why}")))?;
            c.want(lua, Act::Reply(speech))
        });
        methods.add_method("subscribe", |lua, c, (channel, options): (Value, Option<Table>)| {
            let asked = read_subscribe(options.as_ref()).map_err(|why| raise(lua, format!("c:subscribe: {why}")))?;
            let Asked { start, last_id, pace, tag } = asked;
            match c.channel(lua, &channel, &tag)? {
                Some(channel) => c.want(lua, Act::Subscribe { channel, start, last_id, pace, tag }),
                None => Ok(()),
            }
        });
        methods.add_method("unsubscribe", |lua, c, (channel, options): (Value, Option<Table>)| {
            let tag = only_tag(lua, "c:unsubscribe", options.as_ref())?;
            match c.channel(lua, &channel, &tag)? {
                Some(channel) => c.want(lua, Act::Unsubscribe { channel, tag }),
                None => Ok(()),
            }
        });
        methods.add_method("publish", |lua, c, (channel, payload, options): (Value, Value, Option<Table>)| {
            let wrong = |why: String| raise(lua, format!("c:publish: {why}"));
            let tag = read_tag(options.as_ref()).map_err(wrong)?;
            let reserved = c.with(lua, |desk| Ok(desk.reserved_events))?;
            let said = Written::read(reserved, &PUBLISH_KEYS, &payload, options.as_ref()).map_err(wrong)?;
            match c.channel(lua, &channel, &tag)? {
                Some(channel) => c.want(lua, Act::Publish { draft: said.draft(channel, None), tag }),
                None => Ok(()),
            }
        });
        methods.add_method("replay", |lua, c, (age, options): (Value, Option<Table>)| {
            let tag = only_tag(lua, "c:replay", options.as_ref())?;
            let time = lua_to_json(&age).ok().and_then(|json| read_duration(&json));
            let wrong = || raise(lua, format!("c:replay: expected a duration like \"60s\", got {}", describe(&age)));
            c.want(lua, Act::Replay { age: time.ok_or_else(wrong)?, tag })
        });
        methods.add_method("speak", |lua, c, style: String| c.want(lua, Act::Speak { style }));
        methods.add_method("authenticate", |lua, c, (token, options): (String, Option<Table>)| {
            let tag = only_tag(lua, "c:authenticate", options.as_ref())?;
            c.want(lua, Act::Authenticate { token, tag })
        });
        methods.add_method("fail", |lua, c, (code, why, options): (String, Option<String>, Option<Table>)| {
            let tag = only_tag(lua, "c:fail", options.as_ref())?;
            let why = why.unwrap_or_else(|| code.replace('_', " "));
            c.want(lua, Act::Fail { code, why, tag })
        });
        methods.add_method("close", |lua, c, (code, reason): (Option<f64>, Option<String>)| {
            let code = code.unwrap_or(1000.0);
            // What may stand in a close frame (RFC 6455, 7.4).
            let fits = code.fract() == 0.0
                && ((1000.0..=1003.0).contains(&code)
                    || (1007.0..=1014.0).contains(&code)
                    || (3000.0..=4999.0).contains(&code));
            if !fits {
                return Err(raise(lua, format!("c:close: {code} is no close code: 1000-1003, 1007-1014 or 3000-4999")));
            }
            c.want(lua, Act::Close { code: code as u16, reason: reason.unwrap_or_default() })
        });
        methods.add_method("state", |lua, c, ()| {
            c.with(lua, |desk| {
                if let Some(state) = &desk.state {
                    return Ok(state.clone());
                }
                let json = desk.memory.as_deref().and_then(|text| serde_json::from_str::<Json>(text).ok());
                let state = match json.map(|json| json_to_open_lua(lua, &json)).transpose()? {
                    Some(Value::Table(state)) => state,
                    _ => lua.create_table()?,
                };
                desk.state = Some(state.clone());
                Ok(state)
            })
        });
        methods.add_method("credential", |lua, c, ()| c.with(lua, |desk| Ok(desk.client.credential)));
    }
}

/// A string is a text frame and a buffer a binary one, unless `kind` says otherwise.
pub fn speech(bytes: &Value, kind: Option<&str>) -> Result<Speech, String> {
    let (bytes, binary) = match bytes {
        Value::String(text) => (text.as_bytes().to_vec(), false),
        Value::Buffer(buffer) => (buffer.to_vec(), true),
        other => return Err(format!("expected a string or a buffer, got {}", describe(other))),
    };
    let binary = match kind {
        None => binary,
        Some("text") => false,
        Some("binary") => true,
        Some(other) => return Err(format!("a frame is \"text\" or \"binary\", not {other:?}")),
    };
    if !binary && std::str::from_utf8(&bytes).is_err() {
        return Err("a text frame is UTF-8; send these bytes as \"binary\"".into());
    }
    Ok(Speech { bytes: bytes.into(), binary })
}

fn read_tag(options: Option<&Table>) -> Result<Tag, String> {
    let value = options.map_or(Ok(Value::Nil), |options| options.raw_get::<Value>("tag")).map_err(|e| e.to_string())?;
    if value.is_nil() {
        return Ok(None);
    }
    let text = lua_to_json(&value).map_err(|why| format!("tag: {why}"))?.to_string();
    if text.len() > MAX_TAG {
        return Err(format!("tag: at most {MAX_TAG} bytes as JSON"));
    }
    Ok(Some(text.into()))
}

fn only_tag(lua: &Lua, what: &str, options: Option<&Table>) -> mlua::Result<Tag> {
    read_keys(options, &["tag"]).and_then(|()| read_tag(options)).map_err(|why| raise(lua, format!("{what}: {why}")))
}

fn read_keys(options: Option<&Table>, known: &[&str]) -> Result<(), String> {
    for pair in options.into_iter().flat_map(Table::pairs::<Value, Value>) {
        let (key, _) = pair.map_err(|error| error.to_string())?;
        let key = key.as_string().map(|key| key.to_string_lossy()).unwrap_or_else(|| describe(&key));
        if !known.contains(&key.as_str()) {
            return Err(format!("{key} is not known here{}", hint(&key, known)));
        }
    }
    Ok(())
}

struct Asked {
    start: Start,
    last_id: Option<Box<str>>,
    pace: Option<Pace>,
    tag: Tag,
}

fn read_subscribe(options: Option<&Table>) -> Result<Asked, String> {
    read_keys(options, &["after", "epoch", "last_id", "max_rate", "conflate", "tag"])?;
    let tag = read_tag(options)?;
    let Some(options) = options else { return Ok(Asked { start: Start::Now, last_id: None, pace: None, tag }) };
    let get = |key: &str| options.raw_get::<Value>(key).map_err(|error| error.to_string());
    let after = match get("after")? {
        Value::Nil => None,
        value => {
            let offset = to_number(&value).filter(|n| n.fract() == 0.0 && (0.0..9.1e15).contains(n));
            Some(offset.ok_or_else(|| format!("after: expected an offset, got {}", describe(&value)))? as u64)
        }
    };
    let epoch = match get("epoch")? {
        Value::Nil => None,
        Value::String(text) => Some(text.to_string_lossy().parse().unwrap_or(Epoch::UNKNOWN)),
        other => return Err(format!("epoch: expected a text, got {}", describe(&other))),
    };
    let last_id = match get("last_id")? {
        Value::Nil => None,
        Value::String(text) => Some(text.to_string_lossy().into()),
        other => return Err(format!("last_id: expected a text, got {}", describe(&other))),
    };
    let pace = match get("max_rate")? {
        Value::Nil => None,
        value => {
            let rate = to_number(&value).filter(|rate| (0.001..=1000.0).contains(rate));
            let rate =
                rate.ok_or_else(|| format!("max_rate: messages a second, 0.001 to 1000, got {}", describe(&value)))?;
            let conflate = get("conflate")?.as_boolean().unwrap_or(false);
            Some(Pace { every: std::time::Duration::from_secs_f64(1.0 / rate), conflate })
        }
    };
    Ok(Asked { start: after.map_or(Start::Now, |after| Start::After(after, epoch)), last_id, pace, tag })
}
