//! Transcripts: what is said to the hub and what it answers, byte for byte, in `tests/golden/pushlet`.
//!
//! `ws path` and `sse path` connect. `> frame` is said in a binary frame, `>> frame` in a text frame, and `< frame` must come, binary.
//! Lines from `|` are a block of the event stream. `GET path`, `POST path body` ask over HTTP, and `= status body` is the answer. In frames,
//! blocks and bodies `\n`, `\t`, `\r` and `\xNN` stand for bytes, `<time>` and `<id>` for what differs from run to run.

use super::*;

#[tokio::test]
async fn a_web_socket_from_its_first_frame_on() {
    play("socket", "").await;
}

#[tokio::test]
async fn the_json_form_that_its_readme_promised() {
    play("action", "").await;
}

#[tokio::test]
async fn an_event_stream_from_its_first_event_on() {
    play("events", "").await;
}

#[tokio::test]
async fn back_ends_that_publish_like_its_readme() {
    play("send", "").await;
}

#[tokio::test]
async fn back_ends_that_publish_like_its_example() {
    play("example", "answers = \"example\"\n").await;
}

#[tokio::test]
async fn what_is_said_to_everybody() {
    play("all", "").await;
}

#[tokio::test]
async fn an_event_stream_begins_with_the_headers_that_pages_need() {
    let hub = open();
    let stream = Blocks::open(&hub, "/events?topic=a").await;
    for (name, value) in [
        ("content-type", "text/event-stream"),
        ("cache-control", "no-cache"),
        ("access-control-allow-origin", "*"),
        ("access-control-allow-headers", "Cache-Control"),
        ("transfer-encoding", "chunked"),
    ] {
        assert!(stream.headers.contains(&(name.into(), value.into())), "{name}: {:?}", stream.headers);
    }
}

#[tokio::test]
async fn an_event_stream_has_a_comment_with_the_time_at_each_heartbeat() {
    let hub = open_with("heartbeat = \"1s\"\n");
    let mut stream = Blocks::open(&hub, "/events?topic=a").await;
    while !stream.next().await.starts_with("id: ") {}
    for _ in 0..2 {
        assert_eq!(masked(&stream.next().await), ": heartbeat <time>");
    }
}

/// Plays a transcript. With `GOLDEN=write` what the hub says is written into it instead.
async fn play(name: &str, settings: &str) {
    let hub = open_with(settings);
    let mut stage = Stage { hub: &hub, line: None, stream: None, block: Vec::new(), answer: None };
    let said = async |line: &str| stage.plays(line).await;
    crate::common::golden::play(&format!("pushlet/{name}"), said).await;
    assert!(stage.answer.is_none() && stage.block.is_empty(), "{name}.txt: the last answer is not looked at");
    if let Some(line) = &mut stage.line {
        line.is_silent().await;
    }
}

struct Stage<'a> {
    hub: &'a TestHub,
    line: Option<Line>,
    stream: Option<Blocks>,
    /// Lines of the stream's block that are not looked at yet.
    block: Vec<String>,
    answer: Option<Response>,
}

impl Stage<'_> {
    /// Does what a line says; what should stand there, if it tells of something that the hub said.
    async fn plays(&mut self, line: &str) -> Option<String> {
        let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
        match word {
            "#" | "" => {}
            "ws" => self.line = Some(Line::begin(self.hub, &rest["/pushlet/ws".len()..]).await),
            "sse" => self.stream = Some(Blocks::open(self.hub, rest).await),
            ">" => self.line.as_mut().unwrap().says(bytes(rest)).await,
            ">>" => self.line.as_mut().unwrap().says_text(std::str::from_utf8(&bytes(rest)).unwrap()).await,
            "<" => return Some(format!("< {}", masked(&self.line.as_mut().unwrap().hears().await))),
            "|" => {
                if self.block.is_empty() {
                    let block = self.stream.as_mut().unwrap().next().await;
                    self.block = block.strip_suffix('\n').unwrap().split('\n').rev().map(str::to_owned).collect();
                }
                let said = self.block.pop().unwrap();
                return Some(format!("| {}", masked(&said)).trim_end_matches(' ').to_owned());
            }
            "=" => {
                let answer = self.answer.take().expect("something was asked");
                assert_eq!(answer.header("content-type"), Some("text/plain; charset=utf-8"));
                return Some(format!("= {} {}", answer.status, masked(answer.text())));
            }
            method => {
                let (path, body) = rest.split_once(' ').unwrap_or((rest, ""));
                let form = [("content-type", "application/x-www-form-urlencoded")];
                self.answer = Some(self.hub.http_as(None).await.send(method, path, &form, &bytes(body)).await);
            }
        }
        None
    }
}

fn bytes(text: &str) -> Vec<u8> {
    let mut out = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find('\\') {
        out.extend_from_slice(&rest.as_bytes()[..at]);
        let length = match rest.as_bytes()[at + 1] {
            b'n' => (out.push(b'\n'), 2).1,
            b'r' => (out.push(b'\r'), 2).1,
            b't' => (out.push(b'\t'), 2).1,
            b'x' => (out.push(u8::from_str_radix(&rest[at + 2..at + 4], 16).unwrap()), 4).1,
            other => panic!("\\{}", char::from(other)),
        };
        rest = &rest[at + length..];
    }
    out.extend_from_slice(rest.as_bytes());
    out
}

/// The text without times and ids, which must be such.
fn masked(text: &str) -> String {
    let mut text = text.replace('\n', "\\n").replace('\r', "\\r").replace('\t', "\\t");
    if let Some(at) = text.find("\"timestamp\":\"") {
        let begin = at + "\"timestamp\":\"".len();
        let end = begin + text[begin..].find('"').unwrap();
        let stamp = &text[begin..end];
        let read = time::OffsetDateTime::parse(stamp, &time::format_description::well_known::Rfc3339);
        assert!(read.is_ok() && stamp.ends_with('Z'), "{stamp}");
        text.replace_range(begin..end, "<time>");
    }
    if text.starts_with("id: ") {
        assert!(text.len() > 20, "{text}");
        return "id: <id>".into();
    }
    if let Some(stamp) = text.strip_prefix(": heartbeat ") {
        let stamp = stamp.trim_end_matches("\\n");
        let shape: String = stamp.chars().map(|one| if one.is_ascii_digit() { '0' } else { one }).collect();
        assert_eq!(shape, "0000-00-00 00:00:00");
        return ": heartbeat <time>".into();
    }
    text
}
