//! From bytes to messages: 64 bytes that say how long the message is, then the message. No socket in here.
//!
//! recv may end anywhere: in a header, in a message, between two bytes of one letter. So bytes are collected, and a
//! message is handed out when its last byte is there.

use std::fmt;

/// The length of a header, in bytes.
pub const HEADER: usize = 64;

/// Why what came is no message. After one of these nobody knows where the next message starts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The header is not a decimal number, padded with spaces on its right.
    NotALength,
    /// The header names more than this limit, in bytes.
    TooLong(usize),
    /// The message is not UTF-8 from this byte on.
    NotUtf8(usize),
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fault::NotALength => write!(f, "the header is no length: digits, then spaces, {HEADER} bytes"),
            Fault::TooLong(limit) => write!(f, "the header names more than {limit} bytes"),
            Fault::NotUtf8(at) => write!(f, "the message is not UTF-8 from byte {at} on"),
        }
    }
}

/// The header for a message of this many bytes.
pub fn header(length: usize) -> [u8; HEADER] {
    let mut header = [b' '; HEADER];
    let digits = length.to_string();
    header[..digits.len()].copy_from_slice(digits.as_bytes());
    header
}

/// The length that a header names: at least one digit, then only spaces.
///
/// # Errors
/// [`Fault::NotALength`]; [`Fault::TooLong`] beyond `limit`, however many digits there are.
pub fn length(header: &[u8; HEADER], limit: usize) -> Result<usize, Fault> {
    let text = header.trim_ascii_end();
    if text.is_empty() || !text.iter().all(u8::is_ascii_digit) {
        return Err(Fault::NotALength);
    }
    let number = std::str::from_utf8(text).ok().and_then(|digits| digits.parse().ok()); // None: beyond any usize
    number.filter(|length| *length <= limit).ok_or(Fault::TooLong(limit))
}

/// Collects bytes until a message is complete. It holds what has come, never what a header merely claims.
pub struct Frames {
    limit: usize,
    /// What came.
    bytes: Vec<u8>,
    /// So many of these bytes are handed out already.
    taken: usize,
}

impl Frames {
    /// For messages of at most `limit` bytes.
    pub fn new(limit: usize) -> Self {
        Frames { limit, bytes: Vec::new(), taken: 0 }
    }

    /// Takes the next bytes, wherever recv cut them.
    pub fn push(&mut self, bytes: &[u8]) {
        self.bytes.drain(..self.taken); // once for each recv, not for each message
        self.taken = 0;
        self.bytes.extend(bytes);
    }

    /// The next complete message; `None` until more bytes have come. Call it until it returns `None`.
    ///
    /// # Errors
    /// The bytes are no message; no further one can be found.
    pub fn next_message(&mut self) -> Result<Option<String>, Fault> {
        let Some((header, rest)) = self.bytes[self.taken..].split_first_chunk() else { return Ok(None) };
        let length = length(header, self.limit)?;
        let Some(message) = rest.get(..length) else { return Ok(None) };
        let text = std::str::from_utf8(message).map_err(|error| Fault::NotUtf8(error.valid_up_to()))?.to_string();
        self.taken += HEADER + length;
        Ok(Some(text))
    }

    /// How many bytes of an incomplete message are there; 0 between two messages.
    pub fn incomplete(&self) -> usize {
        self.bytes.len() - self.taken
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;

    const LIMIT: usize = 1000;

    fn framed(messages: &[String]) -> Vec<u8> {
        messages.iter().flat_map(|message| [&header(message.len())[..], message.as_bytes()].concat()).collect()
    }

    #[test]
    fn a_header_is_digits_and_then_spaces() {
        let read = |text: &str| length(format!("{text:<64}").as_bytes().first_chunk().unwrap(), LIMIT);
        assert_eq!([read("12"), read("0"), read("0012"), read("1000")], [Ok(12), Ok(0), Ok(12), Ok(1000)]);
        for text in ["", " 12", "-1", "+1", "12abc", "1 2", "0x10", "\u{661}\u{662}"] {
            assert_eq!(read(text), Err(Fault::NotALength), "{text}");
        }
        for text in ["1001", "99999999999999999999999999", &"9".repeat(64)] {
            assert_eq!(read(text), Err(Fault::TooLong(LIMIT)), "{text}");
        }
        assert_eq!(length(&header(LIMIT), LIMIT), Ok(LIMIT));
    }

    #[test]
    fn a_claim_takes_no_memory() {
        let mut frames = Frames::new(usize::MAX);
        frames.push(&header(usize::MAX / 2 - HEADER));
        assert_eq!((frames.next_message(), frames.incomplete()), (Ok(None), HEADER));
        assert!(frames.bytes.capacity() < 1024);
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn any_cut_of_any_messages_gives_the_same_messages(
            messages in vec(".{0,200}", 0..8),
            cuts in vec(1usize..90, 1..400),
        ) {
            let wire = framed(&messages);
            let mut frames = Frames::new(LIMIT);
            let (mut received, mut rest) = (Vec::new(), &wire[..]);
            for cut in cuts.iter().copied().cycle() {
                let (piece, after) = rest.split_at(cut.min(rest.len()));
                frames.push(piece);
                while let Some(message) = frames.next_message().unwrap() {
                    received.push(message);
                }
                rest = after;
                if rest.is_empty() {
                    break;
                }
            }
            prop_assert_eq!(received, messages);
            prop_assert_eq!(frames.incomplete(), 0);
        }

        #[test]
        fn garbage_is_a_fault_or_waits_and_is_held_only_as_far_as_it_came(
            pieces in vec(vec(any::<u8>(), 0..200), 0..20),
        ) {
            let mut frames = Frames::new(LIMIT);
            let mut came = 0;
            for piece in &pieces {
                frames.push(piece);
                came += piece.len();
                prop_assert!(frames.bytes.len() <= came);
                match frames.next_message() {
                    Ok(Some(message)) => prop_assert!(message.len() <= LIMIT),
                    Ok(None) => prop_assert!(frames.incomplete() < HEADER + LIMIT),
                    Err(_) => break,
                }
            }
        }
    }

    #[test]
    fn a_million_random_headers_and_bodies_never_panic() {
        // xorshift64: the same strings in each run.
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let mut random = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state
        };
        let alphabet = b"0123456789    -+x\xff\n";
        let mut outcomes = [0; 3];
        for _ in 0..1_000_000 {
            let mut frames = Frames::new(LIMIT);
            let digits = random() % 5;
            let mut bytes = [b' '; 80];
            for byte in &mut bytes[..digits as usize] {
                *byte = alphabet[random() as usize % alphabet.len()];
            }
            let length = random() as usize % 81;
            frames.push(&bytes[..length]);
            outcomes[match frames.next_message() {
                Ok(Some(_)) => 0,
                Ok(None) => 1,
                Err(_) => 2,
            }] += 1;
        }
        assert!(outcomes.iter().all(|count| *count > 1000), "{outcomes:?}");
    }
}
