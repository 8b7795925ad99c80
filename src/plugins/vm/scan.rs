//! JSON read where it lies: nothing is built, values are places in the text.

use std::ops::Range;

/// Containers inside each other; as many as what builds values from text takes.
pub const MAX_DEPTH: usize = 127;

/// Reads from `at` on. What answers `None` has met something that is not JSON, or is nested too deeply.
pub struct Scanner<'a> {
    pub text: &'a [u8],
    pub at: usize,
}

impl<'a> Scanner<'a> {
    /// Bytes that are no UTF-8 are no JSON.
    pub fn new(text: &'a [u8]) -> Option<Scanner<'a>> {
        std::str::from_utf8(text).is_ok().then_some(Scanner { text, at: 0 })
    }

    pub fn peek(&self) -> Option<u8> {
        self.text.get(self.at).copied()
    }

    pub fn space(&mut self) {
        while let Some(b' ' | b'\n' | b'\r' | b'\t') = self.peek() {
            self.at += 1;
        }
    }

    pub fn take(&mut self, byte: u8) -> Option<()> {
        (self.peek()? == byte).then(|| self.at += 1)
    }

    /// Nothing but space is left.
    pub fn end(&mut self) -> Option<()> {
        self.space();
        self.peek().is_none().then_some(())
    }

    /// A string with its quotes.
    pub fn string(&mut self) -> Option<Range<usize>> {
        let begin = self.at;
        self.take(b'"')?;
        loop {
            self.plain();
            match self.peek()? {
                b'"' => {
                    self.at += 1;
                    return Some(begin..self.at);
                }
                b'\\' => self.escape()?,
                0..0x20 => return None,
                _ => self.at += 1,
            }
        }
    }

    /// Passes over the bytes of a string that mean themselves, eight at a time.
    fn plain(&mut self) {
        const ONES: u64 = u64::from_le_bytes([1; 8]);
        const HIGH: u64 = ONES << 7;
        let zero = |word: u64| word.wrapping_sub(ONES) & !word & HIGH;
        while let Some(bytes) = self.text.get(self.at..).and_then(|rest| rest.first_chunk::<8>()) {
            let word = u64::from_le_bytes(*bytes);
            let quote = zero(word ^ (ONES * u64::from(b'"')));
            let slash = zero(word ^ (ONES * u64::from(b'\\')));
            let control = word.wrapping_sub(ONES * 0x20) & !word & HIGH;
            let met = quote | slash | control;
            // A borrow may mark bytes behind the first one that is met, never before it.
            if met != 0 {
                self.at += met.trailing_zeros() as usize / 8;
                return;
            }
            self.at += 8;
        }
    }

    fn escape(&mut self) -> Option<()> {
        match *self.text.get(self.at + 1)? {
            b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't' => self.at += 2,
            b'u' => {
                let digits = self.text.get(self.at + 2..self.at + 6)?;
                digits.iter().all(u8::is_ascii_hexdigit).then_some(())?;
                self.at += 6;
            }
            _ => return None,
        }
        Some(())
    }

    fn digits(&mut self) -> Option<()> {
        let begin = self.at;
        while self.peek().is_some_and(|b| b.is_ascii_digit()) {
            self.at += 1;
        }
        (self.at > begin).then_some(())
    }

    fn number(&mut self) -> Option<()> {
        let _ = self.take(b'-');
        if self.take(b'0').is_none() {
            self.digits()?;
        }
        if self.take(b'.').is_some() {
            self.digits()?;
        }
        if let Some(b'e' | b'E') = self.peek() {
            self.at += 1;
            if let Some(b'+' | b'-') = self.peek() {
                self.at += 1;
            }
            self.digits()?;
        }
        Some(())
    }

    fn word(&mut self, word: &[u8]) -> Option<()> {
        self.text[self.at..].starts_with(word).then(|| self.at += word.len())
    }

    /// Passes over a value. `room` is how many containers it may open inside each other.
    pub fn skip(&mut self, room: usize) -> Option<()> {
        match self.peek()? {
            b'"' => self.string().map(drop),
            b't' => self.word(b"true"),
            b'f' => self.word(b"false"),
            b'n' => self.word(b"null"),
            b'{' | b'[' => self.members(room, |scan, _, _, room| scan.skip(room)),
            _ => self.number(),
        }
    }

    /// To where a member's value begins: its key with the quotes, none in a list.
    pub fn key(&mut self, is_object: bool) -> Option<Option<Range<usize>>> {
        self.space();
        if !is_object {
            return Some(None);
        }
        let key = self.string()?;
        self.space();
        self.take(b':')?;
        self.space();
        Some(Some(key))
    }

    /// Walks an object or a list: `each` is given every key (a string with its quotes; none in a list), which member it is,
    /// counted from 1, and passes over the value, which begins at `at`.
    fn members(
        &mut self,
        room: usize,
        mut each: impl FnMut(&mut Self, Option<Range<usize>>, usize, usize) -> Option<()>,
    ) -> Option<()> {
        let room = room.checked_sub(1)?;
        let is_object = self.peek()? == b'{';
        let close = if is_object { b'}' } else { b']' };
        self.at += 1;
        self.space();
        if self.take(close).is_some() {
            return Some(());
        }
        let mut place = 0;
        loop {
            let key = self.key(is_object)?;
            place += 1;
            each(self, key, place, room)?;
            self.space();
            if self.take(close).is_some() {
                return Some(());
            }
            self.take(b',')?;
        }
    }

    /// Whether a string (with its quotes) says `wanted`, however it is spelt.
    pub fn says(&self, string: &Range<usize>, wanted: &str) -> bool {
        let quoted = &self.text[string.clone()];
        let inner = &quoted[1..quoted.len() - 1];
        match inner.contains(&b'\\') {
            false => inner == wanted.as_bytes(),
            // One that no text can be is not ours.
            true => serde_json::from_slice::<String>(quoted).is_ok_and(|text| text == wanted),
        }
    }
}

/// Where the value at `path` lies (`a.b.1`: members by name, elements of lists counted from 1). Of several members of one
/// name the last counts, as it does for everybody who builds values. `None` if there is none, or the text is not JSON.
pub fn find(text: &[u8], path: &str) -> Option<Range<usize>> {
    let mut scan = Scanner::new(text)?;
    scan.space();
    let mut found = None;
    seek(&mut scan, Some(path), MAX_DEPTH, &mut found)?;
    scan.end()?;
    found
}

fn seek(scan: &mut Scanner<'_>, path: Option<&str>, room: usize, found: &mut Option<Range<usize>>) -> Option<()> {
    let Some(path) = path else {
        let begin = scan.at;
        scan.skip(room)?;
        *found = Some(begin..scan.at);
        return Some(());
    };
    // A later member of the same name takes the place of an earlier one, even if it holds nothing.
    *found = None;
    if !matches!(scan.peek()?, b'{' | b'[') {
        return scan.skip(room);
    }
    let (step, rest) = path.split_once('.').map_or((path, None), |(step, rest)| (step, Some(rest)));
    let wanted = step.parse::<usize>().ok();
    scan.members(room, |scan, key, place, room| {
        let hit = match &key {
            Some(key) => scan.says(key, step),
            None => wanted == Some(place),
        };
        if hit { seek(scan, rest, room, found) } else { scan.skip(room) }
    })
}
