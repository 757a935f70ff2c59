//! Lines with the time (UTC) in front, as Python's logging writes them in the lecture.

use std::{
    fmt::Display,
    time::{SystemTime, UNIX_EPOCH},
};

use shared::Screen;

/// `12:34:56 DEBUG text`
pub fn debug(screen: &mut Screen, text: impl Display) {
    screen.line(format_args!("{} DEBUG {text}", utc_time()));
}

/// `12:34:56 INFO text`
pub fn info(screen: &mut Screen, text: impl Display) {
    screen.line(format_args!("{} INFO {text}", utc_time()));
}

/// The time of day in UTC; std knows no time zones.
fn utc_time() -> String {
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    format!("{:02}:{:02}:{:02}", seconds / 3600 % 24, seconds / 60 % 60, seconds % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_has_two_digits_each() {
        let time = utc_time();
        assert_eq!(time.split(':').map(str::len).collect::<Vec<_>>(), [2, 2, 2], "{time}");
    }
}
