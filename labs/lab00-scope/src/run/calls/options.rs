//! Socket options and their values, and those of fcntl(2).

use nix::libc;

use super::address::pointer;
use super::memory::{Memory, number, quoted};
use super::names::{self, Names};
use super::{Arg, Entered};

/// The names of the options of a level.
fn of_level(level: i32) -> (Names, &'static str) {
    match level {
        libc::SOL_SOCKET => (names::SOCKET_OPTIONS, "SO"),
        libc::SOL_IP => (names::IP_OPTIONS, "IP"),
        libc::SOL_IPV6 => (names::IPV6_OPTIONS, "IPV6"),
        libc::SOL_TCP => (names::TCP_OPTIONS, "TCP"),
        _ => (&[], "OPT"),
    }
}

/// The option's name.
pub fn name(level: i32, option: i32) -> String {
    if level == libc::SOL_SOCKET
        && let Some(name) = names::name(names::SOCKET_TIMES, option)
    {
        return name.into();
    }
    let (names, kind) = of_level(level);
    if names.is_empty() { format!("{option:#x}") } else { names::named(names, option, kind) }
}

/// The option's value: a number in brackets, a structure, or its bytes.
pub fn value(memory: &Memory, call: &Entered, at: u64, length: u32) -> String {
    let Some(bytes) = memory.bytes(at, length as usize) else { return pointer(at) };
    let octets = |from: usize| {
        format!("inet_addr(\"{}.{}.{}.{}\")", bytes[from], bytes[from + 1], bytes[from + 2], bytes[from + 3])
    };
    let word = |from: usize| number(&bytes[from..from + 4]) as i32;
    let back = call.spec.args.contains(&Arg::LengthOut);
    match (call.args[1] as i32, call.args[2] as i32) {
        (libc::SOL_SOCKET, libc::SO_LINGER) if length >= 8 => {
            format!("{{l_onoff={}, l_linger={}}}", word(0), word(4))
        }
        (libc::SOL_SOCKET, libc::SO_PEERCRED) if length >= 12 => {
            format!("{{pid={}, uid={}, gid={}}}", word(0), word(4), word(8))
        }
        (libc::SOL_IP, libc::IP_ADD_MEMBERSHIP | libc::IP_DROP_MEMBERSHIP) if length == 8 => {
            format!("{{imr_multiaddr={}, imr_interface={}}}", octets(0), octets(4))
        }
        (libc::SOL_IP, libc::IP_ADD_MEMBERSHIP | libc::IP_DROP_MEMBERSHIP) if length >= 12 => {
            let (group, own) = (octets(0), octets(4));
            format!("{{imr_multiaddr={group}, imr_address={own}, imr_ifindex={}}}", word(8))
        }
        (libc::SOL_SOCKET, libc::SO_ERROR) if length == 4 && back && word(0) != 0 => {
            format!("[{:?}]", nix::errno::Errno::from_raw(word(0)))
        }
        _ if length == 4 => format!("[{}]", word(0)),
        _ => quoted(&bytes, bytes.len()),
    }
}

/// What fcntl is given; it has no third argument for some commands.
pub fn fcntl_value(command: i32, value: u64) -> String {
    match command {
        libc::F_GETFD | libc::F_GETFL | libc::F_GETOWN => String::new(),
        libc::F_SETFD if value == 1 => "FD_CLOEXEC".into(),
        libc::F_SETFL => {
            let access = ["O_RDONLY", "O_WRONLY", "O_RDWR"].get(value as usize & 3).copied().unwrap_or("O_ACCMODE");
            match value as u32 & !3 {
                0 => access.into(),
                flags => format!("{access}|{}", names::flags(names::FILE_FLAGS, flags)),
            }
        }
        _ => (value as i32).to_string(),
    }
}
