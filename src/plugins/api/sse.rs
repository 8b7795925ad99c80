//! `aether.sse`: an event of an event stream, whatever is in it.

use mlua::{Table, Value};

use super::{Entry, function};
use crate::plugins::source::schema::hint;
use crate::plugins::vm::value::{describe, raise, to_number};

pub const ENTRIES: &[Entry] = &[Entry {
    name: "sse",
    args: "{event, data, id, retry, comment}",
    gives: "string",
    doc: "One event of an event stream, its data in as many lines as it has: nothing in it can begin a field of its own. An event or id with a line break in it is an error.",
    kind: "(event: { event: string?, data: string?, id: string?, retry: number?, comment: string? }) -> string",
    may_wait: false,
    since: "0.1.0",
    example: r#"assert(aether.sse({ event = "tick", data = "a\nb", id = "7" }) == "event: tick\ndata: a\ndata: b\nid: 7\n\n")"#,
    make: |lua, seat| {
        function(lua, seat, |lua, _, event: Table| {
            write(&event).map_err(|why| raise(lua, format!("sse: {why}"))).and_then(|text| lua.create_string(text))
        })
    },
}];

const KEYS: [&str; 5] = ["event", "data", "id", "retry", "comment"];

fn write(event: &Table) -> Result<Vec<u8>, String> {
    for pair in event.pairs::<Value, Value>() {
        let (key, _) = pair.map_err(|error| error.to_string())?;
        let key = key.as_string().map(|key| key.to_string_lossy()).unwrap_or_else(|| describe(&key));
        if !KEYS.contains(&key.as_str()) {
            return Err(format!("{key} is not known here{}", hint(&key, KEYS)));
        }
    }
    let mut out = Vec::new();
    let get = |key: &str| event.raw_get::<Value>(key).map_err(|error| error.to_string());
    if let Some(comment) = text("comment", &get("comment")?)? {
        lines(b": ", &comment, &mut out);
    }
    if let Some(name) = line("event", &get("event")?)? {
        lines(b"event: ", &name, &mut out);
    }
    if let Some(data) = text("data", &get("data")?)? {
        lines(b"data: ", &data, &mut out);
    }
    if let Some(id) = line("id", &get("id")?)? {
        lines(b"id: ", &id, &mut out);
    }
    match get("retry")? {
        Value::Nil => {}
        value => {
            let ms = to_number(&value).filter(|ms| ms.fract() == 0.0 && (0.0..=86_400_000.0).contains(ms));
            let ms = ms.ok_or_else(|| format!("retry: expected milliseconds, got {}", describe(&value)))?;
            out.extend_from_slice(format!("retry: {ms}\n").as_bytes());
        }
    }
    out.push(b'\n');
    Ok(out)
}

fn text(key: &str, value: &Value) -> Result<Option<Vec<u8>>, String> {
    match value {
        Value::Nil => Ok(None),
        Value::String(text) => Ok(Some(text.as_bytes().to_vec())),
        other => Err(format!("{key}: expected a string, got {}", describe(other))),
    }
}

/// A text of one line: a break would begin a field of its own, and a NUL in an id voids it.
fn line(key: &str, value: &Value) -> Result<Option<Vec<u8>>, String> {
    let text = text(key, value)?;
    match text.as_deref().is_some_and(|text| text.iter().any(|byte| matches!(byte, b'\r' | b'\n' | 0))) {
        true => Err(format!("{key}: a line break or NUL cannot be in it")),
        false => Ok(text),
    }
}

/// A field per line. CR and CRLF become LF, which an event stream cannot tell apart.
fn lines(field: &[u8], text: &[u8], out: &mut Vec<u8>) {
    let mut rest = text;
    loop {
        let end = rest.iter().position(|byte| matches!(byte, b'\n' | b'\r'));
        out.extend_from_slice(field);
        out.extend_from_slice(&rest[..end.unwrap_or(rest.len())]);
        out.push(b'\n');
        let Some(end) = end else { return };
        rest = &rest[end + if rest[end..].starts_with(b"\r\n") { 2 } else { 1 }..];
    }
}
