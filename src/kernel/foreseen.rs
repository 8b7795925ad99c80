//! What readers will see of a message through views that take long: made before anybody waits for it, and carried with it.

use std::fmt;
use std::sync::Arc;

use super::format::View;
use super::message::Message;

/// Most messages carry nothing.
#[derive(Clone, Default)]
pub struct Foreseen(Option<Arc<Vec<Seen>>>);

#[derive(Clone)]
struct Seen {
    view: Arc<dyn View>,
    /// None: withheld.
    message: Option<Message>,
}

impl Foreseen {
    /// Adds what `view` makes of the message.
    pub fn add(&mut self, view: Arc<dyn View>, message: Option<Message>) {
        let mut all = self.0.take().map_or_else(Vec::new, Arc::unwrap_or_clone);
        all.push(Seen { view, message });
        self.0 = Some(Arc::new(all));
    }

    /// What `view` has made of the message, if it has been asked.
    pub fn through(&self, view: &dyn View) -> Option<Option<&Message>> {
        let all = self.0.as_ref()?;
        // The address alone, because one type may have several tables of functions.
        let found = all.iter().find(|seen| std::ptr::addr_eq(Arc::as_ptr(&seen.view), view));
        found.map(|seen| seen.message.as_ref())
    }

    pub fn weight(&self) -> usize {
        self.0.iter().flat_map(|all| all.iter()).filter_map(|seen| seen.message.as_ref()).map(Message::weight).sum()
    }
}

/// It is no part of what was said.
impl PartialEq for Foreseen {
    fn eq(&self, _: &Foreseen) -> bool {
        true
    }
}

impl Eq for Foreseen {}

impl fmt::Debug for Foreseen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} views", self.0.as_ref().map_or(0, |all| all.len()))
    }
}
