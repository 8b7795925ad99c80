//! Where settings come from: defaults, then the file, then the environment, then flags; and what is wrong with them.

use std::fmt;
use std::path::Path;

use super::read::Reading;
use super::{Config, aphlict};

/// The file that is read when none is named; it may be absent.
pub const DEFAULT_FILE: &str = "aether.toml";

/// What the clients on the command line are given by the environment: no settings of a hub.
pub const CLIENT_VARIABLES: [&str; 2] = ["AETHER_KEY", "AETHER_TOKEN"];

pub(super) const ENV_PREFIX: &str = "AETHER_";

/// Everything that is wrong with the settings.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ConfigError {
    pub problems: Vec<Problem>,
}

/// One thing that is wrong, and where.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Problem {
    /// `aether.toml:41:3`, `AETHER_SERVER_ADDR` or `--addr`.
    pub at: String,
    pub what: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.at, self.what)
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lines: Vec<_> = self.problems.iter().map(Problem::to_string).collect();
        f.write_str(&lines.join("\n"))
    }
}

impl std::error::Error for ConfigError {}

/// A setting given as text, by a flag.
#[derive(Clone, Debug)]
pub struct Setting {
    /// `server.addr`
    pub key: &'static str,
    pub value: String,
    /// `--addr`
    pub at: &'static str,
}

/// What was said beside the defaults; later ones win.
#[derive(Clone, Default)]
pub struct Sources {
    /// The file's name, for messages, and its text.
    pub file: Option<(String, String)>,
    pub env: Vec<(String, String)>,
    pub flags: Vec<Setting>,
}

impl Config {
    /// Reads the settings of this process: the file, its environment and its flags.
    pub fn load(file: Option<&Path>, flags: Vec<Setting>) -> Result<Config, ConfigError> {
        Config::look(file, flags)?.whole()
    }

    /// The same, and what can be made of them where something is wrong.
    pub fn look(file: Option<&Path>, flags: Vec<Setting>) -> Result<Look, ConfigError> {
        Sources { file: file_text(file)?, env: env_text()?, flags }.look()
    }
}

/// Settings as far as they are good.
pub struct Look {
    /// With defaults where something is wrong; none if that does not make any.
    pub config: Option<Config>,
    pub problems: Vec<Problem>,
    /// What is wrong has to do with the rules: nothing can be said about these.
    pub(super) rules_touched: bool,
}

impl Look {
    pub fn whole(self) -> Result<Config, ConfigError> {
        match self.config {
            Some(config) if self.problems.is_empty() => Ok(config),
            _ => Err(ConfigError { problems: self.problems }),
        }
    }

    /// The settings, if they say as much about the rules as ones without fault would.
    pub fn with_rules(self) -> Option<Config> {
        self.config.filter(|_| !self.rules_touched)
    }
}

pub(super) fn one_problem(at: impl Into<String>, what: impl Into<String>) -> ConfigError {
    ConfigError { problems: vec![Problem { at: at.into(), what: what.into() }] }
}

fn file_text(file: Option<&Path>) -> Result<Option<(String, String)>, ConfigError> {
    let path = file.unwrap_or(Path::new(DEFAULT_FILE));
    let name = path.display().to_string();
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(Some((name, text))),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound && file.is_none() => Ok(None),
        Err(error) => Err(one_problem(name, format!("cannot be read: {error}"))),
    }
}

fn env_text() -> Result<Vec<(String, String)>, ConfigError> {
    let mut found = Vec::new();
    for (name, value) in std::env::vars_os() {
        let Some(name) = name.to_str().filter(|name| name.starts_with(ENV_PREFIX) || aphlict::knows(name)) else {
            continue;
        };
        let value = value.into_string().map_err(|_| one_problem(name, "is not UTF-8"))?;
        found.push((name.to_owned(), value));
    }
    found.sort();
    Ok(found)
}

impl Sources {
    pub fn read(self) -> Result<Config, ConfigError> {
        self.look()?.whole()
    }

    fn look(self) -> Result<Look, ConfigError> {
        let mut reading = Reading::default();
        if let Some((name, text)) = &self.file {
            reading.file(name, text)?;
        }
        for (name, value) in &self.env {
            reading.env(name, value);
        }
        for flag in &self.flags {
            reading.text(flag.key, &flag.value, flag.at);
        }
        Ok(reading.finish())
    }
}
