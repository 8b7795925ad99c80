//! Who somebody is: connect and refresh hooks, in order, and what is remembered of their answers.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use mlua::{IntoLuaMulti, Lua};

use super::Facts;
use super::decision::{Allow, Asker, Decision, Vote};
use super::generation::Event;
use super::handles::Request;
use super::resident::with_vm;
use super::rules::{No, Rules};
use super::shown::Shown;
use super::vm::Vm;
use crate::kernel::hooks::{Client, ConnectRequest, Identity, Refusal, RefusalKind};

const OPTIONS: [&str; 7] = ["user", "tenant", "expires", "attrs", "view", "ttl", "grants"];

impl Rules {
    pub fn who(&self, request: &ConnectRequest) -> Result<Identity, Refusal> {
        let (commons, counters) = (&self.generation.program.commons, &self.counters);
        let remembered = &commons.remembered;
        // A connection is asked about once anyway; requests come again and again with the same credential.
        let credential = request.bearer.as_deref().filter(|_| request.transport == "http");
        let name = credential.map(|credential| remembered.name(self.generation.id, credential));
        if let Some(name) = &name
            && let Some(identity) = remembered.identity(name, commons.now())
        {
            counters.credentials_known.fetch_add(1, Relaxed);
            return Ok(identity);
        }
        let mark = remembered.mark();
        let allow = self.ask_who(Event::Connect, Asker::from(request), |_, _| Ok(Request(request.clone())))?;
        let ttl = allow.ttl;
        let identity = identity(allow);
        // An answer that a cookie may have had a part in is not the credential's alone.
        let alone = request.header("cookie").is_none();
        if let (Some(name), Some(ttl), true) = (name, ttl, alone) {
            remembered.keep_identity(mark, name, &identity, ttl, commons.now());
        }
        Ok(identity)
    }

    /// Who `client` is from now on, having shown `token`. It stays the same user: its subscriptions go on.
    pub fn who_now(&self, client: &Client, token: &str) -> Result<Identity, Refusal> {
        let asker = Asker { shown: Shown::Token(token), ..Asker::from(client) };
        let allow = if self.hooks_of(Event::Refresh).next().is_some() {
            self.ask_who(Event::Refresh, asker, |vm, lua| Ok((vm.handles.session(lua, client)?, token)))?
        } else {
            let request = ConnectRequest::renewal(client, token);
            self.ask_who(Event::Connect, asker, |_, _| Ok(Request(request.clone())))?
        };
        let (identity, before) = (identity(allow), &client.identity);
        let somebody = before.user.is_some() || before.tenant.is_some();
        if somebody && (&before.user, &before.tenant) != (&identity.user, &identity.tenant) {
            let why = "the new credential is somebody else's: connect again with it";
            return Err(self.refuse_by_default(Event::Refresh, "other_user", why, None, asker));
        }
        self.generation.program.commons.remembered.forget_votes_of(client);
        Ok(identity)
    }

    /// The first answer of the hooks of a kind.
    fn ask_who<A: IntoLuaMulti>(
        &self,
        event: Event,
        asker: Asker<'_>,
        args: impl Fn(&Vm, &Lua) -> mlua::Result<A>,
    ) -> Result<Box<Allow>, Refusal> {
        let budget = self.generation.program.limits.connect;
        let mut asked = self.hooks_of(event).next();
        let answer = if asked.is_none() {
            Ok(Vote::None)
        } else {
            with_vm(&self.generation, |vm| {
                for hook in self.hooks_of(event) {
                    asked = Some(hook);
                    match vm.ask(hook, budget, &OPTIONS, |lua| args(vm, lua))? {
                        Vote::None => {}
                        answer => return Ok(answer),
                    }
                }
                Ok(Vote::None)
            })
        };
        let asked = asked.unwrap_or_default();
        match answer {
            Ok(Vote::Allow(mut allow)) => {
                allow.said_at.clone_from(&self.generation.registrations[asked].place);
                let user = allow.user.as_deref();
                self.sample(event, Some(asked), None, Asker { user, ..asker });
                Ok(allow)
            }
            Ok(Vote::Deny(deny)) => Err(self.refuse(No::Denied(asked, deny), None, asker)),
            Err(failure) => Err(self.refuse(No::Broken(asked, failure), None, asker)),
            Ok(Vote::None) => {
                let why = match asker.shown.is_credential() {
                    true => "no rule knows this credential",
                    false => "a credential is required",
                };
                Err(self.refuse_by_default(event, "unauthorized", why, None, asker))
            }
        }
    }

    /// A no that no hook said.
    pub fn refuse_by_default(
        &self,
        event: Event,
        code: &str,
        why: &str,
        channel: Option<&str>,
        asker: Asker<'_>,
    ) -> Refusal {
        self.counters.denied.fetch_add(1, Relaxed);
        let hook = &event.to_string();
        Decision {
            kind: RefusalKind::Denied,
            hook,
            plugin: "",
            place: "",
            code,
            why,
            told: None,
            rests: false,
            channel,
            asker,
        }
        .refuse(&self.generation.program.commons)
    }
}

fn identity(allow: Box<Allow>) -> Identity {
    let Allow { user, tenant, expires, attrs, view, ttl, said_at, grants, .. } = *allow;
    let facts = Facts { attrs: attrs.unwrap_or_default(), view, said_at, ttl };
    Identity {
        user,
        tenant,
        // The cast saturates: what lies beyond the end of time never comes.
        expires: expires.map(|seconds| (seconds * 1e6) as u64),
        grants,
        attrs: Some(Arc::new(facts)),
    }
}
