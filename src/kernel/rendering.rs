//! What the readers of one view see of a tail's publications: each is rendered once, whatever formats it is then encoded in.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;
use tokio::sync::Notify;

use super::counters::Counters;
use super::format::View;
use super::message::{ChannelName, Offset, Publication};

pub(super) struct Rendering {
    pub view: Arc<dyn View>,
    /// None: withheld. Holds nothing that the tail does not hold, from one encoding to the next.
    rendered: Mutex<BTreeMap<Offset, Option<Arc<Publication>>>>,
    /// Of a slow view: one reader sees to it for all, and the others hear when it is done.
    at_work: AtomicBool,
    done: Notify,
}

impl Rendering {
    pub fn new(view: Arc<dyn View>) -> Self {
        Rendering { view, rendered: Mutex::default(), at_work: AtomicBool::default(), done: Notify::new() }
    }

    /// Whether its readers must wait for it: the view is slow, and has not been asked about it yet.
    pub fn is_dark(&self, publication: &Publication) -> bool {
        is_dark(&*self.view, publication) && !self.rendered.lock().contains_key(&publication.offset)
    }

    /// Has what is dark rendered beside, unless another reader is about it; comes back when something has been done.
    pub async fn foresee(&self, channel: &ChannelName, mut dark: Vec<Publication>, counters: &Counters) {
        // It hears of an end from here on, whenever it begins to wait.
        let done = self.done.notified();
        if self.at_work.swap(true, Ordering::AcqRel) {
            return done.await;
        }
        let work = Work(self);
        self.view.foresee(channel, &mut dark).await;
        let mut rendered = self.rendered.lock();
        for publication in dark {
            let render = || render(&*self.view, channel, &publication, counters).map(Arc::new);
            rendered.entry(publication.offset).or_insert_with(render);
        }
        drop(rendered);
        drop(work);
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

/// Whoever is about it may leave in the middle; then another one goes on.
struct Work<'a>(&'a Rendering);

impl Drop for Work<'_> {
    fn drop(&mut self) {
        self.0.at_work.store(false, Ordering::Release);
        self.0.done.notify_waiters();
    }
}

/// Whether it takes long to say what readers see of a publication.
pub(super) fn is_dark(view: &dyn View, publication: &Publication) -> bool {
    view.is_slow() && publication.message.foreseen.through(view).is_none()
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
