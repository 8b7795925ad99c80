//! Reading and deleting what was said before.

use std::sync::Arc;

use serde::Serialize;
use warp::http::StatusCode;
use warp::reply::Response;

use super::http::{Caller, Edge, json, json_bytes};
use super::native::{put_payload, timestamp};
use super::wire::Fault;
use crate::kernel::hub::HistoryFrom;
use crate::kernel::message::ChannelName;

/// A page of history: at most so many messages, and about so many bytes.
const HISTORY_DEFAULT: usize = 100;
const HISTORY_MAX: usize = 1000;
const HISTORY_BYTES: usize = 4 << 20;

pub async fn read(edge: Arc<Edge>, caller: Caller) -> Result<Response, Fault> {
    let client = edge.connect(&caller).await?;
    let channel = channel_param(&caller)?;
    let number = |name: &str| caller.param(name).filter(|text| !text.is_empty()).map(|text| text.parse::<u64>());
    let wrong = |what: &str| Fault::Parameter(what.to_owned());
    let after = number("after_seq").transpose().map_err(|_| wrong("after_seq must be a non-negative integer"))?;
    let before = number("before_seq").transpose().map_err(|_| wrong("before_seq must be a non-negative integer"))?;
    let limit = number("limit").transpose().ok().filter(|limit| *limit != Some(0));
    let limit = limit.ok_or_else(|| wrong("limit must be a positive integer"))?;
    let from = match (after, before) {
        (Some(_), Some(_)) => return Err(wrong("give after_seq or before_seq, not both")),
        (after, None) => HistoryFrom::After(after.unwrap_or(0)),
        (None, Some(before)) => HistoryFrom::Before(before),
    };
    let count = limit.map_or(HISTORY_DEFAULT, |limit| limit.min(HISTORY_MAX as u64) as usize);
    let page = edge.hub.history(&client, &channel, from, count, HISTORY_BYTES).await;
    let (page, epoch) = page.map_err(|error| Fault::read(error, client.credential, channel.as_str()))?;

    let mut out = format!("{{\"ok\":true,\"channel\":\"{channel}\",\"messages\":[").into_bytes();
    for (i, publication) in page.publications.iter().enumerate() {
        let comma = if i > 0 { "," } else { "" };
        let (offset, time) = (publication.offset, timestamp(publication.time));
        out.extend_from_slice(format!("{comma}{{\"seq_id\":{offset},\"timestamp\":\"{time}\",").as_bytes());
        put_payload(publication, &mut out);
        out.push(b'}');
    }
    let (first, last, more) = (page.extent.first, page.extent.last, page.more);
    let end = format!("],\"has_more\":{more},\"first_seq\":{first},\"last_seq\":{last},\"epoch\":\"{epoch}\"}}\n");
    out.extend_from_slice(end.as_bytes());
    Ok(json_bytes(StatusCode::OK, out))
}

fn channel_param(caller: &Caller) -> Result<ChannelName, Fault> {
    let name = caller.param("channel").filter(|name| !name.is_empty()).ok_or(Fault::Missing("channel"))?;
    ChannelName::new(name).map_err(Fault::ChannelName)
}

pub async fn forget(edge: Arc<Edge>, caller: Caller) -> Result<Response, Fault> {
    edge.admin(&caller).await?;
    let channel = channel_param(&caller)?;
    edge.hub.forget(&channel).await.map_err(|_| Fault::Store { doing: "delete history" })?;
    #[derive(Serialize)]
    struct Forgotten<'a> {
        ok: bool,
        channel: &'a str,
    }
    Ok(json(StatusCode::OK, &Forgotten { ok: true, channel: channel.as_str() }))
}
