//! A second pair of eyes on a demo: ends it on Ctrl-C, and when an experiment hangs.

use std::{
    os::fd::AsFd,
    process::exit,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

use anyhow::Result;
use nix::poll::{PollFd, PollFlags, poll};

use crate::{Screen, Stop, stage::unexpected};

/// Far above what any experiment needs; a call that still blocks then is the finding.
const EXPERIMENT_LIMIT: Duration = Duration::from_secs(30);
const LOOK_AGAIN_MS: u8 = 200;
const EXIT_INTERRUPTED: i32 = 130;

/// What the watchdog knows of the experiment that runs.
#[derive(Default)]
pub struct Watched {
    /// When it has to be over; `None` while a person thinks.
    deadline: Option<Instant>,
    lab: String,
    id: String,
    /// What the kit expects.
    pub expected: String,
    /// What was printed last.
    pub last_line: String,
}

/// Watches from a thread of its own, because the experiment itself may be stuck in a system call.
#[derive(Clone, Default)]
pub struct Watchdog(Arc<Mutex<Watched>>);

impl Watchdog {
    /// Starts the thread. SIGINT and SIGTERM are its own from now on.
    pub fn start() -> Result<Watchdog> {
        let stop = Stop::on_signals()?;
        let watchdog = Watchdog::default();
        let watching = watchdog.clone();
        thread::Builder::new().name("watchdog".into()).spawn(move || {
            loop {
                let mut fds = [PollFd::new(stop.as_fd(), PollFlags::POLLIN)];
                if poll(&mut fds, LOOK_AGAIN_MS).is_ok_and(|ready| ready > 0) {
                    Screen::new().line("");
                    exit(EXIT_INTERRUPTED);
                }
                let watched = watching.lock();
                if watched.deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                    let observed = format!("not seen within {EXPERIMENT_LIMIT:?}: the end of the experiment");
                    let lines = unexpected(&watched.lab, &watched.id, &watched.expected, &observed, &watched.last_line);
                    Screen::new().line(lines.join("\n"));
                    exit(1);
                }
            }
        })?;
        Ok(watchdog)
    }

    /// An experiment starts.
    pub fn watch(&self, lab: &str, id: &str) {
        let mut watched = self.lock();
        watched.lab = lab.into();
        watched.id = id.into();
        watched.expected.clear();
        watched.deadline = Some(Instant::now() + EXPERIMENT_LIMIT);
    }

    /// The experiment is over, or a person thinks.
    pub fn rest(&self) {
        self.lock().deadline = None;
    }

    /// The person has thought.
    pub fn go_on(&self) {
        self.lock().deadline = Some(Instant::now() + EXPERIMENT_LIMIT);
    }

    /// What is watched; a panic elsewhere does not stop the watch.
    pub fn lock(&self) -> MutexGuard<'_, Watched> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
