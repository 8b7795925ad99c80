//! Transcripts: what is said to the hub and what it answers, byte for byte, in `tests/golden/first-aether`.
//!
//! A line `> frame` is sent on one WebSocket, `< frame` must come on it. `GET path`, `POST path body` and `DELETE path` are asked with
//! the admin key, `SIGNED path body` as a webhook's sender does, and `= status body` is the answer. What differs from run to run (times,
//! epochs, ids, secrets) stands as `<name>`, and what came last under a name can be said again as `$name`.

use std::collections::BTreeMap;

use super::webhooks::{CONFIG, sign};
use crate::common::*;

/// Fields whose values are another's in every run.
const CHANGING: [&str; 11] = [
    "timestamp",
    "epoch",
    "decision",
    "created_at",
    "updated_at",
    "expires_at",
    "id",
    "key",
    "key_prefix",
    "secret",
    "url",
];

/// With `websocket.first_aether`: its frames and no others, as they were written down from it.
#[tokio::test]
async fn where_the_settings_say_so_every_frame_is_its_own() {
    play_with("[websocket]\nfirst_aether = true", "exact").await;
}

#[tokio::test]
async fn publishing_one_message_and_many() {
    play("publish").await;
}

#[tokio::test]
async fn reading_history() {
    play("history").await;
}

#[tokio::test]
async fn subscribing_and_unsubscribing() {
    play("subscribe").await;
}

#[tokio::test]
async fn resuming_and_a_gap() {
    play("resume").await;
}

#[tokio::test]
async fn errors_on_a_connection() {
    play("errors").await;
}

#[tokio::test]
async fn keys_from_their_making_to_their_end() {
    play("keys").await;
}

#[tokio::test]
async fn a_webhook_from_its_making_to_its_end() {
    play("webhooks").await;
}

/// Plays a transcript. With `GOLDEN=write` what the hub says is written into it instead.
async fn play(name: &str) {
    play_with("", name).await;
}

async fn play_with(settings: &str, name: &str) {
    let hub = TestHub::plan().toml(&format!("{CONFIG}\n{settings}\n[store]\nsweep_interval = \"100ms\"")).start();
    let mut stage = Stage {
        http: hub.http().await,
        ws: hub.ws_as(Some(&hub.token(&["o.*", "few"]))).await,
        known: BTreeMap::new(),
        answer: None,
    };
    let said = async |line: &str| stage.line(line).await;
    crate::common::golden::play(&format!("first-aether/{name}"), said).await;
    assert!(stage.answer.is_none(), "{name}.txt: the last answer is not looked at");
    stage.ws.assert_silent().await;
}

struct Stage {
    http: Http,
    ws: WsClient,
    known: BTreeMap<&'static str, String>,
    answer: Option<Response>,
}

impl Stage {
    /// Does what a line says; what should stand there, if it tells of something that the hub said.
    async fn line(&mut self, line: &str) -> Option<String> {
        let said = line.split_once(' ').unwrap_or((line, ""));
        match said {
            ("#" | "", _) => {}
            (">", frame) => self.ws.send_text(&self.filled(frame)).await,
            ("<", _) => {
                let frame = self.ws.next_text().await;
                let frame = frame.strip_suffix('\n').expect("a frame ends in a newline");
                return Some(format!("< {}", self.masked(frame)));
            }
            ("=", _) => {
                let answer = self.answer.take().expect("something was asked");
                let body = answer.text().strip_suffix('\n').expect("an answer ends in a newline");
                assert_eq!(answer.header("content-type"), Some("application/json"));
                return Some(format!("= {} {}", answer.status, self.masked(body)));
            }
            (method, rest) => {
                assert!(self.answer.is_none(), "the answer before this is not looked at: {line}");
                let (path, body) = rest.split_once(' ').unwrap_or((rest, ""));
                let (path, body) = (self.filled(path), self.filled(body));
                let signature = sign(self.known.get("secret").map_or("", String::as_str), body.as_bytes());
                let (method, headers) = match method {
                    "SIGNED" => ("POST", vec![("x-signature-256", signature.as_str())]),
                    method => (method, Vec::new()),
                };
                self.answer = Some(self.http.send(method, &path, &headers, body.as_bytes()).await);
            }
        }
        None
    }

    fn filled(&self, text: &str) -> String {
        self.known.iter().fold(text.to_owned(), |text, (name, value)| text.replace(&format!("${name}"), value))
    }

    /// The text without what changes, which is kept under its name.
    fn masked(&mut self, text: &str) -> String {
        let mut text = text.to_owned();
        for name in CHANGING {
            let begin = format!("\"{name}\":\"");
            let mut from = 0;
            while let Some(at) = text[from..].find(&begin) {
                let value = from + at + begin.len();
                let end = value + text[value..].find('"').expect("a string ends");
                self.known.insert(name, text[value..end].to_owned());
                text.replace_range(value..end, &format!("<{name}>"));
                from = value;
            }
        }
        text
    }
}
