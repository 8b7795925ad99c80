//! The cursor of an event stream: one opaque text for where a reader stands in all of its channels.
//!
//! It is base64url of a version byte and, per channel, six bytes of the SHA-256 of its name, seven bytes of its epoch and
//! the offset as a LEB128 varint. A browser's `EventSource` sends it back as `Last-Event-ID`.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sha2::{Digest, Sha256};

use crate::kernel::message::{ChannelName, Epoch, Position};

const VERSION: u8 = 1;

/// A cursor that a client sent back.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Cursor(Vec<([u8; 6], Position)>);

impl Cursor {
    /// None if it is no cursor of ours.
    pub fn parse(text: &str) -> Option<Cursor> {
        let bytes = URL_SAFE_NO_PAD.decode(text).ok()?;
        let (version, mut rest) = bytes.split_first()?;
        if *version != VERSION {
            return None;
        }
        let mut places = Vec::new();
        while !rest.is_empty() {
            let (head, tail) = rest.split_at_checked(13)?;
            let tag = head[..6].try_into().ok()?;
            let epoch = Epoch(head[6..].iter().fold(0, |word, byte| word << 8 | u64::from(*byte)));
            let length = tail.iter().position(|byte| byte & 0x80 == 0)? + 1;
            if length > 9 {
                return None;
            }
            let offset = tail[..length].iter().rev().fold(0, |word, byte| word << 7 | u64::from(byte & 0x7f));
            places.push((tag, Position { epoch, offset }));
            rest = &tail[length..];
        }
        Some(Cursor(places))
    }

    pub fn position(&self, channel: &ChannelName) -> Option<Position> {
        let tag = tag(channel);
        self.0.iter().find(|(known, _)| *known == tag).map(|(_, position)| *position)
    }
}

/// Appends the cursor's text.
pub fn write<'a>(positions: impl Iterator<Item = (&'a ChannelName, Position)>, out: &mut Vec<u8>) {
    let mut bytes = vec![VERSION];
    for (channel, position) in positions {
        bytes.extend_from_slice(&tag(channel));
        bytes.extend_from_slice(&position.epoch.0.to_be_bytes()[1..]);
        let mut offset = position.offset;
        while offset >= 0x80 {
            bytes.push(offset as u8 | 0x80);
            offset >>= 7;
        }
        bytes.push(offset as u8);
    }
    out.extend_from_slice(URL_SAFE_NO_PAD.encode(bytes).as_bytes());
}

fn tag(channel: &ChannelName) -> [u8; 6] {
    let digest = Sha256::digest(channel.as_str());
    std::array::from_fn(|i| digest[i])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_gives_back_every_position_and_refuses_what_is_none() -> Result<(), Box<dyn std::error::Error>> {
        let names: Vec<_> = ["a", "b.c", "$x"].iter().map(|n| ChannelName::new(n)).collect::<Result<_, _>>()?;
        let at = |i: u64| Position { epoch: Epoch((1 << 53) - 1 - i), offset: (1 << (20 * i)) + i };
        let mut text = Vec::new();
        write(names.iter().zip([at(0), at(1), at(2)]), &mut text);
        let text = String::from_utf8(text)?;
        let cursor = Cursor::parse(&text).ok_or("not read")?;
        for (i, name) in names.iter().enumerate() {
            assert_eq!(cursor.position(name), Some(at(i as u64)));
        }
        assert_eq!(cursor.position(&ChannelName::new("other")?), None);
        for bad in ["", "!", "AA", "Ag", "AQAA", &text[..text.len() - 2]] {
            assert!(Cursor::parse(bad).is_none(), "{bad:?}");
        }
        Ok(())
    }
}
