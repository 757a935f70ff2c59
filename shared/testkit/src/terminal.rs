//! A program on a terminal of its own: what it shows there, what is typed.

use std::{
    fs::File,
    io::{Read, Write},
    os::{fd::OwnedFd, unix::fs::OpenOptionsExt},
    process::{Child, Command, ExitStatus, Stdio},
    sync::mpsc::{Receiver, channel},
    thread,
    time::Duration,
};

use nix::{
    fcntl::OFlag,
    pty::{grantpt, posix_openpt, ptsname_r, unlockpt},
};

use shared::DOUBLE_PRESS;

use crate::wait_until;

/// How long a program may take to show what is waited for.
const SHOW_LIMIT: Duration = Duration::from_secs(30);
/// More than a demo's limit for a double press.
const READING: Duration = DOUBLE_PRESS.saturating_add(Duration::from_millis(50));

/// A terminal for a program: what it shows comes in chunks, as it was written.
pub struct Pty {
    /// What is written here was typed.
    pub keyboard: File,
    /// The program's side; its last copy ends [`Pty::output`].
    pub side: File,
    /// Read by a thread: a program never waits for us.
    pub output: Receiver<Vec<u8>>,
}

impl Pty {
    /// A new terminal of this size.
    ///
    /// # Panics
    /// There is none to be had.
    pub fn open(columns: u16, rows: u16) -> Pty {
        // Not openpty(3): its descriptors go to every program that another test starts meanwhile.
        let master = posix_openpt(OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_CLOEXEC).unwrap();
        grantpt(&master).unwrap();
        unlockpt(&master).unwrap();
        let mut options = File::options();
        options.read(true).write(true).custom_flags(OFlag::O_NOCTTY.bits());
        let side = options.open(ptsname_r(&master).unwrap()).unwrap();
        let mut screen = File::from(OwnedFd::from(master));
        let keyboard = screen.try_clone().unwrap();
        let (chunks, output) = channel();
        thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(bytes_read @ 1..) = screen.read(&mut buffer) {
                if chunks.send(buffer[..bytes_read].to_vec()).is_err() {
                    break;
                }
            }
        });
        let pty = Pty { keyboard, side, output };
        pty.resize(columns, rows);
        pty
    }

    /// Gives the window another size.
    ///
    /// # Panics
    /// stty is missing.
    pub fn resize(&self, columns: u16, rows: u16) {
        let size = ["rows", &rows.to_string(), "columns", &columns.to_string()];
        let terminal = self.side.try_clone().unwrap();
        assert!(Command::new("stty").args(size).stdin(terminal).status().unwrap().success());
    }

    /// Starts a program on it.
    ///
    /// # Panics
    /// It cannot be started.
    pub fn spawn(&self, command: &mut Command) -> Child {
        let side = || self.side.try_clone().unwrap();
        let child = command.env("TERM", "xterm").stdin(side()).stdout(side()).stderr(side()).spawn().unwrap();
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()); // it keeps no copy
        child
    }
}

/// A program whose standard input and output are a terminal; killed when dropped.
pub struct Terminal {
    child: Child,
    keyboard: File,
    output: Receiver<Vec<u8>>,
    /// What was shown and not asked for yet.
    shown: String,
}

impl Terminal {
    /// Starts a program on a new terminal of this size.
    ///
    /// # Panics
    /// There is no terminal to be had, or the program cannot be started.
    pub fn start(command: &mut Command, columns: u16, rows: u16) -> Terminal {
        let pty = Pty::open(columns, rows);
        let child = pty.spawn(command);
        let Pty { keyboard, side, output } = pty;
        drop(side); // only the program has it now: its end ends our reading
        Terminal { child, keyboard, output, shown: String::new() }
    }

    /// Types these bytes, after the time that a person needs to read: a demo takes a key that comes sooner for the second
    /// press of the one before.
    ///
    /// # Panics
    /// The terminal is gone.
    pub fn type_text(&mut self, text: &str) {
        thread::sleep(READING);
        self.keyboard.write_all(text.as_bytes()).unwrap();
    }

    /// Waits for `text` and takes all up to its end, without colours and carriage returns; returns what stood before it.
    ///
    /// # Panics
    /// It does not come in time.
    pub fn wait_for(&mut self, text: &str) -> String {
        let found = wait_until(text, SHOW_LIMIT, || {
            self.shown += &self.output.try_iter().map(|chunk| plain(&chunk)).collect::<String>();
            Ok(self.shown.find(text))
        });
        let at = found.unwrap_or_else(|error| panic!("{error:#}; shown:\n{}", self.shown));
        let before = self.shown[..at].to_string();
        self.shown.drain(..at + text.len());
        before
    }

    /// Waits for the program's end.
    ///
    /// # Panics
    /// It goes on.
    pub fn end(&mut self) -> ExitStatus {
        let ended = wait_until("the program's end", SHOW_LIMIT, || Ok(self.child.try_wait()?));
        ended.unwrap_or_else(|error| panic!("{error:#}; shown:\n{}", self.shown))
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.child.kill(); // ESRCH: it has ended
        let _ = self.child.wait();
    }
}

/// A chunk of output without escape sequences (they come whole: one write each) and carriage returns.
fn plain(chunk: &[u8]) -> String {
    let text = String::from_utf8_lossy(chunk).replace('\r', "");
    let mut parts = text.split("\x1b[");
    let first = parts.next().unwrap_or_default().to_string();
    parts.fold(first, |plain, part| {
        plain + part.trim_start_matches(|c: char| c.is_ascii_digit() || c == ';').get(1..).unwrap_or_default()
    })
}
