//! What a decision is made from, written down while it is made: which hooks ran, what they said and what they read.
//!
//! A decision is made on one thread at a time, so its trace is that thread's while it is there. Outside a decision nothing
//! is written down.

use std::cell::RefCell;
use std::future::{Future, poll_fn};
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;

use parking_lot::Mutex;

use serde_json::Value as Json;

use super::record::Record;
use super::rehearsal::Rehearsal;
use crate::kernel::message::Micros;
use crate::plugins::asking::decision::{Deny, Vote};
use crate::plugins::vm::Failure;
use crate::plugins::waiting::http::Answered;

/// Steps that are kept of one decision; a rule that reads more has read more than anybody will look at.
pub const MAX_STEPS: usize = 256;

/// One thing that happened on the way to a decision.
#[derive(Clone, Debug)]
pub enum Step {
    /// A hook begins.
    Hook(usize),
    /// It has answered.
    Said(usize, Said),
    /// A hook was not asked, because its vote is remembered.
    Known(usize),
    /// No hook was asked who it is, because its credential is remembered.
    KnownCredential,
    Read(Read),
    /// What it logged, while it only rehearsed.
    Logged(String),
    /// What it would have done to the world.
    Withheld(String),
}

#[derive(Clone, Debug)]
pub enum Said {
    Nothing,
    /// It let the message pass, as it is or changed.
    Passed,
    Allow {
        view: Option<String>,
    },
    Deny(Deny),
    Broke {
        why: String,
        rests: bool,
    },
}

/// What a script asked of the world beyond its arguments, and what it was told.
#[derive(Clone, PartialEq, Debug)]
pub struct Read {
    /// `kv.get`.
    pub call: &'static str,
    /// The store's name, or whatever it was asked of.
    pub of: Arc<str>,
    pub key: Key,
    /// What it was asked with beside the key.
    pub with: Told,
    pub told: Told,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Key {
    None,
    /// As `keys` writes it.
    Packed(Vec<u8>),
    Text(String),
}

/// A value as cheap to keep as it comes.
#[derive(Clone, PartialEq, Debug)]
pub enum Told {
    Nothing,
    Bool(bool),
    Number(f64),
    Json(Arc<Json>),
    Rows(Arc<Vec<(Vec<u8>, Json)>>),
    Keys(Arc<Vec<Vec<u8>>>),
    /// It was there and is not for anybody's eyes.
    Secret,
    Http(Arc<Answered>),
    /// Stands for something, and tells nothing of it.
    Mark(u64),
}

/// What a library function answers with, to and from what is kept of it.
pub trait Answer: Sized {
    fn told(&self) -> Told;
    /// None if that is not what this function answers.
    fn again(told: &Told) -> Option<Self>;
}

/// What is written down of a decision while it is made.
#[derive(Default)]
pub struct Trace {
    following: bool,
    /// A record is wanted whatever comes of it.
    every: bool,
    steps: Vec<Step>,
    concluded: Option<Concluded>,
    /// Shared with the threads that hooks wait on.
    rehearsal: Option<Arc<Mutex<Rehearsal>>>,
}

/// How a decision went, and whether the recorder is to keep it.
pub struct Concluded {
    pub record: Record,
    pub kept: bool,
}

/// A decision that has been followed to its end.
pub struct Followed {
    pub steps: Vec<Step>,
    pub concluded: Concluded,
}

const NONE: Trace = Trace { following: false, every: false, steps: Vec::new(), concluded: None, rehearsal: None };

thread_local! {
    static TRACE: RefCell<Trace> = const { RefCell::new(NONE) };
    /// Room for the steps of the next decision.
    static SPARE: RefCell<Vec<Step>> = const { RefCell::new(Vec::new()) };
}

struct Swapped<'a>(&'a mut Trace);

impl Drop for Swapped<'_> {
    fn drop(&mut self) {
        TRACE.with_borrow_mut(|trace| std::mem::swap(trace, self.0));
    }
}

impl Trace {
    /// With `every` there is a record of it even if nobody needs one.
    pub fn new(every: bool) -> Trace {
        Trace { following: true, every, steps: SPARE.take(), ..NONE }
    }

    /// Nothing that happens has an effect.
    pub fn rehearsal(rehearsal: Rehearsal) -> Trace {
        Trace { rehearsal: Some(Arc::new(Mutex::new(rehearsal))), ..Trace::new(true) }
    }

    /// Runs `ask`, which does not wait, for this decision; what it did is `returned`.
    pub fn run<R>(mut self, ask: impl FnOnce() -> R) -> (R, Trace) {
        TRACE.with_borrow_mut(|trace| std::mem::swap(trace, &mut self));
        let back = Swapped(&mut self);
        let answer = ask();
        drop(back);
        (answer, self)
    }

    /// Runs `asking` to its end. Others use the thread while it waits.
    async fn during<F: Future>(mut self, asking: F) -> (F::Output, Trace) {
        let mut asking = std::pin::pin!(asking);
        let output = poll_fn(|cx| {
            TRACE.with_borrow_mut(|trace| std::mem::swap(trace, &mut self));
            let _back = Swapped(&mut self);
            asking.as_mut().poll(cx)
        })
        .await;
        (output, self)
    }

    /// Runs what is done for this decision on another thread; what it did goes `back`.
    pub async fn carry<T, E>(self, asking: impl Future<Output = Result<T, E>>) -> Result<Carried<T, E>, E> {
        let (outcome, trace) = self.during(asking).await;
        Ok(Carried { outcome, steps: trace.steps })
    }
}

/// What came of an errand.
pub struct Carried<T, E> {
    outcome: Result<T, E>,
    steps: Vec<Step>,
}

/// Follows a decision to its end, and gives what there is to be written down, if there is anything.
pub async fn follow<F: Future>(trace: Trace, asking: F) -> (F::Output, Option<Followed>) {
    let (output, mut trace) = trace.during(asking).await;
    match trace.concluded.take() {
        Some(concluded) => (output, Some(Followed { steps: trace.steps, concluded })),
        None => {
            trace.steps.clear();
            SPARE.set(trace.steps);
            (output, None)
        }
    }
}

/// A trace for what another thread does for the decision at hand.
pub fn lend() -> Trace {
    TRACE.with_borrow(|trace| Trace {
        following: trace.following,
        every: false,
        rehearsal: trace.rehearsal.clone(),
        ..NONE
    })
}

/// What another thread has done.
pub fn back<T, E>(Carried { outcome, steps }: Carried<T, E>) -> Result<T, E> {
    steps.into_iter().for_each(|step| note(|| step));
    outcome
}

/// The same, and how the decision went if that thread has made it.
pub fn returned(done: Trace) {
    done.steps.into_iter().for_each(|step| note(|| step));
    if done.concluded.is_some() {
        TRACE.with_borrow_mut(|trace| trace.concluded = done.concluded);
    }
}

/// Runs `asking` on a thread that may stand still for it.
pub fn stand<F: Future>(asking: F) -> F::Output {
    struct Standing(Thread);
    impl Wake for Standing {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Waker::from(Arc::new(Standing(std::thread::current())));
    let (mut asking, mut cx) = (std::pin::pin!(asking), Context::from_waker(&waker));
    loop {
        match asking.as_mut().poll(&mut cx) {
            Poll::Ready(output) => return output,
            Poll::Pending => std::thread::park(),
        }
    }
}

fn note(step: impl FnOnce() -> Step) {
    TRACE.with_borrow_mut(|trace| {
        if trace.following && trace.steps.len() < MAX_STEPS {
            trace.steps.push(step());
        }
    });
}

pub fn begins(hook: usize) {
    note(|| Step::Hook(hook));
}

pub fn known(hook: usize) {
    note(|| Step::Known(hook));
}

pub fn known_credential() {
    note(|| Step::KnownCredential);
}

pub fn voted(hook: usize, vote: &Vote) {
    note(|| {
        let said = match vote {
            Vote::None => Said::Nothing,
            Vote::Allow(allow) => Said::Allow { view: allow.view.clone() },
            Vote::Deny(deny) => Said::Deny(deny.clone()),
        };
        Step::Said(hook, said)
    });
}

/// A transform's or a retain hook's answer.
pub fn passed(hook: usize, deny: Option<&Deny>) {
    note(|| Step::Said(hook, deny.map_or(Said::Passed, |deny| Said::Deny(deny.clone()))));
}

pub fn broke(hook: usize, failure: Failure) -> Failure {
    note(|| Step::Said(hook, Said::Broke { why: failure.why.clone(), rests: failure.rests }));
    failure
}

/// Something that a rule would do and that does not happen in a rehearsal; whether it does.
pub fn acts(what: impl FnOnce() -> String) -> bool {
    let rehearsing = is_rehearsal();
    if rehearsing {
        note(|| Step::Withheld(what()));
    }
    !rehearsing
}

/// What a rule logs; whether it goes into the log.
pub fn logs(line: impl FnOnce() -> String) -> bool {
    let rehearsing = is_rehearsal();
    if rehearsing {
        note(|| Step::Logged(line()));
    }
    !rehearsing
}

/// Asks the world, or whoever stands in for it, and writes down what was told.
pub fn read<T: Answer>(
    call: &'static str,
    of: &Arc<str>,
    key: &[u8],
    with: Told,
    ask: impl FnOnce() -> Result<T, String>,
) -> Result<T, String> {
    let following = TRACE.with_borrow(|trace| trace.following);
    if !following {
        return ask();
    }
    let mut read = Read { call, of: of.clone(), key: Key::Packed(key.to_vec()), with, told: Told::Nothing };
    // It is asked in any case: a change must be there for what is read next.
    let asked = ask();
    let again = rehearsing(|rehearsal| rehearsal.known(&read)).flatten().and_then(|told| T::again(&told));
    let answer = match again {
        Some(answer) => answer,
        None => asked?,
    };
    read.told = answer.told();
    note(|| Step::Read(read));
    Ok(answer)
}

/// Who is to answer what takes its time.
pub enum Asks {
    /// The world.
    World,
    /// What another run was told.
    Known(Told),
    /// Nobody: this is a rehearsal, and nobody was asked before.
    Nobody,
}

pub fn asks(read: &Read) -> Asks {
    match rehearsing(|rehearsal| rehearsal.known(read)) {
        None => Asks::World,
        Some(Some(told)) => Asks::Known(told),
        Some(None) => Asks::Nobody,
    }
}

pub fn noted(read: impl FnOnce() -> Read) {
    note(|| Step::Read(read()));
}

/// Writes down what was found and cannot be given again.
pub fn saw(call: &'static str, what: &str, told: Told) {
    note(|| Step::Read(Read { call, of: "".into(), key: Key::Text(what.to_owned()), with: Told::Nothing, told }));
}

/// When it is, in a rehearsal.
pub fn time() -> Option<Micros> {
    TRACE.with_borrow(|trace| trace.rehearsal.as_ref().map(|rehearsal| rehearsal.lock().now))
}

pub fn is_rehearsal() -> bool {
    TRACE.with_borrow(|trace| trace.rehearsal.is_some())
}

/// Calls that read or change the rehearsal must not come back here.
pub fn rehearsing<R>(with: impl FnOnce(&mut Rehearsal) -> R) -> Option<R> {
    TRACE.with_borrow(|trace| trace.rehearsal.as_ref().map(|rehearsal| with(&mut rehearsal.lock())))
}

/// Whether a record is to be made of a yes that nobody samples.
pub fn wants_every() -> bool {
    TRACE.with_borrow(|trace| trace.every)
}

/// How the decision went, as far as it goes; what comes later counts. Gives it back if nobody follows.
pub fn conclude(concluded: Concluded) -> Option<Concluded> {
    TRACE.with_borrow_mut(|trace| {
        if !trace.following {
            return Some(concluded);
        }
        trace.concluded = Some(concluded);
        None
    })
}

impl Answer for bool {
    fn told(&self) -> Told {
        Told::Bool(*self)
    }
    fn again(told: &Told) -> Option<bool> {
        if let Told::Bool(yes) = told { Some(*yes) } else { None }
    }
}

impl Answer for f64 {
    fn told(&self) -> Told {
        Told::Number(*self)
    }
    fn again(told: &Told) -> Option<f64> {
        if let Told::Number(number) = told { Some(*number) } else { None }
    }
}

impl Answer for Option<Arc<Json>> {
    fn told(&self) -> Told {
        self.as_ref().map_or(Told::Nothing, |json| Told::Json(json.clone()))
    }
    fn again(told: &Told) -> Option<Self> {
        match told {
            Told::Nothing => Some(None),
            Told::Json(json) => Some(Some(json.clone())),
            _ => None,
        }
    }
}

impl Answer for Arc<Vec<(Vec<u8>, Json)>> {
    fn told(&self) -> Told {
        Told::Rows(self.clone())
    }
    fn again(told: &Told) -> Option<Self> {
        if let Told::Rows(rows) = told { Some(rows.clone()) } else { None }
    }
}

impl Answer for Arc<Vec<Vec<u8>>> {
    fn told(&self) -> Told {
        Told::Keys(self.clone())
    }
    fn again(told: &Told) -> Option<Self> {
        if let Told::Keys(keys) = told { Some(keys.clone()) } else { None }
    }
}

/// A limiter's: it was let through, or has to wait so many milliseconds.
impl Answer for Result<(), u64> {
    fn told(&self) -> Told {
        match self {
            Ok(()) => Told::Bool(true),
            Err(wait) => Told::Number(*wait as f64),
        }
    }
    fn again(told: &Told) -> Option<Self> {
        match told {
            Told::Bool(true) => Some(Ok(())),
            Told::Number(wait) => Some(Err(*wait as u64)),
            _ => None,
        }
    }
}
