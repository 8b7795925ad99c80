//! `aether plugin`: what an author needs beside the hub.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use clap::{Args, Subcommand};

use super::{Misused, Settings, print};
use crate::config::Config;
use crate::plugins::{Bench, Portrait, editor, reference};

/// Begin a plugin, look at those that are there, or get types for an editor
#[derive(Args)]
pub struct Plugin {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    New(New),
    List(List),
    Info(Info),
    Types(Types),
    Reference(Reference),
    Bench(Measure),
}

/// Write a plugin that passes its test, to go on from
#[derive(Args)]
struct New {
    #[arg(value_parser = name)]
    name: String,
    /// Where to, instead of plugins.dir
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    #[command(flatten)]
    settings: Settings,
}

/// List the plugins that are there
#[derive(Args)]
struct List {
    #[command(flatten)]
    settings: Settings,
}

/// Say what a plugin is, may do, can be set to and listens to
#[derive(Args)]
struct Info {
    name: String,
    #[command(flatten)]
    settings: Settings,
}

/// Write aether.d.luau (luau-lsp) and aether.lua (LuaLS): what the global `aether` has
#[derive(Args)]
struct Types {
    /// Where to
    #[arg(long, value_name = "DIR", default_value = ".")]
    dir: PathBuf,
}

/// Print the reference of the library
#[derive(Args)]
struct Reference {
    /// Renew it in this page instead
    #[arg(long, value_name = "FILE")]
    into: Option<PathBuf>,
}

impl Reference {
    fn run(self) -> anyhow::Result<()> {
        let Some(file) = self.into else { return print(reference::reference().as_bytes()) };
        let page = std::fs::read_to_string(&file).with_context(|| format!("{} cannot be read", file.display()))?;
        let Some(renewed) = reference::renewed(&page) else {
            bail!("{} has no place for the reference: two comments say where it begins and ends", file.display());
        };
        std::fs::write(&file, renewed).with_context(|| format!("{} cannot be written", file.display()))
    }
}

/// Measure what each hook of a plugin costs
#[derive(Args)]
struct Measure {
    name: String,
    /// How often each is asked
    #[arg(long, default_value_t = 20_000, value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    calls: u32,
    #[command(flatten)]
    settings: Settings,
}

fn name(text: &str) -> Result<String, String> {
    let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    if text.starts_with(|c: char| c.is_ascii_lowercase()) && text.chars().all(fits) {
        Ok(text.to_owned())
    } else {
        Err("a plugin's name is lower-case letters, digits and -, and begins with a letter".into())
    }
}

impl Plugin {
    pub fn run(self) -> anyhow::Result<()> {
        match self.verb {
            Verb::New(new) => new.run(),
            Verb::List(list) => list.run(),
            Verb::Info(info) => info.run(),
            Verb::Types(types) => types.run(),
            Verb::Reference(reference) => reference.run(),
            Verb::Bench(bench) => bench.run(),
        }
    }
}

const FILES: [(&str, &str); 4] = [
    (
        "plugin.toml",
        r#"[plugin]
name = "NAME"
version = "0.1.0"
aether = ">=0.1, <0.2"
description = "Says who may listen and write to rooms"

# What is not listed is not there.
[permissions]
channels = ["room.*"]

[config.max_size]
type = "size"
default = "4KiB"
doc = "The longest message that a room takes"
"#,
    ),
    (
        "main.lua",
        r#"-- Whoever is somebody may listen to a room and write short messages there.

local allow, deny, cfg = aether.allow, aether.deny, aether.config

aether.on.subscribe("room.{room}", function(s, ch)
	if not s.user then return deny("sign_in", "sign in before you listen here") end
	return allow()
end)

aether.on.publish("room.{room}", function(s, ch, msg)
	if not s.user then return deny("sign_in", "sign in before you write here") end
	if msg.size > cfg.max_size then return deny("too_long", `at most {cfg.max_size} bytes`) end
	return allow()
end)
"#,
    ),
    (
        "tests/main.lua",
        r#"local t = aether.test

t.case("who is somebody may listen and write", function()
	t.allowed(t.subscribe("alice", "room.42"))
	t.allowed(t.publish("alice", "room.42", { text = "hello" }))
end)

t.case("nobody in particular is told to sign in", function()
	t.denied(t.subscribe(nil, "room.42"), "sign_in")
	t.denied(t.publish(nil, "room.42", { text = "hello" }), "sign_in")
end)

t.case("a message may be as long as the settings say", function()
	t.config({ max_size = 8 })
	t.allowed(t.publish("alice", "room.42", "12345678"))
	t.denied(t.publish("alice", "room.42", "123456789"), "too_long", "at most 8 bytes")
end)
"#,
    ),
    (
        "README.md",
        r#"# NAME

Says who may listen and write to rooms.

| setting | default | |
|---|---|---|
| `max_size` | `"4KiB"` | the longest message that a room takes |

Switch it on in `aether.toml` (a list of plugins replaces the default one, so name all that you want):

```toml
[[plugin]]
use = "NAME"
```

Test it with `aether test NAME`.
"#,
    ),
];

impl New {
    fn run(self) -> anyhow::Result<()> {
        let parent = match self.dir {
            Some(dir) => dir,
            None => self.settings.load(Vec::new())?.plugins.dir,
        };
        let dir = parent.join(&self.name);
        if dir.exists() {
            bail!("{} is there already: choose another name, or remove it first", dir.display());
        }
        let mut told = String::new();
        for (file, text) in FILES {
            let path = dir.join(file);
            let within = path.parent().unwrap_or(&dir);
            std::fs::create_dir_all(within).with_context(|| within.display().to_string())?;
            std::fs::write(&path, text.replace("NAME", &self.name)).with_context(|| path.display().to_string())?;
            told.push_str(&format!("{}\n", path.display()));
        }
        let shown = dir.display();
        told.push_str(&format!(
            "\nTest it:       aether test {shown}\nSwitch it on:  [[plugin]] use = {:?} in aether.toml\n",
            self.name
        ));
        print(told.as_bytes())
    }
}

/// Every directory with a manifest in `plugins.dir`.
fn all(config: &Config) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(&config.plugins.dir).into_iter().flatten().flatten();
    let mut dirs: Vec<_> = entries.map(|entry| entry.path()).filter(|dir| dir.join("plugin.toml").is_file()).collect();
    dirs.sort();
    dirs
}

fn found(config: &Config, name: &str) -> anyhow::Result<PathBuf> {
    let dir = [config.plugins.dir.join(name), PathBuf::from(name)];
    let dir = dir.into_iter().find(|dir| dir.join("plugin.toml").is_file());
    dir.ok_or_else(|| Misused(format!("there is no plugin {name} in {}", config.plugins.dir.display())).into())
}

/// A plugin with the settings that aether.toml has for it, or with its own defaults.
fn portrait(config: &Config, dir: &Path) -> Portrait {
    let name = dir.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let used = config.plugin.iter().find(|plugin| plugin.name == name);
    Portrait::of(dir, used.map(|plugin| plugin.config.clone()).unwrap_or_default())
}

fn used_at(config: &Config, name: &str) -> String {
    match config.plugin.iter().find(|plugin| plugin.name == name) {
        Some(plugin) if plugin.at.is_empty() => "used by default".into(),
        Some(plugin) => format!("used at {}", plugin.at),
        None => "not used".into(),
    }
}

impl List {
    fn run(self) -> anyhow::Result<()> {
        let config = self.settings.load(Vec::new())?;
        let mut text = String::new();
        for dir in all(&config) {
            let portrait = portrait(&config, &dir);
            let (name, used) = (&portrait.name, used_at(&config, &portrait.name));
            text.push_str(&format!("{name} {} ({used}): {}\n", portrait.version, portrait.description));
            for hook in &portrait.hooks {
                text.push_str(&format!("  {hook}\n"));
            }
            for wrong in &portrait.wrong {
                text.push_str(&format!("  {wrong}\n"));
            }
        }
        if text.is_empty() {
            text = format!("there are no plugins in {}\n", config.plugins.dir.display());
        }
        print(text.as_bytes())
    }
}

impl Info {
    fn run(self) -> anyhow::Result<()> {
        let config = self.settings.load(Vec::new())?;
        let portrait = portrait(&config, &found(&config, &self.name)?);
        let mut text = format!(
            "{} {}\n{}\n{}\n",
            portrait.name,
            portrait.version,
            portrait.description,
            used_at(&config, &portrait.name)
        );
        for (heading, lines) in [
            ("permissions", &portrait.permissions),
            ("settings", &portrait.settings),
            ("hooks", &portrait.hooks),
            ("wrong", &portrait.wrong),
        ] {
            if !lines.is_empty() {
                text.push_str(&format!("\n{heading}\n"));
                lines.iter().for_each(|line| text.push_str(&format!("  {line}\n")));
            }
        }
        print(text.as_bytes())
    }
}

impl Types {
    fn run(self) -> anyhow::Result<()> {
        for (file, text) in [("aether.d.luau", editor::luau()), ("aether.lua", editor::luals())] {
            let path = self.dir.join(file);
            std::fs::write(&path, text).with_context(|| path.display().to_string())?;
            print(format!("{}\n", path.display()).as_bytes())?;
        }
        Ok(())
    }
}

impl Measure {
    fn run(self) -> anyhow::Result<()> {
        let config = self.settings.load(Vec::new())?;
        let dir = found(&config, &self.name)?;
        let settings = config.plugin.iter().find(|plugin| plugin.name == self.name);
        let settings = settings.map(|plugin| plugin.config.clone()).unwrap_or_default();
        let keys = crate::keys::Keys::rehearse(&config)?;
        let bench = Bench::load(&dir, settings, move |name| keys.secret(name))?;
        let mut text = format!("{:>10}  {:>10}  hook\n", "ns/call", "bytes/call");
        for cost in bench.run(self.calls) {
            text.push_str(&match cost.outcome {
                Ok((nanos, bytes)) => format!("{nanos:>10.0}  {bytes:>10.0}  {}\n", cost.hook),
                Err(why) => format!("{:>10}  {:>10}  {}: {why}\n", "-", "-", cost.hook),
            });
        }
        print(text.as_bytes())
    }
}
