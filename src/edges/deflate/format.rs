//! A WebSocket's format with its larger messages compressed: made when a publication is encoded, for all who share the bytes.

use std::cell::RefCell;
use std::io::Cursor;
use std::sync::Arc;

use tungstenite::protocol::frame::FrameHeader;
use tungstenite::protocol::frame::coding::OpCode;

use super::{Tally, codec};
use crate::edges::ws;
use crate::kernel::format::{Format, Notice};
use crate::kernel::message::{ChannelName, Epoch, Position, Publication};

/// What a thread's scratch space keeps between two messages.
const KEPT: usize = 64 * 1024;

thread_local! {
    /// The frames as they are without this, and one payload compressed.
    static SCRATCH: RefCell<(Vec<u8>, Vec<u8>)> = RefCell::default();
}

pub struct Deflated {
    pub plain: Arc<dyn Format>,
    pub from: usize,
    pub tally: Arc<Tally>,
}

impl Format for Deflated {
    fn publication(&self, channel: &ChannelName, epoch: Epoch, publication: &Publication, out: &mut Vec<u8>) {
        SCRATCH.with_borrow_mut(|(frames, packed)| {
            frames.clear();
            self.plain.publication(channel, epoch, publication, frames);
            self.put(frames, packed, out);
            frames.shrink_to(KEPT);
            packed.shrink_to(KEPT);
        });
    }

    /// Compressing for one reader would make its replay dear to the hub, which is where thousands may come at once.
    fn alone(&self, channel: &ChannelName, epoch: Epoch, publication: &Publication, out: &mut Vec<u8>) {
        self.plain.publication(channel, epoch, publication, out);
    }

    fn notice(&self, channel: &ChannelName, at: Position, notice: &Notice, out: &mut Vec<u8>) {
        self.plain.notice(channel, at, notice, out);
    }
}

impl Deflated {
    /// Copies whole frames, and compresses the messages that gain by it.
    fn put(&self, frames: &[u8], packed: &mut Vec<u8>, out: &mut Vec<u8>) {
        let mut rest = frames;
        while !rest.is_empty() {
            let mut cursor = Cursor::new(rest);
            let Ok(Some((header, length))) = FrameHeader::parse(&mut cursor) else {
                debug_assert!(false, "a format of a WebSocket makes whole frames");
                return out.extend_from_slice(rest);
            };
            let start = cursor.position() as usize;
            let (frame, after) = rest.split_at(start + length as usize);
            let payload = &frame[start..];
            match header.opcode {
                OpCode::Data(_) if payload.len() >= self.from && codec::deflate(payload, packed) => {
                    let first = out.len();
                    ws::put_frame(header.opcode, packed, out);
                    out[first] |= ws::RSV1;
                    self.tally.messages.add(1);
                    self.tally.plain.add(payload.len() as u64);
                    self.tally.packed.add(packed.len() as u64);
                }
                _ => out.extend_from_slice(frame),
            }
            rest = after;
        }
    }
}
