//! Requests that plugins answer: which route one is for, and the thread that runs the hooks, with a VM of its own.

use std::net::SocketAddr;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;

use tokio::sync::oneshot;

use super::route::{Auth, Route};
use super::visit::{RouteAnswer, Visit, Visitor, read_answer};
use crate::kernel::hooks::{Refusal, Request};
use crate::plugins::asking::decision::Asker;
use crate::plugins::asking::rules::{No, Rules};
use crate::plugins::host::Host;
use crate::plugins::source::about::About;
use crate::plugins::source::generation::{Generation, Registration};
use crate::plugins::vm::Failure;
use crate::plugins::vm::resident::with_vm;

/// Requests that may wait for their hook; beyond, they are told to come back.
const QUEUE: usize = 1000;

/// What a request is for.
pub enum Routed {
    /// No plugin's.
    Nothing,
    /// A plugin's path, which answers only to these methods.
    Methods(Vec<&'static str>),
    Route(Call),
}

/// A request that has found its route; the rules that it found are those that judge it.
pub struct Call {
    rules: Arc<Rules>,
    hook: usize,
    params: Vec<(String, String)>,
    auth: Auth,
}

/// The routes of a generation, and whoever runs them.
#[derive(Default)]
pub struct Routes {
    /// Hooks; those whose paths say more come first.
    order: Vec<usize>,
    reception: OnceLock<Option<Reception>>,
}

/// Routes that are there already, as errors that name both places.
pub fn clashes(registrations: &[Registration]) -> Vec<String> {
    let mut errors = Vec::new();
    let routes: Vec<_> = registrations.iter().filter_map(|hook| Some((hook, route_of(hook)?))).collect();
    for (at, (hook, route)) in routes.iter().enumerate() {
        let clash = routes[..at].iter().find(|(other, taken)| {
            taken.listen == route.listen
                && taken.path.equals(&route.path)
                && (other.unit != hook.unit || taken.method == route.method)
        });
        if let Some((other, taken)) = clash {
            let why = if other.unit == hook.unit { "is there already" } else { "belongs to another plugin" };
            errors.push(format!("{}: http.route {route}: {taken} at {} {why}", hook.place, other.place));
        }
    }
    errors
}

fn route_of(hook: &Registration) -> Option<&Route> {
    match &hook.about {
        About::Route(route) => Some(route),
        _ => None,
    }
}

impl Routes {
    pub fn of(generation: &Generation) -> Routes {
        let all = generation.registrations.iter().enumerate();
        let mut order: Vec<_> = all.filter_map(|(at, hook)| Some((route_of(hook)?.path.rank(), at))).collect();
        order.sort();
        Routes { order: order.into_iter().map(|(_, at)| at).collect(), reception: OnceLock::new() }
    }
}

impl Host {
    /// The route that a request is for.
    pub fn route(&self, listener: Option<SocketAddr>, method: &str, path: &str) -> Routed {
        let rules = self.rules();
        let mut methods = Vec::new();
        for &hook in &rules.routes.order {
            let Some(route) = route_of(&rules.generation.registrations[hook]) else { continue };
            let Some(captures) = route.path.captures(path).filter(|_| route.listen == listener) else { continue };
            if route.answers(method) {
                let params = captures.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
                let auth = route.auth;
                return Routed::Route(Call { rules, hook, params, auth });
            }
            methods.push(route.method);
        }
        if methods.is_empty() { Routed::Nothing } else { Routed::Methods(methods) }
    }
}

impl Call {
    pub fn auth(&self) -> Auth {
        self.auth
    }

    /// Runs what belongs to the request, so that it is judged by the rules that it found.
    pub fn judging<'a>(&self, request: Request<'a>) -> Request<'a> {
        Host::judged_by(self.rules.clone(), request)
    }

    /// What the plugin answers, or why it does not.
    pub async fn answer(self, visit: Visit) -> Result<RouteAnswer, Refusal> {
        let Call { rules, hook, params, .. } = self;
        let user = visit.client.as_ref().and_then(|client| client.identity.user.clone());
        let request = visit.request.clone();
        let asker = || Asker { user: user.as_deref(), ..Asker::from(&request) };
        if rules.generation.waits(hook) {
            let answer = answer_waiting(&rules.generation, hook, Visitor { visit, params }).await;
            return answer.map_err(|no| rules.refuse(no, None, asker()));
        }
        let (reply, answer) = oneshot::channel();
        let letter = Letter { hook, visitor: Visitor { visit, params }, reply };
        let reception = rules.routes.reception.get_or_init(|| Reception::open(&rules.generation)).as_ref();
        let registration = &rules.generation.registrations[hook];
        if !reception.is_some_and(|reception| reception.takes(letter)) {
            let why = format!("{QUEUE} requests wait for routes already");
            return Err(rules.refuse(No::Busy(hook, why), None, asker()));
        }
        let gone = || {
            let why = format!("{}: the thread of the routes has ended", registration.place);
            Err(No::Broken(hook, Failure { why, rests: false }))
        };
        let answer = answer.await.unwrap_or_else(|_| gone());
        answer.map_err(|no| rules.refuse(no, None, asker()))
    }
}

/// Asks a hook that may wait.
async fn answer_waiting(generation: &Arc<Generation>, hook: usize, visitor: Visitor) -> Result<RouteAnswer, No> {
    let place = generation.registrations[hook].place.clone();
    let lanes = &generation.program.commons.lanes;
    let asked = lanes.run(generation, hook, move |vm| async move {
        vm.call_waiting(hook, |_| Ok(visitor), |value, _| read_answer(value, &place)).await
    });
    match asked.await {
        Ok(answer) => answer.map_err(|deny| No::Denied(hook, deny)),
        Err(unheard) => Err(No::unheard(hook, unheard)),
    }
}

/// A request on its way to its hook.
struct Letter {
    hook: usize,
    visitor: Visitor,
    reply: oneshot::Sender<Result<RouteAnswer, No>>,
}

/// Opened when the first request comes; ends with its generation.
struct Reception {
    queue: Option<SyncSender<Letter>>,
    thread: Option<JoinHandle<()>>,
}

impl Reception {
    fn open(generation: &Arc<Generation>) -> Option<Reception> {
        let (queue, letters) = sync_channel(QUEUE);
        let generation = generation.clone();
        let run = move || run(&generation, &letters);
        match std::thread::Builder::new().name("lua-routes".into()).spawn(run) {
            Ok(thread) => Some(Reception { queue: Some(queue), thread: Some(thread) }),
            Err(error) => {
                tracing::error!(%error, "routes have no thread, and answer that they are busy");
                None
            }
        }
    }

    fn takes(&self, letter: Letter) -> bool {
        let Some(queue) = &self.queue else { return false };
        !matches!(queue.try_send(letter), Err(TrySendError::Full(_) | TrySendError::Disconnected(_)))
    }
}

impl Drop for Reception {
    fn drop(&mut self) {
        self.queue = None;
        if let Some(thread) = self.thread.take() {
            // It ends by itself; whether it panicked is in the log already.
            let _ = thread.join();
        }
    }
}

fn run(generation: &Arc<Generation>, letters: &Receiver<Letter>) {
    while let Ok(Letter { hook, visitor, reply }) = letters.recv() {
        if reply.is_closed() {
            continue; // nobody waits for it any more
        }
        let place = generation.registrations[hook].place.clone();
        let answer = with_vm(generation, |vm| {
            vm.call(hook, generation.program.limits.connect, |_| Ok(visitor), |value, _| read_answer(value, &place))
        });
        let answer = match answer {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(deny)) => Err(No::Denied(hook, deny)),
            Err(failure) => Err(No::Broken(hook, failure)),
        };
        // Who asked may have gone.
        let _ = reply.send(answer);
    }
}
