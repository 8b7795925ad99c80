//! What a client offers and what it is answered (RFC 7692, 5 and 7.1).

use warp::http::header::HeaderValue;

use super::codec::WINDOW_BITS;

/// Both sides forget each message: the hub because its frames are shared, the client because the hub keeps no window for
/// it. The client's own window may be as large as it likes.
const ANSWER: &str = "permessage-deflate; server_no_context_takeover; client_no_context_takeover";
/// The same for a client that asked for a window no larger than some size: it is told which one it gets.
const WITH_WINDOW: &str =
    "permessage-deflate; server_no_context_takeover; client_no_context_takeover; server_max_window_bits=12";

/// An offer that was accepted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Agreement {
    answer: &'static str,
}

impl Agreement {
    pub fn header(self) -> HeaderValue {
        HeaderValue::from_static(self.answer)
    }
}

/// The first offer that can be kept. What is malformed is declined like what is unknown: the connection goes on without.
pub fn agree(offers: &str) -> Option<Agreement> {
    split(offers, ',').find_map(accept)
}

fn accept(offer: &str) -> Option<Agreement> {
    let mut parts = split(offer, ';');
    if !parts.next()?.eq_ignore_ascii_case("permessage-deflate") {
        return None;
    }
    let mut seen = Vec::new();
    for part in parts {
        let (name, value) = match part.split_once('=') {
            Some((name, value)) => (name.trim_end(), Some(unquoted(value.trim_start())?)),
            None => (part, None),
        };
        let name = name.to_ascii_lowercase();
        let good = match (name.as_str(), value) {
            ("server_no_context_takeover" | "client_no_context_takeover" | "client_max_window_bits", None) => true,
            ("client_max_window_bits", Some(value)) => window(value).is_some(),
            // Zlib has no window of 8 bits, and ours is the same for all: who takes less takes it uncompressed.
            ("server_max_window_bits", Some(value)) => window(value)? >= WINDOW_BITS,
            _ => false,
        };
        if !good || seen.contains(&name) {
            return None;
        }
        seen.push(name);
    }
    let asks = seen.iter().any(|name| name == "server_max_window_bits");
    Some(Agreement { answer: if asks { WITH_WINDOW } else { ANSWER } })
}

/// 8 to 15, without leading zeros.
fn window(value: &str) -> Option<u8> {
    let plain = value.bytes().all(|byte| byte.is_ascii_digit()) && !value.starts_with('0');
    value.parse().ok().filter(|bits| plain && (8..=15).contains(bits))
}

/// A parameter's value may stand in quotes; what is in them must be a token all the same.
fn unquoted(value: &str) -> Option<&str> {
    match value.strip_prefix('"') {
        Some(rest) => rest.strip_suffix('"').filter(|inner| !inner.contains(['"', '\\'])),
        None => Some(value),
    }
}

/// The parts between separators that stand in no quotes.
fn split(text: &str, separator: char) -> impl Iterator<Item = &str> {
    let mut quoted = false;
    let parts = text.split(move |c| {
        quoted ^= c == '"';
        c == separator && !quoted
    });
    parts.map(str::trim)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn answers(offers: &str, expected: Option<&str>) {
        let answer = agree(offers).map(|agreement| agreement.header());
        assert_eq!(answer.as_ref().map(|answer| answer.to_str().unwrap()), expected, "{offers}");
    }

    #[test]
    fn what_clients_offer_is_accepted() {
        assert_eq!(WITH_WINDOW, format!("{ANSWER}; server_max_window_bits={WINDOW_BITS}"));
        for offer in [
            "permessage-deflate",
            // Browsers, ws for Node.
            "permessage-deflate; client_max_window_bits",
            // gorilla for Go, which takes nothing but both.
            "permessage-deflate; server_no_context_takeover; client_no_context_takeover",
            "Permessage-Deflate ;Client_Max_Window_Bits = \"10\"",
            "permessage-deflate; client_max_window_bits=8",
            "x-webkit-deflate-frame, permessage-deflate",
            "x; y=\"a, permessage-deflate; z\", permessage-deflate; client_max_window_bits=15",
        ] {
            answers(offer, Some(ANSWER));
        }
        for offer in [
            // websockets for Python.
            "permessage-deflate; server_max_window_bits=12; client_max_window_bits=12",
            "permessage-deflate; server_max_window_bits=15",
            "permessage-deflate;server_max_window_bits=\"13\";server_no_context_takeover",
            // The first that can be kept.
            "permessage-deflate; server_max_window_bits=10, permessage-deflate; server_max_window_bits=14, permessage-deflate",
        ] {
            answers(offer, Some(WITH_WINDOW));
        }
        answers("permessage-deflate; server_max_window_bits=10, permessage-deflate", Some(ANSWER));
    }

    #[test]
    fn what_is_unknown_or_makes_no_sense_is_declined() {
        for offer in [
            "",
            ",",
            ";",
            "permessage-bzip2",
            "permessage-deflate2",
            "permessage-deflate; unknown",
            "permessage-deflate;",
            "permessage-deflate; ; client_max_window_bits",
            "permessage-deflate; server_no_context_takeover=1",
            "permessage-deflate; client_no_context_takeover=\"\"",
            "permessage-deflate; client_no_context_takeover; client_no_context_takeover",
            "permessage-deflate; client_max_window_bits; client_max_window_bits=10",
            "permessage-deflate; server_max_window_bits",
            "permessage-deflate; server_max_window_bits=",
            "permessage-deflate; server_max_window_bits=7",
            "permessage-deflate; server_max_window_bits=16",
            "permessage-deflate; server_max_window_bits=012",
            "permessage-deflate; server_max_window_bits=+12",
            "permessage-deflate; server_max_window_bits=12.0",
            "permessage-deflate; server_max_window_bits=12 12",
            "permessage-deflate; server_max_window_bits=268",
            "permessage-deflate; client_max_window_bits=7",
            "permessage-deflate; client_max_window_bits=",
            "permessage-deflate; client_max_window_bits=\"10",
            "permessage-deflate; client_max_window_bits=10\"",
            "permessage-deflate; client_max_window_bits=\"1\\0\"",
            // Less than our window.
            "permessage-deflate; server_max_window_bits=8",
            "permessage-deflate; server_max_window_bits=11",
        ] {
            answers(offer, None);
        }
    }

    proptest::proptest! {
        #[test]
        fn whatever_is_offered_is_answered_in_one_of_two_ways_or_not_at_all(offers in "[ -~]{0,80}|(permessage-deflate|server_max_window_bits|=|;|,|\"|12|8| ){0,12}") {
            if let Some(agreement) = agree(&offers) {
                proptest::prop_assert!(agreement.header().to_str().unwrap().starts_with(ANSWER));
            }
        }
    }
}
