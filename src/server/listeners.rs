//! The listeners that plugins have for themselves: opened before the rules that want them take charge, closed after they go.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::net::TcpListener;
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

use crate::edges::listen;

/// Begins to serve a listener; it ends with the token.
type Serve = Box<dyn Fn(TcpListener, CancellationToken) + Send>;

pub struct Listeners {
    gate: Handle,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Those that are open; the socket is taken out when it is served.
    open: HashMap<SocketAddr, (Option<TcpListener>, CancellationToken)>,
    /// Known once the hub serves.
    serve: Option<Serve>,
}

impl Listeners {
    pub fn new(gate: Handle) -> Arc<Listeners> {
        Arc::new(Listeners { gate, state: Mutex::default() })
    }

    /// Opens those that are not open. None is opened if one cannot be.
    pub fn open(&self, wanted: &[SocketAddr]) -> Result<(), String> {
        let _runtime = self.gate.enter();
        let mut state = self.state.lock();
        let mut opened = Vec::new();
        for address in wanted.iter().filter(|address| !state.open.contains_key(address)) {
            let listener = listen::bind(*address)
                .map_err(|error| format!("cannot listen on {address}, as a plugin wants: {error}"))?;
            opened.push((*address, listener));
        }
        for (address, listener) in opened {
            let stop = CancellationToken::new();
            let waiting = match &state.serve {
                Some(serve) => {
                    serve(listener, stop.clone());
                    None
                }
                None => Some(listener),
            };
            state.open.insert(address, (waiting, stop));
        }
        Ok(())
    }

    /// Closes those that nobody wants any more; connections that are there stay.
    pub fn keep(&self, wanted: &[SocketAddr]) {
        self.state.lock().open.retain(|address, (_, stop)| {
            let wanted = wanted.contains(address);
            if !wanted {
                stop.cancel();
            }
            wanted
        });
    }

    /// Serves those that are open, and those to come.
    pub fn serve(&self, serve: Serve) {
        let _runtime = self.gate.enter();
        let mut state = self.state.lock();
        for (waiting, stop) in state.open.values_mut() {
            if let Some(listener) = waiting.take() {
                serve(listener, stop.clone());
            }
        }
        state.serve = Some(serve);
    }

    /// None is accepted on any more.
    pub fn close(&self) {
        let mut state = self.state.lock();
        state.open.drain().for_each(|(_, (_, stop))| stop.cancel());
        state.serve = None;
    }
}
