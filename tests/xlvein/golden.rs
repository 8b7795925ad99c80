//! Transcripts: what users and back ends say and what they are told, byte for byte, in `tests/golden/xlvein`.
//!
//! A line `> frame` is sent by `user_1`, `< frame` must come to `user_2`, and `~ frame` to `user_1`. `GET`, `FORM` and `JSON` ask (a path
//! or a body); `SIGNED` is `JSON` with the header of HMAC-SHA256. `= status content-type body` is the answer. What differs from run to
//! run stands as `<uuid>`, `<s>` (a time in seconds) and `<ms>`.

use super::*;

#[tokio::test]
async fn who_is_let_in_and_what_the_others_are_told() {
    play("connect", "").await;
}

#[tokio::test]
async fn a_back_end_pushes_forms() {
    play("push_form", "").await;
}

#[tokio::test]
async fn a_back_end_pushes_json() {
    play("push_json", "").await;
}

#[tokio::test]
async fn users_send_to_each_other() {
    play("peers", "").await;
}

#[tokio::test]
async fn a_back_end_signs_with_hmac() {
    play("hmac", "").await;
}

#[tokio::test]
async fn without_compat_the_wire_has_none_of_the_faults() {
    play("without_compat", "compat = false").await;
}

/// Plays a transcript. With `GOLDEN=write` what the hub says is written into it instead.
async fn play(name: &str, more: &str) {
    let hub = plan(more).start();
    let mut stage = Stage {
        http: hub.http_as(None).await,
        one: User::connect(&hub, "user_1").await,
        two: User::connect(&hub, "user_2").await,
        answer: None,
    };
    let said = async |line: &str| stage.line(line).await;
    crate::common::golden::play(&format!("xlvein/{name}"), said).await;
    assert!(stage.answer.is_none(), "{name}.txt: the last answer is not looked at");
    stage.one.assert_silent().await;
    stage.two.assert_silent().await;
}

struct Stage {
    http: Http,
    one: User,
    two: User,
    answer: Option<Response>,
}

impl Stage {
    async fn line(&mut self, line: &str) -> Option<String> {
        let (verb, rest) = line.split_once(' ').unwrap_or((line, ""));
        let json = ("content-type", "application/json");
        let asked = match verb {
            "#" | "" => return None,
            ">" => {
                self.one.send(rest).await;
                return None;
            }
            "<" => return Some(format!("< {}", masked(&self.two.next().await.unwrap()))),
            "~" => return Some(format!("~ {}", masked(&self.one.next().await.unwrap()))),
            "=" => {
                let answer = self.answer.take().expect("something was asked");
                let kind = answer.header("content-type").unwrap_or("-");
                return Some(format!("= {} {kind} {}", answer.status, answer.text().trim_end_matches('\n')));
            }
            "GET" => self.http.get(rest).await,
            "FORM" => post_form(&mut self.http, rest).await,
            "JSON" => self.http.send("POST", PUSH, &[json], rest.as_bytes()).await,
            "SIGNED" => {
                let (time, signature) = (now().to_string(), hmac(SECRET, now(), rest));
                let headers = [json, ("x-signature-timestamp", &time), ("x-signature-256", &signature)];
                self.http.send("POST", PUSH, &headers, rest.as_bytes()).await
            }
            other => panic!("{other:?} is no line of a transcript"),
        };
        assert!(self.answer.replace(asked).is_none(), "the answer before this is not looked at: {line}");
        None
    }
}

/// The frame without what changes; that it is a UUID, and the present time, is seen here.
fn masked(frame: &str) -> String {
    let (before, rest) = frame.split_once("\"msg_id\":\"").unwrap_or_else(|| panic!("no msg_id: {frame}"));
    let (id, rest) = rest.split_once('"').unwrap();
    let lengths: Vec<usize> = id.split('-').map(str::len).collect();
    assert!(lengths == [8, 4, 4, 4, 12] && id.bytes().all(|b| b == b'-' || b.is_ascii_hexdigit()), "{id} is no UUID");
    let rest = rest.strip_prefix(",\"send_at\":").unwrap_or_else(|| panic!("no send_at: {frame}"));
    let end = rest.find([',', '}']).unwrap();
    let time: u64 = rest[..end].parse().unwrap();
    let unit = if time > 100_000_000_000 { "ms" } else { "s" };
    let seconds = if unit == "ms" { time / 1000 } else { time };
    assert!(now().abs_diff(seconds) <= 60, "{time} is not now");
    format!("{before}\"msg_id\":\"<uuid>\",\"send_at\":<{unit}>{}", &rest[end..])
}
