//! `GET /api/v1/rules/tail`: what is said and decided in some channels, as it happens, for an operator who looks on.
//!
//! The stream is a reader like any other, with a position in each channel and no queue of messages; but no rule is asked
//! about it, and nobody counts or hears of it.

use std::collections::HashSet;
use std::future::{Future, poll_fn};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::Poll;
use std::time::Duration;

use serde_json::json;
use tokio::sync::mpsc::Receiver;
use tokio::time::Instant;
use warp::Reply;
use warp::http::header::{self, HeaderValue};
use warp::reply::Response;

use super::caller::Caller;
use super::edge::Edge;
use super::frames::{put_data, put_event_name, put_payload, timestamp};
use super::line::Socket;
use super::sse::{Events, SseSocket};
use super::wire::{Ending, Fault};
use crate::kernel::format::{Format, Notice};
use crate::kernel::hooks::{Client, Sight};
use crate::kernel::hub::Hub;
use crate::kernel::log::LogError;
use crate::kernel::message::{ChannelName, Epoch, Position, Publication};
use crate::kernel::pattern::Pattern;
use crate::kernel::session::{Batch, Session};

/// How often it looks for channels that have come into use, for a user's, and for other rules.
const LOOK: Duration = Duration::from_millis(250);
/// Channels of one tail; it is told how many more there are.
const CHANNELS: usize = 1000;

/// What an operator asked for.
#[derive(Clone, Debug, Default)]
pub struct Asked {
    pub channel: Option<Pattern>,
    pub user: Option<String>,
    pub view: Option<String>,
    pub full: bool,
}

/// What whoever hosts the rules has for a tail.
pub struct Tail {
    /// JSON, a text each.
    pub decisions: Receiver<Vec<u8>>,
    /// Decisions that found no place there.
    pub lost: Arc<AtomicU64>,
    /// How it sees a channel now.
    pub sight: Box<dyn Fn(&ChannelName) -> Sight + Send + Sync>,
}

/// Events `message` and `lost`.
pub struct TailFormat;

impl Format for TailFormat {
    fn publication(&self, channel: &ChannelName, _: Epoch, publication: &Publication, out: &mut Vec<u8>) {
        let (offset, time) = (publication.offset, timestamp(publication.time));
        let mut json =
            format!("{{\"channel\":\"{channel}\",\"seq_id\":{offset},\"timestamp\":\"{time}\",").into_bytes();
        put_payload(publication, &mut json);
        json.push(b'}');
        put("message", &json, out);
    }

    fn notice(&self, channel: &ChannelName, at: Position, notice: &Notice, out: &mut Vec<u8>) {
        match notice {
            // Something must be written, or it is not said.
            Notice::Live => out.extend_from_slice(b":\n\n"),
            Notice::Gap(gap) => {
                let lost = json!({
                    "channel": channel.as_str(), "cause": gap.cause.as_str(), "missing": gap.missing, "seq_id": at.offset,
                });
                put("lost", lost.to_string().as_bytes(), out);
            }
        }
    }
}

fn put(event: &str, json: &[u8], out: &mut Vec<u8>) {
    put_event_name(event, out);
    put_data(json, out);
    out.push(b'\n');
}

pub async fn open(edge: Arc<Edge>, caller: Caller) -> Result<Response, Fault> {
    let client = edge.admin(&caller).await?;
    if edge.hub.is_stopping() {
        return Err(Fault::Stopping);
    }
    let given = |name| caller.param(name).filter(|text| !text.is_empty()).map(str::to_owned);
    let channel = given("channel").map(|text| Pattern::parse(&text)).transpose();
    let full = caller.flag("full")?;
    let asked = Asked {
        channel: channel.map_err(|error| Fault::Parameter(format!("channel: {error}")))?,
        user: given("user"),
        view: given("view"),
        full,
    };
    let tail = edge.beside.operator.tail(&asked)?;
    note(&client, &asked);
    let session = Session::watching(edge.hub.clone(), Arc::new(client), edge.formats.tail.clone());
    let mut watch = Watch { asked, tail, session, known: HashSet::new(), left_out: 0 };
    // What is said after the answer has begun is seen.
    watch.look(true).await.map_err(|_| Fault::Store { doing: "open the channel" })?;
    let pulse = edge.sse.pulse;
    let permit = caller.peer.as_ref().map(|peer| peer.permit.clone());
    let events = Events::new(b": tail\n\n".to_vec(), permit, |socket| async move {
        watch.run(socket, pulse.interval, pulse.write_timeout).await
    });
    let mut response = warp::reply::stream(events).into_response();
    for (name, value) in [(header::CONTENT_TYPE, "text/event-stream"), (header::CACHE_CONTROL, "no-store")] {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    Ok(response)
}

/// Who looks at what others say is written down.
fn note(by: &Client, asked: &Asked) {
    let user = by.identity.user.as_deref().unwrap_or("an admin key");
    let ip = by.ip.map(|ip| ip.to_string()).unwrap_or_default();
    let channel = asked.channel.as_ref().map(Pattern::to_string).unwrap_or_default();
    let of = asked.user.as_deref().unwrap_or_default();
    let view = asked.view.as_deref().unwrap_or_default();
    if asked.full {
        tracing::warn!(target: "aether::audit", by = user, ip, channel, user = of, "a tail shows payloads in full");
    } else {
        tracing::info!(target: "aether::audit", by = user, ip, channel, user = of, view, "a tail began");
    }
}

struct Watch {
    asked: Asked,
    tail: Tail,
    session: Session,
    /// Channels that it watches.
    known: HashSet<ChannelName>,
    /// Channels beyond those that it may watch.
    left_out: usize,
}

enum Woken {
    Messages,
    Decision(Option<Vec<u8>>),
    Time,
}

impl Watch {
    /// Until its reader is gone, or takes nothing for too long, or the hub ends.
    async fn run(mut self, mut socket: SseSocket, beat: Duration, patience: Duration) -> Ending {
        let (mut batch, mut out) = (Batch::default(), Vec::new());
        let mut beat_at = Instant::now() + beat;
        let mut look_at = Instant::now() + LOOK;
        loop {
            let writable = poll_fn(|cx| socket.poll_writable(cx));
            if !matches!(tokio::time::timeout(patience, writable).await, Ok(Ok(()))) {
                return Ending::Dead;
            }
            let now = Instant::now();
            if look_at <= now {
                if self.session.hub().is_stopping() {
                    return Ending::Draining;
                }
                if let Err(error) = self.look(false).await {
                    tracing::error!(%error, "a tail could not open a channel");
                    return Ending::Dead;
                }
                look_at = now + LOOK;
            }
            self.put_lost(&mut out);
            while out.len() < socket.room()
                && let Ok(decision) = self.tail.decisions.try_recv()
            {
                put("decision", &decision, &mut out);
            }
            if self.session.wants_log() && self.session.fetch().await.is_err() {
                return Ending::Dead;
            }
            // A position is never further than the socket's own buffer: it takes the whole batch or nothing of it.
            if self.session.fill(&mut batch, socket.room()).is_err() {
                return Ending::Lagged;
            }
            if out.is_empty() && batch.is_empty() && beat_at <= now {
                out.extend_from_slice(b":\n\n");
            }
            out.extend_from_slice(&batch.bytes);
            self.session.commit(&batch, batch.bytes.len(), &mut Vec::new());
            if !out.is_empty() {
                beat_at = now + beat;
                if socket.try_write(&out).is_err() {
                    return Ending::Gone;
                }
                out.clear();
                tokio::task::yield_now().await;
                continue;
            }
            match self.woken(look_at.min(beat_at)).await {
                Woken::Messages | Woken::Time => {}
                Woken::Decision(Some(decision)) => put("decision", &decision, &mut out),
                // Whoever hosts the rules is gone.
                Woken::Decision(None) => return Ending::Draining,
            }
        }
    }

    fn put_lost(&mut self, out: &mut Vec<u8>) {
        let lost = self.tail.lost.swap(0, Ordering::Relaxed);
        if lost > 0 {
            put("lost", json!({"decisions": lost}).to_string().as_bytes(), out);
        }
        if self.left_out > 0 {
            put("lost", json!({"channels": self.left_out}).to_string().as_bytes(), out);
            self.left_out = 0;
        }
    }

    async fn woken(&mut self, at: Instant) -> Woken {
        let Watch { tail, session, .. } = self;
        let waiting = poll_fn(|cx| {
            if session.poll_ready(cx).is_ready() {
                return Poll::Ready(Woken::Messages);
            }
            tail.decisions.poll_recv(cx).map(Woken::Decision)
        });
        tokio::time::timeout_at(at, waiting).await.unwrap_or(Woken::Time)
    }

    /// Watches the channels of now, each as it is to be seen now.
    fn look(&mut self, first: bool) -> impl Future<Output = Result<(), LogError>> + Send {
        let wanted = wanted(self.session.hub(), &self.asked);
        async move {
            let had_left_out = self.known.len() >= CHANNELS;
            let all = wanted.len();
            let gone: Vec<_> = self.known.iter().filter(|name| !wanted.contains(*name)).cloned().collect();
            for name in gone {
                self.session.unsubscribe(name.as_str());
                self.known.remove(&name);
            }
            for name in wanted {
                let is_new = !self.known.contains(&name);
                if is_new && self.known.len() >= CHANNELS {
                    continue;
                }
                // What came into use since the last look is in memory from its first message on.
                let from_its_first = is_new && !first && self.asked.user.is_none();
                let sight = (self.tail.sight)(&name);
                self.session.watch(name.clone(), from_its_first, sight).await?;
                self.known.insert(name);
                tokio::task::consume_budget().await;
            }
            if !had_left_out {
                self.left_out = all.saturating_sub(self.known.len());
            }
            Ok(())
        }
    }
}

/// The channels that a tail is about: the one that is named, those of a pattern that are in use, those that a user listens to.
fn wanted(hub: &Hub, asked: &Asked) -> HashSet<ChannelName> {
    let named = asked.channel.as_ref().and_then(|pattern| ChannelName::new(&pattern.to_string()).ok());
    if let (Some(name), None) = (&named, &asked.user) {
        return HashSet::from([name.clone()]);
    }
    let of_user = |client: &Client| client.identity.user.as_deref() == asked.user.as_deref();
    let fits = |name: &str| asked.channel.as_ref().is_none_or(|pattern| pattern.matches(name));
    let channels = hub.channels(fits).into_iter();
    channels
        .filter(|channel| asked.user.is_none() || channel.has_listener(of_user))
        .map(|channel| channel.name.clone())
        .collect()
}
