//! The bytes of WebSockets: frames in whatever pieces they come, messages that were deflated, and what clients offer for that.

#![no_main]

use aether::edges::deflate::{Compression, inflate};
use aether::edges::line::Frame;
use aether::edges::wire::Ending;
use aether::edges::ws::Parser;
use aether_fuzz::lines;
use http::header::{HeaderMap, HeaderValue, SEC_WEBSOCKET_EXTENSIONS};
use libfuzzer_sys::fuzz_target;

/// Of a message; small, so that inputs reach it.
const MAX: usize = 4096;

fuzz_target!(|bytes: &[u8]| {
    // The first byte says what comes: frames, with compression or without, one deflated message, or offers.
    let Some((first, rest)) = bytes.split_first() else { return };
    match first & 3 {
        0 | 1 => {
            let deflates = first & 3 == 0;
            let whole = taken(rest, rest.len().max(1), deflates);
            assert_eq!(whole, taken(rest, 1, deflates), "frames depend on the pieces they came in");
            assert_eq!(whole, taken(rest, 7, deflates), "frames depend on the pieces they came in");
        }
        2 => inflated(rest),
        _ => offered(rest),
    }
});

/// What is taken from bytes that come in pieces of one length, as text, and how it ends.
fn taken(bytes: &[u8], piece: usize, deflates: bool) -> (Vec<String>, Option<Ending>) {
    let (mut parser, mut frames) = (Parser::new(MAX, deflates), Vec::new());
    for piece in bytes.chunks(piece) {
        parser.push(piece);
        loop {
            match parser.take() {
                Ok(Some(frame)) => frames.push(shown(&frame)),
                Ok(None) => break,
                Err(ending) => return (frames, Some(ending)),
            }
        }
    }
    (frames, None)
}

fn shown(frame: &Frame) -> String {
    let (kind, payload) = match frame {
        Frame::Text(payload) => ("text", payload),
        Frame::Binary(payload) => ("binary", payload),
        Frame::Ping(payload) => ("ping", payload),
        Frame::Pong => return "pong".to_owned(),
    };
    assert!(payload.len() <= MAX, "{kind} of {} bytes", payload.len());
    assert!(kind != "text" || std::str::from_utf8(payload).is_ok(), "text that is none");
    format!("{kind} {payload:?}")
}

fn inflated(packed: &[u8]) {
    let Ok(whole) = inflate(packed.to_vec(), MAX) else { return };
    assert!(whole.len() <= MAX);
    // The bound decides whether there is a message, never which, and nothing is left over from the one before.
    assert_eq!(inflate(packed.to_vec(), whole.len()).as_ref(), Ok(&whole));
    if let Some(less) = whole.len().checked_sub(1) {
        assert_eq!(inflate(packed.to_vec(), less), Err(Ending::TooLarge));
    }
}

fn offered(bytes: &[u8]) {
    let answer = |offers: &[Vec<u8>]| {
        let values = offers.iter().filter_map(|offer| HeaderValue::from_bytes(offer).ok());
        let headers: HeaderMap = values.map(|value| (SEC_WEBSOCKET_EXTENSIONS, value)).collect();
        Compression::new(true, 0).agree(&headers).map(|agreement| agreement.header())
    };
    let offers: Vec<_> = lines(bytes).map(Vec::from).collect();
    let Some(agreed) = answer(&offers) else { return };
    let said = String::from_utf8_lossy(bytes).to_ascii_lowercase();
    assert!(said.contains("permessage-deflate"), "nobody offered it");
    assert!(!agreed.as_bytes().ends_with(b"=12") || said.contains("server_max_window_bits"), "nobody asked for that");
    assert!(answer(&[agreed.as_bytes().to_vec()]).is_some(), "what is answered could not have been offered");
    let after = [vec![b"unknown; x=\"permessage-deflate,\"".to_vec()], offers].concat();
    assert_eq!(answer(&after), Some(agreed), "an offer before it counts");
}
