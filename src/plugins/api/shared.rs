//! `aether.shared` and `aether.limiter`: what all VMs share in memory.

use std::sync::Arc;

use mlua::{Lua, MultiValue, Table, UserData, UserDataMethods, Value, Variadic};

use super::store::{Listing, Options, fail, read_listing, read_number, read_value};
use super::{Entry, Seat, function};
use crate::kernel::message::Micros;
use crate::plugins::commons::Commons;
use crate::plugins::kept::shared::{Limiter, Pace, Shelf};
use crate::plugins::source::schema::{hint, read_duration};
use crate::plugins::vm::keys::{read_key, read_parts, write_key};
use crate::plugins::vm::value::{caller, describe, json_to_lua, lua_to_json, raise, to_number};
use crate::plugins::why::trace::{self, Answer, Told};

pub const ENTRIES: &[Entry] = &[
    Entry {
        name: "shared",
        args: "name",
        gives: "table",
        doc: "A table in memory that all VMs see at once: get set incr cas push pop keys. Lost with the process.",
        kind: "(name: string) -> Shared",
        may_wait: false,
        since: "0.1.0",
        example: r#"local muted = aether.shared("muted")
muted:set("bob", true, { ttl = "10m" })
assert(muted:get("bob"))"#,
        make: |lua, seat| {
            if seat.unit().shared.as_ref().is_some_and(Vec::is_empty) {
                return Ok(Value::Nil); // no permission: not there
            }
            function(lua, seat, |lua, seat, name: String| {
                seat.permitted(lua, "shared", seat.unit().shared.as_deref(), &name)?;
                let commons = seat.program.commons.clone();
                let shelf = commons.shelves.table(&name).map_err(|why| fail(lua, WHOSE, why))?;
                Ok(Shared { name: name.into(), commons, shelf })
            })
        },
    },
    Entry {
        name: "limiter",
        args: "{rate, per = \"1s\", burst = rate}",
        gives: "limiter",
        doc: "So many per time, and so many at once; limiter:take(key, n?) gives true, or false and the milliseconds to wait.",
        kind: "(options: { rate: number, per: Duration?, burst: number? }) -> Limiter",
        may_wait: false,
        since: "0.1.0",
        example: r#"local pace = aether.limiter({ rate = 5, per = "1s", burst = 10 })
local ok, retry_ms = pace:take("bob")
assert(ok)"#,
        make: |lua, seat| {
            function(lua, seat, |lua, seat, options: Table| {
                make_limiter(lua, seat, &options).map_err(|why| raise(lua, format!("limiter: {why}")))
            })
        },
    },
];

const WHOSE: &str = "shared";

struct Shared {
    name: Arc<str>,
    commons: Arc<Commons>,
    shelf: Arc<Shelf>,
}

impl Shared {
    fn trace<T: Answer>(
        &self,
        call: &'static str,
        key: &[u8],
        with: Told,
        ask: impl FnOnce(&Shelf, Micros) -> Result<T, String>,
    ) -> Result<T, String> {
        trace::read(call, &self.name, key, with, || ask(&self.shelf, self.commons.now()))
    }
}

impl UserData for Shared {
    fn add_methods<M: UserDataMethods<Self>>(methods: &mut M) {
        methods.add_method("get", |lua, it, key: Variadic<Value>| {
            let key = read_parts(&key).map_err(|why| fail(lua, WHOSE, why))?;
            let found =
                it.trace("shared.get", &key, Told::Nothing, |shelf, now| Ok(shelf.get(&key, now).map(Arc::new)));
            found.map_err(|why| fail(lua, WHOSE, why))?.map_or(Ok(Value::Nil), |json| json_to_lua(lua, &json))
        });
        methods.add_method("set", |lua, it, (key, value, options): (Value, Value, Options)| {
            let wrong = |why| fail(lua, WHOSE, why);
            let (key, value) = (read_key(&key).map_err(wrong)?, read_value(&value).map_err(wrong)?);
            let with = value.clone().map(Arc::new).told();
            it.trace("shared.set", &key, with, |shelf, now| shelf.set(key.clone(), value, options.0, now))
                .map_err(wrong)
        });
        methods.add_method("incr", |lua, it, (key, by, options): (Value, Value, Options)| {
            let wrong = |why| fail(lua, WHOSE, why);
            let (key, by) = (read_key(&key).map_err(wrong)?, read_number(&by, 1.0).map_err(wrong)?);
            it.trace("shared.incr", &key, by.told(), |shelf, now| shelf.incr(key.clone(), by, options.0, now))
                .map_err(wrong)
        });
        methods.add_method("cas", |lua, it, (key, old, new, options): (Value, Value, Value, Options)| {
            let wrong = |why| fail(lua, WHOSE, why);
            let (old, new) = (read_value(&old).map_err(wrong)?, read_value(&new).map_err(wrong)?);
            let key = read_key(&key).map_err(wrong)?;
            let with = new.clone().map(Arc::new).told();
            it.trace("shared.cas", &key, with, |shelf, now| shelf.cas(key.clone(), old.as_ref(), new, options.0, now))
                .map_err(wrong)
        });
        methods.add_method("push", |lua, it, (key, value, options): (Value, Value, Options)| {
            let wrong = |why| fail(lua, WHOSE, why);
            let (key, value) = (read_key(&key).map_err(wrong)?, lua_to_json(&value).map_err(wrong)?);
            let with = Some(Arc::new(value.clone())).told();
            let length = it.trace("shared.push", &key, with, |shelf, now| {
                shelf.push(key.clone(), value, options.0, now).map(|length| length as f64)
            });
            length.map_err(wrong)
        });
        methods.add_method("pop", |lua, it, key: Variadic<Value>| {
            let wrong = |why| fail(lua, WHOSE, why);
            let key = read_parts(&key).map_err(wrong)?;
            let first = it.trace("shared.pop", &key, Told::Nothing, |shelf, now| {
                shelf.pop(key.clone(), now).map(|first| first.map(Arc::new))
            });
            let first = first.map_err(wrong)?;
            first.map_or(Ok(Value::Nil), |json| if json.is_null() { Ok(Value::NULL) } else { json_to_lua(lua, &json) })
        });
        methods.add_method("keys", |lua, it, (prefix, options): (Value, Option<Table>)| {
            let Listing { prefix, count, .. } =
                read_listing(&prefix, options.as_ref(), &["limit"]).map_err(|why| fail(lua, WHOSE, why))?;
            let list = lua.create_table()?;
            let keys = it.trace("shared.keys", &prefix, (count as f64).told(), |shelf, now| {
                Ok(Arc::new(shelf.keys(&prefix, count, now)))
            });
            for key in keys.map_err(|why| fail(lua, WHOSE, why))?.iter() {
                if let Some(key) = write_key(lua, key)? {
                    list.raw_push(key)?;
                }
            }
            Ok(list)
        });
    }
}

struct LuaLimiter {
    /// Where it was made.
    at: Arc<str>,
    commons: Arc<Commons>,
    limiter: Arc<Limiter>,
}

impl UserData for LuaLimiter {
    fn add_methods<M: UserDataMethods<Self>>(methods: &mut M) {
        methods.add_method("take", |lua, it, (key, n): (Value, Value)| {
            let wrong = |why| fail(lua, "limiter", why);
            let (key, n) = (read_key(&key).map_err(wrong)?, read_number(&n, 1.0).map_err(wrong)?);
            let burst = it.limiter.burst();
            if !(n > 0.0 && n <= burst) {
                return Err(wrong(format!("take: between 0 and the burst of {burst}, got {n}")));
            }
            let ask = || Ok(it.limiter.take(key.clone(), n, it.commons.now()));
            Ok(match trace::read("limiter.take", &it.at, &key, n.told(), ask).map_err(wrong)? {
                Ok(()) => MultiValue::from_iter([Value::Boolean(true), Value::Number(0.0)]),
                Err(retry_ms) => MultiValue::from_iter([Value::Boolean(false), Value::Number(retry_ms as f64)]),
            })
        });
    }
}

fn make_limiter(lua: &Lua, seat: &Seat, options: &Table) -> Result<LuaLimiter, String> {
    if !seat.loading.get() {
        return Err("limiters are made while the file loads; what varies goes into the key of take".into());
    }
    let (mut rate, mut per, mut burst) = (None, 1.0, None);
    for pair in options.pairs::<Value, Value>() {
        let (key, value) = pair.map_err(|e| e.to_string())?;
        let key = key.as_string().map(|key| key.to_string_lossy()).unwrap_or_else(|| describe(&key));
        let wrong = |what: &str| format!("{key}: expected {what}, got {}", describe(&value));
        let number = to_number(&value).filter(|n| n.is_finite() && *n > 0.0);
        match key.as_str() {
            "rate" => rate = Some(number.ok_or_else(|| wrong("a number above 0"))?),
            "burst" => burst = Some(number.filter(|n| *n >= 1.0).ok_or_else(|| wrong("a number of at least 1"))?),
            "per" => {
                let time = lua_to_json(&value).ok().and_then(|json| read_duration(&json));
                let time = time.filter(|time| !time.is_zero()).ok_or_else(|| wrong("a duration like \"1m\""))?;
                per = time.as_secs_f64();
            }
            _ => return Err(format!("{key} is not known here{}", hint(&key, ["rate", "per", "burst"]))),
        }
    }
    let rate = rate.ok_or("rate is missing: how many per second, or per what `per` says")?;
    let pace = Pace { step: per / rate * 1e9, burst: burst.unwrap_or(rate).max(1.0) };
    // A bucket that takes years to fill is no limit but a mistake; and the arithmetic stays exact.
    if pace.step < 1.0 || pace.step * pace.burst > 1e9 * 86400.0 * 366.0 {
        return Err("a limiter gives at most a thousand million a second, and is full again within a year".into());
    }
    // Every VM runs the same file, so it makes the same limiters at the same places in the same order.
    let (at, shape) = (caller(lua), format!("{pace:?}"));
    let number = seat.count_limiter(&at);
    let id = (seat.unit().name.clone(), at.clone(), shape, number);
    let commons = seat.program.commons.clone();
    Ok(LuaLimiter { at: at.into(), limiter: commons.shelves.limiter(id, pace)?, commons })
}
