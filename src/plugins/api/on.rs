//! `aether.on.*`: registering hooks.

use std::rc::Rc;
use std::time::Duration;

use mlua::{Function, Lua, MultiValue, Table, Value};

use super::pattern::read_pattern;
use super::{Entry, Seat, function, view};
use crate::plugins::source::about::About;
use crate::plugins::source::generation::{Event, Registration};
use crate::plugins::source::schema::{hint, read_duration};
use crate::plugins::told::attendance::is_attended;
use crate::plugins::vm::value::{caller_below, describe, lua_to_json, raise};

pub const ENTRIES: &[Entry] = &[
    Entry {
        name: "on.connect",
        args: "{async}?, fn(req)",
        gives: "",
        doc: "Asked who somebody is; in order, and the first answer that is not nil counts.",
        kind: "(hook: ((req: Request) -> Vote) | { async: boolean }, waiting: ((req: Request) -> Vote)?) -> ()",
        may_wait: false,
        since: "0.1.0",
        example: r#"aether.on.connect(function(req)
	if req:bearer() == nil then return nil end
	return aether.allow({ user = "alice", grants = { subscribe = { "news" } } })
end)"#,
        make: |lua, seat| function(lua, seat, |lua, seat, args| plain(lua, seat, Event::Connect, &args)),
    },
    Entry {
        name: "on.refresh",
        args: "fn(s, token)",
        gives: "",
        doc: "Asked when a connected session shows a new credential; answers as connect. Without one the connect hooks are asked.",
        kind: "(hook: (s: Session, token: string) -> Vote) -> ()",
        may_wait: false,
        since: "0.1.0",
        example: r#"aether.on.refresh(function(s, token)
	return if token == "" then aether.deny("bad_token") else aether.allow({ user = s.user, ttl = "1m" })
end)"#,
        make: |lua, seat| function(lua, seat, |lua, seat, args| plain(lua, seat, Event::Refresh, &args)),
    },
    Entry {
        name: "on.subscribe",
        args: "pattern, {async}?, fn(s, ch, req)",
        gives: "",
        doc: "Votes on whether a session may listen to a channel; req.again says that it does so already, and is asked about again.",
        kind: "(pattern: string | Pattern, hook: ((s: Session, ch: Channel, req: { again: boolean }) -> Vote) | { async: boolean }, waiting: ((s: Session, ch: Channel, req: { again: boolean }) -> Vote)?) -> ()",
        may_wait: false,
        since: "0.1.0",
        example: r#"aether.on.subscribe("room.{room}", function(s, ch)
	return if s.user then aether.allow() else aether.deny("sign_in", "sign in before you listen to " .. ch.room)
end)"#,
        make: |lua, seat| function(lua, seat, |lua, seat, args| on_channel(lua, seat, Event::Subscribe, &args)),
    },
    Entry {
        name: "on.publish",
        args: "pattern, {async = false}?, fn(s, ch, msg)",
        gives: "",
        doc: "Votes on whether a session may publish a message to a channel. With {async = true} it may wait; a channel's drafts keep their order.",
        kind: "(pattern: string | Pattern, hook: ((s: Session, ch: Channel, msg: Message) -> Vote) | { async: boolean }, waiting: ((s: Session, ch: Channel, msg: Message) -> Vote)?) -> ()",
        may_wait: false,
        since: "0.1.0",
        example: r#"aether.on.publish("room.{room}", function(s, ch, msg)
	if msg.size > 4096 then return aether.deny("too_long", "at most 4096 bytes") end
	return s.user ~= nil
end)"#,
        make: |lua, seat| function(lua, seat, |lua, seat, args| on_channel(lua, seat, Event::Publish, &args)),
    },
    Entry {
        name: "on.history",
        args: "pattern, {async}?, fn(s, ch, req)",
        gives: "",
        doc: "Votes on whether a session may read what a channel keeps; with req.resume it asks only for what it missed.",
        kind: "(pattern: string | Pattern, hook: ((s: Session, ch: Channel, req: { resume: boolean }) -> Vote) | { async: boolean }, waiting: ((s: Session, ch: Channel, req: { resume: boolean }) -> Vote)?) -> ()",
        may_wait: false,
        since: "0.1.0",
        example: r#"aether.on.history("room.{room}", function(s, ch, req)
	return req.resume or s.attrs.role == "mod"
end)"#,
        make: |lua, seat| function(lua, seat, |lua, seat, args| on_channel(lua, seat, Event::History, &args)),
    },
    Entry {
        name: "on.transform",
        args: "pattern, fn(ch, msg)",
        gives: "",
        doc: "Asked once about each message that was let in, before it is stored, in the order of registration: returns msg, changed or not, or nil to reject it.",
        kind: "(pattern: string | Pattern, hook: (ch: Channel, msg: Message) -> any) -> ()",
        may_wait: false,
        since: "0.1.0",
        example: r#"aether.on.transform("chat.{room}", function(ch, msg)
	return msg:with_json({ text = msg:get("text"), by = msg.sender })
end)"#,
        make: |lua, seat| function(lua, seat, |lua, seat, args| on_channel(lua, seat, Event::Transform, &args)),
    },
    Entry {
        name: "on.retain",
        args: "pattern, fn(ch, msg)",
        gives: "",
        doc: "Says of each message how long it is kept: true or nil as the channel keeps it, false not at all, {ttl = \"5m\"} no longer than this.",
        kind: "(pattern: string | Pattern, hook: (ch: Channel, msg: Message) -> any) -> ()",
        may_wait: false,
        since: "0.1.0",
        example: r#"aether.on.retain("chat.{room}", function(ch, msg)
	return if msg.event == "typing" then false else { ttl = "30d" }
end)"#,
        make: |lua, seat| function(lua, seat, |lua, seat, args| on_channel(lua, seat, Event::Retain, &args)),
    },
    Entry {
        name: "on.retention",
        args: "pattern, fn(ch)",
        gives: "",
        doc: "Says what a channel keeps and promises: {age, count, bytes, history, ack, lag, max_lag}; asked when it is first touched.",
        kind: "(pattern: string | Pattern, hook: (ch: Channel) -> any) -> ()",
        may_wait: false,
        since: "0.1.0",
        example: r#"aether.on.retention("iot.*", function(ch)
	return { age = "1h", count = 1000, ack = "written" }
end)"#,
        make: |lua, seat| function(lua, seat, |lua, seat, args| on_channel(lua, seat, Event::Retention, &args)),
    },
    Entry {
        name: "on.view",
        args: "pattern, name, {drop, mask, pick} or fn(ch, msg)",
        gives: "",
        doc: "What those see who are allowed with view = name: paths of the payload dropped, masked or picked, or what the function leaves; nil withholds.",
        kind: "(pattern: string | Pattern, name: string, view: any) -> ()",
        may_wait: false,
        since: "0.1.0",
        example: r#"aether.on.view("room.{room}", "public", { drop = { "author.email" }, mask = { ["author.phone"] = "last4" } })"#,
        make: |lua, seat| function(lua, seat, view::register),
    },
    Entry {
        name: "on.join",
        args: "pattern, {debounce, async}?, fn(ch, sessions)",
        gives: "",
        doc: "Told who listens to a channel from now on, up to 100 at once; with debounce = \"2s\" nobody who was away for less than that.",
        kind: "(pattern: string | Pattern, hook: ((ch: Channel, sessions: { Session }) -> ()) | { debounce: Duration?, async: boolean? }, later: ((ch: Channel, sessions: { Session }) -> ())?) -> ()",
        may_wait: false,
        since: "0.1.0",
        example: r#"aether.on.join("room.{room}", function(ch, sessions)
	for _, s in sessions do aether.log.info("came", { room = ch.room, user = s.user }) end
end)"#,
        make: |lua, seat| function(lua, seat, |lua, seat, args| on_channel(lua, seat, Event::Join, &args)),
    },
    Entry {
        name: "on.leave",
        args: "pattern, {debounce, async}?, fn(ch, sessions)",
        gives: "",
        doc: "Told who listens to a channel no more, up to 100 at once; with debounce = \"2s\" nobody who is back within that.",
        kind: "(pattern: string | Pattern, hook: ((ch: Channel, sessions: { Session }) -> ()) | { debounce: Duration?, async: boolean? }, later: ((ch: Channel, sessions: { Session }) -> ())?) -> ()",
        may_wait: false,
        since: "0.1.0",
        example: r#"aether.on.leave("room.{room}", function(ch, sessions)
	for _, s in sessions do aether.log.info("went", { room = ch.room, user = s.user }) end
end)"#,
        make: |lua, seat| function(lua, seat, |lua, seat, args| on_channel(lua, seat, Event::Leave, &args)),
    },
    Entry {
        name: "on.disconnect",
        args: "fn(s, why)",
        gives: "",
        doc: "Told after a session has ended; why is {cause, code, reason, expected}.",
        kind: "(hook: (s: Session, why: Farewell) -> ()) -> ()",
        may_wait: false,
        since: "0.1.0",
        example: r#"aether.on.disconnect(function(s, why)
	if not why.expected then aether.log.info("lost", { user = s.user, cause = why.cause }) end
end)"#,
        make: |lua, seat| function(lua, seat, |lua, seat, args| plain(lua, seat, Event::Disconnect, &args)),
    },
    Entry {
        name: "on.load",
        args: "fn(prev)",
        gives: "",
        doc: "Runs once when a generation takes charge; prev is what the unload hook of the one before has left, or nil. If it fails, the reload is refused.",
        kind: "(hook: (prev: any) -> ()) -> ()",
        may_wait: false,
        since: "0.1.0",
        example: r#"aether.on.load(function(prev)
	aether.log.info("in charge", { before = prev })
end)"#,
        make: |lua, seat| function(lua, seat, |lua, seat, args| plain(lua, seat, Event::Load, &args)),
    },
    Entry {
        name: "on.unload",
        args: "fn()",
        gives: "",
        doc: "Asked before another generation takes charge: what it returns, as JSON could say it, is given to that one's load hook.",
        kind: "(hook: () -> any) -> ()",
        may_wait: false,
        since: "0.1.0",
        example: r#"aether.on.unload(function()
	return { since = aether.now_ms() }
end)"#,
        make: |lua, seat| function(lua, seat, |lua, seat, args| plain(lua, seat, Event::Unload, &args)),
    },
];

const MAX_DEBOUNCE: Duration = Duration::from_secs(3600);

fn plain(lua: &Lua, seat: &Rc<Seat>, event: Event, args: &MultiValue) -> mlua::Result<()> {
    frozen_after_loading(lua, seat, event)?;
    let args: Vec<&Value> = args.iter().collect();
    let (hook, about) = match args[..] {
        [Value::Function(hook)] => (hook, Ok(About::Nothing)),
        [Value::Table(options), Value::Function(hook)] if event == Event::Connect => {
            (hook, read_options(event, options))
        }
        _ => {
            complain(lua, seat, &format!("{event} takes one function, got {}", all(&args)));
            return Ok(());
        }
    };
    match about {
        Ok(about) => {
            let registration = Registration {
                event,
                pattern: None,
                unit: seat.at,
                place: caller_below(lua, &seat.unit().root),
                about,
            };
            seat.registered.borrow_mut().push((registration, hook.clone()));
        }
        Err(why) => complain(lua, seat, &format!("{event}: {why}")),
    }
    Ok(())
}

fn on_channel(lua: &Lua, seat: &Rc<Seat>, event: Event, args: &MultiValue) -> mlua::Result<()> {
    frozen_after_loading(lua, seat, event)?;
    let args: Vec<&Value> = args.iter().collect();
    let (pattern, hook, about) = match args[..] {
        [pattern, Value::Function(hook)] => (pattern, hook, About::Nothing),
        [pattern, Value::Table(options), Value::Function(hook)] => match read_options(event, options) {
            Ok(about) => (pattern, hook, about),
            Err(why) => {
                complain(lua, seat, &format!("{event}: {why}"));
                return Ok(());
            }
        },
        _ => {
            complain(lua, seat, &format!("{event} takes a pattern and a function, got {}", all(&args)));
            return Ok(());
        }
    };
    if event == Event::Publish || event.may_wait() || about == About::Nothing {
        enrol(lua, seat, event, pattern, about, hook);
    } else {
        complain(lua, seat, &format!("{event} must not wait, so it has no async"));
    }
    Ok(())
}

/// Registers a hook for a channel pattern, if the unit may.
pub fn enrol(lua: &Lua, seat: &Seat, event: Event, pattern: &Value, about: About, hook: &Function) {
    match read_pattern(pattern) {
        Ok(pattern) if seat.unit().may_register(&pattern) => {
            let registration = Registration {
                event,
                pattern: Some(pattern),
                unit: seat.at,
                place: caller_below(lua, &seat.unit().root),
                about,
            };
            seat.registered.borrow_mut().push((registration, hook.clone()));
        }
        Ok(pattern) => complain(
            lua,
            seat,
            &format!(
                "{event} {pattern}: not within [permissions] channels of plugin.toml; add {:?} there",
                pattern.to_string()
            ),
        ),
        Err(why) => complain(lua, seat, &format!("{event}: {why}")),
    }
}

fn read_options(event: Event, options: &Table) -> Result<About, String> {
    let (mut waits, mut debounce) = (None, Duration::ZERO);
    let known = if is_attended(event) { &["async", "debounce"][..] } else { &["async"] };
    for pair in options.pairs::<Value, Value>() {
        let (key, value) = pair.map_err(|e| e.to_string())?;
        let key = key.as_string().map(|key| key.to_string_lossy()).unwrap_or_else(|| describe(&key));
        let wrong = |what: &str| format!("{key}: expected {what}, got {}", describe(&value));
        match key.as_str() {
            "async" => waits = Some(value.as_boolean().ok_or_else(|| wrong("true or false"))?),
            "debounce" if is_attended(event) => {
                let time = lua_to_json(&value).ok().and_then(|json| read_duration(&json));
                debounce = time
                    .filter(|time| *time <= MAX_DEBOUNCE)
                    .ok_or_else(|| wrong("a duration like \"2s\", of at most an hour"))?;
            }
            _ => return Err(format!("{key} is not known here{}", hint(&key, known))),
        }
    }
    Ok(match waits {
        waits if is_attended(event) => About::Attendance { debounce, waits },
        Some(waits) => About::Waits(waits),
        None => About::Nothing,
    })
}

pub fn frozen_after_loading(lua: &Lua, seat: &Seat, event: Event) -> mlua::Result<()> {
    if seat.loading.get() {
        Ok(())
    } else {
        Err(raise(lua, format!("{event}: hooks are registered while the file loads")))
    }
}

pub fn complain(lua: &Lua, seat: &Seat, why: &str) {
    seat.errors.borrow_mut().push(format!("{}: {why}", caller_below(lua, &seat.unit().root)));
}

pub fn all(args: &[&Value]) -> String {
    if args.is_empty() { "nothing".into() } else { args.iter().map(|arg| describe(arg)).collect::<Vec<_>>().join(", ") }
}
