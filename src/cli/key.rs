//! `aether key`: a key for a back end. The hub keeps only its SHA-256.

use anyhow::{bail, ensure};
use clap::Args;
use sha2::{Digest, Sha256};
use toml_edit::{Array, InlineTable, Value};

use super::pattern;
use crate::keys::new_api_key;

/// Make a key for a back end
///
/// Prints the key, once, and the lines that belong into aether.toml. They hold its SHA-256, which is no secret.
#[derive(Args)]
#[command(after_help = r#"Example:
  aether key --name shop --publish 'order.*'
  curl -H "Authorization: Bearer $KEY" -d '{"channel":"order.1","payload":{"paid":true}}' \
       http://127.0.0.1:8080/api/v1/publish"#)]
pub struct Key {
    /// What it is called in logs and lists
    #[arg(long)]
    name: String,
    /// Channels that it may publish to, a pattern; may be given many times
    #[arg(long, value_name = "PATTERN", value_parser = pattern)]
    publish: Vec<String>,
    /// Channels that it may subscribe to, a pattern; may be given many times
    #[arg(long, value_name = "PATTERN", value_parser = pattern)]
    subscribe: Vec<String>,
    /// Channels whose history it may read, a pattern; may be given many times
    #[arg(long, value_name = "PATTERN", value_parser = pattern)]
    history: Vec<String>,
    /// It may do everything, and manage the hub
    #[arg(long)]
    admin: bool,
}

impl Key {
    pub fn run(self) -> anyhow::Result<()> {
        ensure!(!self.name.is_empty(), "--name is empty: say who the key is for");
        let grants = self.admin || [&self.publish, &self.subscribe, &self.history].iter().any(|list| !list.is_empty());
        let all = [&self.publish, &self.subscribe, &self.history].into_iter().flatten();
        if let Some(reserved) = all.into_iter().find(|pattern| pattern.starts_with('$')) {
            bail!("{reserved}: names that begin with $ belong to plugins, and no key reaches them");
        }
        ensure!(grants, "this key could do nothing: add --publish, --subscribe, --history or --admin");
        let key = new_api_key()?;
        println!("{}", self.text(&key));
        Ok(())
    }

    fn text(&self, key: &str) -> String {
        format!(
            "{key}\n\n\
             # The key is shown this once. Paste this into aether.toml; if the api-keys plugin is already there, add the\n\
             # {{...}} to its keys. As the first [[plugin]] of a file, put `[[plugin]]` and `use = \"jwt-auth\"` above it,\n\
             # so that subscribers' tokens stay good.\n\
             [[plugin]]\n\
             use = \"api-keys\"\n\
             [plugin.config]\n\
             keys = [{}]",
            self.entry(key)
        )
    }

    fn entry(&self, key: &str) -> InlineTable {
        let digest: String = Sha256::digest(key).iter().map(|byte| format!("{byte:02x}")).collect();
        let mut entry = InlineTable::new();
        entry.insert("name", Value::from(self.name.as_str()));
        entry.insert("sha256", Value::from(digest));
        for (word, patterns) in [("publish", &self.publish), ("subscribe", &self.subscribe), ("history", &self.history)]
        {
            if !patterns.is_empty() {
                entry.insert(word, Value::from(patterns.iter().collect::<Array>()));
            }
        }
        if self.admin {
            entry.insert("admin", Value::from(true));
        }
        entry
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Sources;

    #[test]
    fn the_printed_lines_are_good_settings_and_hold_no_key() {
        let key = Key {
            name: "a \"shop\"".into(),
            publish: vec!["order.*".into(), "b".into()],
            subscribe: Vec::new(),
            history: vec!["order.*".into()],
            admin: true,
        };
        let text = key.text("aek_test");
        let settings = text.strip_prefix("aek_test\n\n").unwrap();
        assert!(!settings.contains("aek_test"));
        let config =
            Sources { file: Some(("aether.toml".into(), settings.into())), ..Sources::default() }.read().unwrap();
        let entry = &config.plugin[0].config["keys"][0];
        let expected = serde_json::json!({
            "name": "a \"shop\"",
            "sha256": "be7e1b582b26120f3a3b2493d3b0b11c62d9661e43988e1cf5752d779814bb85",
            "publish": ["order.*", "b"],
            "history": ["order.*"],
            "admin": true,
        });
        assert_eq!(entry, &expected);
        assert!(entry.get("subscribe").is_none());
    }
}
