//! From bytes to frames: a connection that stays open has no end of stream to end a request, so its length goes ahead.
//!
//! A frame is `LENGTH:BODY` and a newline; lab17's experiment killed-halfway asks for this. The newline is for people
//! with nc: a receiver skips it, and needs none.

/// The longest body, in bytes.
pub const FRAME_LIMIT: usize = 1 << 20;
/// So many digits has the length at most.
const DIGITS: usize = 7;

/// Why the rest of a stream cannot be read: nobody knows where the next frame begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bad {
    /// What stands in front is no number and a colon.
    Length,
    /// The body would be longer than [`FRAME_LIMIT`].
    TooLong,
}

/// The bytes of a frame.
pub fn frame(body: &[u8]) -> Vec<u8> {
    [format!("{}:", body.len()).as_bytes(), body, b"\n"].concat()
}

/// Collects bytes until a frame is complete.
#[derive(Default)]
pub struct Frames {
    bytes: Vec<u8>,
    /// So many of them were taken already.
    taken: usize,
}

impl Frames {
    /// Takes the next bytes, wherever recv cut them.
    pub fn push(&mut self, bytes: &[u8]) {
        self.bytes.drain(..self.taken);
        self.taken = 0;
        self.bytes.extend(bytes);
    }

    /// The next body, if it is there as a whole.
    pub fn next(&mut self) -> Result<Option<Vec<u8>>, Bad> {
        let newlines = self.rest().iter().take_while(|byte| b"\r\n".contains(byte)).count();
        self.taken += newlines;
        let head = &self.rest()[..self.rest().len().min(DIGITS + 1)];
        let Some(colon) = head.iter().position(|byte| *byte == b':') else {
            let may_become_one = head.len() <= DIGITS && head.iter().all(u8::is_ascii_digit);
            return if may_become_one { Ok(None) } else { Err(Bad::Length) };
        };
        let length: usize = number(&head[..colon]).and_then(|length| length.try_into().ok()).ok_or(Bad::Length)?;
        if length > FRAME_LIMIT {
            return Err(Bad::TooLong);
        }
        let body = self.rest().get(colon + 1..colon + 1 + length).map(<[u8]>::to_vec);
        if body.is_some() {
            self.taken += colon + 1 + length;
        }
        Ok(body)
    }

    /// The bytes of a frame that has begun.
    pub fn rest(&self) -> &[u8] {
        &self.bytes[self.taken..]
    }
}

/// Decimal digits and nothing else: no sign, no space.
pub fn number(bytes: &[u8]) -> Option<u64> {
    let digits = bytes.iter().all(u8::is_ascii_digit);
    str::from_utf8(bytes).ok().filter(|_| digits)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*, sample::Index};

    use super::*;

    fn all(frames: &mut Frames) -> Vec<Vec<u8>> {
        std::iter::from_fn(|| frames.next().unwrap()).collect()
    }

    #[test]
    fn a_frame_is_a_length_a_colon_and_so_many_bytes() {
        assert_eq!(frame(b"1:Hello world!"), b"14:1:Hello world!\n");
        let mut frames = Frames::default();
        frames.push(b"3:2:0\r\n\n0:\n4:a:b\n5:");
        assert_eq!(all(&mut frames), [b"2:0".to_vec(), b"".to_vec(), b"a:b\n".to_vec()]);
        assert_eq!(frames.rest(), b"5:");
    }

    #[test]
    fn what_is_no_length_is_refused_as_soon_as_that_is_certain() {
        for (bytes, expected) in [
            (&b"hello"[..], Err(Bad::Length)),
            (b":", Err(Bad::Length)),
            (b"-1:", Err(Bad::Length)),
            (b"00000001:", Err(Bad::Length)),
            (b"1048577:", Err(Bad::TooLong)),
            (b"1048576:", Ok(None)),
            (b"1234567", Ok(None)),
            (b"12345678", Err(Bad::Length)),
            (b"GET / HTTP/1.1\r\n", Err(Bad::Length)),
        ] {
            let mut frames = Frames::default();
            frames.push(bytes);
            assert_eq!(frames.next(), expected, "{}", bytes.escape_ascii());
        }
    }

    #[test]
    fn a_million_random_inputs_are_frames_or_refused() {
        const LETTERS: &[u8; 16] = b"0123456789:::\n\ra";
        let (mut state, mut read, mut refused) = (9973_u64, 0, 0);
        let mut random = move |below: usize| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            usize::try_from(state >> 33).unwrap() % below
        };
        for _ in 0..1_000_000 {
            let input: Vec<u8> = (0..random(12)).map(|_| LETTERS[random(LETTERS.len())]).collect();
            let mut frames = Frames::default();
            frames.push(&input);
            loop {
                match frames.next() {
                    Ok(Some(body)) => {
                        assert!(body.len() < input.len());
                        read += 1;
                    }
                    Ok(None) => break,
                    Err(_) => {
                        refused += 1;
                        break;
                    }
                }
            }
        }
        assert!(read > 10_000 && refused > 10_000, "{read} read, {refused} refused");
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn any_bodies_survive_any_cuts(bodies in vec(vec(any::<u8>(), 0..40), 0..8), cuts in vec(any::<Index>(), 0..8)) {
            let stream: Vec<u8> = bodies.iter().flat_map(|body| frame(body)).collect();
            let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(stream.len() + 1)).collect();
            cuts.push(stream.len());
            cuts.sort_unstable();
            let (mut frames, mut read, mut from) = (Frames::default(), Vec::new(), 0);
            for cut in cuts {
                frames.push(&stream[from..cut]);
                from = cut;
                read.extend(all(&mut frames));
            }
            prop_assert_eq!(read, bodies);
            prop_assert!(frames.rest().is_empty());
        }
    }
}
