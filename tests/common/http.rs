//! A small HTTP/1.1 client that keeps its connection.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::{DEADLINE, Json, within};

pub struct Http {
    address: SocketAddr,
    stream: TcpStream,
    /// What has been read beyond the last answer.
    rest: Vec<u8>,
    bearer: Option<String>,
}

#[derive(Clone, Debug)]
pub struct Response {
    pub status: u16,
    /// Lower-case names.
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Response {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str())
    }

    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    #[track_caller]
    pub fn json(&self) -> Json {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.text()))
    }

    /// The body, if all went well.
    #[track_caller]
    pub fn ok(&self) -> Json {
        assert_eq!(self.status, 200, "{}", self.text());
        self.json()
    }

    /// Status and code of an error in the hub's envelope.
    #[track_caller]
    pub fn error(&self) -> (u16, u64) {
        let body = self.json();
        assert_eq!(body["ok"], false, "{body}");
        assert!(body["error"]["message"].is_string() && body["error"]["reason"].is_string(), "{body}");
        (self.status, body["error"]["code"].as_u64().unwrap())
    }
}

impl Http {
    pub async fn connect(address: SocketAddr, bearer: Option<&str>) -> Http {
        Http::try_connect(address, bearer).await.unwrap()
    }

    pub async fn try_connect(address: SocketAddr, bearer: Option<&str>) -> std::io::Result<Http> {
        let stream = within(DEADLINE, "connect", TcpStream::connect(address)).await?;
        stream.set_nodelay(true)?;
        Ok(Http { address, stream, rest: Vec::new(), bearer: bearer.map(str::to_owned) })
    }

    pub async fn get(&mut self, path: &str) -> Response {
        self.send("GET", path, &[], b"").await
    }

    pub async fn post(&mut self, path: &str, body: impl AsRef<[u8]>) -> Response {
        self.send("POST", path, &[], body.as_ref()).await
    }

    pub async fn send(&mut self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Response {
        let answer = within(DEADLINE, path, self.try_send(method, path, headers, body)).await;
        answer.unwrap_or_else(|error| panic!("{method} {path}: {error}"))
    }

    /// The same, where the connection may break.
    pub async fn try_send(
        &mut self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> std::io::Result<Response> {
        let mut head = format!("{method} {path} HTTP/1.1\r\nhost: {}\r\n", self.address);
        if let Some(bearer) = &self.bearer {
            head += &format!("authorization: Bearer {bearer}\r\n");
        }
        for (name, value) in headers {
            head += &format!("{name}: {value}\r\n");
        }
        if method != "GET" {
            head += &format!("content-length: {}\r\n", body.len());
        }
        head += "\r\n";
        let mut request = head.into_bytes();
        request.extend_from_slice(body);
        self.stream.write_all(&request).await?;
        self.response().await
    }

    /// Bytes as they are, for requests that no client should send.
    pub async fn raw(&mut self, bytes: &[u8]) -> std::io::Result<Response> {
        self.stream.write_all(bytes).await?;
        self.response().await
    }

    pub async fn response(&mut self) -> std::io::Result<Response> {
        let (status, headers) = read_head(&mut self.stream, &mut self.rest).await?;
        let mut response = Response { status, headers, body: Vec::new() };
        let length = response.header("content-length").map_or(0, |text| text.parse().unwrap());
        while self.rest.len() < length {
            fill(&mut self.stream, &mut self.rest).await?;
        }
        response.body = self.rest.drain(..length).collect();
        Ok(response)
    }

    /// Nothing more comes: the other side has closed.
    pub async fn is_closed(&mut self) -> bool {
        matches!(tokio::time::timeout(DEADLINE, self.stream.read(&mut [0; 1])).await, Ok(Ok(0) | Err(_)))
    }
}

pub async fn fill(stream: &mut TcpStream, rest: &mut Vec<u8>) -> std::io::Result<()> {
    match stream.read_buf(rest).await? {
        0 => Err(std::io::ErrorKind::UnexpectedEof.into()),
        _ => Ok(()),
    }
}

/// Status and headers; what follows them stays in `rest`.
pub async fn read_head(stream: &mut TcpStream, rest: &mut Vec<u8>) -> std::io::Result<(u16, Vec<(String, String)>)> {
    let end = loop {
        if let Some(at) = rest.windows(4).position(|four| four == b"\r\n\r\n") {
            break at;
        }
        fill(stream, rest).await?;
    };
    let head = String::from_utf8(rest.drain(..end + 4).collect()).unwrap();
    let mut lines = head.trim_end().split("\r\n");
    let status = lines.next().and_then(|line| line.split(' ').nth(1)).and_then(|word| word.parse().ok());
    let headers = lines.filter_map(|line| line.split_once(':'));
    let headers = headers.map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned())).collect();
    Ok((status.expect("a status line"), headers))
}
