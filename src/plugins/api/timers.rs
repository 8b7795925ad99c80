//! `aether.every`, `aether.after`, `aether.cron`: what a plugin does by itself.

use std::rc::Rc;
use std::time::Duration;

use mlua::{Function, Lua, MultiValue, Table, Value};

use super::{Entry, Seat, function};
use crate::plugins::source::about::About;
use crate::plugins::source::generation::{Event, Registration};
use crate::plugins::source::schema::{hint, read_duration};
use crate::plugins::vm::value::{caller, describe, lua_to_json, raise};
use crate::plugins::waiting::schedule::{Cron, Schedule};

pub const ENTRIES: &[Entry] = &[
    Entry {
        name: "every",
        args: "period, {first = period}?, fn()",
        gives: "",
        doc: "Runs a function again and again, on one of the hub's threads; it may wait. A turn that comes while it still runs is left out.",
        kind: "(period: Duration, ...any) -> ()",
        may_wait: false,
        since: "0.1.0",
        example: r#"aether.every("30s", { first = "1s" }, function() aether.log.info("still here") end)"#,
        make: |lua, seat| {
            function(lua, seat, |lua, seat, args: MultiValue| {
                register(lua, seat, "every", &args, &["first"], |spec, first| {
                    Schedule::every(duration(spec)?, first.map(duration).transpose()?)
                })
            })
        },
    },
    Entry {
        name: "after",
        args: "time, fn()",
        gives: "",
        doc: "Runs a function once, so long after the rules took charge; it may wait.",
        kind: "(time: Duration, hook: () -> ()) -> ()",
        may_wait: false,
        since: "0.1.0",
        example: r#"aether.after("5s", function() aether.log.info("warm") end)"#,
        make: |lua, seat| {
            function(lua, seat, |lua, seat, args: MultiValue| {
                register(lua, seat, "after", &args, &[], |spec, _| Schedule::after(duration(spec)?))
            })
        },
    },
    Entry {
        name: "cron",
        args: "line, fn()",
        gives: "",
        doc: "Runs a function at the minutes that a line of cron names (minute, hour, day of the month, month, day of the week; UTC); it may wait.",
        kind: "(line: string, hook: () -> ()) -> ()",
        may_wait: false,
        since: "0.1.0",
        example: r#"aether.cron("0 4 * * sun", function() aether.log.info("Sunday, four o'clock") end)"#,
        make: |lua, seat| {
            function(lua, seat, |lua, seat, args: MultiValue| {
                register(lua, seat, "cron", &args, &[], |spec, _| {
                    let line = spec
                        .as_string()
                        .ok_or_else(|| format!("expected a line like \"*/5 * * * *\", got {}", describe(spec)))?;
                    Cron::parse(&line.to_string_lossy()).map(|cron| Schedule::Cron(Box::new(cron)))
                })
            })
        },
    },
];

/// Of one plugin; the next one is an error where it is made.
const MAX_TIMERS: usize = 100;

fn register(
    lua: &Lua,
    seat: &Rc<Seat>,
    name: &str,
    args: &MultiValue,
    known: &[&str],
    read: impl Fn(&Value, Option<&Value>) -> Result<Schedule, String>,
) -> mlua::Result<()> {
    if !seat.loading.get() {
        return Err(raise(lua, format!("{name}: timers are made while the file loads")));
    }
    match timer(seat, args, known, read) {
        Ok((schedule, body)) => {
            let (unit, place, about) = (seat.at, caller(lua), About::Timer(schedule));
            let registration = Registration { event: Event::Timer, pattern: None, unit, place, about };
            seat.registered.borrow_mut().push((registration, body));
        }
        Err(why) => seat.errors.borrow_mut().push(format!("{}: {name}: {why}", caller(lua))),
    }
    Ok(())
}

fn timer(
    seat: &Seat,
    args: &MultiValue,
    known: &[&str],
    read: impl Fn(&Value, Option<&Value>) -> Result<Schedule, String>,
) -> Result<(Schedule, Function), String> {
    let args: Vec<&Value> = args.iter().collect();
    let (spec, options, body) = match args[..] {
        [spec, Value::Function(body)] => (spec, None, body),
        [spec, Value::Table(options), Value::Function(body)] => (spec, Some(options), body),
        _ => return Err("takes when, perhaps options, and a function".into()),
    };
    let mut first = None;
    for pair in options.into_iter().flat_map(Table::pairs::<Value, Value>) {
        let (key, value) = pair.map_err(|e| e.to_string())?;
        let key = key.as_string().map(|key| key.to_string_lossy()).unwrap_or_else(|| describe(&key));
        if !known.contains(&key.as_str()) {
            return Err(format!("{key} is not known here{}", hint(&key, known.iter().copied())));
        }
        first = Some(value);
    }
    let timers = seat.registered.borrow().iter().filter(|(other, _)| other.event == Event::Timer).count();
    if timers >= MAX_TIMERS {
        return Err(format!("there are {MAX_TIMERS} timers already, which is as many as one plugin may have"));
    }
    Ok((read(spec, first.as_ref())?, body.clone()))
}

fn duration(value: &Value) -> Result<Duration, String> {
    let time = lua_to_json(value).ok().and_then(|json| read_duration(&json));
    time.ok_or_else(|| format!("expected a duration like \"30s\", got {}", describe(value)))
}
