//! Numbers and byte strings as the stores write them: `bytes = length:varint byte*`. A varint is LEB128: seven bits a byte, low
//! first.

use bytes::Bytes;

/// A value that is none of ours: the store is damaged.
#[derive(Debug, PartialEq, Eq)]
pub struct Damaged;

pub fn put_number(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

pub fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_number(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

/// What has not been read yet. The byte strings that it gives share its memory.
pub struct Reader(pub Bytes);

impl Reader {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn byte(&mut self) -> Result<u8, Damaged> {
        let byte = *self.0.first().ok_or(Damaged)?;
        self.0 = self.0.slice(1..);
        Ok(byte)
    }

    pub fn number(&mut self) -> Result<u64, Damaged> {
        let mut number = 0u64;
        for (i, byte) in self.0.iter().enumerate().take(10) {
            number |= u64::from(byte & 0x7f) << (7 * i);
            if byte & 0x80 == 0 {
                self.0 = self.0.slice(i + 1..);
                return Ok(number);
            }
        }
        Err(Damaged)
    }

    pub fn bytes(&mut self) -> Result<Bytes, Damaged> {
        let length = self.number()? as usize;
        if length > self.0.len() {
            return Err(Damaged);
        }
        Ok(self.0.split_to(length))
    }

    pub fn text(&mut self) -> Result<Box<str>, Damaged> {
        let bytes = self.bytes()?;
        std::str::from_utf8(&bytes).map(Into::into).map_err(|_| Damaged)
    }
}
