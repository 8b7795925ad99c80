//! What the operator asks, a verb each, in JSON both ways: the admin API and the command line.

mod ask;
mod explain;
mod replay;
mod shadow;

use serde_json::{Value as Json, json};

use crate::plugins::{Host, LoadError};

/// Why there is no answer.
#[derive(Debug)]
pub enum Trouble {
    Unknown,
    /// The question cannot be read.
    Question(String),
    /// A line per problem.
    Failed(Vec<String>),
}

impl From<LoadError> for Trouble {
    fn from(LoadError(problems): LoadError) -> Trouble {
        Trouble::Failed(problems)
    }
}

impl Host {
    /// May take as long as loading every plugin does, and must not be asked where others wait for the thread.
    pub fn answer(&self, verb: &str, with: &[u8]) -> Result<Json, Trouble> {
        let said = match verb {
            "status" => self.described(),
            "reload" => told(self.reload()?),
            "rollback" => told(self.rollback()?),
            "explain" => self.explain(with)?,
            "replay" => self.replay(with)?,
            "replay_stop" => self.replay_stop()?,
            "shadow_start" => self.shadow_start(with)?,
            "shadow_diff" => self.shadow_diff()?,
            "shadow_promote" => self.shadow_promote()?,
            "shadow_stop" => self.shadow_stop()?,
            _ => return Err(Trouble::Unknown),
        };
        Ok(said)
    }
}

/// Reads a question. An empty one is one that says nothing.
fn read<T: serde::de::DeserializeOwned>(with: &[u8]) -> Result<T, Trouble> {
    let with = if with.trim_ascii().is_empty() { b"{}" } else { with };
    serde_json::from_slice(with).map_err(|error| Trouble::Question(error.to_string()))
}

fn told(what: impl serde::Serialize) -> Json {
    serde_json::to_value(what).unwrap_or_else(|error| json!({"error": error.to_string()}))
}
