//! What was read or sent, as an operator may see it: short, and without what looks like a secret.

use serde_json::{Map, Value as Json};

use super::trace::{Key, Read, Told};
use crate::plugins::vm::keys::show_key;

const TEXT: usize = 120;
const ITEMS: usize = 20;
const DEPTH: usize = 6;
/// A field of such a name is nobody's business.
const SECRET: [&str; 8] = ["secret", "token", "password", "passwd", "hash", "credential", "cookie", "private"];

/// A value, cut to what can be looked at.
pub fn summary(json: &Json) -> Json {
    short(json, DEPTH)
}

fn short(json: &Json, depth: usize) -> Json {
    match json {
        Json::String(text) => cut(text).into(),
        Json::Array(_) | Json::Object(_) if depth == 0 => "..".into(),
        Json::Array(items) => {
            let mut shown: Vec<Json> = items.iter().take(ITEMS).map(|item| short(item, depth - 1)).collect();
            if items.len() > ITEMS {
                shown.push(format!("and {} more", items.len() - ITEMS).into());
            }
            shown.into()
        }
        Json::Object(fields) => {
            let mut shown = Map::new();
            for (name, value) in fields.iter().take(ITEMS) {
                let value = if is_secret(name) { "<secret>".into() } else { short(value, depth - 1) };
                shown.insert(cut(name), value);
            }
            if fields.len() > ITEMS {
                shown.insert("..".into(), format!("and {} more", fields.len() - ITEMS).into());
            }
            shown.into()
        }
        other => other.clone(),
    }
}

fn cut(text: &str) -> String {
    match text.char_indices().nth(TEXT) {
        Some((at, _)) => format!("{}.. ({} bytes)", &text[..at], text.len()),
        None => text.to_owned(),
    }
}

fn is_secret(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    name == "key" || name.ends_with("_key") || SECRET.iter().any(|word| name.contains(word))
}

/// A payload: JSON if it is some, else text, else its size.
pub fn payload(bytes: &[u8]) -> Json {
    match serde_json::from_slice(bytes) {
        Ok(json) => summary(&json),
        Err(_) => match std::str::from_utf8(bytes) {
            Ok(text) => cut(text).into(),
            Err(_) => format!("<{} bytes>", bytes.len()).into(),
        },
    }
}

pub fn key(key: &Key) -> Json {
    match key {
        Key::None => Json::Null,
        Key::Packed(bytes) => match show_key(bytes) {
            Json::Array(parts) if parts.is_empty() => Json::Null,
            key => summary(&key),
        },
        Key::Text(text) => cut(text).into(),
    }
}

pub fn told(told: &Told) -> Json {
    match told {
        Told::Nothing => Json::Null,
        Told::Bool(yes) => (*yes).into(),
        Told::Number(number) => crate::plugins::vm::value::number(*number).unwrap_or_default(),
        Told::Json(json) => summary(json),
        Told::Rows(rows) => format!("{} entries", rows.len()).into(),
        Told::Keys(keys) => keys.iter().take(ITEMS).map(|key| show_key(key)).collect::<Vec<_>>().into(),
        Told::Secret => "<secret>".into(),
        Told::Http(answered) => format!("{}, {} bytes", answered.status, answered.body.len()).into(),
        Told::Mark(_) => Json::Null,
    }
}

pub fn read(read: &Read) -> Json {
    let mut shown =
        serde_json::json!({"call": read.call, "of": &*read.of, "key": key(&read.key), "told": told(&read.told)});
    if !matches!(read.with, Told::Nothing | Told::Mark(_)) {
        shown["with"] = told(&read.with);
    }
    shown
}

/// About how many bytes a value takes up.
pub fn weigh(json: &Json) -> usize {
    32 + match json {
        Json::String(text) => text.len(),
        Json::Array(items) => items.iter().map(weigh).sum(),
        Json::Object(fields) => fields.iter().map(|(name, value)| 48 + name.len() + weigh(value)).sum(),
        _ => 0,
    }
}
