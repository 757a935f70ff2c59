//! From bytes to lines: the newline is what ends one. lab07 has a splitter of its own, because there it is the lesson.

/// What stood between two newlines.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Line {
    /// Text without its `\n` or `\r\n`.
    Text(String),
    /// More bytes than the limit; they were thrown away.
    TooLong,
    /// Not UTF-8 from this byte on.
    NotUtf8(usize),
}

/// Collects bytes until a line is complete. It never holds more than one line, of at most `LIMIT` bytes without newline.
#[derive(Default)]
pub struct LineSplitter<const LIMIT: usize> {
    partial: Vec<u8>,
    too_long: bool,
}

impl<const LIMIT: usize> LineSplitter<LIMIT> {
    /// Takes the next bytes, wherever recv cut them, and returns the lines they complete.
    pub fn push(&mut self, bytes: &[u8]) -> Vec<Line> {
        let mut lines = Vec::new();
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            let text = piece.strip_suffix(b"\n");
            self.collect(text.unwrap_or(piece));
            if text.is_some() {
                lines.push(self.take());
            }
        }
        lines
    }

    /// At the end of the stream: what came after the last newline.
    pub fn rest(&mut self) -> Option<Line> {
        (self.too_long || !self.partial.is_empty()).then(|| self.take())
    }

    fn collect(&mut self, piece: &[u8]) {
        // One byte more than the limit: it may turn out to be the \r of \r\n.
        self.too_long |= self.partial.len() + piece.len() > LIMIT + 1;
        if self.too_long {
            self.partial.clear();
        } else {
            self.partial.extend(piece);
        }
    }

    fn take(&mut self) -> Line {
        let mut line = std::mem::take(&mut self.partial);
        if line.last() == Some(&b'\r') {
            line.pop();
        }
        if std::mem::take(&mut self.too_long) || line.len() > LIMIT {
            return Line::TooLong;
        }
        String::from_utf8(line).map_or_else(|error| Line::NotUtf8(error.utf8_error().valid_up_to()), Line::Text)
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;

    const LIMIT: usize = 64 * 1024;

    fn text(line: &str) -> Line {
        Line::Text(line.into())
    }

    #[test]
    fn a_line_ends_at_its_newline_and_loses_one_carriage_return() {
        let mut lines = LineSplitter::<LIMIT>::default();
        assert_eq!(lines.push(b"racecar\ntaco cat\r\n\n"), [text("racecar"), text("taco cat"), text("")]);
        assert_eq!(lines.push(b"two\r\r\n"), [text("two\r")]);
        assert_eq!(lines.rest(), None);
    }

    #[test]
    fn a_line_cut_by_the_end_of_the_stream_is_the_rest() {
        let mut lines = LineSplitter::<LIMIT>::default();
        assert_eq!(lines.push(b"one\ntw"), [text("one")]);
        assert_eq!(lines.push(b"o"), []);
        assert_eq!(lines.rest(), Some(text("two")));
        assert_eq!(lines.rest(), None);
    }

    #[test]
    fn the_limit_holds_with_and_without_carriage_return() {
        limited::<1000>();
        limited::<4096>();
        limited::<65_536>();
    }

    fn limited<const LIMIT: usize>() {
        let mut lines = LineSplitter::<LIMIT>::default();
        for ending in ["\n", "\r\n"] {
            let longest = "x".repeat(LIMIT);
            assert_eq!(lines.push(format!("{longest}{ending}").as_bytes()), [text(&longest)]);
            assert_eq!(lines.push(format!("{longest}y{ending}next\n").as_bytes()), [Line::TooLong, text("next")]);
        }
        for _ in 0..100 {
            assert_eq!(lines.push(&[b'x'; 10_000]), []);
            assert!(lines.partial.len() <= LIMIT + 1, "an endless line is not kept");
        }
        assert_eq!(lines.push(b"\nnext\n"), [Line::TooLong, text("next")]);
    }

    #[test]
    fn invalid_utf8_says_where_and_spares_the_next_line() {
        let mut lines = LineSplitter::<LIMIT>::default();
        assert_eq!(lines.push(b"ab\xff\nnext\n"), [Line::NotUtf8(2), text("next")]);
    }

    proptest! {
        #[test]
        fn where_recv_cuts_the_bytes_makes_no_difference(
            bytes in vec(prop_oneof![Just(b'\n'), Just(b'\r'), any::<u8>()], 0..400),
            cuts in vec(1usize..50, 1..40),
        ) {
            let mut whole = LineSplitter::<LIMIT>::default();
            let mut expected = whole.push(&bytes);
            expected.extend(whole.rest());

            let mut pieces = LineSplitter::<LIMIT>::default();
            let mut observed = Vec::new();
            let mut rest = bytes.as_slice();
            for cut in cuts.iter().cycle() {
                let (piece, after) = rest.split_at((*cut).min(rest.len()));
                observed.extend(pieces.push(piece));
                rest = after;
                if rest.is_empty() {
                    break;
                }
            }
            observed.extend(pieces.rest());
            prop_assert_eq!(observed, expected);
        }
    }
}
