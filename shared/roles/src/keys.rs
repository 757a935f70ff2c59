//! What the viewer presses: single keys on a terminal, lines elsewhere.

use std::io::stdin;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use anyhow::Result;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::termios::{FlushArg, LocalFlags, SetArg, Termios, tcflush, tcgetattr, tcsetattr};
use nix::unistd::read;

use crate::Stop;

/// What `?` shows.
pub const KEYS: &str = "Enter, Space, Right, PageDown: go on   r, Left, PageUp: again   s: skip   q: quit";

/// A key to go on that comes sooner is the second press of the one before: it would show an answer unasked.
pub const DOUBLE_PRESS: Duration = Duration::from_millis(400);

/// What was pressed or typed.
pub enum Pressed {
    /// The whole text; a single key by its letter, Enter as nothing.
    Text(String),
    /// The end of standard input.
    End,
    /// Ctrl-C or SIGTERM, which stays pending until [`let_signals_end_us`].
    Signal,
}

/// The keyboard while the viewer is asked; dropped, the terminal is as it was.
pub struct Keys {
    stop: Stop,
    /// The terminal's own settings; `None` where standard input is no terminal.
    before: Option<Termios>,
    line: bool,
    since: Instant,
    /// The beginning of a key or a line.
    typed: Vec<u8>,
}

impl Keys {
    /// Listens for single keys, or for lines if `line` or where standard input is no terminal. What was typed too early
    /// is thrown away. Ctrl-C and SIGTERM wait from now on, until [`let_signals_end_us`].
    ///
    /// # Errors
    /// What signalfd(2) says.
    pub fn listen(line: bool) -> Result<Keys> {
        let (input, stop) = (stdin(), Stop::on_signals()?);
        let before = tcgetattr(&input).ok();
        if let (Some(mut single), false) = (before.clone(), line) {
            single.local_flags.remove(LocalFlags::ICANON | LocalFlags::ECHO);
            tcsetattr(&input, SetArg::TCSANOW, &single)?;
        }
        let _ = tcflush(&input, FlushArg::TCIFLUSH); // ENOTTY in a pipe
        Ok(Keys { stop, before, line, since: Instant::now(), typed: Vec::new() })
    }

    /// Waits for the next key or line.
    pub fn wait(&mut self) -> Pressed {
        let (input, single) = (stdin(), self.before.is_some() && !self.line);
        loop {
            let ends = if single { key_length(&self.typed) } else { self.typed.iter().position(|byte| *byte == b'\n') };
            if let Some(end) = ends {
                let key: Vec<u8> = self.typed.drain(..=end).collect();
                if single && is_second_press(&key, self.since.elapsed()) {
                    continue;
                }
                return Pressed::Text(named(&key));
            }
            let mut fds = [self.stop.as_fd(), input.as_fd()].map(|fd| PollFd::new(fd, PollFlags::POLLIN));
            if poll(&mut fds, PollTimeout::NONE) == Err(Errno::EINTR) {
                continue; // Ctrl-Z, then fg
            }
            if self.stop.requested() {
                return Pressed::Signal;
            }
            let mut byte = [0]; // one at a time: in a pipe the rest is for the next question
            match read(&input, &mut byte) {
                Ok(1..) => self.typed.push(byte[0]),
                Err(Errno::EINTR | Errno::EAGAIN) => {}
                Ok(0) | Err(_) => return Pressed::End,
            }
        }
    }
}

impl Drop for Keys {
    fn drop(&mut self) {
        if let Some(before) = &self.before {
            let _ = tcsetattr(stdin(), SetArg::TCSANOW, before); // EIO: the terminal is gone
        }
    }
}

/// Ctrl-C and SIGTERM act again as they do on every program; a pending one ends this one now.
pub fn let_signals_end_us() {
    let _ = SigSet::from_iter([Signal::SIGINT, Signal::SIGTERM]).thread_unblock(); // EINVAL only for a wrong argument
}

/// Where the first key ends, if it is whole: Right is ESC [ C, PageDown ESC [ 6 ~.
fn key_length(typed: &[u8]) -> Option<usize> {
    match typed {
        [] | [0x1b] | [0x1b, b'[' | b'O'] => None,
        [0x1b, b'[' | b'O', rest @ ..] => rest.iter().position(|byte| (0x40..0x7f).contains(byte)).map(|at| at + 2),
        _ => Some(0),
    }
}

/// Whether this key, so soon after the question, belongs to the one before. A program such as lab00-scope's vote presses
/// g, and means it.
fn is_second_press(key: &[u8], since: Duration) -> bool {
    key != b"g" && named(key).is_empty() && since < DOUBLE_PRESS
}

/// A key by the letter that means the same.
fn named(typed: &[u8]) -> String {
    match typed {
        b" " | b"g" | b"\x1b[C" | b"\x1bOC" | b"\x1b[6~" => String::new(),
        b"\x1b[D" | b"\x1bOD" | b"\x1b[5~" => "r".into(),
        text => String::from_utf8_lossy(text).trim().to_ascii_lowercase(),
    }
}

#[cfg(test)]
mod tests {
    use super::{DOUBLE_PRESS, Duration, is_second_press, key_length, named};

    #[test]
    fn a_double_press_counts_once_and_a_letter_always() {
        let soon = Duration::from_millis(150);
        assert!([&b"\n"[..], b" ", b"\x1b[6~"].iter().all(|key| is_second_press(key, soon)));
        assert!([&b"g"[..], b"r", b"q", b"?", b"\x1b[5~"].iter().all(|key| !is_second_press(key, soon)));
        assert!(!is_second_press(b"\n", DOUBLE_PRESS));
    }

    #[test]
    fn the_keys_of_a_clicker_mean_enter_and_again() {
        assert!([" ", "\n", "\x1b[C", "\x1b[6~"].iter().all(|key| named(key.as_bytes()).is_empty()));
        assert!(["r", "R\n", "\x1b[D", "\x1b[5~"].iter().all(|key| named(key.as_bytes()) == "r"));
        assert_eq!([&b"x?"[..], b"\x1b[C?", b"\x1b[6~x", b"\x1b[6"].map(key_length), [Some(0), Some(2), Some(3), None]);
        assert_eq!(named("\u{e4}h\n".as_bytes()), "\u{e4}h");
    }
}
