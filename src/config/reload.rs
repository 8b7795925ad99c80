//! What a running hub takes from settings that have changed, and what waits for its next start.

use serde_json::Value as Json;

use super::{Config, Plugins};

impl Config {
    /// These settings with what a reload takes from `next`: plugins, secrets and retention. And a line for each setting
    /// that differs and is not taken.
    pub fn reload(&self, next: Config) -> (Config, Vec<String>) {
        let plugins = Plugins {
            watch: self.plugins.watch,
            // Threads are added, and never ended.
            waiting_threads: self.plugins.waiting_threads.max(next.plugins.waiting_threads),
            ..next.plugins.clone()
        };
        let wanted = as_json(&next);
        let Config { retention, secrets, plugin, .. } = next;
        let taken = Config { retention, secrets, plugin, plugins, ..self.clone() };
        let mut waiting = Vec::new();
        compare(&as_json(&taken), &wanted, &mut String::new(), &mut waiting);
        (taken, waiting)
    }
}

fn as_json(config: &Config) -> Json {
    serde_json::to_value(config).unwrap_or_default()
}

fn compare(is: &Json, wanted: &Json, path: &mut String, waiting: &mut Vec<String>) {
    if let (Json::Object(is), Json::Object(wanted)) = (is, wanted) {
        for (key, wanted) in wanted {
            let length = path.len();
            *path += if path.is_empty() { "" } else { "." };
            *path += key;
            compare(is.get(key).unwrap_or(&Json::Null), wanted, path, waiting);
            path.truncate(length);
        }
    } else if is != wanted {
        waiting.push(format!("{path} = {wanted}, until then it is {is}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Sources;

    fn read(text: &str) -> Config {
        Sources { file: Some(("aether.toml".into(), text.into())), ..Sources::default() }.read().unwrap()
    }

    #[test]
    fn rules_secrets_and_retention_are_taken_and_the_rest_is_told() {
        let first = read("[store]\npath = \"here\"\n[plugins]\nwaiting_threads = 4");
        let next = read(
            "plugin = []\n[secrets]\nx = \"hidden\"\n[retention]\ndefault_max_count = 7\n[plugins]\nwatch = true\nwaiting_calls = 5\n\
             [store]\npath = \"there\"\n[websocket]\nallowed_origins = [\"*\"]\n[server]\naddr = \"127.0.0.1:9090\"",
        );
        let (taken, waiting) = first.reload(next);
        let expected = [
            "plugins.waiting_threads = 2, until then it is 4",
            "plugins.watch = true, until then it is false",
            "server.addr = \"127.0.0.1:9090\", until then it is \"127.0.0.1:8080\"",
            "store.path = \"there\", until then it is \"here\"",
            "websocket.allowed_origins = [\"*\"], until then it is []",
        ];
        assert_eq!(waiting, expected);
        assert!(taken.plugin.is_empty() && taken.secrets.contains_key("x") && taken.plugins.waiting_calls == 5);
        assert_eq!(
            (taken.store.path.to_str(), taken.retention.default_max_count.0.map(|count| count.0)),
            (Some("here"), Some(7))
        );
        assert_eq!(first.reload(first.clone()).1, [""; 0]);
    }
}
