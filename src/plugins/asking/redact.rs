//! What a declared view leaves of a JSON payload: members are dropped, masked or picked in its own bytes, and every other
//! byte stays what it is.

use std::borrow::Cow;
use std::ops::Range;

use bytes::Bytes;
use hmac::{Hmac, Mac};
use sha2::Sha256;

use crate::plugins::vm::scan::{MAX_DEPTH, Scanner};

/// Paths of a rule, and steps of a path.
const MAX_PATHS: usize = 256;
const MAX_STEPS: usize = 32;

#[derive(Clone, PartialEq, Default, Debug)]
pub struct Rule {
    paths: Vec<Path>,
    /// Only what a path picks stays.
    picks: bool,
}

#[derive(Clone, PartialEq, Debug)]
struct Path {
    steps: Vec<Step>,
    act: Act,
}

#[derive(Clone, PartialEq, Debug)]
enum Step {
    /// Every member of an object, every element of a list.
    Any,
    /// A member by its name, an element by its place, from 1.
    One(String, Option<usize>),
}

#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Act {
    Drop,
    Mask(Mask),
    Pick,
}

/// What stands instead of a value; of two the later one here counts.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Mask {
    /// The last four characters, if there are at least eight.
    Last4,
    /// The same for the same value, and different for others; keyed, so that nobody can try values out.
    Hash,
    Stars,
    Null,
}

impl Mask {
    pub const NAMES: [&str; 4] = ["last4", "hash", "stars", "null"];

    pub fn named(name: &str) -> Option<Mask> {
        let at = Mask::NAMES.iter().position(|known| *known == name)?;
        [Mask::Last4, Mask::Hash, Mask::Stars, Mask::Null].get(at).copied()
    }

    fn of(self, value: &[u8], key: &[u8], out: &mut Vec<u8>) {
        let text = match value.first() {
            Some(b'{' | b'[') => None,
            Some(b'"') => serde_json::from_slice::<String>(value).ok().map(Cow::Owned),
            _ => Some(String::from_utf8_lossy(value)),
        };
        let shown = match (self, &text) {
            (Mask::Null, _) => return out.extend_from_slice(b"null"),
            (Mask::Last4, Some(text)) if text.chars().count() >= 8 => {
                let from = text.char_indices().rev().nth(3).map_or(0, |(at, _)| at);
                Cow::Owned(format!("****{}", &text[from..]))
            }
            (Mask::Last4, _) => Cow::Borrowed("****"),
            (Mask::Hash, text) => {
                let said = text.as_ref().map_or(value, |text| text.as_bytes());
                // HMAC takes a key of any length.
                let Ok(hmac) = Hmac::<Sha256>::new_from_slice(key) else { return out.extend_from_slice(b"null") };
                let hash = hmac.chain_update(said).finalize().into_bytes();
                Cow::Owned(hash[..8].iter().map(|byte| format!("{byte:02x}")).collect())
            }
            (Mask::Stars, _) => Cow::Borrowed("***"),
        };
        // Writing a string into memory does not fail.
        let _ = serde_json::to_writer(out, &shown);
    }
}

/// A piece of the payload that goes, and what it is masked with.
struct Edit {
    at: Range<usize>,
    mask: Option<Mask>,
}

impl Rule {
    /// Adds what is done at a path: steps between dots, `*` for every member or element; `\.` and `\*` are themselves.
    pub fn add(&mut self, path: &str, act: Act) -> Result<(), String> {
        let steps = steps(path)?;
        if self.paths.len() >= MAX_PATHS {
            return Err(format!("a view has at most {MAX_PATHS} paths"));
        }
        self.picks |= act == Act::Pick;
        self.paths.push(Path { steps, act });
        Ok(())
    }

    pub fn is_empty(&self) -> bool {
        self.paths.is_empty()
    }

    /// The payload as the view leaves it, or nothing if it is not JSON, or nothing of it is picked.
    pub fn apply(&self, payload: &Bytes, key: &[u8]) -> Option<Bytes> {
        let scan = Scanner::new(payload)?;
        let tracks = (0..self.paths.len()).map(|path| Track { path, depth: 0 }).collect();
        let mut cut = Cut { rule: self, scan, tracks, edits: Vec::new() };
        cut.scan.space();
        if self.picks && !matches!(cut.scan.peek()?, b'{' | b'[') {
            return None;
        }
        cut.value(0..self.paths.len(), !self.picks, MAX_DEPTH)?;
        cut.scan.end()?;
        if cut.edits.is_empty() {
            return Some(payload.clone());
        }
        let mut out = Vec::with_capacity(payload.len());
        let mut from = 0;
        for edit in &cut.edits {
            out.extend_from_slice(&payload[from..edit.at.start]);
            if let Some(mask) = edit.mask {
                mask.of(&payload[edit.at.clone()], key, &mut out);
            }
            from = edit.at.end;
        }
        out.extend_from_slice(&payload[from..]);
        Some(out.into())
    }
}

fn steps(path: &str) -> Result<Vec<Step>, String> {
    let (mut steps, mut word, mut plain) = (Vec::new(), String::new(), true);
    let mut chars = path.chars();
    loop {
        match chars.next() {
            Some('\\') => {
                plain = false;
                match chars.next() {
                    Some(c @ ('.' | '*' | '\\')) => word.push(c),
                    _ => return Err(format!("path {path:?}: behind \\ stands one of . * \\")),
                }
            }
            end @ (Some('.') | None) => {
                if word.is_empty() {
                    return Err(format!("path {path:?}: a step is empty"));
                }
                let place = word.parse().ok().filter(|_| plain);
                let text = std::mem::take(&mut word);
                steps.push(if plain && text == "*" { Step::Any } else { Step::One(text, place) });
                plain = true;
                if end.is_none() {
                    break;
                }
            }
            Some(c) => word.push(c),
        }
    }
    if steps.len() > MAX_STEPS { Err(format!("path {path:?}: at most {MAX_STEPS} steps")) } else { Ok(steps) }
}

/// A path that the value at hand is on: so many of its steps led here.
#[derive(Clone, Copy)]
struct Track {
    path: usize,
    depth: usize,
}

struct Cut<'a> {
    rule: &'a Rule,
    scan: Scanner<'a>,
    /// Those of the value at hand, behind those of what it lies in.
    tracks: Vec<Track>,
    /// In order, none inside another.
    edits: Vec<Edit>,
}

enum Fate {
    Goes,
    Masked(Mask),
    /// Whether everything below is picked.
    Stays(bool),
}

impl Cut<'_> {
    fn value(&mut self, tracks: Range<usize>, picked: bool, room: usize) -> Option<()> {
        if tracks.is_empty() && picked || !matches!(self.scan.peek()?, b'{' | b'[') {
            return self.scan.skip(room);
        }
        let room = room.checked_sub(1)?;
        let is_object = self.scan.peek()? == b'{';
        let close = if is_object { b'}' } else { b']' };
        self.scan.at += 1;
        let mut begin = self.scan.at;
        self.scan.space();
        if self.scan.take(close).is_some() {
            return Some(());
        }
        let (mut place, mut stayed) = (0, false);
        loop {
            let key = self.scan.key(is_object)?;
            place += 1;
            let below = self.tracks.len();
            let fate = self.fate(&tracks, key, place, picked)?;
            let value = self.scan.at;
            match fate {
                Fate::Stays(picked) => self.value(below..self.tracks.len(), picked, room)?,
                Fate::Goes => self.scan.skip(room)?,
                Fate::Masked(mask) => {
                    self.scan.skip(room)?;
                    self.edits.push(Edit { at: value..self.scan.at, mask: Some(mask) });
                }
            }
            self.tracks.truncate(below);
            self.scan.space();
            let end = self.scan.at;
            let more = self.scan.take(b',').is_some();
            if matches!(fate, Fate::Goes) {
                // With it goes one comma: the one before, or the one behind if nothing before has stayed.
                let from = if stayed { begin - 1 } else { begin };
                let to = if more && !stayed { end + 1 } else { end };
                self.edits.push(Edit { at: from..to, mask: None });
            } else {
                stayed = true;
            }
            if !more {
                return self.scan.take(close);
            }
            begin = self.scan.at;
        }
    }

    /// What becomes of a member or element, whose value begins at hand; leaves the tracks that go on into it.
    fn fate(&mut self, tracks: &Range<usize>, key: Option<Range<usize>>, place: usize, picked: bool) -> Option<Fate> {
        let (mut goes, mut mask, mut picked, mut leads) = (false, None, picked, false);
        for at in tracks.clone() {
            let Track { path, depth } = self.tracks[at];
            let Path { steps, act } = &self.rule.paths[path];
            let hit = match (&steps[depth], &key) {
                (Step::Any, _) => true,
                (Step::One(name, _), Some(key)) => self.scan.says(key, name),
                (Step::One(_, wanted), None) => *wanted == Some(place),
            };
            if !hit {
                continue;
            }
            if depth + 1 < steps.len() {
                self.tracks.push(Track { path, depth: depth + 1 });
                leads |= *act == Act::Pick;
                continue;
            }
            match act {
                Act::Drop => goes = true,
                Act::Mask(how) => mask = mask.max(Some(*how)),
                Act::Pick => picked = true,
            }
        }
        let on_the_way = leads && matches!(self.scan.peek()?, b'{' | b'[');
        Some(match mask {
            _ if goes || !(picked || on_the_way) => Fate::Goes,
            Some(mask) => Fate::Masked(mask),
            None => Fate::Stays(picked),
        })
    }
}
