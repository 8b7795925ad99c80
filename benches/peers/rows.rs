//! What is measured: a row for each question, and who answers it.

use std::time::Duration;

use aether::cli::bench::publisher::Load;
use aether::cli::bench::report::thousands;
use aether::cli::bench::target::Transport;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Who {
    Aether,
    /// To subscribers who offer permessage-deflate.
    Compressed,
    Nchan,
    Nats,
    OneWrite,
    SharedTail,
}

impl Who {
    /// As the tables have it.
    pub fn name(self) -> &'static str {
        match self {
            Who::Aether => "aether",
            Who::Compressed => "aether, compressed",
            Who::Nchan => "nchan",
            Who::Nats => "NATS",
            Who::OneWrite => "floor, one-write",
            Who::SharedTail => "floor, shared-tail",
        }
    }
}

pub enum What {
    FanOut {
        transport: Transport,
        channels: usize,
        subscribers: usize,
        load: Load,
    },
    Publish {
        load: Load,
    },
    Idle {
        transport: Transport,
        connections: usize,
        hold: Duration,
    },
    Storm {
        transport: Transport,
        clients: usize,
    },
    /// How soon a hub is ready with so many messages in its store.
    Start {
        messages: usize,
    },
}

pub struct Row {
    pub name: String,
    pub title: String,
    pub who: Vec<Who>,
    pub what: What,
    /// How often; the median counts.
    pub turns: usize,
}

/// How large and how long.
pub struct Size {
    pub time: Duration,
    pub turns: usize,
    pub subscribers: usize,
    pub channels: usize,
    pub each: usize,
    pub idle: usize,
    pub held: usize,
    pub hold: Duration,
    pub clients: usize,
    pub stored: usize,
}

impl Size {
    pub fn whole() -> Size {
        Size {
            time: Duration::from_secs(2),
            turns: 3,
            subscribers: 1000,
            channels: 100,
            each: 100,
            idle: 4000,
            held: 50_000,
            hold: Duration::from_secs(60),
            clients: 10_000,
            stored: 1_000_000,
        }
    }

    /// Whether all of it works; what it says is of no worth.
    pub fn quick() -> Size {
        Size {
            time: Duration::from_millis(500),
            turns: 1,
            subscribers: 50,
            channels: 10,
            each: 10,
            idle: 300,
            held: 500,
            hold: Duration::from_secs(1),
            clients: 200,
            stored: 20_000,
        }
    }
}

const PAYLOAD: usize = 128;

pub fn all(size: &Size) -> Vec<Row> {
    use Transport::{Sse, Ws};
    use Who::{Aether, Compressed, Nats, Nchan, OneWrite, SharedTail};
    let load = |publishers, rate, batch| Load { publishers, rate, batch, payload: PAYLOAD, time: size.time };
    let subscribers = size.subscribers;
    let one = |transport, load| What::FanOut { transport, channels: 1, subscribers, load };
    let everybody = || vec![Aether, Nchan, Nats, OneWrite, SharedTail];
    let row =
        |name: &str, title: String, who: Vec<Who>, what| Row { name: name.into(), title, who, what, turns: size.turns };
    let mut rows = Vec::new();
    for publishers in [1, 4] {
        let s = if publishers == 1 { "" } else { "s" };
        rows.push(row(
            &format!("fan-out-ws-{publishers}"),
            format!("WebSocket, {publishers} publisher{s}"),
            everybody(),
            one(Ws, load(publishers, None, 1)),
        ));
        rows.push(row(
            &format!("fan-out-sse-{publishers}"),
            format!("SSE, {publishers} publisher{s}"),
            vec![Aether, Nchan],
            one(Sse, load(publishers, None, 1)),
        ));
    }
    for rate in [200, 50] {
        rows.push(row(
            &format!("offered-{rate}"),
            format!("{rate} messages/s over WebSocket"),
            everybody(),
            one(Ws, load(1, Some(f64::from(rate)), 1)),
        ));
    }
    rows.push(row(
        "many-channels",
        format!("{} channels, {} WebSocket subscribers each, 8 publishers", size.channels, size.each),
        vec![Aether, Nchan, Nats],
        What::FanOut { transport: Ws, channels: size.channels, subscribers: size.each, load: load(8, None, 1) },
    ));
    rows.push(row(
        "compressed",
        "200 messages/s of 1 KiB over WebSocket".into(),
        vec![Aether, Compressed],
        one(Ws, Load { payload: 1024, ..load(1, Some(200.0), 1) }),
    ));
    for connections in [1, 8, 64] {
        let s = if connections == 1 { "" } else { "s" };
        rows.push(row(
            &format!("publish-{connections}"),
            format!("{connections} connection{s}"),
            vec![Aether, Nchan, Nats],
            What::Publish { load: load(connections, None, 1) },
        ));
    }
    rows.push(row(
        "publish-batches",
        "8 connections, batches of 100".into(),
        vec![Aether],
        What::Publish { load: load(8, None, 100) },
    ));
    for (name, transport) in [("ws", Ws), ("sse", Sse)] {
        let what = What::Idle { transport, connections: size.idle, hold: Duration::ZERO };
        let title = format!("{} idle {} subscribers", thousands(size.idle as f64), transport.name());
        rows.push(Row { turns: 1, ..row(&format!("idle-{name}"), title, vec![Aether, Nchan], what) });
    }
    let once = |name: &str, title: String, what| Row { turns: 1, ..row(name, title, vec![Aether], what) };
    rows.push(once(
        "held-ws",
        format!("{} WebSocket subscribers, held for {:?}", thousands(size.held as f64), size.hold),
        What::Idle { transport: Ws, connections: size.held, hold: size.hold },
    ));
    rows.push(once(
        "storm-ws",
        format!("{} WebSocket clients come back at once, 100 missed messages each", thousands(size.clients as f64)),
        What::Storm { transport: Ws, clients: size.clients },
    ));
    rows.push(once(
        "start",
        format!("a start with {} stored messages", thousands(size.stored as f64)),
        What::Start { messages: size.stored },
    ));
    rows
}
