//! Who somebody is: connect and refresh hooks, in order, and what is remembered of their answers.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use mlua::{IntoLuaMulti, Lua, MultiValue};

use super::decision::{Allow, Asker, Decision, Vote};
use super::rules::{No, Rules};
use super::shown::Shown;
use crate::kernel::hooks::{Client, ConnectRequest, Identity, Refusal, RefusalKind};
use crate::plugins::Facts;
use crate::plugins::source::generation::Event;
use crate::plugins::vm::handles::Request;
use crate::plugins::vm::resident::with_vm;
use crate::plugins::vm::{Failure, Vm};
use crate::plugins::waiting::lanes::Unheard;
use crate::plugins::why::trace;

const OPTIONS: [&str; 7] = ["user", "tenant", "expires", "attrs", "view", "ttl", "grants"];

/// What somebody has shown, for a hook on whatever thread.
#[derive(Clone)]
enum Showing {
    Request(ConnectRequest),
    Token(Arc<Client>, String),
}

impl Showing {
    fn dialect(&self) -> &'static str {
        match self {
            Showing::Request(request) => request.dialect,
            Showing::Token(client, _) => client.dialect,
        }
    }

    fn args(&self, vm: &Vm, lua: &Lua) -> mlua::Result<MultiValue> {
        match self {
            Showing::Request(request) => Request(request.clone()).into_lua_multi(lua),
            Showing::Token(client, token) => (vm.handles.session(lua, client)?, token.as_str()).into_lua_multi(lua),
        }
    }
}

impl Rules {
    pub async fn who(self: &Arc<Self>, request: &ConnectRequest) -> Result<Identity, Refusal> {
        let (commons, counters) = (&self.generation.program.commons, &self.counters);
        let remembered = &commons.remembered;
        // A connection is asked about once anyway; requests come again and again with the same credential.
        let credential = request.bearer.as_deref().filter(|_| request.transport == "http");
        let name = credential.map(|credential| remembered.name(self.generation.id, credential));
        if let Some(name) = &name
            && let Some(identity) = remembered.identity(name, commons.now())
        {
            trace::known_credential();
            counters.credentials_known.fetch_add(1, Relaxed);
            return Ok(identity);
        }
        if name.is_some() {
            counters.credentials_asked.fetch_add(1, Relaxed);
        }
        let mark = remembered.mark();
        let shown = Showing::Request(request.clone());
        let allow = self.ask_who(Event::Connect, Asker::from(request), &shown).await?;
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
    pub async fn who_now(self: &Arc<Self>, client: &Client, token: &str) -> Result<Identity, Refusal> {
        let asker = Asker { shown: Shown::Token(token), ..Asker::from(client) };
        let allow = if self.hooks_of(Event::Refresh).next().is_some() {
            let shown = Showing::Token(client.with(client.identity.clone()), token.to_owned());
            self.ask_who(Event::Refresh, asker, &shown).await?
        } else {
            let shown = Showing::Request(ConnectRequest::renewal(client, token));
            self.ask_who(Event::Connect, asker, &shown).await?
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

    /// The hooks of a kind; who comes in a plugin's dialect shows what that plugin understands, so it is asked first.
    fn order_for(&self, event: Event, dialect: &str) -> Vec<usize> {
        let mut hooks: Vec<_> = self.hooks_of(event).collect();
        if let Some(own) = self.dialects.named(dialect) {
            hooks.sort_by_key(|hook| self.generation.registrations[*hook].unit != own.unit);
        }
        hooks
    }

    /// The first answer of the hooks of a kind.
    async fn ask_who(self: &Arc<Self>, event: Event, asker: Asker<'_>, shown: &Showing) -> Result<Box<Allow>, Refusal> {
        for hook in self.order_for(event, shown.dialect()) {
            let vote = match self.generation.waits(hook) {
                true => self.ask_who_waiting(hook, shown).await,
                false if self.generation.is_slow(hook) => self.ask_who_beside(hook, shown).await,
                false => self.ask_who_now(hook, shown).map_err(|failure| No::Broken(hook, failure)),
            };
            match vote {
                Ok(Vote::None) => {}
                Ok(Vote::Allow(mut allow)) => {
                    allow.said_at.clone_from(&self.generation.registrations[hook].place);
                    let user = allow.user.as_deref();
                    self.sample(event, Some(hook), None, Asker { user, ..asker });
                    return Ok(allow);
                }
                Ok(Vote::Deny(deny)) => return Err(self.refuse(No::Denied(hook, deny), None, asker)),
                Err(no) => return Err(self.refuse(no, None, asker)),
            }
        }
        let why = match asker.shown.is_credential() {
            true => "no rule knows this credential",
            false => "a credential is required",
        };
        Err(self.refuse_by_default(event, "unauthorized", why, None, asker))
    }

    fn ask_who_now(&self, hook: usize, shown: &Showing) -> Result<Vote, Failure> {
        let budget = self.generation.program.limits.connect;
        with_vm(&self.generation, |vm| vm.ask(hook, budget, &OPTIONS, |lua| shown.args(vm, lua)))
    }

    async fn ask_who_beside(self: &Arc<Self>, hook: usize, shown: &Showing) -> Result<Vote, No> {
        let (rules, shown) = (self.clone(), shown.clone());
        let ask = move || rules.ask_who_now(hook, &shown);
        let asked = self.generation.program.commons.beside.run(&self.generation, hook, ask).await;
        let asked = asked.and_then(|vote| vote.map_err(Unheard::Failed));
        asked.map_err(|unheard| No::unheard(hook, unheard))
    }

    async fn ask_who_waiting(&self, hook: usize, shown: &Showing) -> Result<Vote, No> {
        let (lanes, shown) = (&self.generation.program.commons.lanes, shown.clone());
        let errand = trace::lend();
        let asked = lanes.run(&self.generation, hook, move |vm| {
            errand.carry(async move { vm.ask_waiting(hook, &OPTIONS, |lua| shown.args(&vm, lua)).await })
        });
        let vote = asked.await.map_err(|unheard| No::unheard(hook, unheard))?;
        trace::back(vote).map_err(|failure| No::Broken(hook, failure))
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
        .refuse(&self.generation.program)
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
