//! The network of a case: what it says that others answer, in place of them, and what was asked.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot};

use crate::plugins::waiting::http::allow::UrlPattern;
use crate::plugins::waiting::http::{Answered, Asked};

/// Of one case; beyond, the oldest goes.
const MAX_CALLS: usize = 10_000;
/// Calls that wait for a function of the case; who comes then waits for room.
const MAX_QUESTIONS: usize = 64;

pub struct Network {
    stubs: Mutex<Vec<Stub>>,
    calls: Mutex<Vec<Call>>,
    /// The first call that nothing answers.
    unmet: Mutex<Option<String>>,
    questions: mpsc::Sender<Question>,
    /// Some stub is a function of the case, which only the case's own thread can run.
    asks_back: AtomicBool,
}

struct Stub {
    /// None: any.
    method: Option<String>,
    url: UrlPattern,
    reply: Reply,
}

/// What a stub answers.
pub enum Reply {
    Says(Arc<Answered>),
    /// The call fails, for this reason.
    Fails(String),
    /// The function of the case with this number is asked.
    Asks(usize),
}

/// One call that a plugin made.
#[derive(Clone)]
pub struct Call {
    pub plugin: String,
    pub method: String,
    pub url: String,
    pub headers: http::HeaderMap,
    pub body: Bytes,
}

/// A call that a function of the case answers.
pub struct Question {
    pub function: usize,
    pub call: Call,
    pub reply: oneshot::Sender<Result<Answered, String>>,
}

impl Network {
    pub fn new() -> (Arc<Network>, mpsc::Receiver<Question>) {
        let (questions, asked) = mpsc::channel(MAX_QUESTIONS);
        let network = Network {
            stubs: Mutex::default(),
            calls: Mutex::default(),
            unmet: Mutex::default(),
            questions,
            asks_back: AtomicBool::new(false),
        };
        (Arc::new(network), asked)
    }

    pub fn stub(&self, method: &str, url: UrlPattern, reply: Reply) {
        if matches!(reply, Reply::Asks(_)) {
            self.asks_back.store(true, Ordering::Relaxed);
        }
        let method = (method != "*").then(|| method.to_ascii_uppercase());
        self.stubs.lock().push(Stub { method, url, reply });
    }

    pub fn asks_back(&self) -> bool {
        self.asks_back.load(Ordering::Relaxed)
    }

    pub fn calls(&self) -> Vec<Call> {
        self.calls.lock().clone()
    }

    /// What was asked and nothing answered, told once.
    pub fn unmet(&self) -> Option<String> {
        self.unmet.lock().take()
    }

    /// The latest stub that fits answers.
    pub async fn answer(&self, plugin: &str, asked: Asked) -> Result<Answered, String> {
        let call = Call {
            plugin: plugin.to_owned(),
            method: asked.method.to_string(),
            url: asked.uri.to_string(),
            headers: asked.headers,
            body: asked.body,
        };
        {
            let mut calls = self.calls.lock();
            if calls.len() >= MAX_CALLS {
                calls.remove(0);
            }
            calls.push(call.clone());
        }
        let function = {
            let stubs = self.stubs.lock();
            let fits = |stub: &&Stub| {
                stub.method.as_ref().is_none_or(|method| *method == call.method) && stub.url.covers(&asked.uri)
            };
            match stubs.iter().rev().find(fits).map(|stub| &stub.reply) {
                Some(Reply::Says(answer)) => return Ok(answer.as_ref().clone()),
                Some(Reply::Fails(why)) => return Err(why.clone()),
                Some(Reply::Asks(function)) => *function,
                None => {
                    let Call { method, url, .. } = &call;
                    let why = format!(
                        "{plugin} asks {method} {url}, and no stub answers: say before what it answers, as in t.http.stub({method:?}, {url:?}, {{ status = 200 }})"
                    );
                    self.unmet.lock().get_or_insert(why);
                    return Err("nothing of the network is there in a test".into());
                }
            }
        };
        let (reply, replied) = oneshot::channel();
        let gone = || "the case is over".to_owned();
        self.questions.send(Question { function, call, reply }).await.map_err(|_| gone())?;
        replied.await.map_err(|_| gone())?
    }
}
