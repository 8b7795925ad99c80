//! The routes of the plugins, as the edges ask for them.

use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;

use crate::edges::routes::{Answer, Auth, Found, Route, Routes, Visit};
use crate::kernel::hooks::{Refusal, Request};
use crate::plugins::{self, Call, Host, Routed};

pub struct OfPlugins(pub Arc<Host>);

impl Routes for OfPlugins {
    fn find(&self, listener: Option<SocketAddr>, method: &str, path: &str) -> Found {
        match self.0.route(listener, method, path) {
            Routed::Nothing => Found::Nothing,
            Routed::Methods(methods) => Found::Methods(methods),
            Routed::Route(call) => Found::Route(Box::new(OfPlugin(call))),
        }
    }
}

struct OfPlugin(Call);

impl Route for OfPlugin {
    fn auth(&self) -> Auth {
        match self.0.auth() {
            plugins::Auth::Admin => Auth::Admin,
            plugins::Auth::Connect => Auth::Connect,
            plugins::Auth::None => Auth::Nobody,
        }
    }

    fn judging<'a>(&self, request: Request<'a>) -> Request<'a> {
        self.0.judging(request)
    }

    fn answer(self: Box<Self>, visit: Visit) -> Pin<Box<dyn Future<Output = Result<Answer, Refusal>> + Send>> {
        let Visit { request, body, client } = visit;
        Box::pin(async move {
            let answer = self.0.answer(plugins::Visit { request, body, client }).await?;
            Ok(Answer { status: answer.status, headers: answer.headers, body: answer.body })
        })
    }
}
