//! What recv returned, block by block: blocks of equal length become one line.

use std::net::SocketAddr;

/// Blocks of equal length that no line has shown yet.
pub struct Blocks {
    length: usize,
    times: usize,
    peer_addr: SocketAddr,
}

impl Blocks {
    /// No block yet.
    pub fn from(peer_addr: SocketAddr) -> Self {
        Blocks { length: 0, times: 0, peer_addr }
    }

    /// Counts a block. Returns the line for the blocks before it if their length was another one.
    pub fn add(&mut self, length: usize) -> Option<String> {
        let before = if length == self.length { None } else { self.take() };
        self.length = length;
        self.times += 1;
        before
    }

    /// Whether blocks wait for their line.
    pub fn some_wait(&self) -> bool {
        self.times > 0
    }

    /// The line for the blocks counted, if there are any.
    pub fn take(&mut self) -> Option<String> {
        let (length, peer_addr) = (self.length, self.peer_addr);
        match std::mem::take(&mut self.times) {
            0 => None,
            1 => Some(format!("Received block of {length} from {peer_addr}")),
            times => Some(format!("Received block of {length} from {peer_addr} x{times}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_blocks_become_one_line_when_another_length_comes() {
        let mut blocks = Blocks::from(SocketAddr::from(([127, 0, 0, 1], 58244)));
        assert_eq!((blocks.take(), blocks.some_wait()), (None, false));
        assert_eq!((blocks.add(1024), blocks.add(1024)), (None, None));
        assert_eq!(blocks.add(33).as_deref(), Some("Received block of 1024 from 127.0.0.1:58244 x2"));
        assert!(blocks.some_wait());
        assert_eq!(blocks.take().as_deref(), Some("Received block of 33 from 127.0.0.1:58244"));
        assert_eq!(blocks.add(33), None);
    }
}
