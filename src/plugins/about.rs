//! What a hook was registered with, beside its kind, its pattern and its function.

use super::schedule::Schedule;

/// A variant per kind of hook that has something to say.
#[derive(Clone, PartialEq, Default, Debug)]
pub enum About {
    #[default]
    Nothing,
    /// It says itself whether it waits: `{async = true}`.
    Waits(bool),
    Timer(Schedule),
}
