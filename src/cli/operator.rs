//! The operator's questions to a running hub: `POST /api/v1/rules/{verb}` with the admin key.

use std::time::Duration;

use anyhow::Context;
use bytes::Bytes;
use clap::Args;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::handshake;
use hyper::http::request::Builder;
use hyper::{Request, header};
use hyper_util::rt::TokioIo;

use super::remote::{Place, Refused, Remote, given, runtime};
use crate::keys::ADMIN_KEY;

/// A reload loads every plugin, and a replay reads the store.
const ANSWER: Duration = Duration::from_secs(300);
const CREDENTIAL: &str = "--key or AETHER_KEY";

/// Flags of every question.
#[derive(Args)]
pub struct Desk {
    #[command(flatten)]
    remote: Remote,
    /// The admin key [default: the one that the hub of this machine made]
    #[arg(long, value_name = "KEY", env = "AETHER_KEY", hide_env_values = true)]
    key: Option<String>,
    /// Print the hub's answer as it is
    #[arg(long)]
    pub json: bool,
}

impl Desk {
    pub fn ask(&self, verb: &str, with: &serde_json::Value) -> anyhow::Result<Bytes> {
        runtime()?.block_on(self.exchange(verb, with))
    }

    /// As `ask`; Ctrl-C asks `stop`, and then it waits for the answer to what was asked first. A second one ends it.
    pub fn ask_until_stopped(&self, verb: &str, with: &serde_json::Value, stop: &str) -> anyhow::Result<Bytes> {
        runtime()?.block_on(async {
            let mut answer = std::pin::pin!(self.exchange(verb, with));
            tokio::select! {
                answer = &mut answer => return answer,
                _ = tokio::signal::ctrl_c() => {}
            }
            if let Err(why) = self.exchange(stop, &serde_json::json!({})).await {
                eprintln!("{why:#}");
            }
            tokio::select! {
                answer = &mut answer => answer,
                _ = tokio::signal::ctrl_c() => anyhow::bail!("interrupted"),
            }
        })
    }

    async fn exchange(&self, verb: &str, with: &serde_json::Value) -> anyhow::Result<Bytes> {
        let place = self.remote.operators_place()?;
        let request = Request::post(place.path(&format!("/api/v1/rules/{verb}")));
        let request = self.signed(request, &place)?.body(Full::new(Bytes::from(serde_json::to_vec(with)?)))?;
        let exchange = async {
            let (status, body) = send(&place, request).await?;
            Ok::<_, anyhow::Error>((status, body.collect().await?.to_bytes()))
        };
        let answered = tokio::time::timeout(ANSWER, exchange).await;
        let (status, body) = answered.with_context(|| format!("no answer within {} s", ANSWER.as_secs()))??;
        if status == 200 { Ok(body) } else { Err(Refused::over_http(status, &body).explain(CREDENTIAL)) }
    }

    /// An answer that goes on; `below` is what stands behind `/api/v1/rules/`.
    pub async fn open(&self, below: &str) -> anyhow::Result<Incoming> {
        let place = self.remote.operators_place()?;
        let request = Request::get(place.path(&format!("/api/v1/rules/{below}")));
        let request = self.signed(request, &place)?.body(Full::default())?;
        let (status, body) = send(&place, request).await?;
        if status == 200 {
            return Ok(body);
        }
        let body = body.collect().await?.to_bytes();
        Err(Refused::over_http(status, &body).explain(CREDENTIAL))
    }

    fn signed(&self, request: Builder, place: &Place) -> anyhow::Result<Builder> {
        let key = match given(&self.key)? {
            Some(key) => key,
            None => self.remote.held(place, ADMIN_KEY)?.with_context(|| {
                format!(
                    "there is no admin key to show to the hub at {}: give --key or AETHER_KEY; for a hub of this machine, \
                     --data says where its keys are ({}/{ADMIN_KEY} is not there)",
                    place.authority(),
                    self.remote.keys(),
                )
            })?,
        };
        let authority = place.authority();
        Ok(request.header(header::HOST, authority).header(header::AUTHORIZATION, format!("Bearer {key}")))
    }
}

async fn send(place: &Place, request: Request<Full<Bytes>>) -> anyhow::Result<(u16, Incoming)> {
    let stream = place.connect().await.map_err(|why| place.unreachable(&why))?;
    let (mut connection, work) = handshake(TokioIo::new(stream)).await?;
    // It ends with the connection, and the connection with its owner.
    tokio::spawn(work);
    let answer = connection.send_request(request).await?;
    let status = answer.status().as_u16();
    Ok((status, answer.into_body()))
}
