//! How a dialect's words lie on a WebSocket and in an event stream.

use std::sync::Arc;

use parking_lot::Mutex;
use tungstenite::protocol::frame::coding::{Data, OpCode};

use crate::edges::frames::SseFormat;
use crate::edges::wire::Fault;
use crate::edges::{cursor, ws};
use crate::kernel::dialect::{Event, Speech, Tongue, Transport, Way};
use crate::kernel::format::{Format, Gap, GapCause, Notice};
use crate::kernel::message::{ChannelName, Epoch, Position, Publication};

/// One of each, so that all its readers share its bytes. There are as many as dialects and their styles.
#[derive(Default)]
pub struct Formats {
    known: Mutex<Vec<Arc<ForeignFormat>>>,
    /// A seat for each connection of a dialect, given back when the last copy is dropped.
    seats: Mutex<Vec<(&'static str, Arc<()>)>>,
}

impl Formats {
    pub fn of(&self, tongue: &Arc<dyn Tongue>, way: Way, sealed: bool) -> Arc<dyn Format> {
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
    pub fn seat(&self, dialect: &'static str, max: Option<usize>) -> Result<Arc<()>, Fault> {
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

pub fn put_place<'a>(positions: impl Iterator<Item = (&'a ChannelName, Position)>, out: &mut Vec<u8>) {
    out.extend_from_slice(b"id: ");
    cursor::write(positions, out);
    out.extend_from_slice(b"\n\n");
}

pub fn put(transport: Transport, speech: Option<Speech>, out: &mut Vec<u8>) {
    let Some(speech) = speech else { return };
    match transport {
        Transport::WebSocket => {
            let kind = if speech.binary { Data::Binary } else { Data::Text };
            ws::put_frame(OpCode::Data(kind), &speech.bytes, out);
        }
        Transport::EventStream => out.extend_from_slice(&speech.bytes),
    }
}
