//! Publishing over HTTP: one message or many, as JSON or as bare bytes.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, Bytes};
use futures_util::Stream;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::value::RawValue;
use warp::http::StatusCode;
use warp::reply::Response;

use super::answers::{json, read_body};
use super::caller::Caller;
use super::edge::Edge;
use super::frames::{Published, RESERVED_EVENTS, ack_word};
use super::wire::{ErrorBody, Fault, object};
use crate::kernel::hooks::Client;
use crate::kernel::hub::{Receipt, Rehearsal};
use crate::kernel::message::{ChannelName, Draft, Media, Message};

/// A message as publishers write it in JSON. Go's structs are called with capitals where nobody tagged them.
#[derive(Deserialize)]
pub struct Written<'a> {
    #[serde(default, borrow, alias = "Channel")]
    channel: Option<Cow<'a, str>>,
    /// `null` is a payload; only its absence is none.
    #[serde(default, borrow, deserialize_with = "present", alias = "Payload")]
    payload: Option<&'a RawValue>,
    #[serde(default, borrow)]
    event: Option<Cow<'a, str>>,
    #[serde(default, borrow)]
    meta: Option<&'a RawValue>,
    #[serde(default, borrow)]
    idempotency_key: Option<Cow<'a, str>>,
    /// Seconds.
    #[serde(default)]
    ttl: Option<f64>,
}

fn present<'de: 'a, 'a, D: Deserializer<'de>>(from: D) -> Result<Option<&'a RawValue>, D::Error> {
    <&RawValue>::deserialize(from).map(Some)
}

fn not_empty<'a>(text: Option<Cow<'a, str>>) -> Option<Cow<'a, str>> {
    text.filter(|text| !text.is_empty())
}

impl Written<'_> {
    pub fn draft(self) -> Result<Draft, Fault> {
        let channel = not_empty(self.channel).ok_or(Fault::Missing("channel"))?;
        let payload = self.payload.ok_or(Fault::Missing("payload"))?;
        let channel = ChannelName::new(&channel).map_err(Fault::ChannelName)?;
        let message = Message {
            payload: Bytes::copy_from_slice(payload.get().as_bytes()),
            media: Media::Json,
            content_type: None,
            event: not_empty(self.event).map(event_name).transpose()?,
            meta: self.meta.map(|meta| Bytes::copy_from_slice(meta.get().as_bytes())),
            ..Message::default()
        };
        Ok(Draft {
            idempotency_key: not_empty(self.idempotency_key).map(idempotency_key).transpose()?,
            ttl: self.ttl.map(seconds).transpose()?,
            ..Draft::new(channel, message)
        })
    }
}

fn event_name(name: Cow<'_, str>) -> Result<Box<str>, Fault> {
    if name.len() > 128 || name.chars().any(char::is_control) {
        return Err(Fault::Parameter("event: at most 128 bytes, no line breaks or other control characters".into()));
    }
    if RESERVED_EVENTS.contains(&&*name) {
        return Err(Fault::Parameter(format!("event: {name} is a name that the stream itself uses; choose another")));
    }
    Ok(name.into())
}

fn idempotency_key(key: Cow<'_, str>) -> Result<Box<str>, Fault> {
    if key.len() > 256 {
        return Err(Fault::Parameter("idempotency_key: at most 256 bytes".into()));
    }
    Ok(key.into())
}

fn seconds(ttl: f64) -> Result<Duration, Fault> {
    let wrong = || Fault::Parameter("ttl: a positive number of seconds, at most ten years".into());
    if !(ttl > 0.0 && ttl <= 315_360_000.0) {
        return Err(wrong());
    }
    Duration::try_from_secs_f64(ttl).map_err(|_| wrong())
}

#[derive(Serialize)]
struct Done<'a> {
    ok: bool,
    #[serde(flatten)]
    published: Published<'a>,
}

pub async fn one<B: Buf>(
    edge: Arc<Edge>,
    caller: Caller,
    body: impl Stream<Item = Result<B, warp::Error>> + Send,
) -> Result<Response, Fault> {
    if edge.hub.is_stopping() {
        return Err(Fault::Stopping);
    }
    let is_rehearsal = caller.flag("dry_run")?;
    let client = edge.connect(&caller).await?;
    let body = read_body(&caller, body, edge.settings.max_payload, edge.settings.body_timeout).await?;
    let draft = match caller.param("channel") {
        Some(channel) => raw_draft(&caller, channel, body)?,
        None => object::<Written<'_>>(&body)?.draft()?,
    };
    if is_rehearsal {
        return rehearse(&edge, &client, &draft).await;
    }
    let channel = draft.channel.clone();
    let receipt = edge.hub.publish(&client, draft).await;
    let receipt = receipt.map_err(|error| Fault::publish(error, client.credential, channel.as_str()))?;
    edge.hub.let_readers_follow(std::iter::once(&receipt)).await;
    Ok(json(StatusCode::OK, &Done { ok: true, published: Published::from(&receipt) }))
}

#[derive(Serialize)]
struct Rehearsed<'a> {
    ok: bool,
    dry_run: bool,
    channel: &'a str,
    /// Connections that it would reach now.
    subscribers: usize,
    ack: &'static str,
    /// What the channel keeps; absent: nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    history: Option<Keeps>,
}

#[derive(Serialize)]
struct Keeps {
    #[serde(skip_serializing_if = "Option::is_none")]
    count: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    seconds: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    bytes: Option<u64>,
}

/// `dry_run=1`: what would happen. A refusal is answered as the real one would be.
async fn rehearse(edge: &Edge, client: &Client, draft: &Draft) -> Result<Response, Fault> {
    let channel = draft.channel.as_str();
    let outcome = edge.hub.rehearse(client, draft).await;
    let Rehearsal { readers, policy } = outcome.map_err(|error| Fault::publish(error, client.credential, channel))?;
    let history = policy.history.map(|kept| Keeps {
        count: kept.count,
        seconds: kept.age.map(|age| age.as_secs()),
        bytes: kept.bytes,
    });
    let ack = ack_word(policy.ack);
    Ok(json(StatusCode::OK, &Rehearsed { ok: true, dry_run: true, channel, subscribers: readers, ack, history }))
}

/// It is kept with each message.
const MAX_CONTENT_TYPE: usize = 256;

/// The body is the payload, any bytes; what else there is to say stands in the query.
fn raw_draft(caller: &Caller, channel: &str, payload: Bytes) -> Result<Draft, Fault> {
    let channel = ChannelName::new(channel).map_err(Fault::ChannelName)?;
    let content_type = caller.request.header("content-type").unwrap_or("").trim();
    if content_type.len() > MAX_CONTENT_TYPE {
        return Err(Fault::Parameter(format!("Content-Type: at most {MAX_CONTENT_TYPE} bytes")));
    }
    let named = content_type.split(';').next().unwrap_or("").trim();
    let is_json = || serde_json::from_slice::<&RawValue>(&payload).map(|_| ());
    let is_text = || std::str::from_utf8(&payload).is_ok();
    let media = match named {
        "application/json" => {
            is_json().map_err(|error| Fault::Json(error.to_string()))?;
            Media::Json
        }
        // What curl says when it was told nothing.
        "" | "application/x-www-form-urlencoded" => match () {
            () if is_json().is_ok() => Media::Json,
            () if is_text() => Media::Text,
            () => Media::Binary,
        },
        other if other.starts_with("text/") && is_text() => Media::Text,
        other if other.ends_with("+json") && is_json().is_ok() => Media::Json,
        _ => Media::Binary,
    };
    let worth_saying = !matches!(named, "" | "application/json" | "application/x-www-form-urlencoded");
    let text = |name| caller.param(name).filter(|text| !text.is_empty()).map(Cow::Borrowed);
    let ttl = caller.param("ttl").map(|ttl| ttl.parse().unwrap_or(f64::NAN));
    let message = Message {
        payload,
        media,
        content_type: worth_saying.then(|| content_type.into()),
        event: text("event").map(event_name).transpose()?,
        meta: None,
        ..Message::default()
    };
    Ok(Draft {
        idempotency_key: text("idempotency_key").map(idempotency_key).transpose()?,
        ttl: ttl.map(seconds).transpose()?,
        ..Draft::new(channel, message)
    })
}

#[derive(Serialize)]
#[serde(untagged)]
enum Item<'a> {
    Done {
        index: usize,
        status: &'static str,
        #[serde(flatten)]
        published: Published<'a>,
    },
    Failed {
        index: usize,
        status: &'static str,
        error: ErrorBody<'a>,
    },
}

pub async fn batch<B: Buf>(
    edge: Arc<Edge>,
    caller: Caller,
    body: impl Stream<Item = Result<B, warp::Error>> + Send,
) -> Result<Response, Fault> {
    #[derive(Deserialize)]
    struct Many<'a> {
        #[serde(default, borrow, alias = "Messages")]
        messages: Option<Vec<&'a RawValue>>,
    }
    if edge.hub.is_stopping() {
        return Err(Fault::Stopping);
    }
    let client = edge.connect(&caller).await?;
    let body = read_body(&caller, body, edge.settings.max_batch_bytes, edge.settings.body_timeout).await?;
    let Many { messages } = object(&body)?;
    let messages = messages.filter(|messages| !messages.is_empty()).ok_or(Fault::EmptyBatch)?;
    if messages.len() > edge.settings.max_batch {
        return Err(Fault::LongBatch(edge.settings.max_batch));
    }
    let max = edge.settings.max_payload;
    let drafts = messages.iter().map(|raw| {
        if raw.get().len() > max {
            return Err(Fault::TooLarge { max });
        }
        object::<Written<'_>>(raw.get().as_bytes())?.draft()
    });
    // Those that are well formed go together; the others keep their place in the answer.
    let (mut good, mut faults) = (Vec::new(), Vec::new());
    for draft in drafts {
        faults.push(draft.map(|draft| good.push(draft)).err());
    }
    let names: Vec<_> = good.iter().map(|draft| draft.channel.clone()).collect();
    let results = edge.hub.publish_batch(&client, good).await;
    let mut results = results
        .into_iter()
        .zip(names)
        .map(|(result, channel)| result.map_err(|error| Fault::publish(error, client.credential, channel.as_str())));
    let outcomes: Vec<Result<Receipt, Fault>> = faults
        .into_iter()
        .map(|fault| fault.map_or_else(|| results.next().unwrap_or(Err(Fault::Stopping)), Err))
        .collect();
    edge.hub.let_readers_follow(outcomes.iter().filter_map(|outcome| outcome.as_ref().ok())).await;
    #[derive(Serialize)]
    struct Results<'a> {
        ok: bool,
        results: Vec<Item<'a>>,
    }
    let results = outcomes.iter().enumerate().map(|(index, outcome)| match outcome {
        Ok(receipt) => Item::Done { index, status: "success", published: receipt.into() },
        Err(fault) => Item::Failed { index, status: "error", error: fault.body() },
    });
    Ok(json(StatusCode::OK, &Results { ok: true, results: results.collect() }))
}
