//! How a message is shown: short enough for a line, and harmless to the terminal.

use shared::escaped;

/// Longer messages are shown by their beginning and their end.
const SHOWN_WHOLE: usize = 20;
const BEGINNING: usize = 12;
const END: usize = 4;

/// The message as text; of a long one the first and the last letters. What is not UTF-8 or could act is escaped.
pub fn shown(message: &[u8]) -> String {
    if message.len() <= SHOWN_WHOLE {
        return escaped(message);
    }
    format!("{}...{}", escaped(&message[..BEGINNING]), escaped(&message[message.len() - END..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_message_is_shown_by_both_its_ends() {
        assert_eq!(shown(format!("{}\n", "Hello world!".repeat(7000)).as_bytes()), "Hello world!...ld!\\n");
        assert_eq!(shown(b"Hello World!"), "Hello World!");
        assert_eq!(shown(b""), "");
    }

    #[test]
    fn a_message_cannot_act_on_the_terminal() {
        assert_eq!(shown(b"a\x1b[2Jb\xff\xe2\x80\xae\0"), "a\\u{1b}[2Jb\\xff\\u{202e}\\u{0}");
        let cut_letter = "x".repeat(11) + "\u{f5}" + "yyyyyyyyyy";
        assert_eq!(shown(cut_letter.as_bytes()), "xxxxxxxxxxx\\xc3...yyyy");
    }
}
