//! `aether shadow`: other rules beside those in charge of the running hub, asked the same.

use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::{Args, Subcommand};
use serde_json::{Value as Json, json};

use super::operator::Desk;

/// Try other rules beside those in charge: they are asked the same, and what they would say differently is counted
#[derive(Args)]
pub struct Shadow {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Load a candidate beside the rules in charge
    Start(Start),
    /// Show what it would have decided differently
    Diff(Plain),
    /// Put it in charge, and end the shadow
    Promote(Plain),
    /// Drop it
    Stop(Plain),
}

#[derive(Args)]
struct Start {
    #[command(flatten)]
    desk: Desk,
    /// The candidate's scripts, on the hub's machine [default: those of the settings, as they are on disk now]
    #[arg(value_name = "DIR")]
    dir: Option<PathBuf>,
    /// The candidate's plugins, likewise
    #[arg(long, value_name = "DIR")]
    plugins: Option<PathBuf>,
    /// Which part of the decisions it is asked about
    #[arg(long, value_name = "PART", default_value_t = 1.0)]
    sample: f64,
}

#[derive(Args)]
struct Plain {
    #[command(flatten)]
    desk: Desk,
}

impl Shadow {
    pub fn run(self) -> anyhow::Result<()> {
        match self.verb {
            Verb::Start(Start { desk, dir, plugins, sample }) => {
                let mut with = json!({"sample": sample});
                for (name, dir) in [("scripts", dir), ("plugins", plugins)] {
                    if let Some(dir) = dir {
                        with[name] = absolute(&dir)?.into();
                    }
                }
                let answer = desk.ask("shadow_start", &with)?;
                tell(&desk, &answer, |it| {
                    format!(
                        "a shadow of {} runs beside the rules in charge, as generation {}\n`aether shadow diff` shows what it would have said differently\n",
                        text(&it["from"]),
                        it["generation"]
                    )
                })
            }
            Verb::Diff(Plain { desk }) => tell(&desk, &desk.ask("shadow_diff", &json!({}))?, differences),
            Verb::Stop(Plain { desk }) => tell(&desk, &desk.ask("shadow_stop", &json!({}))?, differences),
            Verb::Promote(Plain { desk }) => super::reload::tell(&desk, "shadow_promote"),
        }
    }
}

/// The hub may have another working directory than whoever asks.
pub fn absolute(dir: &Path) -> anyhow::Result<String> {
    let whole = std::path::absolute(dir).with_context(|| dir.display().to_string())?;
    whole.to_str().map(str::to_owned).with_context(|| format!("{} is not UTF-8", dir.display()))
}

fn tell(desk: &Desk, answer: &[u8], lines: impl FnOnce(&Json) -> String) -> anyhow::Result<()> {
    if desk.json {
        return super::print(answer);
    }
    let answer: Json = serde_json::from_slice(answer).context("the hub's answer cannot be read")?;
    super::print(lines(&answer).as_bytes())
}

pub fn text(json: &Json) -> String {
    json.as_str().map_or_else(|| json.to_string(), str::to_owned)
}

fn differences(it: &Json) -> String {
    let mut lines = format!(
        "{} of {} decisions compared: {} differ ({} waiting, {} dropped, {} answered from memory)\n",
        it["compared"], it["decisions"], it["differing"], it["waiting"], it["dropped"], it["passed_over"]
    );
    list(&mut lines, &it["differences"]);
    lines
}

/// Differences by kind, each with its examples.
pub fn list(lines: &mut String, differences: &Json) {
    for kind in differences.as_array().into_iter().flatten() {
        let part = |field: &str| text(&kind[field]);
        if kind["event"] == "others" {
            lines.push_str(&format!("  {} x of further kinds\n", kind["count"]));
            continue;
        }
        lines.push_str(&format!(
            "  {} x {} -> {} ({}, {})\n",
            kind["count"],
            part("before"),
            part("after"),
            part("event"),
            part("hook")
        ));
        for example in kind["examples"].as_array().into_iter().flatten() {
            let side = |side: &Json| {
                let why =
                    side["why"].as_str().filter(|why| !why.is_empty()).map_or(String::new(), |why| format!(": {why}"));
                let place = side["place"].as_str().filter(|place| !place.is_empty()).unwrap_or("no hook");
                let gives = if side["gives"].is_null() { String::new() } else { format!(" {}", side["gives"]) };
                format!("{} ({place}{why}){gives}", text(&side["code"]))
            };
            let whose = |field: &str| example[field].as_str().filter(|text| !text.is_empty()).unwrap_or("-").to_owned();
            lines.push_str(&format!(
                "    {} by {}: {} -> {}\n",
                whose("channel"),
                whose("user"),
                side(&example["before"]),
                side(&example["after"])
            ));
        }
    }
}
