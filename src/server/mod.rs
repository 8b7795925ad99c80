//! Builds the hub from its settings, serves until it is told to stop, and takes it down in reverse.
//!
//! The one place that names every layer. Four runtimes: the gate accepts and looks who comes; the front speaks HTTP, asks the
//! rules and publishes; the heralds write what is new to those who listen; the delivery runs the sessions otherwise. On one
//! runtime a publisher's answer would wait behind a thousand readers, or behind ten thousand who come at once.

mod listeners;
mod load;
mod routes;
mod rules;
mod threads;
mod world;

use std::future::Future;
use std::io::{IsTerminal, Write};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::Context;
use hyper_util::service::TowerToHyperService;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use crate::banner::banner;
use crate::config::{Config, ConfigError, LogFormat};
use crate::edges::arrivals::Arrivals;
use crate::edges::certificates::Certificates;
use crate::edges::door::{self, Door};
use crate::edges::edge::{Beside, Edge, Settings};
use crate::edges::forwarded::Trusted;
use crate::edges::http::{self, Surface};
use crate::edges::listen::{self, Acceptor};
use crate::edges::load::Load;
use crate::edges::metrics;
use crate::edges::native::Limits;
use crate::edges::origin::Origins;
use crate::edges::pulse::Pulse;
use crate::edges::roster::Roster;
use crate::edges::session::Shared;
use crate::kernel::TailLimit;
use crate::kernel::hub::{Hub, Parts};
use crate::kernel::message::Micros;
use crate::keys::Keys;
use crate::plugins::{Host, Spoken};
use crate::stores::memory::MemoryLog;
use crate::stores::sled::SledLog;

use listeners::Listeners;
use routes::OfPlugins;
pub use rules::load_plugins;
use rules::{Desk, Watch};
use threads::{half_of_the_cores, heralds, runtime};
use world::Outside;

/// The settings, read anew.
pub type Again = Arc<dyn Fn() -> Result<Config, ConfigError> + Send + Sync>;

/// How long the store may take to close beyond `shutdown.timeout`, of which it has what connections have left.
const STORE_GRACE: Duration = Duration::from_millis(500);
/// Of the operator's own listener.
const ADMIN_CONNECTIONS: usize = 1000;

/// Runs the hub until SIGINT or SIGTERM. A reload of the rules reads the settings `again`.
pub fn run(config: Config, again: Again) -> anyhow::Result<()> {
    begin_logging(&config);
    for note in &config.notes {
        tracing::warn!("{note}");
    }
    let keys = Keys::prepare(&config)?;
    for warning in &keys.warnings {
        tracing::warn!("{warning}");
    }
    // A descriptor per connection: the usual soft limit of 1,024 is a leftover of select().
    if let Err(error) = rlimit::increase_nofile_limit(u64::MAX) {
        tracing::warn!(%error, "the limit of open files stays as it is");
    }
    let hub = Running::start(&config, &keys, again)?;
    // Not println!, which panics when nobody reads it: `aether | head -1` is no reason to die.
    let scheme = |tls| if tls { "https" } else { "http" };
    let place = (scheme(hub.certificates.is_some()), hub.address);
    let console = (scheme(hub.admin_certificates().is_some()), hub.admin_address);
    let banner = banner(place, console, &config.store.path.join("keys"), keys.demo_token());
    let _ = writeln!(std::io::stdout(), "{banner}");
    hub.serve_until(asked_to_stop())
}

fn begin_logging(config: &Config) {
    let level = tracing::Level::from(config.log.level);
    let colours = std::io::stderr().is_terminal();
    let to_stderr = tracing_subscriber::fmt().with_max_level(level).with_writer(std::io::stderr).with_ansi(colours);
    // sled tells of every write at `debug`, which is nothing that one looks for here.
    let ours = Targets::new().with_default(level).with_target("sled", tracing::Level::WARN);
    // A second hub in one process logs where the first one does.
    let _ = match config.log.format {
        LogFormat::Text => to_stderr.finish().with(ours).try_init(),
        LogFormat::Json => to_stderr.json().finish().with(ours).try_init(),
    };
}

async fn asked_to_stop() {
    use tokio::signal::unix::{SignalKind, signal};
    let Ok(mut terminate) = signal(SignalKind::terminate()) else { return };
    // A file that may not grow any more is a full disk, which the store survives; unheard, the signal would end us.
    let _too_large = signal(SignalKind::from_raw(rustix::process::Signal::XFSZ.as_raw()));
    tokio::select! {
        _ = terminate.recv() => {}
        _ = tokio::signal::ctrl_c() => {}
    }
}

fn now() -> Micros {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_micros() as Micros)
}

/// A hub that has everything it needs and listens.
pub struct Running {
    pub address: SocketAddr,
    /// Where the operator is answered.
    pub admin_address: SocketAddr,
    host: Arc<Host>,
    watch: Option<Watch>,
    hub: Arc<Hub>,
    edge: Arc<Edge>,
    roster: Arc<Roster>,
    listeners: Arc<Listeners>,
    door: Arc<Door>,
    admin_door: Arc<Door>,
    certificates: Option<Arc<Certificates>>,
    listener: TcpListener,
    admin_listener: Option<TcpListener>,
    gate: Runtime,
    front: Runtime,
    delivery: Runtime,
    heralds: Runtime,
    config: Config,
}

impl Running {
    pub fn start(config: &Config, keys: &Keys, again: Again) -> anyhow::Result<Running> {
        let certificates = certificates(config)?.map(Arc::new);
        let watch = config.plugins.watch.then(|| Watch::new(config.rule_dirs()));
        let host = rules::host(config, keys, again)?;
        for line in host.summary() {
            tracing::info!("{line}");
        }
        let front = match config.server.front_workers {
            0 => half_of_the_cores(),
            workers => workers,
        };
        let front = runtime("front", front)?;
        let delivery = runtime("delivery", config.server.delivery_workers)?;
        let gate = runtime("gate", 1)?;
        let window = config.publish.idempotency_window.0;
        let (cache, flush) = (config.store.cache_size.bytes() as u64, config.store.flush_interval.0);
        let kept = SledLog::open(&config.store.path.join("store"), cache, flush, window)?;
        kept.begin_at(config.publish.first_seq.0);
        kept.spare(config.store.min_free.bytes() as u64);
        host.keep_in(Arc::new(kept.kv()));
        host.begin()?;
        let hub = Hub::start(Parts {
            hooks: host.clone(),
            kept: Arc::new(kept),
            fleeting: Arc::new(MemoryLog::new(window).beginning_at(config.publish.first_seq.0)),
            clock: now,
            tail: TailLimit { count: config.channels.tail_count, bytes: config.channels.tail_bytes.bytes() },
            idle_after: config.channels.idle_after.0,
            flush_interval: flush,
            sweep_interval: config.store.sweep_interval.0,
            lag_patience: config.channels.lag_patience.0,
            queue: config.publish.queue,
        })?;
        let heralds = heralds(&hub, &delivery)?;
        let roster = Arc::new(Roster::default());
        let listeners = Listeners::new(gate.handle().clone());
        listeners.open(&host.listeners()).map_err(anyhow::Error::msg)?;
        let (outside, speaking) = Outside::new(&hub, &roster, front.handle().clone(), listeners.clone());
        front.spawn(speaking);
        host.live_in(outside);
        let door = Door::new(door::Limits {
            connections: config.limits.connections,
            per_ip: config.limits.connections_per_ip,
            per_second: config.limits.handshakes_per_second,
        });
        let admin_door = Door::for_operator(door::Limits { connections: ADMIN_CONNECTIONS, per_ip: 0, per_second: 0 });
        let beside = Beside {
            plugins_metrics: plugins_metrics(&host),
            counters: counters_beside_the_kernels(&host, [door.clone(), admin_door.clone()]),
            operator: Arc::new(Desk(host.clone())),
            routes: Arc::new(OfPlugins(host.clone())),
            dialects: Arc::new(Spoken(host.clone())),
        };
        let load = load::watched(config, &hub, &roster, &front, &delivery, &heralds);
        let edge = edge(config, hub.clone(), &roster, load, beside, delivery.handle().clone());
        let listener = gate.block_on(async { listen::bind(config.server.addr) });
        let listener = listener.with_context(|| {
            format!("cannot listen on {}: is another hub running? Give this one another --addr", config.server.addr)
        })?;
        let address = listener.local_addr()?;
        let admin_listener = config.server.admin_addr.0.map(|addr| {
            let listener = gate.block_on(async { listen::bind(addr) });
            listener.with_context(|| format!("cannot listen on {addr} (server.admin_addr)"))
        });
        let admin_listener = admin_listener.transpose()?;
        let admin_address = admin_listener.as_ref().map_or(Ok(address), TcpListener::local_addr)?;
        Ok(Running {
            address,
            admin_address,
            admin_listener,
            host,
            watch,
            hub,
            edge,
            roster,
            listeners,
            door,
            admin_door,
            certificates,
            listener,
            gate,
            front,
            delivery,
            heralds,
            config: config.clone(),
        })
    }

    /// What presses it, and whom that holds back.
    pub fn load(&self) -> Arc<Load> {
        self.edge.load.clone()
    }

    /// What does not leave the machine needs no TLS, and scrapers are spared a certificate.
    fn admin_certificates(&self) -> Option<Arc<Certificates>> {
        let needs_none = self.admin_listener.is_some() && self.admin_address.ip().is_loopback();
        self.certificates.clone().filter(|_| !needs_none)
    }

    /// Serves until `stop` is ready; then what is in flight is finished, within `shutdown.timeout`.
    pub fn serve_until(self, stop: impl Future<Output = ()>) -> anyhow::Result<()> {
        let admin_certificates = self.admin_certificates();
        let Running {
            host,
            watch,
            hub,
            admin_listener,
            edge,
            roster,
            listeners,
            door,
            admin_door,
            certificates,
            listener,
            gate,
            front,
            delivery,
            heralds,
            config,
            ..
        } = self;
        let (no_more, tasks) = (CancellationToken::new(), TaskTracker::new());
        let surface = if admin_listener.is_some() { Surface::Public } else { Surface::Whole };
        let serving = |surface| TowerToHyperService::new(warp::service(http::routes(edge.clone(), surface)));
        let acceptor = Acceptor {
            service: serving(surface),
            settings: listen::Settings {
                header_timeout: config.server.header_timeout.0,
                write_timeout: config.server.write_timeout.0,
                peer_timeout: config.server.peer_timeout.0,
            },
            door,
            load: edge.load.clone(),
            trusted: trusted(&config),
            certificates: certificates.clone(),
            delivery: delivery.handle().clone(),
            front: front.handle().clone(),
            arrivals: Arrivals::default(),
            streams: streams(&edge),
            stop: no_more.clone(),
            tasks: tasks.clone(),
        };
        listeners.serve(of_plugins(&acceptor, &edge, gate.handle().clone()));
        let following = certificates.map(|certificates| front.spawn(certificates.follow(no_more.clone())));
        if let Some(listener) = admin_listener {
            let alone = Acceptor {
                service: serving(Surface::Whole),
                door: admin_door,
                certificates: admin_certificates,
                ..acceptor.clone()
            };
            tasks.spawn_on(alone.run(listener), gate.handle());
        }
        let reloading = front.spawn(rules::follow(host, watch, no_more.clone()));
        let accepting = gate.spawn(acceptor.run(listener));
        edge.ready.store(true, Ordering::Release);
        front.block_on(stop);

        tracing::info!("stopping");
        let deadline = Instant::now() + config.shutdown.timeout.0;
        edge.ready.store(false, Ordering::Release);
        hub.refuse_publishes();
        roster.stop();
        let outcome = front.block_on(async {
            // Requests that come on connections which are open already are still answered, with a 503.
            let everybody_left = async {
                while !roster.is_empty() {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            };
            let _ = tokio::time::timeout_at(deadline.into(), everybody_left).await;
            listeners.close();
            no_more.cancel();
            let _ = accepting.await;
            let _ = reloading.await;
            if let Some(following) = following {
                let _ = following.await;
            }
            tasks.close();
            // Who has not left by now is stuck, and is left behind.
            let _ = tokio::time::timeout_at(deadline.into(), tasks.wait()).await;
            hub.stop(deadline.saturating_duration_since(Instant::now()) + STORE_GRACE).await
        });
        // Tasks end where they wait, and let go of the store.
        gate.shutdown_timeout(Duration::from_millis(400));
        heralds.shutdown_timeout(Duration::from_millis(400));
        delivery.shutdown_timeout(Duration::from_millis(400));
        front.shutdown_timeout(Duration::from_millis(400));
        outcome.context("the store could not be closed properly")?;
        tracing::info!("stopped");
        Ok(())
    }
}

fn edge(
    config: &Config,
    hub: Arc<Hub>,
    roster: &Arc<Roster>,
    load: Arc<Load>,
    beside: Beside,
    delivery: tokio::runtime::Handle,
) -> Arc<Edge> {
    let settings = Settings {
        max_payload: config.server.max_payload_size.bytes(),
        max_batch_bytes: config.server.max_batch_size.bytes(),
        max_batch: config.publish.max_batch,
        max_message: config.websocket.max_message_size.bytes(),
        compression: config.websocket.compression,
        compress_from: config.websocket.compress_from.bytes(),
        body_timeout: config.server.header_timeout.0,
        limits: Limits {
            channels_per_request: config.limits.channels_per_request,
            channels_per_connection: config.limits.channels_per_connection,
            refusals_per_minute: config.limits.refusals_per_minute,
        },
        origins: Origins::new(config.websocket.allowed_origins.clone()),
        first_aether: config.websocket.first_aether,
        sse_retry: (config.sse.retry.0, config.sse.retry_spread.0),
    };
    let shared = |interval, timeout| {
        Arc::new(Shared {
            pulse: Pulse {
                interval,
                timeout,
                write_timeout: config.server.write_timeout.0,
                drain: config.shutdown.timeout.0,
            },
            roster: roster.clone(),
            load: load.clone(),
        })
    };
    let ws = shared(config.websocket.ping_interval.0, Some(config.websocket.pong_timeout.0));
    let sse = shared(config.sse.heartbeat.0, None);
    Edge::new(hub, settings, ws, sse, delivery, beside)
}

/// Serves a listener that plugins have for themselves as the main one is served. What does not leave the machine needs no
/// TLS.
fn of_plugins<S>(
    acceptor: &Acceptor<S>,
    edge: &Arc<Edge>,
    gate: tokio::runtime::Handle,
) -> Box<dyn Fn(TcpListener, CancellationToken) + Send> {
    let Acceptor {
        settings, door, load, trusted, certificates, delivery, front, arrivals, streams, tasks, stop, ..
    } = acceptor;
    let (settings, door, trusted, certificates) = (*settings, door.clone(), trusted.clone(), certificates.clone());
    let (delivery, streams, tasks, all) = (delivery.clone(), streams.clone(), tasks.clone(), stop.clone());
    let (edge, load, front, arrivals) = (edge.clone(), load.clone(), front.clone(), arrivals.clone());
    Box::new(move |listener, stop| {
        let Ok(address) = listener.local_addr() else { return };
        let routes = http::routes(edge.clone(), Surface::OfPlugins(address));
        let acceptor = Acceptor {
            service: TowerToHyperService::new(warp::service(routes)),
            settings,
            door: door.clone(),
            load: load.clone(),
            trusted: trusted.clone(),
            certificates: certificates.clone().filter(|_| !address.ip().is_loopback()),
            delivery: delivery.clone(),
            front: front.clone(),
            arrivals: arrivals.clone(),
            streams: streams.clone(),
            stop: all.clone(),
            tasks: tasks.clone(),
        };
        let accepting = async move {
            // Without the listener its connections go on.
            stop.run_until_cancelled(acceptor.run(listener)).await;
        };
        tasks.spawn_on(accepting, &gate);
    })
}

/// How the requests begin that plugins answer with event streams.
fn streams(edge: &Arc<Edge>) -> listen::Streams {
    let edge = edge.clone();
    Arc::new(move || edge.beside.dialects.streams())
}

/// The certificate that the settings name, if they name one.
pub fn certificates(config: &Config) -> anyhow::Result<Option<Certificates>> {
    let (Some(cert), Some(key)) = (&config.server.tls_cert.0, &config.server.tls_key.0) else { return Ok(None) };
    Certificates::load(cert, key).map(Some).map_err(anyhow::Error::msg)
}

fn trusted(config: &Config) -> Trusted {
    let proxies = config.server.trusted_proxies.clone();
    Arc::new(move |ip| proxies.iter().any(|network| network.contains(ip)))
}

fn counters_beside_the_kernels(host: &Arc<Host>, doors: [Arc<Door>; 2]) -> metrics::Others {
    let host = host.clone();
    Arc::new(move || {
        let mut counters = host_counters(&host);
        let help = "Connections, and requests of a proxy's clients, that found no place";
        counters.push(("aether_connections_refused_total", help, doors.iter().map(|door| door.turned_away()).sum()));
        let help = "Times that accepting rested, because no more files may be open";
        counters.push(("aether_accept_rests_total", help, doors.iter().map(|door| door.rested()).sum()));
        counters
    })
}

fn plugins_metrics(host: &Arc<Host>) -> metrics::Page {
    let host = host.clone();
    Arc::new(move || host.metrics())
}

fn host_counters(host: &Host) -> Vec<(&'static str, &'static str, u64)> {
    let counters = host.counters();
    let evicted = host.shared_evicted();
    let get = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
    let latest = host.latest();
    vec![
        ("aether_rules_generation", "The generation of rules in charge", host.generation()),
        ("aether_rules_reloads_total", "Generations that took charge after the first", latest.reloads),
        ("aether_rules_reload_failures_total", "Reloads that changed nothing, because they failed", latest.failures),
        (
            "aether_rules_reload_failed",
            "1 while what is on disk could not be loaded",
            u64::from(latest.failed.is_some()),
        ),
        ("aether_lua_entries_total", "Calls of hooks in Lua", get(&counters.lua_entries)),
        ("aether_rules_denied_total", "Refusals by the rules", get(&counters.denied)),
        ("aether_rules_errors_total", "Hooks that broke", get(&counters.errors)),
        ("aether_rules_killed_total", "Hooks that ran over their budget", get(&counters.killed_over_budget)),
        ("aether_rules_breakers_open", "Hooks that rest because they broke too often", get(&counters.breakers_open)),
        ("aether_rules_broken_off_total", "Calls that an open breaker refused", get(&counters.broken_off)),
        (
            "aether_rules_credentials_known_total",
            "Requests with a remembered credential",
            get(&counters.credentials_known),
        ),
        (
            "aether_rules_credentials_asked_total",
            "Requests for whose credential the rules were asked",
            get(&counters.credentials_asked),
        ),
        ("aether_rules_votes_known_total", "Remembered votes that answered", get(&counters.votes_known)),
        ("aether_shared_evicted_total", "Entries of shared tables that made room", evicted),
        ("aether_lua_vms", "Lua VMs that were built", get(&counters.vms)),
        (
            "aether_plugin_series_folded_total",
            "Values of plugins' metrics that were counted as other",
            host.metrics_folded(),
        ),
        ("aether_moves_dropped_total", "Joins and leaves that found their queue full", get(&counters.moves_dropped)),
        ("aether_farewells_dropped_total", "Disconnects that found their queue full", get(&counters.farewells_dropped)),
    ]
}
