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
    /// What stands before each line; it gets the thread's name.
    lead: fn(&str) -> String,
}

impl Log {
    /// A log for the rest of the program: whoever outlives main may still write.
    pub fn with(lead: fn(&str) -> String) -> &'static Log {
        Box::leak(Box::new(Log { screen: Mutex::new(Screen::new()), lead }))
    }

    /// Writes one line behind the name of the thread that calls.
    pub fn debug(&self, text: impl Display) {
        let thread = thread::current();
        let name = match thread.name() {
            Some("main") => "MainThread", // its name in the lecture's logs
            name => name.unwrap_or("unnamed"),
        };
        self.print(format_args!("{}{text}", (self.lead)(name)));
    }

    /// Writes one line.
    pub fn print(&self, line: impl Display) {
        self.screen.lock().unwrap_or_else(PoisonError::into_inner).line(line);
    }
}
