//! The one writer: lines and a prompt on standard output, the same in a pipe and on a terminal.

use std::fmt::Display;
use std::io::{ErrorKind, IsTerminal, Write, stderr, stdin, stdout};
use std::os::fd::AsFd;
use std::process::{Command, Stdio};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

/// Columns and rows of a terminal that tells nothing else, and of a pipe.
const USUAL: (usize, usize) = (80, 24);
/// A demo needs as many columns, and with `--pause` as many rows.
const LEAST: (usize, usize) = (60, 24);
/// POSIX: so much can be written at once where poll(2) says that there is room.
const PIPE_BUF: usize = 4096;
/// Longer lines are hard to read.
const MOST_COLUMNS: usize = 120;
/// What a program killed by SIGPIPE leaves behind: 128 + 13, as `cat FILE | head -1` does.
const EXIT_CLOSED_PIPE: i32 = 141;

/// Standard output with a prompt that comes back after every interruption.
pub struct Screen {
    /// What to ask for next; `None` while nothing is asked.
    prompt: Option<String>,
    /// The cursor stands behind a prompt, not at the start of a line.
    open: bool,
    emphasis: bool,
    /// A terminal that only writes line by line: TERM=dumb, as below lab00-scope's run.
    dumb: bool,
    /// Columns and rows of the terminal, once measured.
    size: Option<(usize, usize)>,
}

impl Screen {
    /// A screen on standard output; emphasis only on a terminal, and not with NO_COLOR set or a dumb terminal.
    #[expect(clippy::new_without_default, reason = "it looks at the environment")]
    pub fn new() -> Self {
        let no_color = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let terminal = stdout().is_terminal();
        let dumb = terminal && std::env::var_os("TERM").is_none_or(|term| term == "dumb");
        Screen { prompt: None, open: false, emphasis: terminal && !no_color && !dumb, dumb, size: None }
    }

    /// Writes one line; a prompt that stands there keeps its own line.
    pub fn line(&mut self, text: impl Display) {
        let before = if std::mem::take(&mut self.open) { "\n" } else { "" };
        write_or_end(format_args!("{before}{text}\n"));
    }

    /// Asks for input: the prompt is shown by the next [`Screen::settle`], and again after every interruption.
    pub fn ask(&mut self, prompt: &str) {
        self.prompt = Some(prompt.into());
    }

    /// Asks for nothing any more.
    pub fn ask_nothing(&mut self) {
        self.prompt = None;
    }

    /// Shows the prompt, if one is due and not already there. Call it before waiting.
    pub fn settle(&mut self) {
        if let (Some(prompt), false) = (&self.prompt, self.open) {
            write_or_end(format_args!("{prompt}{}", if self.dumb { "\n" } else { "" }));
            self.open = !self.dumb;
        }
    }

    /// The end of the program: what the shell prints next begins a line of its own.
    pub fn end(&mut self) {
        if std::mem::take(&mut self.open) {
            write_or_end("\n");
        }
    }

    /// A line was typed: where a terminal echoed it, the cursor is at the start of a line again.
    pub fn typed(&mut self) {
        self.open &= !stdin().is_terminal();
    }

    /// Asks how large the terminal is now. stty(1) knows; an ioctl of our own would be unsafe code.
    pub fn measure(&mut self) {
        self.size = None;
        if let (true, Ok(terminal)) = (stdout().is_terminal(), stdout().as_fd().try_clone_to_owned()) {
            let told = Command::new("stty").arg("size").stdin(terminal).stderr(Stdio::null()).output();
            let told = told.map(|told| String::from_utf8_lossy(&told.stdout).into_owned()).unwrap_or_default();
            let mut numbers = told.split_whitespace().filter_map(|word| word.parse().ok()).filter(|number| *number > 0);
            self.size = numbers.next().zip(numbers.next()).map(|(rows, columns)| (columns, rows));
        }
    }

    /// The longest line, in columns: one less than the terminal has, from 60 to 120; 79 in a pipe.
    pub fn width(&self) -> usize {
        self.size.map_or(USUAL.0, |(columns, _)| columns).clamp(LEAST.0, MOST_COLUMNS) - 1
    }

    /// The rows of the terminal, if it is one.
    pub fn rows(&self) -> Option<usize> {
        self.size.map(|(_, rows)| rows)
    }

    /// What a demo needs that this terminal lacks. Only a pause needs rows: what scrolls off can be scrolled back.
    pub fn too_small(&self, pause: bool) -> Option<String> {
        let (columns, rows) = self.size?;
        let small = columns < LEAST.0 || pause && rows < LEAST.1;
        small.then(|| format!("this terminal has {columns} x {rows}; a demo needs {} x {}", LEAST.0, LEAST.1))
    }

    /// `lead` and the text behind it, broken between words, its further lines below its first.
    pub fn hang(&self, lead: &str, text: &str) -> String {
        let indent = lead.len();
        let (mut lines, mut column) = (lead.to_string(), indent);
        for word in text.split(' ') {
            if column > indent && column + 1 + word.len() > self.width() {
                lines = format!("{}\n{:indent$}", lines.trim_end(), "");
                column = indent;
            }
            let gap = if column > indent { " " } else { "" };
            lines += &format!("{gap}{word}");
            column += gap.len() + word.len();
        }
        lines.trim_end().into()
    }

    /// Clears the screen where it is a terminal that can.
    pub fn clear(&mut self) {
        if stdout().is_terminal() && !self.dumb {
            write_or_end("\x1b[2J\x1b[H");
        }
    }

    /// `text`, bold where emphasis is on.
    pub fn bold(&self, text: &str) -> String {
        if self.emphasis { format!("\x1b[1m{text}\x1b[0m") } else { text.into() }
    }
}

/// A program that ends at its prompt leaves the shell a line of its own.
impl Drop for Screen {
    fn drop(&mut self) {
        self.end();
    }
}

/// Writes to standard output and flushes. A closed pipe ends the program quietly; `println!` would panic.
fn write_or_end(text: impl Display) {
    if cfg!(test) {
        #[expect(clippy::print_stdout, reason = "into the output of the test, which its harness captures")]
        return print!("{text}");
    }
    let mut out = stdout().lock();
    for chunk in text.to_string().as_bytes().chunks(PIPE_BUF) {
        wait_for_room();
        if let Err(error) = out.write_all(chunk).and_then(|()| out.flush()) {
            if error.kind() == ErrorKind::BrokenPipe {
                std::process::exit(EXIT_CLOSED_PIPE);
            }
            let _ = writeln!(stderr(), "write standard output: {error}"); // ENOSPC on /dev/full: nowhere else to say it
            std::process::exit(1);
        }
    }
}

/// Waits until a write of [`PIPE_BUF`] bytes would not block. A pipe that nobody reads may stay full for ever: there a
/// role, whose signals wait to be read, still ends at Ctrl-C.
fn wait_for_room() {
    let output = stdout();
    let writable = || PollFd::new(output.as_fd(), PollFlags::POLLOUT);
    if poll(&mut [writable()], PollTimeout::ZERO) != Ok(0) {
        return;
    }
    let both: SigSet = [Signal::SIGINT, Signal::SIGTERM].into_iter().collect();
    let Ok(signals) = SignalFd::with_flags(&both, SfdFlags::SFD_CLOEXEC) else { return };
    let mut fds = [writable(), PollFd::new(signals.as_fd(), PollFlags::POLLIN)];
    while poll(&mut fds, PollTimeout::NONE) == Err(Errno::EINTR) {}
    if fds[1].revents().is_some_and(|events| !events.is_empty()) {
        std::process::exit(0);
    }
}

/// A stranger's text: what is not UTF-8, or could move the cursor, ring or turn the direction of writing, is escaped.
pub fn escaped(bytes: &[u8]) -> String {
    let scalar = |scalar: char| {
        let turns =
            matches!(scalar, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
        if scalar.is_control() || turns { scalar.escape_default().to_string() } else { scalar.into() }
    };
    let text = |text: &str| text.chars().map(scalar).collect::<String>();
    bytes.utf8_chunks().map(|chunk| text(chunk.valid()) + &chunk.invalid().escape_ascii().to_string()).collect()
}

#[cfg(test)]
mod tests {
    use super::{Screen, escaped};

    #[test]
    fn a_text_behind_its_label_keeps_its_words_and_the_width() {
        let text = "one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen";
        let lines = Screen::new().hang("claim     ", text);
        assert!(lines.lines().count() > 1 && lines.lines().all(|line| line.len() <= 79), "{lines}");
        assert_eq!(lines.split_whitespace().skip(1).collect::<Vec<_>>().join(" "), text);
        assert!(lines.lines().skip(1).all(|line| line.starts_with("          ")), "{lines}");
    }

    #[test]
    fn a_strangers_text_cannot_act_on_the_terminal() {
        assert_eq!(escaped("Hello world! t\u{f5}de".as_bytes()), "Hello world! t\u{f5}de");
        assert_eq!(escaped(b"a\x1b[2Jb\n\xff\xe2\x80\xaec\0"), "a\\u{1b}[2Jb\\n\\xff\\u{202e}c\\u{0}");
        assert_eq!(escaped("turned \u{61c}, \u{200f}, \u{2067}".as_bytes()), "turned \\u{61c}, \\u{200f}, \\u{2067}");
        assert_eq!(escaped(b""), "");
    }
}
