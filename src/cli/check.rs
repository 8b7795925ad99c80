//! `aether check`: everything that is wrong with the settings and the plugins, without starting or writing anything.

use anyhow::bail;
use clap::Args;

use super::Settings;
use crate::config::Config;
use crate::keys::Keys;

/// Say everything that is wrong with the settings and the plugins
#[derive(Args)]
pub struct Check {
    #[command(flatten)]
    settings: Settings,
}

impl Check {
    pub fn run(self) -> anyhow::Result<()> {
        let config = self.settings.load(Vec::new())?;
        let keys = Keys::rehearse(&config)?;
        crate::server::certificates(&config)?;
        let problems = plugin_problems(&config, &keys);
        for problem in &problems {
            eprintln!("{problem}");
        }
        match problems.len() {
            0 => println!("{}", summary(&config)),
            1 => bail!("one problem"),
            count => bail!("{count} problems"),
        }
        Ok(())
    }
}

/// Each problem is a line that begins with its place.
fn plugin_problems(config: &Config, keys: &Keys) -> Vec<String> {
    crate::server::load_plugins(config, keys).err().map_or_else(Vec::new, |error| error.0)
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
