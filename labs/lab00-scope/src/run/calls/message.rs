//! struct msghdr, struct iovec and control messages.

use nix::libc;

use super::address::{self, pointer};
use super::memory::{Memory, number};
use super::names;
use super::value::bytes;

/// No more parts are read.
const MOST_PARTS: u64 = 1024;
/// On a machine of 64 bits: name, its length, vector, its length, control, its length, flags.
pub const HEADER: usize = 56;

/// A vector of buffers. Of those that were filled, `filled` bytes are shown.
pub fn vector(memory: &Memory, at: u64, count: u64, filled: Option<usize>) -> String {
    let parts = parts(memory, at, count);
    if at == 0 || parts.is_empty() && count > 0 {
        return pointer(at);
    }
    let mut left = filled.unwrap_or(usize::MAX);
    let part = |(base, length): &(u64, u64)| {
        let shown = (*length as usize).min(left);
        left -= shown;
        let text = if shown == 0 { "\"\"".into() } else { bytes(memory, *base, shown) };
        format!("{{iov_base={text}, iov_len={length}}}")
    };
    format!("[{}]", parts.iter().map(part).collect::<Vec<_>>().join(", "))
}

/// Where the buffers are and how long.
pub fn parts(memory: &Memory, at: u64, count: u64) -> Vec<(u64, u64)> {
    let read = memory.bytes(at, 16 * count.min(MOST_PARTS) as usize).unwrap_or_default();
    read.chunks_exact(16).map(|part| (number(&part[..8]), number(&part[8..]))).collect()
}

/// A struct msghdr. One that came back has the length of its name as it was given, and the call's result.
pub fn text(memory: &Memory, at: u64, given: Option<u64>, result: Option<i64>) -> String {
    let Some(header) = memory.bytes(at, HEADER) else { return pointer(at) };
    if let (Some(given), Some(..0)) = (given, result) {
        return format!("{{msg_namelen={}}}", given as i32);
    }
    let word = |from: usize| number(&header[from..from + 8]);
    let (name, name_length) = (word(0), number(&header[8..12]));
    let name = if name == 0 { "NULL".into() } else { address::strace(memory, name, name_length as usize) };
    let changed = given.filter(|given| *given != name_length).map(|given| format!("{given} => ")).unwrap_or_default();
    let parts = vector(memory, word(16), word(24), given.and(result).map(|got| got as usize));
    let control = control(memory, word(32), word(40));
    format!(
        "{{msg_name={name}, msg_namelen={changed}{name_length}, msg_iov={parts}, msg_iovlen={}, {control}msg_controllen={}, \
         msg_flags={}}}",
        word(24),
        word(40),
        names::flags(names::MESSAGE_FLAGS, number(&header[48..52]) as u32)
    )
}

/// The messages of sendmmsg or recvmmsg that were handled.
pub fn many(memory: &Memory, at: u64, received: bool, count: i64) -> String {
    const EACH: u64 = HEADER as u64 + 8;
    let one = |index: u64| {
        let at = at + index * EACH;
        let length = memory.number(at + HEADER as u64, 4).unwrap_or(0);
        let name_length = memory.number(at + 8, 4).filter(|_| received);
        format!("{{msg_hdr={}, msg_len={length}}}", text(memory, at, name_length, Some(length as i64)))
    };
    format!("[{}]", (0..(count as u64).min(MOST_PARTS)).map(one).collect::<Vec<_>>().join(", "))
}

/// Control messages, with the comma behind them; nothing where there are none.
fn control(memory: &Memory, at: u64, length: u64) -> String {
    let Some(bytes) = memory.bytes(at, length as usize).filter(|bytes| bytes.len() >= 16) else { return String::new() };
    let (mut texts, mut rest) = (Vec::new(), &bytes[..]);
    while rest.len() >= 16 {
        let length = (number(&rest[..8]) as usize).clamp(16, rest.len());
        let (level, kind) = (number(&rest[8..12]) as i32, number(&rest[12..16]) as i32);
        let payload = &rest[16..length];
        let level_name = names::named(names::LEVELS, level, "SOL");
        let (kind, data) = match (level, kind) {
            (libc::SOL_SOCKET, libc::SCM_RIGHTS) => {
                let fds: Vec<String> = payload.chunks_exact(4).map(|fd| (number(fd) as i32).to_string()).collect();
                ("SCM_RIGHTS".into(), format!(", cmsg_data=[{}]", fds.join(", ")))
            }
            (libc::SOL_SOCKET, libc::SCM_CREDENTIALS) if payload.len() >= 12 => {
                let word = |at: usize| number(&payload[at..at + 4]);
                let text = format!(", cmsg_data={{pid={}, uid={}, gid={}}}", word(0), word(4), word(8));
                ("SCM_CREDENTIALS".into(), text)
            }
            _ => (format!("{kind:#x}"), String::new()),
        };
        texts.push(format!("{{cmsg_len={length}, cmsg_level={level_name}, cmsg_type={kind}{data}}}"));
        rest = &rest[length.next_multiple_of(8).min(rest.len())..];
    }
    format!("msg_control=[{}], ", texts.join(", "))
}
