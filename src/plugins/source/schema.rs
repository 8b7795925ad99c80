//! What a plugin's configuration may hold: the types of `plugin.toml`'s `[config.*]`, and settings checked against
//! them.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use serde_json::{Map, Value as Json};

use crate::kernel::pattern::Pattern;

#[derive(Clone, Debug, PartialEq)]
pub enum Type {
    String,
    Number,
    Integer,
    Boolean,
    Duration,
    Size,
    Url,
    Pattern,
    Secret,
    Enum(Vec<String>),
    List(Box<Type>),
    Map(Box<Type>),
    Record(Schema),
}

/// One setting that a plugin takes.
#[derive(Clone, Debug, PartialEq)]
pub struct Knob {
    pub kind: Type,
    pub default: Option<Json>,
    pub required: bool,
    pub min: Option<f64>,
    pub max: Option<f64>,
    pub doc: String,
}

pub type Schema = BTreeMap<String, Knob>;

/// A setting that has been checked, as Lua will see it.
#[derive(Clone, Debug, PartialEq)]
pub enum Setting {
    Plain(Json),
    Pattern(Pattern),
    /// The secret's name.
    Secret(String),
    List(Vec<Setting>),
    Map(BTreeMap<String, Setting>),
}

const TYPES: [&str; 13] = [
    "string",
    "number",
    "integer",
    "boolean",
    "duration",
    "size",
    "url",
    "pattern",
    "secret",
    "record",
    "enum<a, b>",
    "list<..>",
    "map<string, ..>",
];

impl Type {
    /// Reads a type's name; records find their fields in `fields`.
    pub fn parse(text: &str, fields: &Schema) -> Result<Type, String> {
        let inner = |prefix: &str| text.strip_prefix(prefix).and_then(|rest| rest.strip_suffix('>')).map(str::trim);
        Ok(match text {
            "string" => Type::String,
            "number" => Type::Number,
            "integer" => Type::Integer,
            "boolean" => Type::Boolean,
            "duration" => Type::Duration,
            "size" => Type::Size,
            "url" => Type::Url,
            "pattern" => Type::Pattern,
            "secret" => Type::Secret,
            "record" => Type::Record(fields.clone()),
            _ => {
                if let Some(words) = inner("enum<") {
                    Type::Enum(words.split(',').map(|word| word.trim().to_owned()).collect())
                } else if let Some(item) = inner("list<") {
                    Type::List(Box::new(Type::parse(item, fields)?))
                } else if let Some((key, item)) = inner("map<").and_then(|both| both.split_once(','))
                    && key.trim() == "string"
                {
                    Type::Map(Box::new(Type::parse(item.trim(), fields)?))
                } else {
                    return Err(format!(
                        "type {text:?} is not known here{}; types are {}",
                        hint(text, TYPES),
                        TYPES.join(", ")
                    ));
                }
            }
        })
    }

    fn check(&self, value: &Json, path: &str, errors: &mut Vec<String>) -> Setting {
        let mut expected = |what: &str| {
            errors.push(format!("{path}: expected {what}, got {}", describe(value)));
            Setting::Plain(Json::Null)
        };
        match (self, value) {
            (Type::String, Json::String(_)) | (Type::Boolean, Json::Bool(_)) | (Type::Number, Json::Number(_)) => {
                Setting::Plain(value.clone())
            }
            (Type::Integer, Json::Number(n)) if n.as_f64().is_some_and(|n| n.fract() == 0.0 && n.abs() < MAX_EXACT) => {
                Setting::Plain(value.clone())
            }
            (Type::Duration, _) => match read_duration(value) {
                Some(time) => Setting::Plain(time.as_secs_f64().into()),
                None => expected("a duration like \"30s\" or \"1h30m\""),
            },
            (Type::Size, _) => match read_size(value) {
                Some(size) => Setting::Plain(size.into()),
                None => expected("a size like 4096 or \"64KiB\""),
            },
            (Type::Url, Json::String(text)) if is_url(text) => Setting::Plain(value.clone()),
            (Type::Url, _) => expected("a URL with a scheme and a host"),
            (Type::Pattern, Json::String(text)) => match Pattern::parse(text) {
                Ok(pattern) => Setting::Pattern(pattern),
                Err(error) => {
                    errors.push(format!("{path}: {error}"));
                    Setting::Plain(Json::Null)
                }
            },
            (Type::Secret, Json::String(name)) => Setting::Secret(name.clone()),
            (Type::Enum(words), Json::String(text)) if words.contains(text) => Setting::Plain(value.clone()),
            (Type::Enum(words), Json::String(text)) => {
                errors.push(format!("{path}: {text:?} is not one of {}{}", words.join(", "), hint(text, words)));
                Setting::Plain(Json::Null)
            }
            (Type::List(item), Json::Array(values)) => Setting::List(
                values
                    .iter()
                    .enumerate()
                    .map(|(at, v)| item.check(v, &format!("{path}[{}]", at + 1), errors))
                    .collect(),
            ),
            (Type::Map(item), Json::Object(map)) => Setting::Map(
                map.iter().map(|(key, v)| (key.clone(), item.check(v, &format!("{path}.{key}"), errors))).collect(),
            ),
            (Type::Record(fields), Json::Object(map)) => Setting::Map(check(fields, map, path, errors)),
            _ => expected(&self.to_string()),
        }
    }
}

/// Beyond this a Lua number no longer holds every integer.
const MAX_EXACT: f64 = (1u64 << 53) as f64;

impl fmt::Display for Type {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Type::String => "a string",
            Type::Number => "a number",
            Type::Integer => "an integer",
            Type::Boolean => "true or false",
            Type::Duration => "a duration",
            Type::Size => "a size",
            Type::Url => "a URL",
            Type::Pattern => "a channel pattern",
            Type::Secret => "the name of a secret",
            Type::Enum(words) => return write!(f, "one of {}", words.join(", ")),
            Type::List(item) => return write!(f, "a list, each {item}"),
            Type::Map(item) => return write!(f, "a table, each value {item}"),
            Type::Record(_) => "a table",
        })
    }
}

/// Checks `given` against `schema` and fills in the defaults. Every fault is named with its path.
pub fn check(
    schema: &Schema,
    given: &Map<String, Json>,
    path: &str,
    errors: &mut Vec<String>,
) -> BTreeMap<String, Setting> {
    let dot = |key: &str| if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") };
    for key in given.keys().filter(|key| !schema.contains_key(*key)) {
        errors.push(format!("{} is not known here{}", dot(key), hint(key, schema.keys())));
    }
    let mut settings = BTreeMap::new();
    for (key, option) in schema {
        let Some(value) = given.get(key).or(option.default.as_ref()) else {
            if option.required {
                errors.push(format!("{} is required ({})", dot(key), option.doc));
            }
            continue;
        };
        let before = errors.len();
        let setting = option.kind.check(value, &dot(key), errors);
        if errors.len() == before {
            option.check_range(&setting, value, &dot(key), errors);
        }
        settings.insert(key.clone(), setting);
    }
    settings
}

impl Knob {
    fn check_range(&self, setting: &Setting, given: &Json, path: &str, errors: &mut Vec<String>) {
        let Setting::Plain(value) = setting else { return };
        let Some(number) = value.as_f64() else { return };
        if self.min.is_some_and(|min| number < min) {
            errors.push(format!("{path}: {given} is less than the least, {}", self.min.unwrap_or_default()));
        }
        if self.max.is_some_and(|max| number > max) {
            errors.push(format!("{path}: {given} is more than the most, {}", self.max.unwrap_or_default()));
        }
    }
}

pub fn describe(value: &Json) -> String {
    match value {
        Json::Null => "nothing".into(),
        Json::Bool(b) => b.to_string(),
        Json::Number(n) => n.to_string(),
        Json::String(text) => format!("the string {text:?}"),
        Json::Array(_) => "a list".into(),
        Json::Object(_) => "a table".into(),
    }
}

/// `; did you mean x?`, when one of `known` is close enough to be meant.
pub fn hint<S: AsRef<str>>(word: &str, known: impl IntoIterator<Item = S>) -> String {
    known
        .into_iter()
        .map(|known| (strsim::jaro_winkler(word, known.as_ref()), known))
        .filter(|(likeness, _)| *likeness > 0.8)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map_or(String::new(), |(_, known)| format!("; did you mean {}?", known.as_ref()))
}

/// `"1h30m"`, `"250ms"`, or a number of seconds.
pub fn read_duration(value: &Json) -> Option<Duration> {
    match value {
        Json::Number(seconds) => Duration::try_from_secs_f64(seconds.as_f64()?).ok(),
        Json::String(text) => {
            let unit = |unit: &str| match unit {
                "ms" => Some(0.001),
                "s" => Some(1.0),
                "m" => Some(60.0),
                "h" => Some(3600.0),
                "d" => Some(86400.0),
                _ => None,
            };
            Duration::try_from_secs_f64(sum_of_units(text, unit)?).ok()
        }
        _ => None,
    }
}

/// `"64KiB"`, `"1MB"`, or a number of bytes.
pub fn read_size(value: &Json) -> Option<u64> {
    match value {
        Json::Number(bytes) => bytes.as_u64(),
        Json::String(text) => {
            let unit = |unit: &str| match unit {
                "" | "B" => Some(1.0),
                "KB" => Some(1e3),
                "MB" => Some(1e6),
                "GB" => Some(1e9),
                "KiB" => Some(1024.0),
                "MiB" => Some(1048576.0),
                "GiB" => Some(1073741824.0),
                _ => None,
            };
            sum_of_units(text, unit).filter(|size| *size < MAX_EXACT).map(|size| size as u64)
        }
        _ => None,
    }
}

fn sum_of_units(text: &str, unit: impl Fn(&str) -> Option<f64>) -> Option<f64> {
    let is_digit = |c: char| c.is_ascii_digit() || c == '.';
    let (mut rest, mut sum) = (text.trim(), 0.0);
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let (number, after) = rest.split_at(rest.find(|c| !is_digit(c)).unwrap_or(rest.len()));
        let (word, after) = after.split_at(after.find(is_digit).unwrap_or(after.len()));
        sum += number.parse::<f64>().ok()? * unit(word.trim())?;
        rest = after;
    }
    Some(sum)
}

fn is_url(text: &str) -> bool {
    text.split_once("://").is_some_and(|(scheme, rest)| {
        scheme.starts_with(|c: char| c.is_ascii_alphabetic())
            && scheme.chars().all(|c| c.is_ascii_alphanumeric() || "+-.".contains(c))
            && rest.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '[')
            && !rest.contains(char::is_whitespace)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn durations_and_sizes_are_read_with_their_units() {
        assert_eq!(read_duration(&json!("1h30m")), Some(Duration::from_secs(5400)));
        assert_eq!(read_duration(&json!("250ms")), Some(Duration::from_millis(250)));
        assert_eq!(read_duration(&json!(30)), Some(Duration::from_secs(30)));
        for bad in [json!("30"), json!(""), json!("s"), json!("-1s"), json!(-1), json!("3x"), json!(null)] {
            assert_eq!(read_duration(&bad), None, "{bad}");
        }
        assert_eq!(
            (read_size(&json!("64KiB")), read_size(&json!(12)), read_size(&json!("k"))),
            (Some(65536), Some(12), None)
        );
    }

    #[test]
    fn types_nest_and_a_strange_one_names_its_neighbour() {
        let none = Schema::new();
        assert_eq!(
            Type::parse("map<string, list<enum<a, b>>>", &none),
            Ok(Type::Map(Box::new(Type::List(Box::new(Type::Enum(vec!["a".into(), "b".into()]))))))
        );
        assert!(Type::parse("strng", &none).unwrap_err().contains("did you mean string?"));
    }
}
