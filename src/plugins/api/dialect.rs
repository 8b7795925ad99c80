//! `aether.dialect`: a plugin speaks a whole wire protocol.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use mlua::{Function, Lua, Table, Value};

use super::on::{complain, frozen_after_loading};
use super::route::{check_path, read_listen};
use super::{Entry, Seat, function};
use crate::kernel::dialect::{Manners, Transport};
use crate::plugins::answering::route::PathPattern;
use crate::plugins::answering::visit::read_headers;
use crate::plugins::dialect::{Place, Spec, interned};
use crate::plugins::source::about::About;
use crate::plugins::source::generation::{Event, Registration};
use crate::plugins::source::schema::{hint, read_duration, read_size};
use crate::plugins::vm::value::{caller, describe, lua_to_json, to_number};

pub const ENTRIES: &[Entry] = &[Entry {
    name: "dialect",
    args: "name, {mount, frame, beat, limits, origins, headers, resume, styles, async, on_open, on_frame, encode, on_close, refuse}",
    gives: "",
    doc: "Speaks a wire protocol of its own on a path or a listener: what clients say is heard by on_open(c, req) and on_frame(c, frame, kind), encode(ev) puts into words what they are told.",
    kind: "(name: string, spec: DialectSpec) -> ()",
    may_wait: false,
    since: "0.1.0",
    example: r#"aether.dialect("lines", {
	mount = { ws = "/lines" },
	on_frame = function(c, frame)
		local verb, ch, rest = string.match(frame, "^(%u+) (%S+) ?(.*)$")
		if verb == "SUB" then return c:subscribe(ch) end
		if verb == "PUB" then return c:publish(ch, rest) end
		return c:fail("unknown_verb", verb)
	end,
	encode = function(ev)
		if ev.kind == "message" then return "MSG " .. ev.channel .. " " .. ev.payload end
		if ev.kind == "denied" or ev.kind == "error" then return "NO " .. ev.code end
		return nil
	end,
})"#,
    make: |lua, seat| {
        if seat.unit().dialects.as_ref().is_some_and(Vec::is_empty) {
            return Ok(Value::Nil); // no permission: not there
        }
        function(lua, seat, |lua, seat, (name, spec): (Value, Value)| register(lua, seat, &name, &spec))
    },
}];

const KEYS: [&str; 14] = [
    "mount", "frame", "beat", "limits", "origins", "headers", "resume", "styles", "async", "on_open", "on_frame",
    "encode", "on_close", "refuse",
];
const MAX_NAME: usize = 64;
const MAX_ORIGINS: usize = 100;
const MAX_STYLES: usize = 8;

fn register(lua: &Lua, seat: &Rc<Seat>, name: &Value, spec: &Value) -> mlua::Result<()> {
    frozen_after_loading(lua, seat, Event::DialectEncode)?;
    match read(seat, name, spec) {
        Ok((spec, hooks)) => {
            let (spec, place) = (Arc::new(spec), caller(lua));
            for (event, hook) in hooks {
                let about = About::Dialect(spec.clone());
                let registration = Registration { event, pattern: None, unit: seat.at, place: place.clone(), about };
                seat.registered.borrow_mut().push((registration, hook));
            }
        }
        Err(why) => complain(lua, seat, &format!("dialect: {why}")),
    }
    Ok(())
}

type Hooks = Vec<(Event, Function)>;

fn read(seat: &Seat, name: &Value, spec: &Value) -> Result<(Spec, Hooks), String> {
    let (Value::String(text), Value::Table(table)) = (name, spec) else {
        return Err(format!("expected a name and a table, got {}, {}", describe(name), describe(spec)));
    };
    let text = text.to_string_lossy();
    let word = text.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-".contains(&b));
    if text.is_empty() || text.len() > MAX_NAME || !word || matches!(text.as_str(), "native" | "http") {
        return Err(format!("a dialect's name is one word, and not native, got {text:?}"));
    }
    if seat.unit().dialects.as_ref().is_some_and(|may| !may.contains(&text)) {
        return Err(format!("{text} is not in [permissions] dialects of plugin.toml; add {text:?} there"));
    }
    let (mut places, mut manners, mut waits, mut hooks) = (Vec::new(), Manners::default(), None, Vec::new());
    for pair in table.pairs::<Value, Value>() {
        let (key, value) = pair.map_err(|error| error.to_string())?;
        let key = key.as_string().map(|key| key.to_string_lossy()).unwrap_or_else(|| describe(&key));
        let wrong = |what: &str| format!("{key}: expected {what}, got {}", describe(&value));
        let hook = || value.as_function().cloned().ok_or_else(|| wrong("a function"));
        let inner = || value.as_table().ok_or_else(|| wrong("a table"));
        match key.as_str() {
            "mount" => places = read_mounts(seat, inner()?)?,
            "frame" => manners.max_frame = read_frame(inner()?)?,
            "beat" => (manners.beat, manners.patience) = read_beat(inner()?)?,
            "limits" => read_limits(inner()?, &mut manners)?,
            "origins" => manners.origins = read_origins(inner()?)?,
            "headers" => {
                manners.headers = read_headers(inner()?)?;
                // A Lua table has no order, a registration is compared with another VM's.
                manners.headers.sort();
            }
            "resume" => manners.resume = value.as_boolean().ok_or_else(|| wrong("true or false"))?,
            "styles" => manners.styles = read_styles(inner()?)?,
            "async" => waits = Some(value.as_boolean().ok_or_else(|| wrong("true or false"))?),
            "on_open" => hooks.push((Event::DialectOpen, hook()?)),
            "on_frame" => hooks.push((Event::DialectFrame, hook()?)),
            "encode" => hooks.push((Event::DialectEncode, hook()?)),
            "on_close" => hooks.push((Event::DialectClose, hook()?)),
            "refuse" => hooks.push((Event::DialectRefuse, hook()?)),
            _ => return Err(format!("{key} is not known here{}", hint(&key, KEYS))),
        }
    }
    if places.is_empty() {
        return Err(format!("{text}: mount is missing, like {{ ws = \"/{text}\" }}"));
    }
    if !hooks.iter().any(|(event, _)| *event == Event::DialectEncode) {
        return Err(format!("{text}: encode is missing: its clients would hear nothing"));
    }
    hooks.sort_by_key(|(event, _)| event.name());
    Ok((Spec { name: interned(&text), places, manners: Arc::new(manners), waits }, hooks))
}

/// One mount, or a list of them.
fn read_mounts(seat: &Seat, table: &Table) -> Result<Vec<Place>, String> {
    if table.raw_len() == 0 {
        return read_mount(seat, table);
    }
    let mut places: Vec<Place> = Vec::new();
    for mount in table.sequence_values::<Value>() {
        let mount = mount.map_err(|error| error.to_string())?;
        let mount = mount.as_table().ok_or_else(|| format!("mount: expected a table, got {}", describe(&mount)))?;
        places.extend(read_mount(seat, mount)?);
    }
    Ok(places)
}

fn read_mount(seat: &Seat, table: &Table) -> Result<Vec<Place>, String> {
    let (mut paths, mut listen) = (Vec::new(), None);
    for pair in table.pairs::<Value, Value>() {
        let (key, value) = pair.map_err(|error| error.to_string())?;
        let key = key.as_string().map(|key| key.to_string_lossy()).unwrap_or_else(|| describe(&key));
        let transport = match key.as_str() {
            "ws" => Transport::WebSocket,
            "sse" => Transport::EventStream,
            "listen" => {
                listen = Some(read_listen(seat, &value).map_err(|why| format!("mount: {why}"))?);
                continue;
            }
            _ => return Err(format!("mount: {key} is not known here{}", hint(&key, ["ws", "sse", "listen"]))),
        };
        let path = value.as_string().map(|path| path.to_string_lossy());
        let path = path.ok_or_else(|| format!("mount: {key}: expected a path, got {}", describe(&value)))?;
        paths.push((transport, PathPattern::parse(&path).map_err(|why| format!("mount: {key}: {why}"))?));
    }
    paths.sort_by_key(|(transport, _)| transport.name());
    for (transport, path) in &paths {
        check_path(seat, path, listen).map_err(|why| format!("mount: {}: {why}", transport.name()))?;
    }
    if paths.is_empty() {
        return Err("mount: expected a path for ws or sse".into());
    }
    Ok(paths.into_iter().map(|(transport, path)| Place { transport, path, listen }).collect())
}

fn read_frame(table: &Table) -> Result<Option<usize>, String> {
    let mut max = None;
    for pair in table.pairs::<String, Value>() {
        let (key, value) = pair.map_err(|error| error.to_string())?;
        if key != "max" {
            return Err(format!("frame: {key} is not known here{}", hint(&key, ["max"])));
        }
        let size = lua_to_json(&value).ok().and_then(|json| read_size(&json)).filter(|size| *size > 0);
        let wrong = || format!("frame: max: expected a size like \"64KiB\", got {}", describe(&value));
        max = Some(size.ok_or_else(wrong)? as usize);
    }
    Ok(max)
}

fn read_beat(table: &Table) -> Result<(Option<Duration>, Option<Duration>), String> {
    let (mut every, mut timeout) = (None, None);
    for pair in table.pairs::<String, Value>() {
        let (key, value) = pair.map_err(|error| error.to_string())?;
        let time = lua_to_json(&value).ok().and_then(|json| read_duration(&json));
        let time = time.filter(|time| *time >= Duration::from_millis(100));
        let time =
            time.ok_or_else(|| format!("beat: {key}: expected a duration like \"30s\", got {}", describe(&value)));
        match key.as_str() {
            "every" => every = Some(time?),
            "timeout" => timeout = Some(time?),
            _ => return Err(format!("beat: {key} is not known here{}", hint(&key, ["every", "timeout"]))),
        }
    }
    Ok((every, timeout))
}

fn read_limits(table: &Table, manners: &mut Manners) -> Result<(), String> {
    for pair in table.pairs::<String, Value>() {
        let (key, value) = pair.map_err(|error| error.to_string())?;
        let time = || {
            let time = lua_to_json(&value).ok().and_then(|json| read_duration(&json)).filter(|time| !time.is_zero());
            time.ok_or_else(|| format!("limits: {key}: expected a duration like \"5s\", got {}", describe(&value)))
        };
        match key.as_str() {
            "connections" => {
                let count = to_number(&value).filter(|n| n.fract() == 0.0 && (1.0..1e9).contains(n));
                let wrong = || format!("limits: connections: expected a number from 1, got {}", describe(&value));
                manners.connections = Some(count.ok_or_else(wrong)? as usize);
            }
            "handshake" => manners.handshake = Some(time()?),
            "write" => manners.write_timeout = Some(time()?),
            _ => {
                return Err(format!(
                    "limits: {key} is not known here{}",
                    hint(&key, ["connections", "handshake", "write"])
                ));
            }
        }
    }
    Ok(())
}

fn read_styles(table: &Table) -> Result<Vec<&'static str>, String> {
    if table.raw_len() > MAX_STYLES {
        return Err(format!("styles: at most {MAX_STYLES}"));
    }
    let one = |one: mlua::Result<Value>| match one {
        Ok(Value::String(text)) => Ok(interned(&text.to_string_lossy())),
        Ok(other) => Err(format!("styles: expected a list of names, got {}", describe(&other))),
        Err(error) => Err(error.to_string()),
    };
    table.sequence_values::<Value>().map(one).collect()
}

fn read_origins(table: &Table) -> Result<Vec<String>, String> {
    if table.raw_len() > MAX_ORIGINS {
        return Err(format!("origins: at most {MAX_ORIGINS}"));
    }
    let one = |one: mlua::Result<Value>| match one {
        Ok(Value::String(text)) => Ok(text.to_string_lossy()),
        Ok(other) => Err(format!("origins: expected a list of origins, got {}", describe(&other))),
        Err(error) => Err(error.to_string()),
    };
    table.sequence_values::<Value>().map(one).collect()
}
