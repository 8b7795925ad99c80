//! What went to several channels at once: a session that listens to several of them gets one copy.

use std::collections::VecDeque;

use super::message::Offset;

/// Numbers that a session remembers; beyond, the oldest is forgotten, and another copy of it would come.
const NUMBERS: usize = 64;

#[derive(Default)]
pub(super) struct Once {
    heard: VecDeque<Heard>,
}

struct Heard {
    number: u64,
    slot: u32,
    offset: Offset,
    /// The socket has it; those that it has not are the newest ones.
    taken: bool,
}

impl Once {
    /// Whether this is the first copy. It counts as heard from here on, unless the socket does not take it.
    pub fn is_first(&mut self, number: u64, slot: u32, offset: Offset) -> bool {
        if self.heard.iter().any(|heard| heard.number == number) {
            return false;
        }
        if self.heard.len() == NUMBERS {
            self.heard.pop_front();
        }
        self.heard.push_back(Heard { number, slot, offset, taken: false });
        true
    }

    /// What was proposed and not taken has not been heard.
    pub fn settle(&mut self, taken: impl Fn(u32, Offset) -> bool) {
        if self.heard.back().is_some_and(|newest| !newest.taken) {
            self.heard.retain_mut(|heard| {
                heard.taken = heard.taken || taken(heard.slot, heard.offset);
                heard.taken
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Found by the simulation: seed 3. Its channel may have been left since.
    #[test]
    fn what_was_taken_once_is_not_asked_about_again() {
        let mut once = Once::default();
        assert!(once.is_first(1, 0, 5));
        once.settle(|_, _| true);
        assert!(once.is_first(2, 1, 7));
        once.settle(|slot, offset| {
            assert_eq!((slot, offset), (1, 7));
            false
        });
        assert!(!once.is_first(1, 3, 9));
        assert!(once.is_first(2, 1, 7));
    }
}
