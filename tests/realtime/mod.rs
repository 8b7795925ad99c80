//! **The dialect realtime**: envelopes, routes, identities, presence and backpressure, as clients of that framework know them.

mod back_end;
mod backpressure;
mod doors;
mod faults;
mod golden;
mod nonsense;
mod routing;
mod scenario;

use futures_util::{SinkExt, StreamExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::{Error, Message};

use crate::common::hub::Plan;
use crate::common::*;

/// What an operator would write: who somebody is (`?as=tenant/id`), and handlers.
const RULES: &str = include_str!("rules.lua");

fn plan(settings: &str) -> Plan {
    plan_with(settings, RULES)
}

fn plan_with(settings: &str, rules: &str) -> Plan {
    let plugins = "[[plugin]]\nuse = \"jwt-auth\"\n[[plugin]]\nuse = \"api-keys\"\n[[plugin]]\nuse = \"realtime\"";
    // The tail holds all that a test says: who is slow meets the queue's end, however quickly it is said.
    let channels = "[channels]\nlag_patience = \"0ms\"\ntail_bytes = \"32MiB\"";
    let text = format!("{channels}\n{plugins}\n[plugin.config]\n{settings}");
    TestHub::plan().toml(&text).rules(rules)
}

/// A WebSocket as any client has it.
struct Client {
    socket: WebSocketStream<TcpStream>,
}

impl Client {
    async fn open(hub: &TestHub, who: &str) -> Client {
        Client::at(hub, &format!("/rt?as={who}")).await
    }

    async fn at(hub: &TestHub, path: &str) -> Client {
        let opened = Client::try_open(hub, path, &[], None).await;
        opened.unwrap_or_else(|no| panic!("the upgrade was refused: {no:?}"))
    }

    async fn owned(hub: &TestHub, path: String) -> Client {
        Client::at(hub, &path).await
    }

    /// One that takes in little while it is not read, so that it is stuck soon.
    async fn narrow(hub: &TestHub, who: &str) -> Client {
        Client::try_open(hub, &format!("/rt?as={who}"), &[], Some(4096)).await.unwrap()
    }

    /// The status and the body of a refusal.
    async fn refused(hub: &TestHub, path: &str, headers: &[(&'static str, &str)]) -> (u16, String) {
        Client::try_open(hub, path, headers, None).await.err().expect("it was let in")
    }

    async fn try_open(
        hub: &TestHub,
        path: &str,
        headers: &[(&'static str, &str)],
        receive_buffer: Option<u32>,
    ) -> Result<Client, (u16, String)> {
        let mut request = format!("ws://{}{path}", hub.address).into_client_request().unwrap();
        for (name, value) in headers {
            request.headers_mut().insert(*name, value.parse().unwrap());
        }
        let socket = TcpSocket::new_v4().unwrap();
        if let Some(bytes) = receive_buffer {
            socket.set_recv_buffer_size(bytes).unwrap();
        }
        let stream = within(DEADLINE, "connect", socket.connect(hub.address)).await.unwrap();
        match within(DEADLINE, "upgrade", tokio_tungstenite::client_async(request, stream)).await {
            Ok((socket, _)) => Ok(Client { socket }),
            Err(Error::Http(answer)) => {
                let body = answer.body().as_deref().unwrap_or_default();
                Err((answer.status().as_u16(), String::from_utf8_lossy(body).into_owned()))
            }
            Err(error) => panic!("{error}"),
        }
    }

    async fn send(&mut self, message: Message) {
        within(DEADLINE, "send", self.socket.send(message)).await.unwrap();
    }

    async fn say(&mut self, text: &str) {
        self.send(Message::text(text)).await;
    }

    /// The next text, or how it ended: the close code and the reason, if there were such.
    async fn next(&mut self) -> Result<String, Option<(u16, String)>> {
        loop {
            return match within(DEADLINE, "a frame", self.socket.next()).await {
                Some(Ok(Message::Text(text))) => Ok(text.to_string()),
                Some(Ok(Message::Close(frame))) => {
                    Err(frame.map(|frame| (frame.code.into(), frame.reason.to_string())))
                }
                Some(Ok(Message::Binary(bytes))) => panic!("a binary frame of {} bytes", bytes.len()),
                Some(Ok(_)) => continue,
                None | Some(Err(_)) => Err(None),
            };
        }
    }

    #[track_caller]
    fn hears(&mut self, wanted: &str) -> impl Future<Output = ()> {
        let at = std::panic::Location::caller();
        async move {
            let heard = self.next().await;
            assert_eq!(heard.as_deref(), Ok(wanted), "at {at}");
        }
    }

    /// What was said to it before this is all that was said to it.
    #[track_caller]
    fn is_silent(&mut self) -> impl Future<Output = ()> {
        let at = std::panic::Location::caller();
        async move {
            self.say(r#"{"route":"echo","id":"silent?"}"#).await;
            let heard = self.next().await;
            assert_eq!(heard.as_deref(), Ok(r#"{"id":"silent?","route":"echo"}"#), "at {at}");
        }
    }

    async fn end(&mut self) -> Option<(u16, String)> {
        loop {
            if let Err(end) = self.next().await {
                return end;
            }
        }
    }

    async fn close(mut self) {
        within(DEADLINE, "close", self.socket.close(None)).await.unwrap();
        self.end().await;
    }
}
