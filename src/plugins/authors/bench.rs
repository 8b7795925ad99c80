//! What a plugin's hooks cost: the whole answer to a question that concerns each, on one thread.

use std::path::Path;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use bytes::Bytes;
use serde_json::{Map, Value as Json};

use crate::kernel::hooks::{Answer, Client, ConnectRequest, Grants, Hooks, Identity};
use crate::kernel::message::{ChannelName, Draft, Message};
use crate::kernel::pattern::Patterns;
use crate::plugins::source::generation::{Event, Registration};
use crate::plugins::source::manifest::Manifest;
use crate::plugins::vm::resident::with_vm;
use crate::plugins::{Host, HostConfig, LoadError, PluginUse};

pub struct Bench {
    host: Arc<Host>,
}

pub struct Cost {
    /// With its `file:line`.
    pub hook: String,
    /// Nanoseconds and bytes of Lua memory per question; or why that cannot be told.
    pub outcome: Result<(f64, f64), String>,
}

impl Bench {
    pub fn load(
        dir: &Path,
        config: Map<String, Json>,
        secrets: impl Fn(&str) -> Option<String> + Send + Sync + 'static,
    ) -> Result<Bench, LoadError> {
        let shown = dir.display().to_string();
        let name = Manifest::read(&dir.join("plugin.toml"), &format!("{shown}/plugin.toml")).map_err(LoadError)?.name;
        let used = PluginUse { name, dir: dir.to_owned(), channels: None, config, at: shown, ..PluginUse::default() };
        let config = HostConfig { plugins: vec![used], secrets: Arc::new(secrets), ..HostConfig::default() };
        Ok(Bench { host: Host::load(config)? })
    }

    pub fn run(&self, calls: u32) -> Vec<Cost> {
        let rules = self.host.rules();
        let cost =
            |hook: &Registration| Cost { hook: format!("{hook} ({})", hook.place), outcome: self.measure(hook, calls) };
        rules.generation.registrations.iter().map(cost).collect()
    }

    fn measure(&self, hook: &Registration, calls: u32) -> Result<(f64, f64), String> {
        let channel = hook.pattern.as_ref().and_then(|pattern| pattern.example());
        let channel = || channel.clone().ok_or("no channel can have such a name");
        let client = somebody();
        let host = &self.host;
        match hook.event {
            Event::Connect => {
                let request = ConnectRequest { transport: "ws", ..ConnectRequest::default() };
                self.time(calls, || answered(host.connect(&request)))
            }
            Event::Subscribe => {
                let channel = channel()?;
                self.time(calls, || answered(host.subscribe(&client, &channel)))
            }
            Event::History => {
                let channel = channel()?;
                self.time(calls, || answered(host.history(&client, &channel, false)))
            }
            Event::Publish | Event::Transform | Event::Retain => {
                let channel = channel()?;
                self.time(calls, || answered(host.publish(&client, draft(&channel))))
            }
            _ => Err("not measured".into()),
        }
    }

    fn time(&self, calls: u32, mut ask: impl FnMut() -> Result<(), String>) -> Result<(f64, f64), String> {
        for _ in 0..calls.min(1000) {
            ask()?;
        }
        let began = Instant::now();
        for _ in 0..calls {
            ask()?;
        }
        let nanos = began.elapsed().as_nanos() as f64 / f64::from(calls);
        // Without the collector, and few enough to fit into a VM.
        let few = calls.min(200);
        let before = self.memory(true)?;
        for _ in 0..few {
            ask()?;
        }
        let grown = self.memory(false)?.saturating_sub(before);
        Ok((nanos, grown as f64 / f64::from(few)))
    }

    fn memory(&self, begin: bool) -> Result<usize, String> {
        let rules = self.host.rules();
        let used = with_vm(&rules.generation, |vm| {
            if begin {
                vm.lua().gc_stop();
            }
            let used = vm.lua().used_memory();
            if !begin {
                vm.lua().gc_restart();
            }
            Ok(used)
        });
        used.map_err(|failure| failure.why)
    }
}

/// Yes and no are both answers; a hook that breaks has no cost.
fn answered<T>(mut answer: Answer<'_, T>) -> Result<(), String> {
    match answer.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(Ok(_)) => Ok(()),
        Poll::Ready(Err(refusal)) if refusal.code == "rule_error" => Err("it breaks; aether test says where".into()),
        Poll::Ready(Err(_)) => Ok(()),
        Poll::Pending => Err("it waits, so its cost is that of what it waits for".into()),
    }
}

/// Granted everything, so that what is measured is the hook and no refusal of its own.
fn somebody() -> Client {
    let all = Patterns::from_strings(["*"]).unwrap_or_default();
    let grants = Grants { subscribe: all.clone(), publish: all.clone(), history: all, admin: false };
    Client {
        id: "bench".into(),
        identity: Identity { user: Some("bench".into()), grants, ..Identity::default() },
        ip: Some([127, 0, 0, 1].into()),
        dialect: "native",
        transport: "ws",
        credential: true,
        connected: 0,
    }
}

fn draft(channel: &ChannelName) -> Draft {
    let payload = Bytes::from_static(br#"{"text":"hello"}"#);
    Draft::new(channel.clone(), Message { payload, ..Message::default() })
}
