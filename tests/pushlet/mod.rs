//! The plugin `pushlet`: clients and back ends of Pushlet are pointed at this hub and change nothing, and nothing that was wrong there is
//! wrong here.

mod access;
mod faults;
mod golden;
mod nonsense;
mod resume;
mod scenario;

use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use crate::common::http::{fill, read_head};
use crate::common::raw_ws::{BINARY, PING, TEXT};
use crate::common::*;

/// As open as Pushlet was.
pub const OPEN: &str = "[[plugin]]\nuse = \"jwt-auth\"\n[[plugin]]\nuse = \"api-keys\"\n[[plugin]]\nuse = \"pushlet\"\n\
    [plugin.config]\ntopics = [\"*\"]\norigins = [\"*\"]\nopen = true\n";

pub fn open() -> TestHub {
    TestHub::plan().toml(OPEN).start()
}

/// The same, with more settings of the plugin.
pub fn open_with(settings: &str) -> TestHub {
    TestHub::plan().toml(&format!("{OPEN}{settings}")).start()
}

/// The text of a form's field or a query's.
pub fn escaped(text: &str) -> String {
    text.bytes().map(|byte| format!("%{byte:02X}")).collect()
}

/// Publishes as a back end of its README did.
pub async fn send(hub: &TestHub, topic: &str, event: &str, message: &str) {
    let path = format!("/send?topic={}&event={}&message={}", escaped(topic), escaped(event), escaped(message));
    let answer = hub.http_as(None).await.get(&path).await;
    assert_eq!((answer.status, answer.text()), (200, "Message sent"));
}

/// A WebSocket of Pushlet's: what it hears is binary.
pub struct Line(pub RawWs);

impl Line {
    pub async fn open(hub: &TestHub, query: &str) -> Line {
        let mut line = Line::begin(hub, query).await;
        let hello = line.hears().await;
        assert!(hello.contains("\"event\":\"connected\""), "{hello}");
        line
    }

    /// Before its first frame has been read.
    pub async fn begin(hub: &TestHub, query: &str) -> Line {
        Line(RawWs::at(hub.address, &format!("/pushlet/ws{query}")).await)
    }

    pub async fn says(&mut self, frame: impl AsRef<[u8]>) {
        self.0.send(BINARY, frame.as_ref()).await;
    }

    pub async fn says_text(&mut self, frame: &str) {
        self.0.send(TEXT, frame.as_bytes()).await;
    }

    /// The next frame that is no ping.
    pub async fn hears(&mut self) -> String {
        loop {
            let frame = self.0.next().await;
            if frame.opcode == PING {
                continue;
            }
            assert_eq!(frame.opcode, BINARY, "{frame:?}");
            return String::from_utf8(frame.payload).unwrap();
        }
    }

    #[track_caller]
    pub fn expects(&mut self, wanted: &str) -> impl Future<Output = ()> {
        let place = std::panic::Location::caller();
        async move { assert_eq!(self.hears().await, wanted, "{place}") }
    }

    /// Nothing else was on its way.
    pub async fn is_silent(&mut self) {
        self.says("PING").await;
        assert_eq!(self.hears().await, "OK");
    }
}

/// `topic {json}`, as its clients take it apart.
#[track_caller]
pub fn push(frame: &str) -> (String, Json) {
    let (topic, json) = frame.split_once(" {").unwrap_or_else(|| panic!("no push: {frame}"));
    (topic.to_owned(), serde_json::from_str(&format!("{{{json}")).unwrap())
}

/// An event stream, byte for byte: blocks up to their empty line.
pub struct Blocks {
    stream: TcpStream,
    raw: Vec<u8>,
    text: String,
    pub headers: Vec<(String, String)>,
}

impl Blocks {
    pub async fn open(hub: &TestHub, path: &str) -> Blocks {
        let mut stream = within(DEADLINE, "connect", TcpStream::connect(hub.address)).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nhost: {}\r\norigin: https://a.example\r\n\r\n", hub.address);
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut raw = Vec::new();
        let (status, headers) = within(DEADLINE, "a head", read_head(&mut stream, &mut raw)).await.unwrap();
        assert_eq!(status, 200);
        Blocks { stream, raw, text: String::new(), headers }
    }

    pub async fn next(&mut self) -> String {
        within(DEADLINE, "a block", async {
            loop {
                if let Some(at) = self.text.find("\n\n") {
                    return self.text.drain(..at + 2).collect();
                }
                self.read_chunk().await;
            }
        })
        .await
    }

    async fn read_chunk(&mut self) {
        loop {
            if let Some(end) = self.raw.windows(2).position(|two| two == b"\r\n") {
                let size = usize::from_str_radix(std::str::from_utf8(&self.raw[..end]).unwrap(), 16).unwrap();
                assert!(size > 0, "the stream has ended");
                if self.raw.len() >= end + 2 + size + 2 {
                    let chunk: Vec<u8> = self.raw.drain(..end + 2 + size + 2).collect();
                    self.text += std::str::from_utf8(&chunk[end + 2..end + 2 + size]).unwrap();
                    return;
                }
            }
            fill(&mut self.stream, &mut self.raw).await.unwrap();
        }
    }
}
