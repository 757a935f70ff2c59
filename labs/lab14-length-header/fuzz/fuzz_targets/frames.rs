//! Any bytes in any pieces: `Frames` gives messages within its limit, waits, or names a fault. It holds what has come.
#![no_main]

#[path = "../../src/frames.rs"]
#[allow(dead_code)]
mod frames;

use libfuzzer_sys::fuzz_target;

const LIMIT: usize = 1000;

fuzz_target!(|input: &[u8]| {
    // The first byte is the length of the pieces.
    let Some((piece, bytes)) = input.split_first() else { return };
    let mut frames = frames::Frames::new(LIMIT);
    let mut came = 0;
    for piece in bytes.chunks(usize::from(*piece).max(1)) {
        frames.push(piece);
        came += piece.len();
        loop {
            match frames.next_message() {
                Ok(Some(message)) => assert!(message.len() <= LIMIT),
                Ok(None) => break,
                Err(_) => return,
            }
        }
        assert!(frames.incomplete() <= came && frames.incomplete() < frames::HEADER + LIMIT);
    }
});
