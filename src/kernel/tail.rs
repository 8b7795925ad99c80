//! The newest part of a channel's log, in memory, shared by all its readers.
//!
//! It holds publications, and for each format in use the same publications as one run of encoded bytes. A reader copies
//! the stretch between its cursor and the head out of that run: however many publications that is, it is one copy and one
//! write. Encoding is done by the first reader that needs it, under the lock of that encoding alone. Readers who see through
//! a view share the bytes of that view; what it withholds stands there as a gap, in its place.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::{Mutex, RwLock};

use super::counters::Counters;
use super::format::{Format, Gap, GapCause, Notice};
use super::hooks::Sight;
use super::message::{ChannelName, Epoch, Micros, Offset, Position, Publication};
use super::rendering::Rendering;

/// How much a tail may hold; the newest publication always stays.
#[derive(Clone, Copy, Debug)]
pub struct TailLimit {
    pub count: usize,
    pub bytes: usize,
}

pub struct Tail {
    channel: ChannelName,
    epoch: Epoch,
    /// The newest offset that readers may see.
    head: AtomicU64,
    /// The newest offset whose publication carries a once number; 0 if none has come yet.
    newest_once: AtomicU64,
    recent: RwLock<Recent>,
    encodings: Mutex<Vec<Arc<Encoding>>>,
    counters: Arc<Counters>,
}

struct Recent {
    /// Contiguous: the last one is the head.
    publications: VecDeque<Arc<Publication>>,
    bytes: usize,
    /// The earliest moment at which one of them must not be shown any more.
    expires: Option<Micros>,
}

impl Recent {
    fn first(&self, head: Offset) -> Offset {
        head + 1 - self.publications.len() as Offset
    }

    /// How many of the oldest are beyond a limit; the newest never is.
    fn surplus(&self, limit: TailLimit) -> usize {
        let (mut surplus, mut bytes) = (0, self.bytes);
        while self.publications.len() - surplus > 1
            && (self.publications.len() - surplus > limit.count || bytes > limit.bytes)
        {
            bytes -= self.publications[surplus].message.weight();
            surplus += 1;
        }
        surplus
    }

    fn drop_oldest(&mut self, count: usize) {
        for publication in self.publications.drain(..count) {
            self.bytes -= publication.message.weight();
        }
    }
}

/// A tail's publications in one format, through one view.
pub struct Encoding {
    format: Arc<dyn Format>,
    /// Shared with the encodings of the same view in other formats.
    rendering: Option<Arc<Rendering>>,
    run: RwLock<Run>,
}

/// Encoded publications back to back. `ends[i]` is where the publication `first + i` ends, counted from the start of time.
struct Run {
    first: Offset,
    ends: VecDeque<u64>,
    /// The position of `bytes[0]`; everything before `start` is no longer needed.
    base: u64,
    start: u64,
    bytes: Vec<u8>,
}

impl Run {
    fn next(&self) -> Offset {
        self.first + self.ends.len() as Offset
    }

    fn start_of(&self, offset: Offset) -> u64 {
        match offset - self.first {
            0 => self.start,
            n => self.ends[n as usize - 1],
        }
    }

    fn clear(&mut self, first: Offset) {
        *self = Run { first, ends: VecDeque::new(), base: 0, start: 0, bytes: Vec::new() };
    }

    /// Forgets everything before `first`; the bytes move only when more than half of them are dead.
    fn trim(&mut self, first: Offset) {
        if first <= self.first {
            return;
        }
        if first >= self.next() {
            return self.clear(first);
        }
        let count = (first - self.first) as usize;
        self.start = self.ends[count - 1];
        self.ends.drain(..count);
        self.first = first;
        let dead = (self.start - self.base) as usize;
        if dead > self.bytes.len() / 2 {
            self.bytes.drain(..dead);
            self.base = self.start;
        }
    }

    /// Keeps no memory that it does not need.
    fn give_back(&mut self) {
        self.bytes.drain(..(self.start - self.base) as usize);
        self.base = self.start;
        self.bytes.shrink_to_fit();
    }

    fn copy(
        &self,
        after: Offset,
        upto: Offset,
        room: usize,
        one_by_one: bool,
        out: &mut Vec<u8>,
        mut step: impl FnMut(Offset, usize, &mut Vec<u8>),
    ) -> Copied {
        if upto <= after {
            return Copied::All;
        }
        let begin = self.start_of(after + 1);
        let from = (after + 1 - self.first) as usize;
        let to = (upto + 1 - self.first) as usize;
        let fits = self.ends.range(from..to).take_while(|end| (**end - begin) as usize <= room).count().max(1);
        let slice = |a: u64, b: u64| &self.bytes[(a - self.base) as usize..(b - self.base) as usize];
        let ends = self.ends.range(from..from + fits);
        if one_by_one {
            let mut position = begin;
            for (offset, end) in (after + 1..).zip(ends) {
                out.extend_from_slice(slice(position, *end));
                position = *end;
                let length = out.len();
                step(offset, length, out);
            }
        } else {
            let origin = out.len();
            out.extend_from_slice(slice(begin, self.ends[from + fits - 1]));
            for (offset, end) in (after + 1..).zip(ends) {
                step(offset, origin + (*end - begin) as usize, out);
            }
        }
        if from + fits == to { Copied::All } else { Copied::Some }
    }
}

/// What a copy found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Copied {
    /// Everything up to the limit that was given.
    All,
    /// There was no room for more.
    Some,
    /// The next publication has left the tail: the log has it, or nobody.
    Behind,
    /// The view is slow and has not said yet what its readers see of the next publication.
    Dark,
}

impl Tail {
    pub fn new(channel: ChannelName, epoch: Epoch, head: Offset, counters: Arc<Counters>) -> Self {
        Tail {
            channel,
            epoch,
            head: AtomicU64::new(head),
            newest_once: AtomicU64::new(0),
            recent: RwLock::new(Recent { publications: VecDeque::new(), bytes: 0, expires: None }),
            encodings: Mutex::new(Vec::new()),
            counters,
        }
    }

    /// The newest offset that readers may see.
    pub fn head(&self) -> Offset {
        self.head.load(Ordering::Acquire)
    }

    /// The oldest offset that is still here; `head + 1` if none is.
    pub fn first(&self) -> Offset {
        let recent = self.recent.read();
        recent.first(self.head())
    }

    /// Whether what is above an offset takes more than half of the room that a tail has.
    pub(super) fn is_half_above(&self, offset: Offset, limit: TailLimit) -> bool {
        let above = self.head().saturating_sub(offset) as usize;
        if above < 2 {
            return false;
        }
        let recent = self.recent.read();
        let weight = recent.bytes / recent.publications.len().max(1);
        above > limit.count / 2 || above * weight > limit.bytes / 2
    }

    /// Shows a publication to the readers. Only the channel's lane calls it.
    pub(super) fn push(&self, publication: Publication, limit: TailLimit) {
        let mut recent = self.recent.write();
        let head = self.head();
        if publication.offset != head + 1 {
            // The log has a hole here (a crash took what a weaker ack did not protect): what is before it is the log's.
            let count = recent.publications.len();
            recent.drop_oldest(count);
        }
        recent.bytes += publication.message.weight();
        recent.expires = earlier(recent.expires, publication.expires);
        if publication.once.is_some() {
            self.newest_once.store(publication.offset, Ordering::Relaxed);
        }
        self.head.store(publication.offset, Ordering::Release);
        recent.publications.push_back(Arc::new(publication));
        let surplus = recent.surplus(limit);
        recent.drop_oldest(surplus);
    }

    /// Drops what is beyond a limit, and gives its memory back at once. Only the channel's lane calls it.
    pub(super) fn shrink(&self, limit: TailLimit) {
        let (first, surplus) = {
            let recent = self.recent.read();
            (recent.first(self.head()), recent.surplus(limit))
        };
        if surplus > 0 {
            self.drop_until(first + surplus as Offset - 1);
            self.encodings.lock().iter().for_each(|encoding| encoding.run.write().give_back());
        }
    }

    /// The log reaches further than its readers know: what is up to `head` is the log's to tell.
    pub(super) fn leap(&self, head: Offset) {
        let mut recent = self.recent.write();
        if head > self.head() {
            let count = recent.publications.len();
            recent.drop_oldest(count);
            self.head.store(head, Ordering::Release);
        }
    }

    /// Drops everything up to `offset`: it was deleted, or nobody needs it here.
    pub(super) fn drop_until(&self, offset: Offset) {
        let mut recent = self.recent.write();
        let first = recent.first(self.head());
        let count = (offset + 1).saturating_sub(first).min(recent.publications.len() as u64) as usize;
        recent.drop_oldest(count);
        let first = recent.first(self.head());
        drop(recent);
        for encoding in self.encodings.lock().iter() {
            encoding.trim(&mut encoding.run.write(), first);
        }
    }

    /// Drops what has outlived its own time, and with it all that is older.
    pub(super) fn expire(&self, now: Micros) {
        self.encodings.lock().retain(|e| Arc::strong_count(e) > 1);
        let last_dead = {
            let mut recent = self.recent.write();
            if recent.expires.is_none_or(|at| at > now) {
                return;
            }
            let dead = recent.publications.iter().rev().find(|p| p.expires.is_some_and(|at| at <= now));
            let last_dead = dead.map(|p| p.offset);
            let after = last_dead.unwrap_or(0);
            recent.expires =
                recent.publications.iter().filter(|p| p.offset > after).fold(None, |e, p| earlier(e, p.expires));
            last_dead
        };
        if let Some(offset) = last_dead {
            self.drop_until(offset);
        }
    }

    /// The tail's publications in one format and through one view, shared with its other readers.
    pub fn encoding(&self, format: &Arc<dyn Format>, sight: &Sight) -> Arc<Encoding> {
        let mut encodings = self.encodings.lock();
        encodings.retain(|e| Arc::strong_count(e) > 1);
        if let Some(known) = encodings.iter().find(|e| Arc::ptr_eq(&e.format, format) && e.shows(sight)) {
            return known.clone();
        }
        let rendering = sight.as_ref().map(|view| {
            let known = encodings.iter().find(|e| e.shows(sight)).and_then(|e| e.rendering.clone());
            known.unwrap_or_else(|| Arc::new(Rendering::new(view.clone())))
        });
        let run = Run { first: self.head() + 1, ends: VecDeque::new(), base: 0, start: 0, bytes: Vec::new() };
        let new = Arc::new(Encoding { format: format.clone(), rendering, run: RwLock::new(run) });
        encodings.push(new.clone());
        new
    }

    /// The first publication after `after`, up to `upto`, that carries a once number and that these readers see; without the
    /// number if it is dark, or if nobody here knows any more.
    pub fn next_once(&self, encoding: &Encoding, mut after: Offset, upto: Offset) -> Option<(Offset, Option<u64>)> {
        while self.newest_once.load(Ordering::Relaxed) > after {
            let found = {
                let recent = self.recent.read();
                let first = recent.first(self.head());
                if after + 1 < first {
                    // It may still lie here encoded, and only the log knows now whether it is a copy.
                    return Some((after + 1, None));
                }
                recent.publications.range((after + 1 - first) as usize..).find(|p| p.once.is_some())?.clone()
            };
            if found.offset > upto {
                return None;
            }
            if encoding.rendering.as_ref().is_some_and(|rendering| rendering.is_dark(&found)) {
                return Some((found.offset, None));
            }
            if let Some(number) = self.seen(encoding, &found).and_then(|seen| seen.once) {
                return Some((found.offset, Some(number)));
            }
            after = found.offset;
        }
        None
    }

    /// Copies what is after `after`, up to `upto`, as long as `room` lasts (one publication always has room). `step` hears
    /// where each publication ends in `out`; a sealed format may append there.
    pub fn copy(
        &self,
        encoding: &Encoding,
        after: Offset,
        upto: Offset,
        room: usize,
        out: &mut Vec<u8>,
        step: impl FnMut(Offset, usize, &mut Vec<u8>),
    ) -> Copied {
        {
            let run = encoding.run.read();
            if run.first <= after + 1 && run.next() > upto {
                return run.copy(after, upto, room, encoding.format.sealed(), out, step);
            }
        }
        let mut run = encoding.run.write();
        if !self.encode_missing(encoding, &mut run, after) {
            return Copied::Behind;
        }
        if run.first > after + 1 || run.next() <= after + 1 {
            return Copied::Dark;
        }
        let upto = upto.min(run.next() - 1);
        run.copy(after, upto, room, encoding.format.sealed(), out, step)
    }

    /// Some of what is after `after` and dark to these readers, the oldest first.
    pub(super) fn dark(&self, rendering: &Rendering, after: Offset, most: usize) -> Vec<Publication> {
        let recent = self.recent.read();
        let first = recent.first(self.head());
        if !rendering.view.is_slow() || after + 1 < first {
            return Vec::new();
        }
        let ahead = recent.publications.range(((after + 1 - first) as usize).min(recent.publications.len())..);
        ahead.filter(|publication| rendering.is_dark(publication)).take(most).map(|it| (**it).clone()).collect()
    }

    /// Brings a run up to the head, and back to `after + 1` if it began later, as far as it is light. False if the tail no
    /// longer reaches there.
    fn encode_missing(&self, encoding: &Encoding, run: &mut Run, after: Offset) -> bool {
        let recent = self.recent.read();
        let head = self.head();
        let first = recent.first(head);
        if after + 1 < first {
            return false;
        }
        encoding.trim(run, first);
        // A reader that is further than what others have left dark does not wait for them: nobody may ever ask about that.
        let between =
            recent.publications.range((run.next().min(after + 1) - first) as usize..(after + 1 - first) as usize);
        let is_cut_off =
            encoding.rendering.as_ref().is_some_and(|rendering| between.into_iter().any(|p| rendering.is_dark(p)));
        if run.ends.is_empty() || run.first > head || is_cut_off {
            run.clear(after + 1);
        }
        let missing = |from: Offset, to: Offset| {
            recent.publications.range((from - first) as usize..(to - first) as usize).cloned().collect::<Vec<_>>()
        };
        let newer = missing(run.next(), head + 1);
        let older = if after + 1 < run.first { missing(after + 1, run.first) } else { Vec::new() };
        drop(recent); // The lane may go on while we encode.
        if !older.is_empty() && older.iter().all(|publication| self.light(encoding, publication)) {
            self.prepend(encoding, run, &older);
        }
        for publication in newer {
            if !self.light(encoding, &publication) {
                break;
            }
            self.encode(encoding, &publication, &mut run.bytes);
            let end = run.base + run.bytes.len() as u64;
            run.ends.push_back(end);
        }
        true
    }

    /// A reader that resumes from before the run's beginning: rare, so the run is laid anew.
    fn prepend(&self, encoding: &Encoding, run: &mut Run, older: &[Arc<Publication>]) {
        let (mut bytes, mut ends) = (Vec::new(), VecDeque::new());
        for publication in older {
            self.encode(encoding, publication, &mut bytes);
            ends.push_back(bytes.len() as u64);
        }
        let shift = bytes.len() as u64;
        bytes.extend_from_slice(&run.bytes[(run.start - run.base) as usize..]);
        ends.extend(run.ends.iter().map(|end| end - run.start + shift));
        *run = Run { first: older[0].offset, ends, base: 0, start: 0, bytes };
    }

    /// Renders it, unless that is for another thread. A view may turn out to be slow at any time.
    fn light(&self, encoding: &Encoding, publication: &Arc<Publication>) -> bool {
        let Some(rendering) = &encoding.rendering else { return true };
        if rendering.is_dark(publication) {
            return false;
        }
        self.seen(encoding, publication);
        true
    }

    fn seen(&self, encoding: &Encoding, publication: &Arc<Publication>) -> Option<Arc<Publication>> {
        match &encoding.rendering {
            None => Some(publication.clone()),
            Some(rendering) => rendering.of(&self.channel, publication, &self.counters),
        }
    }

    fn encode(&self, encoding: &Encoding, publication: &Arc<Publication>, out: &mut Vec<u8>) {
        let format = &encoding.format;
        let Some(seen) = self.seen(encoding, publication) else {
            let at = Position { epoch: self.epoch, offset: publication.offset };
            return format.notice(&self.channel, at, &Notice::Gap(Gap::at(at.offset, GapCause::Denied)), out);
        };
        self.counters.encoded.add(1);
        format.publication(&self.channel, self.epoch, &seen, out);
    }
}

impl Encoding {
    pub(super) fn rendering(&self) -> Option<&Arc<Rendering>> {
        self.rendering.as_ref()
    }

    fn shows(&self, sight: &Sight) -> bool {
        match (&self.rendering, sight) {
            (None, None) => true,
            (Some(rendering), Some(view)) => Arc::ptr_eq(&rendering.view, view),
            _ => false,
        }
    }

    fn trim(&self, run: &mut Run, first: Offset) {
        run.trim(first);
        if let Some(rendering) = &self.rendering {
            rendering.trim(first);
        }
    }
}

fn earlier(a: Option<Micros>, b: Option<Micros>) -> Option<Micros> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}
