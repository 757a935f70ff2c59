//! The lecturer's terminal: its keys, its size, and what is drawn below the demo's own lines.

use std::io::{ErrorKind, IsTerminal, Write, stdin, stdout};
use std::os::fd::AsFd;
use std::process::{Command, Stdio, exit};

use nix::errno::Errno;
use nix::sys::termios::{FlushArg, InputFlags, LocalFlags, SetArg, Termios, tcflush, tcgetattr, tcsetattr};
use nix::unistd::{getpgrp, read, tcgetpgrp};

/// Columns and rows of what tells nothing else.
const USUAL: (usize, usize) = (80, 24);
/// What a program killed by SIGPIPE leaves behind, as in shared::Screen.
const EXIT_CLOSED_PIPE: i32 = 141;

/// What was pressed; the same keys as in a demo, and three of our own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Key {
    /// Enter, Space, Right, PageDown.
    Go,
    /// r, Left, PageUp.
    Again,
    Skip,
    Quit,
    Help,
    /// The code of the address.
    Code,
    /// Hides the votes for each answer, or shows them.
    Hide,
    /// The kernel decides now, without another vote.
    Kernel,
    Other,
    /// The end of standard input.
    End,
}

/// Standard input and output; dropped, the terminal is as it was.
pub struct Console {
    /// The terminal's own settings; `None` where standard input is no terminal.
    before: Option<Termios>,
    typed: Vec<u8>,
    /// Standard output is a terminal, so that lines can be drawn anew.
    draws: bool,
    columns: usize,
    rows: usize,
    /// What stands on the screen since it was cleared, without what is drawn below it.
    lines: String,
    /// Lines drawn below it, the status line not counted; `None` if nothing is drawn.
    drawn: Option<usize>,
    status: String,
}

impl Console {
    /// Keys come singly from now on, and Ctrl-S does not stop the page that the class looks at.
    pub fn new() -> Console {
        let mut console = Console {
            before: tcgetattr(stdin()).ok(),
            typed: Vec::new(),
            draws: stdout().is_terminal(),
            columns: USUAL.0,
            rows: USUAL.1,
            lines: String::new(),
            drawn: None,
            status: String::new(),
        };
        console.measure();
        console.listen();
        console
    }

    fn listen(&self) {
        if let Some(mut single) = self.before.clone() {
            single.local_flags.remove(LocalFlags::ICANON | LocalFlags::ECHO);
            single.input_flags.remove(InputFlags::IXON);
            let _ = tcsetattr(stdin(), SetArg::TCSANOW, &single); // EIO: the terminal is gone
        }
    }

    /// After Ctrl-Z and fg the shell has set the terminal as it likes it: whether that had to be mended.
    pub fn is_back(&mut self) -> bool {
        let lines = |settings: Termios| settings.local_flags.contains(LocalFlags::ICANON);
        let changed = self.before.is_some() && tcgetattr(stdin()).is_ok_and(lines);
        let back = changed && tcgetpgrp(stdin()).is_ok_and(|group| group == getpgrp()); // not after bg
        if back {
            self.listen();
            self.status.clear();
            self.drawn = None;
            self.back();
        }
        back
    }

    /// Throws away what was typed too early; in a pipe it is for later questions.
    pub fn forget_typed(&mut self) {
        if self.before.is_some() {
            self.typed.clear();
            let _ = tcflush(stdin(), FlushArg::TCIFLUSH); // EIO: the terminal is gone
        }
    }

    /// The next key that was typed already.
    pub fn key(&mut self) -> Option<Key> {
        let length = match self.typed.as_slice() {
            [] | [0x1b] | [0x1b, b'[' | b'O'] => return None,
            [0x1b, b'[' | b'O', rest @ ..] => 3 + rest.iter().position(|byte| (0x40..0x7f).contains(byte))?,
            _ => 1,
        };
        let key: Vec<u8> = self.typed.drain(..length).collect();
        Some(match key.as_slice() {
            b"\n" | b"\r" | b" " | b"\x1b[C" | b"\x1bOC" | b"\x1b[6~" => Key::Go,
            b"r" | b"R" | b"\x1b[D" | b"\x1bOD" | b"\x1b[5~" => Key::Again,
            b"s" | b"S" => Key::Skip,
            b"q" | b"Q" => Key::Quit,
            b"?" => Key::Help,
            b"c" | b"C" => Key::Code,
            b"h" | b"H" => Key::Hide,
            b"k" | b"K" => Key::Kernel,
            _ => Key::Other,
        })
    }

    /// Reads what was typed, once poll(2) has said that there is something.
    pub fn read(&mut self) -> Option<Key> {
        let mut bytes = [0; 64];
        match read(stdin().as_fd(), &mut bytes) {
            Ok(bytes_read @ 1..) => self.typed.extend(&bytes[..bytes_read]),
            Err(Errno::EINTR | Errno::EAGAIN) => {}
            Ok(_) | Err(_) => return Some(Key::End),
        }
        self.key()
    }

    /// Whether keys come from a terminal, and not from a pipe.
    pub fn has_keys(&self) -> bool {
        self.before.is_some()
    }

    /// Whether standard output is a terminal.
    pub fn draws(&self) -> bool {
        self.draws
    }

    /// Asks how large the terminal is now. stty(1) knows; an ioctl of our own would be unsafe code.
    pub fn measure(&mut self) {
        if let (true, Ok(terminal)) = (self.draws, stdout().as_fd().try_clone_to_owned()) {
            let told = Command::new("stty").arg("size").stdin(terminal).stderr(Stdio::null()).output();
            let told = told.map(|told| String::from_utf8_lossy(&told.stdout).into_owned()).unwrap_or_default();
            let mut numbers = told.split_whitespace().filter_map(|word| word.parse().ok()).filter(|number| *number > 0);
            (self.rows, self.columns) = numbers.next().zip(numbers.next()).unwrap_or((USUAL.1, USUAL.0));
        }
    }

    /// Columns and rows.
    pub fn size(&self) -> (usize, usize) {
        (self.columns, self.rows)
    }

    /// Rows that are free below the demo's lines.
    pub fn room(&self) -> usize {
        self.rows.saturating_sub(self.lines.matches('\n').count())
    }

    /// The demo's own lines.
    pub fn lines(&mut self, text: &str) {
        self.erase();
        self.lines += text;
        write(text);
    }

    /// Puts this in the place of the prompt; the demo ends the line. In a pipe the prompt stays.
    pub fn answered(&mut self, text: &str) {
        if self.draws {
            self.lines(text);
        } else {
            self.drawn = None;
            self.status.clear();
        }
    }

    /// The screen begins anew.
    pub fn clear(&mut self) {
        self.erase();
        self.lines.clear();
        if self.draws {
            write("\x1b[2J\x1b[H");
        }
    }

    /// Draws these lines and the status below what stands there, in the place of what was drawn before.
    pub fn draw(&mut self, lines: &[String], status: &str) {
        self.erase();
        lines.iter().for_each(|line| write(&format!("{line}\n")));
        self.drawn = Some(lines.len());
        self.status(status);
    }

    /// The last line of what is drawn, over and over; in a pipe only the first time.
    pub fn status(&mut self, text: &str) {
        let text: String = text.chars().take(self.columns.saturating_sub(1)).collect();
        if text != self.status && (self.draws || self.status.is_empty()) {
            write(&if self.draws { format!("\r\x1b[K{text}") } else { text.clone() });
            self.status = text;
        }
    }

    /// Takes away what was drawn.
    pub fn erase(&mut self) {
        self.status.clear();
        match self.drawn.take() {
            Some(0) if self.draws => write("\r\x1b[J"),
            Some(drawn) if self.draws => write(&format!("\r\x1b[{drawn}A\x1b[J")),
            Some(_) => write("\n"),
            None => {}
        }
    }

    /// Something else for a while, on a screen of its own.
    pub fn instead(&mut self, lines: &[String], status: &str) {
        self.erase();
        if self.draws {
            write("\x1b[2J\x1b[H");
        }
        self.draw(lines, status);
    }

    /// The screen as it was before [`Console::instead`], without what was drawn.
    pub fn back(&mut self) {
        self.erase();
        if self.draws {
            write(&format!("\x1b[2J\x1b[H{}", self.lines));
        }
    }
}

impl Drop for Console {
    fn drop(&mut self) {
        self.leave();
    }
}

impl Console {
    /// The terminal is as it was.
    pub fn leave(&mut self) {
        self.erase();
        if let Some(before) = &self.before {
            let _ = tcsetattr(stdin(), SetArg::TCSANOW, before); // EIO: the terminal is gone
        }
    }
}

/// Writes to standard output. A closed pipe ends the program quietly.
fn write(text: &str) {
    let mut out = stdout().lock();
    if let Err(error) = out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        exit(if error.kind() == ErrorKind::BrokenPipe { EXIT_CLOSED_PIPE } else { 1 });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_keys_of_a_clicker_are_those_of_a_demo() {
        let mut console = Console {
            before: None,
            typed: b" \x1b[C\x1b[5~R?chk\nx\x1b[".to_vec(),
            draws: false,
            columns: 80,
            rows: 24,
            lines: String::new(),
            drawn: None,
            status: String::new(),
        };
        let keys: Vec<Key> = std::iter::from_fn(|| console.key()).collect();
        use Key::*;
        assert_eq!(keys, [Go, Go, Again, Again, Help, Code, Hide, Kernel, Go, Other]);
        assert_eq!(console.typed, b"\x1b[", "half a key waits for its rest");
    }
}
