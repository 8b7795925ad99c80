//! What lives on the hub, and sending some of it away: for the operator.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, Bytes};
use futures_util::Stream;
use serde::{Deserialize, Serialize};
use warp::http::StatusCode;
use warp::reply::Response;

use super::answers::{json, read_body};
use super::caller::Caller;
use super::edge::Edge;
use super::frames::{ack_word, timestamp};
use super::roster::Order;
use super::wire::{Fault, object};
use crate::kernel::hooks::Client;
use crate::kernel::message::ChannelName;
use crate::kernel::pattern::Pattern;

/// A page of a list.
const DEFAULT: usize = 100;
const MAX: usize = 1000;
const BODY: usize = 16 * 1024;
const BODY_TIME: Duration = Duration::from_secs(10);

#[derive(Serialize)]
struct ListedChannel<'a> {
    channel: &'a str,
    subscribers: usize,
    seq_id: u64,
    epoch: String,
    history: bool,
    ack: &'static str,
}

#[derive(Serialize)]
struct ListedSession<'a> {
    id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    user: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tenant: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ip: Option<std::net::IpAddr>,
    transport: &'a str,
    dialect: &'a str,
    connected: String,
}

impl<'a> From<&'a Client> for ListedSession<'a> {
    fn from(client: &'a Client) -> Self {
        ListedSession {
            id: &client.id,
            user: client.identity.user.as_deref(),
            tenant: client.identity.tenant.as_deref(),
            ip: client.ip,
            transport: client.transport,
            dialect: client.dialect,
            connected: timestamp(client.connected),
        }
    }
}

/// `limit` of a list, and the entry to go on behind.
fn window(caller: &Caller) -> Result<(usize, &str), Fault> {
    let limit = caller.param("limit").map_or(Ok(DEFAULT), str::parse).ok().filter(|limit| *limit > 0);
    let limit = limit.ok_or_else(|| Fault::Parameter("limit must be a positive integer".into()))?;
    Ok((limit.min(MAX), caller.param("after").unwrap_or("")))
}

/// `GET /api/v1/channels`: the channels that are in memory, by name.
pub async fn channels(edge: Arc<Edge>, caller: Caller) -> Result<Response, Fault> {
    #[derive(Serialize)]
    struct Listed<'a> {
        ok: bool,
        channels: Vec<ListedChannel<'a>>,
        has_more: bool,
    }
    edge.admin(&caller).await?;
    let (limit, after) = window(&caller)?;
    let pattern = caller.param("match").map(Pattern::parse).transpose();
    let pattern = pattern.map_err(|error| Fault::Parameter(format!("match: {error}")))?;
    let wanted = |name: &str| name > after && pattern.as_ref().is_none_or(|pattern| pattern.matches(name));
    let mut found = edge.hub.channels(wanted);
    let has_more = found.len() > limit;
    found.truncate(limit);
    let channels = found.iter().map(|channel| ListedChannel {
        channel: channel.name.as_str(),
        subscribers: channel.subscribers(),
        seq_id: channel.head().offset,
        epoch: channel.epoch.to_string(),
        history: channel.is_kept(),
        ack: ack_word(channel.policy().ack),
    });
    Ok(json(StatusCode::OK, &Listed { ok: true, channels: channels.collect(), has_more }))
}

#[derive(Serialize)]
struct ListedSessions<'a> {
    ok: bool,
    sessions: Vec<ListedSession<'a>>,
    has_more: bool,
}

fn list(mut clients: Vec<Arc<Client>>, caller: &Caller) -> Result<Response, Fault> {
    let (limit, after) = window(caller)?;
    clients.retain(|client| client.id.as_str() > after);
    clients.sort_by(|a, b| a.id.cmp(&b.id));
    let has_more = clients.len() > limit;
    let sessions = clients.iter().take(limit).map(|client| ListedSession::from(&**client)).collect();
    Ok(json(StatusCode::OK, &ListedSessions { ok: true, sessions, has_more }))
}

/// `GET /api/v1/sessions`: who is connected; `user` and `tenant` narrow it.
pub async fn sessions(edge: Arc<Edge>, caller: Caller) -> Result<Response, Fault> {
    edge.admin(&caller).await?;
    let matches = |wanted: Option<&str>, is: Option<&str>| wanted.is_none() || wanted == is;
    let (user, tenant) = (caller.param("user"), caller.param("tenant"));
    let clients = edge.ws.roster.clients(|client| {
        matches(user, client.identity.user.as_deref()) && matches(tenant, client.identity.tenant.as_deref())
    });
    list(clients, &caller)
}

/// `GET /api/v1/presence`: who listens to a channel.
pub async fn presence(edge: Arc<Edge>, caller: Caller) -> Result<Response, Fault> {
    edge.admin(&caller).await?;
    let name = caller.param("channel").filter(|name| !name.is_empty()).ok_or(Fault::Missing("channel"))?;
    let name = ChannelName::new(name).map_err(Fault::ChannelName)?;
    list(edge.hub.listeners(&name), &caller)
}

/// Whom an order means: everything that is given must fit, and something must be given.
#[derive(Deserialize)]
struct Meant {
    session: Option<String>,
    user: Option<String>,
    tenant: Option<String>,
    channel: Option<String>,
}

impl Meant {
    fn check(&self) -> Result<(), Fault> {
        if self.session.is_none() && self.user.is_none() && self.tenant.is_none() {
            return Err(Fault::Missing("session, user or tenant"));
        }
        Ok(())
    }

    fn means(&self, client: &Client) -> bool {
        let fits = |wanted: &Option<String>, is: Option<&str>| wanted.is_none() || wanted.as_deref() == is;
        fits(&self.session, Some(&client.id))
            && fits(&self.user, client.identity.user.as_deref())
            && fits(&self.tenant, client.identity.tenant.as_deref())
    }
}

#[derive(Serialize)]
struct Ordered {
    ok: bool,
    /// Connections that were told.
    sessions: usize,
}

async fn meant<B: Buf>(
    edge: &Edge,
    caller: &Caller,
    body: impl Stream<Item = Result<B, warp::Error>> + Send,
) -> Result<Meant, Fault> {
    edge.admin(caller).await?;
    let body: Bytes = read_body(caller, body, BODY, BODY_TIME).await?;
    let meant: Meant = object(&body)?;
    meant.check()?;
    Ok(meant)
}

/// `POST /api/v1/disconnect`: with close code 4403, which tells clients to stay away.
pub async fn disconnect<B: Buf>(
    edge: Arc<Edge>,
    caller: Caller,
    body: impl Stream<Item = Result<B, warp::Error>> + Send,
) -> Result<Response, Fault> {
    let meant = meant(&edge, &caller, body).await?;
    let sessions = edge.ws.roster.order(|client| meant.means(client), &Order::Leave);
    Ok(json(StatusCode::OK, &Ordered { ok: true, sessions }))
}

/// `POST /api/v1/unsubscribe`: ends a subscription; the client is told by an `unsubscribed`.
pub async fn unsubscribe<B: Buf>(
    edge: Arc<Edge>,
    caller: Caller,
    body: impl Stream<Item = Result<B, warp::Error>> + Send,
) -> Result<Response, Fault> {
    let meant = meant(&edge, &caller, body).await?;
    let name = meant.channel.as_deref().ok_or(Fault::Missing("channel"))?;
    let order = Order::Unsubscribe(ChannelName::new(name).map_err(Fault::ChannelName)?);
    let sessions = edge.ws.roster.order(|client| meant.means(client), &order);
    Ok(json(StatusCode::OK, &Ordered { ok: true, sessions }))
}
