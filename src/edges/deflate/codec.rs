//! One message, compressed and back again. The state is a thread's and forgets each message.

use std::cell::RefCell;

use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};

use crate::edges::wire::Ending;

/// What our compressed messages ask of who inflates them: 4 KiB. `websockets` for Python asks for no more unless told otherwise,
/// so one encoding serves all; 32 KiB would make messages of 60 KiB smaller by a tenth, and those up to 16 KiB not at all.
pub const WINDOW_BITS: u8 = 12;

/// Within a hundredth of what level 6 gains, in two thirds of its time.
const LEVEL: u32 = 3;

/// What ends a message that was flushed, and is left out on the wire (RFC 7692, 7.2.1).
const FLUSHED: [u8; 4] = [0, 0, 0xff, 0xff];

thread_local! {
    static DEFLATE: RefCell<Compress> =
        RefCell::new(Compress::new_with_window_bits(Compression::new(LEVEL), false, WINDOW_BITS));
    static INFLATE: RefCell<Decompress> = RefCell::new(Decompress::new(false));
}

/// Puts a message's payload compressed in place of what is in `packed`; false if that is not smaller.
pub fn deflate(payload: &[u8], packed: &mut Vec<u8>) -> bool {
    packed.clear();
    // Room for less than the payload and its end is enough: what does not fit is no gain.
    packed.reserve(payload.len() + FLUSHED.len());
    DEFLATE.with_borrow_mut(|state| {
        state.reset();
        let done = state.compress_vec(payload, packed, FlushCompress::Sync).is_ok();
        let whole = done && state.total_in() == payload.len() as u64 && packed.len() < packed.capacity();
        if !whole || !packed.ends_with(&FLUSHED) {
            return false;
        }
        packed.truncate(packed.len() - FLUSHED.len());
        packed.len() < payload.len()
    })
}

/// A client's message as it was, at most `max` bytes of it: what would be more is refused before it is in memory.
pub fn inflate(mut packed: Vec<u8>, max: usize) -> Result<Vec<u8>, Ending> {
    packed.extend_from_slice(&FLUSHED);
    let mut rest = &packed[..];
    let mut whole = Vec::new();
    INFLATE.with_borrow_mut(|state| {
        state.reset(false);
        loop {
            if whole.len() == whole.capacity() {
                // One byte more than there may be tells a message of just that size from a larger one.
                let more = (whole.len().max(packed.len() * 2)).min(max + 1 - whole.len());
                whole.reserve_exact(more);
            }
            let (taken, given) = (state.total_in(), whole.len());
            let status = state.decompress_vec(rest, &mut whole, FlushDecompress::Sync).map_err(|_| Ending::Damaged)?;
            rest = &rest[(state.total_in() - taken) as usize..];
            if whole.len() > max {
                return Err(Ending::TooLarge);
            }
            match status {
                // A block that says it is the last need not be: the next one begins anew (RFC 7692, 7.2.3.4).
                Status::StreamEnd if !rest.is_empty() => state.reset(false),
                Status::StreamEnd => return Ok(()),
                _ if whole.len() == whole.capacity() => {}
                _ if rest.is_empty() => return Ok(()),
                _ if whole.len() == given => return Err(Ending::Damaged),
                _ => {}
            }
        }
    })?;
    Ok(whole)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MAX: usize = 64 * 1024;

    fn deflated(payload: &[u8]) -> Option<Vec<u8>> {
        let mut packed = b"left over".to_vec();
        deflate(payload, &mut packed).then_some(packed)
    }

    /// Bytes with no pattern.
    fn noise(length: usize) -> Vec<u8> {
        let mut state = 1u64;
        let next = || {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 56) as u8
        };
        std::iter::repeat_with(next).take(length).collect()
    }

    #[test]
    fn a_message_comes_back_as_it_was_and_is_the_same_bytes_each_time() {
        let text = r#"{"type":"message","channel":"demo.a","seq_id":17,"payload":{"a":[1,2,3]}}"#;
        for times in [1, 2, 50, 800] {
            let payload = text.repeat(times);
            let packed = deflated(payload.as_bytes()).unwrap();
            assert!(packed.len() < payload.len());
            assert_eq!(inflate(packed.clone(), MAX).unwrap(), payload.as_bytes());
            assert_eq!(deflated(payload.as_bytes()).unwrap(), packed, "what came before leaves no trace");
        }
    }

    #[test]
    fn what_would_not_be_smaller_is_left_as_it_is() {
        assert_eq!(deflated(b""), None);
        assert_eq!(deflated(b"{}"), None);
        for length in [1, 100, 4096, 70_000] {
            assert_eq!(deflated(&noise(length)), None);
        }
    }

    #[test]
    fn no_message_needs_a_larger_window_than_was_agreed() {
        // The same again, farther away than the window reaches.
        let far = [noise(20_000), noise(20_000)].concat();
        assert_eq!(deflated(&far), None);
        let near = [noise(3_000), noise(3_000), noise(3_000), b" ".repeat(40_000)].concat();
        let packed = deflated(&near).unwrap();
        let mut narrow = Decompress::new_with_window_bits(false, WINDOW_BITS);
        let mut whole = Vec::with_capacity(near.len() + 1);
        narrow.decompress_vec(&packed, &mut whole, FlushDecompress::Sync).unwrap();
        assert_eq!(whole, near);
    }

    #[test]
    fn the_examples_of_the_standard_are_hello() {
        for packed in [
            &[0xf2, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00][..],
            // In a block without compression.
            &[0x00, 0x05, 0x00, 0xfa, 0xff, 0x48, 0x65, 0x6c, 0x6c, 0x6f, 0x00],
            // In a block that says it is the last.
            &[0xf3, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00, 0x00],
            // In two blocks.
            &[0xf2, 0x48, 0x05, 0x00, 0x00, 0x00, 0xff, 0xff, 0xca, 0xc9, 0xc9, 0x07, 0x00],
        ] {
            assert_eq!(inflate(packed.to_vec(), MAX).unwrap(), b"Hello");
        }
        assert_eq!(inflate(vec![0], MAX).unwrap(), b"");
    }

    #[test]
    fn a_bomb_is_refused_at_the_bound_and_a_message_of_just_that_size_is_not() {
        let mut bomb = Vec::with_capacity(64 * 1024);
        let mut state = Compress::new(Compression::best(), false);
        state.compress_vec(&vec![b' '; 16 << 20], &mut bomb, FlushCompress::Sync).unwrap();
        assert!(bomb.len() < 32 * 1024, "{}", bomb.len());
        assert_eq!(inflate(bomb, MAX), Err(Ending::TooLarge));
        for (length, fits) in [(MAX - 1, true), (MAX, true), (MAX + 1, false)] {
            let packed = deflated(&vec![b' '; length]).unwrap();
            let whole = inflate(packed, MAX);
            assert_eq!(whole.as_ref().map(Vec::len).ok(), fits.then_some(length));
            assert!(whole.is_ok_and(|whole| whole.capacity() <= MAX + 1) || !fits, "no more memory than the bound");
        }
    }

    #[test]
    fn what_is_not_deflated_is_refused() {
        for packed in [&[0xff; 20][..], &[0x06, 1, 2, 3], &[0x00, 5, 0, 0, 0], b"{\"type\":\"ping\"}"] {
            assert_eq!(inflate(packed.to_vec(), MAX), Err(Ending::Damaged), "{packed:?}");
        }
        // A match that reaches back before the beginning, after a good message: nothing of that is there any more.
        inflate(deflated(&[b'a'; 1000]).unwrap(), MAX).unwrap();
        assert_eq!(inflate(vec![0x02, 0x03, 0x00], MAX), Err(Ending::Damaged));
    }

    proptest! {
        #[test]
        fn whatever_comes_ends_within_the_bound(packed in prop::collection::vec(any::<u8>(), 0..2000), max in 0usize..5000) {
            if let Ok(whole) = inflate(packed, max) {
                prop_assert!(whole.len() <= max);
            }
        }

        #[test]
        fn whatever_was_said_is_heard(words in prop::collection::vec("[a-d]{1,9}", 0..500)) {
            let text = words.concat();
            if let Some(packed) = deflated(text.as_bytes()) {
                prop_assert!(packed.len() < text.len());
                prop_assert_eq!(inflate(packed, text.len()).unwrap(), text.as_bytes());
            }
        }
    }
}
