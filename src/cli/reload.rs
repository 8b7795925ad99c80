//! `aether reload` and `aether rollback`: which rules are in charge on a running hub.

use clap::Args;
use serde::Deserialize;
use serde_json::json;

use super::operator::Desk;

/// Put the rules on disk in charge on the running hub: all of them are good, or nothing changes
#[derive(Args)]
pub struct Reload {
    #[command(flatten)]
    desk: Desk,
}

/// Put the rules before the last reload in charge again
#[derive(Args)]
pub struct Rollback {
    #[command(flatten)]
    desk: Desk,
}

#[derive(Deserialize)]
struct Change {
    generation: u64,
    before: u64,
    took_ms: f64,
    plugins: Vec<String>,
    hooks_added: Vec<String>,
    hooks_removed: Vec<String>,
    permissions_grown: Vec<String>,
    channels_entering: usize,
    entering: Vec<String>,
    #[serde(default)]
    need_restart: Vec<String>,
}

impl Reload {
    pub fn run(self) -> anyhow::Result<()> {
        tell(&self.desk, "reload")
    }
}

impl Rollback {
    pub fn run(self) -> anyhow::Result<()> {
        tell(&self.desk, "rollback")
    }
}

pub fn tell(desk: &Desk, verb: &str) -> anyhow::Result<()> {
    let answer = desk.ask(verb, &json!({}))?;
    if desk.json {
        return super::print(&answer);
    }
    let change: Change = serde_json::from_slice(&answer)?;
    let mut lines =
        format!("generation {} is in charge after {} ({:.0} ms)\n", change.generation, change.before, change.took_ms);
    let mut list = |before: &str, what: &[String]| {
        what.iter().for_each(|line| lines.push_str(&format!("  {before}{line}\n")));
    };
    list("", &change.plugins);
    list("+ ", &change.hooks_added);
    list("- ", &change.hooks_removed);
    list("may now: ", &change.permissions_grown);
    if change.channels_entering > 0 {
        let dots = if change.channels_entering > change.entering.len() { " ..." } else { "" };
        let names = change.entering.join(" ");
        lines.push_str(&format!("  channels that enter Lua now: {} ({names}{dots})\n", change.channels_entering));
    }
    change.need_restart.iter().for_each(|line| lines.push_str(&format!("  needs a restart: {line}\n")));
    super::print(lines.as_bytes())
}
