//! `aether.on.view`: registering what a class of readers sees.

use std::rc::Rc;

use mlua::{Lua, MultiValue, Table, Value};

use super::Seat;
use super::on::{all, complain, enrol, frozen_after_loading};
use crate::plugins::asking::redact::{Act, Mask, Rule};
use crate::plugins::asking::view::FULL;
use crate::plugins::source::about::About;
use crate::plugins::source::generation::Event;
use crate::plugins::source::schema::hint;
use crate::plugins::vm::value::describe;

const PARTS: [&str; 3] = ["drop", "mask", "pick"];
const MAX_NAME: usize = 64;

pub fn register(lua: &Lua, seat: &Rc<Seat>, args: MultiValue) -> mlua::Result<()> {
    frozen_after_loading(lua, seat, Event::View)?;
    let args: Vec<&Value> = args.iter().collect();
    let [pattern, name, what] = args[..] else {
        let why = format!("on.view takes a pattern, a name, and a table or a function, got {}", all(&args));
        complain(lua, seat, &why);
        return Ok(());
    };
    let read = read_name(name).and_then(|name| match what {
        Value::Function(hook) => Ok((name, None, hook.clone())),
        // Nobody calls it: what it stands for is done in Rust.
        Value::Table(rule) => {
            let nothing = lua.create_function(|_, ()| Ok(())).map_err(|e| e.to_string())?;
            Ok((name, Some(read_rule(rule)?), nothing))
        }
        other => Err(format!("expected a table like {{drop = {{\"a.b\"}}}} or a function, got {}", describe(other))),
    });
    match read {
        Ok((name, rule, hook)) => enrol(lua, seat, Event::View, pattern, About::View { name, rule }, &hook),
        Err(why) => complain(lua, seat, &format!("on.view: {why}")),
    }
    Ok(())
}

fn read_name(name: &Value) -> Result<String, String> {
    let text = match name {
        Value::String(name) => name.to_string_lossy(),
        other => return Err(format!("a view's name is a word, got {}", describe(other))),
    };
    if text == FULL {
        return Err(format!("{FULL:?} is the view of everything as it is; choose another name"));
    }
    let word = text.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-.".contains(&b));
    if text.is_empty() || text.len() > MAX_NAME || !word {
        return Err(format!("a view's name is one word, like \"public\", got {}", describe(name)));
    }
    Ok(text)
}

fn read_rule(table: &Table) -> Result<Rule, String> {
    let mut parts = Vec::new();
    for pair in table.pairs::<Value, Value>() {
        let (key, value) = pair.map_err(|e| e.to_string())?;
        match (&key, value) {
            (Value::String(key), Value::Table(part)) if PARTS.contains(&&*key.to_string_lossy()) => {
                parts.push((key.to_string_lossy(), part));
            }
            (Value::String(key), value) => {
                let key = key.to_string_lossy();
                return Err(match PARTS.contains(&&*key) {
                    true => format!("{key}: expected a table, got {}", describe(&value)),
                    false => format!("{key} is not known here{}", hint(&key, PARTS)),
                });
            }
            (other, _) => return Err(format!("expected drop, mask or pick, got {}", describe(other))),
        }
    }
    // A Lua table has no order, a registration is compared with another VM's.
    parts.sort_by(|a, b| a.0.cmp(&b.0));
    let mut rule = Rule::default();
    for (key, part) in parts {
        match key.as_str() {
            "mask" => {
                let mut masks = Vec::new();
                for pair in part.pairs::<Value, Value>() {
                    let (path, how) = pair.map_err(|e| e.to_string())?;
                    masks.push((path_text("mask", &path)?, read_mask(&how)?));
                }
                masks.sort();
                for (path, how) in masks {
                    rule.add(&path, Act::Mask(how))?;
                }
            }
            key => {
                let act = if key == "drop" { Act::Drop } else { Act::Pick };
                // A path under a name would be overlooked, and shown.
                if part.raw_len() == 0 || part.pairs::<Value, Value>().count() != part.raw_len() {
                    return Err(format!("{key}: expected a list of paths, like {{\"a.b\"}}"));
                }
                for path in part.sequence_values::<Value>() {
                    rule.add(&path_text(key, &path.map_err(|e| e.to_string())?)?, act)?;
                }
            }
        }
    }
    match rule.is_empty() {
        true => Err(format!("it names no path; for everything as it is there is view = {FULL:?}")),
        false => Ok(rule),
    }
}

fn path_text(key: &str, path: &Value) -> Result<String, String> {
    match path {
        Value::String(path) => Ok(path.to_string_lossy()),
        other => Err(format!("{key}: expected a path like \"a.b\", got {}", describe(other))),
    }
}

fn read_mask(how: &Value) -> Result<Mask, String> {
    let named = match how {
        Value::String(name) => name.to_string_lossy(),
        other => return Err(format!("mask: expected one of {}, got {}", Mask::NAMES.join(", "), describe(other))),
    };
    Mask::named(&named).ok_or_else(|| {
        let known = Mask::NAMES.join(", ");
        format!("mask: {named:?} is not known here{}; there are {known}", hint(&named, Mask::NAMES))
    })
}
