//! A question that nobody has asked yet: who, and what for, as the operator describes it.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use bytes::Bytes;
use serde::Deserialize;
use serde_json::Value as Json;

use super::Trouble;
use crate::kernel::hooks::{Client, ConnectRequest, Grants, Identity};
use crate::kernel::message::{ChannelName, Draft, Media, Message};
use crate::kernel::pattern::Patterns;
use crate::plugins::why::asked::{Question, copy};
use crate::plugins::{Facts, Host};

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
pub struct WhatIf {
    /// A decision that was made.
    pub decision: Option<String>,
    /// Its payload too, and not only the payload's form.
    pub full: bool,
    /// Somebody who is connected.
    session: Option<String>,
    user: Option<String>,
    tenant: Option<String>,
    attrs: Option<Json>,
    view: Option<String>,
    grants: Option<Rights>,
    /// A credential, which the connect hooks are asked about first.
    pub bearer: Option<String>,
    pub connect: bool,
    path: Option<String>,
    query: BTreeMap<String, String>,
    headers: BTreeMap<String, String>,
    transport: Option<String>,
    ip: Option<IpAddr>,
    subscribe: Option<String>,
    publish: Option<String>,
    payload: Option<String>,
    event: Option<String>,
    history: Option<String>,
    resume: bool,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct Rights {
    subscribe: Vec<String>,
    publish: Vec<String>,
    history: Vec<String>,
    admin: bool,
}

impl WhatIf {
    /// The request that the connect hooks are asked about, if it is about them.
    pub fn request(&self) -> Result<Option<ConnectRequest>, Trouble> {
        if !self.connect && self.bearer.is_none() {
            return Ok(None);
        }
        let mut headers: Vec<(String, String)> =
            self.headers.iter().map(|(name, value)| (name.to_ascii_lowercase(), value.clone())).collect();
        headers.extend(self.bearer.iter().map(|bearer| ("authorization".to_owned(), format!("Bearer {bearer}"))));
        let transport = self.transport()?;
        Ok(Some(ConnectRequest {
            dialect: "native",
            transport,
            method: "GET".into(),
            path: self.path.clone().unwrap_or_else(|| format!("/{transport}")),
            query: self.query.clone().into_iter().collect(),
            headers,
            ip: self.ip,
            bearer: self.bearer.clone(),
        }))
    }

    /// What is asked about a channel, if it is about one, by whoever `identity` says or the question describes.
    pub fn question(&self, host: &Host, identity: Option<Identity>) -> Result<Option<Question>, Trouble> {
        let wrong = |what: &str| Trouble::Question(what.to_owned());
        let asked = [&self.subscribe, &self.publish, &self.history];
        if asked.iter().filter(|asked| asked.is_some()).count() > 1 {
            return Err(wrong("one of subscribe, publish and history at a time"));
        }
        let Some(channel) = asked.into_iter().flatten().next() else { return Ok(None) };
        let channel = ChannelName::new(channel).map_err(|error| Trouble::Question(error.to_string()))?;
        let client = self.client(host, identity)?;
        Ok(Some(if self.publish.is_some() {
            let payload = self.payload.clone().unwrap_or_else(|| "null".to_owned());
            let media =
                if serde_json::from_str::<serde::de::IgnoredAny>(&payload).is_ok() { Media::Json } else { Media::Text };
            let event = self.event.as_deref().map(Box::from);
            let size = payload.len();
            let message = Message { payload: Bytes::from(payload), media, event, ..Message::default() };
            Question::Publish(client, Draft::new(channel, message), size)
        } else if self.payload.is_some() || self.event.is_some() {
            return Err(wrong("payload and event belong to publish"));
        } else if self.subscribe.is_some() {
            Question::Subscribe(client, channel)
        } else {
            Question::History(client, channel, self.resume)
        }))
    }

    fn client(&self, host: &Host, identity: Option<Identity>) -> Result<Client, Trouble> {
        if let Some(id) = &self.session {
            let found = host.commons.world.get().and_then(|world| world.sessions(&|client| client.id == *id).pop());
            let found = found.ok_or_else(|| Trouble::Failed(vec![format!("there is no session {id} now")]))?;
            return Ok(copy(&found));
        }
        let identity = match identity {
            Some(identity) => identity,
            None => self.identity()?,
        };
        Ok(Client {
            id: "what-if".into(),
            credential: identity.user.is_some(),
            identity,
            ip: self.ip,
            dialect: "native",
            transport: self.transport()?,
            connected: host.commons.now(),
        })
    }

    fn identity(&self) -> Result<Identity, Trouble> {
        let rights = self.grants.as_ref();
        let patterns = |of: fn(&Rights) -> &Vec<String>| {
            let patterns = Patterns::from_strings(rights.map(of).into_iter().flatten());
            patterns.map_err(|error| Trouble::Question(format!("grants: {error}")))
        };
        let grants = Grants {
            subscribe: patterns(|rights| &rights.subscribe)?,
            publish: patterns(|rights| &rights.publish)?,
            history: patterns(|rights| &rights.history)?,
            admin: rights.is_some_and(|rights| rights.admin),
        };
        let attrs = self.attrs.clone().unwrap_or_else(|| Json::Object(Default::default()));
        if !attrs.is_object() {
            return Err(Trouble::Question("attrs: expected an object".into()));
        }
        let facts = Facts { attrs, view: self.view.clone(), ..Facts::default() };
        let (user, tenant) = (self.user.clone(), self.tenant.clone());
        Ok(Identity { user, tenant, grants, attrs: Some(Arc::new(facts)), ..Identity::default() })
    }

    fn transport(&self) -> Result<&'static str, Trouble> {
        let wanted = self.transport.as_deref().unwrap_or("ws");
        let known = ["ws", "sse", "poll", "http"].into_iter().find(|known| *known == wanted);
        known.ok_or_else(|| Trouble::Question(format!("transport: ws, sse, poll or http, not {wanted:?}")))
    }
}
