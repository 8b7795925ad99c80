//! Verdicts as hooks return them, and decisions as they are logged and told.

use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use mlua::{MetaMethod, UserData, UserDataMethods, Value};
use serde_json::Value as Json;

use super::value::describe;
use crate::kernel::hooks::{Grants, Refusal, RefusalKind};

/// What `aether.allow` and `aether.deny` make.
pub enum Verdict {
    Allow(Box<Allow>),
    Deny(Deny),
}

#[derive(Clone, Default)]
pub struct Allow {
    pub user: Option<String>,
    pub tenant: Option<String>,
    /// Unix seconds.
    pub expires: Option<f64>,
    pub attrs: Option<Json>,
    pub view: Option<String>,
    pub ttl: Option<Duration>,
    pub grants: Grants,
    /// The options that were given: which of them make sense is up to the hook.
    pub given: Vec<String>,
}

#[derive(Clone)]
pub struct Deny {
    pub code: String,
    pub why: Option<String>,
    /// The sentence stays in the log.
    pub private: bool,
    /// `file:line` of the call that made it.
    pub place: String,
}

impl UserData for Verdict {
    fn add_methods<M: UserDataMethods<Self>>(methods: &mut M) {
        methods.add_meta_method(MetaMethod::ToString, |_, verdict, ()| {
            Ok(match verdict {
                Verdict::Allow(_) => "allow".to_owned(),
                Verdict::Deny(deny) => format!("deny {}", deny.code),
            })
        });
    }
}

/// A hook's answer.
pub enum Vote {
    None,
    Allow(Allow),
    Deny(Deny),
}

impl Vote {
    /// Reads what a hook returned; `known` are the options of `allow` that mean something to it.
    pub fn read(value: &Value, reason: &Value, known: &[&str]) -> Result<Vote, String> {
        match value {
            Value::Nil => Ok(Vote::None),
            Value::Boolean(true) => Ok(Vote::Allow(Allow::default())),
            Value::Boolean(false) => {
                let why = match reason {
                    Value::Nil => None,
                    Value::String(text) => Some(sentence(&text.to_string_lossy())),
                    other => return Err(format!("expected a sentence beside false, got {}", describe(other))),
                };
                Ok(Vote::Deny(Deny { code: "denied".into(), why, private: false, place: String::new() }))
            }
            Value::UserData(data) => match data.borrow::<Verdict>().as_deref() {
                Ok(Verdict::Deny(deny)) => Ok(Vote::Deny(deny.clone())),
                Ok(Verdict::Allow(allow)) => match allow.given.iter().find(|key| !known.contains(&key.as_str())) {
                    Some(key) if known.is_empty() => Err(format!("aether.allow takes no options here, got {key}")),
                    Some(key) => Err(format!("aether.allow takes only {} here, got {key}", known.join(", "))),
                    None => Ok(Vote::Allow((**allow).clone())),
                },
                Err(_) => Err(unexpected(value)),
            },
            _ => Err(unexpected(value)),
        }
    }
}

/// A reason fit for a log line and for any protocol: short, and without what could begin a new line.
pub fn sentence(text: &str) -> String {
    text.chars().take(MAX_WHY).map(|c| if c.is_control() { ' ' } else { c }).collect()
}

const MAX_WHY: usize = 512;

fn unexpected(value: &Value) -> String {
    format!("expected aether.allow, aether.deny, true, false or nil, got {}", describe(value))
}

/// A no, before it gets its id.
pub struct Decision<'a> {
    pub kind: RefusalKind,
    pub hook: &'a str,
    pub plugin: &'a str,
    /// `file:line`, where a rule said it.
    pub place: &'a str,
    pub code: &'a str,
    pub why: &'a str,
    /// What the client is told instead, where the reason is not for it.
    pub told: Option<&'a str>,
    pub channel: Option<&'a str>,
    pub user: Option<&'a str>,
}

impl Decision<'_> {
    /// Gives the decision its id, writes it down and turns it into what the client hears.
    pub fn refuse(self) -> Refusal {
        let decision = new_id();
        let Decision { kind, hook, plugin, place, code, why, told, channel, user } = self;
        let (channel, user) = (channel.unwrap_or_default(), user.unwrap_or_default());
        if kind == RefusalKind::Broken {
            tracing::error!(target: "aether::decision", decision, hook, plugin, place, code, why, channel, user, "a rule broke");
        } else {
            tracing::info!(target: "aether::decision", decision, hook, plugin, place, code, why, channel, user, "denied");
        }
        Refusal { kind, code: code.to_owned(), why: told.unwrap_or(why).to_owned(), decision }
    }
}

/// Eight characters that one can read out on the telephone; they differ within a process and hardly ever repeat
/// between two.
fn new_id() -> String {
    const ALPHABET: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";
    static START: LazyLock<u64> = LazyLock::new(|| {
        let mut seed = [0; 8];
        // Without randomness ids still count up; they are names, not secrets.
        let _ = getrandom::fill(&mut seed);
        u64::from_le_bytes(seed)
    });
    static COUNT: AtomicU64 = AtomicU64::new(0);
    // An odd multiplier permutes the 40 bits, so neighbours look different and none comes twice.
    let number = START.wrapping_add(COUNT.fetch_add(1, Ordering::Relaxed)).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    (0..8).map(|at| char::from(ALPHABET[(number >> (5 * at)) as usize % 32])).collect()
}
