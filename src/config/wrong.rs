//! What is wrong with a value, in words, and what may have been meant.

use figment::error::{Actual, Kind};

use super::path::{Step, spoken};

pub(super) fn wrong_value(path: &[Step], kind: &Kind) -> String {
    let key = spoken(path);
    // Whatever stands there may be the secret itself.
    if path.first() == Some(&Step::Key("secrets".into())) {
        return format!("{key} must be a string");
    }
    match kind {
        Kind::InvalidType(actual, expected) | Kind::InvalidValue(actual, expected) => {
            format!("{key} must be {}, not {}", expected_words(expected), actual_words(actual))
        }
        Kind::UnknownVariant(name, known) => {
            format!("{key} must be one of {}, not {name:?}{}", known.join(", "), near(name, known.iter().copied()))
        }
        Kind::Message(text) if text.contains("socket address") => {
            format!("{key} must be an address and a port such as \"127.0.0.1:8080\"")
        }
        Kind::Message(text) => format!("{key}: {text}"),
        kind => format!("{key}: {kind}"),
    }
}

fn expected_words(expected: &str) -> &str {
    match expected {
        "usize" | "u64" | "u32" => "a whole number, 0 or more",
        "a boolean" => "true or false",
        "a sequence" => "a list",
        "path string" | "a string" => "a string",
        "socket address" => "an address and a port such as \"127.0.0.1:8080\"",
        words if words.starts_with("struct") || words == "a map" => "a table",
        words if words.ends_with("Ack") || words.ends_with("Lag") || words.contains("enum") => "a string",
        words => words,
    }
}

fn actual_words(actual: &Actual) -> String {
    match actual {
        Actual::Bool(flag) => flag.to_string(),
        Actual::Unsigned(number) => number.to_string(),
        Actual::Signed(number) => number.to_string(),
        Actual::Float(number) => number.to_string(),
        Actual::Str(text) => format!("{text:?}"),
        Actual::Seq => "a list".into(),
        Actual::Map => "a table".into(),
        Actual::Unit => "a number that is not finite".into(),
        other => other.to_string(),
    }
}

pub(super) fn hint(name: &str, known: &[&str]) -> String {
    match near(name, known.iter().copied()) {
        near if !near.is_empty() => near,
        _ if known.is_empty() => String::new(),
        _ => format!("; known are {}", known.join(", ")),
    }
}

/// `; did you mean ping_interval?`, if something is near enough.
pub(super) fn near<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> String {
    let distance = |other: &str| strsim::damerau_levenshtein(name, other);
    match known.map(|other| (distance(other), other)).min() {
        Some((distance, other)) if distance <= (name.chars().count() / 3).max(1) => format!("; did you mean {other}?"),
        _ => String::new(),
    }
}
