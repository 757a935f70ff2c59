//! Signals as something to poll: word of the commands (SIGCHLD), Ctrl-C (SIGINT) and SIGTERM.

use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

/// si_code of a signal that the kernel sent, as for Ctrl-C on a terminal: include/uapi/asm-generic/siginfo.h.
const SI_KERNEL: i32 = 0x80;

/// All three, blocked.
pub struct Signals {
    signals: SignalFd,
    /// How often somebody asked us to end.
    pub asked_to_end: u32,
    /// The last of these came from the terminal, which has told the commands, too.
    pub from_terminal: bool,
}

impl Signals {
    /// Blocks them in this thread. Call it before any other exists.
    ///
    /// # Errors
    /// What signalfd(2) says.
    pub fn new() -> Result<Signals> {
        let all: SigSet = [Signal::SIGCHLD, Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP].into_iter().collect();
        all.thread_block().context("sigprocmask")?;
        let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
        let signals = SignalFd::with_flags(&all, flags).context("signalfd")?;
        Ok(Signals { signals, asked_to_end: 0, from_terminal: false })
    }

    /// Waits until a signal comes, or one of `others` is readable, or `limit` has passed.
    ///
    /// # Errors
    /// What poll(2) says.
    pub fn wait(&mut self, others: &[BorrowedFd], limit: Duration) -> Result<()> {
        let mut fds: Vec<PollFd> = std::iter::once(self.signals.as_fd())
            .chain(others.iter().copied())
            .map(|fd| PollFd::new(fd, PollFlags::POLLIN))
            .collect();
        let timeout = PollTimeout::try_from(limit.as_millis()).unwrap_or(PollTimeout::MAX);
        match poll(&mut fds, timeout) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => return Err(error).context("poll"),
        }
        while let Ok(Some(signal)) = self.signals.read_signal() {
            if signal.ssi_signo != libc::SIGCHLD as u32 {
                self.asked_to_end += 1;
                self.from_terminal = signal.ssi_code == SI_KERNEL;
            }
        }
        Ok(())
    }

    /// Sleeps, unless somebody asks us to end.
    ///
    /// # Errors
    /// What poll(2) says.
    pub fn sleep(&mut self, time: Duration) -> Result<()> {
        let (began, asked) = (Instant::now(), self.asked_to_end);
        while asked == self.asked_to_end {
            let Some(left) = time.checked_sub(began.elapsed()).filter(|left| !left.is_zero()) else { break };
            self.wait(&[], left + Duration::from_millis(1))?;
        }
        Ok(())
    }
}
