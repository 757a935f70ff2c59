//! Which system calls are stopped at, and how they are written: strace's notation, and the short one of the labs.
//!
//! What a call is given is read when it begins, what it gives back when it ends.

mod address;
mod memory;
mod message;
mod names;
mod options;
mod result;
mod short;
mod table;
mod value;
mod waiting;

use std::fs;
use std::net::SocketAddr;

pub use memory::Memory;
pub use table::{Arg, Spec, hides_sockets};

/// A system call as it was entered.
#[derive(Clone, Debug)]
pub struct Entered {
    /// What it is.
    pub spec: &'static Spec,
    /// Its six arguments, as the registers have them.
    pub args: [u64; 6],
    /// Its arguments as text; `None` for what it gives back.
    given: Vec<Option<String>>,
    /// The lengths that its pointers to lengths pointed at.
    lengths: [u64; 6],
}

impl Entered {
    /// Reads what the call is given; `None` for a call that is not about a socket.
    pub fn new(thread: i32, number: u64, args: [u64; 6]) -> Option<Entered> {
        let spec = table::spec(number)?;
        let memory = Memory { thread };
        if !about_sockets(spec, &memory, &args) {
            return None;
        }
        let mut lengths = [0; 6];
        for (at, arg) in spec.args.iter().enumerate() {
            // The kernel writes over both: a length of its own, and that of the name in a struct msghdr.
            let length = if *arg == Arg::MessageBack { args[at] + 8 } else { args[at] };
            if matches!(arg, Arg::LengthOut | Arg::MessageBack) {
                lengths[at] = memory.number(length, 4).unwrap_or(0);
            }
        }
        let mut entered = Entered { spec, args, given: Vec::new(), lengths };
        entered.given = (0..spec.args.len())
            .map(|at| (!spec.args[at].comes_back()).then(|| value::text(&memory, &entered, at, None)))
            .collect();
        Some(entered)
    }

    /// The descriptor that the call is about, if it is about one.
    pub fn fd(&self) -> Option<i32> {
        let at = self.spec.args.iter().position(|arg| *arg == Arg::Fd)?;
        Some(self.args[at] as i32)
    }

    /// The inode of the socket that it is about, as `thread` has it now.
    pub fn socket_inode(&self, thread: i32) -> Option<u64> {
        self.fd().and_then(|fd| socket_inode(thread, fd))
    }

    /// Whether it sends.
    pub fn sends(&self) -> bool {
        matches!(self.spec.name, "sendto" | "sendmsg" | "sendmmsg" | "write" | "writev" | "sendfile")
    }

    /// Whether it can make the kernel send at once: data, a SYN, a FIN, a reset, a new window.
    pub fn may_send(&self) -> bool {
        let others =
            ["connect", "shutdown", "close", "dup2", "dup3", "setsockopt", "read", "readv", "accept", "accept4"];
        self.sends() || self.spec.name.starts_with("recv") || others.contains(&self.spec.name)
    }

    /// Whether the kernel's table can be another one behind it, though no segment was seen. To send and to receive change a
    /// state only by segments: without this, a loop of receives would read the table of the whole machine each time.
    pub fn may_change_a_state(&self, segments_are_seen: bool) -> bool {
        let transfers = self.sends() || self.spec.name.starts_with("recv") || self.spec.name.starts_with("read");
        self.may_send() && !(transfers && segments_are_seen) || matches!(self.spec.name, "socket" | "bind" | "listen")
    }

    /// The address that it is given or gives back.
    pub fn address(&self, thread: i32) -> Option<SocketAddr> {
        let at = self.spec.args.iter().position(|arg| matches!(arg, Arg::Address(_)))?;
        let Arg::Address(length) = self.spec.args[at] else { return None };
        address::internet_at(&Memory { thread }, self.args[at], self.args[length] as usize)
    }

    /// The call as it stands while it waits: `accept4(3,  <unfinished ...>`.
    pub fn waiting(&self) -> String {
        let known: Vec<&str> = self.given.iter().map_while(|text| text.as_deref()).collect();
        let more = if known.len() < self.given.len() && !known.is_empty() { ", " } else { "" };
        format!("{}({}{more} <unfinished ...>", self.spec.name, known.join(", "))
    }

    /// The whole call with its result.
    pub fn ended(&self, thread: i32, result: i64) -> String {
        let memory = Memory { thread };
        let text = |(at, text): (usize, &Option<String>)| match text {
            Some(text) => text.clone(),
            None => value::text(&memory, self, at, Some(result)),
        };
        let args: Vec<String> = self.given.iter().enumerate().map(text).filter(|text| !text.is_empty()).collect();
        let result = result::text(&memory, self, result);
        format!("{}({}) = {result}", self.spec.name, args.join(", "))
    }

    /// The call as the labs print it, without its result while it waits.
    pub fn short(&self, thread: i32, result: Option<i64>) -> String {
        short::text(&Memory { thread }, self, result)
    }
}

/// The names of all calls that are shown: the labs' own, and where they differ strace's.
pub fn names() -> Vec<&'static str> {
    const SHORT: [&str; 5] = ["accept", "epoll", "pselect", "recv", "send"];
    let mut names: Vec<&str> = table::names().chain(SHORT).collect();
    names.sort_unstable();
    names.dedup();
    names
}

/// A call on a descriptor is looked at if that is a socket; one that waits for many, if one of them is.
fn about_sockets(spec: &Spec, memory: &Memory, args: &[u64; 6]) -> bool {
    for (at, arg) in spec.args.iter().enumerate() {
        match arg {
            Arg::Fd | Arg::OtherFd if socket_inode(memory.thread, args[at] as i32).is_some() => return true,
            Arg::Fd if matches!(spec.name, "getsockname" | "connect" | "listen" | "bind" | "shutdown") => return true, // ENOTSOCK, EBADF
            Arg::Domain => return true,
            Arg::PollFds | Arg::Set | Arg::EpollFd => {
                return waiting::waits_for(memory, args, *arg)
                    .iter()
                    .any(|fd| socket_inode(memory.thread, *fd).is_some());
            }
            _ => {}
        }
    }
    false
}

/// The inode of the socket behind a descriptor of this thread.
pub fn socket_inode(thread: i32, fd: i32) -> Option<u64> {
    let link = fs::read_link(format!("/proc/{thread}/fd/{fd}")).ok()?;
    link.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()
}
