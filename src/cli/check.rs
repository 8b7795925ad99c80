//! `aether check`: everything that is wrong with the settings and the plugins, without starting or writing anything.

use anyhow::bail;
use clap::Args;
use serde_json::{Value as Json, json};

use super::{AlreadyTold, Settings, print};
use crate::config::{Config, Problem};
use crate::keys::Keys;
use crate::plugins::{Finding, Severity};

/// Say everything that is wrong with the settings and the plugins
#[derive(Args)]
#[command(after_help = "Errors exit 1. Warnings (what can never run, what gets lost, what nobody uses) exit 0.")]
pub struct Check {
    /// Take warnings for errors
    #[arg(long)]
    strict: bool,
    /// One JSON object instead of lines
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    settings: Settings,
}

impl Check {
    pub fn run(self) -> anyhow::Result<()> {
        let (mut errors, mut warnings) = (Vec::new(), Vec::new());
        let config = match self.settings.look(Vec::new()) {
            Ok(look) => {
                errors.extend(look.problems.iter().map(Problem::to_string));
                look.with_rules()
            }
            Err(error) => {
                errors.extend(error.problems.iter().map(Problem::to_string));
                None
            }
        };
        // A fault of the settings hides none of the plugins, as far as one can know.
        if let Some(config) = &config {
            if self.strict { &mut errors } else { &mut warnings }.extend(config.notes.iter().cloned());
            errors.extend(crate::server::certificates(config).err().map(|error| format!("{error:#}")));
            self.check_rules(config, &mut errors, &mut warnings);
        }
        if self.json {
            let [wrong, odd] =
                [&errors, &warnings].map(|lines| lines.iter().map(|line| placed(line)).collect::<Vec<_>>());
            print(format!("{:#}\n", json!({"ok": wrong.is_empty(), "errors": wrong, "warnings": odd})).as_bytes())?;
            return if errors.is_empty() { Ok(()) } else { Err(AlreadyTold.into()) };
        }
        for line in errors.iter().chain(&warnings) {
            eprintln!("{line}");
        }
        match (errors.len(), config) {
            (0, config) => println!("{}", config.as_ref().map_or_else(String::new, summary)),
            (1, _) => bail!("one problem"),
            (count, _) => bail!("{count} problems"),
        }
        Ok(())
    }

    fn check_rules(&self, config: &Config, errors: &mut Vec<String>, warnings: &mut Vec<String>) {
        let keys = match Keys::rehearse(config) {
            Ok(keys) => keys,
            Err(error) => return errors.push(error.to_string()),
        };
        match crate::server::load_plugins(config, &keys) {
            Err(error) => errors.extend(error.0),
            Ok(host) => {
                let is_error = |finding: &Finding| self.strict || finding.severity == Severity::Error;
                let (wrong, odd): (Vec<_>, Vec<_>) = host.findings().into_iter().partition(is_error);
                errors.extend(wrong.iter().map(Finding::to_string));
                warnings.extend(odd.iter().map(Finding::to_string));
            }
        }
    }
}

/// A line that begins with its place, taken apart.
fn placed(line: &str) -> Json {
    match line.split_once(": ") {
        Some((place, why)) if place.contains(':') => json!({"place": place, "why": why}),
        _ => json!({"place": null, "why": line}),
    }
}

fn summary(config: &Config) -> String {
    let plugins: Vec<_> = config.plugin.iter().map(|plugin| plugin.name.as_str()).collect();
    format!(
        "ok: would listen on {}, keep messages in {}, with {} retention rules and {}",
        config.server.addr,
        config.store.path.display(),
        config.retention.rules.len(),
        if plugins.is_empty() {
            "no plugins: the scripts alone decide who gets in".into()
        } else {
            format!("plugins {}", plugins.join(", "))
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_summary_says_what_would_run() {
        assert_eq!(
            summary(&Config::default()),
            "ok: would listen on 127.0.0.1:8080, keep messages in data, with 0 retention rules and plugins jwt-auth, api-keys"
        );
    }
}
