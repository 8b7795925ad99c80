//! What the rules were asked: borrowed while they decide, owned by whoever asks it again.

use serde_json::{Value as Json, json};

use super::{legible, mask};
use crate::kernel::hooks::{Client, ConnectRequest, Grants};
use crate::kernel::message::{ChannelName, Draft, Media, Message};
use crate::kernel::pattern::Patterns;
use crate::plugins::Facts;
use crate::plugins::asking::shown::Shown;

/// Of a payload the recorder keeps so much.
const PAYLOAD: usize = 4096;
/// Headers whose values tell nothing that lets anybody in.
const HARMLESS: [&str; 8] =
    ["host", "origin", "user-agent", "accept", "accept-language", "content-type", "upgrade", "sec-websocket-version"];
const HIDDEN: &str = "<hidden>";

#[derive(Clone, Copy)]
pub enum Asked<'a> {
    Connect(&'a ConnectRequest),
    Refresh(&'a Client, &'a str),
    Subscribe(&'a Client, &'a ChannelName),
    Publish(&'a Client, &'a Draft),
    History(&'a Client, &'a ChannelName, bool),
}

pub enum Question {
    Connect(ConnectRequest),
    Refresh(Client, String),
    Subscribe(Client, ChannelName),
    /// And how long its payload was, of which this may have only the beginning.
    Publish(Client, Draft, usize),
    History(Client, ChannelName, bool),
}

impl<'a> Asked<'a> {
    /// All of it, credentials too: to be asked again and not to be kept.
    pub fn whole(self) -> Question {
        match self {
            Asked::Connect(request) => Question::Connect(request.clone()),
            Asked::Refresh(client, token) => Question::Refresh(copy(client), token.to_owned()),
            Asked::Subscribe(client, channel) => Question::Subscribe(copy(client), channel.clone()),
            Asked::Publish(client, draft) => {
                Question::Publish(copy(client), draft.clone(), draft.message.payload.len())
            }
            Asked::History(client, channel, resume) => Question::History(copy(client), channel.clone(), resume),
        }
    }

    /// What may be kept of it, and whether that is enough to ask it again: no credential, and not all of a long payload.
    pub fn kept(self) -> (Question, bool) {
        match self {
            Asked::Connect(request) => (Question::Connect(without_credentials(request)), false),
            Asked::Refresh(client, _) => (Question::Refresh(copy(client), HIDDEN.into()), false),
            Asked::Publish(client, draft) => {
                let payload = &draft.message.payload;
                let mut kept = draft.clone();
                // A copy: a piece of it would hold on to all that came with it.
                kept.message.payload = bytes::Bytes::copy_from_slice(&payload[..payload.len().min(PAYLOAD)]);
                (Question::Publish(copy(client), kept, payload.len()), payload.len() <= PAYLOAD)
            }
            other => (other.whole(), true),
        }
    }

    /// `subscribe`.
    pub fn kind(self) -> &'static str {
        match self {
            Asked::Connect(_) => "connect",
            Asked::Refresh(..) => "refresh",
            Asked::Subscribe(..) => "subscribe",
            Asked::Publish(..) => "publish",
            Asked::History(..) => "history",
        }
    }

    pub fn shown(self) -> Shown<'a> {
        match self {
            Asked::Connect(request) => Shown::Request(request),
            Asked::Refresh(_, token) => Shown::Token(token),
            _ => Shown::Nothing,
        }
    }
}

impl Question {
    pub fn asked(&self) -> Asked<'_> {
        match self {
            Question::Connect(request) => Asked::Connect(request),
            Question::Refresh(client, token) => Asked::Refresh(client, token),
            Question::Subscribe(client, channel) => Asked::Subscribe(client, channel),
            Question::Publish(client, draft, _) => Asked::Publish(client, draft),
            Question::History(client, channel, resume) => Asked::History(client, channel, *resume),
        }
    }

    pub fn kind(&self) -> &'static str {
        self.asked().kind()
    }

    pub fn client(&self) -> Option<&Client> {
        match self {
            Question::Connect(_) => None,
            Question::Refresh(client, _)
            | Question::Subscribe(client, _)
            | Question::Publish(client, ..)
            | Question::History(client, ..) => Some(client),
        }
    }

    pub fn channel(&self) -> Option<&ChannelName> {
        match self {
            Question::Connect(_) | Question::Refresh(..) => None,
            Question::Publish(_, draft, _) => Some(&draft.channel),
            Question::Subscribe(_, channel) | Question::History(_, channel, _) => Some(channel),
        }
    }

    /// The grant that allows it, if one does.
    pub fn grant(&self) -> Option<String> {
        let (client, name) = (self.client()?, self.channel()?.as_str());
        let grants = &client.identity.grants;
        let patterns = match self {
            Question::Subscribe(..) => &grants.subscribe,
            Question::Publish(..) => &grants.publish,
            _ => &grants.history,
        };
        patterns.iter().find(|pattern| pattern.matches(name)).map(|pattern| pattern.to_string())
    }

    /// About what it takes up.
    pub fn weight(&self) -> usize {
        let texts = |pairs: &[(String, String)]| pairs.iter().map(|(a, b)| a.len() + b.len() + 48).sum::<usize>();
        let client = self.client().map_or(0, |client| {
            let grants = &client.identity.grants;
            let all = [&grants.subscribe, &grants.publish, &grants.history];
            256 + all.iter().map(|patterns| patterns.iter().count() * 96).sum::<usize>()
        });
        client
            + match self {
                Question::Connect(request) => 128 + texts(&request.query) + texts(&request.headers),
                Question::Publish(_, draft, _) => draft.message.weight(),
                _ => 64,
            }
    }

    /// `full`: with the payload as it is, and not only its form.
    pub fn to_json(&self, full: bool) -> Json {
        let mut shown = json!({"event": self.kind()});
        if let Some(channel) = self.channel() {
            shown["channel"] = channel.as_str().into();
        }
        if let Some(client) = self.client() {
            let identity = &client.identity;
            let facts = identity.attrs.as_ref().and_then(|attrs| attrs.downcast_ref::<Facts>());
            shown["session"] = json!({
                "id": client.id, "user": identity.user, "tenant": identity.tenant, "ip": client.ip,
                "transport": client.transport, "dialect": client.dialect, "credential": client.credential,
                "attrs": facts.map_or(Json::Null, |facts| legible::summary(&facts.attrs)),
                "view": facts.and_then(|facts| facts.view.as_deref()),
                "grants": grants(&identity.grants),
            });
        }
        match self {
            Question::Connect(request) => {
                let pairs = |pairs: &[(String, String)]| -> Json {
                    pairs.iter().map(|(name, value)| json!([name, value])).collect::<Vec<_>>().into()
                };
                shown["request"] = json!({
                    "transport": request.transport, "method": request.method, "path": request.path, "ip": request.ip,
                    "query": pairs(&request.query), "headers": pairs(&request.headers),
                    "credential": request.bearer.is_some(),
                });
            }
            Question::Publish(_, draft, size) => {
                let message = &draft.message;
                shown["message"] = json!({
                    "size": size, "event": message.event, "media": media(message.media),
                    "id": draft.idempotency_key, "payload": payload(message, *size, full),
                });
            }
            Question::History(_, _, resume) => shown["resume"] = (*resume).into(),
            _ => {}
        }
        shown
    }
}

/// A payload of `size` bytes, of which this may have only the beginning.
fn payload(message: &Message, size: usize, full: bool) -> Json {
    if full {
        return legible::payload(&message.payload);
    }
    if message.payload.len() < size {
        return format!("<{} of {size} bytes>", media(message.media)).into();
    }
    mask::payload(message)
}

fn media(media: Media) -> &'static str {
    match media {
        Media::Json => "json",
        Media::Text => "text",
        Media::Binary => "binary",
    }
}

pub fn grants(grants: &Grants) -> Json {
    let list = |patterns: &Patterns| patterns.iter().map(|pattern| pattern.to_string()).collect::<Vec<_>>();
    json!({
        "subscribe": list(&grants.subscribe), "publish": list(&grants.publish), "history": list(&grants.history),
        "admin": grants.admin,
    })
}

/// The same client, for later.
pub fn copy(client: &Client) -> Client {
    Client { id: client.id.clone(), identity: client.identity.clone(), ..*client }
}

fn without_credentials(request: &ConnectRequest) -> ConnectRequest {
    let hide = |pairs: &[(String, String)], harmless: &[&str]| {
        let hidden = pairs.iter().map(|(name, value)| {
            let value = if harmless.contains(&name.as_str()) { value.clone() } else { HIDDEN.to_owned() };
            (name.clone(), value)
        });
        hidden.collect()
    };
    ConnectRequest {
        query: hide(&request.query, &["channel", "heartbeat"]),
        headers: hide(&request.headers, &HARMLESS),
        bearer: request.bearer.as_ref().map(|_| HIDDEN.to_owned()),
        ..request.clone()
    }
}
