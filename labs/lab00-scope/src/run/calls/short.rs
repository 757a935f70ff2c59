//! A call as the labs print it: `connect(3, 127.0.0.1:4444) = 0`.

use std::fs;

use nix::errno::Errno;
use nix::libc;

use super::memory::Memory;
use super::{Arg, Entered, address, message, result, value};

/// The call in a few words; without a result while it waits.
pub fn text(memory: &Memory, call: &Entered, result: Option<i64>) -> String {
    let (name, args) = (call.spec.name, &call.args);
    let given = |at: usize| call.given.get(at).cloned().flatten().unwrap_or_default();
    let without_flags = |text: String| text.split('|').next().unwrap_or_default().to_string();
    let fd = call.fd().unwrap_or(args[0] as i32);
    let (name, inside) = match name {
        "socket" | "socketpair" => {
            let protocol = if args[2] == 0 { "0".into() } else { given(2) };
            (name, format!("{}, {}, {protocol}", given(0), without_flags(given(1))))
        }
        "bind" | "connect" => {
            let addr = address::short(memory, args[1], args[2] as usize).unwrap_or_else(|| given(1));
            (name, format!("{fd}, {addr}"))
        }
        "accept" | "accept4" | "dup" => (name.trim_end_matches('4'), fd.to_string()),
        "getsockname" | "getpeername" => {
            let length = memory.number(args[2], 4).unwrap_or(0) as usize;
            let addr = result.filter(|result| *result == 0).and_then(|_| address::short(memory, args[1], length));
            (name, addr.map_or(fd.to_string(), |addr| format!("{fd}, {addr}")))
        }
        "sendto" => match address::short(memory, args[4], args[5] as usize) {
            Some(addr) => (name, format!("{fd}, {}, {addr}{}", args[2], flags(call, 3))),
            None => ("send", format!("{fd}, {}{}", args[2], flags(call, 3))),
        },
        "recvfrom" => {
            let length = memory.number(args[5], 4).unwrap_or(0) as usize;
            let from = result.filter(|got| *got >= 0).and_then(|_| address::short(memory, args[4], length));
            match from {
                Some(addr) => (name, format!("{fd}, {}, {addr}{}", args[2], flags(call, 3))),
                None => ("recv", format!("{fd}, {}{}", args[2], flags(call, 3))),
            }
        }
        "sendmsg" | "recvmsg" => {
            let header = memory.bytes(args[1], message::HEADER).unwrap_or(vec![0; message::HEADER]);
            let word = |at: usize| super::memory::number(&header[at..at + 8]);
            let bytes: u64 = message::parts(memory, word(16), word(24)).iter().map(|(_, length)| length).sum();
            (name, format!("{fd}, {bytes}{}", flags(call, 2)))
        }
        "read" | "write" => (name, format!("{fd}, {}", args[2])),
        "readv" | "writev" => {
            let bytes: u64 = message::parts(memory, args[1], args[2]).iter().map(|(_, length)| length).sum();
            (name, format!("{fd}, {bytes}"))
        }
        "setsockopt" => (name, format!("{fd}, {}, {}", given(2), given(3))),
        "getsockopt" => {
            let at = call.spec.args.iter().position(|arg| matches!(arg, Arg::OptionBack(_))).unwrap_or(3);
            let value = result.filter(|result| *result == 0).map(|_| value::text(memory, call, at, result));
            (name, value.map_or(format!("{fd}, {}", given(2)), |value| format!("{fd}, {}, {value}", given(2))))
        }
        "poll" | "ppoll" | "select" | "pselect6" | "epoll_wait" | "epoll_pwait" | "epoll_pwait2" => {
            let arg = call.spec.args.iter().find(|arg| matches!(arg, Arg::PollFds | Arg::Set | Arg::EpollFd));
            let mut fds = super::waiting::waits_for(memory, args, *arg.unwrap_or(&Arg::EpollFd));
            fds.sort_unstable();
            fds.dedup();
            let fds: Vec<String> = fds.iter().map(i32::to_string).collect();
            (name.split(['_', '6']).next().unwrap_or(name), fds.join(" "))
        }
        _ => {
            let known: Vec<String> = call.given.iter().flatten().filter(|text| !text.is_empty()).cloned().collect();
            (name, known.join(", "))
        }
    };
    match result {
        None => format!("{name}({inside})"),
        Some(number) if result::restarts(number) => format!("{name}({inside}) = ?"),
        Some(number @ ..0) => {
            format!("{name}({inside}) = -1 {}{}", result::errno(number), meaning(memory, call, number))
        }
        Some(number) => format!("{name}({inside}) = {number}"),
    }
}

/// Two errors say that nothing is wrong: a word on which of their causes it is.
fn meaning(memory: &Memory, call: &Entered, result: i64) -> &'static str {
    let non_blocking = || {
        let path = format!("/proc/{}/fdinfo/{}", memory.thread, call.fd().unwrap_or(-1));
        let info = fs::read_to_string(path).unwrap_or_default();
        let flags = info.lines().find_map(|line| line.strip_prefix("flags:"));
        flags
            .and_then(|flags| i32::from_str_radix(flags.trim(), 8).ok())
            .is_some_and(|flags| flags & libc::O_NONBLOCK != 0)
    };
    let asked = || call.given.iter().flatten().any(|text| text.contains("MSG_DONTWAIT"));
    match (Errno::from_raw(-result as i32), call.spec.name) {
        (Errno::EINPROGRESS, "connect") if non_blocking() => " (non-blocking: goes on)",
        (Errno::EINPROGRESS, "connect") => " (time is over: goes on)", // SO_SNDTIMEO
        (Errno::EAGAIN, "accept" | "accept4" | "read" | "readv") if non_blocking() => " (would wait)",
        (Errno::EAGAIN, name) if (call.sends() || name.starts_with("recv")) && (asked() || non_blocking()) => {
            " (would wait)"
        }
        _ => "",
    }
}

/// The flags of a send or a receive, if it has some.
fn flags(call: &Entered, at: usize) -> String {
    match call.given.get(at).cloned().flatten() {
        Some(flags) if call.args[at] != 0 && flags != "MSG_NOSIGNAL" => {
            format!(", {}", flags.replace("MSG_NOSIGNAL", "").trim_matches('|'))
        }
        _ => String::new(),
    }
}
