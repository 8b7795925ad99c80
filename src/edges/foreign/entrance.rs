//! Where connections of a dialect begin: let in as any other, or refused in the dialect's own words.

use std::sync::Arc;

use hyper::upgrade::OnUpgrade;
use warp::http::Method;
use warp::http::header::{HeaderName, HeaderValue, RETRY_AFTER};
use warp::reply::Response;

use super::format::put_place;
use super::{ForeignDialect, No};
use crate::edges::answers::{put_retry_after, refuse_until};
use crate::edges::caller::Caller;
use crate::edges::edge::Edge;
use crate::edges::origin::Origins;
use crate::edges::patience::Patience;
use crate::edges::routes::{Answer, rendered};
use crate::edges::session::{self, Shared};
use crate::edges::sse::{self, Events};
use crate::edges::upgrade::{self, Voice};
use crate::edges::wire::Fault;
use crate::kernel::dialect::{Heard, Instead, Manners, Mount, NoEntry, Transport, Way};
use crate::kernel::session::Session;

/// `GET` of a path where a dialect is spoken.
pub async fn open(
    edge: Arc<Edge>,
    mut caller: Caller,
    mount: Mount,
    on_upgrade: Option<OnUpgrade>,
) -> Result<Response, Fault> {
    caller.request.transport = mount.transport.name();
    caller.request.dialect = mount.tongue.name();
    let tongue = mount.tongue.clone();
    let request = caller.request.clone();
    let refused = edge.clone();
    let begun = begin(edge, caller, mount, on_upgrade).await;
    begun.or_else(|fault| {
        let ((status, code), body, retry_ms) = (fault.numbers(), fault.body(), refused.retry_ms(&fault));
        let no = NoEntry { status, code, reason: body.reason, why: &body.message, decision: body.decision, retry_ms };
        let Some(Instead { status, headers, body }) = tongue.refuse(&request, &no) else {
            return Ok(refuse_until(&fault, retry_ms));
        };
        let mut response = rendered(Answer { status, headers, body });
        if retry_ms.is_some() && !response.headers().contains_key(RETRY_AFTER) {
            put_retry_after(&mut response, retry_ms);
        }
        Ok(response)
    })
}

async fn begin(
    edge: Arc<Edge>,
    mut caller: Caller,
    mount: Mount,
    on_upgrade: Option<OnUpgrade>,
) -> Result<Response, Fault> {
    let Mount { tongue, transport, manners } = mount;
    if edge.hub.is_stopping() {
        return Err(Fault::Stopping);
    }
    if caller.request.method != Method::GET.as_str() {
        return Err(Fault::Method);
    }
    let key = match transport {
        Transport::WebSocket => Some(upgrade::handshake_key(&caller)?.to_owned()),
        Transport::EventStream => None,
    };
    let here = Origins::new(manners.origins.clone());
    if caller.check_origin(&edge.settings.origins).is_err() {
        caller.check_origin(&here)?;
        // A browser sends the cookies of a host to all its ports; nobody vouches for those of such a page.
        caller.request.headers.retain(|(name, _)| name != "cookie");
    }
    let seat = edge.foreign.seat(tongue.name(), manners.connections)?;
    let client = match manners.handshake {
        None => edge.connect(&caller).await?,
        Some(most) => tokio::time::timeout(most, edge.connect(&caller)).await.map_err(|_| Fault::SlowRules)??,
    };
    let client = Arc::new(client);
    let sealed = manners.resume && transport == Transport::EventStream;
    let way = Way { transport, style: None };
    let deflate = key.is_some().then(|| edge.compression.agree(&caller.headers)).flatten();
    let format = edge.agreed(edge.foreign.of(&tongue, way, sealed), deflate);
    let mut session = Session::new(edge.hub.clone(), client, format);
    let (limits, patience) = (edge.settings.limits, Patience::new(edge.settings.limits.refusals_per_minute));
    let (shared, of) = (with_manners(&edge, transport, &manners), edge.clone());
    let mut dialect = ForeignDialect {
        edge: of,
        tongue,
        manners: manners.clone(),
        way,
        sealed,
        deflate,
        memory: None,
        limits,
        patience,
        _seat: seat,
    };
    let mut hello = Vec::new();
    let heard = Heard::Came(caller.with_meant_cookies(&edge.settings.origins)?.into_owned());
    let acts = dialect.tongue.hear(session.client(), heard, &mut dialect.memory).await.map_err(Fault::Broken)?;
    for act in acts {
        // Whoever cannot have what it came for is told so before anything begins.
        dialect.perform(&mut session, act, &mut hello).await.map_err(|no| match no {
            No::Fault(fault) => fault,
            No::Ending(ending) => Fault::OfDialect { code: "closed".into(), why: ending.reason().to_owned() },
        })?;
    }
    if sealed && !session.is_empty() {
        // Whoever loses the connection before the first event comes back here.
        put_place(session.positions(), &mut hello);
    }
    let permit = caller.peer.as_ref().map(|peer| peer.permit.clone());
    let mut response = match key {
        Some(key) => {
            let max = manners.max_frame.unwrap_or(edge.settings.max_message);
            let voice = Voice { dialect, session, shared, max_message: max, deflate, hello, permit };
            upgrade::switch(&edge, &key, on_upgrade, voice)?
        }
        None => {
            sse::stream(Events::new(hello, permit, |socket| session::run(socket, dialect, session, shared, Vec::new())))
        }
    };
    if transport == Transport::EventStream {
        sse::allow_origin(&edge.settings.origins, &caller, &mut response);
        sse::allow_origin(&here, &caller, &mut response);
    }
    for (name, value) in &manners.headers {
        if let (Ok(name), Ok(value)) = (HeaderName::try_from(name), HeaderValue::try_from(value)) {
            response.headers_mut().insert(name, value);
        }
    }
    Ok(response)
}

fn with_manners(edge: &Edge, transport: Transport, manners: &Manners) -> Arc<Shared> {
    let usual = match transport {
        Transport::WebSocket => &edge.ws,
        Transport::EventStream => &edge.sse,
    };
    if manners.beat.is_none() && manners.patience.is_none() && manners.write_timeout.is_none() {
        return usual.clone();
    }
    let mut pulse = usual.pulse;
    pulse.interval = manners.beat.unwrap_or(pulse.interval);
    pulse.timeout = pulse.timeout.map(|usual| manners.patience.unwrap_or(usual));
    pulse.write_timeout = manners.write_timeout.unwrap_or(pulse.write_timeout);
    Arc::new(Shared { pulse, roster: usual.roster.clone(), load: usual.load.clone() })
}
