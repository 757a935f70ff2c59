//! How the roles show a call: before it with `--pause`, and after it.

use std::{
    error::Error,
    fmt::{self, Display, Formatter},
};

use shared::{Pause, Screen, Stop};

/// The screen, the wait before each call, and Ctrl-C.
pub struct Log<'a> {
    pub screen: Screen,
    pub pause: Pause<'a>,
    pub stop: &'a Stop,
}

/// Ctrl-C came while a call waited.
#[derive(Debug)]
pub struct Interrupted;

impl Error for Interrupted {}

impl Display for Interrupted {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str("interrupted")
    }
}

impl Log<'_> {
    /// The call that comes next.
    pub fn next(&mut self, call: impl Display) {
        self.pause.before(&mut self.screen, call);
    }

    /// One line: who, and what was done or seen.
    pub fn say(&mut self, who: &str, text: impl Display) {
        self.screen.line(format_args!("{who:<10}{text}"));
    }
}
