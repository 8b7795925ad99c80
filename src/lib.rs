//! Aether: a realtime push hub. Publish over HTTP, subscribe over WebSocket and SSE, decide everything in Lua.
//!
//! ```text
//!      edges (http, ws, sse)        plugins (the Lua host)
//!                 \                   /
//!                  +----> kernel <---+
//!                            ^
//!                         stores (sled, memory)
//! ```
//!
//! Arrows are imports, and there are no others: the kernel names nobody; edges, plugins and stores name only the kernel;
//! `server` names them all and wires them; the command line names the plugins beside it, for their authors' tools need no
//! hub. `tests/layers.rs` holds this. Begin with `kernel`.

pub mod banner;
pub mod cli;
pub mod config;
pub mod edges;
pub mod kernel;
pub mod keys;
pub mod plugins;
pub mod server;
pub mod stores;
