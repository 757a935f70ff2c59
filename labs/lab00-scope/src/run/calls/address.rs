//! Socket addresses, as strace writes them and as the labs do.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use nix::libc;

use super::memory::{Memory, number, quoted};
use super::names;

/// The longest address: struct sockaddr_storage.
const MOST: usize = 128;

/// The address at a pointer, in strace's notation.
pub fn strace(memory: &Memory, at: u64, length: usize) -> String {
    let Some(bytes) = read(memory, at, length) else { return pointer(at) };
    let family = i32::from(family(&bytes));
    let name = names::named(names::DOMAINS, family, "AF");
    if let Some(addr) = internet(&bytes) {
        return match addr {
            SocketAddr::V4(addr) => {
                let (port, ip) = (addr.port(), addr.ip());
                format!("{{sa_family={name}, sin_port=htons({port}), sin_addr=inet_addr(\"{ip}\")}}")
            }
            SocketAddr::V6(addr) => format!(
                "{{sa_family={name}, sin6_port=htons({}), sin6_flowinfo=htonl({}), inet_pton(AF_INET6, \"{}\", &sin6_addr), \
                 sin6_scope_id={}}}",
                addr.port(),
                u32::from_be(addr.flowinfo()),
                addr.ip(),
                addr.scope_id()
            ),
        };
    }
    match family {
        libc::AF_UNIX if bytes.len() == 2 => format!("{{sa_family={name}}}"),
        libc::AF_UNIX => format!("{{sa_family={name}, sun_path={}}}", path(&bytes)),
        libc::AF_NETLINK if bytes.len() >= 12 => {
            let pad = number(&bytes[2..4]);
            let pad = if pad == 0 { String::new() } else { format!("nl_pad={pad:#x}, ") };
            let (process, groups) = (number(&bytes[4..8]), number(&bytes[8..12]));
            format!("{{sa_family={name}, {pad}nl_pid={process}, nl_groups={groups:08x}}}")
        }
        _ => format!("{{sa_family={name}, sa_data={}}}", quoted(&bytes[2..], bytes.len() - 2)),
    }
}

/// The address at a pointer as the labs write it: `127.0.0.1:4444`, a path, or the family's name.
pub fn short(memory: &Memory, at: u64, length: usize) -> Option<String> {
    let bytes = read(memory, at, length)?;
    if let Some(addr) = internet(&bytes) {
        return Some(addr.to_string());
    }
    match i32::from(family(&bytes)) {
        libc::AF_UNIX if bytes.len() > 2 => Some(path(&bytes)),
        family => Some(names::named(names::DOMAINS, family, "AF")),
    }
}

/// The IP address and port at a pointer.
pub fn internet_at(memory: &Memory, at: u64, length: usize) -> Option<SocketAddr> {
    internet(&read(memory, at, length)?)
}

/// A pointer that is not followed.
pub fn pointer(at: u64) -> String {
    if at == 0 { "NULL".into() } else { format!("{at:#x}") }
}

fn read(memory: &Memory, at: u64, length: usize) -> Option<Vec<u8>> {
    memory.bytes(at, length.min(MOST)).filter(|bytes| bytes.len() >= 2)
}

fn family(bytes: &[u8]) -> u16 {
    u16::from_ne_bytes([bytes[0], bytes[1]])
}

/// struct sockaddr_in and sockaddr_in6.
fn internet(bytes: &[u8]) -> Option<SocketAddr> {
    let port = u16::from_be_bytes(bytes.get(2..4)?.try_into().ok()?);
    match i32::from(family(bytes)) {
        libc::AF_INET if bytes.len() >= 16 => {
            let octets: [u8; 4] = bytes[4..8].try_into().ok()?;
            Some(SocketAddr::new(IpAddr::V4(Ipv4Addr::from(octets)), port))
        }
        libc::AF_INET6 if bytes.len() >= 28 => {
            let octets: [u8; 16] = bytes[8..24].try_into().ok()?;
            let (flow, scope) = (number(&bytes[4..8]) as u32, number(&bytes[24..28]) as u32);
            Some(SocketAddr::V6(std::net::SocketAddrV6::new(Ipv6Addr::from(octets), port, flow, scope)))
        }
        _ => None,
    }
}

/// A path, or a name in the abstract namespace (unix(7)), which begins with a zero byte.
fn path(bytes: &[u8]) -> String {
    let path = &bytes[2..];
    if path[0] == 0 {
        return format!("@{}", whole(&path[1..]));
    }
    whole(path.split(|byte| *byte == 0).next().unwrap_or_default())
}

/// A name is never cut.
fn whole(name: &[u8]) -> String {
    let texts: Vec<String> = name.chunks(32).map(|part| quoted(part, part.len())).collect();
    format!("\"{}\"", texts.iter().map(|text| &text[1..text.len() - 1]).collect::<String>())
}
