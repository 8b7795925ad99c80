//! An event stream as the WHATWG reads one (HTML, 9.2.6), so that what it sees is what an `EventSource` sees.

use std::collections::VecDeque;
use std::net::SocketAddr;

use tokio::io::AsyncWriteExt;
use tokio::net::{TcpSocket, TcpStream};

use super::http::{fill, read_head};
use super::{DEADLINE, Json, Response, Seen, within};

pub struct SseClient {
    stream: TcpStream,
    /// Bytes that are not yet a whole chunk.
    rest: Vec<u8>,
    parser: Parser,
    /// The id of the last event that was handed out; more may have been parsed.
    last_id: Option<String>,
    pub headers: Vec<(String, String)>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Event {
    pub name: String,
    pub data: String,
    /// The last event id when the event was dispatched.
    pub id: String,
}

impl Event {
    #[track_caller]
    pub fn json(&self) -> Json {
        serde_json::from_str(&self.data).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

impl SseClient {
    pub async fn open(address: SocketAddr, path: &str, last_event_id: Option<&str>) -> Result<SseClient, Response> {
        let cursor = last_event_id.map(|id| ("last-event-id", id));
        SseClient::open_with(address, path, cursor.as_slice(), None).await
    }

    pub async fn open_with(
        address: SocketAddr,
        path: &str,
        headers: &[(&str, &str)],
        receive_buffer: Option<u32>,
    ) -> Result<SseClient, Response> {
        let socket = TcpSocket::new_v4().unwrap();
        if let Some(bytes) = receive_buffer {
            socket.set_recv_buffer_size(bytes).unwrap();
        }
        let mut stream = within(DEADLINE, "connect", socket.connect(address)).await.unwrap();
        let mut request = format!("GET {path} HTTP/1.1\r\nhost: {address}\r\naccept: text/event-stream\r\n");
        for (name, value) in headers {
            request += &format!("{name}: {value}\r\n");
        }
        stream.write_all((request + "\r\n").as_bytes()).await.unwrap();
        let mut rest = Vec::new();
        let (status, headers) = within(DEADLINE, "an answer", read_head(&mut stream, &mut rest)).await.unwrap();
        let mut answer = Response { status, headers, body: Vec::new() };
        if status != 200 {
            let length = answer.header("content-length").map_or(0, |text| text.parse().unwrap());
            while rest.len() < length {
                within(DEADLINE, "a body", fill(&mut stream, &mut rest)).await.unwrap();
            }
            answer.body = rest;
            return Err(answer);
        }
        assert_eq!(answer.header("content-type"), Some("text/event-stream"));
        assert_eq!(answer.header("transfer-encoding"), Some("chunked"));
        Ok(SseClient { stream, rest, parser: Parser::default(), last_id: None, headers: answer.headers })
    }

    /// The next event; `None` when the stream has ended.
    pub async fn next(&mut self) -> Option<Event> {
        within(DEADLINE, "an event", async {
            loop {
                if let Some(event) = self.parser.events.pop_front() {
                    self.last_id = Some(event.id.clone());
                    return Some(event);
                }
                if !self.read_chunk().await {
                    return None;
                }
            }
        })
        .await
    }

    pub async fn expect(&mut self, name: &str) -> Event {
        let event = self.next().await.unwrap_or_else(|| panic!("the stream has ended instead of {name}"));
        assert_eq!(event.name, name, "{event:?}");
        event
    }

    /// Waits for a comment line; how many there have been.
    pub async fn next_comment(&mut self) -> usize {
        let before = self.parser.comments;
        within(DEADLINE, "a comment", async {
            while self.parser.comments == before {
                assert!(self.read_chunk().await, "the stream has ended");
            }
        })
        .await;
        self.parser.comments
    }

    /// What an `EventSource` sends when it comes back.
    pub fn last_event_id(&self) -> String {
        self.last_id.clone().expect("there has been an event")
    }

    pub fn retry(&self) -> Option<u64> {
        self.parser.retry
    }

    /// Reads messages of one channel until `last` has come, with gaps in their place.
    pub async fn read_to(&mut self, channel: &str, last: u64) -> Seen {
        let mut seen = Seen::default();
        while seen.last() < last {
            let event = self.next().await.unwrap_or_else(|| panic!("the stream has ended after {}", seen.last()));
            let frame = event.json();
            match frame["type"].as_str() {
                Some("message") if frame["channel"] == *channel => {
                    seen.messages.push((frame["seq_id"].as_u64().unwrap(), frame["payload"].to_string()));
                }
                Some("gap") => seen.gaps.push(frame),
                Some("live" | "subscribed") => {}
                _ => panic!("{event:?}"),
            }
        }
        seen
    }

    /// Reads one chunk of the transfer coding; false at the end.
    async fn read_chunk(&mut self) -> bool {
        loop {
            if let Some(line_end) = self.rest.windows(2).position(|two| two == b"\r\n") {
                let size = std::str::from_utf8(&self.rest[..line_end]).unwrap();
                let size = usize::from_str_radix(size, 16).unwrap();
                let begin = line_end + 2;
                if self.rest.len() >= begin + size + 2 {
                    assert_eq!(&self.rest[begin + size..begin + size + 2], b"\r\n");
                    let chunk: Vec<u8> = self.rest.drain(..begin + size + 2).collect();
                    self.parser.push(&chunk[begin..begin + size]);
                    return size > 0;
                }
            }
            if fill(&mut self.stream, &mut self.rest).await.is_err() {
                return false;
            }
        }
    }
}

/// The standard's own steps, word for word.
#[derive(Default)]
struct Parser {
    begun: bool,
    /// A CR was the last byte: an LF that follows belongs to it.
    after_cr: bool,
    line: Vec<u8>,
    data: String,
    event: String,
    id: String,
    last_id: String,
    retry: Option<u64>,
    comments: usize,
    events: VecDeque<Event>,
}

impl Parser {
    fn push(&mut self, bytes: &[u8]) {
        for byte in bytes {
            match byte {
                b'\n' if self.after_cr => self.after_cr = false,
                b'\n' | b'\r' => {
                    self.after_cr = *byte == b'\r';
                    let line = std::mem::take(&mut self.line);
                    self.line(String::from_utf8(line).expect("an event stream is UTF-8"));
                }
                _ => {
                    self.after_cr = false;
                    self.line.push(*byte);
                }
            }
        }
    }

    fn line(&mut self, line: String) {
        let line = if self.begun { line.as_str() } else { line.trim_start_matches('\u{feff}') };
        self.begun = true;
        if line.is_empty() {
            return self.dispatch();
        }
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "" => self.comments += 1,
            "event" => self.event = value.to_owned(),
            "data" => {
                self.data.push_str(value);
                self.data.push('\n');
            }
            "id" if !value.contains('\0') => self.id = value.to_owned(),
            "retry" if !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit()) => {
                self.retry = value.parse().ok();
            }
            _ => {}
        }
    }

    fn dispatch(&mut self) {
        self.last_id.clone_from(&self.id);
        let name = std::mem::take(&mut self.event);
        let mut data = std::mem::take(&mut self.data);
        if data.pop().is_none() {
            return;
        }
        let name = if name.is_empty() { "message".to_owned() } else { name };
        self.events.push_back(Event { name, data, id: self.last_id.clone() });
    }
}
