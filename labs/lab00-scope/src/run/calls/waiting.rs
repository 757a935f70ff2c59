//! Calls that wait for many descriptors: poll(2), select(2), epoll(7).

use std::fs;

use nix::libc;

use super::address::pointer;
use super::memory::{Memory, number};
use super::{Arg, names};

/// The descriptors such a call waits for.
pub fn waits_for(memory: &Memory, args: &[u64; 6], arg: Arg) -> Vec<i32> {
    match arg {
        Arg::PollFds => polled(memory, args[0], args[1]).iter().map(|(fd, _, _)| *fd).collect(),
        Arg::Set => args[1..4].iter().flat_map(|at| members(memory, *at, args[0] as i32)).collect(),
        _ => {
            let info = fs::read_to_string(format!("/proc/{}/fdinfo/{}", memory.thread, args[0] as i32));
            let target = |line: &str| line.strip_prefix("tfd:")?.split_whitespace().next()?.parse().ok();
            info.unwrap_or_default().lines().filter_map(target).collect()
        }
    }
}

/// struct pollfd: descriptor, events, revents.
fn polled(memory: &Memory, at: u64, count: u64) -> Vec<(i32, u32, u32)> {
    let bytes = memory.bytes(at, 8 * count.min(1024) as usize).unwrap_or_default();
    let one = |fd: &[u8]| (number(&fd[..4]) as i32, number(&fd[4..6]) as u32, number(&fd[6..]) as u32);
    bytes.chunks_exact(8).map(one).collect()
}

/// What poll is asked.
pub fn poll_fds(memory: &Memory, at: u64, count: u64) -> String {
    let one = |(fd, events, _): &(i32, u32, u32)| match fd {
        ..0 => format!("{{fd={fd}}}"),
        fd => format!("{{fd={fd}, events={}}}", names::flags(names::POLL_EVENTS, *events)),
    };
    let polled = polled(memory, at, count);
    if polled.is_empty() && count > 0 {
        return pointer(at);
    }
    format!("[{}]", polled.iter().map(one).collect::<Vec<_>>().join(", "))
}

/// What poll answers, for strace behind its result.
pub fn poll_answer(memory: &Memory, at: u64, count: u64) -> String {
    let one = |(fd, _, events): &(i32, u32, u32)| {
        (*events != 0).then(|| format!("{{fd={fd}, revents={}}}", names::flags(names::POLL_EVENTS, *events)))
    };
    format!("[{}]", polled(memory, at, count).iter().filter_map(one).collect::<Vec<_>>().join(", "))
}

/// The descriptors in a set.
pub fn members(memory: &Memory, at: u64, count: i32) -> Vec<i32> {
    let count = count.clamp(0, 1024);
    let bytes = memory.bytes(at, (count as usize).div_ceil(64) * 8).unwrap_or_default();
    (0..count).filter(|fd| bytes.get(*fd as usize / 8).is_some_and(|byte| byte >> (fd % 8) & 1 == 1)).collect()
}

/// A set: `[4 5]`.
pub fn set(memory: &Memory, at: u64, count: i32) -> String {
    if at == 0 {
        return "NULL".into();
    }
    let members: Vec<String> = members(memory, at, count).iter().map(i32::to_string).collect();
    format!("[{}]", members.join(" "))
}

/// struct timeval or timespec.
pub fn time(memory: &Memory, at: u64, fraction: &str) -> String {
    match (memory.number(at, 8), memory.number(at + 8, 8)) {
        (Some(seconds), Some(rest)) if at != 0 => format!("{{tv_sec={}, {fraction}={}}}", seconds as i64, rest as i64),
        _ => pointer(at),
    }
}

/// A set of signals; pselect6 has it in a structure, with its size.
pub fn signal_set(memory: &Memory, at: u64, packed: bool) -> String {
    let mask = if packed { memory.number(at, 8).filter(|_| at != 0) } else { Some(at) };
    let Some(mask) = mask else { return pointer(at) };
    let Some(set) = memory.number(mask, 8).filter(|_| mask != 0) else {
        return if packed { "{sigmask=NULL, sigsetsize=8}".into() } else { pointer(mask) };
    };
    let (sign, shown) = if set.count_ones() >= 32 { ("~", !set) } else { ("", set) };
    let name = |signal: u32| match names::name(names::SIGNALS, signal.cast_signed()) {
        Some(name) => name.trim_start_matches("SIG").to_string(),
        None if signal == 32 => "RTMIN".into(),
        None => format!("RT_{}", signal - 32),
    };
    let names: Vec<String> = (1..=64).filter(|signal| shown >> (signal - 1) & 1 == 1).map(name).collect();
    let text = format!("{sign}[{}]", names.join(" "));
    if packed { format!("{{sigmask={text}, sigsetsize=8}}") } else { text }
}

/// struct epoll_event, which is packed on x86-64 only.
pub fn events(memory: &Memory, at: u64, count: i64) -> String {
    const SIZE: usize = std::mem::size_of::<libc::epoll_event>();
    let Some(bytes) = memory.bytes(at, SIZE * count.clamp(0, 1024) as usize) else { return pointer(at) };
    let one = |event: &[u8]| {
        let events = names::flags(names::EPOLL_EVENTS, number(&event[..4]) as u32);
        let value = number(&event[SIZE - 8..]);
        format!("{{events={events}, data={{u32={}, u64={value}}}}}", value as u32)
    };
    format!("[{}]", bytes.chunks_exact(SIZE).map(one).collect::<Vec<_>>().join(", "))
}
