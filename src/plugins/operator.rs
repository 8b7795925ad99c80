//! What the operator asks, a verb each, in JSON both ways: the admin API and the command line.

use serde_json::{Value as Json, json};

use super::{Host, LoadError};

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
    pub fn answer(&self, verb: &str, _with: &[u8]) -> Result<Json, Trouble> {
        let said = match verb {
            "status" => self.described(),
            "reload" => told(self.reload()?),
            "rollback" => told(self.rollback()?),
            _ => return Err(Trouble::Unknown),
        };
        Ok(said)
    }
}

fn told(what: impl serde::Serialize) -> Json {
    serde_json::to_value(what).unwrap_or_else(|error| json!({"error": error.to_string()}))
}
