//! Plays the cases of a file: a thread and a VM for each, so that none can spoil the next.

use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use mlua::{Error, Lua};
use tokio::runtime::Runtime;

use super::{Coverage, Failed, Played, Stage, Suite, follow_clock};
use crate::plugins::api::{Seat, absent};
use crate::plugins::source::generation::{Program, Unit};
use crate::plugins::source::manifest::Manifest;
use crate::plugins::vm::value::{caller_in, first_line, has_place, unfit};
use crate::plugins::vm::watchdog::Watched;
use crate::plugins::vm::{environment, load, sandbox};
use crate::plugins::{Counters, HostConfig};

/// Processor time of one case, and of loading a file of tests.
const BUDGET: Duration = Duration::from_secs(2);
/// What the watchdog cannot reach is given up after this, and its thread is left behind.
const GIVEN_UP: Duration = Duration::from_secs(60);
/// Of a failure's text.
const MAX_WHY: usize = 8192;
const MAX_LOG: usize = 50;

/// Those who play the tests of one suite.
pub struct Troupe {
    suite: Arc<Suite>,
    coverage: Option<Arc<Coverage>>,
    runtime: Runtime,
}

impl Troupe {
    pub fn new(suite: Suite, coverage: Option<Arc<Coverage>>) -> std::io::Result<Troupe> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        Ok(Troupe { suite: Arc::new(suite), coverage, runtime })
    }

    /// The files of tests, as paths below the suite's directory.
    pub fn files(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.suite.dir.join("tests")).into_iter().flatten().flatten();
        let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
        let mut files: Vec<_> = names
            .filter(|name| !name.starts_with('.') && (name.ends_with(".lua") || name.ends_with(".luau")))
            .map(|name| format!("tests/{name}"))
            .collect();
        files.sort();
        files
    }

    /// Loads the suite once as it is, so that coverage knows its files even if no case touches them.
    pub fn look_at_all(&self) {
        let stage = Stage::new(&self.suite, self.coverage.clone(), self.runtime.handle());
        // What does not load with its defaults is loaded by the cases that set it up.
        let _ = stage.map(|stage| stage.host().map(drop));
    }

    /// Plays those cases of a file whose file or name contains `filter`, and tells each when it is over.
    pub fn play(&self, file: &str, filter: Option<&str>, mut tell: impl FnMut(Played)) {
        let shown = format!("{}/{file}", self.suite.dir.display());
        let began = Instant::now();
        let played = |case: &str, took, failed| Played { file: shown.clone(), case: case.to_owned(), took, failed };
        let names = match self.apart(file, |script| Ok(script.names())) {
            Ok(names) => names,
            Err(failed) => return tell(played("(the file loads)", began.elapsed(), Some(failed))),
        };
        let wanted = |name: &str| filter.is_none_or(|text| name.contains(text) || shown.contains(text));
        for (at, name) in names.iter().enumerate().filter(|(_, name)| wanted(name)) {
            let began = Instant::now();
            let outcome = self.apart(file, move |script| script.run(at));
            tell(played(name, began.elapsed(), outcome.err()));
        }
    }

    /// Loads a file on a thread of its own and does something with it.
    fn apart<R: Send + 'static>(
        &self,
        file: &str,
        act: impl FnOnce(&Script) -> Result<R, Failed> + Send + 'static,
    ) -> Result<R, Failed> {
        let (suite, file, coverage) = (self.suite.clone(), file.to_owned(), self.coverage.clone());
        let runtime = self.runtime.handle().clone();
        let (done, outcome) = channel();
        let play = move || {
            let outcome = Stage::new(&suite, coverage, &runtime).map_err(Failed::plain).and_then(|stage| {
                let stage = Rc::new(stage);
                let outcome = Script::load(&stage, &suite.dir, &file).and_then(|script| act(&script));
                let log = stage.witness().said();
                stage.close();
                outcome.map_err(|failed| {
                    failed.with_log(log.iter().map(|said| {
                        format!("{} {}: {} {}", said.level, said.place, said.message, said.fields).trim_end().to_owned()
                    }))
                })
            });
            // Nobody waits any more if it took too long.
            let _ = done.send(outcome);
        };
        let thread = std::thread::Builder::new().name("lua-test".into()).spawn(play);
        let thread = thread.map_err(|error| Failed::plain(format!("there is no thread to play it on: {error}")))?;
        match outcome.recv_timeout(GIVEN_UP) {
            Ok(outcome) => {
                let _ = thread.join();
                outcome
            }
            Err(RecvTimeoutError::Timeout) => Err(Failed::plain(format!("it hangs: given up after {GIVEN_UP:?}"))),
            Err(RecvTimeoutError::Disconnected) => Err(Failed::plain("the case's thread panicked".into())),
        }
    }
}

/// A file of tests, loaded into a VM of the kind that production has.
struct Script {
    stage: Rc<Stage>,
    watched: Watched,
}

impl Script {
    fn load(stage: &Rc<Stage>, dir: &Path, file: &str) -> Result<Script, Failed> {
        let manifest = Manifest::read(&dir.join("plugin.toml"), "plugin.toml").ok();
        let unit = Unit::tests(dir, file, manifest).map_err(Failed::plain)?;
        let config = HostConfig { secrets: stage.secrets(), ..HostConfig::default() };
        let counters = Arc::new(Counters::default());
        let (limits, program) = (config.limits, Program::new(vec![unit], &config, counters, stage.commons.clone()));
        let broken = |error: Error| Failed::plain(first_line(&error));
        let (lua, base) = sandbox(limits.memory).map_err(broken)?;
        follow_clock(&lua, &base, stage.commons.clone()).map_err(broken)?;
        let watched = Watched::new(&lua);
        let seat = Rc::new(Seat::on(stage, Arc::new(program)));
        let (loaded, stopped) = watched.run(BUDGET, |lua| {
            let env = environment(lua, &base, &seat)?;
            load(lua, &env, seat.unit(), file)?.call::<()>(())
        });
        seat.loading.set(false);
        stage.loading.set(false);
        let script = Script { stage: stage.clone(), watched };
        loaded.map_err(|error| Failed::of(script.watched.lua(), &error, stopped))?;
        let errors = seat.errors.take();
        if !errors.is_empty() || !seat.registered.take().is_empty() {
            let why = "a file of tests registers no hooks; they belong into the plugin";
            return Err(Failed::plain([errors, vec![why.to_owned()]].concat().join("\n")));
        }
        Ok(script)
    }

    fn names(&self) -> Vec<String> {
        self.stage.cases.borrow().iter().map(|(name, _)| name.clone()).collect()
    }

    fn run(&self, at: usize) -> Result<(), Failed> {
        let case = self.stage.cases.borrow().get(at).map(|(_, case)| case.clone());
        let case = case.ok_or_else(|| Failed::plain("the file tells other cases than a moment ago".into()))?;
        let (outcome, stopped) = self.watched.run(BUDGET, |_| case.call::<()>(()));
        match outcome {
            Ok(()) if !stopped => self.stage.met().map_err(Failed::plain),
            Ok(()) => Err(Failed::plain(format!("it used up its {BUDGET:?} of processor time"))),
            Err(error) => Err(Failed::of(self.watched.lua(), &error, stopped)),
        }
    }
}

/// What the stage holds of the VM goes before the VM does.
impl Drop for Script {
    fn drop(&mut self) {
        self.stage.leave();
    }
}

impl Failed {
    fn plain(why: String) -> Failed {
        Failed { place: String::new(), why, called_at: Vec::new(), log: Vec::new() }
    }

    /// What an error says, and where it came about.
    fn of(lua: &Lua, error: &Error, stopped: bool) -> Failed {
        let (mut root, mut trace) = (error, "");
        while let Error::CallbackError { cause, traceback } = root {
            (root, trace) = (cause, traceback);
        }
        let text = match root {
            Error::RuntimeError(text) | Error::SyntaxError { message: text, .. } | Error::MemoryError(text) => {
                text.clone()
            }
            other => unfit(other).unwrap_or_else(|| other.to_string()),
        };
        let (text, trace) = text.split_once("\nstack traceback:").unwrap_or((&text, trace));
        let budget = if stopped { format!(" (a case may take {BUDGET:?})") } else { String::new() };
        let text = absent::explained(lua, text.to_owned());
        let why: String = text.chars().take(MAX_WHY).chain(budget.chars()).collect();
        let mut called_at: Vec<String> = trace.lines().filter_map(|line| caller_in(line.trim())).collect();
        let (place, why) = match why.split_once(": ") {
            Some((place, rest)) if has_place(&format!("{place}:")) && !place.contains([' ', '\n']) => {
                (place.to_owned(), rest.to_owned())
            }
            _ => (called_at.first().cloned().unwrap_or_default(), why.clone()),
        };
        called_at.retain(|at| *at != place);
        Failed { place, why, called_at, log: Vec::new() }
    }

    fn with_log(mut self, lines: impl ExactSizeIterator<Item = String>) -> Failed {
        let skipped = lines.len().saturating_sub(MAX_LOG);
        self.log = lines.skip(skipped).collect();
        self
    }
}
