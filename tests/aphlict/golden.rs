//! Transcripts: what clients and publishers say, and what they are told, byte for byte.

use std::collections::BTreeMap;

use super::*;

#[tokio::test]
async fn a_message_goes_to_each_connection_once_and_verbatim() {
    play("publish", "").await;
}

#[tokio::test]
async fn instances_are_named_by_path_and_query_and_share_nothing() {
    play("instances", "").await;
}

#[tokio::test]
async fn a_replay_says_again_what_was_missed_the_oldest_first() {
    play("replay", "").await;
}

#[tokio::test]
async fn frames_that_make_no_sense_are_ignored() {
    play("hostile", "").await;
}

#[tokio::test]
async fn both_ports_answer_http_as_ever() {
    play("http", "").await;
}

#[tokio::test]
async fn gorge_says_version_8_and_is_healthy() {
    play("gorge", "gorge = true").await;
}

/// Plays a transcript: `@a /ws/` connects, `a> ` is said, `a< ` is heard, `a|` hears nothing; `POST /path body` asks the admin
/// server, `client GET /path` the other one, `= 200 body` is the answer.
async fn play(name: &str, settings: &str) {
    let path = repository().join(format!("tests/golden/aphlict/{name}.txt"));
    let written = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let node = Node::with(settings);
    let fingerprint = node.post("/", r#"{"subscribers":[]}"#).await.ok()["fingerprint"].as_str().unwrap().to_owned();
    let letters = "23456789abcdefghjkmnpqrstuvwxyzABCDEFGHJKLMNPQRSTUVWXYZ";
    assert!(fingerprint.len() == 16 && fingerprint.chars().all(|letter| letters.contains(letter)), "{fingerprint}");
    let (mut clients, mut answer) = (BTreeMap::new(), None::<Response>);
    for (number, line) in written.lines().enumerate() {
        let place = format!("{name}.txt:{}", number + 1);
        let said = |text: &str| assert_eq!(line, mask(text, &fingerprint), "{place}");
        let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
        let rest = rest.replace("<fingerprint>", &fingerprint);
        let (speaker, sign) = word.split_at(word.len().saturating_sub(1));
        match sign {
            _ if word.is_empty() || word == "#" => {}
            _ if word.starts_with('@') => drop(clients.insert(word[1..].to_owned(), node.browser(&rest).await)),
            ">" => clients.get_mut(speaker).unwrap().send_text(&rest).await,
            "<" => said(&format!("{word} {}", clients.get_mut(speaker).unwrap().next_text().await)),
            "|" => assert_silent(clients.get_mut(speaker).unwrap()).await,
            "=" => {
                let answer = answer.take().expect("something was asked");
                said(format!("= {} {}", answer.status, answer.text().replace('\n', "\\n")).trim_end());
            }
            _ => {
                assert!(answer.is_none(), "{place}: the answer before this is not looked at");
                let (address, rest) = match line.strip_prefix("client ") {
                    Some(rest) => (node.client, rest.to_owned()),
                    None => (node.admin, format!("{word} {rest}")),
                };
                let (method, rest) = rest.split_once(' ').unwrap();
                let (path, body) = rest.split_once(' ').unwrap_or((rest, ""));
                let mut http = Http::connect(address, None).await;
                answer = Some(http.send(method, path, &[], body.as_bytes()).await);
            }
        }
    }
    assert!(answer.is_none(), "{name}.txt: the last answer is not looked at");
    for client in clients.values_mut() {
        assert_silent(client).await;
    }
}

/// Without what differs from run to run.
fn mask(text: &str, fingerprint: &str) -> String {
    let mut text = text.replace(fingerprint, "<fingerprint>");
    for name in ["uptime", "history.age"] {
        let begin = format!("\"{name}\":");
        if let Some(at) = text.find(&begin).map(|at| at + begin.len()) {
            let end = at + text[at..].bytes().take_while(u8::is_ascii_digit).count();
            if end > at {
                text.replace_range(at..end, "<ms>");
            }
        }
    }
    text
}
