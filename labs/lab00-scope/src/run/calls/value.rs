//! One argument of a call, as strace writes it.

use super::address::{self, pointer};
use super::memory::{Memory, quoted};
use super::names;
use super::{Arg, Entered, message, options, waiting};

/// The argument number `at`; `result` is that of the call for what comes back, and `None` for what is given.
pub fn text(memory: &Memory, call: &Entered, at: usize, result: Option<i64>) -> String {
    let value = call.args[at];
    let failed = result.is_some_and(|result| result < 0);
    if failed && call.spec.args[at] == Arg::LengthOut {
        return if value == 0 { "NULL".into() } else { format!("[{}]", call.lengths[at] as i32) };
    }
    if failed && call.spec.args[at] != Arg::MessageBack {
        return pointer(value);
    }
    match call.spec.args[at] {
        Arg::Fd | Arg::OtherFd | Arg::EpollFd | Arg::Int => (value as i32).to_string(),
        Arg::Size => value.to_string(),
        Arg::Offset if value == 0 => "NULL".into(),
        Arg::Offset => memory.number(value, 8).map_or_else(|| pointer(value), |offset| format!("[{offset}]")),
        Arg::Domain => names::named(names::DOMAINS, value as i32, "AF"),
        Arg::Type => kind(value),
        Arg::Protocol => protocol(call.args[at - 2] as i32, value as i32),
        Arg::How => names::named(names::HOWS, value as i32, "SHUT"),
        Arg::MessageFlags => names::flags(names::MESSAGE_FLAGS, value as u32),
        Arg::SocketFlags => names::flags(names::SOCKET_FLAGS, value as u32),
        Arg::DupFlags => names::flags(names::DUP_FLAGS, value as u32),
        Arg::Address(length) => address::strace(memory, value, call.args[length] as usize),
        Arg::AddressBack(length) => {
            let given = call.lengths[length] as usize;
            let length = memory.number(call.args[length], 4).unwrap_or(0) as usize;
            address::strace(memory, value, length.min(given))
        }
        Arg::LengthOut => match memory.number(value, 4) {
            None => pointer(value),
            Some(length) if length == call.lengths[at] => format!("[{length}]"),
            Some(length) => format!("[{} => {length}]", call.lengths[at]),
        },
        Arg::Bytes(length) => bytes(memory, value, call.args[length] as usize),
        Arg::BytesBack(length) => {
            let length = (result.unwrap_or(0) as usize).min(call.args[length] as usize);
            if length == 0 && value != 0 { "\"\"".into() } else { bytes(memory, value, length) }
        }
        Arg::Vector(count) => message::vector(memory, value, call.args[count], None),
        Arg::VectorBack(count) => message::vector(memory, value, call.args[count], result.map(|got| got as usize)),
        Arg::Message => message::text(memory, value, None, None),
        Arg::MessageBack => message::text(memory, value, Some(call.lengths[at]), result),
        Arg::MessagesBack => message::many(memory, value, call.spec.name == "recvmmsg", result.unwrap_or(0)),
        Arg::Level => names::named(names::LEVELS, value as i32, "SOL"),
        Arg::OptionName => options::name(call.args[at - 1] as i32, value as i32),
        Arg::OptionValue(length) => options::value(memory, call, value, call.args[length] as u32),
        Arg::OptionBack(length) => {
            let length = memory.number(call.args[length], 4).unwrap_or(0);
            options::value(memory, call, value, length as u32)
        }
        Arg::PairBack => match memory.bytes(value, 8) {
            Some(fds) => {
                let fd = |at: usize| i32::from_ne_bytes([fds[at], fds[at + 1], fds[at + 2], fds[at + 3]]);
                format!("[{}, {}]", fd(0), fd(4))
            }
            None => pointer(value),
        },
        Arg::PollFds => waiting::poll_fds(memory, value, call.args[at + 1]),
        Arg::Set => waiting::set(memory, value, call.args[0] as i32),
        Arg::TimeVal => waiting::time(memory, value, "tv_usec"),
        Arg::TimeSpec => waiting::time(memory, value, "tv_nsec"),
        Arg::SignalSet => waiting::signal_set(memory, value, call.spec.name == "pselect6"),
        Arg::EventsBack => waiting::events(memory, value, result.unwrap_or(0)),
        Arg::EpollOp => names::named(names::EPOLL_OPS, value as i32, "EPOLL_CTL"),
        Arg::EpollEvent if call.args[at - 2] == 2 => pointer(value), // EPOLL_CTL_DEL reads none
        Arg::EpollEvent => waiting::events(memory, value, 1).trim_matches(['[', ']']).to_string(),
        Arg::FcntlCommand => names::named(names::FCNTLS, value as i32, "F"),
        Arg::FcntlValue => options::fcntl_value(call.args[at - 1] as i32, value),
    }
}

fn kind(value: u64) -> String {
    let (kind, flags) = (value as i32 & 0xf, value as u32 & !0xf);
    let name = names::named(names::TYPES, kind, "SOCK");
    if flags == 0 { name } else { format!("{name}|{}", names::flags(names::SOCKET_FLAGS, flags)) }
}

fn protocol(domain: i32, value: i32) -> String {
    match names::name(names::DOMAINS, domain) {
        Some("AF_INET" | "AF_INET6") => names::named(names::PROTOCOLS, value, "IPPROTO"),
        Some("AF_NETLINK") => names::named(names::NETLINKS, value, "NETLINK"),
        Some("AF_PACKET") => match u16::from_be(value as u16) {
            3 => "htons(ETH_P_ALL)".into(),
            0x800 => "htons(ETH_P_IP)".into(),
            number => format!("htons({number:#x})"),
        },
        _ => value.to_string(),
    }
}

/// What a call sends or got.
pub fn bytes(memory: &Memory, at: u64, length: usize) -> String {
    let read = memory.up_to(at, length.min(32));
    if at == 0 || read.len() < length.min(32) { pointer(at) } else { quoted(&read, length) }
}
