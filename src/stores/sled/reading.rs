//! A page of a channel, read from its blocks forwards or backwards.

use super::*;

impl Inner {
    pub(super) fn read(&self, name: &ChannelName, range: Range) -> Result<Page, LogError> {
        let channel = self.channel(name)?;
        let (number, extent, lost, age) = {
            let open = channel.lock();
            (open.number, open.extent(self.epoch), open.lost.clone(), open.retention.age)
        };
        let mut page = Page { publications: Vec::new(), more: false, extent, lost };
        let Some(number) = number else { return Ok(page) };
        let oldest = age.map_or(0, |age| range.now.saturating_sub(age.as_micros() as Micros));
        let alive =
            |p: &Publication| p.offset >= extent.first && p.time >= oldest && p.expires.is_none_or(|at| at > range.now);
        let mut taken = Taken { page: &mut page, weight: 0, range };
        match range.from {
            From::After { after, upto } => {
                let mut next = after.max(extent.first.saturating_sub(1)).saturating_add(1);
                'blocks: for entry in self.trees.messages.range(block_keys(number, next)) {
                    for publication in self.unpack(name, entry)? {
                        if publication.offset > upto {
                            break 'blocks;
                        }
                        if publication.offset < next || !alive(&publication) {
                            continue;
                        }
                        next = publication.offset + 1;
                        if !taken.take(publication) {
                            break 'blocks;
                        }
                    }
                }
            }
            From::Before { before } => {
                let mut next = before.saturating_sub(1);
                let newest_block = self.trees.messages.range(block_keys(number, before)).next();
                let end = newest_block.transpose().map_err(failed)?.map_or(Offset::MAX, |(key, _)| offset_of(&key));
                'blocks: for entry in self.trees.messages.range(block_key(number, 0)..=block_key(number, end)).rev() {
                    for publication in self.unpack(name, entry)?.into_iter().rev() {
                        if publication.offset < extent.first {
                            break 'blocks;
                        }
                        if publication.offset > next || !alive(&publication) {
                            continue;
                        }
                        next = publication.offset - 1;
                        if !taken.take(publication) {
                            break 'blocks;
                        }
                    }
                }
                page.publications.reverse();
            }
        }
        Ok(page)
    }

    /// The publications of the block that begins here; none if it is no beginning.
    fn unpack(&self, name: &ChannelName, entry: sled::Result<(IVec, IVec)>) -> Result<Vec<Publication>, LogError> {
        let (key, head) = entry.map_err(failed)?;
        if !pieces::is_head(&key) {
            return Ok(Vec::new());
        }
        let block = pieces::join(&self.trees.messages, &key, &head)?;
        block.map_or(Ok(Vec::new()), block::unpack).map_err(|_| damaged(name))
    }
}

/// A page as it fills.
struct Taken<'a> {
    page: &'a mut Page,
    weight: usize,
    range: Range,
}

impl Taken<'_> {
    /// False if there is no room for it.
    fn take(&mut self, publication: Publication) -> bool {
        let full = self.page.publications.len() >= self.range.count || self.weight >= self.range.bytes;
        if full && !(self.page.publications.is_empty() && self.range.count > 0) {
            self.page.more = true;
            return false;
        }
        self.weight += publication.message.weight();
        self.page.publications.push(publication);
        true
    }
}
