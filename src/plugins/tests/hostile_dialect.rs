//! Every hostile program in every hook of a dialect: stopped, named, and the next call is unharmed.

use std::time::Instant;

use super::hostile::PROGRAMS;
use super::safety::tireless;
use super::*;
use crate::kernel::dialect::{Dialects, Event, Heard, Memory, NoEntry, Speech, Tongue, Transport, Way};
use crate::kernel::hooks::{Farewell, RefusalKind};
use crate::plugins::{Spoken, dialect};

/// A dialect whose hooks run `program` for whoever is bad, on line 2, 4, .. of the file.
fn all_hooks(program: &str) -> String {
    format!(
        "aether.dialect('lines', {{ mount = {{ ws = '/lines' }}, on_open = function(c, req) if req.query.bad then
{program} end c:reply('hello') end, on_frame = function(c, frame) if frame == 'bad' then
{program} end c:reply(frame) end, encode = function(ev) if ev.kind == 'ping' then
{program} end return ev.kind end, refuse = function(no) if no.code == 'bad' then
{program} end return {{ status = 418 }} end, on_close = function(c, why) if why.cause == 'lag' then
{program} end end }})"
    )
}

struct Stand {
    host: Arc<Host>,
    tongue: Arc<dyn Tongue>,
}

impl Stand {
    fn hear(&self, heard: Heard) -> Result<usize, Refusal> {
        let (client, mut memory): (_, Memory) = (Arc::new(nobody()), None);
        super::waiting::wait(self.tongue.hear(&client, heard, &mut memory)).map(|acts| acts.len())
    }

    /// Whether each hook does as it should; of one that is bad, whether it says so.
    fn ask(&self, hook: &str, bad: bool) -> Result<bool, Refusal> {
        match hook {
            "on_open" => {
                let query = bad.then(|| ("bad".to_owned(), "1".to_owned())).into_iter().collect();
                let request = crate::kernel::hooks::ConnectRequest { query, ..Default::default() };
                self.hear(Heard::Came(request)).map(|acts| acts == 1)
            }
            "on_frame" => {
                let bytes = if bad { "bad" } else { "good" }.into();
                self.hear(Heard::Said(Speech { bytes, binary: false })).map(|acts| acts == 1)
            }
            "encode" => {
                let left = std::time::Duration::ZERO;
                let event = if bad { Event::Ping } else { Event::Expiring { left } };
                let said = self.tongue.say(Way { transport: Transport::WebSocket, style: None }, &event);
                Ok(said.is_ok_and(|said| said.is_some()))
            }
            "refuse" => {
                let reason = if bad { "bad" } else { "good" };
                let no = NoEntry { status: 401, code: 40102, reason, why: "no", decision: None, retry_ms: None };
                Ok(self.tongue.refuse(&Default::default(), &no).is_some_and(|answer| answer.status == 418))
            }
            _ => {
                let rules = self.host.rules();
                let hook = rules.dialects.named("lines").and_then(dialect::Hooks::on_close).expect("it has one");
                let why = Farewell { cause: if bad { "lag" } else { "client" }, code: None, reason: String::new() };
                Ok(dialect::tell_gone_here(&rules.generation, hook, &Arc::new(nobody()), None, &why).is_ok())
            }
        }
    }
}

#[test]
fn every_hostile_program_in_every_hook_of_a_dialect_is_stopped_and_leaves_the_next_call_unharmed() {
    for (what, program) in PROGRAMS {
        let (host, _dir) = tireless(&all_hooks(program));
        let mount = Spoken(host.clone()).mount(None, "/lines").expect("it is spoken");
        let stand = Stand { host, tongue: mount.tongue };
        for hook in ["on_open", "on_frame", "encode", "refuse", "on_close"] {
            let started = Instant::now();
            let mut outcome = Ok(false);
            let log = logged(|| outcome = stand.ask(hook, true));
            assert!(started.elapsed() < DEADLINE, "{what} in {hook}: {:?}", started.elapsed());
            // What these hooks return is nobody's business, so a strange answer does no harm.
            let told = hook.starts_with("on_") && program.contains("return ");
            match outcome {
                Err(refusal) => {
                    assert_eq!((refusal.kind, &*refusal.code), (RefusalKind::Broken, "rule_error"), "{what} in {hook}");
                    assert!(
                        log.contains("rules.lua:") && log.contains("dialect.") && log.len() < 4096,
                        "{what}: {log}"
                    );
                }
                Ok(well) => assert!(!well || told, "{what} in {hook} did no harm: {log}"),
            }
            let mut outcome = Ok(false);
            let log = logged(|| outcome = stand.ask(hook, false));
            assert!(outcome.is_ok_and(|well| well), "after {what} in {hook}: {log}");
        }
    }
}
