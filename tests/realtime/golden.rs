//! Transcripts: what clients say and what they hear, byte for byte, in `tests/golden/realtime`.
//!
//! A line `alice= tenant/id` connects somebody, `alice> frame` is sent by them, `alice< frame` must be the next that they hear.
//! What differs from run to run stands as `<name>`. In the end nobody may have heard more.

use std::collections::BTreeMap;

use super::*;

const CHANGING: [&str; 2] = ["session_id", "connected_at"];

#[tokio::test]
async fn the_most_specific_handler_of_a_route_gets_it() {
    play("routing").await;
}

#[tokio::test]
async fn envelopes_keep_what_was_in_them() {
    play("envelopes").await;
}

#[tokio::test]
async fn sending_to_one_to_an_identity_to_a_room_and_to_all() {
    play("sending").await;
}

#[tokio::test]
async fn asking_who_is_there() {
    play("presence").await;
}

#[tokio::test]
async fn frames_that_are_no_envelopes_and_handlers_that_fail() {
    play("failures").await;
}

/// Plays a transcript. With `GOLDEN=write` what is heard is written into it instead.
async fn play(name: &str) {
    let path = repository().join(format!("tests/golden/realtime/{name}.txt"));
    let written = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let hub = plan("").start();
    let mut people: BTreeMap<String, Client> = BTreeMap::new();
    let (mut played, rewrites) = (String::new(), std::env::var("GOLDEN").as_deref() == Ok("write"));
    for (number, line) in written.lines().enumerate() {
        let mut said = line.to_owned();
        if let Some(at) = line.find(['=', '>', '<']).filter(|_| !line.starts_with('#')) {
            let (who, rest) = (&line[..at], line[at + 1..].trim_start());
            match line.as_bytes()[at] {
                b'=' => drop(people.insert(who.to_owned(), Client::open(&hub, rest).await)),
                b'>' => people.get_mut(who).unwrap().say(rest).await,
                _ => {
                    let heard = people.get_mut(who).unwrap().next().await;
                    said = format!("{who}< {}", heard.map_or_else(|end| format!("{end:?}"), |text| masked(&text)));
                }
            }
        }
        assert!(rewrites || said == line, "{name}.txt:{}\n  written {line}\n  said    {said}", number + 1);
        played += &format!("{said}\n");
    }
    for (_, mut client) in people {
        client.is_silent().await;
    }
    if rewrites {
        std::fs::write(&path, played).unwrap();
    }
}

/// The values of the fields that change, by their names.
fn masked(text: &str) -> String {
    let mut text = text.to_owned();
    for name in CHANGING {
        let key = format!("\"{name}\":\"");
        let mut from = 0;
        while let Some(at) = text[from..].find(&key).map(|at| from + at + key.len()) {
            let end = at + text[at..].find('"').unwrap();
            text.replace_range(at..end, &format!("<{name}>"));
            from = at;
        }
    }
    text
}
