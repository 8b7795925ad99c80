//! `aether replay`: a change of rules against what was decided and said before.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde::Deserialize;
use serde_json::{Value as Json, json};

use super::shadow::Elsewhere;
use super::{Trouble, read};
use crate::kernel::message::{ChannelName, Draft, Micros, Offset};
use crate::kernel::pattern::Patterns;
use crate::plugins::asking::rules::Rules;
use crate::plugins::source::schema;
use crate::plugins::why::asked::Question;
use crate::plugins::why::effect::anybody;
use crate::plugins::why::rehearsal::Rehearsal;
use crate::plugins::why::shadow::{Differences, Outcome, ask};
use crate::plugins::{DecisionFilter, Host};

/// Messages that one replay looks at, unless it says otherwise, and at most.
const LIMIT: usize = 10_000;
const MAX_LIMIT: usize = 1_000_000;
/// How long one may take. What it has found by then is its answer.
const TIME: Duration = Duration::from_secs(120);

#[derive(Deserialize, Default)]
#[serde(default)]
struct Replay {
    #[serde(flatten)]
    other: Elsewhere,
    since: Option<Json>,
    channels: Vec<String>,
    limit: Option<usize>,
}

/// What is looked at, and how far that went.
struct Run {
    stop: Arc<AtomicBool>,
    end: Instant,
    since: Micros,
    left: usize,
}

#[derive(Default)]
struct Found {
    differences: Differences,
    looked_at: u64,
    refused: u64,
    changed: u64,
    let_in: u64,
}

impl Host {
    pub(super) fn replay(&self, with: &[u8]) -> Result<Json, Trouble> {
        let Replay { other, since, channels, limit } = read(with)?;
        let since = match &since {
            None => Duration::from_secs(24 * 3600),
            Some(since) => schema::read_duration(since)
                .ok_or_else(|| Trouble::Question(format!("since: a duration like \"24h\", not {since}")))?,
        };
        let wanted =
            Patterns::from_strings(&channels).map_err(|error| Trouble::Question(format!("channels: {error}")))?;
        let left = limit.unwrap_or(LIMIT);
        if left > MAX_LIMIT {
            return Err(Trouble::Question(format!("limit: at most {MAX_LIMIT}")));
        }
        let candidate = self.candidate(&other)?;
        let stop = Arc::new(AtomicBool::new(false));
        let _one = self.only_replay(&stop)?;
        let since = self.commons.now().saturating_sub(since.as_micros() as Micros);
        let mut run = Run { stop, end: Instant::now() + TIME, since, left };
        let (decisions, not_whole) = self.replay_decisions(&candidate, &run, &wanted);
        let (messages, failed) = self.replay_messages(&candidate, &mut run, &channels, &wanted);
        Ok(json!({
            "from": other.shown(), "whole": !run.is_over(), "failed": failed,
            "decisions": {
                "replayed": decisions.looked_at, "not_whole": not_whole, "flipped": decisions.differences.count(),
                "differences": decisions.differences.to_json(),
            },
            "messages": {
                "replayed": messages.looked_at, "would_be_refused": messages.refused, "would_be_let_in": messages.let_in,
                "would_be_changed": messages.changed, "sender": "unknown: the log does not keep who published",
                "differences": messages.differences.to_json(),
            },
        }))
    }

    pub(super) fn replay_stop(&self) -> Result<Json, Trouble> {
        let running = self.replaying.lock();
        let stop = running.as_ref().ok_or_else(|| Trouble::Failed(vec!["no replay is running".into()]))?;
        stop.store(true, Ordering::Relaxed);
        Ok(json!({"stopping": true}))
    }

    /// One at a time, for as long as what is returned lives.
    fn only_replay(&self, stop: &Arc<AtomicBool>) -> Result<impl Drop + use<'_>, Trouble> {
        let mut running = self.replaying.lock();
        if running.is_some() {
            return Err(Trouble::Failed(vec!["a replay is running already: `aether replay --stop` ends it".into()]));
        }
        *running = Some(stop.clone());
        struct Only<'a>(&'a Host);
        impl Drop for Only<'_> {
            fn drop(&mut self) {
                *self.0.replaying.lock() = None;
            }
        }
        Ok(Only(self))
    }

    /// What the recorder keeps, with what was read then. And how many are not kept whole.
    fn replay_decisions(&self, candidate: &Arc<Rules>, run: &Run, wanted: &Patterns) -> (Found, u64) {
        let (mut found, mut not_whole) = (Found::default(), 0);
        let filter = DecisionFilter { since: Some(run.since), ..DecisionFilter::default() };
        for kept in self.commons.recorder.find(&filter) {
            if run.is_over() {
                break;
            }
            if !wanted.is_empty() && !wanted.matches(&kept.record.channel) {
                continue;
            }
            let whole = kept.evidence.as_ref().filter(|evidence| evidence.whole && !evidence.is_remembered());
            let rehearsal = || Rehearsal::at(kept.record.time);
            let after = whole.and_then(|evidence| {
                ask(candidate, &evidence.question, rehearsal().knowing(evidence.reads().cloned()))
            });
            let (Some(evidence), Some(after)) = (whole, after) else {
                not_whole += 1;
                continue;
            };
            // What a yes gave is not kept.
            let before = Outcome { record: kept.record.clone(), effect: after.effect.clone() };
            found.add(&evidence.question, &before, &after);
        }
        (found, not_whole)
    }

    /// What the channels keep, the newest first, by the rules in charge and by the candidate.
    fn replay_messages(
        &self,
        candidate: &Arc<Rules>,
        run: &mut Run,
        names: &[String],
        wanted: &Patterns,
    ) -> (Found, Vec<String>) {
        let (mut found, mut failed) = (Found::default(), Vec::new());
        let Some(world) = self.commons.world.get() else { return (found, failed) };
        let rules = self.rules();
        let mut channels: BTreeSet<ChannelName> = names.iter().filter_map(|name| ChannelName::new(name).ok()).collect();
        channels.extend(world.channels().into_iter().filter(|channel| wanted.matches(channel.as_str())));
        for channel in channels {
            let mut before = Offset::MAX;
            'channel: while run.left > 0 && !run.is_over() {
                let page = match world.stored(&channel, before) {
                    Ok(page) => page,
                    Err(why) => {
                        failed.push(format!("{channel}: {why}"));
                        break;
                    }
                };
                let Some(first) = page.first().map(|publication| publication.offset) else { break };
                for publication in page.into_iter().rev() {
                    if publication.time < run.since || run.left == 0 || run.is_over() {
                        break 'channel;
                    }
                    run.left -= 1;
                    let time = publication.time;
                    let size = publication.message.payload.len();
                    let draft = Draft::new(channel.clone(), publication.message);
                    let question = Question::Publish(anybody(time), draft, size);
                    let is = ask(&rules, &question, Rehearsal::at(time));
                    if let (Some(is), Some(would)) = (is, ask(candidate, &question, Rehearsal::at(time))) {
                        found.add(&question, &is, &would);
                    }
                }
                before = first;
            }
        }
        (found, failed)
    }
}

impl Run {
    fn is_over(&self) -> bool {
        self.stop.load(Ordering::Relaxed) || Instant::now() > self.end
    }
}

impl Found {
    fn add(&mut self, question: &Question, before: &Outcome, after: &Outcome) {
        self.looked_at += 1;
        if self.differences.compare(question, before, after) {
            match (before.record.allowed, after.record.allowed) {
                (true, true) => self.changed += 1,
                (true, false) => self.refused += 1,
                (false, true) => self.let_in += 1,
                (false, false) => {}
            }
        }
    }
}
