//! `aether replay`: what other rules would have made of what was decided and said before.

use std::path::PathBuf;

use clap::Args;
use serde_json::{Value as Json, json};

use super::operator::Desk;
use super::shadow::{absolute, list, text};

/// Replay what was decided and said before against other rules: what would flip, be refused or be changed
#[derive(Args)]
pub struct Replay {
    #[command(flatten)]
    desk: Desk,
    /// The candidate's scripts, on the hub's machine [default: those of the settings, as they are on disk now]
    #[arg(value_name = "DIR")]
    dir: Option<PathBuf>,
    /// The candidate's plugins, likewise
    #[arg(long, value_name = "DIR")]
    plugins: Option<PathBuf>,
    /// How far back
    #[arg(long, value_name = "DURATION", default_value = "24h")]
    since: String,
    /// Channels whose messages are looked at; without any, only recorded decisions are
    #[arg(long, value_name = "PATTERN", value_parser = super::pattern)]
    channels: Vec<String>,
    /// At most so many messages
    #[arg(long, value_name = "N")]
    limit: Option<usize>,
    /// End the replay that runs
    #[arg(long, conflicts_with_all = ["dir", "plugins", "channels", "limit"])]
    stop: bool,
}

impl Replay {
    pub fn run(self) -> anyhow::Result<()> {
        if self.stop {
            return super::print(&self.desk.ask("replay_stop", &json!({}))?);
        }
        let mut with = json!({"since": self.since, "channels": self.channels});
        for (name, dir) in [("scripts", &self.dir), ("plugins", &self.plugins)] {
            if let Some(dir) = dir {
                with[name] = absolute(dir)?.into();
            }
        }
        if let Some(limit) = self.limit {
            with["limit"] = limit.into();
        }
        let answer = self.desk.ask_until_stopped("replay", &with, "replay_stop")?;
        if self.desk.json {
            return super::print(&answer);
        }
        let it: Json = serde_json::from_slice(&answer)?;
        let (decisions, messages) = (&it["decisions"], &it["messages"]);
        let mut lines = format!("{} against what was:\n", text(&it["from"]));
        if it["whole"] == false {
            lines.push_str("it was ended before its end; so far:\n");
        }
        for why in it["failed"].as_array().into_iter().flatten() {
            lines.push_str(&format!("  {}\n", text(why)));
        }
        lines.push_str(&format!(
            "{} recorded decisions: {} would flip ({} are not kept whole)\n",
            decisions["replayed"], decisions["flipped"], decisions["not_whole"]
        ));
        list(&mut lines, &decisions["differences"]);
        lines.push_str(&format!(
            "{} stored messages, as if from somebody unknown: {} would be refused, {} changed, {} let in\n",
            messages["replayed"],
            messages["would_be_refused"],
            messages["would_be_changed"],
            messages["would_be_let_in"]
        ));
        list(&mut lines, &messages["differences"]);
        super::print(lines.as_bytes())
    }
}
