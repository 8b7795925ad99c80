//! Blocks of more than a piece lie in several values. sled keeps a page of an eighth of a MiB in a file of its own, which it does
//! not sync, and which it waits for without an end once it could not be written.
//!
//! The block's key holds the head: a mark, how many pieces follow, and the first bytes. The others lie under the same key with
//! their number behind it. The head is written last and deleted first, so that it never stands without the others for long.

use super::*;
use crate::stores::varint::Damaged;

/// A page has 17 values at most before it is split, and stays below the eighth of a MiB.
pub(super) const PIECE: usize = 7 * 1024;
/// What a block begins with is its version, 1.
const MARK: u8 = 2;
const HEAD: usize = 3;
const KEY: usize = 16;

/// The values of a block, the head last.
pub(super) fn cut(key: [u8; KEY], block: Vec<u8>) -> Vec<(IVec, IVec)> {
    if block.len() <= PIECE {
        return vec![((&key).into(), block.into())];
    }
    let (first, rest) = block.split_at(PIECE);
    let pieces: Vec<&[u8]> = rest.chunks(PIECE).collect();
    let count = (pieces.len() as u16).to_be_bytes();
    let head = [&[MARK, count[0], count[1]], first].concat();
    let others = pieces.into_iter().enumerate().map(|(at, piece)| (piece_key(&key, at as u16), piece.into()));
    others.chain([((&key).into(), head.into())]).collect()
}

fn piece_key(key: &[u8], at: u16) -> IVec {
    [key, &at.to_be_bytes()].concat().into()
}

/// Whether a block begins under this key.
pub(super) fn is_head(key: &[u8]) -> bool {
    key.len() == KEY
}

/// The block that begins here; none if it is just being deleted.
pub(super) fn join(tree: &Tree, key: &[u8], head: &[u8]) -> Result<Option<Bytes>, LogError> {
    let [MARK, high, low, first @ ..] = head else { return Ok(Some(Bytes::copy_from_slice(head))) };
    let mut block = first.to_vec();
    for at in 0..u16::from_be_bytes([*high, *low]) {
        let Some(piece) = tree.get(piece_key(key, at)).map_err(failed)? else { return Ok(None) };
        block.extend_from_slice(&piece);
    }
    Ok(Some(block.into()))
}

/// The time of a block's newest publication, from its head.
pub(super) fn newest_time(head: &[u8]) -> Result<Micros, Damaged> {
    block::newest_time(if head.first() == Some(&MARK) { head.get(HEAD..).unwrap_or_default() } else { head })
}
