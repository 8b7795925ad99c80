//! A group of publications on its way into the trees: numbered, packed into a block per channel, written as one.

use super::*;

impl Inner {
    pub(super) fn append(&self, batch: &[Entry]) -> Result<Vec<Appended>, LogError> {
        let mut group = Group::default();
        let mut results = Vec::with_capacity(batch.len());
        for entry in batch {
            let index = group.part(&entry.channel, || self.part(&entry.channel))?;
            results.push(self.number(entry, index, &mut group)?);
        }
        let mut blocks = Vec::with_capacity(group.parts.len());
        for part in &mut group.parts {
            for chunk in chunks(&part.publications) {
                let Some(newest) = chunk.last() else { continue };
                let packed = block::pack(chunk);
                part.bytes += packed.len() as u64;
                blocks.extend(pieces::cut(block_key(part.number, newest.offset), packed));
            }
        }
        let crosses_reserve = self.write_new_heads(&mut group)?;
        let keys: Vec<IVec> = blocks.iter().map(|(key, _)| key.clone()).collect();
        self.write(blocks, &group)?;
        keys.into_iter().try_for_each(|key| tidy(&self.trees.messages, key..))?;
        if crosses_reserve {
            self.sync()?;
        }
        let number = self.groups.fetch_add(1, Ordering::Relaxed) + 1;
        for part in &group.parts {
            let mut open = part.open.lock();
            open.number = Some(part.number);
            (open.group, open.before) = (number, open.last);
            open.last = part.last;
            open.reserved = part.reserved;
            open.bytes += part.bytes;
            self.trim(&part.name, &mut open)?;
        }
        Ok(results)
    }

    fn part(&self, name: &ChannelName) -> Result<Part, LogError> {
        let open = self.channel(name)?;
        let (number, last, reserved, weak) = {
            let open = open.lock();
            (open.number, open.last, open.reserved, open.weak)
        };
        let is_new = number.is_none();
        let number = match number {
            Some(number) => number,
            None => self.db.generate_id().map_err(failed)?,
        };
        Ok(Part { name: name.clone(), open, number, is_new, last, reserved, weak, bytes: 0, publications: Vec::new() })
    }

    /// Gives an entry its offset, unless its idempotency key has one already.
    fn number(&self, entry: &Entry, index: usize, group: &mut Group) -> Result<Appended, LogError> {
        let part = &mut group.parts[index];
        let key = entry.key.as_ref().map(|key| key_hash(part.number, key));
        if let Some(key) = key {
            if let Some((offset, time)) = group.keys.get(&key) {
                return Ok(Appended::Repeat { offset: *offset, time: *time });
            }
            if let Some((offset, time)) = self.known_key(&key, entry.time)? {
                return Ok(Appended::Repeat { offset, time });
            }
        }
        part.last += 1;
        let (offset, time) = (part.last, entry.time);
        part.publications.push(Publication {
            offset,
            time,
            expires: entry.expires,
            once: entry.once,
            message: entry.message.clone(),
        });
        if let Some(key) = key {
            group.keys.insert(key, (offset, time));
        }
        Ok(Appended::New { offset, time })
    }

    pub(super) fn known_key(&self, key: &[u8], now: Micros) -> Result<Option<(Offset, Micros)>, LogError> {
        let Some(value) = self.trees.keys.get(key).map_err(failed)? else { return Ok(None) };
        let words: Vec<u64> = value.chunks_exact(8).map(be).collect();
        match words[..] {
            [offset, time, until] if until > now => Ok(Some((offset, time))),
            _ => Ok(None),
        }
    }

    /// Heads of channels that have their first message, or that need a new reserve. True if they must be safe before the
    /// numbers are used.
    fn write_new_heads(&self, group: &mut Group) -> Result<bool, LogError> {
        let mut crosses_reserve = false;
        let mut changes = Changes::default();
        for part in &mut group.parts {
            let crosses = part.weak && part.last > part.reserved;
            if crosses {
                part.reserved = part.last + RESERVE;
                crosses_reserve = true;
            }
            if (part.is_new && !part.publications.is_empty()) || crosses {
                let open = part.open.lock();
                let head = Head { reserved: part.reserved, ..open.head(part.number) };
                changes.put(In::Heads, part.name.as_str(), head.to_bytes());
            }
        }
        self.change(&changes)?;
        Ok(crosses_reserve)
    }

    fn write(&self, blocks: Vec<(IVec, IVec)>, group: &Group) -> Result<(), LogError> {
        let mut changes = Changes::default();
        blocks.into_iter().for_each(|(key, block)| changes.put(In::Messages, key, block));
        if group.keys.is_empty() {
            return self.change(&changes);
        }
        for (key, (offset, time)) in &group.keys {
            let until = time + self.window;
            changes.put(In::Keys, key, [*offset, *time, until].map(u64::to_be_bytes).concat());
            changes.put(In::KeyAges, [&until.to_be_bytes()[..], key].concat(), &[]);
        }
        self.change_at_once(&changes)
    }
}

/// A batch on its way into the trees.
#[derive(Default)]
struct Group {
    parts: Vec<Part>,
    index: FxHashMap<ChannelName, usize>,
    keys: FxHashMap<[u8; 16], (Offset, Micros)>,
}

/// What a group means for one channel. The channel itself changes when all of it is in.
struct Part {
    name: ChannelName,
    open: Arc<Mutex<Open>>,
    number: u64,
    is_new: bool,
    last: Offset,
    reserved: Offset,
    weak: bool,
    bytes: u64,
    publications: Vec<Publication>,
}

impl Group {
    fn part(&mut self, name: &ChannelName, make: impl FnOnce() -> Result<Part, LogError>) -> Result<usize, LogError> {
        match self.index.entry(name.clone()) {
            MapEntry::Occupied(known) => Ok(*known.get()),
            MapEntry::Vacant(vacant) => {
                self.parts.push(make()?);
                Ok(*vacant.insert(self.parts.len() - 1))
            }
        }
    }
}

fn chunks(publications: &[Publication]) -> impl Iterator<Item = &[Publication]> {
    let mut rest = publications;
    std::iter::from_fn(move || {
        let mut weight = 0;
        let fits = rest.iter().take(BLOCK_COUNT).take_while(|p| {
            weight += p.message.weight();
            weight <= BLOCK_BYTES
        });
        let count = fits.count().max(1).min(rest.len());
        let (chunk, others) = rest.split_at(count);
        rest = others;
        (!chunk.is_empty()).then_some(chunk)
    })
}
