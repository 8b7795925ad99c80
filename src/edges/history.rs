//! Reading and deleting what was said before.

use std::io::Write;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use warp::http::StatusCode;
use warp::reply::Response;

use super::answers::{json, json_bytes};
use super::caller::Caller;
use super::edge::Edge;
use super::frames::put_messages;
use super::wire::Fault;
use crate::kernel::hooks::Client;
use crate::kernel::hub::{HistoryFrom, Hub, Past};
use crate::kernel::message::ChannelName;

/// A page of history: at most so many messages, and about so many bytes.
const DEFAULT: u64 = 100;
const MAX: u64 = 1000;
const BYTES: usize = 4 << 20;

/// What of a channel's history is wanted; a parameter of the query, or a field of the frame.
#[derive(Deserialize)]
pub struct Ask {
    #[serde(default)]
    channel: Option<String>,
    #[serde(default)]
    after_seq: Option<u64>,
    #[serde(default)]
    before_seq: Option<u64>,
    #[serde(default)]
    limit: Option<u64>,
}

impl Ask {
    fn of(caller: &Caller) -> Result<Ask, Fault> {
        let given = |name: &str| caller.param(name).filter(|text| !text.is_empty());
        let number = |name: &str, wrong: &str| {
            given(name).map(|text| text.parse::<u64>().map_err(|_| Fault::Parameter(wrong.to_owned()))).transpose()
        };
        Ok(Ask {
            channel: given("channel").map(str::to_owned),
            after_seq: number("after_seq", "after_seq must be a non-negative integer")?,
            before_seq: number("before_seq", "before_seq must be a non-negative integer")?,
            limit: number("limit", LIMIT)?,
        })
    }

    fn from(&self) -> Result<HistoryFrom, Fault> {
        match (self.after_seq, self.before_seq) {
            (Some(_), Some(_)) => Err(Fault::Parameter("give after_seq or before_seq, not both".into())),
            (after, None) => Ok(HistoryFrom::After(after.unwrap_or(0))),
            (None, Some(before)) => Ok(HistoryFrom::Before(before)),
        }
    }
}

const LIMIT: &str = "limit must be a positive integer";

/// A page, as the fields of a JSON object.
pub async fn page(hub: &Hub, client: &Client, credential: bool, ask: &Ask, bytes: usize) -> Result<Vec<u8>, Fault> {
    let channel = channel_name(ask.channel.as_deref())?;
    let from = ask.from()?;
    let limit = ask.limit.unwrap_or(DEFAULT);
    if limit == 0 {
        return Err(Fault::Parameter(LIMIT.into()));
    }
    let page = hub.history(client, &channel, from, limit.min(MAX) as usize, bytes).await;
    let Past { page, epoch, withheld } = page.map_err(|error| Fault::read(error, credential, channel.as_str()))?;
    let mut out = format!("\"channel\":\"{channel}\",\"messages\":").into_bytes();
    put_messages(&page.publications, &mut out);
    let (first, last, more) = (page.extent.first, page.extent.last, page.more);
    let _ = write!(out, ",\"has_more\":{more},\"first_seq\":{first},\"last_seq\":{last},\"epoch\":\"{epoch}\"");
    if !withheld.is_empty() {
        let _ = write!(out, ",\"withheld\":{withheld:?}");
    }
    Ok(out)
}

fn channel_name(name: Option<&str>) -> Result<ChannelName, Fault> {
    let name = name.filter(|name| !name.is_empty()).ok_or(Fault::Missing("channel"))?;
    ChannelName::new(name).map_err(Fault::ChannelName)
}

pub async fn read(edge: Arc<Edge>, caller: Caller) -> Result<Response, Fault> {
    let client = edge.connect(&caller).await?;
    edge.load.pressure.admits_reads()?;
    let read = page(&edge.hub, &client, client.credential, &Ask::of(&caller)?, BYTES).await?;
    let body = [&b"{\"ok\":true,"[..], &read, b"}\n"].concat();
    Ok(json_bytes(StatusCode::OK, body))
}

pub async fn forget(edge: Arc<Edge>, caller: Caller) -> Result<Response, Fault> {
    edge.admin(&caller).await?;
    let channel = channel_name(caller.param("channel"))?;
    edge.hub.forget(&channel).await.map_err(|_| Fault::Store { doing: "delete history" })?;
    #[derive(Serialize)]
    struct Forgotten<'a> {
        ok: bool,
        channel: &'a str,
    }
    Ok(json(StatusCode::OK, &Forgotten { ok: true, channel: channel.as_str() }))
}
