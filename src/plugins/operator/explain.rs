//! Why a decision came out as it did: one that was made, or one that would be.

use serde_json::{Value as Json, json};

use super::ask::WhatIf;
use super::{Trouble, read};
use crate::plugins::asking::rules::Rules;
use crate::plugins::source::generation::Event;
use crate::plugins::why::asked::Question;
use crate::plugins::why::effect::Effect;
use crate::plugins::why::evidence::Evidence;
use crate::plugins::why::legible;
use crate::plugins::why::record::Record;
use crate::plugins::why::rehearsal::Rehearsal;
use crate::plugins::why::shadow::rehearse;
use crate::plugins::why::trace::{Followed, Said, Step};
use crate::plugins::{DecisionFilter, Host};

impl Host {
    pub(super) fn explain(&self, with: &[u8]) -> Result<Json, Trouble> {
        let what_if: WhatIf = read(with)?;
        if let Some(id) = &what_if.decision {
            return self.explain_made(id, what_if.full);
        }
        if what_if.full {
            return Err(Trouble::Question("full belongs to decision: what would be is shown with its payload".into()));
        }
        let rules = self.rules();
        let mut answers = Vec::new();
        let mut identity = None;
        if let Some(request) = what_if.request()? {
            let (made, followed) = rehearse(Rehearsal::at(self.commons.now()), rules.who(&request));
            let question = Question::Connect(request);
            answers.push(explained(&rules, question, followed, made.as_ref().ok().map(Effect::from)));
            match made {
                Ok(made) => identity = Some(made),
                Err(_) => return Ok(json!({"what_if": true, "decisions": answers})),
            }
        }
        if let Some(question) = what_if.question(self, identity)? {
            let rehearsal = Rehearsal::at(self.commons.now());
            let (effect, followed) = rehearse(rehearsal, Effect::of(&rules, question.asked()));
            let keeps = self.keeps(&question);
            let mut answer = explained(&rules, question, followed, effect.ok());
            answer["keeps"] = keeps;
            answers.push(answer);
        }
        if answers.is_empty() {
            let what = "say what to explain: decision, or connect, subscribe, publish or history";
            return Err(Trouble::Question(what.into()));
        }
        Ok(json!({"what_if": true, "decisions": answers}))
    }

    /// What the rules in charge say that the channel keeps.
    fn keeps(&self, question: &Question) -> Json {
        let Some(channel) = question.channel() else { return Json::Null };
        let rules = self.rules();
        let concerned = |hook: &usize| rules.is_concerned(*hook, channel.as_str());
        let said_by = rules.hooks_of(Event::Retention).filter(concerned).map(|hook| {
            let registration = &rules.generation.registrations[hook];
            format!("{registration} ({})", registration.place)
        });
        let said_by: Vec<String> = said_by.collect();
        let (policy, _) = rehearse(Rehearsal::at(self.commons.now()), async { rules.policy(channel) });
        let kept = policy
            .history
            .map(|kept| json!({"count": kept.count, "age_s": kept.age.map(|age| age.as_secs()), "bytes": kept.bytes}));
        json!({"history": kept, "said_by": said_by})
    }

    fn explain_made(&self, id: &str, full: bool) -> Result<Json, Trouble> {
        let filter = DecisionFilter { id: Some(id.to_owned()), ..DecisionFilter::default() };
        let Some(kept) = self.commons.recorder.find(&filter).pop() else {
            let why = format!(
                "decision {id} is not kept: of the latest thousand refusals each is, of what was allowed one in 64; older ones \
                 are in the log"
            );
            return Err(Trouble::Failed(vec![why]));
        };
        let answer = match &kept.evidence {
            Some(evidence) => {
                if full {
                    tracing::warn!(target: "aether::audit", decision = id, "explain shows a payload in full");
                }
                let mut answer = explanation(&kept.record, evidence, full);
                answer["keeps"] = self.keeps(&evidence.question);
                answer
            }
            None => outcome(&kept.record, None),
        };
        Ok(json!({"what_if": false, "decisions": [answer]}))
    }
}

fn explained(rules: &Rules, question: Question, followed: Option<Followed>, effect: Option<Effect>) -> Json {
    let effect = effect.map(|effect| {
        let mut shown = effect.to_json(&question);
        if let Some(diff) = effect.diff(&question) {
            shown["diff"] = diff.into();
        }
        shown
    });
    let Some(Followed { steps, concluded }) = followed else {
        // Only a remembered credential is answered without a decision.
        return json!({"asked": question.to_json(true), "allowed": true, "rule": "the credential is remembered: no hook was asked", "hooks": [], "gives": effect});
    };
    let evidence = Evidence::new(&rules.generation, question.asked(), steps);
    // The payload is that of whoever asks.
    let mut answer = explanation(&concluded.record, &evidence, true);
    answer["gives"] = effect.into();
    answer
}

/// `full`: with the payload as it was, and not only its form.
fn explanation(record: &Record, evidence: &Evidence, full: bool) -> Json {
    let mut answer = outcome(record, Some(evidence));
    answer["asked"] = evidence.question.to_json(full);
    answer["generation"] = evidence.generation.into();
    answer["hooks"] = hooks(evidence).into();
    answer["grant"] = evidence.question.grant().into();
    answer
}

fn outcome(record: &Record, evidence: Option<&Evidence>) -> Json {
    let Record { id, time, allowed, hook, plugin, place, code, why, channel, user, ip, transport } = record;
    json!({
        "decision": id, "time_ms": time / 1000, "allowed": allowed, "hook": hook, "plugin": plugin, "place": place,
        "code": code, "why": why, "channel": channel, "user": user, "ip": ip, "transport": transport,
        "rule": rule(record, evidence),
    })
}

/// By which rule all that was said came to one answer.
fn rule(record: &Record, evidence: Option<&Evidence>) -> String {
    let Record { hook, place, code, .. } = record;
    let grant = evidence.and_then(|evidence| evidence.question.grant());
    let resumes = evidence.is_some_and(|evidence| matches!(evidence.question, Question::History(_, _, true)));
    match (record.allowed, place.is_empty(), code.as_str()) {
        (true, false, _) if hook.starts_with("on.connect") || hook.starts_with("on.refresh") => {
            format!("the first answer counts: {hook} ({place}) allows it")
        }
        (true, false, _) => format!("{hook} ({place}) allows it, and nobody denies"),
        (true, true, _) => match grant {
            Some(grant) => format!("the grant {grant} allows it, and no hook denies"),
            None if resumes => "whoever may listen may have what it missed, and no hook denies".into(),
            None => "it is allowed, and no hook denies".into(),
        },
        (false, false, "rule_error") => format!("what breaks denies: {hook} ({place}) broke"),
        (false, false, "busy") => format!("who cannot be asked cannot allow: {hook} ({place}) is busy"),
        (false, false, _) if hook.starts_with("on.connect") || hook.starts_with("on.refresh") => {
            format!("the first answer counts: {hook} ({place}) denies")
        }
        (false, false, _) => format!("any deny wins: {hook} ({place}) denies"),
        (false, true, "unauthorized") => "no connect hook answered, so nobody is let in".into(),
        (false, true, "not_allowed") => "no grant matches and no hook allows, so the default counts: no".into(),
        (false, true, _) => record.why.clone(),
    }
}

/// Each hook that was asked, in order.
fn hooks(evidence: &Evidence) -> Vec<Json> {
    let mut hooks: Vec<Json> = Vec::new();
    let named = |hook: &usize| {
        let named = evidence.hooks.get(hook);
        let text = |of: fn(&crate::plugins::why::evidence::Named) -> &String| named.map_or("", |named| of(named));
        json!({"hook": text(|n| &n.hook), "plugin": text(|n| &n.plugin), "place": text(|n| &n.place), "verdict": Json::Null, "reads": []})
    };
    let add = |hooks: &mut Vec<Json>, field: &str, what: Json| {
        if let Some(last) = hooks.last_mut().and_then(Json::as_object_mut) {
            let list = last.entry(field).or_insert_with(|| json!([]));
            list.as_array_mut().into_iter().for_each(|list| list.push(what.clone()));
        }
    };
    for step in &evidence.steps {
        match step {
            Step::Hook(hook) => hooks.push(named(hook)),
            Step::Known(hook) => {
                let mut known = named(hook);
                known["verdict"] = "allow".into();
                known["remembered"] = true.into();
                hooks.push(known);
            }
            Step::KnownCredential => {}
            Step::Said(_, said) => {
                if let Some(last) = hooks.last_mut() {
                    tell(last, said);
                }
            }
            Step::Read(read) => add(&mut hooks, "reads", legible::read(read)),
            Step::Logged(line) => add(&mut hooks, "logged", line.as_str().into()),
            Step::Withheld(what) => add(&mut hooks, "withheld", what.as_str().into()),
        }
    }
    hooks
}

fn tell(hook: &mut Json, said: &Said) {
    match said {
        Said::Nothing => hook["verdict"] = "nothing".into(),
        Said::Passed => hook["verdict"] = "passed".into(),
        Said::Allow { view } => {
            hook["verdict"] = "allow".into();
            if let Some(view) = view {
                hook["view"] = view.as_str().into();
            }
        }
        Said::Deny(deny) => {
            hook["verdict"] = "deny".into();
            hook["code"] = deny.code.as_str().into();
            hook["why"] = deny.why.as_deref().into();
            hook["at"] = deny.place.as_str().into();
            hook["private"] = deny.private.into();
        }
        Said::Broke { why, rests } => {
            hook["verdict"] = if *rests { "rests" } else { "broke" }.into();
            hook["why"] = why.as_str().into();
        }
    }
}
