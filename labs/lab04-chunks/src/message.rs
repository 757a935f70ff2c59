//! The message, and how it is printed.

use shared::Screen;

/// The largest payload of one datagram, as in the lecture.
pub const BLOCK_LEN: usize = 1024;
/// The last byte of a message that carries no length.
pub const TERMINATOR: u8 = b'\n';
/// The longest message, in bytes: a receiver holds it in memory, whoever sends it.
pub const LENGTH_LIMIT: usize = 16 * 1024 * 1024;
/// Of a longer message only the start and the end are shown.
const SHOWN_WHOLE: usize = 60;
const SHOWN_PART: usize = 24;

/// The lecture's message: 84001 bytes with their newline.
pub fn lecture_message() -> Vec<u8> {
    let mut message = b"Hello world!".repeat(7000);
    message.push(TERMINATOR);
    message
}

/// The message as text: control characters are escaped, and the middle of a long message is left out.
pub fn shown(message: &[u8]) -> String {
    if message.len() <= SHOWN_WHOLE {
        return message.escape_ascii().to_string();
    }
    let (start, end) = (&message[..SHOWN_PART], &message[message.len() - SHOWN_PART..]);
    format!("{} ... {}", start.escape_ascii(), end.escape_ascii())
}

/// Equal lines that follow each other become one line that ends with their number.
#[derive(Default)]
pub struct Fold {
    line: String,
    times: usize,
}

impl Fold {
    /// Takes a line. If the lines before it are different, they are shown first.
    pub fn line(&mut self, screen: &mut Screen, line: String) {
        if line != self.line {
            self.settle(screen);
        }
        self.line = line;
        self.times += 1;
    }

    /// Shows the lines that were taken and not shown yet. Call it before a wait that may be long.
    pub fn settle(&mut self, screen: &mut Screen) {
        match std::mem::take(&mut self.times) {
            0 => {}
            1 => screen.line(&self.line),
            times => screen.line(format_args!("{} x{times}", self.line)),
        }
    }

    /// Whether all lines have been shown.
    pub fn is_settled(&self) -> bool {
        self.times == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lectures_message_is_82_full_blocks_and_33_bytes() {
        let message = lecture_message();
        let blocks: Vec<usize> = message.chunks(BLOCK_LEN).map(<[u8]>::len).collect();
        assert_eq!((message.len(), blocks.len(), blocks[81], blocks[82]), (84_001, 83, 1024, 33));
    }

    #[test]
    fn what_is_shown_cannot_act_on_the_terminal_and_fits_it() {
        assert_eq!(shown(b"a\x1b[2J\n"), "a\\x1b[2J\\n");
        assert_eq!(shown(&lecture_message()), "Hello world!Hello world! ... ello world!Hello world!\\n");
    }
}
