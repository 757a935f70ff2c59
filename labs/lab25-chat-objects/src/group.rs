//! How a client finds a server that it has no address of: it asks a group, as Pyro's name server is found.

use std::{
    net::{Ipv4Addr, SocketAddr, SocketAddrV4},
    os::fd::{AsFd, AsRawFd},
    str::FromStr,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use kernel::Patience;
use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::socket::{MsgFlags, SockaddrIn, recvfrom, sendto},
};
use shared::{At, Pause, Screen, Stop, address, destination, escaped};
use socket2::{Domain, Socket, Type};

/// The question. Whoever serves a chat answers with its URI.
pub const QUESTION: &[u8] = b"who serves chat?";
/// Holds a question or an answer, and no more of anything else.
const BUFFER: usize = 128;
/// A datagram may be lost, so the question is put again.
const ASK_AGAIN: Duration = Duration::from_millis(200);
const LIMIT: Duration = Duration::from_secs(2);
/// Groups are asked on this machine only: nothing leaves it.
pub const INTERFACE: Ipv4Addr = Ipv4Addr::LOCALHOST;

/// Where a chat is served: `chat://127.0.0.1:7777`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Uri(pub SocketAddr);

impl std::fmt::Display for Uri {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "chat://{}", self.0)
    }
}

impl FromStr for Uri {
    type Err = String;

    /// The scheme may be missing, and what else [`address`] lets one leave out.
    fn from_str(text: &str) -> Result<Uri, String> {
        destination("127.0.0.1:7777")(text.strip_prefix("chat://").unwrap_or(text)).map(Uri)
    }
}

/// The socket that hears questions to the group.
pub fn joined(group_addr: SocketAddrV4, pause: &mut Pause, screen: &mut Screen) -> Result<Socket> {
    pause.before(screen, "socket(AF_INET, SOCK_DGRAM, 0)");
    let sock = Socket::new(Domain::IPV4, Type::DGRAM, None).at("socket", "")?;
    let fd = sock.as_raw_fd();

    pause.before(screen, format_args!("setsockopt({fd}, SOL_SOCKET, SO_REUSEADDR, 1)"));
    sock.set_reuse_address(true).at("setsockopt SO_REUSEADDR", "")?; // several servers may be in the group: lab05

    pause.before(screen, format_args!("bind({fd}, {group_addr})"));
    sock.bind(&group_addr.into()).at("bind", group_addr)?;

    let group = group_addr.ip();
    pause.before(screen, format_args!("setsockopt({fd}, IPPROTO_IP, IP_ADD_MEMBERSHIP, {group} on {INTERFACE})"));
    sock.join_multicast_v4(group, &INTERFACE).at("setsockopt IP_ADD_MEMBERSHIP", INTERFACE)?;
    sock.set_nonblocking(true).at("fcntl", "")?;
    Ok(sock)
}

/// Answers one question, if there is one; EAGAIN where there is none.
pub fn answer(sock: &Socket, uri: Uri) -> nix::Result<Option<SocketAddr>> {
    let mut buffer = [0; BUFFER];
    let (bytes_read, peer_addr) = recvfrom::<SockaddrIn>(sock.as_raw_fd(), &mut buffer)?;
    let Some(peer_addr) = peer_addr.filter(|_| &buffer[..bytes_read] == QUESTION) else { return Ok(None) };
    sendto(sock.as_raw_fd(), uri.to_string().as_bytes(), &peer_addr, MsgFlags::empty())?;
    Ok(Some(SocketAddrV4::from(peer_addr).into()))
}

/// Asks the group until a server answers; `None` after Ctrl-C.
pub fn asked(group_addr: SocketAddrV4, stop: &Stop, pause: &mut Pause, screen: &mut Screen) -> Result<Option<Uri>> {
    pause.before(screen, "socket(AF_INET, SOCK_DGRAM, 0)");
    let sock = Socket::new(Domain::IPV4, Type::DGRAM, None).at("socket", "")?;
    let fd = sock.as_raw_fd();

    pause.before(screen, format_args!("setsockopt({fd}, IPPROTO_IP, IP_MULTICAST_IF, {INTERFACE})"));
    sock.set_multicast_if_v4(&INTERFACE).at("setsockopt IP_MULTICAST_IF", INTERFACE)?;
    sock.set_nonblocking(true).at("fcntl", "")?;

    let (mut patience, destination, mut buffer) = (Patience::new(LIMIT), SockaddrIn::from(group_addr), [0; BUFFER]);
    while !patience.is_over() {
        pause.before(screen, format_args!("sendto({fd}, \"{}\", {group_addr})", QUESTION.escape_ascii()));
        match sendto(fd, QUESTION, &destination, MsgFlags::empty()) {
            Err(Errno::EINTR) => continue,
            result => result.at("sendto", group_addr)?,
        };
        let mut until_again = Patience::new(ASK_AGAIN);
        while !until_again.is_over() && !patience.is_over() {
            let mut fds = [PollFd::new(stop.as_fd(), PollFlags::POLLIN), PollFd::new(sock.as_fd(), PollFlags::POLLIN)];
            let woken = poll(&mut fds, PollTimeout::try_from(until_again.step())?);
            if stop.requested() {
                return Ok(None);
            }
            if !matches!(woken, Ok(1..)) {
                continue;
            }
            pause.before(screen, format_args!("recvfrom({fd}, {BUFFER})"));
            let Ok((bytes_read, _)) = recvfrom::<SockaddrIn>(fd, &mut buffer) else { continue };
            let text = String::from_utf8_lossy(&buffer[..bytes_read]);
            match text.strip_prefix("chat://").map(|addr| addr.parse::<SocketAddr>()) {
                Some(Ok(addr)) => return Ok(Some(Uri(addr))),
                _ => screen.line(format_args!("no URI, thrown away: {}", escaped(&buffer[..bytes_read]))),
            }
        }
    }
    bail!("nobody in {group_addr} serves a chat, asked for {LIMIT:?}; start the server, or name it with --uri")
}

/// `--group`, for clap.
pub fn group(text: &str) -> Result<SocketAddrV4, String> {
    match address("239.1.1.1:53125")(text)? {
        SocketAddr::V4(addr) if addr.ip().is_multicast() && addr.port() != 0 => Ok(addr),
        _ => Err("not GROUP:PORT, a group from 224.0.0.0 to 239.255.255.255, a port from 1 to 65535".into()),
    }
}

/// What to answer: where the server listens on every address, the one of this machine.
pub fn uri_of(listen_sock: &Socket) -> Result<Uri> {
    let mut addr = listen_sock.local_addr().at("getsockname", "")?.as_socket().context("not an IP socket")?;
    if addr.ip().is_unspecified() {
        addr.set_ip(if addr.is_ipv6() { std::net::Ipv6Addr::LOCALHOST.into() } else { Ipv4Addr::LOCALHOST.into() });
    }
    Ok(Uri(addr))
}
