//! What the main thread of a role does: it waits for its threads, and Ctrl-C ends every wait.

use std::{
    fmt,
    os::fd::AsFd,
    thread::JoinHandle,
    time::{Duration, Instant},
};

use anyhow::{Result, anyhow, bail};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use shared::{Pause, Screen, Stop};

/// Between two looks at a thread that main joins.
const LOOK_AGAIN_MS: u8 = 10;

/// Ctrl-C came while main waited.
#[derive(Debug)]
pub struct Interrupted;

impl std::error::Error for Interrupted {}

impl fmt::Display for Interrupted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("interrupted")
    }
}

pub struct MainThread {
    stop: Stop,
    pause: bool,
}

impl MainThread {
    /// Blocks the signals before any other thread exists: all threads inherit that, and main alone reads them.
    pub fn new(pause: bool) -> Result<MainThread> {
        Ok(MainThread { stop: Stop::on_signals()?, pause })
    }

    /// `--pause`: shows the call that comes next and waits for Enter.
    pub fn before(&mut self, call: impl fmt::Display) -> Result<()> {
        if self.pause {
            let mut pause = Pause::new(true, &self.stop);
            pause.before(&mut Screen::new(), call);
        }
        self.look()
    }

    /// Waits for Enter, or for the end of standard input.
    pub fn wait_for_enter(&self) -> Result<()> {
        self.stop.wait_for_enter();
        self.look()
    }

    /// Waits for a thread's end. `JoinHandle::join` alone would not hear Ctrl-C.
    pub fn join<T>(&self, handle: JoinHandle<T>) -> Result<T> {
        while !handle.is_finished() {
            self.sleep(Duration::from_millis(LOOK_AGAIN_MS.into()))?;
        }
        handle.join().map_err(|_| anyhow!("a thread panicked"))
    }

    /// Sleeps until the time is over.
    pub fn sleep(&self, time: Duration) -> Result<()> {
        let end = Instant::now() + time;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
            let mut fds = [PollFd::new(self.stop.as_fd(), PollFlags::POLLIN)];
            let _ = poll(&mut fds, timeout); // EINTR after Ctrl-Z and fg: the loop looks at the clock
            self.look()?;
            if left < Duration::from_millis(1) {
                return Ok(());
            }
        }
    }

    fn look(&self) -> Result<()> {
        if self.stop.requested() {
            bail!(Interrupted);
        }
        Ok(())
    }
}
