//! Verdicts as hooks return them, and decisions as they are logged and told.

use std::net::IpAddr;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use mlua::{MetaMethod, UserData, UserDataMethods, Value};
use parking_lot::Mutex;
use serde_json::Value as Json;

use super::shown::Shown;
use crate::kernel::hooks::{Client, ConnectRequest, Grants, Refusal, RefusalKind};
use crate::kernel::message::Micros;
use crate::plugins::commons::Commons;
use crate::plugins::source::generation::Program;
use crate::plugins::vm::value::describe;
use crate::plugins::why::record::Record;
use crate::plugins::why::trace;

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
    /// The hook that said so, where somebody needs to know.
    pub said_at: String,
    pub ttl: Option<Duration>,
    /// What a remembered vote can be forgotten by.
    pub tags: Vec<String>,
    pub grants: Grants,
    /// The options that were given: which of them make sense is up to the hook.
    pub given: Vec<String>,
}

#[derive(Clone, Debug)]
pub struct Deny {
    pub code: String,
    pub why: Option<String>,
    /// The sentence stays in the log.
    pub private: bool,
    /// It is a matter of time, and of this much: who asks again then may be let in.
    pub retry_ms: Option<u64>,
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
    Allow(Box<Allow>),
    Deny(Deny),
}

impl Vote {
    /// Reads what a hook returned; `known` are the options of `allow` that mean something to it.
    pub fn read(value: &Value, reason: &Value, known: &[&str]) -> Result<Vote, String> {
        match value {
            Value::Nil => Ok(Vote::None),
            Value::Boolean(true) => Ok(Vote::Allow(Box::default())),
            Value::Boolean(false) => {
                let why = match reason {
                    Value::Nil => None,
                    Value::String(text) => Some(sentence(&text.to_string_lossy())),
                    other => return Err(format!("expected a sentence beside false, got {}", describe(other))),
                };
                Ok(Vote::Deny(Deny {
                    code: "denied".into(),
                    why,
                    private: false,
                    retry_ms: None,
                    place: String::new(),
                }))
            }
            Value::UserData(data) => match data.borrow::<Verdict>().as_deref() {
                Ok(Verdict::Deny(deny)) => Ok(Vote::Deny(deny.clone())),
                Ok(Verdict::Allow(allow)) => match allow.given.iter().find(|key| !known.contains(&key.as_str())) {
                    Some(key) if known.is_empty() => Err(format!("aether.allow takes no options here, got {key}")),
                    Some(key) => Err(format!("aether.allow takes only {} here, got {key}", known.join(", "))),
                    None => Ok(Vote::Allow(allow.clone())),
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
    /// Nothing ran: a breaker is open, and said so once already.
    pub rests: bool,
    pub channel: Option<&'a str>,
    pub asker: Asker<'a>,
}

/// Whom a decision is about.
#[derive(Clone, Copy)]
pub struct Asker<'a> {
    pub user: Option<&'a str>,
    pub ip: Option<IpAddr>,
    pub transport: &'static str,
    /// Known so that it can be kept out of what is written down.
    pub shown: Shown<'a>,
}

impl<'a> From<&'a Client> for Asker<'a> {
    fn from(client: &'a Client) -> Self {
        let user = client.identity.user.as_deref();
        Asker { user, ip: client.ip, transport: client.transport, shown: Shown::Nothing }
    }
}

impl<'a> From<&'a ConnectRequest> for Asker<'a> {
    fn from(request: &'a ConnectRequest) -> Self {
        Asker { user: None, ip: request.ip, transport: request.transport, shown: Shown::Request(request) }
    }
}

/// How many refusals a second are logged: whoever asks in vain as fast as it can must not fill the disk.
const LOGGED_PER_SECOND: u32 = 100;

/// The second at hand, and how many refusals there were in it.
#[derive(Default)]
pub struct LogRate(Mutex<(u64, u32)>);

impl LogRate {
    pub fn allows(&self, now: Micros) -> bool {
        let second = now / 1_000_000;
        let mut state = self.0.lock();
        if state.0 != second {
            let left_out = state.1.saturating_sub(LOGGED_PER_SECOND);
            *state = (second, 0);
            if left_out > 0 {
                tracing::warn!(target: "aether::decision", left_out, "there were more refusals than are logged");
            }
        }
        state.1 += 1;
        state.1 <= LOGGED_PER_SECOND
    }
}

impl Decision<'_> {
    /// Counts it, writes it down and turns it into what the client hears.
    pub fn refuse(self, program: &Program) -> Refusal {
        if !trace::is_rehearsal() {
            program.counters.denied.fetch_add(1, Ordering::Relaxed);
        }
        self.write_down(&program.commons)
    }

    /// Gives the decision its id; somebody may hear it.
    pub fn write_down(self, commons: &Commons) -> Refusal {
        let decision = new_id();
        let Decision { kind, hook, plugin, place, code, why, told, rests, channel, asker } = self;
        let (channel, user) = (channel.unwrap_or_default(), asker.user.unwrap_or_default());
        // A rule that breaks on a credential may name it.
        let why = asker.shown.hide(why);
        let logged = why.as_ref();
        match kind {
            // The recorder keeps the newest of these all the same.
            _ if trace::is_rehearsal() || !commons.log_rate.allows(commons.now()) => {}
            RefusalKind::Broken if rests => {
                tracing::info!(target: "aether::decision", decision, hook, plugin, place, code, why = logged, channel, user, "breaker open");
            }
            RefusalKind::Broken => {
                tracing::error!(target: "aether::decision", decision, hook, plugin, place, code, why = logged, channel, user, "a rule broke");
            }
            RefusalKind::Denied | RefusalKind::Busy => {
                tracing::info!(target: "aether::decision", decision, hook, plugin, place, code, why = logged, channel, user, "denied");
            }
        }
        commons.recorder.deny(Record {
            id: decision.clone(),
            time: commons.now(),
            allowed: false,
            hook: hook.to_owned(),
            plugin: plugin.to_owned(),
            place: place.to_owned(),
            code: code.to_owned(),
            why: why.clone().into_owned(),
            channel: channel.to_owned(),
            user: user.to_owned(),
            ip: asker.ip,
            transport: asker.transport,
        });
        let why = told.map_or_else(|| why.into_owned(), str::to_owned);
        Refusal { kind, code: code.to_owned(), why, decision, retry_ms: None }
    }
}

/// Eight characters that one can read out on the telephone; they differ within a process and hardly ever repeat
/// between two.
pub fn new_id() -> String {
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
