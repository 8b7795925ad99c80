//! The operator's questions to a running hub: `POST /api/v1/rules/{verb}` with the admin key.

use std::time::Duration;

use anyhow::Context;
use bytes::Bytes;
use clap::Args;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::handshake;
use hyper::{Request, header};
use hyper_util::rt::TokioIo;

use super::remote::{Refused, Remote, given, runtime};
use crate::keys::ADMIN_KEY;

/// A reload loads every plugin, and a replay reads the store.
const ANSWER: Duration = Duration::from_secs(300);

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
        let place = self.remote.operators_place()?;
        let key = match given(&self.key)? {
            Some(key) => key,
            None => self.remote.held(&place, ADMIN_KEY)?.with_context(|| {
                format!(
                    "there is no admin key to show to the hub at {}: give --key or AETHER_KEY; for a hub of this machine, \
                     --data says where its keys are ({}/{ADMIN_KEY} is not there)",
                    place.authority(),
                    self.remote.keys(),
                )
            })?,
        };
        let request = Request::post(place.path(&format!("/api/v1/rules/{verb}")))
            .header(header::HOST, place.authority())
            .header(header::AUTHORIZATION, format!("Bearer {key}"))
            .body(Full::new(Bytes::from(serde_json::to_vec(with)?)))?;
        let exchange = async {
            let stream = place.connect().await.map_err(|why| place.unreachable(&why))?;
            let (mut connection, work) = handshake(TokioIo::new(stream)).await?;
            // It ends with the connection, and the connection with its owner.
            tokio::spawn(work);
            let answer = connection.send_request(request).await?;
            let status = answer.status().as_u16();
            Ok::<_, anyhow::Error>((status, answer.into_body().collect().await?.to_bytes()))
        };
        let answered = runtime()?.block_on(async { tokio::time::timeout(ANSWER, exchange).await });
        let (status, body) = answered.with_context(|| format!("no answer within {} s", ANSWER.as_secs()))??;
        if status == 200 { Ok(body) } else { Err(Refused::over_http(status, &body).explain("--key or AETHER_KEY")) }
    }
}
