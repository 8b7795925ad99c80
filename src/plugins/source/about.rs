//! What a hook was registered with, beside its kind, its pattern and its function.

use std::sync::Arc;
use std::time::Duration;

use crate::plugins::answering::route::Route;
use crate::plugins::asking::redact::Rule;
use crate::plugins::dialect::Spec;
use crate::plugins::waiting::schedule::Schedule;

/// A variant per kind of hook that has something to say.
#[derive(Clone, PartialEq, Default, Debug)]
pub enum About {
    #[default]
    Nothing,
    Route(Route),
    /// A view's name, and what it leaves of a payload if no function says so.
    View {
        name: String,
        rule: Option<Rule>,
    },
    /// It says itself whether it waits: `{async = true}`.
    Waits(bool),
    Timer(Schedule),
    /// Of join and leave hooks: how long somebody may be away unnoticed, and whether the hook waits, if it says so.
    Attendance {
        debounce: Duration,
        waits: Option<bool>,
    },
    /// Shared by all hooks of the dialect.
    Dialect(Arc<Spec>),
}
