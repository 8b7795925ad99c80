//! A WebSocket client by a library that is not the hub's own parser.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use futures_util::{SinkExt, StreamExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::error::Error;

use super::{DEADLINE, Json, Seen, json, within};

pub struct WsClient {
    socket: WebSocketStream<TcpStream>,
    /// What has been taken from the socket and belongs to another wait.
    aside: Vec<Json>,
}

/// How a connection ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum End {
    /// With a close frame.
    Closed(u16, String),
    /// Without one.
    Broken,
}

impl WsClient {
    /// Comes back, as clients do, while the rules have no time: on a machine that is slow they are taken for slow ones.
    pub async fn connect(address: SocketAddr, token: Option<&str>) -> WsClient {
        let query = token.map_or(String::new(), |token| format!("?token={token}"));
        let deadline = Instant::now() + DEADLINE;
        loop {
            match WsClient::open(address, &format!("/ws{query}"), &[], None).await {
                Ok(client) => return client,
                Err(Error::Http(refused)) if refused.status() == 429 && Instant::now() < deadline => {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
                Err(error) => panic!("the upgrade was refused: {error}"),
            }
        }
    }

    /// One that takes in little while it is not read, so that it is stuck soon.
    pub async fn narrow(address: SocketAddr, token: &str) -> WsClient {
        let opened = WsClient::open(address, &format!("/ws?token={token}"), &[], Some(4096)).await;
        opened.unwrap_or_else(|error| panic!("the upgrade was refused: {error}"))
    }

    pub async fn open(
        address: SocketAddr,
        path: &str,
        headers: &[(&'static str, &str)],
        receive_buffer: Option<u32>,
    ) -> Result<WsClient, Error> {
        let mut request = format!("ws://{address}{path}").into_client_request()?;
        for (name, value) in headers {
            request.headers_mut().insert(*name, value.parse().unwrap());
        }
        let socket = TcpSocket::new_v4()?;
        if let Some(bytes) = receive_buffer {
            socket.set_recv_buffer_size(bytes)?;
        }
        let stream = within(DEADLINE, "connect", socket.connect(address)).await?;
        stream.set_nodelay(true)?;
        let upgrade = tokio_tungstenite::client_async(request, stream);
        let (socket, _) = within(DEADLINE, "upgrade", upgrade).await?;
        Ok(WsClient { socket, aside: Vec::new() })
    }

    /// The status of a refused upgrade.
    pub async fn refusal(address: SocketAddr, path: &str, headers: &[(&'static str, &str)]) -> (u16, Json) {
        match WsClient::open(address, path, headers, None).await {
            Err(Error::Http(response)) => {
                let body = response.body().as_deref().unwrap_or_default();
                (response.status().as_u16(), serde_json::from_slice(body).unwrap_or(Json::Null))
            }
            Err(error) => panic!("{error}"),
            Ok(_) => panic!("it was let in"),
        }
    }

    pub async fn send(&mut self, frame: Json) {
        self.send_text(&frame.to_string()).await;
    }

    pub async fn send_text(&mut self, text: &str) {
        self.send_message(Message::text(text)).await;
    }

    /// The same text again and again, on its way before any of it can have been read.
    pub async fn send_at_once(&mut self, text: &str, times: usize) {
        for _ in 0..times {
            within(DEADLINE, "send", self.socket.feed(Message::text(text))).await.unwrap();
        }
        within(DEADLINE, "send", self.socket.flush()).await.unwrap();
    }

    pub async fn send_message(&mut self, message: Message) {
        within(DEADLINE, "send", self.socket.send(message)).await.unwrap();
    }

    /// The same, where the hub may cut it off.
    pub async fn try_send_message(&mut self, message: Message) -> Result<(), Error> {
        self.socket.send(message).await
    }

    /// The next JSON frame, or the end.
    pub async fn next(&mut self) -> Result<Json, End> {
        if !self.aside.is_empty() {
            return Ok(self.aside.remove(0));
        }
        self.take().await
    }

    async fn take(&mut self) -> Result<Json, End> {
        match self.spoken().await {
            Some(Ok(Message::Text(text))) => {
                assert!(text.ends_with('\n'), "a frame ends in a newline: {text:?}");
                Ok(serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}")))
            }
            Some(Ok(Message::Close(Some(frame)))) => Err(End::Closed(frame.code.into(), frame.reason.to_string())),
            Some(Ok(Message::Binary(bytes))) => panic!("a binary frame of {} bytes", bytes.len()),
            None | Some(_) => Err(End::Broken),
        }
    }

    /// The next that is neither ping nor pong: those do not put the deadline off.
    async fn spoken(&mut self) -> Option<Result<Message, Error>> {
        let frame = async {
            loop {
                match self.socket.next().await {
                    Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
                    frame => return frame,
                }
            }
        };
        within(DEADLINE, "a frame", frame).await
    }

    /// The text of the next message frame, byte for byte.
    pub async fn next_text(&mut self) -> String {
        match self.spoken().await {
            Some(Ok(Message::Text(text))) => text.to_string(),
            other => panic!("{other:?}"),
        }
    }

    /// The next text frame of whatever dialect, or the end.
    pub async fn hear(&mut self) -> Result<String, End> {
        match self.spoken().await {
            Some(Ok(Message::Text(text))) => Ok(text.to_string()),
            Some(Ok(Message::Close(Some(frame)))) => Err(End::Closed(frame.code.into(), frame.reason.to_string())),
            Some(Ok(other)) => Ok(format!("{other:?}")),
            None | Some(Err(_)) => Err(End::Broken),
        }
    }

    /// The next text frame is this one.
    #[track_caller]
    pub fn hears(&mut self, expected: &str) -> impl Future<Output = ()> {
        let (place, expected) = (std::panic::Location::caller(), expected.to_owned());
        async move { assert_eq!(self.hear().await, Ok(expected), "{place}") }
    }

    /// The next frame of a type; others of the type `message`, `live` or `gap` wait for their turn.
    #[track_caller]
    pub fn expect(&mut self, kind: &str) -> impl Future<Output = Json> {
        let place = std::panic::Location::caller();
        async move {
            if let Some(at) = self.aside.iter().position(|frame| frame["type"] == *kind) {
                return self.aside.remove(at);
            }
            loop {
                let frame = match self.take().await {
                    Ok(frame) => frame,
                    Err(end) => panic!("{place}: {end:?} instead of {kind}"),
                };
                match frame["type"].as_str() {
                    Some(found) if found == kind => return frame,
                    Some("message" | "live" | "gap") => self.aside.push(frame),
                    _ => panic!("{place}: {frame} instead of {kind}"),
                }
            }
        }
    }

    pub async fn subscribe(&mut self, channels: &[&str]) -> Json {
        self.send(json!({"type": "subscribe", "channels": channels})).await;
        let answer = self.expect("subscribed").await;
        assert_eq!(answer["channels"], json!(channels));
        answer
    }

    pub async fn resume(&mut self, channel: &str, after: u64) -> Json {
        self.send(json!({"type": "subscribe", "channels": [channel], "after_seq": {channel: after}})).await;
        self.expect("subscribed").await
    }

    /// Reads messages of one channel until `last` has come, with gaps in their place.
    pub async fn read_to(&mut self, channel: &str, last: u64) -> Seen {
        let mut seen = Seen::default();
        while seen.last() < last {
            let frame = match self.next().await {
                Ok(frame) => frame,
                Err(end) => panic!("{end:?} after {} of {last} ({} messages)", seen.last(), seen.messages.len()),
            };
            take_in(&mut seen, channel, &frame);
        }
        seen
    }

    /// Reads everything to the end of the connection.
    pub async fn read_to_end(&mut self, channel: &str) -> (Seen, Vec<Json>, End) {
        let (mut seen, mut others) = (Seen::default(), Vec::new());
        loop {
            match self.next().await {
                Ok(frame) if frame["channel"] == *channel => take_in(&mut seen, channel, &frame),
                Ok(frame) => others.push(frame),
                Err(end) => return (seen, others, end),
            }
        }
    }

    /// Nothing is on its way: the answer to a ping is the next frame.
    pub async fn assert_silent(&mut self) {
        self.send(json!({"type": "ping", "id": "silent?"})).await;
        let next = self.next().await.expect("the connection lives");
        assert_eq!(next, json!({"type": "pong", "id": "silent?"}));
    }

    pub async fn end(&mut self) -> End {
        loop {
            if let Err(end) = self.take().await {
                return end;
            }
        }
    }

    pub async fn close(mut self) {
        let _ = tokio::time::timeout(DEADLINE, self.socket.close(None)).await;
    }
}

fn take_in(seen: &mut Seen, channel: &str, frame: &Json) {
    match frame["type"].as_str() {
        Some("message") if frame["channel"] == *channel => {
            seen.messages.push((frame["seq_id"].as_u64().unwrap(), frame["payload"].to_string()));
        }
        Some("gap") if frame["channel"] == *channel => seen.gaps.push(frame.clone()),
        Some("live") => {}
        _ => panic!("unexpected: {frame}"),
    }
}
