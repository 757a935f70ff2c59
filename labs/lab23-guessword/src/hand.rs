//! Keys and mouse: what the bytes of a terminal mean to whoever draws.

use vte::{Params, Perform};

use crate::{
    canvas::{HEIGHT, WIDTH},
    wire::Stroke,
};

/// The mouse's left button, pressed, and held while the mouse moves: xterm's numbers.
const LEFT_PRESSED: u16 = 0;
const LEFT_MOVED: u16 = 32;

/// Where the user is, and with what. Keys and mouse come as the control sequences of ECMA-48, which vte takes apart.
pub struct Hand {
    pub x: usize,
    pub y: usize,
    pub pen: char,
    /// What the last keys have painted.
    pub strokes: Vec<Stroke>,
    /// Ctrl-C or Ctrl-D.
    pub leaves: bool,
}

impl Hand {
    /// A hand in this cell.
    pub fn at(x: usize, y: usize) -> Self {
        Hand { x, y, pen: '#', strokes: Vec::new(), leaves: false }
    }

    fn paint(&mut self, pen: char) {
        self.strokes.push(Stroke { x: self.x, y: self.y, pen });
    }
}

impl Perform for Hand {
    /// A character, DEL among them: Backspace sends it.
    fn print(&mut self, key: char) {
        match key {
            ' '..='~' => {
                self.pen = key;
                self.paint(key);
            }
            '\x7f' => self.paint(' '),
            _ => {} // no character of ASCII
        }
    }

    /// A control character.
    fn execute(&mut self, byte: u8) {
        match byte {
            0x03 | 0x04 => self.leaves = true, // Ctrl-C, Ctrl-D
            0x08 | 0x7f => self.paint(' '),    // Backspace
            _ => {}
        }
    }

    /// A key such as an arrow, or the mouse: `ESC [ < BUTTON ; COLUMN ; ROW M`, from 1 on.
    fn csi_dispatch(&mut self, parameters: &Params, intermediates: &[u8], _ignore: bool, action: char) {
        let number = |at: usize| parameters.iter().nth(at).and_then(|parts| parts.first()).copied().unwrap_or(0);
        match (intermediates, action) {
            (b"", 'A') => self.y = self.y.saturating_sub(1),
            (b"", 'B') => self.y = (self.y + 1).min(HEIGHT - 1),
            (b"", 'C') => self.x = (self.x + 1).min(WIDTH - 1),
            (b"", 'D') => self.x = self.x.saturating_sub(1),
            (b"", '~') if number(0) == 3 => self.paint(' '), // Delete
            (b"<", 'M') if [LEFT_PRESSED, LEFT_MOVED].contains(&number(0)) => {
                // Inside of the frame, which is in column 1 and row 1.
                let (x, y) = (usize::from(number(1)).wrapping_sub(2), usize::from(number(2)).wrapping_sub(2));
                if x < WIDTH && y < HEIGHT {
                    (self.x, self.y) = (x, y);
                    self.paint(self.pen);
                }
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use vte::Parser;

    use super::*;

    fn strokes(pieces: &[&str]) -> (Vec<String>, bool) {
        let (mut hand, mut parser) = (Hand::at(3, 4), Parser::new());
        pieces.iter().for_each(|piece| parser.advance(&mut hand, piece.as_bytes()));
        (hand.strokes.iter().map(Stroke::to_string).collect(), hand.leaves)
    }

    fn painted(keys: &str) -> Vec<String> {
        strokes(&[keys]).0
    }

    #[test]
    fn keys_move_and_paint() {
        assert_eq!(painted("a\x1b[C\x1b[Bb\x7f\x1b[3~"), ["3 4 a", "4 5 b", "4 5  ", "4 5  "]);
        assert_eq!(painted(&format!("{}{}x", "\x1b[A".repeat(9), "\x1b[D".repeat(9))), ["0 0 x"]);
        assert_eq!(painted("\u{f5}\r\t"), [""; 0]);
        assert!(strokes(&["x\x03"]).1 && strokes(&["\x04"]).1);
    }

    #[test]
    fn the_mouse_paints_inside_of_the_frame() {
        assert_eq!(painted("\x1b[<0;2;2M\x1b[<32;3;2M\x1b[<0;3;2m"), ["0 0 #", "1 0 #"]);
        assert_eq!(painted("\x1b[<0;1;1M\x1b[<0;62;2M\x1b[<2;5;5M\x1b[<0;61;21M"), ["59 19 #"]);
    }

    #[test]
    fn a_sequence_may_come_in_pieces() {
        assert_eq!(strokes(&["\x1b", "[", "C", "z"]).0, ["4 4 z"]);
    }

    proptest! {
        #[test]
        fn whatever_the_terminal_sends_the_hand_stays_inside(keys in "(\x1b\\[<?[0-9;]{0,12}[A-Z~]|\\PC)*") {
            let (mut hand, mut parser) = (Hand::at(3, 4), Parser::new());
            parser.advance(&mut hand, keys.as_bytes());
            prop_assert!(hand.x < WIDTH && hand.y < HEIGHT);
            prop_assert!(hand.strokes.iter().all(|stroke| stroke.x < WIDTH && stroke.y < HEIGHT));
        }
    }
}
