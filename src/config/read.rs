//! Reads what was said, value by value, and where each fault stands.
//!
//! Every value is tried on its own against the defaults, so that all faults are reported at once and each with its place.
//! Which keys exist is asked of the types themselves: there is no second list to keep.

use std::collections::BTreeMap;

use figment::Figment;
use figment::error::Kind;
use figment::providers::Serialized;
use serde_json::{Map, Value as Json};
use toml_edit::{ImDocument, Item, TableLike, Value};

use super::Config;
use super::aphlict::{self, Aphlict};
use super::check::check;
use super::first_aether::{self, Became, Formerly};
use super::path::{Step, dotted, spoken, steps};
use super::sources::{CLIENT_VARIABLES, ConfigError, ENV_PREFIX, Look, Problem, one_problem};
use super::wrong::{hint, near, wrong_value};

/// Where the settings of the rules stand.
const OF_RULES: [&str; 3] = ["plugin", "plugins", "secrets"];

/// Where a node of the file stands: its key (or header), and its value.
struct Place {
    key: String,
    value: String,
}

#[derive(Default)]
pub(super) struct Reading {
    /// What was said, as far as it is good.
    said: Json,
    /// Where each key was last set.
    places: BTreeMap<String, Place>,
    problems: Vec<Problem>,
    rules_touched: bool,
    notes: Vec<String>,
    /// What was said in the first Aether's words and is some plugin's.
    formerly: Formerly,
    aphlict: Aphlict,
}

impl Reading {
    pub(super) fn file(&mut self, name: &str, text: &str) -> Result<(), ConfigError> {
        let document = ImDocument::parse(text).map_err(|error| {
            let at = error.span().map_or(name.to_owned(), |span| place(name, text, span.start));
            one_problem(at, format!("this is not TOML: {}", error.message().trim().replace('\n', "; ")))
        })?;
        self.table(document.as_table(), &mut Vec::new(), &|at| place(name, text, at));
        Ok(())
    }

    fn table(&mut self, table: &dyn TableLike, path: &mut Vec<Step>, place: &dyn Fn(usize) -> String) {
        for (name, _) in table.iter() {
            let Some((key, item)) = table.get_key_value(name) else { continue };
            path.push(Step::Key(name.to_owned()));
            let start = key.span().or(item.span()).map_or(0, |span| span.start);
            self.item(item, path, start, place);
            path.pop();
        }
    }

    fn item(&mut self, item: &Item, path: &mut Vec<Step>, key: usize, place: &dyn Fn(usize) -> String) {
        let value = item.span().map_or(key, |span| span.start);
        self.places.insert(dotted(path), Place { key: place(key), value: place(value) });
        match item {
            Item::None => {}
            Item::Table(table) if table.is_empty() => self.put(path, Json::Object(Map::new())),
            Item::Table(table) => self.table(table, path, place),
            Item::ArrayOfTables(tables) => {
                for (index, table) in tables.iter().enumerate() {
                    path.push(Step::Index(index));
                    let at = place(table.span().map_or(value, |span| span.start));
                    self.places.insert(dotted(path), Place { key: at.clone(), value: at });
                    match table.is_empty() {
                        true => self.put(path, Json::Object(Map::new())),
                        false => self.table(table, path, place),
                    }
                    path.pop();
                }
            }
            Item::Value(value) => self.value(value, path, place),
        }
    }

    fn value(&mut self, value: &Value, path: &mut Vec<Step>, place: &dyn Fn(usize) -> String) {
        match value {
            Value::Array(list) if list.is_empty() => self.put(path, Json::Array(Vec::new())),
            Value::Array(list) => {
                for (index, value) in list.iter().enumerate() {
                    path.push(Step::Index(index));
                    let at = place(value.span().map_or(0, |span| span.start));
                    self.places.insert(dotted(path), Place { key: at.clone(), value: at });
                    self.value(value, path, place);
                    path.pop();
                }
            }
            Value::InlineTable(table) if table.is_empty() => self.put(path, Json::Object(Map::new())),
            Value::InlineTable(table) => self.table(table, path, place),
            Value::String(text) => self.put(path, Json::from(text.value().as_str())),
            Value::Integer(number) => self.put(path, Json::from(*number.value())),
            Value::Float(number) => self.put(path, Json::from(*number.value())),
            Value::Boolean(flag) => self.put(path, Json::from(*flag.value())),
            Value::Datetime(time) => self.put(path, Json::from(time.value().to_string())),
        }
    }

    /// Keeps a value under the name that it has now.
    fn put(&mut self, path: &[Step], value: Json) {
        let at = || self.places.get(&dotted(path)).map_or(String::new(), |place| place.value.clone());
        match (first_aether::became(&dotted(&path[..path.len().min(2)])), path) {
            (Some(Became::Key(key)), [_, _]) => {
                let at = at();
                self.places.insert(key.to_owned(), Place { key: at.clone(), value: at });
                self.keep(&steps(key), value);
            }
            (Some(Became::Plugin(plugin, name)), [_, _]) => {
                let at = at();
                self.formerly.setting(plugin, name, value, at);
            }
            (Some(Became::Nothing(why)), [_, _]) => {
                let at = at();
                self.notes.push(format!("{at}: {} does nothing here: {why}", spoken(path)));
            }
            (Some(Became::Keys), [_, _, Step::Index(index), Step::Key(field)]) => {
                let at = at();
                if let Err(wrong) = self.formerly.key(*index, field, &value, at.clone()) {
                    self.problem(at, format!("{} {wrong}", spoken(path)));
                }
            }
            // An empty section, or an empty list.
            (None, [Step::Key(section)]) if ["auth", "database"].contains(&section.as_str()) => {}
            (Some(Became::Keys), [_, _]) if value == Json::Array(Vec::new()) => {}
            (None, [Step::Key(section), Step::Key(name)]) if ["auth", "database"].contains(&section.as_str()) => {
                let names =
                    first_aether::keys().filter_map(|key| key.strip_prefix(section.as_str())?.strip_prefix('.'));
                let near = near(name, names);
                let at = self.places.get(&dotted(path)).map_or(String::new(), |place| place.key.clone());
                self.problem(at, format!("{} is not known here{near}", spoken(path)));
            }
            _ => self.keep(path, value),
        }
    }

    /// Keeps a value if it is good, else says what is wrong with it.
    fn keep(&mut self, path: &[Step], value: Json) {
        let Err(error) = try_alone(path, &value) else {
            return set(&mut self.said, path, value);
        };
        // The path of a fault: as deep as the value was looked into; an unknown key is its own last step.
        let at = &path[..error.path.len().clamp(1, path.len())];
        let parent = &at[..at.len() - 1];
        if !parent.is_empty() {
            // What holds the fault is still there: a key that it lacks is a fault of its own.
            let holder = if matches!(at.last(), Some(Step::Index(_))) {
                Json::Array(Vec::new())
            } else {
                Json::Object(Map::new())
            };
            set(&mut self.said, parent, holder);
        }
        let what = match &error.kind {
            Kind::UnknownField(name, known) => format!("{} is not known here{}", spoken(at), hint(name, known)),
            kind => wrong_value(at, kind),
        };
        let unknown = matches!(error.kind, Kind::UnknownField(..));
        let at = match self.places.get(&dotted(at)) {
            Some(place) if unknown => place.key.clone(),
            Some(place) => place.value.clone(),
            None => String::new(),
        };
        self.problem(at, what);
        self.touch(path);
    }

    pub(super) fn env(&mut self, name: &str, value: &str) {
        if value.is_empty() || CLIENT_VARIABLES.contains(&name) {
            return;
        }
        if aphlict::knows(name) {
            return self.aphlict.variable(name, value);
        }
        let known = known_variables();
        let secret = name.strip_prefix("AETHER_SECRETS_").filter(|name| !name.is_empty());
        match (secret, known.get(name)) {
            (Some(secret), _) => self.text(&format!("secrets.{}", secret.to_ascii_lowercase()), value, name),
            (None, Some(key)) => self.text(key, value, name),
            (None, None) => {
                self.problem(name, format!("is not known{}", near(name, known.keys().map(String::as_str))));
            }
        }
    }

    /// A value that comes as text is whatever its key takes: a string first, so that a number in a string's place stays one.
    pub(super) fn text(&mut self, key: &str, value: &str, at: &str) {
        // A key has two parts here, and the second may be all digits: `secrets.1`.
        let path: Vec<Step> = key.splitn(2, '.').map(|part| Step::Key(part.to_owned())).collect();
        match first_aether::became(key) {
            Some(Became::Key(key)) => return self.text(key, value, at),
            Some(_) => {
                self.places.insert(key.to_owned(), Place { key: at.to_owned(), value: at.to_owned() });
                return self.put(&path, Json::from(value));
            }
            None => {}
        }
        self.places.insert(dotted(&path), Place { key: at.to_owned(), value: at.to_owned() });
        let list = value.split(',').map(|part| Json::from(part.trim())).collect();
        let readings = [
            Some(Json::from(value)),
            value.parse::<i64>().ok().map(Json::from),
            value.parse::<bool>().ok().map(Json::from),
            Some(Json::Array(list)),
        ];
        let good = readings.into_iter().flatten().find(|reading| try_alone(&path, reading).is_ok());
        self.put(&path, good.unwrap_or_else(|| Json::from(value)));
    }

    fn problem(&mut self, at: impl Into<String>, what: String) {
        let problem = Problem { at: at.into(), what };
        if !self.problems.contains(&problem) {
            self.problems.push(problem);
        }
    }

    /// A fault lies there.
    fn touch(&mut self, path: &[Step]) {
        self.rules_touched |= matches!(path.first(), Some(Step::Key(section)) if OF_RULES.contains(&section.as_str()));
    }

    pub(super) fn finish(mut self) -> Look {
        let mut figment = Figment::from(Serialized::defaults(Config::default()));
        if self.said.is_object() {
            figment = figment.merge(Serialized::globals(&self.said));
        }
        let config = match figment.extract::<Config>() {
            Ok(mut config) => {
                config.notes = std::mem::take(&mut self.notes);
                for (index, plugin) in config.plugin.iter_mut().enumerate() {
                    plugin.at = self.places.get(&format!("plugin.{index}")).map_or(String::new(), |at| at.key.clone());
                    let below = format!("plugin.{index}.config.");
                    let own = self.places.range(below.clone()..).take_while(|(path, _)| path.starts_with(&below));
                    plugin.places = own.map(|(path, at)| (path[below.len()..].to_owned(), at.key.clone())).collect();
                }
                if let Err(wrong) = std::mem::take(&mut self.formerly).settle(&mut config) {
                    wrong.into_iter().for_each(|(at, what)| self.problem(at, what));
                }
                if let Err((at, what)) = std::mem::take(&mut self.aphlict).settle(&mut config) {
                    self.problem(at, what);
                    self.rules_touched = true;
                }
                self.ranges(&config);
                Some(config)
            }
            // Each value was good alone, so this is what a fault that is already reported left behind.
            Err(_) if !self.problems.is_empty() => None,
            Err(error) => {
                self.problem("settings", error.to_string());
                None
            }
        };
        Look { config, problems: self.problems, rules_touched: self.rules_touched }
    }

    fn ranges(&mut self, config: &Config) {
        for finding in check(config) {
            let path = steps(&finding.key);
            // A number out of its range keeps no plugin from being looked at.
            self.rules_touched |= path.first() == Some(&Step::Key("plugin".into()));
            let at = self
                .place_of(&path, 1)
                .or_else(|| finding.beside.and_then(|key| self.place_of(&steps(key), 1)))
                .or_else(|| (1..path.len()).find_map(|up| self.place_of(&path, up + 1)))
                .unwrap_or_else(|| "default settings".into());
            self.problem(at, format!("{} {}", spoken(&path), finding.wrong));
        }
    }

    /// Where the path without its last `up - 1` steps was set.
    fn place_of(&self, path: &[Step], up: usize) -> Option<String> {
        let place = self.places.get(&dotted(&path[..path.len() + 1 - up]))?;
        Some(if up == 1 { place.value.clone() } else { place.key.clone() })
    }
}

/// `name:line:column` of a byte in a text.
fn place(name: &str, text: &str, at: usize) -> String {
    let before = text.get(..at).unwrap_or(text);
    let line_start = before.rfind('\n').map_or(0, |i| i + 1);
    format!("{name}:{}:{}", before.matches('\n').count() + 1, before[line_start..].chars().count() + 1)
}

fn defaults() -> Json {
    serde_json::to_value(Config::default()).unwrap_or_default()
}

/// Reads the defaults with this one value in its place.
fn try_alone(path: &[Step], value: &Json) -> Result<(), Box<figment::Error>> {
    let alone = path.iter().rev().fold(value.clone(), |inner, step| match step {
        Step::Key(key) => Json::Object(Map::from_iter([(key.clone(), inner)])),
        Step::Index(_) => Json::Array(vec![inner]),
    });
    Figment::from(Serialized::globals(alone)).extract::<Config>().map(drop).map_err(Box::new)
}

fn set(node: &mut Json, path: &[Step], value: Json) {
    let Some((first, rest)) = path.split_first() else {
        // An empty table or list does not wipe what is already there.
        let empty = value == Json::Object(Map::new()) || value == Json::Array(Vec::new());
        if node.is_null() || !empty {
            *node = value;
        }
        return;
    };
    match first {
        Step::Key(key) => {
            if !node.is_object() {
                *node = Json::Object(Map::new());
            }
            if let Some(table) = node.as_object_mut() {
                set(table.entry(key.as_str()).or_insert(Json::Null), rest, value);
            }
        }
        Step::Index(index) => {
            if !node.is_array() {
                *node = Json::Array(Vec::new());
            }
            if let Some(list) = node.as_array_mut() {
                // A faulty element before this one left no trace: what follows moves up.
                let index = (*index).min(list.len());
                if index == list.len() {
                    list.push(Json::Null);
                }
                set(&mut list[index], rest, value);
            }
        }
    }
}

/// The environment's name of each setting: `AETHER_SERVER_ADDR` for `server.addr`.
fn known_variables() -> BTreeMap<String, String> {
    let defaults = defaults();
    let formerly = first_aether::keys().filter(|key| first_aether::became(key) != Some(Became::Keys));
    let variable = |key: &str| format!("{ENV_PREFIX}{}", key.replace('.', "_")).to_ascii_uppercase();
    let mut known: BTreeMap<_, _> = formerly.map(|key| (variable(key), key.to_owned())).collect();
    for (section, keys) in defaults.as_object().into_iter().flatten() {
        for key in keys.as_object().into_iter().flat_map(Map::keys) {
            let key = format!("{section}.{key}");
            known.insert(variable(&key), key);
        }
    }
    known
}

#[cfg(test)]
mod tests;
