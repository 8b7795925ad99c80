//! The threads of the hub: how many, and what for.

use std::sync::Arc;

use tokio::runtime::Runtime;

use crate::kernel::hub::Hub;

/// Sockets that have something to say and are queued at a time; tokio's 1024 would all stand before a live publication, which
/// comes by another way.
const EVENTS: usize = 64;

/// A request is short, and lanes and deliveries want the other half: with as many threads as cores, each answer wakes a second
/// thread that finds nothing to do, and takes a tenth longer.
pub fn half_of_the_cores() -> usize {
    std::thread::available_parallelism().map_or(1, |cores| cores.get().div_ceil(2))
}

/// One for two threads of the delivery: who writes to all in turn wants a core of its own, and two on two cores took a tenth to
/// a third more processor time for the same deliveries.
pub fn heralds(hub: &Arc<Hub>, delivery: &Runtime) -> anyhow::Result<Runtime> {
    let count = delivery.metrics().num_workers().div_ceil(2);
    let heralds = runtime("herald", count)?;
    for _ in 0..count {
        let (hub, delivery) = (hub.clone(), delivery.handle().clone());
        let behind = move || {
            let stands = delivery.spawn(std::future::ready(()));
            async move { drop(stands.await) }
        };
        heralds.spawn(async move { hub.herald(behind).await });
    }
    Ok(heralds)
}

pub fn runtime(name: &str, workers: usize) -> anyhow::Result<Runtime> {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    builder.max_io_events_per_tick(EVENTS);
    if workers > 0 {
        builder.worker_threads(workers);
    }
    Ok(builder.thread_name(format!("aether-{name}")).enable_all().build()?)
}
