//! The dialects of the rules in charge, as the kernel's port asks for them.

use std::net::SocketAddr;
use std::sync::{Arc, Weak};

use mlua::Lua;

use super::line::{self, Brought};
use super::said;
use crate::kernel::dialect::{
    Act, Broken, Dialects, Event, Heard, Instead, Memory, Mount, NoEntry, Speech, Tongue, Transport, Way,
};
use crate::kernel::hooks::{Answer, Client, ConnectRequest, Farewell, Refusal, RefusalKind};
use crate::plugins::answering::visit::read_answer;
use crate::plugins::asking::decision::Asker;
use crate::plugins::asking::rules::{No, Rules};
use crate::plugins::asking::view::withheld;
use crate::plugins::host::Host;
use crate::plugins::source::generation::Generation;
use crate::plugins::told::departures::Departure;
use crate::plugins::vm::Failure;
use crate::plugins::vm::handles::Request;
use crate::plugins::vm::resident::with_vm;
use crate::plugins::waiting::lanes::Unheard;

/// Of a host that may go.
pub struct Spoken(pub Arc<Host>);

impl Dialects for Spoken {
    fn mount(&self, listener: Option<SocketAddr>, path: &str) -> Option<Mount> {
        let rules = self.0.rules();
        let (spec, place) = rules.dialects.at(listener, path)?;
        let tongue = Arc::new(OfHost { name: spec.name, host: Arc::downgrade(&self.0) });
        Some(Mount { tongue, transport: place.transport, manners: spec.manners.clone() })
    }

    fn streams(&self) -> Vec<Vec<u8>> {
        let rules = self.0.rules();
        let streams = rules.dialects.places().filter(|place| place.transport == Transport::EventStream);
        streams.map(|place| format!("GET {}", place.path.literal()).into_bytes()).collect()
    }
}

/// Nobody decided that; there is nothing to look up.
fn no_longer() -> Refusal {
    let why = "this dialect is spoken here no longer".into();
    Refusal { kind: RefusalKind::Broken, code: "no_dialect".into(), why, decision: String::new(), retry_ms: None }
}

/// One dialect, whichever rules speak it.
struct OfHost {
    name: &'static str,
    /// Its formats live in the tails of channels, and must not keep the host.
    host: Weak<Host>,
}

impl OfHost {
    fn rules(&self) -> Option<Arc<Rules>> {
        self.host.upgrade().map(|host| host.rules()).filter(|rules| rules.dialects.named(self.name).is_some())
    }

    async fn ask(&self, client: &Arc<Client>, heard: Heard, memory: &mut Memory) -> Result<Vec<Act>, Refusal> {
        let Some(rules) = self.rules() else { return Err(no_longer()) };
        let hook = rules.dialects.named(self.name).and_then(|hooks| match heard {
            Heard::Came(_) => hooks.came,
            Heard::Said(_) => hooks.said,
        });
        let Some(hook) = hook else { return Ok(Vec::new()) };
        let brought = Brought { hook, client: client.clone(), heard, memory: memory.take() };
        let generation = &rules.generation;
        let commons = &generation.program.commons;
        let kept = brought.memory.clone();
        let answered = if generation.waits(hook) {
            commons.lanes.run(generation, hook, move |vm| line::ask_waiting(vm, brought)).await
        } else if generation.is_slow(hook) {
            let own = generation.clone();
            let asked = commons.beside.run(generation, hook, move || line::ask(&own, brought)).await;
            asked.and_then(|answer| answer.map_err(Unheard::Failed))
        } else {
            line::ask(generation, brought).map_err(Unheard::Failed)
        };
        match answered {
            Ok((acts, left)) => {
                *memory = left;
                Ok(acts)
            }
            Err(unheard) => {
                *memory = kept;
                Err(rules.refuse(No::unheard(hook, unheard), None, Asker::from(&**client)))
            }
        }
    }

    /// What a hook that must not wait makes of `event`; its failure is written down.
    fn put_into_words(
        &self,
        generation: &Arc<Generation>,
        hook: usize,
        way: Way,
        event: &Event<'_>,
    ) -> Result<Option<Speech>, Failure> {
        let budget = generation.program.limits.call;
        let asked = |lua: &Lua| {
            let ev = said::table(lua, way.transport, event)?;
            ev.raw_set("style", way.style)?;
            Ok(ev)
        };
        with_vm(generation, |vm| vm.call(hook, budget, asked, said::read_speech))
    }
}

impl Tongue for OfHost {
    fn name(&self) -> &'static str {
        self.name
    }

    fn is_spoken(&self) -> bool {
        self.rules().is_some()
    }

    fn hear<'a>(&'a self, client: &'a Arc<Client>, heard: Heard, memory: &'a mut Memory) -> Answer<'a, Vec<Act>> {
        Box::pin(self.ask(client, heard, memory))
    }

    fn gone(&self, client: &Arc<Client>, memory: Memory, why: &Farewell) {
        let (Some(host), Some(rules)) = (self.host.upgrade(), self.rules()) else { return };
        if let Some(hook) = rules.dialects.named(self.name).and_then(|hooks| hooks.gone) {
            let departure = Departure { client: client.clone(), why: why.clone(), of_dialect: Some((hook, memory)) };
            host.departed(&rules, departure);
        }
    }

    fn say(&self, way: Way, event: &Event<'_>) -> Result<Option<Speech>, Broken> {
        let rules = self.rules().ok_or(Broken)?;
        let Some(hook) = rules.dialects.named(self.name).and_then(|hooks| hooks.says) else { return Ok(None) };
        self.put_into_words(&rules.generation, hook, way, event).map_err(|failure| {
            withheld(&rules.generation, hook, &failure, said::channel_of(event));
            Broken
        })
    }

    fn refuse(&self, request: &ConnectRequest, no: &NoEntry<'_>) -> Option<Instead> {
        let rules = self.rules()?;
        let hook = rules.dialects.named(self.name)?.refuses?;
        let generation = &rules.generation;
        let place = &generation.registrations[hook].place;
        let answer = with_vm(generation, |vm| {
            vm.call(
                hook,
                generation.program.limits.call,
                |lua| Ok((said::no_entry(lua, no)?, Request(request.clone()))),
                |value, _| if value.is_nil() { Ok(None) } else { read_answer(value, place).map(Result::ok) },
            )
        });
        match answer {
            Ok(answer) => {
                answer.map(|answer| Instead { status: answer.status, headers: answer.headers, body: answer.body })
            }
            Err(failure) => {
                withheld(generation, hook, &failure, None);
                None
            }
        }
    }
}
