//! `plugin.toml`: who a plugin is, what it may do and what can be set. Read without running any of its code.

use std::ops::Range;
use std::path::Path;

use serde_json::Value as Json;
use toml_edit::{ImDocument, Item, TableLike, Value};

use super::schema::{self, Knob, Schema, Type, hint};
use crate::kernel::pattern::{Pattern, Patterns};
use crate::plugins::answering::route::PathPattern;
use crate::plugins::waiting::http::allow::UrlPattern;

#[derive(Clone, Debug, Default)]
pub struct Manifest {
    pub name: String,
    pub version: String,
    pub description: String,
    pub permissions: Permissions,
    pub config: Schema,
}

/// What is not listed here is not there for the plugin.
#[derive(Clone, Debug, Default)]
pub struct Permissions {
    pub channels: Patterns,
    pub secrets: Vec<String>,
    pub kv: Vec<String>,
    pub shared: Vec<String>,
    pub http: Vec<UrlPattern>,
    pub routes: Vec<PathPattern>,
    pub sessions: Vec<String>,
    /// The dialects that it may speak.
    pub dialects: Vec<String>,
    /// Whether it may have listeners of its own.
    pub listen: bool,
}

/// Known to the manifest's grammar; the later ones wait for the modules they open.
const PERMISSIONS: [&str; 9] =
    ["http", "kv", "shared", "secrets", "channels", "routes", "sessions", "dialects", "listen"];
/// What a plugin may do with sessions.
const SESSIONS: [&str; 3] = ["list", "kick", "announce"];

impl Manifest {
    pub fn read(path: &Path, shown: &str) -> Result<Manifest, Vec<String>> {
        let text = std::fs::read_to_string(path).map_err(|e| vec![format!("{shown}: {e}")])?;
        Self::parse(&text, shown)
    }

    /// `shown` is the file's name in messages.
    pub fn parse(text: &str, shown: &str) -> Result<Manifest, Vec<String>> {
        let mut reader = Reader { text, shown, errors: Vec::new() };
        let mut manifest = Manifest::default();
        match ImDocument::parse(text) {
            Ok(document) => manifest.fill(&mut reader, document.as_table()),
            Err(error) => reader.error(error.span(), error.message()),
        }
        if reader.errors.is_empty() { Ok(manifest) } else { Err(reader.errors) }
    }

    fn fill(&mut self, reader: &mut Reader<'_>, root: &dyn TableLike) {
        reader.known(root, "", &["plugin", "permissions", "config"]);
        match root.get("plugin").and_then(Item::as_table_like) {
            Some(plugin) => {
                reader.known(plugin, "plugin.", &["name", "version", "aether", "description"]);
                self.name = reader.string(plugin, "name").unwrap_or_default();
                self.version = reader.string(plugin, "version").unwrap_or_default();
                self.description = reader.string(plugin, "description").unwrap_or_default();
                for (key, value) in [("name", &self.name), ("version", &self.version)] {
                    if value.is_empty() {
                        reader.error(root.get("plugin").and_then(Item::span), &format!("plugin.{key} is missing"));
                    }
                }
                if let Some(range) = reader.string(plugin, "aether")
                    && let Err(why) = satisfies(env!("CARGO_PKG_VERSION"), &range)
                {
                    reader.error(plugin.get("aether").and_then(Item::span), &format!("plugin.aether: {why}"));
                }
            }
            None => reader.error(Some(0..0), "the table [plugin] with name and version is missing"),
        }
        if let Some(permissions) = root.get("permissions").and_then(Item::as_table_like) {
            reader.known(permissions, "permissions.", &PERMISSIONS);
            let mut names =
                |key: &str| reader.strings(permissions, key).into_iter().map(|(name, _)| name).collect::<Vec<_>>();
            self.permissions.secrets = names("secrets");
            self.permissions.kv = names("kv");
            self.permissions.shared = names("shared");
            self.permissions.dialects = names("dialects");
            if let Some(listen) = permissions.get("listen") {
                self.permissions.listen = listen.as_bool().unwrap_or_else(|| {
                    reader.error(listen.span(), "permissions.listen: expected true or false");
                    false
                });
            }
            for (word, span) in reader.strings(permissions, "sessions") {
                if SESSIONS.contains(&word.as_str()) {
                    self.permissions.sessions.push(word);
                } else {
                    let why = format!(
                        "permissions.sessions: {word:?} is none of {}{}",
                        SESSIONS.join(", "),
                        hint(&word, SESSIONS)
                    );
                    reader.error(span, &why);
                }
            }
            for (text, span) in reader.strings(permissions, "http") {
                match UrlPattern::parse(&text) {
                    Ok(pattern) => self.permissions.http.push(pattern),
                    Err(error) => reader.error(span, &format!("permissions.http: {error}")),
                }
            }
            for (text, span) in reader.strings(permissions, "routes") {
                match PathPattern::parse(&text) {
                    Ok(path) => self.permissions.routes.push(path),
                    Err(why) => reader.error(span, &format!("permissions.routes: {why}")),
                }
            }
            for (text, span) in reader.strings(permissions, "channels") {
                match Pattern::parse(&text) {
                    Ok(pattern) => self.permissions.channels.extend([pattern]),
                    Err(error) => reader.error(span, &format!("permissions.channels: {error}")),
                }
            }
        }
        if let Some(config) = root.get("config") {
            self.config = reader.schema(config, "config");
        }
    }
}

struct Reader<'a> {
    text: &'a str,
    shown: &'a str,
    errors: Vec<String>,
}

impl Reader<'_> {
    fn error(&mut self, span: Option<Range<usize>>, message: &str) {
        let before = &self.text[..span.map_or(0, |span| span.start).min(self.text.len())];
        let line = before.matches('\n').count() + 1;
        let column = before.len() - before.rfind('\n').map_or(0, |at| at + 1) + 1;
        self.errors.push(format!("{}:{line}:{column}: {message}", self.shown));
    }

    fn known(&mut self, table: &dyn TableLike, path: &str, known: &[&str]) {
        for (key, _) in table.iter().filter(|(key, _)| !known.contains(key)) {
            self.error(
                table.key(key).and_then(|key| key.span()),
                &format!("{path}{key} is not known here{}", hint(key, known)),
            );
        }
    }

    fn string(&mut self, table: &dyn TableLike, key: &str) -> Option<String> {
        let item = table.get(key)?;
        if item.as_str().is_none() {
            self.error(item.span(), &format!("{key}: expected a string, got {}", item.type_name()));
        }
        item.as_str().map(str::to_owned)
    }

    fn strings(&mut self, table: &dyn TableLike, key: &str) -> Vec<(String, Option<Range<usize>>)> {
        let Some(item) = table.get(key) else { return Vec::new() };
        let list = item.as_array().and_then(|list| {
            list.iter().map(|value| Some((value.as_str()?.to_owned(), value.span()))).collect::<Option<Vec<_>>>()
        });
        list.unwrap_or_else(|| {
            self.error(item.span(), &format!("{key}: expected a list of strings"));
            Vec::new()
        })
    }

    fn schema(&mut self, item: &Item, path: &str) -> Schema {
        let Some(table) = item.as_table_like() else {
            self.error(item.span(), &format!("{path}: expected a table of settings"));
            return Schema::new();
        };
        table
            .iter()
            .filter_map(|(key, item)| Some((key.to_owned(), self.knob(item, &format!("{path}.{key}"))?)))
            .collect()
    }

    fn knob(&mut self, item: &Item, path: &str) -> Option<Knob> {
        let Some(table) = item.as_table_like() else {
            self.error(item.span(), &format!("{path}: expected a table with type, default and doc"));
            return None;
        };
        self.known(table, &format!("{path}."), &["type", "default", "required", "min", "max", "doc", "fields"]);
        let fields =
            table.get("fields").map(|fields| self.schema(fields, &format!("{path}.fields"))).unwrap_or_default();
        let Some(name) = self.string(table, "type") else {
            self.error(item.span(), &format!("{path}.type is missing"));
            return None;
        };
        let kind = match Type::parse(&name, &fields) {
            Ok(kind) => kind,
            Err(why) => {
                self.error(table.get("type").and_then(Item::span), &format!("{path}.type: {why}"));
                return None;
            }
        };
        let default = table.get("default").and_then(Item::as_value).map(json);
        let knob = Knob {
            min: table.get("min").and_then(|item| number(&kind, item)),
            max: table.get("max").and_then(|item| number(&kind, item)),
            required: table.get("required").and_then(Item::as_bool).unwrap_or(false),
            doc: self.string(table, "doc").unwrap_or_default(),
            kind,
            default: default.clone(),
        };
        if let Some(default) = default {
            let mut wrong = Vec::new();
            let only = Schema::from([("default".to_owned(), Knob { default: Some(default), ..knob.clone() })]);
            schema::check(&only, &serde_json::Map::new(), path, &mut wrong);
            for why in wrong {
                self.error(table.get("default").and_then(Item::span), &why);
            }
        }
        Some(knob)
    }
}

/// A bound in the unit that the checked setting has: seconds for a duration.
fn number(kind: &Type, item: &Item) -> Option<f64> {
    let value = json(item.as_value()?);
    if *kind == Type::Duration { schema::read_duration(&value).map(|d| d.as_secs_f64()) } else { value.as_f64() }
}

fn json(value: &Value) -> Json {
    match value {
        Value::String(text) => Json::String(text.value().clone()),
        Value::Integer(n) => Json::from(*n.value()),
        Value::Float(n) => Json::from(*n.value()),
        Value::Boolean(b) => Json::Bool(*b.value()),
        Value::Datetime(time) => Json::String(time.value().to_string()),
        Value::Array(list) => list.iter().map(json).collect(),
        Value::InlineTable(table) => table.iter().map(|(key, value)| (key.to_owned(), json(value))).collect(),
    }
}

/// Whether `version` is within `range`, like `>=0.1, <0.2`.
fn satisfies(version: &str, range: &str) -> Result<(), String> {
    let numbers = |text: &str| -> Option<[u64; 3]> {
        let mut parts = text.trim().split('.').map(str::parse);
        let mut next = || parts.next().unwrap_or(Ok(0)).ok();
        let found = [next()?, next()?, next()?];
        parts.next().is_none().then_some(found)
    };
    let own = numbers(version).ok_or("our own version is not a version")?;
    for bound in range.split(',').map(str::trim) {
        let digits = bound.find(|c: char| c.is_ascii_digit()).unwrap_or(bound.len());
        let (operator, wanted) = bound.split_at(digits);
        let wanted = numbers(wanted).ok_or_else(|| format!("{bound:?} is not a bound like \">=0.1\""))?;
        let holds = match operator.trim() {
            ">=" => own >= wanted,
            ">" => own > wanted,
            "<=" => own <= wanted,
            "<" => own < wanted,
            "=" | "" => own == wanted,
            other => return Err(format!("{other:?} is none of >= > <= < =")),
        };
        if !holds {
            return Err(format!("it wants {range}, and this is {version}"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const GOOD: &str = r#"
[plugin]
name = "acl"
version = "1.2.0"
aether = ">=0.1, <0.2"

[permissions]
secrets = ["k"]
channels = ["room.*"]

[config.msgs_per_sec]
type = "number"
default = 5
min = 0.1
max = 100
doc = "Messages one user may send"

[config.wait]
type = "duration"
default = "30s"
max = "1m"

[config.keys]
type = "list<record>"
[config.keys.fields.name]
type = "string"
required = true
doc = "who"
"#;

    fn settings(given: serde_json::Value) -> Vec<String> {
        let manifest = Manifest::parse(GOOD, "plugin.toml").unwrap();
        let mut errors = Vec::new();
        schema::check(&manifest.config, given.as_object().unwrap(), "", &mut errors);
        errors
    }

    #[test]
    fn a_good_manifest_is_read() {
        let manifest = Manifest::parse(GOOD, "plugin.toml").unwrap();
        assert_eq!((manifest.name.as_str(), manifest.version.as_str()), ("acl", "1.2.0"));
        assert_eq!(manifest.permissions.secrets, ["k"]);
        assert!(manifest.permissions.channels.matches("room.1"));
        assert_eq!(manifest.config["msgs_per_sec"].max, Some(100.0));
    }

    #[test]
    fn a_bad_manifest_names_line_column_path_and_the_nearest_key_for_every_fault() {
        let text =
            GOOD.replace("secrets =", "secrts =").replace("default = 5", "default = 500").replace("room.*", "ro*om");
        let errors = Manifest::parse(&text, "p/plugin.toml").unwrap_err();
        assert_eq!(errors.len(), 3, "{errors:?}");
        assert_eq!(errors[0], "p/plugin.toml:8:1: permissions.secrts is not known here; did you mean secrets?");
        assert!(errors[1].starts_with("p/plugin.toml:9:13: permissions.channels: pattern \"ro*om\""), "{errors:?}");
        assert!(
            errors[2].contains("p/plugin.toml:13:11: config.msgs_per_sec.default: 500 is more than the most, 100"),
            "{errors:?}"
        );
        let error = Manifest::parse("[plugin\n", "p").unwrap_err();
        assert!(error[0].starts_with("p:1:8:"), "{error:?}");
        assert!(Manifest::parse("", "p").unwrap_err()[0].contains("[plugin]"));
        let old = GOOD.replace("<0.2", "<0.1");
        assert!(Manifest::parse(&old, "p").unwrap_err()[0].contains("it wants"));
    }

    #[test]
    fn settings_are_checked_to_their_last_field() {
        assert!(settings(json!({"msgs_per_sec": 7, "wait": "10s", "keys": [{"name": "a"}]})).is_empty());
        assert_eq!(
            settings(json!({"msgs_per_second": 7})),
            ["msgs_per_second is not known here; did you mean msgs_per_sec?"]
        );
        assert_eq!(settings(json!({"keys": [{"nme": "a"}]})).len(), 2);
        assert_eq!(settings(json!({"keys": [{"name": 1}]})), ["keys[1].name: expected a string, got 1"]);
        assert_eq!(settings(json!({"wait": "2m"})), ["wait: \"2m\" is more than the most, 60"]);
        assert_eq!(settings(json!({"keys": [{}]})), ["keys[1].name is required (who)"]);
    }
}
