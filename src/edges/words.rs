//! A short text that is copied as a number is, for what a close frame can say.

use std::fmt;

#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Words {
    bytes: [u8; Words::MAX],
    length: u8,
}

impl Words {
    /// Of bytes. A close frame has room for 123.
    pub const MAX: usize = 96;

    /// As much of `text` as there is room for.
    pub fn new(text: &str) -> Words {
        let mut length = text.len().min(Words::MAX);
        while !text.is_char_boundary(length) {
            length -= 1;
        }
        let mut bytes = [0; Words::MAX];
        bytes[..length].copy_from_slice(&text.as_bytes()[..length]);
        Words { bytes, length: length as u8 }
    }

    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.bytes[..self.length.into()]).unwrap_or_default()
    }
}

impl fmt::Debug for Words {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_too_long_is_cut_between_characters() {
        assert_eq!(Words::new("spam").as_str(), "spam");
        let cut = Words::new(&"é".repeat(60));
        assert_eq!(cut.as_str(), "é".repeat(48));
        assert_eq!(Words::new(&format!("a{}", "é".repeat(60))).as_str().len(), 95);
    }
}
