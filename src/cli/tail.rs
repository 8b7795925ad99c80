//! `aether tail`: what is said and decided in a channel or about a user, as it happens.

use anyhow::bail;
use clap::{ArgGroup, Args};
use http_body_util::BodyExt;
use serde_json::{Value as Json, json};

use super::operator::Desk;
use super::remote::runtime;
use super::shadow::text;

/// What one event may have; a hub's are far smaller.
const EVENT: usize = 64 << 20;

/// Look on: messages and decisions of a channel or a user as they happen, without the values of the payloads
#[derive(Args)]
#[command(after_help = "\
  aether tail 'room.*'                    messages with their values masked, and every decision
  aether tail room.1 --view public        messages as that view of the rules leaves them
  aether tail --user bob                  what bob hears, and what is decided about bob
  aether tail room.1 --full               everything; the hub's log says that you looked")]
#[command(group = ArgGroup::new("whose").args(["channel", "user"]).required(true).multiple(true))]
pub struct Tail {
    /// A channel, or a pattern; of a pattern those that are in use
    #[arg(value_name = "CHANNEL", value_parser = super::pattern)]
    channel: Option<String>,
    /// The channels that this user listens to, and decisions about it
    #[arg(long, value_name = "USER")]
    user: Option<String>,
    /// See messages through a view of the rules
    #[arg(long, value_name = "NAME", conflicts_with = "full")]
    view: Option<String>,
    /// See messages as they are
    #[arg(long)]
    full: bool,
    #[command(flatten)]
    desk: Desk,
}

impl Tail {
    pub fn run(self) -> anyhow::Result<()> {
        let runtime = runtime()?;
        // On a thread of its own: it ends us also while standard output takes nothing.
        runtime.spawn(async {
            if tokio::signal::ctrl_c().await.is_ok() {
                std::process::exit(0);
            }
        });
        runtime.block_on(self.follow())
    }

    async fn follow(&self) -> anyhow::Result<()> {
        let mut query = form_urlencoded::Serializer::new(String::new());
        for (name, value) in [("channel", &self.channel), ("user", &self.user), ("view", &self.view)] {
            if let Some(value) = value {
                query.append_pair(name, value);
            }
        }
        if self.full {
            query.append_pair("full", "1");
        }
        let mut body = self.desk.open(&format!("tail?{}", query.finish())).await?;
        let mut unread = Vec::new();
        while let Some(frame) = body.frame().await {
            let Ok(frame) = frame else { break };
            unread.extend_from_slice(frame.data_ref().map_or(&[][..], |bytes| bytes));
            let mut begin = 0;
            while let Some(length) = unread[begin..].windows(2).position(|pair| pair == b"\n\n") {
                self.tell(&unread[begin..begin + length])?;
                begin += length + 2;
            }
            unread.drain(..begin);
            if unread.len() > EVENT {
                bail!("this does not answer like Aether: an event without an end");
            }
        }
        bail!("the hub has ended the tail: it is stopping, or read its log")
    }

    /// An event, or a comment, which says nothing.
    fn tell(&self, event: &[u8]) -> anyhow::Result<()> {
        let (mut name, mut data) = ("", String::new());
        let event = String::from_utf8_lossy(event);
        for line in event.lines() {
            if let Some(given) = line.strip_prefix("event: ") {
                name = given;
            } else if let Some(given) = line.strip_prefix("data: ") {
                data.push_str(given);
                data.push(' ');
            }
        }
        let Ok(mut it) = serde_json::from_str::<Json>(&data) else { return Ok(()) };
        if self.desk.json {
            it["type"] = name.into();
            return super::print(format!("{it}\n").as_bytes());
        }
        let line = match name {
            "message" => message(&it),
            "decision" => decision(&it),
            _ => lost(&it),
        };
        // What others send must not steer the terminal.
        let line: String = line.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect();
        super::print(format!("{line}\n").as_bytes())
    }
}

fn message(it: &Json) -> String {
    let event = it["event"].as_str().map_or(String::new(), |event| format!(" {event}"));
    let meta = if it["meta"].is_null() { String::new() } else { format!(" meta {}", it["meta"]) };
    format!("{} {}{event} {}{meta}", text(&it["channel"]), it["seq_id"], it["payload"])
}

fn decision(it: &Json) -> String {
    let part = |field: &str| it[field].as_str().filter(|text| !text.is_empty());
    let said = if it["allowed"] == true { "allowed".into() } else { format!("denied ({})", text(&it["code"])) };
    let by = match (part("hook"), part("place")) {
        (Some(hook), Some(place)) => format!(" by {hook} ({place})"),
        _ => String::new(),
    };
    let why = part("why").map_or(String::new(), |why| format!(": {why}"));
    let again = if it["again"] == json!(true) { " again" } else { "" };
    let who = part("user").unwrap_or("nobody");
    let channel = part("channel").map_or(String::new(), |channel| format!("{channel} "));
    format!("{channel}{}{again} of {who}: {said}{by}{why} [{}]", text(&it["event"]), text(&it["decision"]))
}

fn lost(it: &Json) -> String {
    if let Some(decisions) = it["decisions"].as_u64() {
        return format!("lost: {decisions} decisions, this reader is too slow");
    }
    if let Some(channels) = it["channels"].as_u64() {
        return format!("lost: {channels} more channels, which one tail does not hold");
    }
    let missing = match it["missing"].as_array().map(Vec::as_slice) {
        Some([from, to]) if from == to => format!(" {from}"),
        Some([from, to]) => format!(" {from} to {to}"),
        _ => String::new(),
    };
    format!("lost: {}{missing} ({})", text(&it["channel"]), text(&it["cause"]))
}
