//! A message on its way out: at most `window` blocks unconfirmed, each repeated until it is confirmed.

use std::{collections::BTreeMap, ops::Range, time::Duration};

use super::{BLOCK_LEN, Repeat, Timing, WINDOW_LIMIT, wire::Datagram};

/// The message, and which of its blocks are where.
#[derive(Debug)]
pub struct Outgoing {
    message: Vec<u8>,
    window: u32,
    timing: Timing,
    /// The first block that was never sent.
    next: u32,
    /// Sent and not confirmed, by number.
    on_the_way: BTreeMap<u32, Repeat>,
    /// How many blocks were sent a second, third, ... time.
    pub repeated: u32,
}

impl Outgoing {
    /// Starts with nothing sent. An empty message is one empty block.
    pub fn new(message: Vec<u8>, window: u32, timing: Timing) -> Self {
        let window = window.clamp(1, WINDOW_LIMIT);
        Outgoing { message, window, timing, next: 1, on_the_way: BTreeMap::new(), repeated: 0 }
    }

    /// How many blocks the message has.
    pub fn blocks(&self) -> u32 {
        u32::try_from(self.message.len().div_ceil(BLOCK_LEN)).unwrap_or(u32::MAX).max(1)
    }

    /// How many bytes of the message are kept for repetition.
    pub fn held(&self) -> usize {
        self.message.len()
    }

    /// Every block was sent at least once.
    pub fn is_sent(&self) -> bool {
        self.next > self.blocks()
    }

    /// Every block was sent and confirmed.
    pub fn is_confirmed(&self) -> bool {
        self.is_sent() && self.on_the_way.is_empty()
    }

    /// Block `number` has come, and all before `next`. A confirmation of what was never sent means nothing.
    pub fn confirm(&mut self, number: u32, next: u32) {
        if number < self.next && next <= self.next {
            self.on_the_way.remove(&number);
            self.on_the_way = self.on_the_way.split_off(&next);
        }
    }

    /// The blocks to send now: those whose confirmation is overdue, and new ones while the window has room. `None`: one
    /// was sent often enough, in vain.
    pub fn due(&mut self, now: Duration) -> Option<Vec<u32>> {
        let mut due = Vec::new();
        for (number, repeat) in &mut self.on_the_way {
            if repeat.now(now, &self.timing)? {
                due.push(*number);
                self.repeated += 1;
            }
        }
        // The window is counted from the first unconfirmed block: the receiver keeps no block beyond its own window.
        while !self.is_sent() && self.next < self.first_unconfirmed() + self.window {
            let mut first = Repeat::due_at(now);
            first.now(now, &self.timing);
            self.on_the_way.insert(self.next, first);
            due.push(self.next);
            self.next += 1;
        }
        Some(due)
    }

    fn first_unconfirmed(&self) -> u32 {
        self.on_the_way.first_key_value().map_or(self.next, |(number, _)| *number)
    }

    /// When to call [`Outgoing::due`] again, if nothing comes before.
    pub fn deadline(&self) -> Option<Duration> {
        self.on_the_way.values().map(|repeat| repeat.at).min()
    }

    /// A block as it goes out.
    pub fn datagram(&self, session: u32, number: u32) -> Vec<u8> {
        let bytes = &self.message[self.range(number)];
        Datagram::Block { session, number, last: number == self.blocks(), bytes }.bytes()
    }

    fn range(&self, number: u32) -> Range<usize> {
        let from = (number as usize - 1) * BLOCK_LEN;
        from..self.message.len().min(from + BLOCK_LEN)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMING: Timing = Timing { first: Duration::from_millis(100), most: Duration::from_millis(300), attempts: 4 };

    fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    #[test]
    fn the_window_limits_what_is_unconfirmed_and_moves_with_the_first_confirmation() {
        let mut message = Outgoing::new(vec![0; 5 * BLOCK_LEN], 2, TIMING);
        assert_eq!(message.due(ms(0)), Some(vec![1, 2]));
        assert_eq!(message.due(ms(1)), Some(vec![]));
        message.confirm(2, 1); // 1 is still missing: the window stays
        assert_eq!(message.due(ms(2)), Some(vec![]));
        message.confirm(1, 3);
        assert_eq!(message.due(ms(3)), Some(vec![3, 4]));
        message.confirm(4, 5); // the confirmation of 3 was lost; NEXT says that it came
        assert_eq!(message.due(ms(4)), Some(vec![5]));
        message.confirm(5, 6);
        assert!(message.is_confirmed());
    }

    #[test]
    fn what_is_not_confirmed_is_repeated_later_and_later_and_then_given_up() {
        let mut message = Outgoing::new(vec![0; 10], 1, TIMING);
        let sent: Vec<u64> = (0..2000).filter(|at| message.due(ms(*at)).is_some_and(|due| !due.is_empty())).collect();
        assert_eq!(sent, [0, 100, 300, 600]);
        assert_eq!((message.due(ms(899)), message.due(ms(900))), (Some(vec![]), None));
        assert_eq!(message.repeated, 3);
    }

    #[test]
    fn a_confirmation_of_what_was_never_sent_means_nothing() {
        let mut message = Outgoing::new(vec![0; 5 * BLOCK_LEN], 2, TIMING);
        message.due(ms(0));
        for (number, next) in [(5, 6), (1, 6), (3, 1), (u32::MAX, u32::MAX)] {
            message.confirm(number, next);
            assert_eq!(message.on_the_way.len(), 2, "{number} {next}");
        }
    }

    #[test]
    fn an_empty_message_is_one_last_block() {
        let mut message = Outgoing::new(vec![], 1, TIMING);
        assert_eq!(message.due(ms(0)), Some(vec![1]));
        assert_eq!(message.datagram(7, 1), b"L:7:1:");
        let full = Outgoing::new(vec![b'x'; 2 * BLOCK_LEN], 1, TIMING);
        assert_eq!((full.blocks(), full.datagram(7, 2).len()), (2, "L:7:2:".len() + BLOCK_LEN));
    }
}
