//! `aether serve`: the hub itself.

use std::sync::Arc;

use clap::Args;

use super::Settings;
use crate::config::Setting;

/// Start the hub (what `aether` alone does)
#[derive(Args)]
pub struct Serve {
    #[command(flatten)]
    settings: Settings,
    /// Where to listen (server.addr)
    #[arg(long, value_name = "IP:PORT")]
    pub addr: Option<String>,
    /// How much to say: error, warn, info, debug, trace (log.level)
    #[arg(long, value_name = "LEVEL")]
    log_level: Option<String>,
    /// How to say it: text or json (log.format)
    #[arg(long, value_name = "FORMAT")]
    log_format: Option<String>,
}

impl Serve {
    pub fn run(self) -> anyhow::Result<()> {
        let flags = [
            ("server.addr", self.addr, "--addr"),
            ("log.level", self.log_level, "--log-level"),
            ("log.format", self.log_format, "--log-format"),
        ];
        let given = flags.into_iter().filter_map(|(key, value, at)| Some(Setting { key, value: value?, at }));
        let given: Vec<_> = given.collect();
        let config = self.settings.load(given.clone())?;
        let settings = self.settings;
        crate::server::run(config, Arc::new(move || settings.load(given.clone())))
    }
}
