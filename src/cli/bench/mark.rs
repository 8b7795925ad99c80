//! Payloads that say when they were sent, and how they are found again in what a subscriber reads.
//!
//! Each time is that of one message alone, as far as anybody can tell, so the sum of those that came names the set of
//! messages: a lost one beside a doubled one leaves the count as it was, but not the sum.

use std::sync::LazyLock;
use std::time::Instant;

use memchr::memmem::Finder;

/// The smallest payload that has room for the time.
pub const SMALLEST: usize = 32;

const MARK: &[u8] = b"{\"t\":";
const DIGITS: usize = 16;
const SPAN: usize = MARK.len() + DIGITS;
/// Makes every time as long as the others; JSON knows no leading zeros.
const BASE: u64 = 1_000_000_000_000_000;

static BEGAN: LazyLock<Instant> = LazyLock::new(Instant::now);
static FINDER: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new(MARK));

/// The largest payload: a hub takes 64 KiB with what lies around it.
pub const LARGEST: usize = 60_000;
/// Digits as they come: a compressor makes half of them, as it does of most messages.
static FILLING: LazyLock<String> = LazyLock::new(|| {
    let mut state = 1u32;
    let mut digit = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        char::from_digit(state >> 28, 16).unwrap_or('0')
    };
    (0..LARGEST).map(|_| digit()).collect()
});

/// Nanoseconds on the clock of this process, as marks have them.
pub fn now() -> u64 {
    BASE + BEGAN.elapsed().as_nanos() as u64
}

/// A payload of `size` bytes that was sent `at`.
pub fn payload(at: u64, size: usize) -> String {
    let start = format!("{{\"t\":{at},\"x\":\"");
    let fill = size.saturating_sub(start.len() + 2).min(LARGEST);
    format!("{start}{}\"}}", &FILLING[..fill])
}

/// Which messages there were: how many, and the sum of their times.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Tally {
    pub count: u64,
    pub sum: u64,
}

impl Tally {
    pub fn add(&mut self, at: u64) {
        self.count += 1;
        self.sum = self.sum.wrapping_add(at);
    }
}

/// Finds the times in `bytes`; how many bytes are done with. The rest may be half a mark.
pub fn times(bytes: &[u8], mut found: impl FnMut(u64)) -> usize {
    let mut from = 0;
    while let Some(at) = FINDER.find(&bytes[from..]) {
        let start = from + at;
        let Some(digits) = bytes.get(start + MARK.len()..start + SPAN) else { return start };
        if let Some(at) = number(digits) {
            found(at);
        }
        from = start + MARK.len();
    }
    from.max(bytes.len().saturating_sub(MARK.len() - 1))
}

fn number(digits: &[u8]) -> Option<u64> {
    digits.iter().try_fold(0u64, |number, digit| {
        let digit = digit.wrapping_sub(b'0');
        (digit < 10).then(|| number * 10 + u64::from(digit))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_is_found_wherever_the_pieces_end() {
        let times: Vec<_> = (0..5).map(|i| BASE + i * 7).collect();
        let text: String =
            times.iter().map(|at| format!("{{\"type\":\"message\",\"payload\":{}}}\n", payload(*at, 64))).collect();
        let mut wanted = Tally::default();
        times.iter().for_each(|at| wanted.add(*at));
        for size in 1..text.len() {
            let (mut tally, mut rest) = (Tally::default(), Vec::new());
            for piece in text.as_bytes().chunks(size) {
                rest.extend_from_slice(piece);
                let done = self::times(&rest, |at| tally.add(at));
                rest.drain(..done);
            }
            assert_eq!(tally, wanted, "pieces of {size}");
        }
    }

    #[test]
    fn a_lost_message_beside_a_doubled_one_shows() {
        let (mut sent, mut seen) = (Tally::default(), Tally::default());
        [1, 2, 3].iter().for_each(|at| sent.add(*at));
        [1, 3, 3].iter().for_each(|at| seen.add(*at));
        assert_eq!(sent.count, seen.count);
        assert_ne!(sent, seen);
    }

    #[test]
    fn a_payload_is_json_of_the_size_that_was_asked_for() {
        for size in [SMALLEST, 128, 1000] {
            let text = payload(now(), size);
            assert_eq!(text.len(), size);
            assert!(serde_json::from_str::<serde_json::Value>(&text).is_ok(), "{text}");
        }
    }
}
