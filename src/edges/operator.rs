//! What the operator asks of the rules: `/api/v1/rules` and below, in JSON both ways.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, Bytes};
use futures_util::Stream;
use warp::http::StatusCode;
use warp::reply::Response;

use super::answers::{json_bytes, read_body};
use super::caller::Caller;
use super::edge::Edge;
use super::tail::{self, Tail};
use super::wire::Fault;

const BODY: usize = 1 << 20;
const BODY_TIME: Duration = Duration::from_secs(10);

/// Whoever hosts the rules. What `ask` answers is the whole body of a 200.
pub trait Operator: Send + Sync + 'static {
    fn ask(&self, verb: &str, with: Bytes) -> Pin<Box<dyn Future<Output = Result<Vec<u8>, Trouble>> + Send>>;

    /// What it decides from now on that somebody wants to see; it ends when what is given is dropped.
    fn tail(&self, asked: &tail::Asked) -> Result<Tail, Trouble>;
}

/// Why there is no answer.
#[derive(Debug)]
pub enum Trouble {
    /// There is no such verb.
    Unknown,
    /// What it was asked with cannot be read.
    Question(String),
    /// It was understood and cannot be done; a line per problem.
    Failed(Vec<String>),
}

impl From<Trouble> for Fault {
    fn from(trouble: Trouble) -> Fault {
        match trouble {
            Trouble::Unknown => Fault::NoRoute,
            Trouble::Question(what) => Fault::Json(what),
            Trouble::Failed(problems) => Fault::Rules(problems),
        }
    }
}

/// `POST /api/v1/rules/{verb}`.
pub async fn ask<B: Buf>(
    edge: Arc<Edge>,
    verb: String,
    caller: Caller,
    body: impl Stream<Item = Result<B, warp::Error>> + Send,
) -> Result<Response, Fault> {
    edge.admin(&caller).await?;
    let with = read_body(&caller, body, BODY, BODY_TIME).await?;
    tell(&edge, &verb, with).await
}

/// `GET /api/v1/rules`: the generation in charge.
pub async fn status(edge: Arc<Edge>, caller: Caller) -> Result<Response, Fault> {
    edge.admin(&caller).await?;
    tell(&edge, "status", Bytes::new()).await
}

async fn tell(edge: &Edge, verb: &str, with: Bytes) -> Result<Response, Fault> {
    let answer = edge.beside.operator.ask(verb, with).await?;
    Ok(json_bytes(StatusCode::OK, answer))
}
