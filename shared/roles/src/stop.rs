//! SIGINT and SIGTERM as something to poll, and Enter before each call.

use std::fmt::Display;
use std::io::stdin;
use std::os::fd::{AsFd, BorrowedFd};

use anyhow::Result;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::termios::{FlushArg, tcflush};
use nix::unistd::read;

use crate::{At, Screen};

/// Ctrl-C (SIGINT) and SIGTERM, blocked and read from a descriptor: poll it beside the sockets.
pub struct Stop {
    signals: SignalFd,
}

impl Stop {
    /// Blocks both signals in this thread and those it starts. Call it before any thread exists.
    ///
    /// # Errors
    /// EMFILE, ENFILE, ENOMEM from signalfd(2).
    pub fn on_signals() -> Result<Stop> {
        let both: SigSet = [Signal::SIGINT, Signal::SIGTERM].into_iter().collect();
        both.thread_block().at("sigprocmask", "")?;
        let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
        Ok(Stop { signals: SignalFd::with_flags(&both, flags).at("signalfd", "")? })
    }

    /// True once Ctrl-C or SIGTERM came; it stays true until [`Stop::take`].
    pub fn requested(&self) -> bool {
        let mut fds = [PollFd::new(self.as_fd(), PollFlags::POLLIN)];
        poll(&mut fds, PollTimeout::ZERO).is_ok_and(|ready| ready > 0)
    }

    /// Waits for Enter on standard input; false at Ctrl-C or end of input. What a terminal got before is thrown away.
    pub fn wait_for_enter(&self) -> bool {
        let (input, mut byte) = (stdin(), [0]);
        let _ = tcflush(&input, FlushArg::TCIFLUSH); // ENOTTY in a pipe
        while byte[0] != b'\n' {
            let mut fds = [self.as_fd(), input.as_fd()].map(|fd| PollFd::new(fd, PollFlags::POLLIN));
            if poll(&mut fds, PollTimeout::NONE) == Err(Errno::EINTR) {
                continue; // Ctrl-Z, then fg
            }
            // One byte at a time: what is typed after this Enter belongs to the program.
            if self.requested() || read(&input, &mut byte) != Ok(1) {
                return false;
            }
        }
        true
    }

    /// Takes the pending signal, if there is one.
    pub fn take(&self) -> Option<i32> {
        let signal = self.signals.read_signal().ok().flatten()?;
        i32::try_from(signal.ssi_signo).ok()
    }
}

impl AsFd for Stop {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.signals.as_fd()
    }
}

/// `--pause`: waits for Enter before each socket call, so that a class can predict it.
pub struct Pause<'a> {
    on: bool,
    stop: &'a Stop,
}

impl<'a> Pause<'a> {
    /// A pause that waits only if `on`; Ctrl-C ends it.
    pub fn new(on: bool, stop: &'a Stop) -> Self {
        Pause { on, stop }
    }

    /// Shows the call that comes next and waits for Enter. End of input or Ctrl-C: no further pauses.
    pub fn before(&mut self, screen: &mut Screen, call: impl Display) {
        if self.on {
            screen.line(format_args!("next: {call}   [Enter]"));
            self.on = self.stop.wait_for_enter();
        }
    }
}
