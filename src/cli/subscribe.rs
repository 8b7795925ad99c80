//! `aether sub`: listens from the command line, comes back by itself, and says what is missing.
//!
//! The position of each channel is the last message that was printed, and the epoch that it belongs to; with it the
//! subscription goes on after a break. What the hub does not have any more, it says in a gap, and so does this.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::fmt;
use std::io::IsTerminal;
use std::time::Duration;

use anyhow::anyhow;
use clap::Args;
use futures_util::{FutureExt, SinkExt, StreamExt};
use http::header;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::{Error as WsError, Message};

use super::remote::{Backoff, Place, Refused, Remote, Stream, given, runtime};
use super::{EXIT_CODES, channel, print};
use crate::keys::DEMO_TOKEN;

/// After this long without a byte the hub is asked whether it lives, after twice as long it is taken for gone: a network
/// that was unplugged says nothing.
const SILENCE: Duration = Duration::from_secs(30);
/// How long the handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// What is printed at once when messages come faster.
const STRETCH: usize = 64 * 1024;

const LEARN: &str = r#"Prints a line for each message: its channel, its number, its event if it has one, its payload byte for byte. What happens to
the connection, and every gap, is told on standard error. With --json each frame of the hub is a line, gaps too, as it
came (line breaks within a payload become blanks).

A connection that breaks is made anew, and every channel goes on after its last message. Ctrl-C ends with 0.

Examples:
  aether sub demo.hello
  aether sub order.1 order.2 --since 10
  aether sub order.1 --since 0 --count 100 --json --strict"#;

/// Subscribe: print what comes, resume after breaks
#[derive(Args)]
#[command(after_help = format!("{LEARN}\n\n{EXIT_CODES}"))]
pub struct Subscribe {
    /// Which channels
    #[arg(required = true, value_name = "CHANNEL", value_parser = channel)]
    channels: Vec<String>,
    /// Begin after this number, 0 for everything that is kept [default: with the next message]
    #[arg(long, value_name = "SEQ")]
    since: Option<u64>,
    /// End after so many messages
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
    /// Each frame as the hub sends it, a line of JSON
    #[arg(long)]
    json: bool,
    /// End with 3 at the first gap
    #[arg(long)]
    strict: bool,
    /// The token to show [default: the hub's own demo token, if it is the hub of this machine]
    #[arg(long, value_name = "TOKEN", env = "AETHER_TOKEN", hide_env_values = true)]
    token: Option<String>,
    #[command(flatten)]
    remote: Remote,
}

impl Subscribe {
    pub fn run(self) -> anyhow::Result<()> {
        let place = self.remote.place()?;
        let token = match given(&self.token)? {
            Some(token) => Some(token),
            None => self.remote.held(&place, DEMO_TOKEN)?,
        };
        let terminal = std::io::stdout().is_terminal();
        let form = Form { json: self.json, terminal };
        let listener =
            Listener { asked: self, place, token, form, positions: BTreeMap::new(), taken: 0, seen_hub: false };
        let runtime = runtime()?;
        // On a thread of its own: it ends us also while standard output takes nothing.
        runtime.spawn(async {
            if tokio::signal::ctrl_c().await.is_ok() {
                std::process::exit(0);
            }
        });
        runtime.block_on(listener.listen())
    }
}

/// There was a gap, and there must be none.
#[derive(Debug)]
pub struct GapSeen;

impl fmt::Display for GapSeen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a gap, and --strict")
    }
}

impl std::error::Error for GapSeen {}

/// How messages are printed.
struct Form {
    json: bool,
    /// Whether a person looks at them: what publishers send must not move the cursor.
    terminal: bool,
}

/// How far a channel has been printed.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
struct Position {
    seq_id: u64,
    epoch: String,
}

struct Listener {
    asked: Subscribe,
    place: Place,
    token: Option<String>,
    form: Form,
    positions: BTreeMap<String, Position>,
    /// Messages so far.
    taken: u64,
    /// Whether there ever was a hub: if not, it is no use to wait for one.
    seen_hub: bool,
}

/// Why one connection is over.
enum Over {
    /// Everything that was asked for has come.
    Done,
    /// It is no use to come back.
    Failed(anyhow::Error),
    /// Come back, after this time if the hub says one.
    Lost(String, Option<Duration>),
}

/// A frame of the hub, as far as it matters here.
#[derive(Deserialize)]
struct Frame<'a> {
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    channel: String,
    #[serde(default)]
    seq_id: u64,
    #[serde(default)]
    epoch: String,
    #[serde(default)]
    positions: BTreeMap<String, Position>,
    #[serde(default, borrow)]
    payload: Option<&'a RawValue>,
    #[serde(default)]
    encoding: Option<String>,
    #[serde(default)]
    event: Option<String>,
    #[serde(default)]
    requested_from_seq: u64,
    #[serde(default)]
    available_from_seq: u64,
    #[serde(default)]
    cause: String,
    #[serde(default)]
    missing: Option<(u64, u64)>,
    #[serde(default)]
    reason: String,
    #[serde(default)]
    retry_ms: Option<u64>,
}

#[derive(Serialize)]
struct Asking<'a> {
    r#type: &'static str,
    channels: &'a [String],
    after_seq: BTreeMap<&'a str, u64>,
    epoch: BTreeMap<&'a str, &'a str>,
}

const CREDENTIAL: &str = "--token or AETHER_TOKEN";

type Socket = WebSocketStream<Box<dyn Stream>>;

impl Listener {
    async fn listen(mut self) -> anyhow::Result<()> {
        let mut backoff = Backoff::default();
        loop {
            let (why, wait) = match self.connection(&mut backoff).await {
                Over::Done => return Ok(()),
                Over::Failed(error) => return Err(error),
                Over::Lost(why, _) if !self.seen_hub => return Err(self.place.unreachable(&why)),
                Over::Lost(why, wait) => (why, wait.unwrap_or_else(|| backoff.next())),
            };
            eprintln!("{why}; trying again in {:.1} s", wait.as_secs_f64());
            tokio::time::sleep(wait).await;
        }
    }

    /// One connection, from its handshake to its end.
    async fn connection(&mut self, backoff: &mut Backoff) -> Over {
        let mut socket = match self.open().await {
            Ok(socket) => socket,
            Err(over) => return over,
        };
        self.seen_hub = true;
        let mut out = Vec::new();
        let over = match socket.send(Message::text(self.asking())).await {
            Ok(()) => match self.read(&mut socket, backoff, &mut out).await {
                Err(over) => over,
            },
            Err(error) => Over::Lost(broken(&error), None),
        };
        // What was taken in is printed whatever came after it.
        if let Err(error) = print(&out) {
            return Over::Failed(error);
        }
        if !matches!(over, Over::Lost(..)) {
            let _ = tokio::time::timeout(Duration::from_secs(1), socket.close(None)).await;
        }
        over
    }

    async fn open(&self) -> Result<Socket, Over> {
        let lost = |why| Over::Lost(why, None);
        let stream = self.place.connect().await.map_err(lost)?;
        let url = format!("ws://{}{}", self.place.authority(), self.place.path("/ws"));
        let mut request = url.into_client_request().map_err(|error| Over::Failed(error.into()))?;
        if let Some(token) = &self.token {
            let bearer = format!("Bearer {token}").parse().map_err(|_| lost("the token is no header".into()))?;
            request.headers_mut().insert(header::AUTHORIZATION, bearer);
        }
        let upgrade = tokio::time::timeout(HANDSHAKE, tokio_tungstenite::client_async(request, stream));
        match upgrade.await {
            Err(_) => Err(lost("the hub does not answer the handshake".into())),
            Ok(Ok((socket, _))) => Ok(socket),
            Ok(Err(WsError::Http(answer))) => {
                let body = answer.body().as_deref().unwrap_or_default();
                let refused = Refused::over_http(answer.status().as_u16(), body);
                if refused.passes() && self.seen_hub {
                    let after =
                        answer.headers().get(header::RETRY_AFTER).and_then(|text| text.to_str().ok()?.parse().ok());
                    // The header knows whole seconds, in which many are told the same.
                    let after = refused.retry.or(after.map(Duration::from_secs));
                    return Err(Over::Lost(refused.explain("").to_string(), after));
                }
                Err(Over::Failed(refused.explain(CREDENTIAL)))
            }
            Ok(Err(error)) => Err(lost(broken(&error))),
        }
    }

    /// Channels that have a position go on after it, the others begin where the command line says.
    fn asking(&self) -> String {
        let Subscribe { channels, since, .. } = &self.asked;
        let after = |name: &String| self.positions.get(name).map(|at| at.seq_id).or(*since);
        let asking = Asking {
            r#type: "subscribe",
            channels,
            after_seq: channels.iter().filter_map(|name| Some((name.as_str(), after(name)?))).collect(),
            epoch: self.positions.iter().map(|(name, at)| (name.as_str(), at.epoch.as_str())).collect(),
        };
        serde_json::to_string(&asking).unwrap_or_default()
    }

    /// Takes in frames until the connection is over.
    async fn read(
        &mut self,
        socket: &mut Socket,
        backoff: &mut Backoff,
        out: &mut Vec<u8>,
    ) -> Result<Infallible, Over> {
        let mut bye = None;
        loop {
            let message = match socket.next().now_or_never() {
                Some(message) if out.len() < STRETCH => message,
                ready => {
                    flush(out)?;
                    match ready {
                        Some(message) => message,
                        None => next(socket).await?,
                    }
                }
            };
            let text = match message {
                Some(Ok(Message::Text(text))) => text,
                Some(Ok(Message::Close(frame))) => return Err(bye.unwrap_or_else(|| closed(frame))),
                Some(Ok(_)) => continue,
                Some(Err(error)) => return Err(bye.unwrap_or_else(|| Over::Lost(broken(&error), None))),
                None => return Err(bye.unwrap_or_else(|| Over::Lost("the hub is gone".into(), None))),
            };
            let frame: Frame<'_> = serde_json::from_str(&text)
                .map_err(|error| Over::Failed(anyhow!("a frame that is none: {error}; is this Aether?")))?;
            self.form.put(&frame, &text, out);
            match frame.kind.as_str() {
                "subscribed" => {
                    self.subscribed(frame.positions);
                    backoff.reset();
                }
                "message" => self.message(&frame)?,
                // Nothing is missing: it came in another channel.
                "gap" if frame.cause == "once" => {
                    self.reach(frame.channel, frame.available_from_seq.saturating_sub(1), frame.epoch);
                }
                "gap" => {
                    // What came before it is seen before it.
                    flush(out)?;
                    eprintln!("{}", gap_text(&frame));
                    self.reach(frame.channel, frame.available_from_seq.saturating_sub(1), frame.epoch);
                    self.be_strict()?;
                }
                "live" => self.reach(frame.channel, frame.seq_id, frame.epoch),
                "error" => return Err(refused(&text)),
                "bye" => bye = Some(sent_away(&frame)),
                // Whatever later hubs say beside.
                _ => {}
            }
        }
    }

    /// What is known already stays: a position of another life is told by a gap, which is still to come.
    fn subscribed(&mut self, positions: BTreeMap<String, Position>) {
        let again = !self.positions.is_empty();
        for (name, position) in positions {
            self.positions.entry(name).or_insert(position);
        }
        let places: Vec<_> = self.positions.iter().map(|(name, at)| format!("{name} after {}", at.seq_id)).collect();
        eprintln!("{} {}", if again { "resumed:" } else { "listening:" }, places.join(", "));
    }

    fn message(&mut self, frame: &Frame<'_>) -> Result<(), Over> {
        if let Some(at) = self.positions.get_mut(&frame.channel) {
            let before = std::mem::replace(&mut at.seq_id, frame.seq_id);
            if frame.seq_id != before + 1 {
                // The hub promises that this does not happen; whoever counts on it is told if it does.
                eprintln!("warning: {} goes from {before} to {} without a gap", frame.channel, frame.seq_id);
                self.be_strict()?;
            }
        }
        self.taken += 1;
        if self.asked.count == Some(self.taken) { Err(Over::Done) } else { Ok(()) }
    }

    fn reach(&mut self, channel: String, seq_id: u64, epoch: String) {
        self.positions.insert(channel, Position { seq_id, epoch });
    }

    fn be_strict(&self) -> Result<(), Over> {
        if self.asked.strict { Err(Over::Failed(GapSeen.into())) } else { Ok(()) }
    }
}

/// The next message of a hub that is silent for now.
async fn next(socket: &mut Socket) -> Result<Option<Result<Message, WsError>>, Over> {
    if let Ok(message) = tokio::time::timeout(SILENCE, socket.next()).await {
        return Ok(message);
    }
    let asked = async {
        socket.send(Message::text(r#"{"type":"ping"}"#)).await.ok()?;
        Some(socket.next().await)
    };
    match tokio::time::timeout(SILENCE, asked).await {
        Ok(Some(message)) => Ok(message),
        Ok(None) | Err(_) => Err(Over::Lost("the hub is silent".into(), None)),
    }
}

fn flush(out: &mut Vec<u8>) -> Result<(), Over> {
    print(out).map_err(Over::Failed)?;
    out.clear();
    Ok(())
}

fn gap_text(frame: &Frame<'_>) -> String {
    let Frame { channel, cause, requested_from_seq: after, available_from_seq: from, .. } = frame;
    match frame.missing {
        Some((first, last)) if first <= last => {
            format!("gap: {first} to {last} of {channel} will not come ({cause}); it goes on with {from}")
        }
        _ => format!("gap: what came after {after} in {channel} is not known ({cause}); it goes on with {from}"),
    }
}

/// An `error` frame: some channel is not ours to read. The others alone are not what was asked for.
fn refused(frame: &str) -> Over {
    let refused = Refused::in_frame(frame);
    if refused.passes() {
        return Over::Lost(refused.explain("").to_string(), refused.retry);
    }
    Over::Failed(refused.explain(CREDENTIAL))
}

fn sent_away(bye: &Frame<'_>) -> Over {
    match bye.retry_ms {
        Some(wait) => Over::Lost(format!("the hub says: {}", bye.reason), Some(Duration::from_millis(wait))),
        None => Over::Failed(anyhow!("sent away: {}; show another credential with {CREDENTIAL}", bye.reason)),
    }
}

/// A close frame without a word before.
fn closed(frame: Option<CloseFrame>) -> Over {
    let Some(CloseFrame { code, reason }) = frame else {
        return Over::Lost("the hub closed the connection".into(), None);
    };
    let code = u16::from(code);
    let said = if reason.is_empty() { format!("closed with {code}") } else { format!("closed with {code}: {reason}") };
    match code {
        // What was sent was wrong, and would be again.
        1002 | 1003 | 1007..=1010 => Over::Failed(anyhow!("{said}; this is a fault of `aether sub` or of its version")),
        4429 => Over::Lost(said, None),
        4400..=4499 => Over::Failed(anyhow!("{said}; show another credential with {CREDENTIAL}")),
        _ => Over::Lost(said, None),
    }
}

fn broken(error: &WsError) -> String {
    format!("the connection broke: {error}")
}

impl Form {
    /// What a frame is on standard output.
    fn put(&self, frame: &Frame<'_>, text: &str, out: &mut Vec<u8>) {
        if self.json {
            // Within JSON a line break is but white space; a payload may have some.
            out.extend(text.trim_end().bytes().map(|byte| if matches!(byte, b'\n' | b'\r') { b' ' } else { byte }));
            out.push(b'\n');
        } else if frame.kind == "message" {
            let mut line = format!("{} {} ", frame.channel, frame.seq_id);
            if let Some(event) = &frame.event {
                line.push_str(event);
                line.push_str(": ");
            }
            line.push_str(&payload(frame));
            if self.terminal {
                line = line
                    .chars()
                    .map(|c| if c.is_control() && !matches!(c, '\n' | '\t') { '\u{fffd}' } else { c })
                    .collect();
            }
            out.extend_from_slice(line.as_bytes());
            out.push(b'\n');
        }
    }
}

/// JSON as it is, text as it was, binary in base64.
fn payload<'a>(frame: &Frame<'a>) -> Cow<'a, str> {
    let raw = frame.payload.map_or("", RawValue::get);
    match frame.encoding {
        Some(_) => serde_json::from_str(raw).map_or(Cow::Borrowed(raw), Cow::Owned),
        None => Cow::Borrowed(raw),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(form: &Form, text: &str) -> String {
        let mut out = Vec::new();
        form.put(&serde_json::from_str(text).unwrap(), text, &mut out);
        String::from_utf8(out).unwrap()
    }

    const PIPE: Form = Form { json: false, terminal: false };

    #[test]
    fn a_payload_is_printed_as_it_was_published() {
        let odd =
            r#"{"type":"message","channel":"a","seq_id":7,"payload":{"n": 1.0e2,"n":9007199254740993,"t":"\u0041"}}"#;
        assert_eq!(line(&PIPE, odd), "a 7 {\"n\": 1.0e2,\"n\":9007199254740993,\"t\":\"\\u0041\"}\n");
        let text = r#"{"type":"message","channel":"a","seq_id":8,"payload":"x\ny","encoding":"text","event":"e"}"#;
        assert_eq!(line(&PIPE, text), "a 8 e: x\ny\n");
        let binary = r#"{"type":"message","channel":"a","seq_id":9,"payload":"AAH/","encoding":"base64"}"#;
        assert_eq!(line(&PIPE, binary), "a 9 AAH/\n");
    }

    #[test]
    fn a_frame_of_many_lines_is_one_line_of_json_and_otherwise_itself() {
        let json = Form { json: true, terminal: false };
        let frame = "{\"type\":\"message\",\"channel\":\"a\",\"seq_id\":1,\"payload\":[1,\r\n 2]}\n";
        assert_eq!(line(&json, frame), "{\"type\":\"message\",\"channel\":\"a\",\"seq_id\":1,\"payload\":[1,   2]}\n");
    }

    #[test]
    fn no_publisher_moves_the_cursor_of_a_terminal() {
        let terminal = Form { json: false, terminal: true };
        let nasty = r#"{"type":"message","channel":"a","seq_id":1,"payload":"\u001b[2Jboo","encoding":"text"}"#;
        assert_eq!(line(&terminal, nasty), "a 1 \u{fffd}[2Jboo\n");
    }

    #[test]
    fn close_codes_say_whether_to_come_back() {
        let over = |code: u16| closed(Some(CloseFrame { code: code.into(), reason: "".into() }));
        for code in [1000, 1001, 1006, 1011, 1012, 1013, 4429] {
            assert!(matches!(over(code), Over::Lost(_, None)), "{code}");
        }
        for code in [1002, 1007, 1008, 1009, 4401, 4403] {
            assert!(matches!(over(code), Over::Failed(_)), "{code}");
        }
        let bye = |text: &str| sent_away(&serde_json::from_str(text).unwrap());
        let lagged = bye(r#"{"type":"bye","code":1012,"reason":"lagged","retry_ms":0}"#);
        assert!(matches!(lagged, Over::Lost(_, Some(Duration::ZERO))));
        assert!(matches!(bye(r#"{"type":"bye","code":4401,"reason":"credential expired"}"#), Over::Failed(_)));
    }
}
