//! What a thread says, behind its name: each line is written whole, whoever else writes.

use std::{
    fmt::Display,
    sync::{Mutex, PoisonError},
    thread,
};

use shared::Screen;

/// A log that all threads share, as the lecture's logging module.
pub struct Log {
    screen: Mutex<Screen>,
    /// The name of the process, where it is not the first one.
    process: Option<String>,
    quiet: bool,
}

impl Log {
    pub fn new(quiet: bool, process: Option<String>) -> Self {
        Log { screen: Mutex::new(Screen::new()), process, quiet }
    }

    /// Writes one line behind the name of the thread that calls.
    pub fn line(&self, text: impl Display) {
        if !self.quiet {
            self.always(text);
        }
    }

    /// As [`Log::line`], with `--quiet`, too.
    pub fn always(&self, text: impl Display) {
        let thread = thread::current();
        let name = match (&self.process, thread.name()) {
            (Some(process), _) => process,
            (None, Some("main")) => "MainThread", // its name in the lecture's logs
            (None, name) => name.unwrap_or("unnamed"),
        };
        self.screen.lock().unwrap_or_else(PoisonError::into_inner).line(format_args!("({name}) {text}"));
    }
}
