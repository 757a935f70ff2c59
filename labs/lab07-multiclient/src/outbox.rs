//! The lines that a client has not taken yet: a queue with a limit, so that a client that never reads costs a known amount
//! of memory. A line to all clients is kept once, however many queues it waits in.

use std::{collections::VecDeque, io::IoSlice, rc::Rc};

/// Bytes the server keeps for one client beyond what the kernel's send buffer holds.
pub const OUTBOX_LIMIT: usize = 256 * 1024;
/// So many pieces go into one call; the kernel takes at most 1024 (IOV_MAX).
const MOST_SLICES: usize = 64;

/// Bytes that wait for send(2).
#[derive(Default)]
pub struct Outbox {
    /// One line or several, each with its newline.
    pieces: VecDeque<Rc<Vec<u8>>>,
    /// Bytes of the first piece that the kernel has taken.
    taken: usize,
    /// Bytes that wait, over all pieces.
    waiting: usize,
}

impl Outbox {
    /// Queues lines, newlines included. False, and nothing is queued, where they would pass [`OUTBOX_LIMIT`].
    #[must_use]
    pub fn push(&mut self, lines: Rc<Vec<u8>>) -> bool {
        let fits = self.waiting + lines.len() <= OUTBOX_LIMIT;
        if fits && !lines.is_empty() {
            self.waiting += lines.len();
            self.pieces.push_back(lines);
        }
        fits
    }

    /// The bytes at the front of the queue, piece by piece. They stay there until [`Outbox::sent`].
    pub fn front(&self) -> Vec<IoSlice<'_>> {
        let pieces = self.pieces.iter().take(MOST_SLICES).enumerate();
        pieces.map(|(at, piece)| IoSlice::new(if at == 0 { &piece[self.taken..] } else { piece })).collect()
    }

    /// Removes the bytes that send(2) has taken.
    pub fn sent(&mut self, bytes_sent: usize) {
        self.waiting -= bytes_sent;
        self.taken += bytes_sent;
        while let Some(piece) = self.pieces.front().filter(|piece| self.taken >= piece.len()) {
            self.taken -= piece.len();
            self.pieces.pop_front();
        }
    }

    /// Whether no byte waits.
    pub fn is_empty(&self) -> bool {
        self.waiting == 0
    }
}

/// The bytes of a line on the wire.
pub fn wire(line: &str) -> Rc<Vec<u8>> {
    Rc::new([line.as_bytes(), b"\n"].concat())
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;

    fn front(outbox: &Outbox) -> Vec<u8> {
        outbox.front().iter().flat_map(|piece| piece.to_vec()).collect()
    }

    #[test]
    fn a_partial_send_leaves_the_rest_in_order() {
        let mut outbox = Outbox::default();
        assert!(outbox.push(wire("one")) && outbox.push(wire("two")));
        outbox.sent(2);
        assert_eq!(front(&outbox), b"e\ntwo\n");
        outbox.sent(6);
        assert!(outbox.is_empty());
    }

    #[test]
    fn a_line_past_the_limit_is_refused_whole() {
        let mut outbox = Outbox::default();
        let line = wire(&"x".repeat(OUTBOX_LIMIT / 2 - 1));
        assert!(outbox.push(line.clone()) && outbox.push(line));
        assert!(!outbox.push(wire("")));
        assert_eq!(outbox.waiting, OUTBOX_LIMIT);
    }

    #[test]
    fn a_line_in_many_queues_is_kept_once_and_freed_with_the_last() {
        let line = wire("to all");
        let mut queues: Vec<Outbox> = (0..1000).map(|_| Outbox::default()).collect();
        assert!(queues.iter_mut().all(|outbox| outbox.push(line.clone())));
        assert_eq!(Rc::strong_count(&line), 1001);
        queues.iter_mut().for_each(|outbox| outbox.sent(7));
        assert_eq!(Rc::strong_count(&line), 1);
    }

    proptest! {
        #[test]
        fn however_much_each_send_takes_the_bytes_arrive_once_and_in_order(
            lines in vec("[a-z]{0,9}", 0..200),
            takes in vec(1usize..40, 1..20),
        ) {
            let mut outbox = Outbox::default();
            prop_assert!(lines.iter().all(|line| outbox.push(wire(line))));
            let (mut arrived, mut takes) = (Vec::new(), takes.iter().cycle());
            while !outbox.is_empty() {
                let bytes = front(&outbox);
                let taken = bytes.len().min(*takes.next().unwrap());
                arrived.extend_from_slice(&bytes[..taken]);
                outbox.sent(taken);
            }
            prop_assert_eq!(arrived, lines.iter().flat_map(|line| wire(line).to_vec()).collect::<Vec<_>>());
            prop_assert!(outbox.pieces.is_empty() && outbox.taken == 0);
        }
    }
}
