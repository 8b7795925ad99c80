//! One grammar of channel patterns, for hooks, grants, retention, claims and keys alike.

use std::fmt;

/// A list of patterns, any of which may match.
#[derive(Clone, Debug, Default)]
pub struct Patterns(Vec<String>);

impl Patterns {
    pub fn matches(&self, name: &str) -> bool {
        self.0.iter().any(|p| p == name)
    }
}

/// A stand-in for the real grammar: literals and a trailing `*`.
#[derive(Clone, Debug)]
pub struct Pattern(String);

#[derive(Clone, Debug)]
pub struct PatternError;

impl fmt::Display for PatternError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not a channel pattern")
    }
}

impl Pattern {
    pub fn parse(text: &str) -> Result<Self, PatternError> {
        if text.is_empty() || text.contains("**") { Err(PatternError) } else { Ok(Pattern(text.to_owned())) }
    }

    pub fn matches(&self, name: &str) -> bool {
        match self.0.strip_suffix('*') {
            Some(head) => name.len() > head.len() && name.starts_with(head),
            None => self.0 == name,
        }
    }
}
