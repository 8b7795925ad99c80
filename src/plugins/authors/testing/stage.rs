//! What one case plays on: the settings, the clock in hand, and a real host of the plugin under test.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use mlua::Function;
use parking_lot::Mutex;
use serde_json::{Map, Value as Json};
use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot};

use super::air::Air;
use super::guest::Guest;
use super::network::{Call, Question};
use super::people::People;
use super::witness::Onlooker;
use super::{Coverage, Network, Suite, Witness};
use crate::kernel::message::Micros;
use crate::plugins::commons::{Clock, Commons};
use crate::plugins::source::manifest::Manifest;
use crate::plugins::waiting::http::Answered;
use crate::plugins::waiting::timers::{Agenda, ring_here};
use crate::plugins::{Host, HostConfig, LoadError, PluginUse, Secrets};

/// 2026-01-01T00:00:00Z: every case begins then, so that none depends on the day on which it runs.
const BEGINNING: Micros = 1_767_225_600_000_000;
/// How long the answer of a hook that waits may take by the wall's clock.
const PATIENCE: Duration = Duration::from_secs(10);
/// Times at which timers run while a test lets time pass once.
const MAX_RINGS: usize = 100_000;

pub struct Stage {
    suite: Arc<Suite>,
    pub commons: Arc<Commons>,
    time: Arc<AtomicU64>,
    runtime: Handle,
    settings: Arc<Mutex<Settings>>,
    host: RefCell<Option<Arc<Host>>>,
    /// The timers of the generation that it was made for.
    agenda: RefCell<Option<(u64, Agenda)>>,
    pub people: People,
    pub network: Arc<Network>,
    /// What plugins ask of functions of the case; taken while somebody listens.
    questions: RefCell<Option<mpsc::Receiver<Question>>>,
    answering: RefCell<Vec<Answering>>,
    /// What was said in channels, for the clients of dialects.
    pub air: RefCell<Air>,
    /// The clients of dialects that were let in.
    pub guests: RefCell<Vec<Rc<Guest>>>,
    /// How much of what plugins published, and whom they sent away, the guests have heard of.
    pub heard: Cell<(usize, usize)>,
    /// In the order in which the file tells them.
    pub cases: RefCell<Vec<(String, Function)>>,
    /// Cases are told while the file loads.
    pub loading: Cell<bool>,
}

/// A function of the case that answers for a server.
type Answering = Rc<dyn Fn(&Call) -> Result<Answered, String>>;

/// What happens next while a case waits.
enum Step<T> {
    Answered(T),
    Asked(Box<Question>),
    Over,
}

/// What a host is loaded with.
#[derive(Default)]
struct Settings {
    config: Map<String, Json>,
    secrets: Vec<(String, String)>,
    beside: Vec<(String, Map<String, Json>)>,
}

impl Stage {
    pub fn new(suite: &Arc<Suite>, coverage: Option<Arc<Coverage>>, runtime: &Handle) -> Result<Stage, String> {
        let time = Arc::new(AtomicU64::new(BEGINNING));
        let mut commons = Commons::new(clock(&time))?;
        let witness = Arc::new(Witness::new(coverage));
        // The commons are new, so nobody was there before.
        let _ = commons.world.set(Box::new(Onlooker(witness.clone())));
        commons.witness = Some(witness);
        let (network, questions) = Network::new();
        let _ = commons.outside.instead.set(network.clone());
        Ok(Stage {
            suite: suite.clone(),
            commons: Arc::new(commons),
            time,
            runtime: runtime.clone(),
            settings: Arc::default(),
            host: RefCell::default(),
            agenda: RefCell::default(),
            people: People::default(),
            network,
            questions: RefCell::new(Some(questions)),
            answering: RefCell::default(),
            air: RefCell::default(),
            guests: RefCell::default(),
            heard: Cell::default(),
            cases: RefCell::default(),
            loading: Cell::new(true),
        })
    }

    /// The plugin under test, which is loaded when it is first needed.
    pub fn host(&self) -> Result<Arc<Host>, LoadError> {
        if let Some(host) = &*self.host.borrow() {
            return Ok(host.clone());
        }
        let (suite, settings) = (self.suite.clone(), self.settings.clone());
        let time = clock(&self.time);
        let sources = Arc::new(move || Ok(config(&suite, &settings, &time)));
        let commons = self.commons.clone();
        let host = self.aside(|| {
            let host = Host::load_among(sources.clone(), sources()?, commons)?;
            host.begin()?;
            Ok(host)
        })?;
        let generation = host.rules().generation.clone();
        *self.agenda.borrow_mut() = Some((generation.id, Agenda::new(&generation, self.now())));
        *self.host.borrow_mut() = Some(host.clone());
        Ok(host)
    }

    /// Waits for an answer, as the hub would.
    pub fn wait<T>(&self, answer: impl Future<Output = T>) -> Result<T, String> {
        let mut answer = pin!(async {
            let answer = answer.await;
            self.quiet().await;
            answer
        });
        let deadline = tokio::time::Instant::now() + PATIENCE;
        // Who asks within a function that answers has nobody to ask.
        let mut questions = self.questions.take();
        let answered = loop {
            let step = async {
                let question = async {
                    match &mut questions {
                        Some(questions) => questions.recv().await,
                        None => std::future::pending().await,
                    }
                };
                tokio::select! {
                    answer = &mut answer => Step::Answered(answer),
                    Some(question) = question => Step::Asked(Box::new(question)),
                    () = tokio::time::sleep_until(deadline) => Step::Over,
                }
            };
            // The case's function runs outside of the runtime, where it may wait for others.
            match self.runtime.block_on(step) {
                Step::Answered(answer) => break Ok(answer),
                Step::Asked(question) => {
                    let Question { function, call, reply } = *question;
                    let answering = self.answering.borrow().get(function).cloned();
                    let answer = answering.map_or_else(|| Err("the case is over".into()), |answering| answering(&call));
                    // Whoever asked may have given up.
                    let _ = reply.send(answer);
                }
                Step::Over => break Err(format!("no answer came within {PATIENCE:?}")),
            }
        };
        if questions.is_some() {
            *self.questions.borrow_mut() = questions;
        }
        self.met()?;
        answered
    }

    /// Until what hooks have left to be done beside them is done.
    async fn quiet(&self) {
        let Some(host) = self.host.borrow().clone() else { return };
        let rules = host.rules();
        let calls = &rules.generation.program.waiting;
        while calls.iter().any(|calls| calls.load(Ordering::Acquire) > 0) {
            tokio::time::sleep(Duration::from_micros(100)).await;
        }
    }

    /// Does what may ask functions of the case and stands still until they answer.
    pub fn aside<T: Send>(&self, act: impl FnOnce() -> T + Send) -> T {
        if !self.network.asks_back() {
            let _inside = self.runtime.enter();
            return act();
        }
        let runtime = self.runtime.clone();
        std::thread::scope(|scope| {
            let (done, ended) = oneshot::channel::<()>();
            let thread = scope.spawn(move || {
                let _inside = runtime.enter();
                let outcome = act();
                // Who listened may have lost patience, and comes back below all the same.
                let _ = done.send(());
                outcome
            });
            let _ = self.wait(ended);
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// An error if something was asked of the network that nothing answers.
    pub fn met(&self) -> Result<(), String> {
        self.network.unmet().map_or(Ok(()), Err)
    }

    /// The number by which the network knows a function of the case.
    pub fn answer_by(&self, answering: Answering) -> usize {
        let mut all = self.answering.borrow_mut();
        all.push(answering);
        all.len() - 1
    }

    /// Lets go of everything that is the case's VM's.
    pub fn leave(&self) {
        self.cases.take();
        self.guests.take();
        self.answering.take();
        self.people.leave();
    }

    pub fn witness(&self) -> &Witness {
        // Made in `new`, and nobody takes it away.
        self.commons.witness.as_deref().expect("a stage has a witness")
    }

    /// Other settings; what is loaded with the old ones goes.
    pub fn configure(&self, config: Map<String, Json>) {
        self.settings.lock().config = config;
        self.close();
    }

    /// Other settings for the next reload of what is loaded.
    pub fn prepare(&self, config: Map<String, Json>) {
        self.settings.lock().config = config;
    }

    /// The secrets that the test has set, whenever one is asked for.
    pub fn secrets(&self) -> Secrets {
        let settings = self.settings.clone();
        Arc::new(move |wanted| known_secret(&settings.lock().secrets, wanted))
    }

    pub fn set_secret(&self, name: String, value: String) {
        self.settings.lock().secrets.insert(0, (name, value));
        self.close();
    }

    /// Loads another plugin before the one under test.
    pub fn load_beside(&self, name: String, config: Map<String, Json>) {
        self.settings.lock().beside.push((name, config));
        self.close();
    }

    pub fn now(&self) -> Micros {
        self.time.load(Ordering::SeqCst)
    }

    pub fn set_time(&self, now: Micros) {
        self.time.store(now, Ordering::SeqCst);
    }

    /// Lets time pass until `end`: timers that are due meanwhile run at their time, one after the other.
    pub fn pass_to(&self, end: Micros) -> Result<(), String> {
        let host = self.host().map_err(|error| error.to_string())?;
        for _ in 0..MAX_RINGS {
            let generation = host.rules().generation.clone();
            let mut agenda = self.agenda.borrow_mut();
            if agenda.as_ref().is_none_or(|(id, _)| *id != generation.id) {
                *agenda = Some((generation.id, Agenda::new(&generation, self.now())));
            }
            let Some((_, timers)) = &mut *agenda else { break };
            let next = timers.next().into_iter().chain(self.commons.attendance.next()).min();
            let Some(next) = next.filter(|next| *next <= end) else {
                self.set_time(end);
                return Ok(());
            };
            self.set_time(next.max(self.now()));
            let due = timers.due(self.now());
            drop(agenda);
            for hook in due {
                let rung = self.aside(|| ring_here(&generation, hook));
                self.met()?;
                rung.map_err(|failure| format!("a timer broke: {}", failure.why))?;
            }
            self.settle(&host)?;
        }
        Err(format!("timers ran more than {MAX_RINGS} times; let less time pass at once"))
    }

    /// Tells join and leave hooks what has happened.
    pub fn settle(&self, host: &Host) -> Result<(), String> {
        let commons = self.commons.clone();
        let broke = self.aside(|| commons.attendance.settle(&host.rules().generation));
        self.met()?;
        let broke: Vec<_> = broke.into_iter().map(|failure| failure.why).collect();
        if broke.is_empty() { Ok(()) } else { Err(format!("a join or leave hook broke: {}", broke.join("; "))) }
    }

    /// Lets go of the host.
    pub fn close(&self) {
        drop(self.agenda.take());
        drop(self.host.take());
    }
}

fn clock(time: &Arc<AtomicU64>) -> Clock {
    let time = time.clone();
    Arc::new(move || time.load(Ordering::SeqCst))
}

fn config(suite: &Suite, settings: &Mutex<Settings>, clock: &Clock) -> HostConfig {
    let given = settings.lock();
    let beside = given.beside.iter().map(|(name, config)| plugin(name.clone(), suite.plugins.join(name), config));
    let mut plugins: Vec<PluginUse> = beside.collect();
    if suite.is_plugin {
        plugins.push(plugin(name_of(&suite.dir), suite.dir.clone(), &given.config));
    }
    let secrets = given.secrets.clone();
    HostConfig {
        plugins,
        scripts: (!suite.is_plugin).then(|| suite.dir.clone()),
        secrets: Arc::new(move |wanted| known_secret(&secrets, wanted)),
        clock: clock.clone(),
        ..HostConfig::default()
    }
}

/// The latest that was set.
fn known_secret(secrets: &[(String, String)], wanted: &str) -> Option<String> {
    secrets.iter().find(|(name, _)| name == wanted).map(|(_, value)| value.clone())
}

fn plugin(name: String, dir: PathBuf, config: &Map<String, Json>) -> PluginUse {
    PluginUse { at: format!("the test's config of {name}"), name, dir, config: config.clone(), ..PluginUse::default() }
}

/// As its manifest calls it; a manifest that cannot be read complains when it is loaded.
fn name_of(dir: &Path) -> String {
    let manifest = Manifest::read(&dir.join("plugin.toml"), "plugin.toml").ok();
    let last = || dir.file_name().unwrap_or_default().to_string_lossy().into_owned();
    manifest.map_or_else(last, |manifest| manifest.name)
}
