//! What the files hold: bytes made up from a file's number, so that each file differs and any part can be made anew.

use sha2::{Digest, Sha256};

/// Bytes that one step of the generator gives.
const WORD: u64 = 8;
/// Made and hashed at a time.
const CHUNK: usize = 65_536;

/// A file of the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Content {
    /// From 1 on: 1.bin is the first.
    pub number: u16,
    /// In bytes.
    pub size: u64,
}

impl Content {
    /// Fills `buffer` with the bytes from `offset` on.
    pub fn fill(self, offset: u64, buffer: &mut [u8]) {
        let mut at = offset;
        let mut rest = buffer;
        while !rest.is_empty() {
            let word = self.word(at / WORD);
            let from = (at % WORD) as usize;
            let length = rest.len().min(word.len() - from);
            let (now, later) = rest.split_at_mut(length);
            now.copy_from_slice(&word[from..from + length]);
            (at, rest) = (at + length as u64, later);
        }
    }

    /// The SHA-256 of the whole file.
    pub fn digest(self) -> [u8; 32] {
        let (mut hash, mut buffer, mut at) = (Sha256::new(), vec![0; CHUNK], 0);
        while at < self.size {
            let length = (self.size - at).min(CHUNK as u64) as usize;
            self.fill(at, &mut buffer[..length]);
            hash.update(&buffer[..length]);
            at += length as u64;
        }
        hash.finalize().into()
    }

    /// splitmix64: a well mixed word for each number.
    fn word(self, index: u64) -> [u8; WORD as usize] {
        let mut word = (u64::from(self.number) << 40 | index).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        word = (word ^ word >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ word >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        (word ^ word >> 31).to_le_bytes()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn any_part_is_the_same_as_in_the_whole(from in 0_usize..200, length in 0_usize..200) {
            let content = Content { number: 3, size: 400 };
            let (mut whole, mut part) = ([0; 400], vec![0; length]);
            content.fill(0, &mut whole);
            content.fill(from as u64, &mut part);
            prop_assert_eq!(&part[..], &whole[from..from + length]);
        }
    }

    #[test]
    fn files_differ_and_their_digests_are_those_of_their_bytes() {
        let [one, two] = [1, 2].map(|number| Content { number, size: 100_000 });
        let mut bytes = vec![0; 100_000];
        one.fill(0, &mut bytes);
        assert_eq!(one.digest(), <[u8; 32]>::from(Sha256::digest(&bytes)));
        assert_ne!(one.digest(), two.digest());
    }
}
