//! The plugin `xlvein`: its users and back ends come here and change nothing, and nothing that was wrong there is wrong here.
//!
//! `docs/migrating.md` says where this hub differs on purpose; each of those has its test here too.

mod access;
mod clients;
mod faults;
mod golden;
mod hostile;

use std::time::{SystemTime, UNIX_EPOCH};

use futures_util::{SinkExt, StreamExt};
use hmac::{Hmac, Mac};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use md5::{Digest, Md5};
use sha2::Sha256;
use tokio::net::{TcpSocket, TcpStream};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::error::Error;

use crate::common::hub::Plan;
use crate::common::*;

/// The secret and the token of xlvein's own example: `user_1`, HS256, good until 2100.
pub const SECRET: &str = "j8jasd98efan9sdfj89asjdf";
pub const TOKEN: &str = "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJleHAiOjQxMDI0NDQ4MDAsImlzcyI6IlRpbWVUb2tlbiIsInN1YiI6InVzZXJfMSJ9.X6gEToasI2x5cRxK-8N8rBI3iWLAg9QMAIoSFN_3o38";

const CONFIG: &str = r#"
[limits]
handshakes_per_second = 0
[secrets]
test_secret = "j8jasd98efan9sdfj89asjdf"
[[plugin]]
use = "jwt-auth"
[[plugin]]
use = "api-keys"
[[plugin]]
use = "xlvein"
[plugin.config]
"#;

/// The settings with one application, `test`, whose users send to each other; `more` are settings of the plugin.
pub fn settings(more: &str) -> String {
    format!(
        "{CONFIG}{more}\n[[plugin.config.applications]]\napp_key = \"test\"\napp_secret = \"test_secret\"\npeer = true\n"
    )
}

pub fn plan(more: &str) -> Plan {
    TestHub::plan().toml(&settings(more))
}

pub fn token(secret: &str, claims: &Json) -> String {
    jsonwebtoken::encode(&Header::new(Algorithm::HS256), claims, &EncodingKey::from_secret(secret.as_bytes())).unwrap()
}

/// As `ProduceIMToken` of its SDK.
pub fn token_of(account: &str) -> String {
    token(SECRET, &json!({"exp": now() + 30 * 86400, "iss": "TimeToken", "sub": account}))
}

pub fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// As `GetSign` of its SDK.
pub fn sign(app: &str, secret: &str, to: &str, message: &str, nonce: &str) -> String {
    let signed = format!("app_key={app}&message={message}&nonce={nonce}&send_to={to}&key={secret}");
    hex(&Md5::digest(signed)).to_uppercase()
}

pub fn hmac(secret: &str, time: u64, body: &str) -> String {
    let mut mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).unwrap();
    mac.update(format!("{time}.{body}").as_bytes());
    format!("sha256={}", hex(&mac.finalize().into_bytes()))
}

pub fn form(fields: &[(&str, &str)]) -> String {
    form_urlencoded::Serializer::new(String::new()).extend_pairs(fields).finish()
}

pub fn signed_form(app: &str, secret: &str, to: &str, message: &str, nonce: &str) -> String {
    let sign = sign(app, secret, to, message, nonce);
    form(&[("app_key", app), ("send_to", to), ("message", message), ("nonce", nonce), ("sign", &sign)])
}

pub const PUSH: &str = "/api/v1/im/push";
const FORM: (&str, &str) = ("content-type", "application/x-www-form-urlencoded");

pub async fn post_form(http: &mut Http, body: &str) -> Response {
    http.send("POST", PUSH, &[FORM], body.as_bytes()).await
}

/// Pushes as its SDK does; the number of the answer.
pub async fn push(http: &mut Http, to: &str, message: &str) -> i64 {
    static NUMBER: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);
    let nonce = format!("n{}x{}", std::process::id(), NUMBER.fetch_add(1, std::sync::atomic::Ordering::Relaxed));
    let answer = post_form(http, &signed_form("test", SECRET, to, message, &nonce)).await;
    answer.ok()["error"].as_i64().unwrap_or_else(|| panic!("{}", answer.text()))
}

/// A connected user.
pub struct User {
    socket: WebSocketStream<TcpStream>,
}

impl User {
    pub async fn connect(hub: &TestHub, account: &str) -> User {
        User::with(hub, "test", &token_of(account), None).await.unwrap_or_else(|error| panic!("{error}"))
    }

    /// `receive_buffer`: little, and it is stuck soon while it is not read.
    pub async fn with(hub: &TestHub, app: &str, token: &str, receive_buffer: Option<u32>) -> Result<User, Box<Error>> {
        let query = form(&[("app_id", app), ("token", token)]);
        let request = format!("ws://{}/ws/connect?{query}", hub.address).into_client_request().unwrap();
        let socket = TcpSocket::new_v4().unwrap();
        if let Some(bytes) = receive_buffer {
            socket.set_recv_buffer_size(bytes).unwrap();
        }
        let stream = within(2 * DEADLINE, "connect", socket.connect(hub.address)).await.unwrap();
        let upgrade = tokio_tungstenite::client_async(request, stream);
        let (socket, _) = within(2 * DEADLINE, "upgrade", upgrade).await?;
        Ok(User { socket })
    }

    /// The answer to somebody who is not let in.
    pub async fn refused(hub: &TestHub, app: &str, token: &str) -> (u16, Json) {
        match User::with(hub, app, token, None).await {
            Ok(_) => panic!("{app} was let in"),
            Err(error) => match *error {
                Error::Http(answer) => {
                    let body = answer.body().as_deref().unwrap_or_default();
                    (answer.status().as_u16(), serde_json::from_slice(body).unwrap_or(Json::Null))
                }
                error => panic!("{error}"),
            },
        }
    }

    pub async fn say(&mut self, message: Message) {
        within(DEADLINE, "send", self.socket.send(message)).await.unwrap();
    }

    pub async fn send(&mut self, text: &str) {
        self.say(Message::text(text)).await;
    }

    /// The next frame, or how the connection ended.
    pub async fn next(&mut self) -> Result<String, End> {
        loop {
            return match within(2 * DEADLINE, "a frame", self.socket.next()).await {
                Some(Ok(Message::Text(text))) => Ok(text.to_string()),
                Some(Ok(Message::Ping(_) | Message::Pong(_))) => continue,
                Some(Ok(Message::Close(Some(frame)))) => Err(End::Closed(frame.code.into(), frame.reason.to_string())),
                Some(Ok(other)) => panic!("{other:?}"),
                None | Some(Err(_)) => Err(End::Broken),
            };
        }
    }

    pub async fn frame(&mut self) -> Json {
        let text = self.next().await.unwrap_or_else(|end| panic!("{end:?} instead of a frame"));
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
    }

    /// Nothing is on its way, and the connection lives: the answer to a ping comes next.
    #[track_caller]
    pub fn assert_silent(&mut self) -> impl Future<Output = ()> {
        let place = std::panic::Location::caller();
        async move {
            self.say(Message::Ping("silent?".into())).await;
            loop {
                match within(DEADLINE, "a pong", self.socket.next()).await {
                    Some(Ok(Message::Ping(_))) => {}
                    Some(Ok(Message::Pong(payload))) => return assert_eq!(&payload[..], b"silent?"),
                    other => panic!("{place}: {other:?} instead of silence"),
                }
            }
        }
    }
}
