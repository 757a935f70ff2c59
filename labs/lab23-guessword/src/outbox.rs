//! The bytes that a client has not taken yet: a queue with a limit, so that a client that never reads costs a known amount
//! of memory.

use std::collections::VecDeque;

/// Bytes the server keeps for one client beyond what the kernel's send buffer holds.
pub const OUTBOX_LIMIT: usize = 256 * 1024;

/// Bytes that wait for send(2).
#[derive(Default)]
pub struct Outbox {
    bytes: VecDeque<u8>,
}

impl Outbox {
    /// Queues a line and its newline. False, and nothing is queued, where it would pass [`OUTBOX_LIMIT`].
    #[must_use]
    pub fn push(&mut self, line: &str) -> bool {
        let fits = self.bytes.len() + line.len() < OUTBOX_LIMIT;
        if fits {
            self.bytes.extend(line.as_bytes());
            self.bytes.push_back(b'\n');
        }
        fits
    }

    /// The bytes at the front of the queue, as many as lie together in memory. They stay there until [`Outbox::sent`].
    pub fn front(&self) -> &[u8] {
        self.bytes.as_slices().0
    }

    /// Removes the bytes that send(2) has taken.
    pub fn sent(&mut self, bytes_sent: usize) {
        self.bytes.drain(..bytes_sent);
    }

    /// Whether no byte waits.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_partial_send_leaves_the_rest_in_order() {
        let mut outbox = Outbox::default();
        assert!(outbox.push("one") && outbox.push("two"));
        outbox.sent(2);
        assert_eq!(outbox.front(), b"e\ntwo\n");
        outbox.sent(6);
        assert!(outbox.is_empty());
    }

    #[test]
    fn a_line_past_the_limit_is_refused_whole() {
        let mut outbox = Outbox::default();
        let line = "x".repeat(OUTBOX_LIMIT / 2 - 1);
        assert!(outbox.push(&line) && outbox.push(&line));
        assert!(!outbox.push(""));
        assert_eq!(outbox.bytes.len(), OUTBOX_LIMIT);
    }
}
