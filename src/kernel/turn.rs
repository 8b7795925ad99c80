//! What a session writes next: `fill` proposes bytes from its cursors on, `commit` moves the cursors by what the socket took.
//!
//! A socket that takes nothing moves nothing, and what was proposed and not taken is proposed again.

use std::borrow::Cow;

use tokio::time::Instant;

use super::format::{Gap, GapCause, Notice};
use super::log::{Extent, From, LogError, Page, Range};
use super::message::{Offset, Publication};
use super::policy::Lag;
use super::rendering::{is_dark, render};
use super::session::Session;
use super::subscription::{Pace, Subscription};
use super::tail::Copied;

/// What one page of the log holds at most, for a reader that is behind the tail.
const PAGE_COUNT: usize = 512;
const PAGE_BYTES: usize = 128 * 1024;
/// What a slow view is asked about before its reader is heard again.
const DARK_COUNT: usize = 16;

/// A stretch of the log, read for one subscription: all that is left of everything above `after` up to `upto`, unless there is
/// more.
pub(super) struct Stretch {
    pub slot: u32,
    page: Page,
    after: Offset,
    upto: Offset,
}

/// Why the kernel wants a session closed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Close {
    /// Further behind than its channel's policy allows.
    Lagged,
}

/// Bytes for a socket, and what each stretch of them means for the cursors.
#[derive(Default)]
pub struct Batch {
    pub bytes: Vec<u8>,
    steps: Vec<Step>,
    touched: Vec<u32>,
}

struct Step {
    end: usize,
    slot: u32,
    to: Offset,
    act: Act,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Act {
    Publication,
    /// So many publications are missing.
    Gap {
        cause: GapCause,
        missing: u64,
    },
    Live,
}

impl Batch {
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// It holds one thing to say.
    pub fn is_single(&self) -> bool {
        self.steps.len() == 1
    }

    fn clear(&mut self) {
        self.bytes.clear();
        self.steps.clear();
        self.touched.clear();
    }
}

impl Session {
    /// Reads the next page of a channel in which the session is behind the tail, or waits for a slow view.
    pub async fn fetch(&mut self) -> Result<(), LogError> {
        let Some(slot) = self.behind.pop_front() else { return Ok(()) };
        let Some(subscription) = self.subscriptions.get(slot as usize) else { return Ok(()) };
        let channel = &subscription.seat.channel;
        let (cursor, head) = (subscription.cursor, channel.tail.head());
        let conflates = subscription.pace.is_some_and(|pace| pace.conflate);
        let after = if conflates { cursor.max(head.saturating_sub(1)) } else { cursor };
        if let Some(rendering) = subscription.encoding.rendering() {
            let dark = channel.tail.dark(rendering, after, DARK_COUNT);
            if !dark.is_empty() {
                rendering.foresee(&channel.name, dark, self.hub.counters()).await;
                self.ready.push_front(slot);
                return Ok(());
            }
        }
        if !channel.is_kept() {
            // The tail is all there is.
            let first = channel.tail.first();
            let extent = Extent { epoch: channel.epoch, first, last: channel.tail.head() };
            let page = Page { publications: Vec::new(), more: false, extent, lost: Vec::new() };
            self.stretch = Some(Stretch { slot, page, after: cursor, upto: first - 1 });
            self.ready.push_front(slot);
            return Ok(());
        }
        let upto = [subscription.live_at, subscription.full_at.filter(|at| *at > cursor)];
        let upto = upto.into_iter().flatten().filter(|_| !conflates).fold(head, Offset::min);
        let range = Range {
            from: From::After { after, upto },
            count: match &subscription.sight {
                _ if subscription.pace.is_some() => 1,
                Some(view) if view.is_slow() => DARK_COUNT,
                _ => PAGE_COUNT,
            },
            bytes: PAGE_BYTES,
            now: self.hub.now(),
        };
        self.hub.counters().store_reads.add(1);
        match channel.log.read(&channel.name, range).await {
            Ok(mut page) => {
                if let Some(view) = subscription.sight.as_ref().filter(|view| view.is_slow()) {
                    view.foresee(&channel.name, &mut page.publications).await;
                }
                self.stretch = Some(Stretch { slot, page, after, upto });
                self.ready.push_front(slot);
                Ok(())
            }
            Err(error) => {
                self.behind.push_back(slot);
                Err(error)
            }
        }
    }

    /// Proposes bytes from the cursors on, about `room` of them. Nothing is taken until `commit`.
    pub fn fill(&mut self, batch: &mut Batch, room: usize) -> Result<(), Close> {
        batch.clear();
        self.turn += 1;
        self.bell.drain(&mut self.ready);
        self.end_rests();
        while batch.bytes.len() < room {
            let Some(slot) = self.ready.pop_front() else { break };
            let Some(subscription) = self.subscriptions.get_mut(slot as usize) else { continue };
            if subscription.rests_until.is_some() {
                self.resting.push(slot);
                continue;
            }
            if subscription.turn == self.turn {
                continue; // A note that was meant for the subscription which had this slot before.
            }
            subscription.turn = self.turn;
            subscription.seat.look();
            batch.touched.push(slot);
            self.fill_from(slot, batch, room)?;
        }
        Ok(())
    }

    fn end_rests(&mut self) {
        if self.resting.is_empty() {
            return;
        }
        let now = Instant::now();
        for slot in std::mem::take(&mut self.resting) {
            let subscription = &mut self.subscriptions[slot as usize];
            subscription.rests_until.take_if(|until| *until <= now);
            self.ready.push_back(slot);
        }
    }

    fn fill_from(&mut self, slot: u32, batch: &mut Batch, room: usize) -> Result<(), Close> {
        let stretch = self.stretch.take_if(|stretch| stretch.slot == slot);
        self.announce_gap(slot, batch);
        if let Some(pace) = self.subscriptions[slot as usize].pace {
            self.fill_paced(slot, pace, stretch, batch);
            return Ok(());
        }
        if let Some(stretch) = stretch {
            self.fill_from_log(stretch, batch);
        }
        self.apply_lag(slot, batch)?;
        loop {
            let subscription = &mut self.subscriptions[slot as usize];
            let head = subscription.seat.head();
            let upto = subscription.live_at.unwrap_or(head).min(head);
            if subscription.full_at == Some(subscription.reached) {
                let gap = Gap::between(subscription.reached, head + 1, GapCause::Skipped);
                self.skip_to(slot, gap, batch);
                return Ok(()); // What comes from here on is said when the socket has taken the gap.
            }
            let upto = subscription.full_at.map_or(upto, |at| at.min(upto));
            if subscription.reached < upto {
                match self.fill_from_tail(slot, upto, batch, room) {
                    Copied::All if batch.bytes.len() < room => {}
                    Copied::All | Copied::Some => return Ok(()),
                    Copied::Behind | Copied::Dark => {
                        self.fall_behind(slot);
                        return Ok(());
                    }
                }
                continue;
            }
            if subscription.live_at.is_none_or(|at| at > subscription.reached) {
                return Ok(());
            }
            if subscription.is_far_behind() {
                // The channel went on faster than the replay: it is not over yet.
                subscription.live_at = Some(head);
                continue;
            }
            subscription.live_at = None;
            self.say(slot, Notice::Live, Act::Live, batch);
        }
    }

    /// It must read the log. If it was rung meanwhile, its next turn finds that out again: it never stands in two queues.
    fn fall_behind(&mut self, slot: u32) {
        if self.subscriptions[slot as usize].seat.reader.claim() {
            self.behind.push_back(slot);
        }
    }

    /// One publication, then it rests.
    fn fill_paced(&mut self, slot: u32, pace: Pace, stretch: Option<Stretch>, batch: &mut Batch) {
        let (before, said) = (self.subscriptions[slot as usize].reached, batch.steps.len());
        let subscription = &mut self.subscriptions[slot as usize];
        if let Some(mut stretch) = stretch {
            subscription.reached = before.max(stretch.after);
            stretch.page.more |= stretch.page.publications.len() > 1;
            stretch.page.publications.truncate(1);
            self.fill_from_log(stretch, batch);
        } else {
            let head = subscription.seat.head();
            if pace.conflate {
                subscription.reached = before.max(head.saturating_sub(1));
            }
            let next = subscription.reached + 1;
            if next <= head
                && let Copied::Behind | Copied::Dark = self.fill_from_tail(slot, next, batch, usize::MAX)
            {
                self.fall_behind(slot);
            }
        }
        let subscription = &mut self.subscriptions[slot as usize];
        if batch.steps.len() == said {
            // What is left out is left out when something comes in its place: seals of this turn must not go beyond it before.
            subscription.reached = before;
        }
        if subscription.live_at.take_if(|at| *at <= subscription.reached).is_some() {
            self.say(slot, Notice::Live, Act::Live, batch);
        }
    }

    fn fill_from_tail(&mut self, slot: u32, upto: Offset, batch: &mut Batch, room: usize) -> Copied {
        let subscription = &self.subscriptions[slot as usize];
        let next = subscription.reached + 1;
        let upto = match subscription.seat.channel.tail.next_once(&subscription.encoding, subscription.reached, upto) {
            None => upto,
            Some((at, None)) if at == next => return Copied::Dark,
            Some((at, Some(number))) if at == next => {
                if !self.once.is_first(number, slot, at) {
                    self.skip_to(slot, Gap::at(at, GapCause::Once), batch);
                    return Copied::All;
                }
                at
            }
            Some((at, _)) => at - 1,
        };
        let subscription = &self.subscriptions[slot as usize];
        let room = room.saturating_sub(batch.bytes.len());
        let Batch { bytes, steps, .. } = batch;
        let tail = &subscription.seat.channel.tail;
        let mut reached = subscription.reached;
        let copied = tail.copy(&subscription.encoding, subscription.reached, upto, room, bytes, |to, end, out| {
            self.seal(slot, to, out);
            let end = if self.format.sealed() { out.len() } else { end };
            steps.push(Step { end, slot, to, act: Act::Publication });
            reached = to;
        });
        self.subscriptions[slot as usize].reached = reached;
        copied
    }

    fn fill_from_log(&mut self, stretch: Stretch, batch: &mut Batch) {
        let Stretch { slot, page, upto, .. } = stretch;
        for publication in &page.publications {
            self.announce_hole(slot, publication.offset, &page, batch);
            let sight = &self.subscriptions[slot as usize].sight;
            if sight.as_ref().is_some_and(|view| is_dark(&**view, publication)) {
                return; // The view has turned out to be slow: this is read again.
            }
            self.say_publication(slot, publication, batch);
        }
        if !page.more {
            self.announce_hole(slot, upto + 1, &page, batch);
        }
    }

    /// Says that everything between the cursor and `next` is missing, if anything is.
    fn announce_hole(&mut self, slot: u32, next: Offset, page: &Page, batch: &mut Batch) {
        let reached = self.subscriptions[slot as usize].reached;
        if next <= reached + 1 {
            return;
        }
        let lost = page.lost.iter().any(|(from, to)| *from <= reached + 1 && next - 1 <= *to);
        let cause = if lost { GapCause::Lost } else { GapCause::Evicted };
        self.skip_to(slot, Gap::between(reached, next, cause), batch);
    }

    fn announce_gap(&mut self, slot: u32, batch: &mut Batch) {
        if let Some(gap) = self.subscriptions[slot as usize].gap {
            self.subscriptions[slot as usize].gap_said = true;
            self.say_gap(slot, gap, batch);
        }
    }

    /// What the policy says of a reader that is too far behind.
    fn apply_lag(&mut self, slot: u32, batch: &mut Batch) -> Result<(), Close> {
        let subscription = &self.subscriptions[slot as usize];
        // Who was at the head a moment ago is no slow reader, however large the burst that it meets.
        let patient = subscription.behind_since.is_none_or(|since| since.elapsed() < self.hub.lag_patience());
        if patient || subscription.live_at.is_some() {
            return Ok(()); // A replay is behind because it was asked for.
        }
        let lag = subscription.seat.channel.policy().lag;
        if lag == Lag::CatchUp || subscription.full_at.is_some() || !subscription.is_far_behind() {
            return Ok(());
        }
        if lag == Lag::Close && !self.watches {
            self.hub.counters().lagged.add(1);
            return Err(Close::Lagged);
        }
        let (head, reached, room) = (subscription.seat.head(), subscription.reached, subscription.room());
        let next = match lag {
            Lag::DropNewest => {
                self.subscriptions[slot as usize].full_at = Some(reached + room);
                return Ok(());
            }
            Lag::DropOldest => head + 1 - room.min(head - reached),
            Lag::CatchUp | Lag::Skip | Lag::Close => head,
        };
        if next > reached + 1 {
            self.skip_to(slot, Gap::between(reached, next, GapCause::Skipped), batch);
        }
        Ok(())
    }

    fn skip_to(&mut self, slot: u32, gap: Gap, batch: &mut Batch) {
        self.subscriptions[slot as usize].reached = gap.available - 1;
        self.say_gap(slot, gap, batch);
    }

    fn say_gap(&mut self, slot: u32, gap: Gap, batch: &mut Batch) {
        let missing = gap.missing.map_or(0, |(first, last)| last + 1 - first);
        self.say(slot, Notice::Gap(gap), Act::Gap { cause: gap.cause, missing }, batch);
    }

    fn say(&mut self, slot: u32, notice: Notice, act: Act, batch: &mut Batch) {
        let subscription = &self.subscriptions[slot as usize];
        let to = subscription.reached;
        let (name, at) = subscription.position(to);
        self.format.notice(name, at, &notice, &mut batch.bytes);
        self.seal(slot, to, &mut batch.bytes);
        batch.steps.push(Step { end: batch.bytes.len(), slot, to, act });
    }

    fn say_publication(&mut self, slot: u32, publication: &Publication, batch: &mut Batch) {
        let counters = self.hub.counters();
        let subscription = &mut self.subscriptions[slot as usize];
        let channel = &subscription.seat.channel;
        let seen = match &subscription.sight {
            None => Some(Cow::Borrowed(publication)),
            Some(view) => render(&**view, &channel.name, publication, counters).map(Cow::Owned),
        };
        let Some(seen) = seen else {
            return self.skip_to(slot, Gap::at(publication.offset, GapCause::Denied), batch);
        };
        if seen.once.is_some_and(|number| !self.once.is_first(number, slot, seen.offset)) {
            return self.skip_to(slot, Gap::at(publication.offset, GapCause::Once), batch);
        }
        subscription.reached = publication.offset;
        counters.encoded.add(1);
        self.format.alone(&channel.name, channel.epoch, &seen, &mut batch.bytes);
        self.seal(slot, publication.offset, &mut batch.bytes);
        let end = batch.bytes.len();
        batch.steps.push(Step { end, slot, to: publication.offset, act: Act::Publication });
    }

    /// Where the session stands after this publication, in all of its channels.
    fn seal(&self, slot: u32, reached: Offset, out: &mut Vec<u8>) {
        if !self.format.sealed() {
            return;
        }
        let mut positions = self.subscriptions.iter().map(|(other, subscription)| {
            let at = if other as u32 == slot { reached } else { subscription.reached };
            subscription.place(at)
        });
        self.format.seal(&mut positions, out);
    }

    /// The socket took `written` bytes of the batch. What is missing of the publication in the middle is put into `carry`,
    /// which is to be written before anything else.
    pub fn commit(&mut self, batch: &Batch, written: usize, carry: &mut Vec<u8>) {
        let mut begin = 0;
        let counters = self.hub.counters();
        let mut taken = 0;
        for step in &batch.steps {
            // A format may say nothing about something: that is through as soon as all before it is.
            let is_silent = step.end == begin;
            if begin > written || (begin == written && !is_silent) {
                break;
            }
            if step.end > written {
                carry.extend_from_slice(&batch.bytes[written..step.end]);
            }
            let subscription = &mut self.subscriptions[step.slot as usize];
            subscription.cursor = step.to;
            match step.act {
                Act::Publication => {
                    taken += 1;
                    subscription.rests_until = subscription.pace.map(|pace| Instant::now() + pace.every);
                }
                Act::Gap { cause, missing } => {
                    let is_asked_for = subscription.gap.take().is_some();
                    counters.gaps.add(1);
                    counters.lagged.add(u64::from(cause == GapCause::Skipped));
                    if !is_asked_for && matches!(cause, GapCause::Skipped | GapCause::Evicted) {
                        counters.skipped.add(missing);
                    }
                }
                Act::Live => subscription.live_at = None,
            }
            begin = step.end;
        }
        counters.pushed.add(taken);
        let subscriptions = &self.subscriptions;
        self.once.settle(|slot, offset| offset <= subscriptions[slot as usize].cursor);
        let whole = written == batch.bytes.len();
        for slot in &batch.touched {
            let subscription = &mut self.subscriptions[*slot as usize];
            subscription.reached = subscription.cursor;
            subscription.gap_said = false;
            subscription.full_at.take_if(|at| *at < subscription.cursor);
            if subscription.cursor < subscription.seat.head() {
                subscription.behind_since.get_or_insert_with(Instant::now);
            } else {
                subscription.behind_since = None;
            }
            if !whole {
                // What was proposed and not taken is proposed again; a live mark that went with it comes back too.
                restore_live(subscription, &batch.steps, *slot, begin);
            }
            let has_more = subscription.cursor < subscription.seat.head()
                || subscription.gap.is_some()
                || subscription.live_at.is_some();
            if has_more && subscription.seat.reader.claim() {
                self.ready.push_back(*slot);
            }
        }
    }
}

fn restore_live(subscription: &mut Subscription, steps: &[Step], slot: u32, begin: usize) {
    let lost = steps.iter().find(|step| step.slot == slot && step.act == Act::Live && step.end > begin);
    if let Some(step) = lost {
        subscription.live_at = Some(step.to);
    }
}
