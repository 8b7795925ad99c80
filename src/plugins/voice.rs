//! A plugin as a publisher. Its own publish hooks are not asked about what it says, and hooks that publish about what hooks
//! have published come to an end.

use std::cell::Cell;
use std::sync::Arc;

use crate::kernel::hooks::{Client, Identity};

/// Which plugin speaks, and how many publications led to this one; travels in `Identity::attrs`.
pub struct Voice {
    pub unit: String,
    pub depth: u8,
    /// It says who came and who left: an act that its permission allows, and no message that rules are asked about.
    pub announces: bool,
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
        Voice::speaks(unit, user, false)
    }

    /// The same, of a plugin that announces.
    pub fn announcer(unit: &str) -> Option<Arc<Client>> {
        Voice::speaks(unit, None, true)
    }

    fn speaks(unit: &str, user: Option<String>, announces: bool) -> Option<Arc<Client>> {
        let depth = DEPTH.get() + 1;
        let voice = Voice { unit: unit.to_owned(), depth, announces };
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

    /// How many publications of plugins led to what this publisher says.
    pub fn depth_of(client: &Client) -> u8 {
        Voice::of(client).map_or(0, |voice| voice.depth)
    }

    pub fn of(client: &Client) -> Option<&Voice> {
        client.identity.attrs.as_ref()?.downcast_ref()
    }
}

/// Asks hooks about what `client` publishes.
pub fn heard<F: Future>(client: &Client, asking: F) -> impl Future<Output = F::Output> + use<F> {
    after(Voice::depth_of(client), asking)
}

/// Runs what so many publications led to. Others use the thread while it waits.
pub async fn after<F: Future>(depth: u8, asking: F) -> F::Output {
    let mut asking = std::pin::pin!(asking);
    std::future::poll_fn(|cx| within(depth, || asking.as_mut().poll(cx))).await
}

/// The same, of what does not wait.
pub fn within<R>(depth: u8, ask: impl FnOnce() -> R) -> R {
    struct Restore(u8);
    impl Drop for Restore {
        fn drop(&mut self) {
            DEPTH.set(self.0);
        }
    }
    let _before = Restore(DEPTH.replace(depth));
    ask()
}
