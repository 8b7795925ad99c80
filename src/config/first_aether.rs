//! What the first Aether called its settings, and what became of each.
//!
//! Its other keys (`server.addr`, `websocket.ping_interval`, `retention.default_ttl` ...) are ours.

use std::collections::BTreeMap;

use serde_json::{Map, Value as Json, json};
use sha2::{Digest, Sha256};

use super::{Config, Plugin};

/// What became of a setting.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Became {
    /// It has another name.
    Key(&'static str),
    /// It is a setting of a plugin now.
    Plugin(&'static str, &'static str),
    /// `auth.api_keys`, a list of tables.
    Keys,
    /// Nothing, and why none is needed.
    Nothing(&'static str),
}

const STORE: &str = "this hub keeps everything in store.path, and needs no database";

const FORMERLY: [(&str, Became); 10] = [
    ("auth.jwt_signing_key", Became::Key("secrets.signing_key")),
    ("auth.jwt_clock_skew", Became::Plugin("jwt-auth", "leeway")),
    ("auth.api_keys", Became::Keys),
    ("database.dsn", Became::Nothing(STORE)),
    ("database.max_open_conns", Became::Nothing(STORE)),
    ("database.max_idle_conns", Became::Nothing(STORE)),
    ("database.conn_max_idle_time", Became::Nothing(STORE)),
    ("database.conn_max_lifetime", Became::Nothing(STORE)),
    ("retention.eviction_interval", Became::Key("store.sweep_interval")),
    (
        "websocket.outbound_buffer",
        Became::Nothing("a subscriber is a position in its channels, and has no queue that could be full"),
    ),
];

/// Its shortest key, and what one was made of.
const KEY_LENGTH: usize = 43;

pub fn became(key: &str) -> Option<Became> {
    FORMERLY.iter().find(|(name, _)| *name == key).map(|(_, became)| *became)
}

pub fn keys() -> impl Iterator<Item = &'static str> {
    FORMERLY.iter().map(|(key, _)| *key)
}

/// One of `auth.api_keys`, as far as it has been read.
#[derive(Default)]
struct ApiKey {
    /// SHA-256 of the key: nothing else of it is kept.
    sha256: Option<String>,
    description: String,
    at: String,
}

/// What was said in the first Aether's words and belongs to plugins, until these are known.
#[derive(Default)]
pub struct Formerly {
    settings: Vec<(&'static str, &'static str, Json, String)>,
    keys: BTreeMap<usize, ApiKey>,
}

/// Where it stands, and what is wrong.
type Wrong = (String, String);

impl Formerly {
    pub fn setting(&mut self, plugin: &'static str, name: &'static str, value: Json, at: String) {
        self.settings.push((plugin, name, value, at));
    }

    /// A field of the key at `index`; what is wrong with it, if something is. The key itself is never shown.
    pub fn key(&mut self, index: usize, field: &str, value: &Json, at: String) -> Result<(), String> {
        let key = self.keys.entry(index).or_insert_with(|| ApiKey { at, ..ApiKey::default() });
        match (field, value.as_str()) {
            ("key", Some(text)) => {
                let made_of = |b: u8| b.is_ascii_alphanumeric() || b == b'_' || b == b'-';
                // A key that is no good is not missing.
                key.sha256 = Some(hex(&Sha256::digest(text)));
                if text.len() < KEY_LENGTH || !text.bytes().all(made_of) {
                    return Err(format!("must have at least {KEY_LENGTH} characters of A-Z a-z 0-9 _ -"));
                }
            }
            ("description", Some(text)) => text.clone_into(&mut key.description),
            ("key", None) => {
                key.sha256 = Some(String::new());
                return Err("must be a string".into());
            }
            ("description", None) => return Err("must be a string".into()),
            _ => return Err("is not known here; known are key, description".into()),
        }
        Ok(())
    }

    /// Gives the plugins what is theirs.
    pub fn settle(self, config: &mut Config) -> Result<(), Vec<Wrong>> {
        let mut wrong = Vec::new();
        for (plugin, name, value, at) in self.settings {
            match in_use(config, plugin) {
                Some(plugin) => {
                    plugin.places.insert(name.to_owned(), at);
                    plugin.config.insert(name.to_owned(), value);
                }
                None => wrong.push((at, format!("this is a setting of the plugin {plugin}, which is not in use"))),
            }
        }
        let mut names: Vec<String> = Vec::new();
        for (index, key) in self.keys {
            let Some(sha256) = key.sha256 else {
                wrong.push((key.at, format!("auth.api_keys[{index}].key is missing")));
                continue;
            };
            let mut name = key.description;
            if name.is_empty() {
                name = format!("config-key-{index}");
            }
            if names.contains(&name) {
                name = format!("{name}-{index}");
            }
            names.push(name.clone());
            let Some(plugin) = in_use(config, "api-keys") else {
                wrong.push((key.at, "keys are known by the plugin api-keys, which is not in use".into()));
                continue;
            };
            let keys = plugin.config.entry("keys").or_insert_with(|| json!([]));
            // Each of them could do everything, and was an admin's.
            let all = json!(["*"]);
            if let Some(keys) = keys.as_array_mut() {
                plugin.places.insert(format!("keys.{}", keys.len()), key.at);
                keys.push(Json::Object(Map::from_iter([
                    ("name".to_owned(), json!(name)),
                    ("sha256".to_owned(), json!(sha256)),
                    ("publish".to_owned(), all.clone()),
                    ("subscribe".to_owned(), all.clone()),
                    ("history".to_owned(), all),
                    ("admin".to_owned(), json!(true)),
                ])));
            }
        }
        if wrong.is_empty() { Ok(()) } else { Err(wrong) }
    }
}

fn in_use<'a>(config: &'a mut Config, name: &str) -> Option<&'a mut Plugin> {
    config.plugin.iter_mut().find(|plugin| plugin.name == name)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::super::Sources;
    use super::*;

    fn read(file: &str, env: &[(&str, &str)]) -> Result<Config, String> {
        let env = env.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
        let file = Some(("aether.toml".to_owned(), file.to_owned()));
        Sources { file, env, ..Sources::default() }.read().map_err(|error| error.to_string())
    }

    const KEY: &str = "aek_AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8";

    #[test]
    fn its_names_mean_here_what_they_meant_there() {
        let config = read(
            "[server]\naddr = \":8090\"\n[auth]\njwt_signing_key = \"0123456789abcdef0123456789abcdef\"\njwt_clock_skew = \"45s\"\n\
             [websocket]\noutbound_buffer = 256\nping_interval = \"20s\"\n\
             [retention]\ndefault_ttl = \"1.5h\"\neviction_interval = \"5m\"\n[[retention.rules]]\npattern = \"a.*\"\nttl = \"1h0m0s\"\nmax_count = 7\n\
             [database]\ndsn = \"postgres://aether:hunter2@db/aether\"\nmax_open_conns = 25\n",
            &[],
        )
        .unwrap();
        assert_eq!(config.server.addr, ([0, 0, 0, 0], 8090).into());
        assert_eq!(config.secrets["signing_key"].reveal(), "0123456789abcdef0123456789abcdef");
        assert_eq!(config.plugin[0].config["leeway"], "45s");
        assert_eq!(config.plugin[0].places["leeway"], "aether.toml:5:18");
        assert_eq!(config.store.sweep_interval.to_string(), "5m");
        assert_eq!(config.retention.default_ttl.0.unwrap().to_string(), "1h30m");
        assert_eq!(
            config.notes,
            [
                "aether.toml:7:19: websocket.outbound_buffer does nothing here: a subscriber is a position in its channels, and has no queue that could be full",
                "aether.toml:17:7: database.dsn does nothing here: this hub keeps everything in store.path, and needs no database",
                "aether.toml:18:18: database.max_open_conns does nothing here: this hub keeps everything in store.path, and needs no database",
            ]
        );
    }

    #[test]
    fn its_environment_is_understood_and_wins_over_the_file() {
        let config = read(
            "[auth]\njwt_clock_skew = \"45s\"\n",
            &[
                ("AETHER_AUTH_JWT_CLOCK_SKEW", "10s"),
                ("AETHER_AUTH_JWT_SIGNING_KEY", "0123456789012345678901234567890123456789"),
                ("AETHER_DATABASE_DSN", "postgres://aether:hunter2@db/aether"),
                ("AETHER_RETENTION_EVICTION_INTERVAL", "1m"),
                ("AETHER_SERVER_ADDR", ":9000"),
                ("AETHER_WEBSOCKET_OUTBOUND_BUFFER", ""),
            ],
        )
        .unwrap();
        assert_eq!(config.plugin[0].config["leeway"], "10s");
        assert_eq!(config.secrets["signing_key"].reveal(), "0123456789012345678901234567890123456789");
        assert_eq!((config.store.sweep_interval.to_string(), config.server.addr.port()), ("1m".into(), 9000));
        assert_eq!(config.notes.len(), 1);
        assert!(!config.notes[0].contains("hunter2"), "{:?}", config.notes);
    }

    #[test]
    fn its_keys_may_do_here_what_they_could_do_there_and_only_their_hash_is_kept() {
        let file = format!(
            "[auth]\napi_keys = [{{ key = \"{KEY}\", description = \"shop\" }}, {{ key = \"{KEY}x\", description = \"shop\" }}, \
             {{ key = \"{KEY}y\" }}]\n[[plugin]]\nuse = \"api-keys\"\n[plugin.config]\nkeys = [{{ name = \"own\", sha256 = \"00\" }}]\n"
        );
        let config = read(&file, &[]).unwrap();
        let keys = config.plugin[0].config["keys"].as_array().unwrap();
        let names: Vec<_> = keys.iter().map(|key| key["name"].as_str().unwrap()).collect();
        assert_eq!(names, ["own", "shop", "shop-1", "config-key-2"]);
        let hash = "a367240204f98aaff0e54a180e09e2f1684df29d84649a4e4283ab413dc39285";
        let all = json!(["*"]);
        assert_eq!(
            keys[1],
            json!({"name": "shop", "sha256": hash, "publish": all, "subscribe": all, "history": all, "admin": true})
        );
        assert!(!format!("{config:?}").contains(KEY));
    }

    #[test]
    fn what_is_wrong_with_them_is_told_in_its_words_and_without_the_key() {
        let said = read(
            "[auth]\njwt_signing_key = \"short\"\njwt_clockskew = \"1s\"\n[[auth.api_keys]]\nkey = \"hunter2\"\n[[auth.api_keys]]\ndescription = \"a\"\n\
             [[auth.api_keys]]\nkey = 5\nkeyy = \"x\"\n",
            &[],
        )
        .unwrap_err();
        for line in [
            "aether.toml:2:19: secrets.signing_key must have at least 32 bytes",
            "aether.toml:3:1: auth.jwt_clockskew is not known here; did you mean jwt_clock_skew?",
            "aether.toml:5:7: auth.api_keys[0].key must have at least 43 characters",
            "aether.toml:7:15: auth.api_keys[1].key is missing",
            "aether.toml:9:7: auth.api_keys[2].key must be a string",
            "aether.toml:10:8: auth.api_keys[2].keyy is not known here; known are key, description",
        ] {
            assert!(said.contains(line), "{line}\nis not in\n{said}");
        }
        assert!(!said.contains("hunter2"), "{said}");
        let unused = read("[auth]\njwt_clock_skew = \"1s\"\n[[plugin]]\nuse = \"api-keys\"\n", &[]).unwrap_err();
        assert_eq!(unused, "aether.toml:2:18: this is a setting of the plugin jwt-auth, which is not in use");
    }
}
