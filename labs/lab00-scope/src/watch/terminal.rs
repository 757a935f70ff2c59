//! The terminal while the board is on it: its own screen, single keys, and the signals, read beside the keys. It is given
//! back as it was: at the end, at a signal, at a panic, and while the board is stopped (Ctrl-Z).

use std::fs::File;
use std::io::{BufWriter, IsTerminal, Read, Write, stdin, stdout};
use std::os::fd::AsFd;
use std::panic;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal, raise};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::termios::{LocalFlags, SetArg, Termios, tcgetattr, tcsetattr};
use ratatui::Terminal;
use ratatui::backend::TermionBackend;
use termion::event::Key;
use termion::input::TermRead;
use termion::{cursor, screen, style};

/// What comes from outside between two looks.
pub enum Input {
    Keys(Vec<Key>),
    /// The window has another size, or the program goes on after Ctrl-Z.
    Redraw,
    /// SIGINT, SIGTERM, SIGHUP or SIGQUIT, or the terminal is gone.
    End,
    /// Nothing, for as long as was asked.
    Quiet,
}

/// A frame goes out by one write: no reader of the terminal sees a half of it.
type Output = TermionBackend<BufWriter<File>>;

pub struct Board {
    pub terminal: Terminal<Output>,
    signals: SignalFd,
    /// Standard input is no terminal, or has ended.
    no_keys: bool,
}

/// The settings of the terminal before; for the panic hook too.
static BEFORE: Mutex<Option<Termios>> = Mutex::new(None);
static TAKEN: AtomicBool = AtomicBool::new(false);

fn our_signals() -> SigSet {
    use Signal::*;
    [SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGTSTP, SIGCONT, SIGWINCH].into_iter().collect()
}

impl Board {
    /// Takes the terminal. Call it before any thread exists.
    ///
    /// # Errors
    /// What signalfd(2), tcsetattr(3) or write(2) say.
    pub fn open() -> Result<Board> {
        our_signals().thread_block().context("sigprocmask")?;
        let signals = SignalFd::with_flags(&our_signals(), SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?;
        let shown = File::from(stdout().as_fd().try_clone_to_owned()?);
        let backend = TermionBackend::new(BufWriter::with_capacity(256 * 1024, shown));
        let usual = panic::take_hook();
        panic::set_hook(Box::new(move |panicked| {
            give_back();
            usual(panicked);
        }));
        let mut board = Board { terminal: Terminal::new(backend)?, signals, no_keys: !stdin().is_terminal() };
        board.take()?;
        Ok(board)
    }

    /// Ctrl-C and Ctrl-Z stay signals, as the shell expects; keys come one by one, and are not echoed.
    fn take(&mut self) -> Result<()> {
        if !self.no_keys {
            let before = tcgetattr(stdin()).context("tcgetattr")?;
            let mut single = before.clone();
            single.local_flags.remove(LocalFlags::ICANON | LocalFlags::ECHO);
            *BEFORE.lock().unwrap_or_else(PoisonError::into_inner) = Some(before);
            while let Err(error) = tcsetattr(stdin(), SetArg::TCSADRAIN, &single) {
                anyhow::ensure!(error == Errno::EINTR, "tcsetattr: {error}");
            }
        }
        TAKEN.store(true, Ordering::Relaxed);
        write!(self.terminal.backend_mut(), "{}{}", screen::ToAlternateScreen, cursor::Hide)?;
        self.draw_all_anew()
    }

    /// The window may show anything now. `Terminal::clear` would ask the terminal where its cursor is, and wait for the
    /// answer among the keys.
    fn draw_all_anew(&mut self) -> Result<()> {
        let size = self.terminal.size()?;
        Ok(self.terminal.resize(size.into())?)
    }

    /// Waits for keys or a signal, no longer than `limit`.
    ///
    /// # Errors
    /// What the terminal says when it is taken again after Ctrl-Z.
    pub fn wait(&mut self, limit: Duration) -> Result<Input> {
        let limit = PollTimeout::try_from(limit + Duration::from_micros(999)).unwrap_or(PollTimeout::MAX);
        let input = stdin();
        let mut fds = vec![PollFd::new(self.signals.as_fd(), PollFlags::POLLIN)];
        if !self.no_keys {
            fds.push(PollFd::new(input.as_fd(), PollFlags::POLLIN));
        }
        if poll(&mut fds, limit).unwrap_or(0) == 0 {
            return Ok(Input::Quiet); // EINTR: the next look comes early
        }
        let typed = fds.get(1).is_some_and(|fd| fd.any().unwrap_or(false));
        if let Some(signal) = self.signals.read_signal()? {
            return self.told(Signal::try_from(signal.ssi_signo.cast_signed())?);
        }
        if !typed {
            return Ok(Input::Quiet);
        }
        let mut bytes = [0; 1024];
        match input.lock().read(&mut bytes) {
            Ok(0) | Err(_) => Ok(Input::End),
            Ok(bytes_read) => Ok(Input::Keys((&bytes[..bytes_read]).keys().filter_map(Result::ok).collect())),
        }
    }

    fn told(&mut self, signal: Signal) -> Result<Input> {
        match signal {
            Signal::SIGTSTP => {
                give_back();
                // Stops here, until fg. Where no shell could wake it again, the kernel throws the signal away.
                let stop: SigSet = [Signal::SIGTSTP].into_iter().collect();
                raise(Signal::SIGTSTP)?;
                stop.thread_unblock()?;
                stop.thread_block()?;
                self.take()?;
                Ok(Input::Redraw)
            }
            Signal::SIGCONT | Signal::SIGWINCH => {
                self.draw_all_anew()?; // after kill -STOP, the shell has written on the screen
                Ok(Input::Redraw)
            }
            _ => Ok(Input::End),
        }
    }
}

impl Drop for Board {
    fn drop(&mut self) {
        let _ = self.terminal.backend_mut().flush(); // EIO: the terminal is gone
        give_back();
        if !thread::panicking() {
            let _ = panic::take_hook(); // while one panics, the hook cannot be changed
        }
    }
}

/// The terminal as it was; does nothing the second time.
fn give_back() {
    if !TAKEN.swap(false, Ordering::Relaxed) {
        return; // a second time, the cursor would go back to where it was before a panic was told
    }
    let mut out = stdout();
    let _ = write!(out, "{}{}{}", style::Reset, cursor::Show, screen::ToMainScreen).and_then(|()| out.flush());
    if let Some(before) = BEFORE.lock().unwrap_or_else(PoisonError::into_inner).take() {
        let _ = tcsetattr(stdin(), SetArg::TCSADRAIN, &before);
    }
}
