//! Whom the load goes to: how one subscribes there, how one publishes, and what a yes looks like.
//!
//! The hub is one, the floors are others, and `benches/peers` has more: all meet the same generator.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::bail;
use clap::ValueEnum;
use memchr::memmem;

use super::account::Account;

/// How a subscriber is connected.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum Transport {
    Ws,
    /// WebSocket with permessage-deflate; messages are counted, but not looked into
    WsDeflate,
    Sse,
}

impl Transport {
    pub fn name(self) -> &'static str {
        match self {
            Transport::Ws => "WebSocket",
            Transport::WsDeflate => "compressed WebSocket",
            Transport::Sse => "SSE",
        }
    }
}

pub trait Target: Sync {
    fn name(&self) -> String;
    /// What a yes to a publisher promises here.
    fn durability(&self) -> String;
    fn subscribers_at(&self) -> SocketAddr;
    fn publishers_at(&self) -> SocketAddr {
        self.subscribers_at()
    }
    fn account(&self) -> &Account;
    /// The name of the nth channel of a run that nobody has used before.
    fn channel(&self, run: u64, number: usize) -> String;
    /// What a subscriber says.
    fn subscribe(&self, transport: Transport, channel: &str) -> Vec<Step>;
    /// What a publisher says before its first message.
    fn greet(&self) -> Vec<Step> {
        Vec::new()
    }
    /// Appends the request that publishes all these.
    fn publish(&self, channel: &str, payloads: &[String], request: &mut Vec<u8>);
    /// Looks at an answer to that.
    fn answer(&self, bytes: &[u8]) -> Answer {
        http_answer(bytes)
    }
    /// How many messages of a channel it has numbered, if it can tell.
    fn numbered(&self, _channel: &str) -> anyhow::Result<Option<u64>> {
        Ok(None)
    }
}

/// Something to say, and what ends the answer to it.
pub struct Step {
    pub say: Vec<u8>,
    pub until: &'static [u8],
}

impl Step {
    pub fn new(say: impl Into<Vec<u8>>, until: &'static [u8]) -> Step {
        Step { say: say.into(), until }
    }

    /// Whether `heard` has the whole answer, which is then taken from it. What follows stays.
    pub fn take(&self, heard: &mut Vec<u8>) -> anyhow::Result<bool> {
        let text = || String::from_utf8_lossy(heard).into_owned();
        let no = heard.starts_with(b"HTTP/1.1 ") && !matches!(heard.get(9), None | Some(b'1' | b'2'));
        if (no && find(heard, b"\r\n\r\n").is_some()) || find(heard, b"\"type\":\"error\"").is_some() {
            bail!("a subscriber is refused: {}", text());
        }
        if heard.len() > LONGEST_ANSWER {
            bail!("a subscriber gets an answer that makes no sense: {}", text().chars().take(200).collect::<String>());
        }
        let Some(end) = find(heard, self.until) else { return Ok(false) };
        heard.drain(..end + self.until.len());
        Ok(true)
    }
}

const LONGEST_ANSWER: usize = 64 * 1024;

pub enum Answer {
    /// There is more to come.
    More,
    Yes,
    No,
}

/// An answer whose length is told.
pub fn http_answer(bytes: &[u8]) -> Answer {
    let Some(end) = find(bytes, b"\r\n\r\n") else { return Answer::More };
    let head = String::from_utf8_lossy(&bytes[..end]).to_ascii_lowercase();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length:")?.trim().parse().ok());
    if bytes.len() < end + 4 + length.unwrap_or(0) {
        return Answer::More;
    }
    if bytes.starts_with(b"HTTP/1.1 2") { Answer::Yes } else { Answer::No }
}

/// The same with compression, which the target need not grant.
pub fn upgrade_deflate(path: &str) -> String {
    let plain = upgrade(path);
    format!("{}\r\nSec-WebSocket-Extensions: permessage-deflate\r\n\r\n", plain.trim_end())
}

/// The request that makes a WebSocket of a connection.
pub fn upgrade(path: &str) -> String {
    format!(
        "GET {path} HTTP/1.1\r\nHost: bench\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
}

/// A frame of a client. Masked with zeros: the mask is for proxies, not for us.
pub fn frame(opcode: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0x80 | opcode];
    match payload.len() {
        short @ 0..=125 => bytes.push(0x80 | short as u8),
        long => {
            bytes.push(0x80 | 126);
            bytes.extend_from_slice(&(long.min(0xffff) as u16).to_be_bytes());
        }
    }
    bytes.extend_from_slice(&[0; 4]);
    bytes.extend_from_slice(payload);
    bytes
}

pub const TEXT: u8 = 1;
pub const BINARY: u8 = 2;
pub const PONG: u8 = 10;

/// Who reads a WebSocket for longer without saying anything says that it is there: a hub closes those that never answer.
pub const SIGN_OF_LIFE: Duration = Duration::from_secs(20);

pub fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    memmem::find(bytes, what)
}
