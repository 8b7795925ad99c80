//! `aether.http.route`: a plugin answers requests.

use std::net::SocketAddr;
use std::rc::Rc;

use mlua::{Lua, MultiValue, Table, Value};

use super::on::{all, complain, frozen_after_loading};
use super::{Entry, Seat, function};
use crate::plugins::answering::route::{Auth, METHODS, PathPattern, Route};
use crate::plugins::source::about::About;
use crate::plugins::source::generation::{Event, Registration};
use crate::plugins::source::schema::hint;
use crate::plugins::vm::value::{caller, describe};

pub const ENTRIES: &[Entry] = &[Entry {
    name: "http.route",
    args: "method, path, {auth, listen}?, fn(req)",
    gives: "",
    doc: "Answers requests over HTTP with {status, headers, body or json}; auth is \"admin\" (if you do not say), \"connect\" or \"none\"; listen = \"127.0.0.1:9000\" is a listener of its own.",
    kind: "(method: string, path: string, options: any, hook: ((req: Visit) -> any)?) -> ()",
    may_wait: false,
    since: "0.1.0",
    example: r#"aether.http.route("GET", "/rooms/{room}", { auth = "none" }, function(req)
	return { json = { room = req.params.room } }
end)"#,
    make: |lua, seat| {
        if seat.unit().routes.as_ref().is_some_and(Vec::is_empty) {
            return Ok(Value::Nil); // no permission: not there
        }
        function(lua, seat, |lua, seat, args| register(lua, seat, &args))
    },
}];

fn register(lua: &Lua, seat: &Rc<Seat>, args: &MultiValue) -> mlua::Result<()> {
    frozen_after_loading(lua, seat, Event::Route)?;
    let args: Vec<&Value> = args.iter().collect();
    let (method, path, options, hook) = match args[..] {
        [method, path, Value::Function(hook)] => (method, path, None, hook),
        [method, path, Value::Table(options), Value::Function(hook)] => (method, path, Some(options), hook),
        _ => {
            complain(lua, seat, &format!("http.route takes a method, a path and a function, got {}", all(&args)));
            return Ok(());
        }
    };
    match read(method, path, options, seat) {
        Ok(route) => {
            let about = About::Route(route);
            let registration =
                Registration { event: Event::Route, pattern: None, unit: seat.at, place: caller(lua), about };
            seat.registered.borrow_mut().push((registration, hook.clone()));
        }
        Err(why) => complain(lua, seat, &format!("http.route: {why}")),
    }
    Ok(())
}

fn read(method: &Value, path: &Value, options: Option<&Table>, seat: &Seat) -> Result<Route, String> {
    let (Value::String(word), Value::String(text)) = (method, path) else {
        return Err(format!("expected a method and a path, got {}", all(&[method, path])));
    };
    let word = word.to_string_lossy().to_ascii_uppercase();
    let method = METHODS.into_iter().find(|known| *known == word);
    let method = method.ok_or_else(|| format!("{word} is none of {}", METHODS.join(", ")))?;
    let path = PathPattern::parse(&text.to_string_lossy())?;
    let (mut auth, mut listen) = (Auth::default(), None);
    for pair in options.into_iter().flat_map(Table::pairs::<Value, Value>) {
        let (key, value) = pair.map_err(|error| error.to_string())?;
        let key = key.as_string().map(|key| key.to_string_lossy()).unwrap_or_else(|| describe(&key));
        match key.as_str() {
            "auth" => {
                let word = value.as_string().map(|word| word.to_string_lossy());
                let wrong = || format!("auth: expected one of {}, got {}", Auth::WORDS.join(", "), describe(&value));
                auth = word.and_then(|word| Auth::parse(&word)).ok_or_else(wrong)?;
            }
            "listen" => listen = Some(read_listen(seat, &value)?),
            _ => return Err(format!("{key} is not known here{}", hint(&key, ["auth", "listen"]))),
        }
    }
    check_path(seat, &path, listen)?;
    Ok(Route { method, path, auth, listen })
}

/// Whether a unit may answer at a path.
pub fn check_path(seat: &Seat, path: &PathPattern, listen: Option<SocketAddr>) -> Result<(), String> {
    if seat.unit().routes.as_ref().is_some_and(|may| !may.iter().any(|may| may.covers(path))) {
        let path = path.to_string();
        return Err(format!("{path} is not within [permissions] routes of plugin.toml; add {path:?} there"));
    }
    // On a listener of its own there is nothing else.
    let taken = |own: &&&str| PathPattern::parse(own).is_ok_and(|own| own.overlaps(path));
    match seat.program.own_paths.iter().find(taken).filter(|_| listen.is_none()) {
        Some(own) => Err(format!("{path} would take {own}, a path of the hub itself; choose another")),
        None => Ok(()),
    }
}

/// The address of a listener of its own, if the unit may have one.
pub fn read_listen(seat: &Seat, value: &Value) -> Result<SocketAddr, String> {
    let text = value.as_string().map(|text| text.to_string_lossy());
    let wrong = || format!("listen: expected an address like \"127.0.0.1:9000\", got {}", describe(value));
    let address = text.and_then(|text| text.parse().ok()).ok_or_else(wrong)?;
    match seat.unit().listens {
        true => Ok(address),
        false => Err("listen: add listen = true to [permissions] of plugin.toml for a listener of its own".into()),
    }
}
