//! What the hub bears: its bounds as they are set, and the tasks that watch over them on the runtimes.

use std::sync::Arc;

use tokio::runtime::Runtime;

use crate::config::Config;
use crate::edges::load::sentry::{self, Sentry};
use crate::edges::load::{Limits, Load};
use crate::edges::roster::Roster;
use crate::kernel::hub::Hub;

pub fn watched(
    config: &Config,
    hub: &Arc<Hub>,
    roster: &Arc<Roster>,
    front: &Runtime,
    delivery: &Runtime,
    heralds: &Runtime,
) -> Arc<Load> {
    let limits = &config.limits;
    let load = Load::new(Limits {
        connections: limits.connections,
        connections_per_tenant: limits.connections_per_tenant,
        handshakes_per_second: limits.handshakes_per_second,
        returns_per_second: limits.returns_per_second,
        return_window: limits.return_window.0,
        delay: limits.delay.0.map(|delay| delay.0),
        memory: limits.memory.0.map(|memory| memory.0),
    });
    let write_timeout = config.server.write_timeout.0;
    let sentry = Sentry { hub: hub.clone(), roster: roster.clone(), load: load.clone(), write_timeout };
    front.spawn(sentry::beat(load.clone(), |load| &load.pressure.front));
    delivery.spawn(sentry::beat(load.clone(), |load| &load.pressure.delivery));
    heralds.spawn(sentry::beat(load.clone(), |load| &load.pressure.heralds));
    front.spawn(sentry.watch());
    load
}
