//! `aether.kv`: what a plugin keeps on disk.

use std::sync::Arc;

use mlua::{Function, Lua, Table, UserData, UserDataMethods, Value, Variadic};

use super::store::{Listing, Options, fail, read_listing, read_number, read_value};
use super::{Entry, function};
use crate::plugins::commons::Commons;
use crate::plugins::keys::{read_key, read_parts, write_key};
use crate::plugins::kv::place;
use crate::plugins::running::running;
use crate::plugins::value::{json_to_lua, json_to_open_lua};

pub const ENTRIES: &[Entry] = &[Entry {
    name: "kv",
    args: "name",
    gives: "store",
    doc: "A store on disk, the plugin's own: get set delete incr cas update scan sync. Reads come from memory where they can.",
    make: |lua, seat| {
        if seat.unit().kv.as_ref().is_some_and(Vec::is_empty) {
            return Ok(Value::Nil); // no permission: not there
        }
        function(lua, seat, |lua, seat, name: String| {
            let unit = seat.unit();
            seat.permitted(lua, "kv", unit.kv.as_deref(), &name)?;
            // The operator's scripts are one body: what one file keeps, another finds.
            let plugin = unit.kv.is_some().then_some(&*unit.name);
            Ok(Store { commons: seat.program.commons.clone(), place: place(plugin, &name) })
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
}

impl Store {
    fn key(&self, key: Result<Vec<u8>, String>) -> Result<Vec<u8>, String> {
        Ok([&*self.place, &key?].concat())
    }
}

impl UserData for Store {
    fn add_methods<M: UserDataMethods<Self>>(methods: &mut M) {
        methods.add_method("get", |lua, it, key: Variadic<Value>| {
            let wrong = |why| fail(lua, WHOSE, why);
            let key = it.key(read_parts(&key)).map_err(wrong)?;
            let value = it.commons.kv.get(&key, it.commons.now()).map_err(wrong)?;
            value.map_or(Ok(Value::Nil), |json| json_to_lua(lua, &json))
        });
        methods.add_method("set", |lua, it, (key, value, options): (Value, Value, Options)| {
            let wrong = |why| fail(lua, WHOSE, why);
            let (key, value) = (it.key(read_key(&key)).map_err(wrong)?, read_value(&value).map_err(wrong)?);
            it.commons.kv.set(&key, value, options.0, it.commons.now()).map_err(wrong)
        });
        methods.add_method("delete", |lua, it, key: Variadic<Value>| {
            let wrong = |why| fail(lua, WHOSE, why);
            let key = it.key(read_parts(&key)).map_err(wrong)?;
            it.commons.kv.delete(&key, it.commons.now()).map_err(wrong)
        });
        methods.add_method("incr", |lua, it, (key, by, options): (Value, Value, Options)| {
            let wrong = |why| fail(lua, WHOSE, why);
            let (key, by) = (it.key(read_key(&key)).map_err(wrong)?, read_number(&by, 1.0).map_err(wrong)?);
            it.commons.kv.incr(&key, by, options.0, it.commons.now()).map_err(wrong)
        });
        methods.add_method("cas", |lua, it, (key, old, new, options): (Value, Value, Value, Options)| {
            let wrong = |why| fail(lua, WHOSE, why);
            let (old, new) = (read_value(&old).map_err(wrong)?, read_value(&new).map_err(wrong)?);
            let key = it.key(read_key(&key)).map_err(wrong)?;
            it.commons.kv.cas(&key, old.as_ref(), new, options.0, it.commons.now()).map_err(wrong)
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
            it.commons.kv.sync().map_err(wrong)
        });
        methods.add_method("scan", |lua, it, (prefix, options): (Value, Option<Table>)| {
            let wrong = |why| fail(lua, WHOSE, why);
            let listing = read_listing(&prefix, options.as_ref(), &["limit", "after"]).map_err(wrong)?;
            let Listing { prefix, count, after } = listing;
            let prefix = [&*it.place, &prefix].concat();
            let after = after.map(|after| [&*it.place, &after].concat());
            let found = it.commons.kv.scan(&prefix, after.as_deref(), count, it.commons.now()).map_err(wrong)?;
            let list = lua.create_table_with_capacity(found.len(), 0)?;
            for (key, value) in found {
                let row = lua.create_table_with_capacity(0, 2)?;
                row.raw_set("key", write_key(lua, &key[it.place.len()..])?)?;
                row.raw_set("value", json_to_lua(lua, &value)?)?;
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
        let old = it.commons.kv.get(key, it.commons.now()).map_err(wrong)?;
        let shown = old.as_ref().map_or(Ok(Value::Nil), |json| json_to_open_lua(lua, json))?;
        let answer: Value = change.call(shown)?;
        let new = read_value(&answer).map_err(wrong)?;
        if it.commons.kv.cas(key, old.as_deref(), new, options.0, it.commons.now()).map_err(wrong)? {
            return Ok(answer);
        }
    }
    Err(wrong(format!("update: others changed the key {TRIES} times meanwhile")))
}
