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
        // Taken out while it is in use: whatever breaks in between, nothing of it comes before what others are told.
        let (mut frames, mut packed) = SCRATCH.take();
        self.plain.publication(channel, epoch, publication, &mut frames);
        self.put(&frames, &mut packed, out);
        for scratch in [&mut frames, &mut packed] {
            scratch.clear();
            scratch.shrink_to(KEPT);
        }
        SCRATCH.set((frames, packed));
    }

    /// Compressing for one reader alone would cost several times what reading it does, and replays come by the thousand.
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

#[cfg(test)]
mod tests {
    use tungstenite::protocol::frame::coding::Data;

    use super::*;
    use crate::edges::frames::WsFormat;

    #[test]
    fn each_message_gains_by_itself_and_what_does_not_is_left_as_it_lay() {
        let deflated = Deflated { plain: Arc::new(WsFormat), from: 50, tally: Arc::default() };
        let large = "the same again, ".repeat(5000);
        let mut frames = Vec::new();
        ws::put_text(b"short", &mut frames);
        ws::put_text(large.as_bytes(), &mut frames);
        ws::put_frame(OpCode::Data(Data::Binary), &[7; 50], &mut frames);
        ws::put_frame(OpCode::Data(Data::Binary), &[7; 49], &mut frames);
        ws::put_close(1011, "the same again, the same again, the same again, the same again", &mut frames);
        let (mut packed, mut out) = (Vec::new(), b"before".to_vec());
        deflated.put(&frames, &mut packed, &mut out);

        let mut rest = out.strip_prefix(b"before").unwrap();
        let mut seen = Vec::new();
        while !rest.is_empty() {
            let mut cursor = Cursor::new(rest);
            let (header, length) = FrameHeader::parse(&mut cursor).unwrap().unwrap();
            let (frame, after) = rest.split_at(cursor.position() as usize + length as usize);
            let payload = frame[cursor.position() as usize..].to_vec();
            let whole = if header.rsv1 { codec::inflate(payload, large.len()).unwrap() } else { payload };
            seen.push((u8::from(header.opcode), header.rsv1, header.is_final, whole.len()));
            rest = after;
        }
        let expected = [
            (1, false, true, 5),
            (1, true, true, large.len()),
            (2, true, true, 50),
            (2, false, true, 49),
            (8, false, true, 64),
        ];
        assert_eq!(seen, expected);
        let Tally { messages, plain, packed } = &*deflated.tally;
        assert_eq!((messages.get(), plain.get()), (2, large.len() as u64 + 50));
        assert!(packed.get() < 1000);
    }
}
