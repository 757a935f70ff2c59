//! Lines with the time in front, as Python's logging writes them in the lecture.

use std::{
    fmt::Display,
    mem,
    time::{SystemTime, UNIX_EPOCH},
};

use nix::libc;
use shared::Screen;

/// `12:34:56 DEBUG text`
pub fn debug(screen: &mut Screen, text: impl Display) {
    screen.line(format_args!("{} DEBUG {text}", local_time()));
}

/// `12:34:56 INFO text`
pub fn info(screen: &mut Screen, text: impl Display) {
    screen.line(format_args!("{} INFO {text}", local_time()));
}

/// What a stranger sent, as text that cannot move the cursor or ring.
pub fn escaped(message: &[u8]) -> String {
    let shown = |scalar: char| {
        let turns = matches!(scalar, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
        if scalar.is_control() || turns { scalar.escape_default().to_string() } else { scalar.to_string() }
    };
    String::from_utf8_lossy(message).chars().map(shown).collect()
}

/// The time of day where this machine is; std knows no time zones.
#[expect(unsafe_code, reason = "localtime_r(3) is the C library's, and has no safe wrapper in nix")]
fn local_time() -> String {
    let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let seconds = libc::time_t::try_from(since_1970.as_secs()).unwrap_or_default();
    // SAFETY: struct tm is plain numbers and a pointer that may be null; all zero is a value of it.
    let mut parts: libc::tm = unsafe { mem::zeroed() };
    // SAFETY: both pointers are to live variables of ours, and localtime_r(3) keeps neither.
    unsafe { libc::localtime_r(&seconds, &mut parts) };
    format!("{:02}:{:02}:{:02}", parts.tm_hour, parts.tm_min, parts.tm_sec)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_cannot_act_on_the_terminal() {
        assert_eq!(escaped(b"Hello world!"), "Hello world!");
        assert_eq!(escaped(b"a\x1b[2J\nb\xff"), "a\\u{1b}[2J\\nb\u{fffd}");
    }

    #[test]
    fn a_time_has_two_digits_each() {
        let time = local_time();
        assert_eq!(time.split(':').map(str::len).collect::<Vec<_>>(), [2, 2, 2], "{time}");
    }
}
