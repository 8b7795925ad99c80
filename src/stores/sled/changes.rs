//! What one act changes in the trees: as the journal keeps it, and as sled takes it.
//!
//! ```text
//! changes = change*
//! change  = tree:u8  key:bytes  [value:bytes]
//! ```
//! The tree's highest bit says that the key goes, and that no value follows. `varint` says what `bytes` are.

use super::*;
use crate::stores::varint::{Damaged, Reader, put_bytes};

const GOES: u8 = 0x80;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum In {
    Heads = 1,
    Messages = 2,
    Keys = 3,
    KeyAges = 4,
    Kv = 5,
}

impl In {
    fn from_byte(byte: u8) -> Result<In, Damaged> {
        [In::Heads, In::Messages, In::Keys, In::KeyAges, In::Kv]
            .into_iter()
            .find(|tree| *tree as u8 == byte)
            .ok_or(Damaged)
    }
}

#[derive(PartialEq, Eq, Debug)]
struct Change {
    tree: In,
    key: IVec,
    /// None: the key goes.
    value: Option<IVec>,
}

#[derive(Default, PartialEq, Eq, Debug)]
pub(super) struct Changes(Vec<Change>);

impl Changes {
    pub fn put(&mut self, tree: In, key: impl Into<IVec>, value: impl Into<IVec>) {
        self.0.push(Change { tree, key: key.into(), value: Some(value.into()) });
    }

    pub fn remove(&mut self, tree: In, key: impl Into<IVec>) {
        self.0.push(Change { tree, key: key.into(), value: None });
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn pack(&self, out: &mut Vec<u8>) {
        for Change { tree, key, value } in &self.0 {
            out.push(*tree as u8 | if value.is_none() { GOES } else { 0 });
            put_bytes(out, key);
            if let Some(value) = value {
                put_bytes(out, value);
            }
        }
    }

    pub fn unpack(packed: Bytes) -> Result<Changes, Damaged> {
        let mut rest = Reader(packed);
        let mut changes = Changes::default();
        while !rest.is_empty() {
            let tree = rest.byte()?;
            let key: IVec = rest.bytes()?[..].into();
            let value = if tree & GOES == 0 { Some(rest.bytes()?[..].into()) } else { None };
            changes.0.push(Change { tree: In::from_byte(tree & !GOES)?, key, value });
        }
        Ok(changes)
    }

    /// In their order, so that no block outlives an earlier one: sled recovers what was written first.
    pub fn one_by_one(&self, trees: &Trees) -> Result<(), LogError> {
        for Change { tree, key, value } in &self.0 {
            let tree = trees.of(*tree);
            match value {
                Some(value) => tree.insert(key, value).map_err(failed)?,
                None => tree.remove(key).map_err(failed)?,
            };
        }
        Ok(())
    }

    /// Of messages and their idempotency keys a crash takes all or nothing: a message whose key was lost would be taken a second
    /// time. It costs more than one by one: sled seals the buffer that a batch begins in, and wakes all its threads to write it.
    pub fn at_once(&self, trees: &Trees) -> Result<(), LogError> {
        let mut batches: [Batch; 3] = Default::default();
        let all = [In::Messages, In::Keys, In::KeyAges];
        for Change { tree, key, value } in &self.0 {
            let Some(batch) = all.iter().position(|of| of == tree).and_then(|at| batches.get_mut(at)) else {
                return Err(LogError(format!("a change of {tree:?} is no part of a publication")));
            };
            match value {
                Some(value) => batch.insert(key, value),
                None => batch.remove(key),
            }
        }
        let written = (&trees.messages, &trees.keys, &trees.key_ages).transaction(|(messages, keys, key_ages)| {
            [messages, keys, key_ages]
                .into_iter()
                .zip(&batches)
                .try_for_each(|(tree, batch)| tree.apply_batch(batch))?;
            Ok::<_, ConflictableTransactionError<Infallible>>(())
        });
        written.map_err(|error| match error {
            TransactionError::Storage(error) => failed(error),
            TransactionError::Abort(never) => match never {},
        })
    }
}

pub(super) struct Trees {
    pub heads: Tree,
    pub messages: Tree,
    pub keys: Tree,
    pub key_ages: Tree,
    pub kv: Tree,
    pub meta: Tree,
}

impl Trees {
    /// sled has everything up to this number of the journal: it is given nothing else before it has been told.
    pub fn has_come_to(&self, number: u64) -> Result<(), LogError> {
        self.meta.insert(NOTED, &number.to_be_bytes()).map_err(failed)?;
        Ok(())
    }

    fn of(&self, tree: In) -> &Tree {
        match tree {
            In::Heads => &self.heads,
            In::Messages => &self.messages,
            In::Keys => &self.keys,
            In::KeyAges => &self.key_ages,
            In::Kv => &self.kv,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_read_back_as_they_were_packed_and_damage_is_an_error() {
        let mut changes = Changes::default();
        changes.put(In::Messages, b"k", b"v".repeat(300));
        changes.remove(In::KeyAges, b"");
        changes.put(In::Kv, b"\xff", b"");
        let mut packed = Vec::new();
        changes.pack(&mut packed);
        for cut in 0..packed.len() {
            assert_ne!(Changes::unpack(packed[..cut].to_vec().into()).as_ref(), Ok(&changes));
        }
        assert_eq!(Changes::unpack(packed.into()), Ok(changes));
        assert_eq!(Changes::unpack(vec![6, 0, 0].into()), Err(Damaged), "a tree that there is not");
    }
}
