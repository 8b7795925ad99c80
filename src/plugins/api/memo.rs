//! `aether.memo`: a function whose results all VMs remember.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use mlua::{Function, Lua, MultiValue, Table, Value};

use super::{Entry, Seat, function};
use crate::plugins::source::schema::{hint, read_duration};
use crate::plugins::vm::floor::{Floor, Outcome, Started, waiting};
use crate::plugins::vm::value::{caller, describe, json_to_lua, lua_to_json, raise, to_number};
use crate::plugins::waiting::errand::Errand;
use crate::plugins::waiting::memo::{Arrival, Flight, Looked, Memo, Times, Values};
use crate::plugins::why::trace::{self, Key, Read, Told};

pub const ENTRIES: &[Entry] = &[Entry {
    name: "memo",
    args: "fn, {name, ttl, stale = \"0s\", capacity = 10000}",
    gives: "function",
    doc: "The function, remembered by its arguments in all VMs for ttl; calls at once with the same arguments are one. Waits. For stale after ttl the old value does while a new one is fetched.",
    kind: "(body: (...any) -> ...any, options: { name: string, ttl: Duration, stale: Duration?, capacity: number? }) -> (...any) -> ...any",
    may_wait: true,
    since: "0.1.0",
    example: r#"local role = aether.memo(function(user)
	local res = aether.http.get("https://auth.internal/roles/" .. user)
	return res and res.body
end, { name = "role", ttl = "30s" })

aether.on.subscribe("team.{team}", function(s, ch)
	return role(s.user or "") == "member"
end)"#,
    make: |lua, seat| {
        function(lua, seat, |lua, seat, (body, options): (Value, Value)| {
            make(lua, seat, &body, &options).map_err(|why| raise(lua, format!("memo: {why}")))?
        })
    },
}];

const CAPACITY: usize = 10_000;
const MAX_CAPACITY: usize = 1_000_000;
const MAX_KEY: usize = 4096;
const OPTIONS: [&str; 4] = ["name", "ttl", "stale", "capacity"];

fn make(lua: &Lua, seat: &Rc<Seat>, body: &Value, options: &Value) -> Result<mlua::Result<Function>, String> {
    if !seat.loading.get() {
        return Err("memos are made while the file loads; what varies is an argument of the function".into());
    }
    let (Value::Function(body), Value::Table(options)) = (body, options) else {
        return Err(format!("expected a function and options, got {} and {}", describe(body), describe(options)));
    };
    let (name, times, capacity) = read(options)?;
    if seat.count_limiter(&format!("memo {name}")) > 0 {
        return Err(format!("there is a memo {name:?} already, and two functions must not answer for one another"));
    }
    let memo = seat.program.commons.memos.open(&seat.unit().name, &name, capacity)?;
    let (body, place, name) = (body.clone(), caller(lua), Arc::from(name));
    Ok(waiting(lua, seat, &format!("the memo {name}"), move |lua, seat, args: MultiValue| {
        look(lua, seat, &memo, times, &body, args, (&name, &place))
    }))
}

fn look(
    lua: &Lua,
    seat: &Rc<Seat>,
    memo: &Arc<Memo>,
    times: Times,
    body: &Function,
    args: MultiValue,
    (name, place): (&Arc<str>, &str),
) -> mlua::Result<Started> {
    let wrong = |why: String| raise(lua, format!("memo: {why}"));
    let commons = seat.program.commons.clone();
    let key: Result<Vec<_>, String> = args.iter().map(lua_to_json).collect();
    let key = key.map_err(wrong)?;
    let key = serde_json::to_vec(&key).unwrap_or_default();
    if key.len() > MAX_KEY {
        return Err(wrong(format!("its arguments have {} bytes as JSON, at most {MAX_KEY}", key.len())));
    }
    let fetch = |flight: Flight, args: MultiValue, place: Option<String>| {
        let commons = commons.clone();
        let done = Box::new(move |values: Result<_, String>| {
            if let (Err(why), Some(place)) = (&values, place) {
                tracing::warn!(target: "aether::plugin", place, why, "a memo keeps its old value");
            }
            flight.land(values, commons.now());
        });
        // Without a floor nothing may wait, and this is not reached.
        if let Some(floor) = Floor::of(lua) {
            floor.errands.borrow_mut().push(Errand { function: body.clone(), args, done });
        }
    };
    let read = Read {
        call: "memo",
        of: name.clone(),
        key: Key::Text(String::from_utf8_lossy(&key).into_owned()),
        with: Told::Nothing,
        told: Told::Nothing,
    };
    match trace::asks(&read) {
        trace::Asks::World => {}
        trace::Asks::Known(Told::Json(values)) => {
            let values = values.as_array().cloned().unwrap_or_default();
            return give(lua, &Arc::new(values), read).map(Started::Ready);
        }
        _ => {
            return match memo.known(&key, commons.now()) {
                Some(values) => give(lua, &values, read).map(Started::Ready),
                None => Err(wrong("it is not remembered, and not fetched, because nothing of this is real".into())),
            };
        }
    }
    match memo.look(key, times, commons.now()).map_err(wrong)? {
        Looked::Known(values) => give(lua, &values, read).map(Started::Ready),
        Looked::Stale(values, flight) => {
            if let Some(flight) = flight {
                fetch(flight, args, Some(place.to_owned()));
            }
            give(lua, &values, read).map(Started::Ready)
        }
        Looked::Flying(arrival) => Ok(arrive(arrival, read)),
        Looked::Missing(flight, arrival) => {
            fetch(flight, args, None);
            Ok(arrive(arrival, read))
        }
    }
}

fn arrive(arrival: Arrival, read: Read) -> Started {
    Started::Waits(Box::pin(async move {
        let values = arrival.values().await;
        let outcome: Outcome = Box::new(move |lua| match values {
            Ok(values) => give(lua, &values, read),
            Err(why) => Err(mlua::Error::runtime(why)),
        });
        outcome
    }))
}

fn give(lua: &Lua, values: &Values, read: Read) -> mlua::Result<MultiValue> {
    trace::noted(|| Read { told: Told::Json(Arc::new(serde_json::Value::Array(values.to_vec()))), ..read });
    values.iter().map(|value| json_to_lua(lua, value)).collect()
}

fn read(options: &Table) -> Result<(String, Times, usize), String> {
    let (mut name, mut ttl, mut stale, mut capacity) = (None, None, Duration::ZERO, CAPACITY);
    for pair in options.pairs::<Value, Value>() {
        let (key, value) = pair.map_err(|e| e.to_string())?;
        let key = key.as_string().map(|key| key.to_string_lossy()).unwrap_or_else(|| describe(&key));
        let wrong = |what: &str| format!("{key}: expected {what}, got {}", describe(&value));
        let time = || {
            let time = lua_to_json(&value).ok().and_then(|json| read_duration(&json));
            time.ok_or_else(|| wrong("a duration like \"30s\""))
        };
        match key.as_str() {
            "name" => name = Some(value.as_string().ok_or_else(|| wrong("a name"))?.to_string_lossy()),
            "ttl" => ttl = Some(time()?),
            "stale" => stale = time()?,
            "capacity" => {
                let count = to_number(&value).filter(|count| (1.0..=MAX_CAPACITY as f64).contains(count));
                capacity = count.ok_or_else(|| wrong(&format!("1 to {MAX_CAPACITY}")))? as usize;
            }
            _ => return Err(format!("{key} is not known here{}", hint(&key, OPTIONS))),
        }
    }
    let name = name.ok_or("name is missing: by it all VMs, and the next generation, find the same values")?;
    let ttl = ttl.ok_or("ttl is missing: how long a value is good, like \"30s\"")?;
    Ok((name, Times { ttl, stale }, capacity))
}
