//! Programs at the other end: the labs' own servers, and those that other people wrote.

use std::{
    fs,
    net::{SocketAddr, TcpListener, TcpStream},
    os::fd::{AsRawFd, OwnedFd},
    process::Command,
};

use anyhow::Result;
use nix::sys::signal::Signal;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrIn, bind, getsockname, socket};
use nix::unistd::Pid;

use crate::{RUN_LIMIT, Role, have, skip_without, wait_until};

/// Other people's TCP clients: they type lines, and close their sending side at the end of their input.
pub const TCP_TOOLS: [&str; 3] = ["nc", "ncat", "socat"];

/// Starts a role that serves, and waits for the line with `banner`, which ends with its address.
///
/// # Panics
/// It does not serve.
pub fn serving(command: &mut Command, banner: &str) -> (Role, SocketAddr) {
    let mut role = Role::spawn(command).unwrap();
    let addr = addr_behind(&mut role, banner);
    (role, addr)
}

/// An address where nobody listens as long as its owner lives: bound, so that no one else gets it.
///
/// # Panics
/// There is no free port.
pub fn nobody() -> (OwnedFd, SocketAddr) {
    let owner = socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).unwrap();
    bind(owner.as_raw_fd(), &SockaddrIn::new(127, 0, 0, 1, 0)).unwrap();
    let addr: SockaddrIn = getsockname(owner.as_raw_fd()).unwrap();
    (owner, SocketAddr::V4(addr.into()))
}

/// The address at the end of the next line with `banner`; it may be in a URL.
///
/// # Panics
/// There is no such line.
pub fn addr_behind(role: &mut Role, banner: &str) -> SocketAddr {
    let line = role.line_with(banner).unwrap();
    let word = line.split_whitespace().last().unwrap();
    let host = word.split_once("://").map_or(word, |(_, rest)| rest.split('/').next().unwrap());
    host.parse().unwrap_or_else(|error| panic!("{line}: {error}"))
}

/// A server in Python 3 on 127.0.0.1 that prints `port N`; Python must be there.
///
/// # Panics
/// It does not start.
pub fn python_server(source: &str) -> (Role, SocketAddr) {
    let mut role = Role::spawn(Command::new("python3").args(["-c", source])).unwrap();
    let line = role.line_with("port ").unwrap();
    let port: u16 = line.trim_start_matches("port ").trim().parse().unwrap();
    (role, SocketAddr::from(([127, 0, 0, 1], port)))
}

/// One of [`TCP_TOOLS`], connected; `None` where it is not installed.
///
/// # Panics
/// It does not start.
pub fn tcp_tool(tool: &str, addr: SocketAddr) -> Option<Role> {
    if skip_without(!have(tool), tool, "apt-get install netcat-openbsd ncat socat") {
        return None;
    }
    let (ip, port) = (addr.ip().to_string(), addr.port().to_string());
    let socat = format!("TCP:{addr}");
    let args = match tool {
        "nc" => vec!["-N", &ip, &port],
        "socat" => vec!["-t10", "-", &socat],
        _ => vec![&ip[..], &port],
    };
    Some(Role::spawn(Command::new(tool).args(args)).unwrap())
}

/// A foreign client: a socket of the standard library, connected; reading from it has a deadline.
///
/// # Panics
/// Nobody listens.
pub fn foreign(addr: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(addr).unwrap();
    stream.set_read_timeout(Some(RUN_LIMIT / 2)).unwrap();
    stream
}

/// The texts that a message board's client shows: each is the last of four columns.
pub fn texts(shown: &str) -> Vec<String> {
    shown.lines().filter_map(|line| line.splitn(4, "  ").nth(3)).map(String::from).collect()
}

/// True where this machine has no IPv6, as [`skip_without`] says it.
pub fn without_ipv6() -> bool {
    skip_without(TcpListener::bind("[::1]:0").is_err(), "IPv6", "sysctl net.ipv6.conf.all.disable_ipv6=0")
}

/// Waits until a role has blocked SIGINT and takes it from a descriptor; until then Ctrl-C ends it as any program.
///
/// # Errors
/// It never does, or has ended.
pub fn wait_until_it_hears_ctrl_c(pid: Pid) -> Result<()> {
    let status = format!("/proc/{pid}/status");
    let blocked = || {
        let status = fs::read_to_string(&status)?;
        let mask = status.lines().find_map(|line| line.strip_prefix("SigBlk:\t")).unwrap_or_default();
        Ok((u64::from_str_radix(mask, 16).unwrap_or(0) & 1 << (Signal::SIGINT as u32 - 1) != 0).then_some(()))
    };
    wait_until("a blocked SIGINT", RUN_LIMIT, blocked)
}
