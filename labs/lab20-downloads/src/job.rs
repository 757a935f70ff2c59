//! A file to get, and what has come of it so far.

use std::{
    path::PathBuf,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use anyhow::Error;

use crate::url::Url;

/// How a download was or will be done.
#[derive(Clone)]
pub struct Options {
    pub folder: PathBuf,
    pub resume: bool,
    pub close: bool,
}

/// What has come of a download so far.
#[derive(Clone, Debug, Default)]
pub struct State {
    /// The thread that does it.
    pub thread: String,
    /// When the request left.
    pub asked: Option<Instant>,
    /// When the first byte came.
    pub first: Option<Instant>,
    /// When it was over, well or not.
    pub ended: Option<Instant>,
    /// Bytes that were there before.
    pub before: u64,
    /// Bytes that came now.
    pub received: u64,
    /// Bytes of the whole file, once known.
    pub size: Option<u64>,
    /// Whether the server told a checksum; a wrong one is a failure.
    pub checksum: bool,
    pub failure: Option<String>,
}

/// A file to get.
pub struct Job {
    pub url: Url,
    state: Mutex<State>,
    pub error: Mutex<Option<Error>>,
}

impl Job {
    pub fn new(url: Url) -> Job {
        Job { url, state: Mutex::new(State::default()), error: Mutex::new(None) }
    }

    pub fn state(&self) -> State {
        self.lock().clone()
    }

    /// The failure itself, with the hint that belongs to it.
    pub fn take_error(&self) -> Option<Error> {
        self.error.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    pub fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
