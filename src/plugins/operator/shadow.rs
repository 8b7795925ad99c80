//! `aether shadow`: a candidate beside the rules in charge.

use std::path::PathBuf;
use std::sync::Arc;

use serde::Deserialize;
use serde_json::{Value as Json, json};

use super::{Trouble, read, told};
use crate::plugins::asking::rules::Rules;
use crate::plugins::source::generation::{Generation, Unit};
use crate::plugins::why::shadow::Shadow;
use crate::plugins::{Host, LoadError};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Start {
    #[serde(flatten)]
    other: Elsewhere,
    #[serde(default = "whole")]
    sample: f64,
}

fn whole() -> f64 {
    1.0
}

/// Where a candidate's rules are; what is not said is where the settings say.
#[derive(Deserialize, Default)]
pub struct Elsewhere {
    scripts: Option<PathBuf>,
    plugins: Option<PathBuf>,
}

impl Elsewhere {
    pub fn shown(&self) -> String {
        let named = |what: &str, dir: &Option<PathBuf>| dir.as_ref().map(|dir| format!("{what} {}", dir.display()));
        let parts: Vec<String> =
            [named("scripts", &self.scripts), named("plugins", &self.plugins)].into_iter().flatten().collect();
        if parts.is_empty() { "what is on disk".into() } else { parts.join(", ") }
    }
}

impl Host {
    /// What a reload would put in charge, from elsewhere if so said; it is not in charge, and its load hooks do not run.
    pub(super) fn candidate(&self, other: &Elsewhere) -> Result<Arc<Rules>, LoadError> {
        let mut config = (self.sources)()?;
        if let Some(scripts) = &other.scripts {
            config.scripts = Some(scripts.clone());
        }
        if let Some(plugins) = &other.plugins {
            config.plugins.iter_mut().for_each(|plugin| plugin.dir = plugins.join(&plugin.name));
        }
        let generation = Generation::load(&config, self.commons.clone(), self.counters.clone())?;
        // A slip in the path would put no scripts at all in charge.
        if let Some(scripts) = other.scripts.as_ref().filter(|_| generation.program.units.iter().all(Unit::is_plugin)) {
            let why = "there is no Lua file in it; name the directory that holds the scripts";
            return Err(LoadError(vec![format!("{}: {why}", scripts.display())]));
        }
        Ok(Arc::new(Rules::new(generation, config)))
    }

    pub(super) fn shadow_start(&self, with: &[u8]) -> Result<Json, Trouble> {
        let Start { other, sample } = read(with)?;
        if !(sample > 0.0 && sample <= 1.0) {
            return Err(Trouble::Question(format!("sample: above 0 and at most 1, not {sample}")));
        }
        let candidate = self.candidate(&other)?;
        let shadow = Shadow::start(candidate, other.shown(), sample, self.commons.now());
        let shadow = shadow.map_err(|error| Trouble::Failed(vec![format!("a shadow has no thread: {error}")]))?;
        let said = shadow.described();
        tracing::info!(generation = shadow.candidate.generation.id, from = shadow.from, "a shadow has started");
        if let Some(before) = self.shadow.swap(Some(Arc::new(shadow))) {
            before.stop();
        }
        Ok(said)
    }

    pub(super) fn shadow_diff(&self) -> Result<Json, Trouble> {
        Ok(self.shadow.load_full().ok_or_else(none)?.described())
    }

    pub(super) fn shadow_stop(&self) -> Result<Json, Trouble> {
        let shadow = self.shadow.swap(None).ok_or_else(none)?;
        shadow.stop();
        Ok(shadow.described())
    }

    pub(super) fn shadow_promote(&self) -> Result<Json, Trouble> {
        let shadow = self.shadow.load_full().ok_or_else(none)?;
        let candidate = shadow.candidate.clone();
        let change = self.change_to(|| Ok(candidate))?;
        // A new one may have started meanwhile; that one goes on.
        let ours = |current: &Option<Arc<Shadow>>| current.as_ref().is_some_and(|it| Arc::ptr_eq(it, &shadow));
        if ours(&self.shadow.load_full()) {
            self.shadow.store(None);
        }
        shadow.stop();
        let mut said = told(change);
        said["from"] = json!(shadow.from);
        Ok(said)
    }
}

fn none() -> Trouble {
    Trouble::Failed(vec!["there is no shadow: start one with `aether shadow start`".into()])
}
