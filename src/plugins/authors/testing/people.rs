//! Who asks, in a test: what `t.connect` answered, or a table that says who somebody is.

use std::cell::RefCell;
use std::sync::Arc;

use mlua::{Table, Value};
use serde_json::Value as Json;

use crate::kernel::hooks::{Client, Identity};
use crate::kernel::message::Micros;
use crate::plugins::Facts;
use crate::plugins::api::verdict::read_grants;
use crate::plugins::dialect::interned;
use crate::plugins::source::schema::hint;
use crate::plugins::vm::value::{describe, lua_to_json, to_number};

const FIELDS: [&str; 12] = [
    "id",
    "user",
    "tenant",
    "attrs",
    "view",
    "grants",
    "expires",
    "ip",
    "transport",
    "dialect",
    "credential",
    "connected_ms",
];
pub const TRANSPORTS: [&str; 4] = ["ws", "sse", "poll", "http"];

#[derive(Default)]
pub struct People(RefCell<Vec<Known>>);

/// A table that stood for somebody. It is held, so that its address is nobody else's.
struct Known {
    table: Table,
    id: String,
    /// Whom a connect hook let in: the table only shows it.
    client: Option<Arc<Client>>,
}

impl People {
    /// What the connect hooks said is who the table stands for.
    pub fn introduce(&self, table: Table, client: Arc<Client>) {
        let id = client.id.clone();
        self.0.borrow_mut().push(Known { table, id, client: Some(client) });
    }

    /// An id for the next session.
    pub fn next_id(&self) -> String {
        format!("s{}", self.0.borrow().len() + 1)
    }

    pub fn leave(&self) {
        self.0.borrow_mut().clear();
    }

    /// Somebody who sees everything through one view.
    pub fn viewer(&self, view: &str, now: Micros) -> Client {
        let mut client = plain("viewer".into(), Some("viewer".into()), now);
        let facts = Facts { attrs: Json::Object(Default::default()), view: Some(view.to_owned()), ..Facts::default() };
        client.identity.attrs = Some(Arc::new(facts));
        client
    }

    pub fn who(&self, who: &Value, now: Micros) -> Result<Arc<Client>, String> {
        match who {
            Value::Nil => Ok(Arc::new(plain("nobody".into(), None, now))),
            Value::String(user) => {
                let user = user.to_string_lossy();
                Ok(Arc::new(plain(format!("session of {user}"), Some(user), now)))
            }
            Value::Table(table) => self.read(table, now),
            other => Err(format!("who: expected a user's name, a table or nil, got {}", describe(other))),
        }
    }

    fn read(&self, table: &Table, now: Micros) -> Result<Arc<Client>, String> {
        let found = self
            .0
            .borrow()
            .iter()
            .find(|known| known.table.to_pointer() == table.to_pointer())
            .map(|known| (known.id.clone(), known.client.clone()));
        let id = match found {
            Some((_, Some(client))) => return Ok(client),
            Some((id, None)) => id,
            None => {
                let id = self.next_id();
                self.0.borrow_mut().push(Known { table: table.clone(), id: id.clone(), client: None });
                id
            }
        };
        describe_client(table, id, now).map(Arc::new)
    }
}

fn describe_client(table: &Table, id: String, now: Micros) -> Result<Client, String> {
    let mut client = plain(id, None, now);
    let mut facts = Facts { attrs: Json::Object(Default::default()), ..Facts::default() };
    for pair in table.pairs::<Value, Value>() {
        let (key, value) = pair.map_err(|e| e.to_string())?;
        let key = key.as_string().map(|key| key.to_string_lossy()).unwrap_or_else(|| describe(&key));
        let wrong = |what: &str| format!("who: {key}: expected {what}, got {}", describe(&value));
        let text = || value.as_string().map(|text| text.to_string_lossy()).ok_or_else(|| wrong("a string"));
        let number = || to_number(&value).filter(|n| n.is_finite() && *n >= 0.0).ok_or_else(|| wrong("a number"));
        match key.as_str() {
            "id" => client.id = text()?,
            "user" => client.identity.user = Some(text()?),
            "tenant" => client.identity.tenant = Some(text()?),
            "view" => facts.view = Some(text()?),
            "expires" => client.identity.expires = Some((number()? * 1e6) as Micros),
            "connected_ms" => client.connected = (number()? * 1e3) as Micros,
            "credential" => client.credential = value.as_boolean().ok_or_else(|| wrong("true or false"))?,
            "ip" => client.ip = Some(text()?.parse().map_err(|_| wrong("an address"))?),
            "transport" => client.transport = one_of(&text()?, &TRANSPORTS)?,
            "dialect" => client.dialect = interned(&text()?),
            "attrs" => facts.attrs = lua_to_json(&value).map_err(|why| format!("who: attrs: {why}"))?,
            "grants" => {
                let grants = value.as_table().ok_or_else(|| wrong("a table"))?;
                client.identity.grants = read_grants(grants).map_err(|why| format!("who: {why}"))?;
            }
            _ => return Err(format!("who: {key} is not known here{}", hint(&key, FIELDS))),
        }
    }
    client.credential |= client.identity.user.is_some();
    client.identity.attrs = Some(Arc::new(facts));
    Ok(client)
}

pub fn one_of(word: &str, known: &[&'static str]) -> Result<&'static str, String> {
    let found = known.iter().find(|known| **known == word);
    found.copied().ok_or_else(|| format!("{word:?} is not one of {}{}", known.join(", "), hint(word, known)))
}

fn plain(id: String, user: Option<String>, now: Micros) -> Client {
    Client {
        id,
        credential: user.is_some(),
        identity: Identity { user, ..Identity::default() },
        ip: Some([127, 0, 0, 1].into()),
        dialect: "native",
        transport: "ws",
        connected: now,
    }
}
