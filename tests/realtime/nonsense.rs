//! Hostile frames: the process lives, and the same connection still answers.

use super::*;

#[tokio::test]
async fn nonsense_in_every_shape_leaves_the_connection_hearing_and_answering() {
    let hub = plan("").start();
    let mut alice = Client::open(&hub, "acme/alice").await;
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    let deep_data = format!(r#"{{"route":"raises","data":{deep}}}"#);
    let texts = [
        "",
        " ",
        "null",
        "[]",
        "{",
        "}",
        "SUB",
        "SUB ",
        "\u{0}",
        "\"",
        "1e999999",
        "{\"route\":",
        "[{}]",
        "tru",
        r#"{"command":"subscribe","data":null}"#,
        r#"{"command":"replay"}"#,
        r#"{"route":{"a":1}}"#,
        r#"{"route":"\ud800"}"#,
        r#"{"\ud800":1}"#,
        r#"{"metadata":{"a":{"b":1}}}"#,
        r#"{"id":[],"route":null}"#,
        &deep,
        &deep_data,
    ];
    for text in texts {
        alice.say(text).await;
        alice.send(Message::binary(text.as_bytes().to_vec())).await;
    }
    let mut dice = Dice::new(4);
    for _ in 0..2000 {
        let bytes: Vec<u8> = (0..dice.below(60)).map(|_| dice.below(256) as u8).collect();
        alice.send(Message::binary(bytes)).await;
    }
    // Of so many in vain none is one too many for it: they failed, nobody was refused.
    let mut patient = Client::open(&hub, "acme/patient").await;
    patient.is_silent().await;
    let end = last_words(&mut alice).await;
    assert!(end.is_none() || end == Some(4429), "{end:?}");
}

/// Hears it out: none if it still answers, else the close code.
async fn last_words(client: &mut Client) -> Option<u16> {
    if client.socket.send(Message::text(r#"{"route":"echo","id":"there?"}"#)).await.is_err() {
        return client.end().await.map(|end| end.0);
    }
    loop {
        match client.next().await {
            Ok(text) if text == r#"{"id":"there?","route":"echo"}"# => return None,
            Ok(_) => {}
            Err(end) => return end.map(|end| end.0),
        }
    }
}

#[tokio::test]
async fn after_each_bad_frame_the_same_socket_answers_pings_and_messages() {
    let hub = plan("").start();
    let mut alice = Client::open(&hub, "acme/alice").await;
    for text in ["null", "[]", "{", r#"{"route":1}"#, r#"{"event":2,"to":"x","data":{},"metadata":1}"#, "\u{0}\u{ffff}"]
    {
        alice.say(text).await;
        alice.send(Message::binary(vec![0xff, 0xfe, 0x00])).await;
        alice.send(Message::Ping("there?".into())).await;
        let pong = async {
            loop {
                if let Message::Pong(payload) = alice.socket.next().await.unwrap().unwrap() {
                    break payload;
                }
            }
        };
        assert_eq!(&within(DEADLINE, "a pong", pong).await[..], b"there?");
        alice.is_silent().await;
    }
}

#[tokio::test]
async fn a_frame_beyond_the_limit_ends_its_connection_alone_and_one_below_is_heard() {
    let hub = plan("").start();
    let mut other = Client::open(&hub, "acme/other").await;
    let mut alice = Client::open(&hub, "acme/alice").await;
    let near = format!(r#"{{"route":"echo","data":"{}"}}"#, "x".repeat((1 << 20) - 30));
    alice.say(&near).await;
    alice.hears(&near).await;
    // The hub closes before it has read it all, so the rest may not be taken.
    let _ = alice.socket.send(Message::text("x".repeat(16 << 20))).await;
    let end = alice.end().await;
    assert!(end.is_none() || end.as_ref().is_some_and(|end| end.0 == 1009), "{end:?}");
    other.is_silent().await;
}
