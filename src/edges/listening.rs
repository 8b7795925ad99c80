//! What a `GET /sse` or `/poll` asks for: channels, and from where on.

use std::sync::Arc;

use super::caller::Caller;
use super::cursor::Cursor;
use super::edge::Edge;
use super::native::AskedPace;
use super::wire::Fault;
use crate::kernel::format::Format;
use crate::kernel::message::{ChannelName, Epoch, Offset};
use crate::kernel::session::{Pace, Session, Start};

pub struct Asked {
    pub channels: Vec<ChannelName>,
    cursor: Cursor,
    after: Option<Offset>,
    epoch: Option<Epoch>,
    pace: Option<Pace>,
}

impl Asked {
    pub fn of(edge: &Edge, caller: &Caller) -> Result<Asked, Fault> {
        let mut channels = Vec::new();
        for (_, name) in caller.request.query.iter().filter(|(key, _)| key == "channel") {
            let name = ChannelName::new(name).map_err(Fault::ChannelName)?;
            if !channels.contains(&name) {
                channels.push(name);
            }
        }
        let max = edge.settings.limits.channels_per_request;
        match channels.len() {
            0 => return Err(Fault::Missing("channel")),
            asked if asked > max => return Err(Fault::TooManyInRequest { asked, max }),
            _ => {}
        }
        let cursor = caller.request.header("last-event-id").or(caller.param("cursor")).filter(|text| !text.is_empty());
        let cursor =
            cursor.map(|text| Cursor::parse(text).ok_or_else(|| Fault::Parameter("cursor: not one of ours".into())));
        let max_rate = caller.param("max_rate").map(|text| text.parse().unwrap_or(f64::NAN));
        let conflate = caller.flag("conflate")?;
        let after = caller.param("after_seq").map(str::parse::<u64>).transpose();
        Ok(Asked {
            channels,
            cursor: cursor.transpose()?.unwrap_or_default(),
            after: after.map_err(|_| Fault::Parameter("after_seq must be a non-negative integer".into()))?,
            epoch: caller.param("epoch").map(|text| text.parse().unwrap_or(Epoch::UNKNOWN)),
            pace: max_rate.map(|max_rate| AskedPace { max_rate, conflate }.pace()).transpose()?,
        })
    }

    /// Whether it comes back with a place, or comes for the first time.
    pub fn resumes(&self) -> bool {
        self.after.is_some() || self.channels.iter().any(|channel| self.cursor.position(channel).is_some())
    }

    /// A session that listens to all of it, or the reason why not.
    pub async fn subscribe(self, edge: &Edge, caller: &Caller, format: Arc<dyn Format>) -> Result<Session, Fault> {
        let client = Arc::new(edge.connect(caller).await?);
        let mut session = Session::new(edge.hub.clone(), client.clone(), format);
        for name in self.channels {
            let start = match (self.cursor.position(&name), self.after) {
                (Some(position), _) => Start::After(position.offset, Some(position.epoch)),
                (None, Some(after)) => Start::After(after, self.epoch),
                (None, None) => Start::Now,
            };
            let outcome = session.subscribe(name.clone(), start).await;
            outcome.map_err(|error| match Fault::subscribe(error, name.as_str()) {
                Fault::Forbidden { refusal, .. } => Fault::refused(refusal, client.credential, false, name.as_str()),
                other => other,
            })?;
            if let Some(pace) = self.pace {
                session.set_pace(name.as_str(), pace);
            }
        }
        Ok(session)
    }
}
