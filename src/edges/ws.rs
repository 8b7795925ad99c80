//! WebSocket (RFC 6455): its handshake's answer, its frames, and the socket beneath the connection loop.
//!
//! The socket is the bare stream, taken from hyper after the upgrade: an idle connection keeps no buffer. A server's
//! frames are not masked, so an encoded frame is the same bytes for every subscriber and goes out as it lies in the tail.

use std::cell::RefCell;
use std::io::{self, Cursor};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use tokio::io::{AsyncWriteExt, ReadBuf};
use tokio::time::Instant;
use tungstenite::protocol::frame::FrameHeader;
use tungstenite::protocol::frame::coding::{CloseCode, Control, Data, OpCode};

use super::deadline::TryWrite;
use super::deflate;
use super::door::Permit;
use super::line::{Frame, Socket};
use super::wire::Ending;
use super::words::Words;

thread_local! {
    static READ: RefCell<Vec<u8>> = RefCell::new(vec![0; 16 * 1024]);
}

/// Of a frame's first byte: the message is compressed.
pub const RSV1: u8 = 0x40;

/// Appends a frame's header for a payload of `length` bytes.
pub fn put_header(opcode: OpCode, length: usize, out: &mut Vec<u8>) {
    out.push(0x80 | u8::from(opcode));
    match length {
        0..=125 => out.push(length as u8),
        126..=0xffff => {
            out.push(126);
            out.extend_from_slice(&(length as u16).to_be_bytes());
        }
        _ => {
            out.push(127);
            out.extend_from_slice(&(length as u64).to_be_bytes());
        }
    }
}

pub fn put_frame(opcode: OpCode, payload: &[u8], out: &mut Vec<u8>) {
    put_header(opcode, payload.len(), out);
    out.extend_from_slice(payload);
}

pub fn put_text(payload: &[u8], out: &mut Vec<u8>) {
    put_frame(OpCode::Data(Data::Text), payload, out);
}

pub fn put_close(code: u16, reason: &str, out: &mut Vec<u8>) {
    let mut payload = code.to_be_bytes().to_vec();
    payload.extend_from_slice(reason.as_bytes());
    put_frame(OpCode::Control(Control::Close), &payload, out);
}

/// Takes frames out of a client's bytes, whatever the pieces they arrive in.
pub struct Parser {
    max: usize,
    /// Whether messages may come compressed.
    deflates: bool,
    /// What has been pushed, and how much of it has been taken.
    inbox: Vec<u8>,
    taken: usize,
    message: Option<Fragments>,
}

/// What has come so far of a message.
struct Fragments {
    kind: Data,
    compressed: bool,
    payload: Vec<u8>,
}

impl Parser {
    /// `max`: the largest message that is taken. `deflates`: compressed ones too.
    pub fn new(max: usize, deflates: bool) -> Self {
        Parser { max, deflates, inbox: Vec::new(), taken: 0, message: None }
    }

    pub fn push(&mut self, bytes: &[u8]) {
        self.inbox.drain(..std::mem::take(&mut self.taken));
        self.inbox.extend_from_slice(bytes);
    }

    /// The next whole message or control frame; none if more bytes are needed.
    pub fn take(&mut self) -> Result<Option<Frame>, Ending> {
        while let Some((header, payload)) = self.next_frame()? {
            let frame = match header.opcode {
                OpCode::Control(control) => Some(self.control(control, payload)?),
                OpCode::Data(data) => self.data(data, &header, payload)?,
            };
            if frame.is_some() {
                return Ok(frame);
            }
        }
        Ok(None)
    }

    fn next_frame(&mut self) -> Result<Option<(FrameHeader, Vec<u8>)>, Ending> {
        let inbox = &self.inbox[self.taken..];
        let mut cursor = Cursor::new(inbox);
        let parsed = FrameHeader::parse(&mut cursor).map_err(|_| Ending::Protocol("invalid frame header"))?;
        let Some((header, length)) = parsed else { return Ok(None) };
        let start = cursor.position() as usize;
        let is_control = matches!(header.opcode, OpCode::Control(_));
        let begins = matches!(header.opcode, OpCode::Data(Data::Text | Data::Binary));
        if header.rsv2 || header.rsv3 || (header.rsv1 && !(self.deflates && begins)) {
            return Err(Ending::Protocol("reserved bits are set and no extension was agreed that sets them here"));
        }
        let shortest = match length {
            0..=125 => 2,
            126..=0xffff => 4,
            _ => 10,
        };
        if start > shortest + 4 {
            return Err(Ending::Protocol("a length is written with as few bytes as it needs"));
        }
        if is_control && (length > 125 || !header.is_final) {
            return Err(Ending::Protocol("a control frame is whole and has at most 125 bytes"));
        }
        let Some(mask) = header.mask else {
            return Err(Ending::Protocol("a client's frames are masked"));
        };
        let (so_far, compressed) = self.message.as_ref().map_or((0, header.rsv1), |m| (m.payload.len(), m.compressed));
        // Noise grows a little when it is compressed; what it inflates to has the true bound.
        let max = if compressed { self.max + self.max / 16 + 64 } else { self.max };
        if !is_control && length.saturating_add(so_far as u64) > max as u64 {
            return Err(Ending::TooLarge);
        }
        let end = start + length as usize;
        if inbox.len() < end {
            return Ok(None);
        }
        let mut payload = inbox[start..end].to_vec();
        for (byte, key) in payload.iter_mut().zip(mask.iter().cycle()) {
            *byte ^= key;
        }
        self.taken += end;
        if self.taken == self.inbox.len() {
            (self.inbox, self.taken) = (Vec::new(), 0);
        }
        Ok(Some((header, payload)))
    }

    fn control(&mut self, control: Control, payload: Vec<u8>) -> Result<Frame, Ending> {
        match control {
            Control::Ping => Ok(Frame::Ping(payload.into())),
            Control::Pong => Ok(Frame::Pong),
            Control::Close => Err(close_of(&payload)),
            Control::Reserved(_) => Err(Ending::Protocol("unknown control frame")),
        }
    }

    fn data(&mut self, data: Data, header: &FrameHeader, payload: Vec<u8>) -> Result<Option<Frame>, Ending> {
        let message = match (data, self.message.take()) {
            (Data::Reserved(_), _) => return Err(Ending::Protocol("unknown data frame")),
            (Data::Continue, None) => return Err(Ending::Protocol("a continuation of nothing")),
            (Data::Continue, Some(mut begun)) => {
                begun.payload.extend_from_slice(&payload);
                begun
            }
            (_, Some(_)) => return Err(Ending::Protocol("a new message inside another")),
            (kind, None) => Fragments { kind, compressed: header.rsv1, payload },
        };
        if !header.is_final {
            self.message = Some(message);
            return Ok(None);
        }
        let Fragments { kind, compressed, payload } = message;
        let whole = Bytes::from(if compressed { deflate::inflate(payload, self.max)? } else { payload });
        match kind {
            Data::Text if std::str::from_utf8(&whole).is_err() => Err(Ending::Utf8),
            Data::Text => Ok(Some(Frame::Text(whole))),
            _ => Ok(Some(Frame::Binary(whole))),
        }
    }
}

/// What a client's close frame means.
fn close_of(payload: &[u8]) -> Ending {
    let Some((code, reason)) = payload.split_first_chunk::<2>() else {
        let goodbye = Ending::Closed { code: 1000, reason: Words::new("") };
        return if payload.is_empty() { goodbye } else { Ending::Protocol("half a close code") };
    };
    let code = u16::from_be_bytes(*code);
    if !CloseCode::from(code).is_allowed() {
        return Ending::Protocol("invalid close code");
    }
    match std::str::from_utf8(reason) {
        Ok(reason) => Ending::Closed { code, reason: Words::new(reason) },
        Err(_) => Ending::Utf8,
    }
}

pub struct WsSocket<S> {
    stream: S,
    parser: Parser,
    _permit: Option<Arc<Permit>>,
}

impl<S> WsSocket<S> {
    /// `early`: bytes that came with the handshake.
    pub fn new(stream: S, permit: Option<Arc<Permit>>, mut parser: Parser, early: &[u8]) -> Self {
        parser.push(early);
        WsSocket { stream, parser, _permit: permit }
    }
}

impl<S: TryWrite> Socket for WsSocket<S> {
    fn try_write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.stream.try_write(bytes)
    }

    fn room(&self) -> usize {
        64 * 1024
    }

    fn has_unsent(&self) -> bool {
        self.stream.has_unsent()
    }

    fn poll_writable(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream.poll_writable(cx)
    }

    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Result<Frame, Ending>> {
        loop {
            if let Some(frame) = self.parser.take().transpose() {
                return Poll::Ready(frame);
            }
            let read = READ.with_borrow_mut(|buffer| {
                let mut buffer = ReadBuf::new(buffer);
                ready!(Pin::new(&mut self.stream).poll_read(cx, &mut buffer))?;
                self.parser.push(buffer.filled());
                Poll::Ready(Ok::<_, io::Error>(buffer.filled().len()))
            });
            match ready!(read) {
                Ok(0) | Err(_) => return Poll::Ready(Err(Ending::Gone)),
                Ok(_) => {}
            }
        }
    }

    /// Waits for the client to close as well: closing with unread bytes would reset the connection and could take our last
    /// words with it.
    async fn finish(&mut self, deadline: Instant) {
        let _ = tokio::time::timeout_at(deadline, self.stream.shutdown()).await;
        let gone = std::future::poll_fn(|cx| {
            loop {
                match ready!(self.poll_frame(cx)) {
                    Err(Ending::Gone) => return Poll::Ready(()),
                    Err(_) => self.parser = Parser::new(0, false),
                    Ok(_) => {}
                }
            }
        });
        let _ = tokio::time::timeout_at(deadline, gone).await;
    }
}
