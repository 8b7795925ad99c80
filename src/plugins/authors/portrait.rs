//! A plugin as its author or its operator looks at it: what it is, may do, can be set to and listens to.

use std::path::Path;
use std::sync::Arc;

use serde_json::{Map, Value as Json};

use crate::plugins::source::manifest::Manifest;
use crate::plugins::{Host, HostConfig, PluginUse};

#[derive(Default, Debug)]
pub struct Portrait {
    pub name: String,
    pub version: String,
    pub description: String,
    pub permissions: Vec<String>,
    pub settings: Vec<String>,
    /// Each with its `file:line`.
    pub hooks: Vec<String>,
    /// Why it does not load.
    pub wrong: Vec<String>,
}

impl Portrait {
    /// Loads the plugin as it would be with these settings; nothing of it runs beyond its loading.
    pub fn of(dir: &Path, config: Map<String, Json>) -> Portrait {
        let shown = dir.display().to_string();
        let manifest = match Manifest::read(&dir.join("plugin.toml"), &format!("{shown}/plugin.toml")) {
            Ok(manifest) => manifest,
            Err(wrong) => return Portrait { name: shown, wrong, ..Portrait::default() },
        };
        let setting = |(name, knob): (&String, &crate::plugins::source::schema::Knob)| {
            let default = knob.default.as_ref().map(|default| format!(", default {default}")).unwrap_or_default();
            let required = if knob.required { ", required" } else { "" };
            format!("{name} ({}{required}{default}): {}", knob.kind, knob.doc)
        };
        let mut portrait = Portrait {
            name: manifest.name.clone(),
            version: manifest.version,
            description: manifest.description,
            settings: manifest.config.iter().map(setting).collect(),
            ..Portrait::default()
        };
        let used = PluginUse {
            name: manifest.name,
            dir: dir.to_owned(),
            channels: None,
            config,
            at: shown,
            ..PluginUse::default()
        };
        // Whoever only looks has no secrets; with something in their place it can be seen what the plugin listens to.
        let secrets = Arc::new(|_: &str| Some("-".repeat(64)));
        match Host::load(HostConfig { plugins: vec![used], secrets, ..HostConfig::default() }) {
            Ok(host) => {
                let rules = host.rules();
                let generation = &rules.generation;
                let permissions = generation.program.units.iter().flat_map(|unit| unit.permissions());
                portrait.permissions = permissions.map(|(kind, what)| format!("{kind}: {what}")).collect();
                let hook = |hook: &crate::plugins::source::generation::Registration| format!("{hook} ({})", hook.place);
                portrait.hooks = generation.registrations.iter().map(hook).collect();
            }
            Err(error) => portrait.wrong = error.0,
        }
        portrait
    }
}
