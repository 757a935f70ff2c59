//! What a call returned, as strace writes it.

use nix::errno::Errno;

use super::address::pointer;
use super::memory::Memory;
use super::{Arg, Entered, names, waiting};

/// Not errors that a program sees: the kernel starts the call again, or a signal handler turns it into EINTR.
const RESTARTS: [(i64, &str, &str); 4] = [
    (512, "ERESTARTSYS", "To be restarted if SA_RESTART is set"),
    (513, "ERESTARTNOINTR", "To be restarted"),
    (514, "ERESTARTNOHAND", "To be restarted if no handler"),
    (516, "ERESTART_RESTARTBLOCK", "Interrupted by signal"),
];

/// The result: a number, an error, and what poll and select answer.
pub fn text(memory: &Memory, call: &Entered, result: i64) -> String {
    if let Some((_, name, why)) = RESTARTS.iter().find(|(number, ..)| -result == *number) {
        return format!("? {name} ({why})");
    }
    if result < 0 {
        return format!("-1 {} ({})", errno(result), strerror(result));
    }
    match call.spec.args[0] {
        Arg::PollFds if result == 0 => "0 (Timeout)".into(),
        Arg::PollFds => {
            let answer = waiting::poll_answer(memory, call.args[0], call.args[1]);
            let left = match call.spec.name {
                "ppoll" if call.args[2] != 0 => format!(", left {}", waiting::time(memory, call.args[2], "tv_nsec")),
                _ => String::new(),
            };
            format!("{result} ({answer}{left})")
        }
        _ if matches!(call.spec.name, "select" | "pselect6") => selected(memory, call, result),
        Arg::Fd if call.spec.name == "fcntl" => fcntl(call, result),
        _ => result.to_string(),
    }
}

/// The errno's name.
pub fn errno(result: i64) -> String {
    format!("{:?}", Errno::from_raw(-result as i32))
}

/// What the C library says of it.
fn strerror(result: i64) -> String {
    let text = std::io::Error::from_raw_os_error(-result as i32).to_string();
    text.split(" (os error").next().unwrap_or_default().to_string()
}

/// Whether a call is started again, or was cut short by a signal.
pub fn restarts(result: i64) -> bool {
    RESTARTS.iter().any(|(number, ..)| -result == *number)
}

fn selected(memory: &Memory, call: &Entered, result: i64) -> String {
    if result == 0 {
        return "0 (Timeout)".into();
    }
    let mut parts = Vec::new();
    for (at, name) in [(1, "in"), (2, "out"), (3, "except")] {
        let members = waiting::set(memory, call.args[at], call.args[0] as i32);
        if members != "NULL" && members != "[]" {
            parts.push(format!("{name} {members}"));
        }
    }
    if call.args[4] != 0 {
        let fraction = if call.spec.name == "select" { "tv_usec" } else { "tv_nsec" };
        parts.push(format!("left {}", waiting::time(memory, call.args[4], fraction)));
    }
    format!("{result} ({})", parts.join(", "))
}

fn fcntl(call: &Entered, result: i64) -> String {
    match names::name(names::FCNTLS, call.args[1] as i32) {
        Some("F_GETFD") => format!("{result:#x}{}", if result & 1 == 1 { " (flags FD_CLOEXEC)" } else { "" }),
        Some("F_GETFL") => {
            let flags = super::options::fcntl_value(nix::libc::F_SETFL, result as u64);
            format!("{result:#x} (flags {flags})")
        }
        Some("F_GETOWN") => pointer(result as u64),
        _ => result.to_string(),
    }
}
