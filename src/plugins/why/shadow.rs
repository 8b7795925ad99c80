//! A candidate beside the rules in charge: it is asked what they were asked, after they have answered, and what it would
//! have said otherwise is counted.
//!
//! It has a thread and a VM of its own. What it changes is dropped, and what the live run read it reads again, so that
//! the same code says the same.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

use parking_lot::Mutex;
use serde_json::{Value as Json, json};

use super::asked::{Asked, Question};
use super::effect::Effect;
use super::evidence::weight_of;
use super::record::Record;
use super::rehearsal::Rehearsal;
use super::trace::{self, Followed, MAX_STEPS, Read, Step, Trace};
use crate::kernel::message::Micros;
use crate::plugins::asking::rules::Rules;

/// Decisions that wait for the candidate, and their bytes. When either is full the newest is counted and dropped.
const QUEUE: usize = 1024;
const QUEUED_BYTES: usize = 16 << 20;
/// Kinds of differences that are told apart; what comes beyond is counted together.
const KINDS: usize = 500;
const EXAMPLES: usize = 3;
/// How soon the thread hears that it is to end.
const LOOK: Duration = Duration::from_millis(50);

pub struct Shadow {
    pub candidate: Arc<Rules>,
    /// Where it was read from, in the operator's words.
    pub from: String,
    since: Micros,
    sample: f64,
    queue: SyncSender<Shot>,
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

#[derive(Default)]
struct Shared {
    closing: AtomicBool,
    /// Decisions of the rules in charge so far.
    seen: AtomicU64,
    taken: AtomicU64,
    compared: AtomicU64,
    dropped: AtomicU64,
    /// Answered by what was remembered, or too long to be asked again.
    passed_over: AtomicU64,
    queued_bytes: AtomicUsize,
    differences: Mutex<Differences>,
}

/// A decision that was made, to be made again.
struct Shot {
    question: Question,
    reads: Vec<Read>,
    outcome: Outcome,
    weight: usize,
}

/// How it came out.
pub struct Outcome {
    pub record: Record,
    pub effect: Option<Effect>,
}

/// What two generations say differently, by kind.
#[derive(Default)]
pub struct Differences {
    kinds: BTreeMap<Kind, Count>,
    /// Of kinds for which there was no place.
    others: u64,
}

#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Kind {
    event: &'static str,
    hook: String,
    before: String,
    after: String,
}

#[derive(Default)]
struct Count {
    count: u64,
    examples: Vec<Json>,
}

impl Shadow {
    pub fn start(candidate: Arc<Rules>, from: String, sample: f64, since: Micros) -> std::io::Result<Shadow> {
        let (queue, waiting) = sync_channel(QUEUE);
        let shared = Arc::new(Shared::default());
        let (rules, own) = (candidate.clone(), shared.clone());
        let thread =
            std::thread::Builder::new().name("lua-shadow".into()).spawn(move || run(&rules, &own, &waiting))?;
        Ok(Shadow { candidate, from, since, sample, queue, shared, thread: Mutex::new(Some(thread)) })
    }

    /// Whether the decision at hand is one to compare.
    pub fn wants(&self) -> bool {
        let number = self.shared.seen.fetch_add(1, Relaxed);
        // The number of hits grows by one with each decision that is taken.
        let hits = |count: u64| (count as f64 * self.sample) as u64;
        hits(number + 1) > hits(number)
    }

    /// No hook was asked: there is nothing to compare.
    pub fn pass_over(&self) {
        self.shared.passed_over.fetch_add(1, Relaxed);
    }

    pub fn offer(&self, asked: Asked<'_>, steps: &[Step], outcome: Outcome) {
        if steps.len() >= MAX_STEPS || steps.iter().any(|step| matches!(step, Step::Known(_))) {
            return self.pass_over();
        }
        let question = asked.whole();
        let reads: Vec<Read> = super::evidence::reads(steps).cloned().collect();
        let weight = question.weight() + steps.iter().map(weight_of).sum::<usize>();
        if self.shared.queued_bytes.fetch_add(weight, Relaxed) + weight > QUEUED_BYTES {
            self.shared.queued_bytes.fetch_sub(weight, Relaxed);
            self.shared.dropped.fetch_add(1, Relaxed);
            return;
        }
        match self.queue.try_send(Shot { question, reads, outcome, weight }) {
            Ok(()) => {
                self.shared.taken.fetch_add(1, Relaxed);
            }
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => {
                self.shared.queued_bytes.fetch_sub(weight, Relaxed);
                self.shared.dropped.fetch_add(1, Relaxed);
            }
        }
    }

    /// Its thread ends, with what waits left undone.
    pub fn stop(&self) {
        self.shared.closing.store(true, Relaxed);
        let thread = self.thread.lock().take();
        if let Some(thread) = thread {
            // Whether it panicked is in the log already.
            let _ = thread.join();
        }
    }

    pub fn described(&self) -> Json {
        let get = |counter: &AtomicU64| counter.load(Relaxed);
        let shared = &self.shared;
        let compared = get(&shared.compared);
        let differences = shared.differences.lock();
        json!({
            "from": self.from, "generation": self.candidate.generation.id, "since_ms": self.since / 1000,
            "sample": self.sample, "decisions": get(&shared.seen), "compared": compared,
            "waiting": get(&shared.taken).saturating_sub(compared), "dropped": get(&shared.dropped),
            "passed_over": get(&shared.passed_over), "differing": differences.count(),
            "differences": differences.to_json(),
        })
    }
}

impl Drop for Shadow {
    fn drop(&mut self) {
        self.shared.closing.store(true, Relaxed);
    }
}

fn run(candidate: &Arc<Rules>, shared: &Shared, waiting: &Receiver<Shot>) {
    while !shared.closing.load(Relaxed) {
        let shot = match waiting.recv_timeout(LOOK) {
            Ok(shot) => shot,
            Err(RecvTimeoutError::Timeout) => continue,
            Err(RecvTimeoutError::Disconnected) => return,
        };
        let Shot { question, reads, outcome, weight } = shot;
        let again = ask(candidate, &question, Rehearsal::at(outcome.record.time).knowing(reads));
        if let Some(after) = again {
            shared.differences.lock().compare(&question, &outcome, &after);
        }
        shared.queued_bytes.fetch_sub(weight, Relaxed);
        shared.compared.fetch_add(1, Relaxed);
    }
}

/// Asks without consequences.
pub fn rehearse<F: Future>(rehearsal: Rehearsal, asking: F) -> (F::Output, Option<Followed>) {
    trace::stand(trace::follow(Trace::rehearsal(rehearsal), asking))
}

/// How `rules` would decide; none if they answer from what they remember.
pub fn ask(rules: &Arc<Rules>, question: &Question, rehearsal: Rehearsal) -> Option<Outcome> {
    let (effect, followed) = rehearse(rehearsal, Effect::of(rules, question.asked()));
    Some(Outcome { record: followed?.concluded.record, effect: effect.ok() })
}

impl Differences {
    /// Counts it if there is one; whether there is.
    pub fn compare(&mut self, question: &Question, before: &Outcome, after: &Outcome) -> bool {
        let (a, b) = (&before.record, &after.record);
        let same = a.allowed == b.allowed && (if a.allowed { before.effect == after.effect } else { a.code == b.code });
        if same {
            return false;
        }
        let shown = |outcome: &Outcome| match &outcome.effect {
            Some(effect) => effect.to_json(question),
            None => Json::Null,
        };
        // What was allowed by something else is told by what it gives.
        let word = |record: &Record| match record.allowed {
            true => "allow".to_owned(),
            false => format!("deny {}", record.code),
        };
        let (mut was, is) = (word(a), word(b));
        if was == is {
            was = "allow, otherwise".into();
        }
        // The one that speaks up is the one that counts; a yes by grant comes from no hook.
        let named = if b.place.is_empty() { a } else { b };
        let kind = Kind { event: question.kind(), hook: named.hook.clone(), before: was, after: is };
        if self.kinds.len() >= KINDS && !self.kinds.contains_key(&kind) {
            self.others += 1;
            return true;
        }
        let count = self.kinds.entry(kind).or_default();
        count.count += 1;
        if count.examples.len() < EXAMPLES {
            let side = |outcome: &Outcome| {
                let Record { hook, place, code, why, .. } = &outcome.record;
                json!({"hook": hook, "place": place, "code": code, "why": why, "gives": shown(outcome)})
            };
            count.examples.push(json!({
                "decision": a.id, "time_ms": a.time / 1000, "channel": a.channel, "user": a.user,
                "before": side(before), "after": side(after),
            }));
        }
        true
    }

    pub fn count(&self) -> u64 {
        self.others + self.kinds.values().map(|count| count.count).sum::<u64>()
    }

    /// The most frequent first.
    pub fn to_json(&self) -> Json {
        let mut all: Vec<_> = self.kinds.iter().collect();
        all.sort_by_key(|(_, count)| std::cmp::Reverse(count.count));
        let mut shown: Vec<Json> = all
            .into_iter()
            .map(|(kind, Count { count, examples })| {
                let Kind { event, hook, before, after } = kind;
                json!({"event": event, "hook": hook, "before": before, "after": after, "count": count, "examples": examples})
            })
            .collect();
        if self.others > 0 {
            shown.push(json!({"event": "others", "count": self.others, "examples": []}));
        }
        shown.into()
    }
}
