//! How a line is shown: reversed by Unicode scalar, as the handout does, and harmless to the terminal.

use shared::escaped;

/// The line from its last Unicode scalar to its first, control characters escaped.
pub fn reversed(line: &str) -> String {
    escaped(line.chars().rev().collect::<String>().as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_handouts_lines_come_out_reversed() {
        assert_eq!(reversed("Line 1 sending to server"), "revres ot gnidnes 1 eniL");
        assert_eq!(reversed("racecar"), "racecar");
        assert_eq!(reversed("taco cat"), "tac ocat");
        assert_eq!(reversed("I have 3 clients"), "stneilc 3 evah I");
    }

    #[test]
    fn control_characters_cannot_act_and_stay_readable_after_the_reversal() {
        assert_eq!(reversed("a\x1b[2Jb"), "bJ2[\\u{1b}a");
        assert_eq!(reversed("\u{202e}\x07lleb\tbat"), "tab\\tbell\\u{7}\\u{202e}");
    }

    #[test]
    fn reversal_is_by_unicode_scalar_not_by_byte() {
        assert_eq!(reversed("öäü"), "üäö");
    }
}
