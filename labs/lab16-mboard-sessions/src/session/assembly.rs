//! A message on its way in: blocks in any order, some of them twice, become the message.

use std::collections::BTreeMap;

use super::WINDOW_LIMIT;

/// What became of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taken {
    /// It was kept.
    New,
    /// It had come before: its confirmation was lost, or the network has doubled it.
    Again,
    /// It is beyond the window, or behind the message's end: not kept, not confirmed.
    Refused,
    /// With it the message would be longer than the limit.
    TooLong,
}

/// The blocks of one message. It holds what has come, and never more than its limit.
#[derive(Debug)]
pub struct Assembly {
    limit: usize,
    /// The message as far as it has come without a gap.
    bytes: Vec<u8>,
    /// The first block that is missing.
    next: u32,
    /// Blocks behind a gap; TCP calls this the out-of-order queue.
    early: BTreeMap<u32, Vec<u8>>,
    /// The number of the last block, once it has come.
    last: Option<u32>,
    /// Blocks that came again.
    pub again: u32,
}

impl Assembly {
    /// For a message of at most `limit` bytes.
    pub fn new(limit: usize) -> Self {
        Assembly { limit, bytes: Vec::new(), next: 1, early: BTreeMap::new(), last: None, again: 0 }
    }

    /// Takes a block; of two with the same number the first counts.
    pub fn take(&mut self, number: u32, last: bool, bytes: &[u8]) -> Taken {
        let contradicts = self.last.is_some_and(|end| number > end || last && number != end);
        let highest = self.early.last_key_value().map_or(self.next - 1, |(number, _)| *number);
        if contradicts || last && number < highest || number >= self.next.saturating_add(WINDOW_LIMIT) {
            return Taken::Refused;
        }
        if number < self.next || self.early.contains_key(&number) {
            self.again += 1;
            return Taken::Again;
        }
        if self.held() + bytes.len() > self.limit {
            return Taken::TooLong;
        }
        if last {
            self.last = Some(number);
        }
        self.early.insert(number, bytes.to_vec());
        while let Some(block) = self.early.remove(&self.next) {
            self.bytes.extend(block);
            self.next += 1;
        }
        Taken::New
    }

    /// The first block that is missing: all before it have come.
    pub fn next(&self) -> u32 {
        self.next
    }

    /// How many bytes are kept.
    pub fn held(&self) -> usize {
        self.bytes.len() + self.early.values().map(Vec::len).sum::<usize>()
    }

    /// Every block has come.
    pub fn is_whole(&self) -> bool {
        self.last.is_some_and(|last| self.next > last)
    }

    /// Hands out the message, if it is whole; its numbers stay known, so that late doubles are still told from new blocks.
    pub fn hand_out(&mut self) -> Option<Vec<u8>> {
        self.is_whole().then(|| std::mem::take(&mut self.bytes))
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;

    const LIMIT: usize = 100_000;

    #[test]
    fn blocks_out_of_order_and_doubles_become_one_message() {
        let mut message = Assembly::new(LIMIT);
        assert_eq!(message.take(2, false, b"two "), Taken::New);
        assert_eq!((message.next(), message.is_whole()), (1, false));
        assert_eq!(message.take(3, true, b"three"), Taken::New);
        assert_eq!(message.take(2, false, b"again"), Taken::Again);
        assert_eq!(message.take(1, false, b"one "), Taken::New);
        assert_eq!(message.take(1, false, b"again"), Taken::Again);
        assert_eq!(message.hand_out().unwrap(), b"one two three");
        assert_eq!((message.take(3, true, b"three"), message.again), (Taken::Again, 3));
    }

    #[test]
    fn what_does_not_fit_the_message_is_not_kept() {
        let mut message = Assembly::new(10);
        assert_eq!(message.take(WINDOW_LIMIT + 1, false, b"far"), Taken::Refused);
        assert_eq!(message.take(3, false, b"12345"), Taken::New);
        assert_eq!(message.take(2, true, b"end"), Taken::Refused); // block 3 has come already
        assert_eq!(message.take(1, false, b"123456"), Taken::TooLong);
        assert_eq!(message.take(4, true, b"end"), Taken::New);
        for (number, last) in [(5, false), (5, true), (3, true)] {
            assert_eq!(message.take(number, last, b""), Taken::Refused, "{number}");
        }
        assert_eq!(message.held(), 8);
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn any_order_within_the_window_and_any_doubles_give_the_message(
            blocks in vec(vec(any::<u8>(), 0..40), 1..30),
            order in vec(any::<prop::sample::Index>(), 0..200),
        ) {
            let mut message = Assembly::new(LIMIT);
            let chosen = order.iter().map(|index| index.index(blocks.len()));
            for at in chosen.chain(0..blocks.len()) {
                let taken = message.take(at as u32 + 1, at + 1 == blocks.len(), &blocks[at]);
                prop_assert!(matches!(taken, Taken::New | Taken::Again));
            }
            prop_assert_eq!(message.hand_out(), Some(blocks.concat()));
        }

        #[test]
        fn any_blocks_are_held_only_as_far_as_they_came_and_within_the_limit(
            blocks in vec((1..80u32, any::<bool>(), vec(any::<u8>(), 0..40)), 0..100),
        ) {
            let mut message = Assembly::new(500);
            let mut kept = 0;
            for (number, last, bytes) in blocks {
                if message.take(number, last, &bytes) == Taken::New {
                    kept += bytes.len();
                }
                prop_assert!(message.held() == kept && kept <= 500);
            }
        }
    }
}
