//! Connections that speak a dialect of a plugin: let in as any other, heard and answered in the plugin's words.
//!
//! The plugin says what is to be done, this does it, and the plugin says how the outcome is told. What it says is framed
//! here, for the transport at hand.

use std::sync::Arc;
use std::time::Duration;

use hyper::upgrade::OnUpgrade;
use parking_lot::Mutex;
use tokio::time::Instant;
use tungstenite::protocol::frame::coding::{Control, Data, OpCode};
use warp::http::Method;
use warp::http::header::{HeaderName, HeaderValue};
use warp::reply::Response;

use super::cursor::{self, Cursor};
use super::frames::SseFormat;
use super::http::{Caller, Edge, refuse};
use super::native::Limits;
use super::origin::Origins;
use super::patience::Patience;
use super::routes::{Answer, rendered};
use super::session::{Dialect, Frame, Shared};
use super::sse::{self, Events};
use super::upgrade::{self, Voice};
use super::wire::{Ending, Fault};
use super::words::Words;
use super::{session, ws};
use crate::kernel::dialect::{
    Act, Event, Heard, Instead, Manners, Memory, Mount, NoEntry, Speech, Tag, Tongue, Transport, Way,
};
use crate::kernel::format::{Format, Gap, GapCause, Notice};
use crate::kernel::hooks::{Farewell, Refusal};
use crate::kernel::hub::HistoryFrom;
use crate::kernel::message::{ChannelName, Epoch, Position, Publication};
use crate::kernel::session::{Session, Start};

/// What one replay carries: the newest, if there is more.
const REPLAYED: usize = 4096;
const REPLAYED_BYTES: usize = 4 << 20;

/// The formats of the dialects, one of each, so that all its readers share its bytes. There are as many as dialects and their styles.
#[derive(Default)]
pub struct Formats {
    known: Mutex<Vec<Arc<ForeignFormat>>>,
    /// A seat for each connection of a dialect, given back when the last copy is dropped.
    seats: Mutex<Vec<(&'static str, Arc<()>)>>,
}

impl Formats {
    fn of(&self, tongue: &Arc<dyn Tongue>, way: Way, sealed: bool) -> Arc<dyn Format> {
        let mut known = self.known.lock();
        let is_it = |format: &&Arc<ForeignFormat>| {
            (format.tongue.name(), format.way, format.sealed) == (tongue.name(), way, sealed)
        };
        if let Some(format) = known.iter().find(is_it) {
            return format.clone();
        }
        let format = Arc::new(ForeignFormat { tongue: tongue.clone(), way, sealed });
        known.push(format.clone());
        format
    }

    /// A place for one more who speaks it, unless there are `max`.
    fn seat(&self, dialect: &'static str, max: Option<usize>) -> Result<Arc<()>, Fault> {
        let mut seats = self.seats.lock();
        let at = seats.iter().position(|(name, _)| *name == dialect).unwrap_or_else(|| {
            seats.push((dialect, Arc::default()));
            seats.len() - 1
        });
        let all = &seats[at].1;
        match max {
            // One copy is ours.
            Some(max) if Arc::strong_count(all) > max => Err(Fault::TooManyConnections),
            _ => Ok(all.clone()),
        }
    }
}

struct ForeignFormat {
    tongue: Arc<dyn Tongue>,
    way: Way,
    /// Each event ends with the connection's place in all its channels.
    sealed: bool,
}

impl ForeignFormat {
    fn put(&self, event: &Event<'_>, out: &mut Vec<u8>) -> bool {
        let Ok(speech) = self.tongue.say(self.way, event) else { return false };
        let says = speech.as_ref().is_some_and(|speech| !speech.bytes.is_empty());
        put(self.way.transport, speech, out);
        if self.sealed && says {
            // Left open for the seal.
            match out.ends_with(b"\n\n") {
                true => drop(out.pop()),
                false if !out.ends_with(b"\n") => out.push(b'\n'),
                false => {}
            }
        }
        true
    }
}

impl Format for ForeignFormat {
    fn publication(&self, channel: &ChannelName, epoch: Epoch, publication: &Publication, out: &mut Vec<u8>) {
        if !self.put(&Event::Message { channel, epoch, publication }, out) {
            // What cannot be put into words is withheld, and that is told.
            let (offset, cause) = (publication.offset, GapCause::Denied);
            let notice = Notice::Gap(Gap::at(offset, cause));
            self.notice(channel, Position { epoch, offset }, &notice, out);
        }
    }

    fn notice(&self, channel: &ChannelName, at: Position, notice: &Notice, out: &mut Vec<u8>) {
        if self.put(&Event::Notice { channel, at, notice }, out) {
            return;
        }
        // Not even that: whoever reads on would miss something without knowing.
        match self.way.transport {
            Transport::WebSocket => ws::put_close(1011, "this dialect cannot say what happens", out),
            Transport::EventStream => SseFormat { several: self.sealed, bare: false }.notice(channel, at, notice, out),
        }
    }

    fn sealed(&self) -> bool {
        self.sealed
    }

    /// Of what the dialect says nothing about there is nothing to end.
    fn seal(&self, positions: &mut dyn Iterator<Item = (&ChannelName, Position)>, out: &mut Vec<u8>) {
        if !out.is_empty() && !out.ends_with(b"\n\n") {
            put_place(positions, out);
        }
    }
}

fn put_place<'a>(positions: impl Iterator<Item = (&'a ChannelName, Position)>, out: &mut Vec<u8>) {
    out.extend_from_slice(b"id: ");
    cursor::write(positions, out);
    out.extend_from_slice(b"\n\n");
}

fn put(transport: Transport, speech: Option<Speech>, out: &mut Vec<u8>) {
    let Some(speech) = speech else { return };
    match transport {
        Transport::WebSocket => {
            let kind = if speech.binary { Data::Binary } else { Data::Text };
            ws::put_frame(OpCode::Data(kind), &speech.bytes, out);
        }
        Transport::EventStream => out.extend_from_slice(&speech.bytes),
    }
}

/// The rules that spoke it are gone.
const NO_LONGER: &str = "this dialect is spoken here no longer";

/// Why something that a client wanted was not done; it has heard so.
enum No {
    Fault(Fault),
    /// And it is sent away.
    Ending(Ending),
}

impl No {
    /// The connection goes on, unless it has to end.
    fn told(self) -> Result<(), Ending> {
        match self {
            No::Fault(_) => Ok(()),
            No::Ending(ending) => Err(ending),
        }
    }
}

/// A plugin's dialect on one connection.
pub struct ForeignDialect {
    edge: Arc<Edge>,
    tongue: Arc<dyn Tongue>,
    manners: Arc<Manners>,
    way: Way,
    sealed: bool,
    memory: Memory,
    limits: Limits,
    patience: Patience,
    _seat: Arc<()>,
}

impl Dialect for ForeignDialect {
    async fn on_frame(&mut self, session: &mut Session, frame: Frame, out: &mut Vec<u8>) -> Result<(), Ending> {
        let (bytes, binary) = match frame {
            Frame::Text(bytes) => (bytes, false),
            Frame::Binary(bytes) => (bytes, true),
            Frame::Ping(payload) => {
                ws::put_frame(OpCode::Control(Control::Pong), &payload, out);
                return Ok(());
            }
            Frame::Pong => return Ok(()),
        };
        let heard = Heard::Said(Speech { bytes, binary });
        match self.tongue.hear(session.client(), heard, &mut self.memory).await {
            Ok(acts) => {
                for act in acts {
                    self.perform(session, act, out).await.or_else(|no| no.told())?;
                }
                Ok(())
            }
            Err(refusal) => {
                self.still()?;
                self.fail("frame", Fault::Broken(refusal), &None, out).told()
            }
        }
    }

    fn beat(&mut self, _session: &Session, out: &mut Vec<u8>) {
        let before = out.len();
        self.say(&Event::Ping, out);
        match self.way.transport {
            Transport::WebSocket => ws::put_frame(OpCode::Control(Control::Ping), b"", out),
            Transport::EventStream if out.len() == before => out.extend_from_slice(b":\n\n"),
            Transport::EventStream => {}
        }
    }

    fn expiring(&mut self, left: Duration, out: &mut Vec<u8>) {
        self.say(&Event::Expiring { left }, out);
    }

    fn unsubscribed(&mut self, channel: &ChannelName, out: &mut Vec<u8>) {
        self.say(&Event::Unsubscribed { channel, tag: &None }, out);
    }

    fn denied(&mut self, channel: ChannelName, refusal: Refusal, out: &mut Vec<u8>) {
        self.say(&Event::Denied { what: "subscribe", channel: Some(&channel), refusal: &refusal, tag: &None }, out);
        self.unsubscribed(&channel, out);
    }

    fn still(&self) -> Result<(), Ending> {
        if self.tongue.is_spoken() { Ok(()) } else { Err(Ending::OfDialect(1012, Words::new(NO_LONGER))) }
    }

    fn bye(&mut self, why: Ending, out: &mut Vec<u8>) {
        let Some(code) = why.code() else { return };
        self.say(&Event::Closing { code, reason: why.reason() }, out);
        if self.way.transport == Transport::WebSocket {
            ws::put_close(code, why.reason(), out);
        }
    }

    fn ended(&mut self, session: &Session, why: &Farewell) {
        self.tongue.gone(session.client(), self.memory.take(), why);
    }
}

impl ForeignDialect {
    fn say(&self, event: &Event<'_>, out: &mut Vec<u8>) {
        // What broke is in the log, and this is no publication that would be missed.
        if let Ok(speech) = self.tongue.say(self.way, event) {
            put(self.way.transport, speech, out);
        }
    }

    /// Says no, as long as there is patience for it.
    fn fail(&mut self, what: &'static str, fault: Fault, tag: &Tag, out: &mut Vec<u8>) -> No {
        let patient = self.patience.take(Instant::now());
        let fault = if patient { fault } else { Fault::TooManyRefusals };
        match &fault {
            Fault::Forbidden { refusal, what: channel } => {
                let channel = channel.as_deref().and_then(|channel| ChannelName::new(channel).ok());
                self.say(&Event::Denied { what, channel: channel.as_ref(), refusal, tag }, out);
            }
            Fault::Unauthorized { refusal, .. } => {
                self.say(&Event::Denied { what, channel: None, refusal, tag }, out);
            }
            fault => {
                let body = fault.body();
                let decision = body.decision.unwrap_or_default();
                self.say(&Event::Error { what, code: body.reason, why: &body.message, decision, tag }, out);
            }
        }
        if patient { No::Fault(fault) } else { No::Ending(Ending::Refused) }
    }

    async fn perform(&mut self, session: &mut Session, act: Act, out: &mut Vec<u8>) -> Result<(), No> {
        match act {
            Act::Reply(speech) => put(self.way.transport, Some(speech), out),
            Act::Subscribe { channel, start, last_id, pace, tag } => {
                let left = last_id.and_then(|id| Cursor::parse(&id)?.position(&channel));
                let start = left.map_or(start, |left| Start::After(left.offset, Some(left.epoch)));
                let max = self.limits.channels_per_connection;
                if session.len() >= max && !session.holds(channel.as_str()) {
                    return Err(self.fail("subscribe", Fault::TooManyOnConnection { max }, &tag, out));
                }
                // Whoever listens already listens on from where it stands, unless it names another place.
                if session.holds(channel.as_str()) {
                    if start == Start::Now {
                        let at = place(session, &channel);
                        self.say(&Event::Subscribed { channel: &channel, at, tag: &tag }, out);
                        return Ok(());
                    }
                    session.unsubscribe(channel.as_str());
                }
                match session.subscribe(channel.clone(), start).await {
                    Ok(at) => {
                        if let Some(pace) = pace {
                            session.set_pace(channel.as_str(), pace);
                        }
                        self.say(&Event::Subscribed { channel: &channel, at, tag: &tag }, out);
                    }
                    Err(error) => {
                        return Err(self.fail("subscribe", Fault::subscribe(error, channel.as_str()), &tag, out));
                    }
                }
            }
            Act::Unsubscribe { channel, tag } => {
                session.unsubscribe(channel.as_str());
                self.say(&Event::Unsubscribed { channel: &channel, tag: &tag }, out);
            }
            Act::Publish { draft, tag } => {
                let channel = draft.channel.clone();
                let published = session.hub().publish(session.client(), draft).await;
                match published {
                    Ok(receipt) => self.say(&Event::Published { receipt: &receipt, tag: &tag }, out),
                    Err(error) => {
                        return Err(self.fail("publish", Fault::publish(error, true, channel.as_str()), &tag, out));
                    }
                }
            }
            Act::Replay { age, tag } => self.replay(session, age, &tag, out).await?,
            Act::Speak { style } => match self.manners.styles.iter().find(|known| **known == style) {
                Some(known) => {
                    self.way.style = Some(known);
                    session.speaks(self.edge.foreign.of(&self.tongue, self.way, self.sealed));
                }
                None => {
                    let why = format!("this dialect has no style {style:?}");
                    return Err(self.fail("frame", Fault::OfDialect { code: "no_style".into(), why }, &None, out));
                }
            },
            Act::Authenticate { token, tag } => {
                let hub = session.hub().clone();
                match hub.hooks().refresh(session.client(), &token).await {
                    Ok(identity) => {
                        let client = session.client().with(identity);
                        for (channel, refusal) in session.becomes(client).await {
                            self.denied(channel, refusal, out);
                        }
                        self.say(&Event::Authenticated { tag: &tag }, out);
                    }
                    Err(refusal) => {
                        return Err(self.fail("authenticate", Fault::Unauthorized { refusal, api: false }, &tag, out));
                    }
                }
            }
            Act::Fail { code, why, tag } => {
                return Err(self.fail("frame", Fault::OfDialect { code, why }, &tag, out));
            }
            Act::Close { code, reason } => return Err(No::Ending(Ending::OfDialect(code, Words::new(&reason)))),
        }
        Ok(())
    }

    /// Says once more what the session's channels have said of late; what it says is not the cursors' business.
    async fn replay(&mut self, session: &Session, age: Duration, tag: &Tag, out: &mut Vec<u8>) -> Result<(), No> {
        let hub = session.hub().clone();
        let since = hub.now().saturating_sub(age.as_micros() as u64);
        let mut said: Vec<(ChannelName, Epoch, Publication)> = Vec::new();
        let names: Vec<_> = session.positions().map(|(name, _)| name.clone()).collect();
        let mut left = REPLAYED_BYTES;
        for name in names {
            let all = HistoryFrom::Before(u64::MAX);
            let past = match hub.history(session.client(), &name, all, REPLAYED, left).await {
                Ok(past) => past,
                Err(error) => return Err(self.fail("replay", Fault::read(error, true, name.as_str()), tag, out)),
            };
            for publication in past.page.publications.into_iter().filter(|publication| publication.time >= since) {
                left = left.saturating_sub(publication.message.weight());
                said.push((name.clone(), past.epoch, publication));
            }
        }
        said.sort_by_key(|(_, _, publication)| publication.time);
        let mut copies = std::collections::HashSet::new();
        said.retain(|(_, _, publication)| publication.once.is_none_or(|number| copies.insert(number)));
        let from = said.len().saturating_sub(REPLAYED);
        for (channel, epoch, publication) in &said[from..] {
            self.say(&Event::Message { channel, epoch: *epoch, publication }, out);
        }
        Ok(())
    }
}

/// Where a session stands in a channel that it listens to.
fn place(session: &Session, channel: &ChannelName) -> Position {
    let found = session.positions().find(|(name, _)| *name == channel).map(|(_, at)| at);
    found.unwrap_or(Position { epoch: Epoch::UNKNOWN, offset: 0 })
}

/// `GET` of a path where a dialect is spoken.
pub async fn open(
    edge: Arc<Edge>,
    mut caller: Caller,
    mount: Mount,
    on_upgrade: Option<OnUpgrade>,
) -> Result<Response, Fault> {
    caller.request.transport = mount.transport.name();
    caller.request.dialect = mount.tongue.name();
    let tongue = mount.tongue.clone();
    let request = caller.request.clone();
    let begun = begin(edge, caller, mount, on_upgrade).await;
    begun.or_else(|fault| {
        let ((status, code), body) = (fault.numbers(), fault.body());
        let no = NoEntry { status, code, reason: body.reason, why: &body.message, decision: body.decision };
        match tongue.refuse(&request, &no) {
            Some(Instead { status, headers, body }) => Ok(rendered(Answer { status, headers, body })),
            None => Ok(refuse(&fault)),
        }
    })
}

async fn begin(
    edge: Arc<Edge>,
    mut caller: Caller,
    mount: Mount,
    on_upgrade: Option<OnUpgrade>,
) -> Result<Response, Fault> {
    let Mount { tongue, transport, manners } = mount;
    if edge.hub.is_stopping() {
        return Err(Fault::Stopping);
    }
    if caller.request.method != Method::GET.as_str() {
        return Err(Fault::Method);
    }
    let key = match transport {
        Transport::WebSocket => Some(upgrade::handshake_key(&caller)?.to_owned()),
        Transport::EventStream => None,
    };
    let here = Origins::new(manners.origins.clone());
    if caller.check_origin(&edge.settings.origins).is_err() {
        caller.check_origin(&here)?;
        // A browser sends the cookies of a host to all its ports; nobody vouches for those of such a page.
        caller.request.headers.retain(|(name, _)| name != "cookie");
    }
    let seat = edge.foreign.seat(tongue.name(), manners.connections)?;
    let client = match manners.handshake {
        None => edge.connect(&caller).await?,
        Some(most) => tokio::time::timeout(most, edge.connect(&caller)).await.map_err(|_| Fault::SlowRules)??,
    };
    let client = Arc::new(client);
    let sealed = manners.resume && transport == Transport::EventStream;
    let way = Way { transport, style: None };
    let mut session = Session::new(edge.hub.clone(), client, edge.foreign.of(&tongue, way, sealed));
    let (limits, patience) = (edge.settings.limits, Patience::new(edge.settings.limits.refusals_per_minute));
    let (shared, of) = (with_manners(&edge, transport, &manners), edge.clone());
    let mut dialect = ForeignDialect {
        edge: of,
        tongue,
        manners: manners.clone(),
        way,
        sealed,
        memory: None,
        limits,
        patience,
        _seat: seat,
    };
    let mut hello = Vec::new();
    let heard = Heard::Came(caller.with_meant_cookies(&edge.settings.origins)?.into_owned());
    let acts = dialect.tongue.hear(session.client(), heard, &mut dialect.memory).await.map_err(Fault::Broken)?;
    for act in acts {
        // Whoever cannot have what it came for is told so before anything begins.
        dialect.perform(&mut session, act, &mut hello).await.map_err(|no| match no {
            No::Fault(fault) => fault,
            No::Ending(ending) => Fault::OfDialect { code: "closed".into(), why: ending.reason().to_owned() },
        })?;
    }
    if sealed && !session.is_empty() {
        // Whoever loses the connection before the first event comes back here.
        put_place(session.positions(), &mut hello);
    }
    let permit = caller.peer.as_ref().map(|peer| peer.permit.clone());
    let mut response = match key {
        Some(key) => {
            let max = manners.max_frame.unwrap_or(edge.settings.max_message);
            let voice = Voice { dialect, session, shared, max_message: max, hello, permit };
            upgrade::switch(&edge, &key, on_upgrade, voice)?
        }
        None => sse::stream(Events::new(hello, |socket| async move {
            let _permit = permit;
            session::run(socket, dialect, session, shared, Vec::new()).await
        })),
    };
    if transport == Transport::EventStream {
        sse::allow_origin(&edge.settings.origins, &caller, &mut response);
        sse::allow_origin(&here, &caller, &mut response);
    }
    for (name, value) in &manners.headers {
        if let (Ok(name), Ok(value)) = (HeaderName::try_from(name), HeaderValue::try_from(value)) {
            response.headers_mut().insert(name, value);
        }
    }
    Ok(response)
}

fn with_manners(edge: &Edge, transport: Transport, manners: &Manners) -> Arc<Shared> {
    let usual = match transport {
        Transport::WebSocket => &edge.ws,
        Transport::EventStream => &edge.sse,
    };
    if manners.beat.is_none() && manners.patience.is_none() && manners.write_timeout.is_none() {
        return usual.clone();
    }
    let mut pulse = usual.pulse;
    pulse.interval = manners.beat.unwrap_or(pulse.interval);
    pulse.timeout = pulse.timeout.map(|usual| manners.patience.unwrap_or(usual));
    pulse.write_timeout = manners.write_timeout.unwrap_or(pulse.write_timeout);
    Arc::new(Shared { pulse, roster: usual.roster.clone() })
}
