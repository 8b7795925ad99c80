//! Long poll: a session that lives for one answer, with the cursor of an event stream.

use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use tokio::time::Instant;
use warp::http::StatusCode;
use warp::reply::Response;

use super::answers::json_bytes;
use super::caller::Caller;
use super::cursor;
use super::edge::Edge;
use super::frames::put_json_event;
use super::listening::Asked;
use super::roster::Member;
use super::wire::Fault;
use crate::kernel::format::{Format, Notice};
use crate::kernel::message::{ChannelName, Epoch, Position, Publication};
use crate::kernel::session::{Batch, Session};

/// How long an answer waits for something to say, in seconds.
const WAIT: u64 = 25;
const MAX_WAIT: u64 = 60;
/// About how much one answer carries; who has more to catch up asks again.
const ROOM: usize = 256 * 1024;

/// The frames, with a comma behind each.
pub struct PollFormat;

impl Format for PollFormat {
    fn publication(&self, channel: &ChannelName, _epoch: Epoch, publication: &Publication, out: &mut Vec<u8>) {
        put_json_event(channel, Ok(publication), out);
        out.push(b',');
    }

    fn notice(&self, channel: &ChannelName, at: Position, notice: &Notice, out: &mut Vec<u8>) {
        if *notice == Notice::Live {
            return; // Each poll resumes; that it has caught up is no news, and an answer with it would never wait.
        }
        put_json_event(channel, Err((at, notice)), out);
        out.push(b',');
    }
}

pub async fn poll(edge: Arc<Edge>, caller: Caller) -> Result<Response, Fault> {
    if edge.hub.is_stopping() {
        return Err(Fault::Stopping);
    }
    caller.check_origin(&edge.settings.origins)?;
    let asked = Asked::of(&edge, &caller)?;
    let wait = caller.param("wait").map_or(Ok(WAIT), str::parse::<u64>).ok().filter(|wait| *wait <= MAX_WAIT);
    let wait = wait.ok_or_else(|| Fault::Parameter(format!("wait: seconds, at most {MAX_WAIT}")))?;
    // The first answer is the place to begin at: whoever waited for it would miss what comes until the next request.
    let wait = if asked.resumes() { Duration::from_secs(wait) } else { Duration::ZERO };
    let mut session = asked.subscribe(&edge, &caller, edge.formats.poll.clone()).await?;
    let member = edge.sse.roster.enter(session.client().clone());
    let messages = collect(&mut session, &member, Instant::now() + wait).await?;

    let mut out = b"{\"messages\":[".to_vec();
    out.extend_from_slice(messages.strip_suffix(b",").unwrap_or(&messages));
    out.extend_from_slice(b"],\"cursor\":\"");
    cursor::write(session.positions(), &mut out);
    out.extend_from_slice(b"\"}\n");
    Ok(json_bytes(StatusCode::OK, out))
}

/// What there is to say, or nothing if nothing comes in time.
async fn collect(session: &mut Session, member: &Member, until: Instant) -> Result<Vec<u8>, Fault> {
    let mut batch = Batch::default();
    loop {
        session.fill(&mut batch, ROOM).map_err(|_| Fault::Busy(Duration::ZERO))?;
        let written = batch.bytes.len();
        session.commit(&batch, written, &mut Vec::new());
        if !batch.is_empty() {
            return Ok(std::mem::take(&mut batch.bytes));
        }
        if session.wants_log() {
            session.fetch().await.map_err(|_| Fault::Store { doing: "read the channel" })?;
            continue;
        }
        let something = std::future::poll_fn(|cx| {
            // Whatever is ordered, the next request hears of it: this one ends.
            if member.poll_stop(cx) || !member.orders().is_empty() {
                return Poll::Ready(false);
            }
            session.poll_ready(cx).map(|()| true)
        });
        match tokio::time::timeout_at(until, something).await {
            Ok(true) => {}
            Ok(false) | Err(_) => return Ok(Vec::new()),
        }
    }
}
