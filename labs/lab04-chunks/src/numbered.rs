//! A block with its number: 16 bytes of header, then at most 1008 bytes of the message. All numbers are big-endian.
//!
//! ```text
//! bytes   what
//!  0- 3   "NBLK", so that a stray datagram is not taken for a block
//!  4- 7   the message's number, chosen by its sender: the next message has another
//!  8-11   the block's number, from 1
//! 12-15   the length of the whole message, in every block: whichever block is lost, the others tell the length
//! 16-     1008 bytes of the message, or in the last block the rest
//! ```
//!
//! Block n therefore holds the message's bytes from (n - 1) * 1008 on, and the length says how many blocks there are.
//! An empty message is one block without a byte of payload.

use std::collections::{BTreeMap, BTreeSet};

use crate::message::{BLOCK_LEN, LENGTH_LIMIT};

const MAGIC: &[u8; 4] = b"NBLK";
/// Header and payload together are a block of the lecture.
pub const HEADER_LEN: usize = 16;
pub const PAYLOAD_LEN: usize = BLOCK_LEN - HEADER_LEN;

/// A block, its payload where it was received.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Block<'a> {
    pub message: u32,
    pub number: u32,
    pub total_len: u32,
    pub payload: &'a [u8],
}

/// Why a datagram is no block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    NotABlock,
    /// The length it gives is more than [`LENGTH_LIMIT`].
    TooLong,
    /// Its number is 0, or beyond the message's end.
    NoSuchNumber,
    /// Its payload is not as long as its place in the message says.
    WrongLength,
}

impl Fault {
    pub fn text(self) -> &'static str {
        match self {
            Fault::NotABlock => "no numbered block",
            Fault::TooLong => "its message is longer than 16777216 bytes",
            Fault::NoSuchNumber => "the message has no block with its number",
            Fault::WrongLength => "its length does not fit its place in the message",
        }
    }
}

/// How many blocks a message of this length has.
pub fn blocks(total_len: u32) -> u32 {
    total_len.div_ceil(PAYLOAD_LEN as u32).max(1)
}

/// Where in the message the payload of this block begins; the first block is block 1.
pub fn offset(block: u32) -> usize {
    (block as usize - 1) * PAYLOAD_LEN
}

/// Cuts a message of at most [`LENGTH_LIMIT`] bytes into numbered datagrams.
pub fn cut(message: &[u8], number: u32) -> Vec<Vec<u8>> {
    let total_len = message.len() as u32; // fits: LENGTH_LIMIT is far below
    let datagram = |block: u32| {
        let from = offset(block);
        let payload = &message[from..message.len().min(from + PAYLOAD_LEN)];
        let numbers = [number, block, total_len].map(u32::to_be_bytes).concat();
        [MAGIC, numbers.as_slice(), payload].concat()
    };
    (1..=blocks(total_len)).map(datagram).collect()
}

/// Reads a datagram.
///
/// # Errors
/// The [`Fault`] that makes it no block; a block that is returned fits its message.
pub fn parse(datagram: &[u8]) -> Result<Block<'_>, Fault> {
    let (header, payload) = datagram.split_first_chunk::<HEADER_LEN>().ok_or(Fault::NotABlock)?;
    let (magic, numbers) = header.split_first_chunk::<4>().ok_or(Fault::NotABlock)?;
    if magic != MAGIC {
        return Err(Fault::NotABlock);
    }
    let field = |at: usize| u32::from_be_bytes([numbers[at], numbers[at + 1], numbers[at + 2], numbers[at + 3]]);
    let (message, number, total_len) = (field(0), field(4), field(8));
    if total_len as usize > LENGTH_LIMIT {
        return Err(Fault::TooLong);
    }
    if !(1..=blocks(total_len)).contains(&number) {
        return Err(Fault::NoSuchNumber);
    }
    let rest = total_len as usize - offset(number);
    if payload.len() != rest.min(PAYLOAD_LEN) {
        return Err(Fault::WrongLength);
    }
    Ok(Block { message, number, total_len, payload })
}

/// A message under way: its blocks as they come, in any order. Memory is used only for blocks that have arrived.
#[derive(Debug)]
pub struct Assembly {
    total_len: u32,
    blocks: BTreeMap<u32, Vec<u8>>,
    /// The numbers of the blocks that came more than once.
    pub again: BTreeSet<u32>,
    /// Blocks that came after one with a higher number.
    pub late: u32,
}

impl Assembly {
    /// Starts with any block of the message.
    pub fn new(block: &Block<'_>) -> Self {
        let mut assembly =
            Assembly { total_len: block.total_len, blocks: BTreeMap::new(), again: BTreeSet::new(), late: 0 };
        assembly.add(block);
        assembly
    }

    /// Takes a block; of two with the same number the first counts. False: this block gives another total length than
    /// the others, and is not taken.
    pub fn add(&mut self, block: &Block<'_>) -> bool {
        if block.total_len != self.total_len {
            return false;
        }
        if self.blocks.contains_key(&block.number) {
            self.again.insert(block.number);
            return true;
        }
        self.late += u32::from(self.blocks.last_key_value().is_some_and(|(last, _)| block.number < *last));
        self.blocks.insert(block.number, block.payload.to_vec());
        true
    }

    /// How many blocks have come.
    pub fn arrived(&self) -> usize {
        self.blocks.len()
    }

    /// How many blocks the whole message has.
    pub fn expected(&self) -> u32 {
        blocks(self.total_len)
    }

    /// The numbers of the blocks that have not come.
    pub fn missing(&self) -> Vec<u32> {
        (1..=self.expected()).filter(|number| !self.blocks.contains_key(number)).collect()
    }

    pub fn is_whole(&self) -> bool {
        self.arrived() as u32 == self.expected()
    }

    /// The bytes that have come, in order.
    pub fn bytes(&self) -> Vec<u8> {
        self.blocks.values().flatten().copied().collect()
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;

    fn assembled<'a>(datagrams: impl IntoIterator<Item = &'a Vec<u8>>) -> Option<Assembly> {
        let mut assembly: Option<Assembly> = None;
        for datagram in datagrams {
            let block = parse(datagram).unwrap();
            match &mut assembly {
                Some(assembly) => assert!(assembly.add(&block)),
                None => assembly = Some(Assembly::new(&block)),
            }
        }
        assembly
    }

    #[test]
    fn the_lectures_message_needs_84_blocks_because_the_header_takes_its_room() {
        let datagrams = cut(&crate::message::lecture_message(), 7);
        assert_eq!(datagrams.len(), 84);
        assert!(datagrams.iter().all(|datagram| datagram.len() <= 1024));
        assert_eq!(&datagrams[1][..28], b"NBLK\0\0\0\x07\0\0\0\x02\0\x01\x48\x21Hello world!");
    }

    #[test]
    fn an_empty_message_is_one_block() {
        let datagrams = cut(b"", 7);
        assert_eq!(datagrams.len(), 1);
        assert!(assembled(&datagrams).unwrap().is_whole());
    }

    #[test]
    fn what_is_no_block_says_why() {
        let good = cut(&[b'x'; 2000], 7);
        let with = |at: usize, bytes: &[u8]| {
            let mut datagram = good[1].clone();
            datagram[at..at + bytes.len()].copy_from_slice(bytes);
            datagram
        };
        assert_eq!(parse(b"Hello world!"), Err(Fault::NotABlock));
        assert_eq!(parse(&good[1][..15]), Err(Fault::NotABlock));
        assert_eq!(parse(&with(0, b"NBLX")), Err(Fault::NotABlock));
        assert_eq!(parse(&with(8, &[0, 0, 0, 0])), Err(Fault::NoSuchNumber));
        assert_eq!(parse(&with(8, &[0, 0, 0, 3])), Err(Fault::NoSuchNumber));
        assert_eq!(parse(&with(12, &[1, 0, 0, 1])), Err(Fault::TooLong));
        assert_eq!(parse(&with(12, &[0, 0, 7, 0])), Err(Fault::WrongLength));
        assert_eq!(parse(&good[1][..900]), Err(Fault::WrongLength));
        assert_eq!(parse(&[good[1].clone(), vec![0]].concat()), Err(Fault::WrongLength));
    }

    #[test]
    fn a_block_that_gives_another_length_is_refused() {
        let mut assembly = assembled(&cut(&[b'x'; 2000], 7)[..1]).unwrap();
        assert!(!assembly.add(&parse(&cut(&[b'x'; 2001], 7)[1]).unwrap()));
        assert_eq!(assembly.missing(), [2]);
    }

    proptest! {
        #[test]
        fn any_order_and_any_doubles_give_the_message_and_a_gap_is_named(
            message in vec(any::<u8>(), 0..9000),
            order in vec(any::<prop::sample::Index>(), 0..30),
            lost in any::<prop::sample::Index>(),
        ) {
            let datagrams = cut(&message, 7);
            let doubled = order.iter().map(|index| index.get(&datagrams));
            let whole = assembled(doubled.chain(&datagrams)).unwrap();
            prop_assert!(whole.is_whole() && whole.missing().is_empty());
            prop_assert_eq!(whole.bytes(), message.clone());
            let again: BTreeSet<_> = order.iter().map(|index| index.index(datagrams.len()) as u32 + 1).collect();
            prop_assert_eq!(whole.again, again);

            let lost = lost.index(datagrams.len());
            let others = datagrams.iter().enumerate().filter(|(at, _)| *at != lost).map(|(_, datagram)| datagram);
            if let Some(partial) = assembled(others) {
                prop_assert!(!partial.is_whole());
                prop_assert_eq!(partial.missing(), [lost as u32 + 1]);
            }
        }

        #[test]
        fn any_bytes_are_a_block_that_fits_its_message_or_a_fault(
            mut bytes in vec(any::<u8>(), 0..1100),
            with_magic in any::<bool>(),
            numbers in prop::option::of((0u32..6, 0u32..4000)),
        ) {
            if let (true, Some(start)) = (with_magic, bytes.first_chunk_mut::<4>()) {
                *start = *MAGIC;
            }
            if let (Some((number, total_len)), true) = (numbers, bytes.len() >= HEADER_LEN) {
                bytes[8..12].copy_from_slice(&number.to_be_bytes());
                bytes[12..16].copy_from_slice(&total_len.to_be_bytes());
            }
            if let Ok(block) = parse(&bytes) {
                let end = offset(block.number) + block.payload.len();
                prop_assert!(end <= block.total_len as usize);
                prop_assert!(!Assembly::new(&block).is_whole() || blocks(block.total_len) == 1);
            }
        }
    }
}
