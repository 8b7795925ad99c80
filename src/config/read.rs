//! Where settings come from: defaults, then the file, then the environment, then flags; and where each fault stands.
//!
//! Every value is tried on its own against the defaults, so that all faults are reported at once and each with its place.
//! Which keys exist is asked of the types themselves: there is no second list to keep.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use figment::Figment;
use figment::error::{Actual, Kind};
use figment::providers::Serialized;
use serde_json::{Map, Value as Json};
use toml_edit::{ImDocument, Item, TableLike, Value};

use super::Config;
use super::aphlict::{self, Aphlict};
use super::check::check;
use super::first_aether::{self, Became, Formerly};

/// The file that is read when none is named; it may be absent.
pub const DEFAULT_FILE: &str = "aether.toml";

/// What the clients on the command line are given by the environment: no settings of a hub.
pub const CLIENT_VARIABLES: [&str; 2] = ["AETHER_KEY", "AETHER_TOKEN"];

const ENV_PREFIX: &str = "AETHER_";

/// Everything that is wrong with the settings.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ConfigError {
    pub problems: Vec<Problem>,
}

/// One thing that is wrong, and where.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Problem {
    /// `aether.toml:41:3`, `AETHER_SERVER_ADDR` or `--addr`.
    pub at: String,
    pub what: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.at, self.what)
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lines: Vec<_> = self.problems.iter().map(Problem::to_string).collect();
        f.write_str(&lines.join("\n"))
    }
}

impl std::error::Error for ConfigError {}

/// A setting given as text, by a flag.
#[derive(Clone, Debug)]
pub struct Setting {
    /// `server.addr`
    pub key: &'static str,
    pub value: String,
    /// `--addr`
    pub at: &'static str,
}

/// What was said beside the defaults; later ones win.
#[derive(Clone, Default)]
pub struct Sources {
    /// The file's name, for messages, and its text.
    pub file: Option<(String, String)>,
    pub env: Vec<(String, String)>,
    pub flags: Vec<Setting>,
}

impl Config {
    /// Reads the settings of this process: the file, its environment and its flags.
    pub fn load(file: Option<&Path>, flags: Vec<Setting>) -> Result<Config, ConfigError> {
        Config::look(file, flags)?.whole()
    }

    /// The same, and what can be made of them where something is wrong.
    pub fn look(file: Option<&Path>, flags: Vec<Setting>) -> Result<Look, ConfigError> {
        Sources { file: file_text(file)?, env: env_text()?, flags }.look()
    }
}

/// Settings as far as they are good.
pub struct Look {
    /// With defaults where something is wrong; none if that does not make any.
    pub config: Option<Config>,
    pub problems: Vec<Problem>,
    /// What is wrong has to do with the rules: nothing can be said about these.
    rules_touched: bool,
}

impl Look {
    pub fn whole(self) -> Result<Config, ConfigError> {
        match self.config {
            Some(config) if self.problems.is_empty() => Ok(config),
            _ => Err(ConfigError { problems: self.problems }),
        }
    }

    /// The settings, if they say as much about the rules as ones without fault would.
    pub fn with_rules(self) -> Option<Config> {
        self.config.filter(|_| !self.rules_touched)
    }
}

/// Where the settings of the rules stand.
const OF_RULES: [&str; 3] = ["plugin", "plugins", "secrets"];

fn one_problem(at: impl Into<String>, what: impl Into<String>) -> ConfigError {
    ConfigError { problems: vec![Problem { at: at.into(), what: what.into() }] }
}

fn file_text(file: Option<&Path>) -> Result<Option<(String, String)>, ConfigError> {
    let path = file.unwrap_or(Path::new(DEFAULT_FILE));
    let name = path.display().to_string();
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(Some((name, text))),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound && file.is_none() => Ok(None),
        Err(error) => Err(one_problem(name, format!("cannot be read: {error}"))),
    }
}

fn env_text() -> Result<Vec<(String, String)>, ConfigError> {
    let mut found = Vec::new();
    for (name, value) in std::env::vars_os() {
        let Some(name) = name.to_str().filter(|name| name.starts_with(ENV_PREFIX) || aphlict::knows(name)) else {
            continue;
        };
        let value = value.into_string().map_err(|_| one_problem(name, "is not UTF-8"))?;
        found.push((name.to_owned(), value));
    }
    found.sort();
    Ok(found)
}

impl Sources {
    pub fn read(self) -> Result<Config, ConfigError> {
        self.look()?.whole()
    }

    fn look(self) -> Result<Look, ConfigError> {
        let mut reading = Reading::default();
        if let Some((name, text)) = &self.file {
            reading.file(name, text)?;
        }
        for (name, value) in &self.env {
            reading.env(name, value);
        }
        for flag in &self.flags {
            reading.text(flag.key, &flag.value, flag.at);
        }
        Ok(reading.finish())
    }
}

#[derive(Clone, PartialEq, Eq, Debug)]
enum Step {
    Key(String),
    Index(usize),
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Step::Key(key) => f.write_str(key),
            Step::Index(index) => write!(f, "{index}"),
        }
    }
}

fn dotted(path: &[Step]) -> String {
    path.iter().map(Step::to_string).collect::<Vec<_>>().join(".")
}

/// `retention.rules.0.ttl` as people say it: `retention.rules[0].ttl`.
fn spoken(path: &[Step]) -> String {
    let mut text = String::new();
    for step in path {
        match step {
            Step::Key(key) if text.is_empty() => text.push_str(key),
            Step::Key(key) => text.extend([".", key]),
            Step::Index(index) => text.push_str(&format!("[{index}]")),
        }
    }
    text
}

fn steps(key: &str) -> Vec<Step> {
    key.split('.').map(|part| part.parse().map_or_else(|_| Step::Key(part.to_owned()), Step::Index)).collect()
}

/// Where a node of the file stands: its key (or header), and its value.
struct Place {
    key: String,
    value: String,
}

#[derive(Default)]
struct Reading {
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
    fn file(&mut self, name: &str, text: &str) -> Result<(), ConfigError> {
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

    fn env(&mut self, name: &str, value: &str) {
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
    fn text(&mut self, key: &str, value: &str, at: &str) {
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

    fn finish(mut self) -> Look {
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

fn wrong_value(path: &[Step], kind: &Kind) -> String {
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

fn hint(name: &str, known: &[&str]) -> String {
    match near(name, known.iter().copied()) {
        near if !near.is_empty() => near,
        _ if known.is_empty() => String::new(),
        _ => format!("; known are {}", known.join(", ")),
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

/// `; did you mean ping_interval?`, if something is near enough.
fn near<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> String {
    let distance = |other: &str| strsim::damerau_levenshtein(name, other);
    match known.map(|other| (distance(other), other)).min() {
        Some((distance, other)) if distance <= (name.chars().count() / 3).max(1) => format!("; did you mean {other}?"),
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sources(file: &str) -> Sources {
        Sources { file: Some(("aether.toml".into(), file.into())), ..Sources::default() }
    }

    fn env(variables: &[(&str, &str)]) -> Result<Config, ConfigError> {
        let env = variables.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
        Sources { env, ..Sources::default() }.read()
    }

    fn problems(file: &str) -> Vec<String> {
        sources(file).read().unwrap_err().problems.iter().map(Problem::to_string).collect()
    }

    #[test]
    fn an_unknown_key_is_refused_with_its_place_and_the_nearest_key() {
        assert_eq!(
            problems("# one\n\n[websocket]\n  ping_intervall = \"30s\"\n"),
            ["aether.toml:4:3: websocket.ping_intervall is not known here; did you mean ping_interval?"]
        );
        assert_eq!(
            problems("[websockt]\nping_interval = \"30s\"\npong_timeout = \"1m\"\n"),
            ["aether.toml:1:2: websockt is not known here; did you mean websocket?"]
        );
        assert_eq!(problems("[stoer]\n"), ["aether.toml:1:2: stoer is not known here; did you mean store?"]);
        assert_eq!(
            problems("[[retention.rules]]\npattern = \"a\"\nttll = \"1h\"\n"),
            ["aether.toml:3:1: retention.rules[0].ttll is not known here; did you mean ttl?"]
        );
        assert_eq!(
            problems("[retention]\nrules = [{ pattern = \"a\" }, { pattern = \"b\", max = 3 }]\n"),
            [
                "aether.toml:2:46: retention.rules[1].max is not known here; known are pattern, ttl, max_count, max_bytes, \
              history, ack, lag, max_lag"
            ]
        );
        assert_eq!(
            problems("[[plugin]]\nuse = \"a\"\nchanels = []\n"),
            ["aether.toml:3:1: plugin[0].chanels is not known here; did you mean channels?"]
        );
    }

    #[test]
    fn all_faults_are_reported_at_once() {
        let found = problems(
            "[server]\naddr = \"nowhere\"\nmax_payload_size = \"64KB\"\nfront_workers = -1\n\
             [websocket]\nping_interval = 30\npong = 1\nallowed_origins = [\"https://a\", 5, \"b\"]\n\
             [log]\nlevel = \"infos\"\n[limits]\nconnections = 0\n[[retention.rules]]\nttl = \"1h\"\nack = \"sync\"\n",
        );
        let expected = [
            "aether.toml:2:8: server.addr must be an address and a port such as \"127.0.0.1:8080\"",
            "aether.toml:3:20: server.max_payload_size: \"64KB\" is not a size: write one such as 65536, \"64KiB\", \"1MiB\", \"2GiB\"",
            "aether.toml:4:17: server.front_workers must be a whole number, 0 or more, not -1",
            "aether.toml:6:17: websocket.ping_interval: 30 has no unit: write \"30s\" for seconds",
            "aether.toml:7:1: websocket.pong is not known here; known are ping_interval, pong_timeout, max_message_size, compression, compress_from, allowed_origins, first_aether",
            "aether.toml:8:33: websocket.allowed_origins[1] must be a string, not 5",
            "aether.toml:10:9: log.level must be one of error, warn, info, debug, trace, not \"infos\"; did you mean info?",
            "aether.toml:15:7: retention.rules[0].ack must be one of memory, written, synced, not \"sync\"",
            "aether.toml:12:15: limits.connections must be between 1 and 100000000, not 0",
            "aether.toml:13:1: retention.rules[0].pattern is missing: say which channels this rule is for",
        ];
        for line in expected {
            assert!(found.iter().any(|problem| problem == line), "{line}\n  is not among\n{}", found.join("\n"));
        }
        assert_eq!(found.len(), expected.len() + 1, "{}", found.join("\n"));
    }

    #[test]
    fn what_does_not_go_together_is_reported_where_it_was_set() {
        assert_eq!(
            problems("[websocket]\nping_interval = \"2m\"\n"),
            ["aether.toml:2:17: websocket.pong_timeout must not be less than websocket.ping_interval (2m)"]
        );
        assert_eq!(
            problems("[[retention.rules]]\npattern = \"a\"\nhistory = false\nttl = \"1h\"\n"),
            [
                "aether.toml:4:7: retention.rules[0].ttl says how much to keep, but history = false keeps nothing: remove one of them"
            ]
        );
    }

    #[test]
    fn a_file_that_is_not_toml_is_refused_with_its_place() {
        assert!(problems("[server]\naddr = \n")[0].starts_with("aether.toml:2:8: this is not TOML: "));
        assert!(problems("[server]\naddr = \"a\"\naddr = \"b\"\n")[0].starts_with("aether.toml:3:"));
    }

    #[test]
    fn a_file_that_was_named_must_be_there() {
        let error = Config::load(Some(Path::new("/nowhere/aether.toml")), Vec::new()).unwrap_err();
        assert!(error.to_string().starts_with("/nowhere/aether.toml: cannot be read"), "{error}");
    }

    #[test]
    fn flags_win_over_the_environment_and_that_over_the_file() {
        let mut sources = sources("[server]\naddr = \"127.0.0.1:1\"\nfront_workers = 1\ndelivery_workers = 1\n");
        sources.env = vec![
            ("AETHER_SERVER_FRONT_WORKERS".into(), "2".into()),
            ("AETHER_SERVER_DELIVERY_WORKERS".into(), "2".into()),
        ];
        sources.flags = vec![Setting { key: "server.delivery_workers", value: "3".into(), at: "--x" }];
        let server = sources.read().unwrap().server;
        assert_eq!((server.addr.port(), server.front_workers, server.delivery_workers), (1, 2, 3));
    }

    #[test]
    fn an_unknown_variable_is_refused_with_the_nearest_one() {
        assert_eq!(
            env(&[("AETHER_WEBSOCKET_PING_INTERVALL", "1s")]).unwrap_err().to_string(),
            "AETHER_WEBSOCKET_PING_INTERVALL: is not known; did you mean AETHER_WEBSOCKET_PING_INTERVAL?"
        );
        assert_eq!(env(&[("AETHER_X", "1")]).unwrap_err().to_string(), "AETHER_X: is not known");
        assert_eq!(
            env(&[("AETHER_LOG_LEVEL", "loud")]).unwrap_err().to_string(),
            "AETHER_LOG_LEVEL: log.level must be one of error, warn, info, debug, trace, not \"loud\""
        );
        assert_eq!(
            env(&[("AETHER_PUBLISH_QUEUE", "0")]).unwrap_err().to_string(),
            "AETHER_PUBLISH_QUEUE: publish.queue must be between 1 and 1000000, not 0"
        );
    }

    #[test]
    fn a_variable_takes_the_type_of_its_key() {
        let config = env(&[
            ("AETHER_STORE_PATH", "123"),
            ("AETHER_STORE_CACHE_SIZE", "8388608"),
            ("AETHER_PUBLISH_MAX_BATCH", "7"),
            ("AETHER_RETENTION_DEFAULT_MAX_COUNT", "none"),
            ("AETHER_WEBSOCKET_ALLOWED_ORIGINS", "https://a.example, https://b.example"),
            ("AETHER_SECRETS_API_TOKEN", "42"),
            ("AETHER_SERVER_ADDR", ""),
        ])
        .unwrap();
        assert_eq!(config.store.path, Path::new("123"));
        assert_eq!((config.store.cache_size.0, config.publish.max_batch), (8 << 20, 7));
        assert_eq!(config.retention.default_max_count.0, None);
        assert_eq!(config.websocket.allowed_origins, ["https://a.example", "https://b.example"]);
        assert_eq!(config.secrets["api_token"].reveal(), "42");
        assert_eq!(config.server.addr.port(), 8080);
    }

    #[test]
    fn the_operators_listener_is_an_address_or_a_port_of_loopback() {
        let admin = |value: &str| env(&[("AETHER_SERVER_ADMIN_ADDR", value)]).unwrap().server.admin_addr.0;
        assert_eq!(admin("9090"), Some(([127, 0, 0, 1], 9090).into()));
        assert_eq!(admin("0.0.0.0:9090"), Some(([0, 0, 0, 0], 9090).into()));
        assert_eq!((admin("none"), admin("")), (None, None));
        let port = sources("[server]\nadmin_addr = 9090\n").read().unwrap().server.admin_addr.0;
        assert_eq!(port, admin("9090"));
        assert_eq!(
            problems("[server]\nadmin_addr = \"here\"\n"),
            [
                "aether.toml:2:14: server.admin_addr: \"here\" is no address: write \"127.0.0.1:9090\", a port such as 9090, or \"none\""
            ]
        );
        assert!(problems("[server]\nadmin_addr = 8080\n")[0].contains("is server.addr itself"));
    }

    #[test]
    fn a_bad_secret_is_refused_without_being_shown() {
        let found = problems("[secrets]\na = 314159\nb = [\"hunter2\"]\nsigning_key = \"hunter2\"\n").join("\n");
        assert!(found.contains("secrets.a must be a string") && found.contains("at least 32 bytes"), "{found}");
        assert!(!found.contains("314159") && !found.contains("hunter2"), "{found}");
    }

    /// Every leaf of a tree of settings; lists are leaves.
    fn leaves(tree: &Json) -> BTreeMap<String, Json> {
        let mut found = BTreeMap::new();
        for (section, keys) in tree.as_object().unwrap() {
            match keys {
                Json::Object(keys) => {
                    found.extend(keys.iter().map(|(key, value)| (format!("{section}.{key}"), value.clone())));
                }
                value => drop(found.insert(section.clone(), value.clone())),
            }
        }
        found
    }

    #[test]
    fn the_shipped_file_says_every_key_with_its_default() {
        let text = include_str!("../../aether.toml");
        let mut reading = Reading::default();
        reading.file("aether.toml", text).unwrap();
        let said: Vec<_> = leaves(&reading.said).into_keys().collect();
        // Rules are shown by example only: an empty list of them could not be added to.
        let known: Vec<_> = leaves(&defaults()).into_keys().filter(|key| key != "retention.rules").collect();
        assert_eq!(said, known);
        let shipped = serde_json::to_value(sources(text).read().unwrap()).unwrap();
        for (key, default) in leaves(&defaults()) {
            assert_eq!(leaves(&shipped)[&key], default, "{key}");
        }
    }

    #[test]
    fn what_the_shipped_file_shows_in_comments_can_be_switched_on() {
        // Examples are comments that begin with `#: `; switched on, they must be good.
        let text = include_str!("../../aether.toml").replace("#: ", "").replace("#:\n", "\n");
        let config = sources(&text).read().unwrap();
        assert!(!config.retention.rules.is_empty() && config.plugin.len() > 2);
        let rule_keys = serde_json::to_value(super::super::Rule::default()).unwrap();
        for key in rule_keys.as_object().unwrap().keys() {
            assert!(include_str!("../../aether.toml").contains(&format!("#: {key} = ")), "{key} has no example");
        }
    }
}
