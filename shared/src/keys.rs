//! What the viewer presses: single keys on a terminal, lines elsewhere.

use std::io::stdin;
use std::os::fd::AsFd;

use anyhow::Result;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::termios::{FlushArg, LocalFlags, SetArg, tcflush, tcgetattr, tcsetattr};
use nix::unistd::read;

use roles::Stop;

/// What `?` shows.
pub const KEYS: &str = "Enter, Space, Right, PageDown: go on   r, Left, PageUp: again   s: skip   q: quit";

/// What was pressed or typed.
pub enum Pressed {
    /// The whole text; a single key by its letter, Enter as nothing.
    Text(String),
    /// The end of standard input.
    End,
    /// Ctrl-C or SIGTERM, which stays pending until [`let_signals_end_us`].
    Signal,
}

/// Waits for one key, or for one line if `line` or where standard input is no terminal. What was typed too early is
/// thrown away.
///
/// # Errors
/// What signalfd(2) says.
pub fn pressed(line: bool) -> Result<Pressed> {
    let (input, stop) = (stdin(), Stop::on_signals()?);
    let _ = tcflush(&input, FlushArg::TCIFLUSH); // ENOTTY in a pipe
    let before = tcgetattr(&input).ok();
    if let (Some(mut single), false) = (before.clone(), line) {
        single.local_flags.remove(LocalFlags::ICANON | LocalFlags::ECHO);
        tcsetattr(&input, SetArg::TCSANOW, &single)?;
    }
    let mut typed = Vec::new();
    let pressed = loop {
        let mut byte = [0; 8];
        let mut fds = [stop.as_fd(), input.as_fd()].map(|fd| PollFd::new(fd, PollFlags::POLLIN));
        let _ = poll(&mut fds, PollTimeout::NONE); // after EINTR read says what is there
        if stop.requested() {
            break Pressed::Signal;
        }
        // A key comes whole, Right as three bytes. In a pipe one byte at a time: the rest is for the next question.
        let most = if before.is_some() { byte.len() } else { 1 };
        match read(&input, &mut byte[..most]) {
            Ok(0) => break Pressed::End,
            Ok(bytes_read) => typed.extend(&byte[..bytes_read]),
            Err(Errno::EINTR | Errno::EAGAIN) => {}
            Err(_) => break Pressed::End,
        }
        let single = before.is_some() && !line;
        if single || typed.ends_with(b"\n") {
            break Pressed::Text(named(&typed));
        }
    };
    if let Some(before) = before {
        tcsetattr(&input, SetArg::TCSANOW, &before)?;
    }
    if !matches!(pressed, Pressed::Signal) {
        let_signals_end_us();
    }
    Ok(pressed)
}

/// Ctrl-C and SIGTERM act again as they do on every program; a pending one ends this one now.
pub fn let_signals_end_us() {
    let both: SigSet = [Signal::SIGINT, Signal::SIGTERM].into_iter().collect();
    let _ = both.thread_unblock(); // EINVAL only for a wrong argument
}

/// A key by the letter that means the same.
fn named(typed: &[u8]) -> String {
    match typed {
        b" " | b"\x1b[C" | b"\x1bOC" | b"\x1b[6~" => String::new(),
        b"\x1b[D" | b"\x1bOD" | b"\x1b[5~" => "r".into(),
        text => String::from_utf8_lossy(text).trim().to_ascii_lowercase(),
    }
}

#[cfg(test)]
mod tests {
    use super::named;

    #[test]
    fn the_keys_of_a_clicker_mean_enter_and_again() {
        assert!([" ", "\n", "\x1b[C", "\x1b[6~"].iter().all(|key| named(key.as_bytes()).is_empty()));
        assert!(["r", "R\n", "\x1b[D", "\x1b[5~"].iter().all(|key| named(key.as_bytes()) == "r"));
        assert_eq!(named("\u{e4}h\n".as_bytes()), "\u{e4}h");
    }
}
