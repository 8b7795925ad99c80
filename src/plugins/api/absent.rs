//! Names of the library that a plugin's manifest does not permit: they are nil, so that a script may look, and the error of a
//! script that uses one all the same names the permission.
//!
//! Luau says only "attempt to call a nil value", so it is remembered which names were read, and where.

use std::cell::RefCell;
use std::rc::Rc;

use mlua::Lua;

use super::Seat;
use crate::plugins::source::generation::Unit;
use crate::plugins::vm::value::{caller_below, has_place};

/// Places in a VM that read such names. Further ones are not remembered, and their errors stay as Luau says them.
const MOST: usize = 256;

/// What [permissions] of the manifest must have for a name of the library, or a module of it, to be there.
pub fn permission(name: &str) -> Option<&'static str> {
    Some(match name {
        "kv" => "kv",
        "shared" => "shared",
        "secret" => "secrets",
        "publish" | "publish_now" | "presence" => "channels",
        "sessions" => "sessions = [\"list\"]",
        "kick" | "unsubscribe" => "sessions = [\"kick\"]",
        "announce" => "sessions = [\"announce\"]",
        "http.route" => "routes",
        "dialect" => "dialects",
        "http" | "http.get" | "http.post" | "http.request" => "http",
        _ => return None,
    })
}

/// That a name was read which was not there.
struct Reading {
    seat: Rc<Seat>,
    name: String,
    file: String,
    line: usize,
}

/// Of one VM.
#[derive(Default)]
pub struct Readings(RefCell<Vec<Reading>>);

/// Remembers that the script read `name`.
pub fn read(lua: &Lua, seat: &Rc<Seat>, name: String) {
    if permission(&name).is_none() {
        return;
    }
    let place = caller_below(lua, &seat.unit().root);
    let Some((file, line)) = split(&place) else { return };
    let Some(readings) = lua.app_data_ref::<Readings>() else { return };
    let mut readings = readings.0.borrow_mut();
    let is_known = |one: &Reading| one.line == line && one.file == file && one.name == name;
    if readings.len() < MOST && !readings.iter().any(is_known) {
        readings.push(Reading { seat: seat.clone(), name, file: file.to_owned(), line });
    }
}

/// An error's line, `file:line: what`, with the permission that lacks if that is what is wrong.
pub fn explained(lua: &Lua, error: String) -> String {
    let Some(readings) = lua.app_data_ref::<Readings>() else { return error };
    explain(&readings.0.borrow(), &error).unwrap_or(error)
}

fn explain(readings: &[Reading], error: &str) -> Option<String> {
    let (place, what) = error.split_once(": ")?;
    let field = what.strip_prefix("attempt to index nil with '").map(|field| field.trim_end_matches('\''));
    if field.is_none() && !what.starts_with("attempt to call a nil value") {
        return None;
    }
    let (file, line) = split(place)?;
    let used = readings.iter().rev().find(|one| one.file == file && (one.line == line || one.is_used_in(line)))?;
    // Of a module that is not there, a function was wanted.
    let function = field.map(|field| format!("{}.{field}", used.name)).filter(|name| permission(name).is_some());
    let name = function.unwrap_or_else(|| used.name.clone());
    let (permission, plugin) = (permission(&name)?, &used.seat.unit().name);
    Some(format!(
        "{place}: aether.{name}: {plugin} lacks the permission for it: list {permission} under [permissions] in its plugin.toml"
    ))
}

impl Reading {
    /// Whether `line` has the variable that got the nil: `local store = aether.kv`.
    fn is_used_in(&self, line: usize) -> bool {
        let source = |line: usize| source(self.seat.unit(), &self.file, line).unwrap_or_default();
        let read = source(self.line);
        let Some((left, _)) = read.split_once(&format!("aether.{}", self.name)) else { return false };
        let Some((variables, _)) = left.rsplit_once('=') else { return false };
        let variables: Vec<&str> = words(variables).map(|(_, word)| word).filter(|word| *word != "local").collect();
        let line = source(line);
        // A field of something else has the same name by chance.
        words(line).any(|(at, word)| variables.contains(&word) && !line[..at].ends_with(['.', ':']))
    }
}

fn words(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let begins = |text: &str, at: usize| text[..at].chars().next_back().is_none_or(|before| !is_name(before));
    let starts = text.char_indices().filter(move |(at, c)| is_name(*c) && begins(text, *at));
    starts.map(move |(at, _)| (at, text[at..].split(|c| !is_name(c)).next().unwrap_or_default()))
}

fn is_name(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

fn source<'a>(unit: &'a Unit, file: &str, line: usize) -> Option<&'a str> {
    let path = file.strip_prefix(&unit.root)?.strip_prefix('/')?;
    unit.sources.get(path)?.lines().nth(line.checked_sub(1)?)
}

fn split(place: &str) -> Option<(&str, usize)> {
    let (file, line) = place.rsplit_once(':')?;
    has_place(place).then_some((file, line.parse().ok()?))
}
