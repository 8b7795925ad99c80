//! What a channel keeps and promises, as far as rules say: their answers over the settings, the strictest of several.
//!
//! A field that a rule answers takes the place of the setting, be it narrower or wider. Between rules the smaller bound, the
//! stronger ack and the less patient lag count (`close` before `skip` before `drop_newest` before `drop_oldest` before `catch_up`), and no history before any.

use std::time::Duration;

use mlua::{Table, Value};
use serde_json::Value as Json;

use super::rules::Rules;
use crate::kernel::message::ChannelName;
use crate::kernel::policy::{Ack, Lag, Policy, Retention};
use crate::plugins::kept::bounded::{Entry, NEVER};
use crate::plugins::source::generation::Event;
use crate::plugins::source::schema::{hint, read_duration, read_size};
use crate::plugins::vm::Failure;
use crate::plugins::vm::resident::with_vm;
use crate::plugins::vm::value::{describe, lua_to_json};

const FIELDS: [&str; 7] = ["age", "count", "bytes", "ack", "lag", "max_lag", "history"];
/// About what a remembered policy takes up.
const WEIGHT: usize = 256;

/// What rules want. A bound that is there and empty is "without end".
#[derive(Clone, Copy, PartialEq, Default, Debug)]
struct Wish {
    age: Option<Option<Duration>>,
    count: Option<Option<u64>>,
    bytes: Option<Option<u64>>,
    ack: Option<Ack>,
    lag: Option<Lag>,
    max_lag: Option<Option<u64>>,
    history: Option<bool>,
}

impl Rules {
    /// Asked when a channel is first touched and when policies are resolved again. A rule that breaks changes nothing: the
    /// channel keeps what it had, at first what the settings and the other rules say.
    pub fn policy(&self, channel: &ChannelName) -> Policy {
        let policy = self.policy_of_settings(channel);
        let concerned = |hook: &usize| self.is_concerned(*hook, channel.as_str());
        let hooks: Vec<usize> = self.hooks_of(Event::Retention).filter(concerned).collect();
        if hooks.is_empty() {
            return policy;
        }
        let commons = &self.generation.program.commons;
        let mut wish = Wish::default();
        let mut broke = false;
        for hook in hooks {
            match self.wish(hook, channel) {
                Ok(said) => wish = wish.and(said),
                Err(failure) => {
                    broke = true;
                    self.tell_broken(hook, &failure, channel, "so the channel keeps its policy");
                }
            }
        }
        let policy = wish.over(policy);
        if broke && let Some(before) = commons.policies.read(channel, 0, |policy| *policy) {
            return before;
        }
        if !broke {
            commons.policies.insert(channel.clone(), Entry { value: policy, until: NEVER, weight: WEIGHT }, 0);
        }
        policy
    }

    fn wish(&self, hook: usize, channel: &ChannelName) -> Result<Wish, Failure> {
        let pattern = self.generation.registrations[hook].pattern.as_ref();
        with_vm(&self.generation, |vm| {
            let args = |lua: &mlua::Lua| vm.handles.channel_of(lua, hook, pattern, channel);
            vm.call(hook, self.generation.program.limits.connect, args, |value, _| match value {
                Value::Nil => Ok(Wish::default()),
                Value::Table(table) => Wish::read(table),
                other => Err(format!("expected a table like {{age = \"1h\", count = 1000}}, got {}", describe(other))),
            })
        })
    }
}

impl Wish {
    fn read(table: &Table) -> Result<Wish, String> {
        let mut wish = Wish::default();
        for pair in table.pairs::<Value, Value>() {
            let (key, value) = pair.map_err(|e| e.to_string())?;
            let Value::String(key) = &key else {
                return Err(format!("expected names like age, got {}", describe(&key)));
            };
            let key = key.to_string_lossy();
            let json = lua_to_json(&value).unwrap_or_default();
            let wrong = |what: &str| format!("{key}: expected {what}, got {}", describe(&value));
            match key.as_str() {
                "age" => {
                    wish.age =
                        Some(bound(&json, read_duration).ok_or_else(|| wrong("a duration like \"1h\", or false"))?)
                }
                "count" => wish.count = Some(bound(&json, Json::as_u64).ok_or_else(|| wrong("a number, or false"))?),
                "bytes" => {
                    wish.bytes = Some(bound(&json, read_size).ok_or_else(|| wrong("a size like \"1MiB\", or false"))?)
                }
                "max_lag" => {
                    wish.max_lag = Some(bound(&json, Json::as_u64).ok_or_else(|| wrong("a number, or false"))?)
                }
                "ack" => {
                    wish.ack = Some(match json.as_str() {
                        Some("memory") => Ack::Memory,
                        Some("written") => Ack::Written,
                        Some("synced") => Ack::Synced,
                        _ => return Err(wrong("memory, written or synced")),
                    })
                }
                "lag" => {
                    wish.lag = Some(match json.as_str() {
                        Some("catch_up") => Lag::CatchUp,
                        Some("drop_oldest") => Lag::DropOldest,
                        Some("drop_newest") => Lag::DropNewest,
                        Some("skip") => Lag::Skip,
                        Some("close") => Lag::Close,
                        _ => return Err(wrong("catch_up, drop_oldest, drop_newest, skip or close")),
                    })
                }
                "history" => wish.history = Some(json.as_bool().ok_or_else(|| wrong("true or false"))?),
                _ => return Err(format!("{key} is not known here{}", hint(&key, FIELDS))),
            }
        }
        Ok(wish)
    }

    /// The strictest of both.
    fn and(self, other: Wish) -> Wish {
        Wish {
            age: tighter(self.age, other.age),
            count: tighter(self.count, other.count),
            bytes: tighter(self.bytes, other.bytes),
            ack: self.ack.max(other.ack),
            lag: [self.lag, other.lag].into_iter().flatten().max_by_key(impatience),
            max_lag: tighter(self.max_lag, other.max_lag),
            history: match (self.history, other.history) {
                (Some(a), Some(b)) => Some(a && b),
                (a, b) => a.or(b),
            },
        }
    }

    fn over(self, policy: Policy) -> Policy {
        let bounded = self.age.is_some() || self.count.is_some() || self.bytes.is_some();
        let kept = self.history.unwrap_or(policy.history.is_some() || bounded);
        let settings = policy.history.unwrap_or_default();
        let history = kept.then_some(Retention {
            age: self.age.unwrap_or(settings.age),
            count: self.count.unwrap_or(settings.count),
            bytes: self.bytes.unwrap_or(settings.bytes),
        });
        Policy {
            history,
            ack: self.ack.unwrap_or(policy.ack),
            lag: self.lag.unwrap_or(policy.lag),
            max_lag: self.max_lag.unwrap_or(policy.max_lag),
        }
    }
}

/// A bound, or `false` for none.
fn bound<T>(json: &Json, read: impl Fn(&Json) -> Option<T>) -> Option<Option<T>> {
    if *json == Json::Bool(false) { Some(None) } else { read(json).map(Some) }
}

/// Of two answers the smaller bound; any bound is smaller than none.
fn tighter<T: Ord + Copy>(a: Option<Option<T>>, b: Option<Option<T>>) -> Option<Option<T>> {
    match (a, b) {
        (Some(Some(a)), Some(Some(b))) => Some(Some(a.min(b))),
        (Some(a), Some(b)) => Some(a.or(b)),
        (a, b) => a.or(b),
    }
}

fn impatience(lag: &Lag) -> u8 {
    match lag {
        Lag::CatchUp => 0,
        Lag::DropOldest => 1,
        Lag::DropNewest => 2,
        Lag::Skip => 3,
        Lag::Close => 4,
    }
}
