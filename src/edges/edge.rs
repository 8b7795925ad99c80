//! What all requests share, and who a request comes from.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use warp::reply::Response;

use super::answers::refuse_until;
use super::caller::Caller;
use super::deflate::{Agreement, Compression};
use super::first::FirstFormat;
use super::frames::{SseFormat, WsFormat};
use super::load::Load;
use super::native::Limits;
use super::operator::Operator;
use super::origin::Origins;
use super::poll::PollFormat;
use super::routes::Routes;
use super::tail::TailFormat;
use super::wire::Fault;
use super::{foreign, metrics, session};
use crate::kernel::dialect::Dialects;
use crate::kernel::format::Format;
use crate::kernel::hooks::Client;
use crate::kernel::hub::Hub;

/// What the operator has set.
#[derive(Clone, Debug)]
pub struct Settings {
    pub max_payload: usize,
    pub max_batch_bytes: usize,
    pub max_batch: usize,
    pub max_message: usize,
    /// Whether messages are compressed for those who offer it, and from which size on.
    pub compression: bool,
    pub compress_from: usize,
    /// How long a request's body may take.
    pub body_timeout: Duration,
    pub limits: Limits,
    pub origins: Origins,
    /// WebSockets that do not offer our subprotocol are spoken to as the first Aether did.
    pub first_aether: bool,
    /// When a stream that is lost comes back at the earliest, and over how long these are spread.
    pub sse_retry: (Duration, Duration),
}

/// What others than the edges answer.
pub struct Beside {
    pub counters: metrics::Others,
    pub plugins_metrics: metrics::Page,
    pub operator: Arc<dyn Operator>,
    pub routes: Arc<dyn Routes>,
    pub dialects: Arc<dyn Dialects>,
}

/// What all requests share.
pub struct Edge {
    pub hub: Arc<Hub>,
    pub settings: Settings,
    pub ws: Arc<session::Shared>,
    pub sse: Arc<session::Shared>,
    /// Where connections live once they are more than a request.
    pub delivery: tokio::runtime::Handle,
    pub ready: AtomicBool,
    pub load: Arc<Load>,
    pub beside: Beside,
    pub formats: Formats,
    pub foreign: foreign::Formats,
    pub compression: Compression,
    sessions: AtomicU64,
    /// Tells the sessions of this run from those of another.
    pub(super) run: u64,
}

/// One of each, so that all its readers share its bytes.
pub struct Formats {
    pub ws: Arc<dyn Format>,
    pub first: Arc<dyn Format>,
    /// Indexed by several channels, then by bare payloads.
    pub sse: [[Arc<dyn Format>; 2]; 2],
    pub poll: Arc<dyn Format>,
    pub tail: Arc<dyn Format>,
}

impl Formats {
    fn new() -> Formats {
        let sse = |several, bare| -> Arc<dyn Format> { Arc::new(SseFormat { several, bare }) };
        Formats {
            ws: Arc::new(WsFormat),
            first: Arc::new(FirstFormat),
            poll: Arc::new(PollFormat),
            tail: Arc::new(TailFormat),
            sse: [[sse(false, false), sse(false, true)], [sse(true, false), sse(true, true)]],
        }
    }
}

impl Edge {
    pub fn new(
        hub: Arc<Hub>,
        settings: Settings,
        ws: Arc<session::Shared>,
        sse: Arc<session::Shared>,
        delivery: tokio::runtime::Handle,
        beside: Beside,
    ) -> Arc<Edge> {
        Arc::new(Edge {
            run: hub.now(),
            load: ws.load.clone(),
            hub,
            compression: Compression::new(settings.compression, settings.compress_from),
            settings,
            ws,
            sse,
            delivery,
            ready: AtomicBool::new(false),
            beside,
            formats: Formats::new(),
            foreign: foreign::Formats::default(),
            sessions: AtomicU64::new(0),
        })
    }

    /// A WebSocket's format, as it was agreed with the client.
    pub fn agreed(&self, format: Arc<dyn Format>, deflate: Option<Agreement>) -> Arc<dyn Format> {
        if deflate.is_some() { self.compression.of(format) } else { format }
    }

    /// Asks the rules who this is.
    pub async fn connect(&self, caller: &Caller) -> Result<Client, Fault> {
        if let Some(why) = caller.peer.as_ref().and_then(|peer| peer.unwelcome) {
            return Err(why.into());
        }
        let request = caller.with_meant_cookies(&self.settings.origins)?;
        let api = request.transport == "http";
        let identity = if api {
            self.hub.hooks().connect(&request).await
        } else {
            // Before the rules are asked: that is what costs.
            self.load.pressure.admits_newcomers()?;
            let _arrival = self.load.governor.arrival();
            self.hub.hooks().connect(&request).await
        };
        let identity = identity.map_err(|refusal| Fault::Unauthorized { refusal, api })?;
        if let (false, Some(peer)) = (api, &caller.peer) {
            peer.permit.sit(&self.load.tenants, identity.tenant.as_deref().unwrap_or_default())?;
        }
        let number = self.sessions.fetch_add(1, Ordering::Relaxed);
        Ok(Client {
            id: format!("{:x}-{number:x}", self.run),
            ip: request.ip,
            dialect: request.dialect,
            transport: request.transport,
            // A cookie may be anything; it was a credential if the rules knew somebody by it.
            credential: request.bearer.is_some() || identity.user.is_some(),
            identity,
            connected: self.hub.now(),
        })
    }

    /// Says no, and when to come back if everybody else wants to as well.
    pub fn refuse(&self, fault: &Fault) -> Response {
        refuse_until(fault, self.retry_ms(fault))
    }

    /// Takes a place in the line, where everybody else wants to come back too.
    pub fn retry_ms(&self, fault: &Fault) -> Option<u64> {
        let turn = fault.waits_its_turn().then(|| self.load.governor.place().as_millis() as u64);
        turn.or(fault.retry_ms())
    }

    pub async fn admin(&self, caller: &Caller) -> Result<Client, Fault> {
        let client = self.connect(caller).await?;
        match client.identity.grants.admin {
            true => Ok(client),
            false if client.credential => Err(Fault::NotAdmin),
            false => Err(Fault::NoCredential),
        }
    }
}
