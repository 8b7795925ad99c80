//! Counts the messages of a WebSocket that cannot be looked into, by their frames.

/// Where one is in a stream of frames, from one read to the next.
#[derive(Default)]
pub struct Frames {
    /// The head of a frame, as far as it has come.
    head: Vec<u8>,
    /// Bytes of a payload that are still to come.
    payload: usize,
}

impl Frames {
    /// How many messages begin in these bytes. A server's frames are not masked, and those of the hub are whole messages.
    pub fn count(&mut self, mut bytes: &[u8]) -> u64 {
        let mut messages = 0;
        while !bytes.is_empty() {
            let skipped = self.payload.min(bytes.len());
            self.payload -= skipped;
            bytes = &bytes[skipped..];
            let Some((first, rest)) = bytes.split_first() else { break };
            self.head.push(*first);
            bytes = rest;
            let length = match *self.head {
                [_, length @ 0..=125] => Some(u64::from(length)),
                [_, 126, high, low] => Some(u64::from(u16::from_be_bytes([high, low]))),
                [_, 127, a, b, c, d, e, f, g, h] => Some(u64::from_be_bytes([a, b, c, d, e, f, g, h])),
                _ => None,
            };
            if let Some(length) = length {
                // Text or binary, compressed or not; the others are pings and farewells.
                messages += u64::from(matches!(self.head[0] & 0x0f, 1 | 2));
                self.payload = length as usize;
                self.head.clear();
            }
        }
        messages
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_counted_wherever_the_pieces_end() {
        let mut stream = Vec::new();
        for (opcode, length) in [(0xc1u8, 5usize), (0x89, 0), (0x81, 300), (0xc1, 0), (0xc1, 70_000), (0x8a, 3)] {
            stream.push(opcode);
            match length {
                0..=125 => stream.push(length as u8),
                126..=0xffff => {
                    stream.push(126);
                    stream.extend_from_slice(&(length as u16).to_be_bytes());
                }
                _ => {
                    stream.push(127);
                    stream.extend_from_slice(&(length as u64).to_be_bytes());
                }
            }
            stream.extend(std::iter::repeat_n(0x81, length));
        }
        for size in [1, 2, 3, 7, 64, 1000, stream.len()] {
            let mut frames = Frames::default();
            let messages: u64 = stream.chunks(size).map(|piece| frames.count(piece)).sum();
            assert_eq!(messages, 4, "pieces of {size}");
        }
    }
}
