//! A WebSocket client that can break every rule: it writes the bytes it is given.

use std::net::SocketAddr;

use tokio::io::AsyncWriteExt;
use tokio::net::{TcpSocket, TcpStream};

use super::http::{fill, read_head};
use super::{DEADLINE, Json, within};

pub struct RawWs {
    pub stream: TcpStream,
    rest: Vec<u8>,
    /// The extensions that the hub has agreed to, as it said it.
    pub agreed: Option<String>,
}

/// A frame as the hub sent it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RawFrame {
    pub opcode: u8,
    pub compressed: bool,
    pub payload: Vec<u8>,
}

impl RawFrame {
    /// The message in it. Inflated by nothing but itself, and within the smallest window that anybody asks for.
    pub fn message(&self) -> String {
        let whole = if self.compressed { inflate(&self.payload) } else { self.payload.clone() };
        String::from_utf8(whole).unwrap()
    }
}

/// What a compressed message says.
pub fn inflate(payload: &[u8]) -> Vec<u8> {
    let mut whole = Vec::with_capacity(1 << 20);
    let mut state = flate2::Decompress::new_with_window_bits(false, 12);
    state.decompress_vec(payload, &mut whole, flate2::FlushDecompress::Sync).unwrap();
    assert_eq!(state.total_in(), payload.len() as u64, "all of it belongs to the message");
    whole
}

/// A message as a client compresses it.
pub fn deflate(text: &[u8]) -> Vec<u8> {
    let mut packed = Vec::with_capacity(text.len() + 1024);
    let mut state = flate2::Compress::new(flate2::Compression::default(), false);
    state.compress_vec(text, &mut packed, flate2::FlushCompress::Sync).unwrap();
    assert!(packed.ends_with(&[0, 0, 0xff, 0xff]));
    packed.truncate(packed.len() - 4);
    packed
}

pub const TEXT: u8 = 1;
pub const BINARY: u8 = 2;
pub const CLOSE: u8 = 8;
pub const PING: u8 = 9;
pub const PONG: u8 = 10;

impl RawWs {
    pub async fn connect(address: SocketAddr, token: &str) -> RawWs {
        RawWs::at(address, &format!("/ws?token={token}")).await
    }

    pub async fn at(address: SocketAddr, path: &str) -> RawWs {
        RawWs::offering(address, path, &[]).await
    }

    /// One that offers extensions, a header for each.
    pub async fn offering(address: SocketAddr, path: &str, offers: &[&str]) -> RawWs {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(4096).unwrap();
        let mut stream = within(DEADLINE, "connect", socket.connect(address)).await.unwrap();
        let offers: String = offers.iter().map(|offer| format!("sec-websocket-extensions: {offer}\r\n")).collect();
        let request = format!(
            "GET {path} HTTP/1.1\r\nhost: {address}\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\
             sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n{offers}\r\n"
        );
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut rest = Vec::new();
        let (status, headers) = within(DEADLINE, "upgrade", read_head(&mut stream, &mut rest)).await.unwrap();
        assert_eq!(status, 101);
        // RFC 6455, 1.3: the answer to this very key.
        let accept = headers.iter().find(|(name, _)| name == "sec-websocket-accept").map(|(_, value)| value.as_str());
        assert_eq!(accept, Some("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="));
        let agreed = headers.into_iter().find(|(name, _)| name == "sec-websocket-extensions").map(|(_, value)| value);
        RawWs { stream, rest, agreed }
    }

    pub async fn write(&mut self, bytes: &[u8]) {
        // The hub may have closed already; the test then reads how.
        let _ = within(DEADLINE, "write", self.stream.write_all(bytes)).await;
    }

    /// A good frame of one piece.
    pub async fn send(&mut self, opcode: u8, payload: &[u8]) {
        self.write(&frame(0x80 | opcode, payload)).await;
    }

    pub async fn try_next(&mut self) -> std::io::Result<RawFrame> {
        loop {
            if let Some((frame, length)) = parse(&self.rest) {
                self.rest.drain(..length);
                assert!(!frame.compressed || self.agreed.is_some(), "nobody has agreed to compressed messages");
                return Ok(frame);
            }
            fill(&mut self.stream, &mut self.rest).await?;
        }
    }

    pub async fn next(&mut self) -> RawFrame {
        within(DEADLINE, "a frame", self.try_next()).await.unwrap()
    }

    pub async fn next_json(&mut self) -> Json {
        let frame = self.next().await;
        assert_eq!(frame.opcode, TEXT, "{frame:?}");
        serde_json::from_str(&frame.message()).unwrap()
    }

    /// The connection has ended, with or without a word.
    pub async fn is_over(&mut self) -> bool {
        within(DEADLINE, "the end", async { while self.try_next().await.is_ok() {} }).await;
        true
    }

    /// The code of the close frame that comes next, and then nothing but the end.
    pub async fn close_code(&mut self) -> u16 {
        let frame = self.next().await;
        assert_eq!(frame.opcode, CLOSE, "{frame:?}");
        let code = u16::from_be_bytes([frame.payload[0], frame.payload[1]]);
        self.stream.shutdown().await.ok();
        assert!(within(DEADLINE, "the end", self.try_next()).await.is_err());
        code
    }
}

/// A masked frame. `first`: FIN, RSV and opcode as they are.
pub fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mask = [0x12, 0x34, 0x56, 0x78];
    let mut bytes = vec![first];
    match payload.len() {
        length @ 0..=125 => bytes.push(0x80 | length as u8),
        length @ 126..=0xffff => {
            bytes.push(0x80 | 126);
            bytes.extend_from_slice(&(length as u16).to_be_bytes());
        }
        length => {
            bytes.push(0x80 | 127);
            bytes.extend_from_slice(&(length as u64).to_be_bytes());
        }
    }
    bytes.extend_from_slice(&mask);
    bytes.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, key)| byte ^ key));
    bytes
}

fn parse(bytes: &[u8]) -> Option<(RawFrame, usize)> {
    let (first, second) = (*bytes.first()?, *bytes.get(1)?);
    assert_eq!(first & 0x30, 0, "no extension uses these bits");
    let compressed = first & 0x40 != 0;
    assert_eq!(first & 0x80, 0x80, "the hub sends whole frames");
    assert_eq!(second & 0x80, 0, "a server's frames are not masked");
    let (start, length) = match second & 0x7f {
        126 => (4, u16::from_be_bytes(bytes.get(2..4)?.try_into().unwrap()) as usize),
        127 => (10, u64::from_be_bytes(bytes.get(2..10)?.try_into().unwrap()) as usize),
        short => (2, short as usize),
    };
    let payload = bytes.get(start..start + length)?.to_vec();
    Some((RawFrame { opcode: first & 0x0f, compressed, payload }, start + length))
}
