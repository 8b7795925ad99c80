//! Which kind of hook runs on this thread, for what only some of them may do.

use std::cell::Cell;

use crate::plugins::source::generation::Event;

thread_local! {
    static RUNNING: Cell<Option<Event>> = const { Cell::new(None) };
}

/// None while a file loads.
pub fn running() -> Option<Event> {
    RUNNING.get()
}

pub fn during<R>(event: Event, run: impl FnOnce() -> R) -> R {
    struct Restore(Option<Event>);
    impl Drop for Restore {
        fn drop(&mut self) {
            RUNNING.set(self.0);
        }
    }
    let _before = Restore(RUNNING.replace(Some(event)));
    run()
}
