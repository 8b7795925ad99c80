//! `aether test`: plays the tests of plugins and scripts.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use anyhow::Context;
use clap::Args;
use serde_json::json;

use super::{AlreadyTold, Misused, Settings, print};
use crate::config::Config;
use crate::plugins::testing::{Coverage, Played, Suite, Troupe, coverage};

/// How often the files are looked at, and how long they must rest before the tests run again: editors write in steps.
const LOOK: Duration = Duration::from_millis(200);

/// Run the tests of plugins and scripts: tests/*.lua below each
#[derive(Args)]
#[command(after_help = "Without a name: every plugin in plugins.dir that has tests, and the scripts.\n\
Exit codes: 0 all passed, 1 a case failed, 2 there is nothing to test.")]
pub struct Test {
    /// Plugins by name, or directories of plugins or scripts
    #[arg(value_name = "PLUGIN|DIR")]
    what: Vec<String>,
    /// Only cases whose name or file contains this
    #[arg(long, value_name = "TEXT")]
    filter: Option<String>,
    /// Say which lines of the plugins ran
    #[arg(long)]
    coverage: bool,
    /// Say which functions of the library no case used, and fail if there are some
    #[arg(long)]
    library: bool,
    /// Run again whenever a file changes
    #[arg(long, conflicts_with = "json")]
    watch: bool,
    /// One JSON object instead of lines
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    settings: Settings,
}

impl Test {
    pub fn run(self) -> anyhow::Result<()> {
        let config = self.settings.load(Vec::new())?;
        let suites = self.suites(&config)?;
        if !self.watch {
            return self.once(&suites);
        }
        loop {
            let before = seen(&suites);
            match self.once(&suites) {
                Err(error) if !error.is::<AlreadyTold>() => return Err(error),
                _ => print(b"\nwaiting for a file to change\n")?,
            }
            wait_for_change(&suites, before);
        }
    }

    fn suites(&self, config: &Config) -> anyhow::Result<Vec<Suite>> {
        let (plugins, scripts) = (&config.plugins.dir, &config.plugins.scripts);
        let suite =
            |dir: PathBuf| Suite { is_plugin: dir.join("plugin.toml").is_file(), dir, plugins: plugins.clone() };
        if !self.what.is_empty() {
            return self.what.iter().map(|what| found(what, plugins).map(suite)).collect();
        }
        let mut dirs: Vec<PathBuf> =
            std::fs::read_dir(plugins).into_iter().flatten().flatten().map(|e| e.path()).collect();
        dirs.sort();
        dirs.push(scripts.clone());
        let suites: Vec<_> = dirs.into_iter().filter(|dir| dir.join("tests").is_dir()).map(suite).collect();
        if suites.is_empty() {
            let (plugins, scripts) = (plugins.display(), scripts.display());
            return Err(Misused(format!("there are no tests: neither {plugins}/*/tests/ nor {scripts}/tests/")).into());
        }
        Ok(suites)
    }

    fn once(&self, suites: &[Suite]) -> anyhow::Result<()> {
        let began = Instant::now();
        let coverage = (self.coverage || self.library).then(|| Arc::new(Coverage::default()));
        let mut all: Vec<Played> = Vec::new();
        for suite in suites {
            let troupe = Troupe::new(suite.clone(), coverage.clone()).context("the tests have no threads")?;
            if self.coverage {
                troupe.look_at_all();
            }
            for file in troupe.files() {
                let mut heading = Some(format!("{}/{file}\n", suite.dir.display()));
                let mut broken = Ok(());
                troupe.play(&file, self.filter.as_deref(), |played| {
                    if !self.json && broken.is_ok() {
                        broken = print([heading.take().unwrap_or_default(), lines(&played)].concat().as_bytes());
                    }
                    all.push(played);
                });
                broken?;
            }
        }
        if all.is_empty() {
            let why = match &self.filter {
                Some(text) => format!("no case has {text:?} in its name or file"),
                None => "there are no tests: write tests/main.lua beside main.lua".to_owned(),
            };
            return Err(Misused(why).into());
        }
        let failed = all.iter().filter(|played| played.failed.is_some()).count();
        let unused = coverage.as_ref().filter(|_| self.library).map(|coverage| coverage.untouched());
        if self.json {
            print(
                format!("{:#}\n", as_json(&all, coverage.as_deref().filter(|_| self.coverage), unused.as_deref()))
                    .as_bytes(),
            )?;
        } else {
            let table = coverage.filter(|_| self.coverage).map_or(String::new(), |coverage| table(&coverage));
            let table = table + &unused.as_deref().map_or(String::new(), library);
            let passed = all.len() - failed;
            let took = began.elapsed().as_secs_f64();
            print(format!("{table}\n{passed} passed, {failed} failed in {took:.2} s\n").as_bytes())?;
        }
        if failed > 0 || unused.is_some_and(|unused| !unused.is_empty()) { Err(AlreadyTold.into()) } else { Ok(()) }
    }
}

/// The directory that somebody means: a path, or the name of a plugin.
fn found(what: &str, plugins: &Path) -> anyhow::Result<PathBuf> {
    let named = plugins.join(what);
    let dir = [PathBuf::from(what), named.clone()].into_iter().find(|dir| dir.is_dir());
    let Some(dir) = dir else {
        return Err(
            Misused(format!("{what} is neither a directory nor a plugin: there is no {}", named.display())).into()
        );
    };
    if !dir.join("tests").is_dir() {
        return Err(Misused(format!("{} has no tests: write {0}/tests/main.lua", dir.display())).into());
    }
    Ok(dir)
}

fn lines(played: &Played) -> String {
    let Some(failed) = &played.failed else {
        return format!("  ok    {} ({:.1} ms)\n", played.case, played.took.as_secs_f64() * 1e3);
    };
    let indented = |text: &str| text.lines().map(|line| format!("        {line}\n")).collect::<String>();
    let place = if failed.place.is_empty() { String::new() } else { format!("{}: ", failed.place) };
    let mut text = format!("  FAIL  {}\n{}", played.case, indented(&format!("{place}{}", failed.why)));
    for at in &failed.called_at {
        text.push_str(&indented(&format!("  called at {at}")));
    }
    for said in &failed.log {
        text.push_str(&indented(&format!("log {said}")));
    }
    text
}

fn table(coverage: &Coverage) -> String {
    let files = coverage.files();
    let share = |ran: usize, lines: usize| 100.0 * ran as f64 / (lines.max(1) as f64);
    let width = files.iter().map(|file| file.file.len()).max().unwrap_or_default().max(5);
    let mut text = format!("\n{:width$}  lines    ran       %  missed\n", "file");
    for file in &files {
        let missed = file.missed.join(", ");
        let row = format!(
            "{:width$}  {:>5}  {:>5}  {:>6.1}  {missed}",
            file.file,
            file.lines,
            file.ran,
            share(file.ran, file.lines)
        );
        text.push_str(row.trim_end());
        text.push('\n');
    }
    let (ran, lines) = files.iter().fold((0, 0), |sum, file| (sum.0 + file.ran, sum.1 + file.lines));
    text + &format!("{:width$}  {lines:>5}  {ran:>5}  {:>6.1}\n", "all", share(ran, lines))
}

fn library(unused: &[&str]) -> String {
    let all = coverage::names().count();
    let told: String = unused.iter().map(|name| format!("  aether.{name} is used by no case\n")).collect();
    format!("\nlibrary: {} of {all} are used\n{told}", all - unused.len())
}

fn as_json(all: &[Played], coverage: Option<&Coverage>, unused: Option<&[&str]>) -> serde_json::Value {
    let case = |played: &Played| {
        let failed = played.failed.as_ref();
        json!({
            "file": played.file,
            "case": played.case,
            "passed": failed.is_none(),
            "ms": played.took.as_secs_f64() * 1e3,
            "place": failed.map(|failed| &failed.place),
            "why": failed.map(|failed| &failed.why),
            "called_at": failed.map(|failed| &failed.called_at),
            "log": failed.map(|failed| &failed.log),
        })
    };
    let covered = coverage.map(|coverage| {
        let files = coverage.files().into_iter();
        files.map(|f| json!({"file": f.file, "lines": f.lines, "ran": f.ran, "missed": f.missed})).collect::<Vec<_>>()
    });
    let failed = all.iter().filter(|played| played.failed.is_some()).count();
    json!({
        "passed": all.len() - failed,
        "failed": failed,
        "cases": all.iter().map(case).collect::<Vec<_>>(),
        "coverage": covered,
        "unused": unused,
    })
}

/// Every file that matters, with when it was written.
fn seen(suites: &[Suite]) -> BTreeSet<(PathBuf, Option<SystemTime>)> {
    let mut files = BTreeSet::new();
    suites.iter().for_each(|suite| look(&suite.dir, 8, &mut files));
    files
}

fn look(dir: &Path, depth: usize, files: &mut BTreeSet<(PathBuf, Option<SystemTime>)>) {
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() && depth > 0 {
            look(&path, depth - 1, files);
        } else if path.extension().is_some_and(|end| ["lua", "luau", "toml"].iter().any(|known| end == *known)) {
            files.insert((path, entry.metadata().and_then(|meta| meta.modified()).ok()));
        }
    }
}

/// Looks at the times of the files: a handful of them, and the same on every system, so no watcher is needed.
fn wait_for_change(suites: &[Suite], before: BTreeSet<(PathBuf, Option<SystemTime>)>) {
    let mut last = before.clone();
    loop {
        std::thread::sleep(LOOK);
        let now = seen(suites);
        if now != before && now == last {
            return;
        }
        last = now;
    }
}
