//! How the roles tell of a call: before it, with `--pause`, and after it.

use std::fmt::Display;

use shared::{Pause, Screen};

/// The screen, and the wait before each call.
pub struct Log<'a> {
    pub screen: Screen,
    pub pause: Pause<'a>,
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
