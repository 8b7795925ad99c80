//! `aether pub`: publishes from the command line, each message once, also when its hub restarts meanwhile.

use std::io::{BufRead, IsTerminal, Read};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use bytes::Bytes;
use clap::Args;
use http::{Request, header};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;

use super::remote::{Backoff, Place, Refused, Remote, given, runtime};
use super::{EXIT_CODES, channel};
use crate::keys::{ADMIN_KEY, random_text};

/// How long a message is tried again when its hub went away, or has no time.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long one answer may take.
const ANSWER: Duration = Duration::from_secs(15);

const LEARN: &str = r#"A payload is JSON if it is JSON, else text if it is UTF-8, else binary. Prints what the hub answers, a line of JSON for each
message. If the hub goes away after it was reached, the message is tried again for 30 s under one idempotency key: it is
published once.

Examples:
  aether pub demo.hello '{"text":"hello"}'
  date | aether pub demo.clock -
  tail -f app.log | aether pub log.app --lines
  aether pub order.1 --lines --idempotency-key import-7 < orders.jsonl    may be run again: the nth line has the key import-7:n"#;

/// Publish: a payload, standard input, or each of its lines
#[derive(Args)]
#[command(after_help = format!("{LEARN}\n\n{EXIT_CODES}"))]
pub struct Publish {
    /// Where to
    #[arg(value_parser = channel)]
    channel: String,
    /// What; `-` or nothing for standard input, byte for byte
    #[arg(conflicts_with = "lines", allow_hyphen_values = true)]
    payload: Option<String>,
    /// Each line of standard input is a message, published as it comes
    #[arg(long)]
    lines: bool,
    /// A name for the kind of message
    #[arg(long, value_name = "NAME")]
    event: Option<String>,
    /// A repeat under the same key is published once
    #[arg(long, value_name = "KEY")]
    idempotency_key: Option<String>,
    /// The key to show [default: the hub's own admin key, if it is the hub of this machine]
    #[arg(long, value_name = "KEY", env = "AETHER_KEY", hide_env_values = true)]
    key: Option<String>,
    #[command(flatten)]
    remote: Remote,
}

impl Publish {
    pub fn run(self) -> anyhow::Result<()> {
        let runtime = runtime()?;
        let mut publisher = self.publisher()?;
        let mut publish = |payload: Vec<u8>, key: String| {
            let answer = runtime.block_on(publisher.publish(&self.query(&key), payload.into()))?;
            super::print(&answer)
        };
        let key = |number: u64| match &self.idempotency_key {
            Some(key) if self.lines => Ok(format!("{key}:{number}")),
            Some(key) => Ok(key.clone()),
            None => random_text().map(|text| format!("aether-pub-{text}")),
        };
        match self.payload.as_deref() {
            _ if self.lines => {
                for (line, number) in std::io::stdin().lock().split(b'\n').zip(1..) {
                    let mut line = line.context("standard input")?;
                    line.truncate(line.strip_suffix(b"\r").map_or(line.len(), <[u8]>::len));
                    publish(line, key(number)?).with_context(|| format!("line {number}"))?;
                }
                Ok(())
            }
            None | Some("-") => publish(standard_input(self.payload.is_some())?, key(1)?),
            Some(payload) => publish(payload.as_bytes().to_vec(), key(1)?),
        }
    }

    fn publisher(&self) -> anyhow::Result<Publisher> {
        let place = self.remote.place()?;
        let key = match given(&self.key)? {
            Some(key) => key,
            None => self.remote.held(&place, ADMIN_KEY)?.with_context(|| {
                format!(
                    "there is no key to show to the hub at {}: give --key or AETHER_KEY; for a hub of this machine, \
                     --data says where its keys are ({}/{ADMIN_KEY} is not there)",
                    place.authority(),
                    self.remote.keys(),
                )
            })?,
        };
        Ok(Publisher { place, key, connection: None, reached: false })
    }

    fn query(&self, key: &str) -> String {
        let mut query = form_urlencoded::Serializer::new(String::new());
        query.append_pair("channel", &self.channel).append_pair("idempotency_key", key);
        if let Some(event) = &self.event {
            query.append_pair("event", event);
        }
        query.finish()
    }
}

fn standard_input(asked: bool) -> anyhow::Result<Vec<u8>> {
    let mut input = std::io::stdin().lock();
    if !asked && std::io::stdin().is_terminal() {
        bail!("what to publish? Give a PAYLOAD, or - to type one and end it with Ctrl-D");
    }
    let mut bytes = Vec::new();
    input.read_to_end(&mut bytes).context("standard input")?;
    Ok(bytes)
}

/// A connection that is made anew when it breaks.
struct Publisher {
    place: Place,
    key: String,
    connection: Option<SendRequest<Full<Bytes>>>,
    /// Whether there ever was a hub: if not, it is no use to wait for one.
    reached: bool,
}

/// Why one try came to nothing.
enum Failure {
    /// The hub has said no.
    Refused(Refused),
    /// Nobody knows whether it was published.
    Lost(String),
    Unreachable(String),
}

impl Publisher {
    /// The hub's answer.
    async fn publish(&mut self, query: &str, payload: Bytes) -> anyhow::Result<Bytes> {
        let begun = Instant::now();
        let mut backoff = Backoff::default();
        loop {
            let why = match self.attempt(query, payload.clone()).await {
                Ok(answer) => return Ok(answer),
                Err(Failure::Refused(refused)) if !refused.passes() => {
                    return Err(refused.explain("--key or AETHER_KEY"));
                }
                Err(Failure::Unreachable(why)) if !self.reached => return Err(self.place.unreachable(&why)),
                Err(Failure::Refused(refused)) => refused.explain("").to_string(),
                Err(Failure::Lost(why) | Failure::Unreachable(why)) => why,
            };
            let wait = backoff.next();
            if begun.elapsed() + wait > PATIENCE {
                bail!(
                    "given up after {} s: {why}. Whether it was published is not known; with the same --idempotency-key \
                     it may be tried again",
                    begun.elapsed().as_secs()
                );
            }
            tokio::time::sleep(wait).await;
        }
    }

    async fn attempt(&mut self, query: &str, payload: Bytes) -> Result<Bytes, Failure> {
        let mut connection = match self.connection.take().filter(|connection| !connection.is_closed()) {
            Some(connection) => connection,
            None => self.connect().await?,
        };
        let request = Request::post(self.place.path(&format!("/api/v1/publish?{query}")))
            .header(header::HOST, self.place.authority())
            .header(header::AUTHORIZATION, format!("Bearer {}", self.key))
            .body(Full::new(payload))
            .map_err(|error| Failure::Lost(error.to_string()))?;
        let exchange = async {
            let answer = connection.send_request(request).await?;
            let status = answer.status().as_u16();
            Ok::<_, hyper::Error>((status, answer.into_body().collect().await?.to_bytes()))
        };
        let (status, body) = match tokio::time::timeout(ANSWER, exchange).await {
            Ok(Ok(answered)) => answered,
            Ok(Err(error)) => return Err(Failure::Lost(format!("the connection broke: {error}"))),
            Err(_) => return Err(Failure::Lost(format!("no answer within {} s", ANSWER.as_secs()))),
        };
        self.connection = Some(connection);
        if status == 200 { Ok(body) } else { Err(Failure::Refused(Refused::over_http(status, &body))) }
    }

    async fn connect(&mut self) -> Result<SendRequest<Full<Bytes>>, Failure> {
        let stream = self.place.connect().await.map_err(Failure::Unreachable)?;
        let (connection, work) =
            handshake(TokioIo::new(stream)).await.map_err(|error| Failure::Lost(error.to_string()))?;
        // It ends with the connection, and the connection with its owner.
        tokio::spawn(work);
        self.reached = true;
        Ok(connection)
    }
}
