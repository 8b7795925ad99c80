//! What the readers of one view see of a tail's publications: each is rendered once, whatever formats it is then encoded in.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;

use super::counters::Counters;
use super::format::View;
use super::message::{ChannelName, Offset, Publication};

pub(super) struct Rendering {
    pub view: Arc<dyn View>,
    /// None: withheld. Holds nothing that the tail does not hold, from one encoding to the next.
    rendered: Mutex<BTreeMap<Offset, Option<Arc<Publication>>>>,
}

impl Rendering {
    pub fn new(view: Arc<dyn View>) -> Self {
        Rendering { view, rendered: Mutex::default() }
    }

    /// The publication as these readers see it. The lock is held while the view renders: who else wants the same waits for
    /// it, instead of rendering it again.
    pub fn of(
        &self,
        channel: &ChannelName,
        publication: &Arc<Publication>,
        counters: &Counters,
    ) -> Option<Arc<Publication>> {
        let mut rendered = self.rendered.lock();
        let render = || render(&*self.view, channel, publication, counters).map(Arc::new);
        rendered.entry(publication.offset).or_insert_with(render).clone()
    }

    /// Forgets everything before `first`.
    pub fn trim(&self, first: Offset) {
        let mut rendered = self.rendered.lock();
        if rendered.first_key_value().is_some_and(|(oldest, _)| *oldest < first) {
            *rendered = rendered.split_off(&first);
        }
    }
}

/// A publication through a view; none if it is withheld.
pub(super) fn render(
    view: &dyn View,
    channel: &ChannelName,
    publication: &Publication,
    counters: &Counters,
) -> Option<Publication> {
    counters.rendered.add(1);
    let Publication { offset, time, expires, once, .. } = *publication;
    let seen = match publication.message.foreseen.through(view) {
        Some(seen) => seen.cloned(),
        None => view.render(channel, publication),
    };
    seen.map(|message| Publication { offset, time, expires, once, message })
}
