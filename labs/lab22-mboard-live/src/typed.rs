//! From what was typed to lines. A line may have any bytes but its newline.

/// The longest line, its newline not counted, in bytes.
pub const LINE_LIMIT: usize = 64 * 1024;

/// Collects bytes until a line is complete.
#[derive(Default)]
pub struct Typed {
    partial: Vec<u8>,
    too_long: bool,
}

impl Typed {
    /// Takes the next bytes and returns the lines they complete; `None` is one that was too long, and is thrown away.
    pub fn push(&mut self, bytes: &[u8]) -> Vec<Option<Vec<u8>>> {
        let mut lines = Vec::new();
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            let text = piece.strip_suffix(b"\n");
            self.partial.extend(text.unwrap_or(piece));
            if self.partial.len() > LINE_LIMIT {
                self.partial.clear();
                self.too_long = true;
            }
            if text.is_some() {
                lines.push(self.take());
            }
        }
        lines
    }

    /// At the end of the input: what came after the last newline.
    pub fn rest(mut self) -> Vec<Option<Vec<u8>>> {
        if self.too_long || !self.partial.is_empty() { vec![self.take()] } else { Vec::new() }
    }

    fn take(&mut self) -> Option<Vec<u8>> {
        let line = std::mem::take(&mut self.partial);
        (!std::mem::take(&mut self.too_long)).then_some(line)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_end_at_their_newlines_and_the_last_at_the_end() {
        let mut typed = Typed::default();
        assert_eq!(typed.push(b"one\n\ntw"), [Some(b"one".to_vec()), Some(Vec::new())]);
        assert_eq!(typed.push(b"o"), []);
        assert_eq!(typed.rest(), [Some(b"two".to_vec())]);
    }

    #[test]
    fn a_line_past_the_limit_is_thrown_away_whole_and_the_next_one_is_read() {
        let mut typed = Typed::default();
        assert_eq!(typed.push(&[b'x'; LINE_LIMIT]), []);
        assert_eq!(typed.push(b"x"), []);
        assert_eq!(typed.push(b"y\nz\n"), [None, Some(b"z".to_vec())]);
        typed.push(&[b'x'; LINE_LIMIT]);
        assert_eq!(typed.push(b"\n"), [Some(vec![b'x'; LINE_LIMIT])]);
    }
}
