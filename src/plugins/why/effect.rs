//! What came of a yes: who somebody is, what it sees, what became of its message.

use std::sync::Arc;

use std::time::Duration;

use serde_json::{Value as Json, json};

use super::asked::{Asked, Question};
use super::{diff, legible};
use crate::kernel::hooks::{Admission, Client, Identity, Refusal, Sight};
use crate::kernel::message::Message;
use crate::plugins::asking::rules::Rules;
use crate::plugins::voice;

#[derive(Clone, PartialEq, Debug)]
pub enum Effect {
    Who(Json),
    Sight(Option<String>),
    Message(Box<Said>),
}

/// A message as the rules let it in.
#[derive(Clone, PartialEq, Debug)]
pub struct Said {
    pub message: Message,
    pub fleeting: bool,
    pub ttl: Option<Duration>,
}

impl From<&Identity> for Effect {
    fn from(identity: &Identity) -> Effect {
        Effect::Who(who(identity))
    }
}

impl From<&Sight> for Effect {
    fn from(sight: &Sight) -> Effect {
        Effect::Sight(sight.as_ref().map(|view| view.name().to_owned()))
    }
}

impl From<&Admission> for Effect {
    fn from(admission: &Admission) -> Effect {
        let draft = &admission.draft;
        Effect::Message(Box::new(Said { message: draft.message.clone(), fleeting: draft.fleeting, ttl: draft.ttl }))
    }
}

impl Effect {
    /// Asks once more.
    pub async fn of(rules: &Arc<Rules>, asked: Asked<'_>) -> Result<Effect, Refusal> {
        match asked {
            Asked::Connect(request) => rules.who(request).await.map(|who| (&who).into()),
            Asked::Refresh(client, token) => rules.who_now(client, token).await.map(|who| (&who).into()),
            Asked::Subscribe(client, channel) => {
                rules.subscribe(client, channel, false).await.map(|sight| (&sight).into())
            }
            Asked::History(client, channel, resume) => {
                rules.history(client, channel, resume).await.map(|sight| (&sight).into())
            }
            Asked::Publish(client, draft) => voice::heard(client, rules.publish(client, draft.clone(), None))
                .await
                .map(|admission| (&admission).into()),
        }
    }

    /// What the rules changed in the message that was to be published.
    pub fn diff(&self, question: &Question) -> Option<Vec<String>> {
        match (self, question) {
            (Effect::Message(said), Question::Publish(_, draft, _)) if draft.message != said.message => {
                Some(diff::lines(&draft.message, &said.message))
            }
            _ => None,
        }
    }

    /// For people; `question` is what it came of.
    pub fn to_json(&self, question: &Question) -> Json {
        match self {
            Effect::Who(who) => {
                let mut who = who.clone();
                who["attrs"] = legible::summary(&who["attrs"]);
                who
            }
            Effect::Sight(view) => json!({"view": view}),
            Effect::Message(said) => {
                let before = if let Question::Publish(_, draft, _) = question { Some(draft) } else { None };
                let changed = before.is_none_or(|before| before.message != said.message);
                let mut shown = json!({"changed": changed, "kept": !said.fleeting});
                if changed {
                    shown["payload"] = legible::payload(&said.message.payload);
                }
                if said.ttl.is_some() {
                    shown["ttl_ms"] = said.ttl.map(|ttl| ttl.as_millis() as u64).into();
                }
                shown
            }
        }
    }
}

fn who(identity: &Identity) -> Json {
    let facts = identity.attrs.as_ref().and_then(|attrs| attrs.downcast_ref::<crate::plugins::Facts>());
    json!({
        "user": identity.user, "tenant": identity.tenant, "expires": identity.expires.map(|at| at / 1_000_000),
        "attrs": facts.map(|facts| &facts.attrs), "view": facts.and_then(|facts| facts.view.as_deref()),
        "grants": super::asked::grants(&identity.grants),
    })
}

/// Somebody who may do all that needs no rule: what it hears is what the hooks say.
pub fn anybody(connected: u64) -> Client {
    let all = crate::kernel::pattern::Patterns::from_strings(["*"]).unwrap_or_default();
    let grants =
        crate::kernel::hooks::Grants { subscribe: all.clone(), publish: all.clone(), history: all, admin: false };
    Client {
        id: "replay".into(),
        identity: Identity { grants, ..Identity::default() },
        ip: None,
        dialect: "native",
        transport: "http",
        credential: false,
        connected,
    }
}
