//! One grammar of channel patterns, for hooks, grants, retention, claims and keys alike.

/// A list of patterns, any of which may match.
#[derive(Clone, Debug, Default)]
pub struct Patterns(Vec<String>);

impl Patterns {
    pub fn matches(&self, name: &str) -> bool {
        self.0.iter().any(|p| p == name)
    }
}
