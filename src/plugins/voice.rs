//! A plugin as a publisher. Its own publish hooks are not asked about what it says, and hooks that publish about what hooks
//! have published come to an end.

use std::cell::Cell;
use std::sync::Arc;

use crate::kernel::hooks::{Client, Identity};

/// Which plugin speaks, and how many publications led to this one; travels in `Identity::attrs`.
pub struct Voice {
    pub unit: String,
    pub depth: u8,
}

/// A hook may publish about what a hook has published, and so on, so often.
const MAX_DEPTH: u8 = 4;

thread_local! {
    /// Publications that led to the hook that runs on this thread.
    static DEPTH: Cell<u8> = const { Cell::new(0) };
}

impl Voice {
    /// None if hooks have published about each other's publications often enough.
    pub fn client(unit: &str, user: Option<String>) -> Option<Arc<Client>> {
        let depth = DEPTH.get() + 1;
        let voice = Voice { unit: unit.to_owned(), depth };
        let identity = Identity { user, attrs: Some(Arc::new(voice)), ..Identity::default() };
        let client = Client {
            id: format!("plugin:{unit}"),
            identity,
            ip: None,
            dialect: "plugin",
            transport: "plugin",
            credential: true,
            connected: 0,
        };
        (depth <= MAX_DEPTH).then(|| Arc::new(client))
    }

    pub fn of(client: &Client) -> Option<&Voice> {
        client.identity.attrs.as_ref()?.downcast_ref()
    }
}

/// Runs hooks about what `client` publishes.
pub fn heard<R>(client: &Client, run: impl FnOnce() -> R) -> R {
    struct Restore(u8);
    impl Drop for Restore {
        fn drop(&mut self) {
            DEPTH.set(self.0);
        }
    }
    let _before = Restore(DEPTH.replace(Voice::of(client).map_or(0, |voice| voice.depth)));
    run()
}
