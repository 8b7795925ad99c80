//! What the hub bears just now, and what gives way when that is too much.
//!
//! `pressure` is the ladder on which things give way, and `sentry` looks ten times a second where on it the hub stands;
//! `governor` says when those who had to leave may come back; `tenants` keeps one of them from taking the hub from the others.

pub mod governor;
pub mod pressure;
pub mod sentry;
pub mod tenants;

use std::sync::Arc;
use std::time::Duration;

use governor::Governor;
use pressure::Pressure;
use tenants::Tenants;

/// What all edges share.
pub struct Load {
    pub governor: Governor,
    pub pressure: Pressure,
    pub tenants: Arc<Tenants>,
}

/// What the operator has set; 0 sets no bound.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    pub connections: usize,
    pub connections_per_tenant: usize,
    pub handshakes_per_second: usize,
    /// Clients that are told to come back in one second; 0: as many as were seen to come in.
    pub returns_per_second: usize,
    /// Nobody is told to stay away longer.
    pub return_window: Duration,
    /// How late the hub may be before it takes in nobody new; none: however late.
    pub delay: Option<Duration>,
    /// Bytes.
    pub memory: Option<u64>,
}

/// Nothing is bounded.
impl Default for Limits {
    fn default() -> Limits {
        Limits {
            connections: usize::MAX,
            connections_per_tenant: 0,
            handshakes_per_second: 0,
            returns_per_second: 0,
            return_window: Duration::from_secs(60),
            delay: None,
            memory: None,
        }
    }
}

impl Load {
    pub fn new(limits: Limits) -> Arc<Load> {
        let mut seed = [0; 8];
        let _ = getrandom::fill(&mut seed);
        Arc::new(Load {
            governor: Governor::new(limits, u64::from_le_bytes(seed)),
            pressure: Pressure::new(limits),
            tenants: Tenants::new(limits.connections_per_tenant, limits.connections),
        })
    }

    /// For metrics: name, kind, help and value.
    pub fn figures(&self) -> Vec<(&'static str, &'static str, &'static str, f64)> {
        let mut figures = self.pressure.figures();
        figures.extend(self.governor.figures());
        figures.extend(self.tenants.figures());
        figures
    }
}
