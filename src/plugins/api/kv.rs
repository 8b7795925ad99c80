//! `aether.kv`: what a plugin keeps on disk.

use std::sync::Arc;

use mlua::{Function, Lua, Table, UserData, UserDataMethods, Value, Variadic};
use serde_json::Value as Json;

use super::store::{Listing, Options, fail, read_listing, read_number, read_value};
use super::{Entry, function};
use crate::kernel::message::Micros;
use crate::plugins::commons::Commons;
use crate::plugins::kept::kv::{House, place};
use crate::plugins::kept::shared::Put;
use crate::plugins::vm::keys::{read_key, read_parts, write_key};
use crate::plugins::vm::running::running;
use crate::plugins::vm::value::{json_to_lua, json_to_open_lua};
use crate::plugins::why::trace::{self, Answer, Told};

pub const ENTRIES: &[Entry] = &[Entry {
    name: "kv",
    args: "name",
    gives: "store",
    doc: "A store on disk, the plugin's own: get set delete incr cas update scan sync. Reads come from memory where they can.",
    kind: "(name: string) -> Store",
    may_wait: false,
    since: "0.1.0",
    example: r#"local members = aether.kv("members")
members:set({ "42", "alice" }, { role = "mod" }, { ttl = "30d" })
assert(members:get("42", "alice").role == "mod")"#,
    make: |lua, seat| {
        if seat.unit().kv.as_ref().is_some_and(Vec::is_empty) {
            return Ok(Value::Nil); // no permission: not there
        }
        function(lua, seat, |lua, seat, name: String| {
            let unit = seat.unit();
            seat.permitted(lua, "kv", unit.kv.as_deref(), &name)?;
            // The operator's scripts are one body: what one file keeps, another finds.
            let plugin = unit.kv.is_some().then_some(&*unit.name);
            Ok(Store { commons: seat.program.commons.clone(), place: place(plugin, &name), name: name.into() })
        })
    },
}];

const WHOSE: &str = "kv";
/// How often `update` begins again when others keep changing the key.
const TRIES: usize = 100;

struct Store {
    commons: Arc<Commons>,
    /// What all its keys begin with.
    place: Vec<u8>,
    name: Arc<str>,
}

impl Store {
    fn trace<T: Answer>(
        &self,
        call: &'static str,
        key: &[u8],
        with: Told,
        ask: impl FnOnce(&House, Micros) -> Result<T, String>,
    ) -> Result<T, String> {
        let own = &key[self.place.len().min(key.len())..];
        trace::read(call, &self.name, own, with, || ask(&self.commons.kv, self.commons.now()))
    }

    fn read(&self, key: &[u8]) -> Result<Option<Arc<Json>>, String> {
        self.trace("kv.get", key, Told::Nothing, |kv, now| kv.get(key, now))
    }

    fn swap(&self, key: &[u8], old: Option<&Json>, new: Option<Json>, put: Put) -> Result<bool, String> {
        let with = new.clone().map(Arc::new).told();
        self.trace("kv.cas", key, with, |kv, now| kv.cas(key, old, new, put, now))
    }

    fn key(&self, key: Result<Vec<u8>, String>) -> Result<Vec<u8>, String> {
        Ok([&*self.place, &key?].concat())
    }
}

impl UserData for Store {
    fn add_methods<M: UserDataMethods<Self>>(methods: &mut M) {
        methods.add_method("get", |lua, it, key: Variadic<Value>| {
            let wrong = |why| fail(lua, WHOSE, why);
            let key = it.key(read_parts(&key)).map_err(wrong)?;
            let value = it.read(&key).map_err(wrong)?;
            value.map_or(Ok(Value::Nil), |json| json_to_lua(lua, &json))
        });
        methods.add_method("set", |lua, it, (key, value, options): (Value, Value, Options)| {
            let wrong = |why| fail(lua, WHOSE, why);
            let (key, value) = (it.key(read_key(&key)).map_err(wrong)?, read_value(&value).map_err(wrong)?);
            let with = value.clone().map(Arc::new).told();
            it.trace("kv.set", &key, with, |kv, now| kv.set(&key, value, options.0, now)).map_err(wrong)
        });
        methods.add_method("delete", |lua, it, key: Variadic<Value>| {
            let wrong = |why| fail(lua, WHOSE, why);
            let key = it.key(read_parts(&key)).map_err(wrong)?;
            it.trace("kv.delete", &key, Told::Nothing, |kv, now| kv.delete(&key, now)).map_err(wrong)
        });
        methods.add_method("incr", |lua, it, (key, by, options): (Value, Value, Options)| {
            let wrong = |why| fail(lua, WHOSE, why);
            let (key, by) = (it.key(read_key(&key)).map_err(wrong)?, read_number(&by, 1.0).map_err(wrong)?);
            it.trace("kv.incr", &key, by.told(), |kv, now| kv.incr(&key, by, options.0, now)).map_err(wrong)
        });
        methods.add_method("cas", |lua, it, (key, old, new, options): (Value, Value, Value, Options)| {
            let wrong = |why| fail(lua, WHOSE, why);
            let (old, new) = (read_value(&old).map_err(wrong)?, read_value(&new).map_err(wrong)?);
            let key = it.key(read_key(&key)).map_err(wrong)?;
            it.swap(&key, old.as_ref(), new, options.0).map_err(wrong)
        });
        methods.add_method("update", |lua, it, (key, change, options): (Value, Function, Options)| {
            let key = it.key(read_key(&key)).map_err(|why| fail(lua, WHOSE, why))?;
            update(lua, it, &key, &change, &options)
        });
        methods.add_method("sync", |lua, it, ()| {
            let wrong = |why| fail(lua, WHOSE, why);
            if let Some(hook) = running().filter(|event| !event.may_sync()) {
                let why = format!("sync waits for the disk, and {hook} may not wait: everybody would wait with it");
                return Err(wrong(format!("{why}. Call it in on.connect, or leave it to store.flush_interval")));
            }
            if trace::acts(|| "kv.sync".to_owned()) {
                it.commons.kv.sync().map_err(wrong)?;
            }
            Ok(())
        });
        methods.add_method("scan", |lua, it, (prefix, options): (Value, Option<Table>)| {
            let wrong = |why| fail(lua, WHOSE, why);
            let listing = read_listing(&prefix, options.as_ref(), &["limit", "after"]).map_err(wrong)?;
            let Listing { prefix, count, after } = listing;
            let prefix = [&*it.place, &prefix].concat();
            let after = after.map(|after| [&*it.place, &after].concat());
            let with = Told::Keys(Arc::new(after.clone().into_iter().collect()));
            let found = it.trace("kv.scan", &prefix, with, |kv, now| {
                kv.scan(&prefix, after.as_deref(), count, now).map(Arc::new)
            });
            let found = found.map_err(wrong)?;
            let list = lua.create_table_with_capacity(found.len(), 0)?;
            for (key, value) in found.iter() {
                let row = lua.create_table_with_capacity(0, 2)?;
                row.raw_set("key", write_key(lua, &key[it.place.len()..])?)?;
                row.raw_set("value", json_to_lua(lua, value)?)?;
                list.raw_push(row)?;
            }
            Ok(list)
        });
    }
}

/// No lock is held while Lua runs: if somebody was faster, it begins again with what is there now.
fn update(lua: &Lua, it: &Store, key: &[u8], change: &Function, options: &Options) -> mlua::Result<Value> {
    let wrong = |why| fail(lua, WHOSE, why);
    for _ in 0..TRIES {
        let old = it.read(key).map_err(wrong)?;
        let shown = old.as_ref().map_or(Ok(Value::Nil), |json| json_to_open_lua(lua, json))?;
        let answer: Value = change.call(shown)?;
        let new = read_value(&answer).map_err(wrong)?;
        if it.swap(key, old.as_deref(), new, options.0).map_err(wrong)? {
            return Ok(answer);
        }
    }
    Err(wrong(format!("update: others changed the key {TRIES} times meanwhile")))
}
